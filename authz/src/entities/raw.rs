//! Entities files as they are written, with the place of every value that can be wrong.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;
use serde_saphyr::{Location, Spanned, options::MergeKeyPolicy};

use crate::problem::{Problem, Source};

/// Most values of one file, aliases expanded.
const MOST_NODES: usize = 500_000;
const DEEPEST: usize = 64;

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

/// Reads one file. A list at its top is Cedar's own JSON format for entities.
pub(super) fn parse(source: &Source) -> Result<RawFile, Problem> {
    let text = source.text();
    let parsed = if text.trim_start().starts_with('[') {
        serde_saphyr::from_str_with_options(text, options()).map(|entities| RawFile {
            entities,
            ..RawFile::default()
        })
    } else if text.trim().is_empty() {
        Ok(RawFile::default())
    } else {
        serde_saphyr::from_str_with_options(text, options())
    };
    parsed.map_err(|error| {
        let error = error.without_snippet();
        let span = error.location().map_or(0..0, |place| span(source, &place));
        source
            .problem(span, first_line(&error.to_string()))
            .with_help(
                "the keys are `schema` (`headers`, `claims`, `types`), `groups` and `entities`",
            )
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_nodes: MOST_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_NODES,
        },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
    }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// The bytes of the line from this place on.
pub(super) fn span(source: &Source, place: &Location) -> Range<usize> {
    let text = source.text();
    let start = place
        .span()
        .byte_offset()
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|offset| text.is_char_boundary(*offset))
        .unwrap_or(0);
    let rest = text.get(start..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default();
    start..start + line.trim_end().len()
}
