//! Reads the raw structs from a [`Tree`], and goes on after a mistake.
//!
//! A serde deserializer whose answer to an unknown key or a wrong shape is to note the problem
//! and leave the part out. It hands leaves over as node ids, so that nothing is converted here.

use std::cell::RefCell;
use std::ops::Range;

use serde::de::value::{Error, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::problem::{Wrong, quoted};
use super::tree::{Node, NodeId, Tree, Value};

/// One node, about to be read; problems are noted on the way.
#[derive(Clone, Copy)]
pub(super) struct NodeReader<'a> {
    tree: &'a Tree,
    id: NodeId,
    notes: &'a Notes,
}

/// The problems met while reading, with their places.
pub(super) type Notes = RefCell<Vec<(Range<usize>, Wrong)>>;

impl<'a> NodeReader<'a> {
    /// A reader of the whole document.
    pub(super) fn new(tree: &'a Tree, notes: &'a Notes) -> Self {
        Self {
            tree,
            id: Tree::ROOT,
            notes,
        }
    }

    fn at(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    fn node(self) -> Result<&'a Node, Error> {
        self.tree
            .node(self.id)
            .ok_or_else(|| Error::custom("a value is out of reach"))
    }

    fn note(self, place: &Range<usize>, wrong: Wrong) {
        self.notes.borrow_mut().push((place.clone(), wrong));
    }

    fn note_shape(self, node: &Node, expected: &str, help: String) {
        let message = format!("expected {expected}, found {}", node.value.kind());
        self.note(&node.place, Wrong::new(message).help(help).of(&node.path));
    }

    /// The entries whose keys are allowed; each other key is noted.
    fn known_entries(
        self,
        node: &'a Node,
        entries: &'a [(String, NodeId)],
        allowed: &[&'static str],
    ) -> Vec<(&'a str, NodeId)> {
        let mut known = Vec::new();
        for (key, id) in entries {
            if allowed.contains(&key.as_str()) {
                known.push((key.as_str(), *id));
            } else if let Some(child) = self.tree.node(*id) {
                self.note(&child.key_place, unknown_key(key, &node.path, allowed));
            }
        }
        known
    }
}

fn unknown_key(key: &str, path: &str, allowed: &[&str]) -> Wrong {
    let place = if path.is_empty() {
        "at the top level".to_owned()
    } else {
        format!("in `{}`", quoted(path))
    };
    let guess = closest(key, allowed)
        .map(|guess| format!("did you mean `{guess}`? "))
        .unwrap_or_default();
    Wrong::new(format!("unknown key `{}` {place}", quoted(key)))
        .help(format!("{guess}allowed here: {}", allowed.join(", ")))
}

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|candidate| (edit_distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    // Keys are short; a very long word is no misspelling of one, and need not be measured.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let replaced = at(&last, j).saturating_add(usize::from(from != to));
            let inserted = at(&row, j).saturating_add(1);
            let deleted = at(&last, j + 1).saturating_add(1);
            let mut best = replaced.min(inserted).min(deleted);
            if i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from) {
                best = best.min(at(&before, j - 1).saturating_add(1));
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

impl<'a> Deserializer<'a> for NodeReader<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, _: V) -> Result<V::Value, Error> {
        // INVARIANT: the raw structs consist of sections, lists and fields only.
        Err(Error::custom("this part of the file cannot be read"))
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(U32Deserializer::new(self.id))
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(SectionParts {
            reader: self,
            next: Part::Id,
        })
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node()?;
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Null => &[],
            _ => {
                self.note_shape(
                    node,
                    "a list",
                    "begin each item with `- ` on a line".to_owned(),
                );
                &[]
            }
        };
        visitor.visit_seq(Items {
            reader: self,
            rest: items.iter(),
        })
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let node = self.node()?;
        let entries = match &node.value {
            Value::Map(entries) => self.known_entries(node, entries, fields),
            Value::Null => Vec::new(),
            _ => {
                let help = format!("its keys are: {}", fields.join(", "));
                self.note_shape(node, "a group of keys", help);
                Vec::new()
            }
        };
        visitor.visit_map(Entries {
            reader: self,
            rest: entries.into_iter(),
            value: None,
        })
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple map enum identifier ignored_any
    }
}

/// The two parts of a [`Section`](super::raw::Section): its node, then its content.
struct SectionParts<'a> {
    reader: NodeReader<'a>,
    next: Part,
}

enum Part {
    Id,
    Content,
    End,
}

impl<'a> SeqAccess<'a> for SectionParts<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        match self.next {
            Part::Id => {
                self.next = Part::Content;
                seed.deserialize(U32Deserializer::new(self.reader.id))
                    .map(Some)
            }
            Part::Content => {
                self.next = Part::End;
                seed.deserialize(self.reader).map(Some)
            }
            Part::End => Ok(None),
        }
    }
}

struct Items<'a> {
    reader: NodeReader<'a>,
    rest: std::slice::Iter<'a, NodeId>,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.rest
            .next()
            .map(|id| seed.deserialize(self.reader.at(*id)))
            .transpose()
    }
}

struct Entries<'a> {
    reader: NodeReader<'a>,
    rest: std::vec::IntoIter<(&'a str, NodeId)>,
    value: Option<NodeId>,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, id)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(id);
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let id = self
            .value
            .take()
            .ok_or_else(|| Error::custom("a value was read before its key"))?;
        seed.deserialize(self.reader.at(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_are_guessed_and_strange_ones_are_not() {
        let allowed = ["listen", "limits", "service", "show_reason"];
        assert_eq!(closest("lisetn", &allowed), Some("listen"));
        assert_eq!(closest("Limit", &allowed), Some("limits"));
        assert_eq!(closest("show-reason", &allowed), Some("show_reason"));
        assert_eq!(closest("tls", &allowed), None);
        assert_eq!(closest(&"x".repeat(10_000), &allowed), None);
    }
}
