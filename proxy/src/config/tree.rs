//! A YAML document as a tree of nodes that know their place and their path.
//!
//! serde stops at the first mistake and forgets where a value stood; this tree keeps both, so
//! that the stages after it can tell every mistake of a file at once. It owns the limits on size
//! and depth, and refuses merge keys, unknown tags and a second document.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error as YamlError, Location, Spanned};

use super::problem::{Problems, Wrong, quoted};

/// Deepest nesting of a configuration file.
const MAX_DEPTH: usize = 32;
/// Most values of a configuration file, aliases expanded.
const MAX_NODES: usize = 50_000;

/// All nodes of a document; the first one is its root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// Names a node of a [`Tree`].
pub(super) type NodeId = u32;

/// One value of the document.
#[derive(Debug)]
pub(super) struct Node {
    /// What it is.
    pub(super) value: Value,
    /// Where it stands: a byte range of the text.
    pub(super) place: Range<usize>,
    /// Where its key stands; its own place when it has none.
    pub(super) key_place: Range<usize>,
    /// How to reach it: `inbound[0].listen`; empty for the root.
    pub(super) path: String,
}

/// The content of a node.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    /// Text, without its quotes.
    Text(String),
    /// A list.
    List(Vec<NodeId>),
    /// Keys and values in the order of the file; keys are distinct.
    Map(Vec<(String, NodeId)>),
}

impl Value {
    /// What this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a group of keys",
        }
    }
}

impl Tree {
    /// The root of every document.
    pub(super) const ROOT: NodeId = 0;

    /// Reads `text`; duplicate keys are noted in `problems`, and so is a syntax error, which
    /// yields no tree.
    pub(super) fn read(text: &str, problems: &mut Problems) -> Option<Self> {
        match serde_saphyr::from_str_with_options::<Spanned<Parsed>>(text, options()) {
            Ok(document) => {
                let mut builder = Builder {
                    text,
                    problems,
                    nodes: Vec::new(),
                };
                builder.add(document, None, String::new());
                Some(Self {
                    nodes: builder.nodes,
                })
            }
            Err(error) => {
                note_syntax_error(text, &error, problems);
                None
            }
        }
    }

    /// The node named `id`; every id comes from this tree.
    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::try_from(id).ok()?)
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
        },
        // Passed on, because the builder reports each with the place of the first.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
    }
}

fn note_syntax_error(text: &str, error: &YamlError, problems: &mut Problems) {
    let error = error.without_snippet();
    let wrong = match error {
        YamlError::MultipleDocuments { .. } => {
            Wrong::new("a second YAML document begins here").help("keep one document a file")
        }
        YamlError::MergeKeyNotAllowed { .. } => Wrong::new("merge keys (`<<`) are not supported")
            .help("write the keys out, or use an anchor for a whole value"),
        YamlError::Budget { .. } => Wrong::new("the file is too large or too deeply nested").help(
            format!("at most {MAX_NODES} values, {MAX_DEPTH} levels deep"),
        ),
        other => Wrong::new(format!("not valid YAML: {}", syntax_message(other))),
    };
    match error.location() {
        Some(location) => problems.add(&place_of(text, location), wrong),
        None => problems.add_unplaced(wrong),
    }
}

/// The error's own words, without the place that is told beside them.
fn syntax_message(error: &YamlError) -> String {
    let message = error.to_string();
    let message = message.lines().next().unwrap_or_default();
    let words = message
        .rfind(" at line ")
        .and_then(|at| message.get(..at))
        .unwrap_or(message);
    quoted(words)
}

/// The byte range of a location; some have character offsets only.
fn place_of(text: &str, location: Location) -> Range<usize> {
    let span = location.span();
    let (start, len) = match (span.byte_offset(), span.byte_len()) {
        (Some(offset), Some(len)) => (to_usize(offset), to_usize(len)),
        _ => {
            let start = byte_of_char(text, to_usize(span.offset()));
            let rest = text.get(start..).unwrap_or_default();
            (start, byte_of_char(rest, to_usize(span.len())))
        }
    };
    let start = start.min(text.len());
    let raw = text.get(start..start.saturating_add(len).min(text.len()));
    let len = raw.map_or(0, |raw| raw.trim_end().len());
    start..start + len
}

fn byte_of_char(text: &str, nth: usize) -> usize {
    text.char_indices()
        .nth(nth)
        .map_or(text.len(), |(byte, _)| byte)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Lays the nested document out as a flat list of nodes.
struct Builder<'a> {
    text: &'a str,
    problems: &'a mut Problems,
    nodes: Vec<Node>,
}

impl Builder<'_> {
    fn add(
        &mut self,
        parsed: Spanned<Parsed>,
        key_place: Option<Range<usize>>,
        path: String,
    ) -> NodeId {
        let place = place_of(self.text, parsed.referenced);
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.nodes.push(Node {
            value: Value::Null,
            key_place: key_place.unwrap_or_else(|| place.clone()),
            place,
            path: path.clone(),
        });
        let value = self.value(parsed.value, parsed.defined, &path);
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.value = value;
        }
        id
    }

    fn value(&mut self, parsed: Parsed, defined: Location, path: &str) -> Value {
        match parsed {
            Parsed::Null => Value::Null,
            Parsed::Bool(value) => Value::Bool(value),
            Parsed::Number(number) => Value::Number(self.written(defined).unwrap_or(number)),
            Parsed::Text(text) => Value::Text(text),
            Parsed::List(items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| self.add(item, None, format!("{path}[{index}]")))
                    .collect(),
            ),
            Parsed::Map(entries) => Value::Map(self.entries(entries, path)),
        }
    }

    fn entries(
        &mut self,
        entries: Vec<(Spanned<Parsed>, Spanned<Parsed>)>,
        path: &str,
    ) -> Vec<(String, NodeId)> {
        let mut kept: Vec<(String, NodeId)> = Vec::new();
        for (key, value) in entries {
            let key_place = place_of(self.text, key.referenced);
            let Some(name) = self.key_name(key.value, key.defined) else {
                self.problems
                    .add(&key_place, Wrong::new("a key must be plain text"));
                continue;
            };
            let first = kept.iter().find(|(other, _)| *other == name);
            if first.is_some() {
                self.problems.add(
                    &key_place,
                    Wrong::new(format!("key `{}` is given twice", quoted(&name)))
                        .help("keep one of the two"),
                );
                continue;
            }
            let child_path = join(path, &name);
            let id = self.add(value, Some(key_place), child_path);
            kept.push((name, id));
        }
        kept
    }

    fn key_name(&self, key: Parsed, defined: Location) -> Option<String> {
        match key {
            Parsed::Text(name) => Some(name),
            Parsed::Number(_) | Parsed::Bool(_) => self.written(defined),
            Parsed::Null | Parsed::List(_) | Parsed::Map(_) => None,
        }
    }

    fn written(&self, defined: Location) -> Option<String> {
        self.text
            .get(place_of(self.text, defined))
            .map(str::to_owned)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value as the YAML reader hands it over, nested and with places.
enum Parsed {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Self>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Parsed::Map(map))
    }
}
