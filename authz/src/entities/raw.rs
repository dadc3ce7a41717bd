//! Entities files as they are written, with the place of every value that can be wrong.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    problem::{Problem, Source},
    yaml,
};

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) schema: RawSchema,
    #[serde(default)]
    pub(super) groups: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) entities: Vec<Spanned<serde_json::Value>>,
}

/// What policies may read besides the built-in schema.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSchema {
    #[serde(default)]
    pub(super) headers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) claims: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(super) types: Option<Spanned<String>>,
}

const KEYS: &str = "the keys are `schema` (`headers`, `claims`, `types`), `groups` and `entities`";

/// Reads one file. A list at its top is Cedar's own JSON format for entities.
pub(super) fn parse(source: &Source) -> Result<RawFile, Problem> {
    let text = source.text().trim_start();
    if text.starts_with('[') {
        return yaml::parse(source, KEYS).map(|entities| RawFile {
            entities,
            ..RawFile::default()
        });
    }
    if text.is_empty() {
        return Ok(RawFile::default());
    }
    yaml::parse(source, KEYS)
}
