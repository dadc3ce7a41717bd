//! Reads single values for the [`Validator`]: present or missing, one or a list of distinct ones,
//! and notes what is wrong with them under their path.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Wrong, quoted};
use super::raw::Field;
use super::scalar;
use super::tree::{Node, NodeId, Value};
use super::validate::Validator;

impl Validator<'_> {
    /// A part that must be there.
    pub(super) fn present<'r, T>(
        &mut self,
        at: NodeId,
        key: &str,
        part: Option<&'r T>,
    ) -> Option<&'r T> {
        if part.is_none() {
            self.note_missing(at, key);
        }
        part
    }

    pub(super) fn required<T>(
        &mut self,
        at: NodeId,
        key: &str,
        field: Option<Field>,
        read: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        let field = self.present(at, key, field.as_ref())?;
        self.read(*field, read)
    }

    pub(super) fn optional<T>(
        &mut self,
        field: Option<Field>,
        default: T,
        read: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        match field {
            Some(field) => self.read(field, read),
            None => Some(default),
        }
    }

    /// A value that need not be there: the outer `None` is a problem, the inner one absence.
    pub(super) fn maybe<T>(
        &mut self,
        field: Option<Field>,
        read: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        match field {
            Some(field) => self.read(field, read).map(Some),
            None => Some(None),
        }
    }

    /// A value whose problems are noted elsewhere.
    pub(super) fn peek<T>(
        &self,
        field: Option<Field>,
        read: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Field(id) = field?;
        read(self.tree.node(id)?).ok()
    }

    pub(super) fn required_path(
        &mut self,
        at: NodeId,
        key: &str,
        field: Option<Field>,
    ) -> Option<PathBuf> {
        let base = self.base;
        self.required(at, key, field, |node| scalar::path(node, base))
    }

    pub(super) fn time(
        &mut self,
        field: Option<Field>,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.optional(field, default, |node| scalar::duration(node, range))
    }

    pub(super) fn count(
        &mut self,
        field: Option<Field>,
        default: usize,
        range: RangeInclusive<u64>,
    ) -> Option<usize> {
        self.optional(field, default, |node| {
            let number = scalar::integer(node, &range)?;
            Ok(usize::try_from(number).unwrap_or(usize::MAX))
        })
    }

    /// The values of a list, none of which may be there twice.
    pub(super) fn distinct<T: PartialEq>(
        &mut self,
        fields: &[Field],
        what: &str,
        read: impl Fn(&Node) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let mut values = Vec::with_capacity(fields.len());
        let mut complete = true;
        for field in fields {
            match self.read(*field, &read) {
                Some(value) if values.contains(&value) => {
                    let wrong = Wrong::new(format!("this {what} is in the list already"));
                    self.note(Some(*field), wrong.help("keep one of the two"));
                    complete = false;
                }
                Some(value) => values.push(value),
                None => complete = false,
            }
        }
        complete.then_some(values)
    }

    fn read<T>(
        &mut self,
        Field(id): Field,
        read: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        let node = self.tree.node(id)?;
        read(node)
            .map_err(|wrong| {
                let empty = matches!(node.value, Value::Null);
                let place = if empty { &node.key_place } else { &node.place };
                self.problems.add(place, wrong.of(&node.path));
            })
            .ok()
    }

    pub(super) fn not_empty<T>(&mut self, at: NodeId, items: &[T], what: &str) {
        let Some(node) = self.tree.node(at) else {
            return;
        };
        // A wrong shape has been noted by the reader, and is no empty list.
        if items.is_empty() && matches!(node.value, Value::List(_) | Value::Null) {
            let wrong = Wrong::new("the list is empty").help(format!("name at least one {what}"));
            self.problems.add(&node.key_place, wrong.of(&node.path));
        }
    }

    pub(super) fn note(&mut self, field: Option<Field>, wrong: Wrong) {
        let node = field.and_then(|Field(id)| self.tree.node(id));
        match node {
            Some(node) => self.problems.add(&node.place, wrong.of(&node.path)),
            None => self.problems.add_unplaced(wrong),
        }
    }

    pub(super) fn note_no_source(&mut self, at: NodeId) {
        let Some(node) = self.tree.node(at) else {
            return;
        };
        if matches!(node.value, Value::Map(_) | Value::Null) {
            let wrong = Wrong::new("the identity has no source");
            let help = "name its `files`, or a SPIFFE `workload_api`";
            self.problems
                .add(&node.key_place, wrong.help(help).of(&node.path));
        }
    }

    fn note_missing(&mut self, at: NodeId, key: &str) {
        let Some(node) = self.tree.node(at) else {
            return;
        };
        // A wrong shape has been noted by the reader; its keys are not missing one by one.
        if matches!(node.value, Value::Map(_) | Value::Null) {
            let place = if node.path.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in `{}`", quoted(&node.path))
            };
            let wrong = Wrong::new(format!("the key `{key}` is missing {place}"));
            self.problems.add(&node.key_place, wrong);
        }
    }
}
