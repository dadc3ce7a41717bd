//! YAML as this crate reads it: bounded, strict, and with the place of every mistake.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, options::MergeKeyPolicy};

use crate::problem::{Problem, Source};

/// Most values of one file, aliases expanded.
const MOST_NODES: usize = 500_000;
const DEEPEST: usize = 64;

/// Reads a whole file; `keys` says which there are, for the remedy.
pub(crate) fn parse<T: DeserializeOwned>(source: &Source, keys: &str) -> Result<T, Problem> {
    serde_saphyr::from_str_with_options(source.text(), options()).map_err(|error| {
        let error = error.without_snippet();
        let span = error.location().map_or(0..0, |place| span(source, &place));
        let message = error.to_string();
        source
            .problem(span, message.lines().next().unwrap_or_default())
            .with_help(keys)
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

/// The bytes of the line from this place on.
pub(crate) fn span(source: &Source, place: &Location) -> Range<usize> {
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
