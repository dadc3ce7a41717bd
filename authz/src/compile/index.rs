//! The index over policy scopes: which policies can match a call at all. Sound because a
//! scope never errs and is tested first: a policy whose scope does not match adds nothing to
//! a decision, not even an error.

use std::collections::BTreeMap;

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint,
};

use crate::{
    action::Action,
    hash::Table,
    snapshot::{EntityRef, Snapshot, TypeId},
};

use super::call::{Call, Few};

/// What a scope demands of its principal or resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Constraint {
    Any,
    Is(TypeId),
    Equal(u32),
    In(u32),
    IsIn(TypeId, u32),
}

/// The scope of one policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) principal: Constraint,
    pub(crate) resource: Constraint,
    /// A bit for each action, by its index.
    pub(crate) actions: u16,
}

impl Scope {
    /// None where the scope names an entity or a type that the snapshot does not have.
    pub(crate) fn of(policy: &cedar_policy::Policy, snapshot: &Snapshot) -> Option<Self> {
        let names = Names(snapshot);
        Some(Self {
            principal: match policy.principal_constraint() {
                PrincipalConstraint::Any => Constraint::Any,
                PrincipalConstraint::Eq(uid) => Constraint::Equal(names.entity(&uid)?),
                PrincipalConstraint::In(uid) => Constraint::In(names.entity(&uid)?),
                PrincipalConstraint::Is(name) => Constraint::Is(names.type_id(&name)?),
                PrincipalConstraint::IsIn(name, uid) => {
                    Constraint::IsIn(names.type_id(&name)?, names.entity(&uid)?)
                }
            },
            resource: match policy.resource_constraint() {
                ResourceConstraint::Any => Constraint::Any,
                ResourceConstraint::Eq(uid) => Constraint::Equal(names.entity(&uid)?),
                ResourceConstraint::In(uid) => Constraint::In(names.entity(&uid)?),
                ResourceConstraint::Is(name) => Constraint::Is(names.type_id(&name)?),
                ResourceConstraint::IsIn(name, uid) => {
                    Constraint::IsIn(names.type_id(&name)?, names.entity(&uid)?)
                }
            },
            actions: match policy.action_constraint() {
                ActionConstraint::Any => u16::MAX,
                ActionConstraint::Eq(uid) => names.actions_equal(&uid)?,
                ActionConstraint::In(uids) => uids
                    .iter()
                    .map(|uid| names.actions_in(uid))
                    .try_fold(0, |all, each| Some(all | each?))?,
            },
        })
    }

    pub(crate) fn admits(&self, action: Action) -> bool {
        self.actions & bit(action) != 0
    }

    pub(crate) fn principal_matches(&self, call: &Call<'_>) -> bool {
        self.principal.matches(call, call.principal)
    }

    pub(crate) fn resource_matches(&self, call: &Call<'_>) -> bool {
        self.resource.matches(call, call.resource)
    }
}

impl Constraint {
    fn matches(self, call: &Call<'_>, entity: EntityRef) -> bool {
        match self {
            Self::Any => true,
            Self::Is(type_id) => call.type_of(entity) == type_id,
            Self::Equal(number) => entity == EntityRef::Known(number),
            Self::In(number) => call.is_in(entity, EntityRef::Known(number)),
            Self::IsIn(type_id, number) => {
                call.type_of(entity) == type_id && call.is_in(entity, EntityRef::Known(number))
            }
        }
    }
}

fn bit(action: Action) -> u16 {
    1_u16.checked_shl(action.index().into()).unwrap_or(0)
}

/// Cedar's names as the snapshot's numbers.
struct Names<'a>(&'a Snapshot);

impl Names<'_> {
    fn entity(&self, uid: &EntityUid) -> Option<u32> {
        let type_id = self.type_id(uid.type_name())?;
        self.0.number(&(type_id, uid.id().unescaped().into()))
    }

    fn type_id(&self, name: &EntityTypeName) -> Option<TypeId> {
        self.0.type_id(&name.to_string())
    }

    fn actions_equal(&self, uid: &EntityUid) -> Option<u16> {
        let number = self.entity(uid)?;
        Some(self.actions(|action| action == number))
    }

    fn actions_in(&self, uid: &EntityUid) -> Option<u16> {
        let number = self.entity(uid)?;
        Some(self.actions(|action| action == number || self.0.is_ancestor(number, action)))
    }

    fn actions(&self, matches: impl Fn(u32) -> bool) -> u16 {
        Action::ALL
            .into_iter()
            .filter(|action| matches(Snapshot::action(*action)))
            .fold(0, |all, action| all | bit(action))
    }
}

/// Policies that demand the same of principal and resource: forbids first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    start: u32,
    permits: u32,
    end: u32,
}

/// A policy in a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) policy: u32,
    pub(crate) actions: u16,
}

/// The keys under which constraints on one entity are indexed, where there are any.
#[derive(Clone, Copy, Debug, Default)]
struct EntityKeys {
    equal: Option<u32>,
    within: Option<u32>,
    /// With the first and with the second type that a principal or resource can have.
    is_within: [Option<u32>; 2],
}

/// The constraints on one side, principal or resource, by number.
#[derive(Debug)]
struct Side {
    types: [TypeId; 2],
    any: Option<u32>,
    is: [Option<u32>; 2],
    entities: Vec<EntityKeys>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    principals: Side,
    resources: Side,
    buckets: Table<u64, Bucket>,
    entries: Vec<Entry>,
}

/// The buckets that match a call, of which there are rarely more than a few.
pub(crate) struct Candidates {
    inline: [Bucket; Candidates::INLINE],
    length: usize,
    spilled: Vec<Bucket>,
}

impl Candidates {
    const INLINE: usize = 24;

    fn new() -> Self {
        let none = Bucket {
            start: 0,
            permits: 0,
            end: 0,
        };
        Self {
            inline: [none; Self::INLINE],
            length: 0,
            spilled: Vec::new(),
        }
    }

    fn push(&mut self, bucket: Bucket) {
        match self.inline.get_mut(self.length) {
            Some(place) => {
                *place = bucket;
                self.length += 1;
            }
            None => self.spilled.push(bucket),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bucket> {
        let inline = self.inline.get(..self.length).unwrap_or(&[]);
        inline.iter().chain(&self.spilled)
    }
}

impl Side {
    fn new(types: [TypeId; 2], entities: usize) -> Self {
        Self {
            types,
            any: None,
            is: [None; 2],
            entities: vec![EntityKeys::default(); entities],
        }
    }

    /// The place where the key of this constraint is kept; none where no call can meet it.
    fn place(&mut self, constraint: Constraint) -> Option<&mut Option<u32>> {
        let which = |types: [TypeId; 2], type_id| types.iter().position(|each| *each == type_id);
        match constraint {
            Constraint::Any => Some(&mut self.any),
            Constraint::Is(type_id) => self.is.get_mut(which(self.types, type_id)?),
            Constraint::Equal(number) => Some(&mut self.entities.get_mut(number as usize)?.equal),
            Constraint::In(number) => Some(&mut self.entities.get_mut(number as usize)?.within),
            Constraint::IsIn(type_id, number) => {
                let keys = self.entities.get_mut(number as usize)?;
                keys.is_within.get_mut(which(self.types, type_id)?)
            }
        }
    }

    fn keys_of_type(&self, type_id: TypeId, keys: &mut Few<32>) {
        if let Some(key) = self.any {
            keys.push(key);
        }
        let which = usize::from(self.types.first() != Some(&type_id));
        if let Some(Some(key)) = self.is.get(which) {
            keys.push(*key);
        }
    }

    fn equal_key(&self, number: u32, keys: &mut Few<32>) {
        if let Some(key) = self.entities.get(number as usize).and_then(|e| e.equal) {
            keys.push(key);
        }
    }

    fn within_keys(&self, type_id: TypeId, number: u32, keys: &mut Few<32>) {
        let Some(of_entity) = self.entities.get(number as usize) else {
            return;
        };
        if let Some(key) = of_entity.within {
            keys.push(key);
        }
        let which = usize::from(self.types.first() != Some(&type_id));
        if let Some(Some(key)) = of_entity.is_within.get(which) {
            keys.push(*key);
        }
    }
}

impl Index {
    /// Indexes policies by their scopes; `permits` tells the effect of each.
    pub(crate) fn new(scopes: &[(Scope, bool)], snapshot: &Snapshot) -> Self {
        let entities = snapshot.entities().len();
        let mut principals = Side::new([TypeId::WORKLOAD, TypeId::ANONYMOUS], entities);
        let mut resources = Side::new([TypeId::ENDPOINT, TypeId::PORT], entities);
        let mut grouped: BTreeMap<(u32, u32), Vec<(bool, Entry)>> = BTreeMap::new();
        let mut next = [0, 0];
        for (policy, (scope, permit)) in (0..).zip(scopes) {
            let [next_principal, next_resource] = &mut next;
            let principal = number(principals.place(scope.principal), next_principal);
            let resource = number(resources.place(scope.resource), next_resource);
            if let (Some(principal), Some(resource)) = (principal, resource) {
                let actions = scope.actions;
                let entry = Entry { policy, actions };
                let group = grouped.entry((principal, resource)).or_default();
                group.push((*permit, entry));
            }
        }
        let mut index = Self {
            principals,
            resources,
            buckets: Table::default(),
            entries: Vec::with_capacity(scopes.len()),
        };
        for ((principal, resource), mut group) in grouped {
            group.sort_by_key(|(permit, entry)| (*permit, entry.policy));
            index.add_bucket(key(principal, resource), &group);
        }
        index
    }

    fn add_bucket(&mut self, key: u64, group: &[(bool, Entry)]) {
        let start = self.entries.len() as u32;
        let forbids = group.iter().filter(|(permit, _)| !permit).count() as u32;
        self.entries.extend(group.iter().map(|(_, entry)| *entry));
        let bucket = Bucket {
            start,
            permits: start + forbids,
            end: self.entries.len() as u32,
        };
        self.buckets.insert(key, bucket);
    }

    /// The buckets of the policies whose principal and resource match the call.
    pub(crate) fn candidates(&self, call: &Call<'_>) -> Candidates {
        let principals = self.principal_keys(call);
        let resources = self.resource_keys(call);
        let mut found = Candidates::new();
        for principal in principals.as_slice() {
            for resource in resources.as_slice() {
                if let Some(bucket) = self.buckets.get(&key(*principal, *resource)) {
                    found.push(*bucket);
                }
            }
        }
        found
    }

    fn principal_keys(&self, call: &Call<'_>) -> Few<32> {
        let side = &self.principals;
        let of_type = call.principal_type;
        let mut keys = Few::new();
        side.keys_of_type(of_type, &mut keys);
        if let EntityRef::Known(number) = call.principal {
            side.equal_key(number, &mut keys);
            side.within_keys(of_type, number, &mut keys);
        }
        for path in call.paths.as_slice() {
            side.within_keys(of_type, *path, &mut keys);
            for group in call.snapshot.lends(*path) {
                side.within_keys(of_type, *group, &mut keys);
            }
        }
        // A group may be reached by several paths; its policies count once.
        keys.sort_dedup();
        keys
    }

    fn resource_keys(&self, call: &Call<'_>) -> Few<32> {
        let side = &self.resources;
        let of_type = call.resource_type;
        let mut keys = Few::new();
        side.keys_of_type(of_type, &mut keys);
        if let EntityRef::Known(number) = call.resource {
            side.equal_key(number, &mut keys);
            side.within_keys(of_type, number, &mut keys);
        }
        if let Some(service) = call.service {
            side.within_keys(of_type, service, &mut keys);
            let known = call.snapshot.entity(service);
            for group in known.map_or(&[][..], |service| &service.ancestors) {
                side.within_keys(of_type, *group, &mut keys);
            }
        }
        keys
    }

    pub(crate) fn forbids(&self, bucket: &Bucket) -> &[Entry] {
        self.range(bucket.start, bucket.permits)
    }

    pub(crate) fn permits(&self, bucket: &Bucket) -> &[Entry] {
        self.range(bucket.permits, bucket.end)
    }

    fn range(&self, start: u32, end: u32) -> &[Entry] {
        self.entries
            .get(start as usize..end as usize)
            .unwrap_or(&[])
    }
}

impl Entry {
    pub(crate) fn admits(&self, action: Action) -> bool {
        self.actions & bit(action) != 0
    }
}

/// The number at this place, a new one if there was none.
fn number(place: Option<&mut Option<u32>>, next: &mut u32) -> Option<u32> {
    let place = place?;
    let number = *place.get_or_insert(*next);
    *next = (*next).max(number + 1);
    Some(number)
}

fn key(principal: u32, resource: u32) -> u64 {
    (u64::from(principal) << 32) | u64::from(resource)
}
