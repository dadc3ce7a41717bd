//! The entities that policies and entity files speak of, numbered. A call's own entities are
//! looked up here; what is not found is no entity that any policy knows.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_identity::SpiffeId;

use crate::{action::Action, compile::value::Const, hash::Table};

/// An entity type by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TypeId(pub(crate) u16);

impl TypeId {
    pub(crate) const ACTION: Self = Self(0);
    pub(crate) const ANONYMOUS: Self = Self(1);
    pub(crate) const WORKLOAD: Self = Self(2);
    pub(crate) const SPIFFE_PATH: Self = Self(3);
    pub(crate) const GROUP: Self = Self(4);
    pub(crate) const SERVICE: Self = Self(5);
    pub(crate) const ENDPOINT: Self = Self(6);
    pub(crate) const PORT: Self = Self(7);
}

/// The types of the built-in schema, at the places that [`TypeId`] gives them.
const BUILT_IN: [&str; 8] = [
    "Action",
    "Anonymous",
    "Workload",
    "SpiffePath",
    "Group",
    "Service",
    "Endpoint",
    "Port",
];

/// An entity at the time of a decision. The principal and the resource of a call stand for
/// themselves only where the snapshot does not know them, so that equal entities are equal
/// here, and two unknown ones are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EntityRef {
    Known(u32),
    Principal,
    Resource,
}

/// A type and an id.
pub(crate) type Uid = (TypeId, Box<str>);

/// Attributes by name, sorted.
pub(crate) type Attributes = Box<[(Box<str>, Const)]>;

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) type_id: TypeId,
    pub(crate) id: Box<str>,
    /// All ancestors, sorted.
    pub(crate) ancestors: Box<[u32]>,
    /// Of a SPIFFE path: the groups of every workload beneath it, sorted.
    pub(crate) lends: Box<[u32]>,
    /// None where nothing is known of the entity but its name.
    pub(crate) attributes: Option<Attributes>,
}

/// All numbered entities, immutable.
#[derive(Debug)]
pub(crate) struct Snapshot {
    types: Vec<Box<str>>,
    entities: Vec<Known>,
    numbers: Table<Uid, u32>,
    workloads: Table<Box<str>, u32>,
    paths: Table<Box<str>, u32>,
    /// No known path is longer, so longer prefixes need not be looked up.
    longest_path: usize,
    services: Table<Box<str>, u32>,
    /// By method, then by template.
    endpoints: Table<Box<str>, Table<Box<str>, u32>>,
    catch_all: Option<u32>,
    ports: Table<u16, u32>,
    anonymous: Option<u32>,
}

impl Snapshot {
    pub(crate) fn number(&self, uid: &Uid) -> Option<u32> {
        self.numbers.get(uid).copied()
    }

    pub(crate) fn entity(&self, number: u32) -> Option<&Known> {
        self.entities.get(number as usize)
    }

    pub(crate) fn entities(&self) -> &[Known] {
        &self.entities
    }

    pub(crate) fn type_name(&self, type_id: TypeId) -> &str {
        self.types
            .get(usize::from(type_id.0))
            .map_or("", |name| name)
    }

    pub(crate) fn type_id(&self, name: &str) -> Option<TypeId> {
        let place = self.types.iter().position(|each| &**each == name)?;
        u16::try_from(place).ok().map(TypeId)
    }

    pub(crate) fn workload(&self, id: &str) -> Option<u32> {
        self.workloads.get(id).copied()
    }

    pub(crate) fn path(&self, prefix: &str) -> Option<u32> {
        self.paths.get(prefix).copied()
    }

    pub(crate) fn longest_path(&self) -> usize {
        self.longest_path
    }

    pub(crate) fn service(&self, name: &str) -> Option<u32> {
        self.services.get(name).copied()
    }

    pub(crate) fn endpoint(&self, method: &str, template: Option<&str>) -> Option<u32> {
        match template {
            None => self.catch_all,
            Some(template) => self.endpoints.get(method)?.get(template).copied(),
        }
    }

    pub(crate) fn port(&self, port: u16) -> Option<u32> {
        self.ports.get(&port).copied()
    }

    pub(crate) fn anonymous(&self) -> Option<u32> {
        self.anonymous
    }

    /// The number of an action's entity: actions come first.
    pub(crate) fn action(action: Action) -> u32 {
        action.index().into()
    }

    pub(crate) fn is_ancestor(&self, ancestor: u32, of: u32) -> bool {
        self.entity(of)
            .is_some_and(|entity| entity.ancestors.binary_search(&ancestor).is_ok())
    }

    pub(crate) fn lends(&self, path: u32) -> &[u32] {
        self.entity(path).map_or(&[], |path| &path.lends)
    }
}

/// What entity files say: who is in what, and what is known of whom.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// Direct parents, of groups, services and the user's own entities.
    pub(crate) parents: BTreeMap<(String, String), BTreeSet<(String, String)>>,
    /// Groups by SPIFFE ID or prefix.
    pub(crate) members: BTreeMap<String, BTreeSet<String>>,
    /// Attributes by type and id. An entity listed here exists.
    pub(crate) attributes: BTreeMap<(String, String), Fields>,
}

/// Attributes by name, whose entities are not numbered yet.
pub(crate) type Fields = Vec<(Box<str>, AttributeValue)>;

/// A constant whose entities are not numbered yet.
#[derive(Clone, Debug)]
pub(crate) enum AttributeValue {
    Const(Const),
    Entity(String, String),
    Set(Vec<AttributeValue>),
    Record(Fields),
}

/// Numbers entities, then relates them.
#[derive(Debug)]
pub(crate) struct Builder {
    types: Vec<Box<str>>,
    uids: Vec<Uid>,
    numbers: Table<Uid, u32>,
}

impl Builder {
    /// Starts with the actions, in their order, and their groups.
    pub(crate) fn new() -> Self {
        let mut builder = Self {
            types: BUILT_IN.map(Box::from).to_vec(),
            uids: Vec::new(),
            numbers: Table::default(),
        };
        for action in Action::ALL {
            builder.add("Action", action.as_str());
        }
        for action in Action::ALL {
            if let Some(group) = action.group() {
                builder.add("Action", group);
            }
        }
        builder
    }

    /// The number of the entity, old or new.
    pub(crate) fn add(&mut self, type_name: &str, id: &str) -> u32 {
        let uid = (self.type_id(type_name), Box::from(id));
        if let Some(number) = self.numbers.get(&uid) {
            return *number;
        }
        let number = self.uids.len() as u32;
        self.uids.push(uid.clone());
        self.numbers.insert(uid, number);
        number
    }

    /// The number of the type, old or new.
    pub(crate) fn type_id(&mut self, name: &str) -> TypeId {
        let place = self.types.iter().position(|each| &**each == name);
        let place = place.unwrap_or_else(|| {
            self.types.push(name.into());
            self.types.len() - 1
        });
        TypeId(place as u16)
    }

    /// Numbers what the relations speak of, and finishes.
    pub(crate) fn build(mut self, relations: &Relations) -> Snapshot {
        self.add_all(relations);
        let direct = self.direct_parents(relations);
        let attributes = self.attributes(relations);
        let lends = self.lends(relations, &direct);
        let mut snapshot = self.tables();
        let related = Related {
            snapshot: &snapshot,
            direct: &direct,
            lends: &lends,
        };
        let ancestors: Vec<_> = (0..snapshot.entities.len() as u32)
            .map(|number| related.ancestors(number))
            .collect();
        let parts = ancestors.into_iter().zip(lends).zip(attributes);
        for (entity, ((ancestors, lends), attributes)) in snapshot.entities.iter_mut().zip(parts) {
            entity.ancestors = ancestors;
            entity.lends = lends;
            entity.attributes = attributes;
        }
        snapshot
    }

    fn add_all(&mut self, relations: &Relations) {
        for ((type_name, id), parents) in &relations.parents {
            self.add(type_name, id);
            for (type_name, id) in parents {
                self.add(type_name, id);
            }
        }
        for (prefix, groups) in &relations.members {
            self.add("SpiffePath", prefix);
            for group in groups {
                self.add("Group", group);
            }
        }
        for ((type_name, id), fields) in &relations.attributes {
            self.add(type_name, id);
            for (_, value) in fields {
                self.add_value(value);
            }
        }
    }

    fn add_value(&mut self, value: &AttributeValue) {
        match value {
            AttributeValue::Const(_) => {}
            AttributeValue::Entity(type_name, id) => {
                self.add(type_name, id);
            }
            AttributeValue::Set(members) => members.iter().for_each(|each| self.add_value(each)),
            AttributeValue::Record(fields) => {
                fields.iter().for_each(|(_, value)| self.add_value(value));
            }
        }
    }

    fn direct_parents(&mut self, relations: &Relations) -> Vec<Vec<u32>> {
        let mut direct = vec![Vec::new(); self.uids.len()];
        let mut relate = |child: u32, parent: u32| {
            if let Some(parents) = direct.get_mut(child as usize) {
                parents.push(parent);
            }
        };
        for action in Action::ALL {
            if let Some(group) = action.group() {
                relate(Snapshot::action(action), self.add("Action", group));
            }
        }
        for ((type_name, id), parents) in &relations.parents {
            let child = self.add(type_name, id);
            for (type_name, id) in parents {
                relate(child, self.add(type_name, id));
            }
        }
        direct
    }

    fn attributes(&mut self, relations: &Relations) -> Vec<Option<Attributes>> {
        // These exist wherever they are named; the user's own entities only in entity files.
        let exists = [
            TypeId::SPIFFE_PATH,
            TypeId::GROUP,
            TypeId::SERVICE,
            TypeId::ACTION,
        ];
        let mut attributes: Vec<Option<Attributes>> = self
            .uids
            .iter()
            .map(|(type_id, id)| match *type_id {
                TypeId::WORKLOAD => Some(workload_attributes(id)),
                type_id => exists.contains(&type_id).then(Attributes::default),
            })
            .collect();
        for ((type_name, id), fields) in &relations.attributes {
            let number = self.add(type_name, id);
            let mut fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.clone(), self.constant(value)))
                .collect();
            fields.sort_unstable();
            if let Some(place) = attributes.get_mut(number as usize) {
                *place = Some(fields.into());
            }
        }
        attributes
    }

    fn constant(&mut self, value: &AttributeValue) -> Const {
        match value {
            AttributeValue::Const(value) => value.clone(),
            AttributeValue::Entity(type_name, id) => {
                Const::Entity(EntityRef::Known(self.add(type_name, id)))
            }
            AttributeValue::Set(members) => {
                Const::set(members.iter().map(|each| self.constant(each)).collect())
            }
            AttributeValue::Record(fields) => Const::record(
                fields
                    .iter()
                    .map(|(name, value)| (name.clone(), self.constant(value)))
                    .collect(),
            ),
        }
    }

    /// For each entity, the groups that it lends to the workloads beneath it.
    fn lends(&mut self, relations: &Relations, direct: &[Vec<u32>]) -> Vec<Box<[u32]>> {
        let mut lends = vec![Box::default(); self.uids.len()];
        for (prefix, groups) in &relations.members {
            let groups: Vec<u32> = groups.iter().map(|name| self.add("Group", name)).collect();
            let path = self.add("SpiffePath", prefix);
            if let Some(place) = lends.get_mut(path as usize) {
                *place = closure(&groups, direct);
            }
        }
        lends
    }

    fn tables(self) -> Snapshot {
        let mut snapshot = Snapshot {
            types: self.types,
            entities: Vec::with_capacity(self.uids.len()),
            numbers: self.numbers,
            workloads: Table::default(),
            paths: Table::default(),
            longest_path: 0,
            services: Table::default(),
            endpoints: Table::default(),
            catch_all: None,
            ports: Table::default(),
            anonymous: None,
        };
        for (number, (type_id, id)) in (0..).zip(self.uids) {
            snapshot.list(type_id, &id, number);
            snapshot.entities.push(Known {
                type_id,
                id,
                ancestors: Box::default(),
                lends: Box::default(),
                attributes: None,
            });
        }
        snapshot
    }
}

impl Snapshot {
    /// Enters an entity where calls look it up.
    fn list(&mut self, type_id: TypeId, id: &str, number: u32) {
        match type_id {
            TypeId::WORKLOAD => {
                self.workloads.insert(id.into(), number);
            }
            TypeId::SPIFFE_PATH => {
                self.longest_path = self.longest_path.max(id.len());
                self.paths.insert(id.into(), number);
            }
            TypeId::SERVICE => {
                self.services.insert(id.into(), number);
            }
            TypeId::ENDPOINT => self.list_endpoint(id, number),
            TypeId::PORT => {
                // Only the canonical number: no call looks for another writing of it.
                let port = id.parse().ok().filter(|port: &u16| port.to_string() == id);
                self.ports.extend(port.map(|port| (port, number)));
            }
            TypeId::ANONYMOUS if id == "anonymous" => self.anonymous = Some(number),
            _ => {}
        }
    }

    fn list_endpoint(&mut self, id: &str, number: u32) {
        if id == "*" {
            self.catch_all = Some(number);
        } else if let Some((method, template)) = id.split_once(' ') {
            let of_method = self.endpoints.entry(method.into()).or_default();
            of_method.insert(template.into(), number);
        }
    }
}

/// What is needed to tell the ancestors of an entity.
struct Related<'a> {
    snapshot: &'a Snapshot,
    direct: &'a [Vec<u32>],
    lends: &'a [Box<[u32]>],
}

impl Related<'_> {
    fn ancestors(&self, number: u32) -> Box<[u32]> {
        let Some(entity) = self.snapshot.entity(number) else {
            return Box::default();
        };
        match entity.type_id {
            TypeId::WORKLOAD => {
                let paths = self.paths_of(&entity.id, entity.id.len());
                let lent = paths
                    .iter()
                    .filter_map(|path| self.lends.get(*path as usize))
                    .flatten();
                sorted(lent.chain(&paths).copied().collect())
            }
            TypeId::SPIFFE_PATH => {
                sorted(self.paths_of(&entity.id, entity.id.len().saturating_sub(1)))
            }
            _ => {
                let direct = self.direct.get(number as usize).map_or(&[][..], |d| d);
                closure(direct, self.direct)
            }
        }
    }

    /// The known prefixes of a SPIFFE ID that are no longer than `longest` bytes.
    fn paths_of(&self, id: &str, longest: usize) -> Vec<u32> {
        prefixes(id)
            .filter(|prefix| prefix.len() <= longest)
            .filter_map(|prefix| self.snapshot.path(prefix))
            .collect()
    }
}

/// What a workload's name says of it, sorted by name.
fn workload_attributes(id: &str) -> Attributes {
    let Ok(id) = id.parse::<SpiffeId>() else {
        return Attributes::default();
    };
    let text = |name: &str, value: &str| (name.into(), Const::Text(value.into()));
    Box::new([
        text("path", id.path()),
        text("trust_domain", id.trust_domain().as_str()),
    ])
}

/// The prefixes of a SPIFFE ID by whole segments, shortest first, the whole last.
fn prefixes(id: &str) -> impl Iterator<Item = &str> {
    let start = "spiffe://".len();
    let slashes = id.match_indices('/').map(|(at, _)| at);
    slashes
        .filter(move |at| *at >= start)
        .chain([id.len()])
        .filter_map(|end| id.get(..end))
}

/// Everything that can be reached, the start included. Ends also on a cycle.
fn closure(start: &[u32], direct: &[Vec<u32>]) -> Box<[u32]> {
    let mut found = BTreeSet::new();
    let mut open = start.to_vec();
    while let Some(number) = open.pop() {
        if found.insert(number) {
            open.extend(direct.get(number as usize).into_iter().flatten());
        }
    }
    found.into_iter().collect()
}

fn sorted(mut numbers: Vec<u32>) -> Box<[u32]> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relations() -> Relations {
        let group = |name: &str| ("Group".to_owned(), name.to_owned());
        let mut relations = Relations::default();
        relations
            .parents
            .insert(group("agents"), BTreeSet::from([group("robots")]));
        relations.members.insert(
            "spiffe://td/ns/agents".to_owned(),
            BTreeSet::from(["agents".to_owned()]),
        );
        relations
    }

    #[test]
    fn a_workload_is_in_its_paths_and_in_their_groups() {
        let mut builder = Builder::new();
        let scout = builder.add("Workload", "spiffe://td/ns/agents/sa/scout");
        let other = builder.add("Workload", "spiffe://td/ns/agents2/sa/scout");
        let td = builder.add("SpiffePath", "spiffe://td");
        let snapshot = builder.build(&relations());
        let agents = snapshot.number(&(TypeId::GROUP, "agents".into())).unwrap();
        let robots = snapshot.number(&(TypeId::GROUP, "robots".into())).unwrap();
        let path = snapshot.path("spiffe://td/ns/agents").unwrap();
        for ancestor in [td, agents, robots, path] {
            assert!(snapshot.is_ancestor(ancestor, scout));
        }
        assert!(snapshot.is_ancestor(td, other));
        assert!(!snapshot.is_ancestor(agents, other));
        assert!(snapshot.is_ancestor(td, path));
        // Groups hold workloads; a path is no member of them.
        assert!(!snapshot.is_ancestor(agents, path));
    }

    #[test]
    fn actions_stand_at_their_index_in_their_group() {
        let snapshot = Builder::new().build(&Relations::default());
        let read = snapshot
            .number(&(TypeId::ACTION, "http:read".into()))
            .unwrap();
        let get = Snapshot::action(Action::from_http_method("GET"));
        assert_eq!(snapshot.entity(get).map(|e| &*e.id), Some("http:get"));
        assert!(snapshot.is_ancestor(read, get));
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let all: Vec<_> = prefixes("spiffe://td/a/bc").collect();
        assert_eq!(all, ["spiffe://td", "spiffe://td/a", "spiffe://td/a/bc"]);
        assert_eq!(prefixes("spiffe://td").collect::<Vec<_>>(), ["spiffe://td"]);
    }
}
