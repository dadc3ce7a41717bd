//! One call during its decision: its facts, and which entities of the snapshot its own
//! entities are.

use crate::{
    action::Family,
    facts::{Claim, Facts, Principal},
    snapshot::{EntityRef, Snapshot, TypeId},
};

use super::{
    fact::{Declared, Fact},
    value::{FactSet, Value},
};

/// A short list without allocation, a long one with.
#[derive(Debug)]
pub(crate) struct Few<const INLINE: usize> {
    inline: [u32; INLINE],
    length: usize,
    spilled: Vec<u32>,
}

impl<const INLINE: usize> Few<INLINE> {
    pub(crate) fn new() -> Self {
        Self {
            inline: [0; INLINE],
            length: 0,
            spilled: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, number: u32) {
        if self.spilled.is_empty() {
            if let Some(place) = self.inline.get_mut(self.length) {
                *place = number;
                self.length += 1;
                return;
            }
            self.spilled.extend_from_slice(&self.inline);
        }
        self.spilled.push(number);
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        if self.spilled.is_empty() {
            self.inline.get(..self.length).unwrap_or(&[])
        } else {
            &self.spilled
        }
    }

    pub(crate) fn sort_dedup(&mut self) {
        if self.spilled.is_empty() {
            let sorted = self.inline.get_mut(..self.length).unwrap_or(&mut []);
            sorted.sort_unstable();
            let mut kept = 0;
            for index in 0..self.length {
                let number = self.inline.get(index).copied();
                if kept == 0 || self.inline.get(kept - 1).copied() != number {
                    if let (Some(place), Some(number)) = (self.inline.get_mut(kept), number) {
                        *place = number;
                    }
                    kept += 1;
                }
            }
            self.length = kept;
        } else {
            self.spilled.sort_unstable();
            self.spilled.dedup();
        }
    }
}

/// A call whose entities are resolved.
pub(crate) struct Call<'a> {
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) declared: &'a Declared,
    pub(crate) principal: EntityRef,
    pub(crate) principal_type: TypeId,
    /// The known prefixes of the principal's SPIFFE ID.
    pub(crate) paths: Few<16>,
    pub(crate) resource: EntityRef,
    pub(crate) resource_type: TypeId,
    /// The service of the resource, where it is known.
    pub(crate) service: Option<u32>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        facts: &'a Facts<'a>,
        snapshot: &'a Snapshot,
        declared: &'a Declared,
    ) -> Self {
        let mut paths = Few::new();
        let (principal_type, principal) = match facts.principal {
            Principal::Anonymous => (TypeId::ANONYMOUS, snapshot.anonymous()),
            Principal::Workload(id) => {
                let longest = snapshot.longest_path();
                let prefixes = id.prefixes().take_while(|prefix| prefix.len() <= longest);
                prefixes
                    .filter_map(|prefix| snapshot.path(prefix))
                    .for_each(|path| paths.push(path));
                (TypeId::WORKLOAD, snapshot.workload(id.as_str()))
            }
        };
        let resource = &facts.resource;
        let (resource_type, number) = match facts.action.family() {
            Family::Tcp => (TypeId::PORT, snapshot.port(resource.port)),
            Family::Http | Family::Grpc => {
                let method = facts.context.method.unwrap_or_default();
                (
                    TypeId::ENDPOINT,
                    snapshot.endpoint(method, resource.template),
                )
            }
        };
        Self {
            facts,
            snapshot,
            declared,
            principal: principal.map_or(EntityRef::Principal, EntityRef::Known),
            principal_type,
            paths,
            resource: number.map_or(EntityRef::Resource, EntityRef::Known),
            resource_type,
            service: snapshot.service(resource.service),
        }
    }

    pub(crate) fn read(&self, fact: Fact) -> Option<Value<'a>> {
        fact.read(self.facts, self.declared)
    }

    pub(crate) fn type_of(&self, entity: EntityRef) -> TypeId {
        match entity {
            EntityRef::Principal => self.principal_type,
            EntityRef::Resource => self.resource_type,
            EntityRef::Known(number) => self
                .snapshot
                .entity(number)
                .map_or(TypeId(u16::MAX), |known| known.type_id),
        }
    }

    /// Cedar's `in` for one ancestor.
    pub(crate) fn is_in(&self, entity: EntityRef, ancestor: EntityRef) -> bool {
        if entity == ancestor {
            return true;
        }
        let EntityRef::Known(ancestor) = ancestor else {
            return false;
        };
        if entity == self.resource {
            return self.service.is_some_and(|service| {
                service == ancestor || self.snapshot.is_ancestor(ancestor, service)
            });
        }
        match entity {
            EntityRef::Known(number) => self.snapshot.is_ancestor(ancestor, number),
            EntityRef::Principal => self.paths.as_slice().iter().any(|path| {
                *path == ancestor || self.snapshot.lends(*path).binary_search(&ancestor).is_ok()
            }),
            EntityRef::Resource => false,
        }
    }

    /// Calls `test` with each member of a set of facts until it returns true, and returns
    /// whether it did.
    pub(crate) fn any_text(&self, set: FactSet, test: &mut dyn FnMut(&str) -> bool) -> bool {
        let context = &self.facts.context;
        match set {
            FactSet::Header(number) => context.headers.any(self.declared.header(number), test),
            FactSet::Claim(number) => match context.claims.claim(self.declared.claim(number)) {
                Some(Claim::Texts(texts)) => texts.iter().any(|text| test(text)),
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_many_numbers_are_sorted_without_doubles() {
        for length in [3, 4, 5, 40] {
            let mut few = Few::<4>::new();
            for number in 0..length {
                few.push(length - number);
                few.push(1);
            }
            few.sort_dedup();
            let expected: Vec<u32> = (1..=length).collect();
            assert_eq!(few.as_slice(), expected);
        }
    }
}
