//! What entities files say: extensions of the schema, groups and who is in them, and the
//! user's own entities. Collects every problem.

mod own;
mod raw;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Schema;
use wayleave_identity::SpiffeId;

use crate::{
    compile::fact::{ClaimType, Declared},
    limits::MOST_GROUPS,
    problem::{Problem, Source, did_you_mean},
    schema::{self, Extension},
    snapshot::Relations,
    yaml,
};

use raw::{RawFile, RawSchema};

/// All entities files, read.
#[derive(Debug)]
pub(crate) struct Files<'a>(Vec<(&'a Source, RawFile)>);

impl<'a> Files<'a> {
    pub(crate) fn read(sources: &'a [Source], problems: &mut Vec<Problem>) -> Self {
        let mut files = Vec::new();
        for source in sources {
            match raw::parse(source) {
                Ok(file) => files.push((source, file)),
                Err(problem) => problems.push(problem),
            }
        }
        Self(files)
    }

    /// The names of all groups.
    pub(crate) fn groups(&self) -> BTreeSet<&str> {
        let groups = self.0.iter().flat_map(|(_, file)| file.groups.keys());
        groups.map(String::as_str).collect()
    }

    /// The headers and claims that policies may read, and the user's own types.
    pub(crate) fn extension(&self, problems: &mut Vec<Problem>) -> Extension {
        let mut extension = Extension {
            declared: Declared {
                headers: schema::HEADERS.map(Box::from).to_vec(),
                claims: Vec::new(),
            },
            types: String::new(),
        };
        for (source, file) in &self.0 {
            add_headers(source, &file.schema, &mut extension.declared, problems);
            add_claims(source, &file.schema, &mut extension.declared, problems);
            if let Some(types) = &file.schema.types {
                match own::check_types(&types.value) {
                    Ok(()) => extension.types.push_str(&types.value),
                    Err(message) => problems.push(
                        source
                            .problem(yaml::span(source, &types.referenced), message)
                            .with_help(
                                "declare `entity` types of your own in Cedar's schema syntax",
                            ),
                    ),
                }
                extension.types.push('\n');
            }
        }
        extension
    }

    /// Who is in which group, and the user's own entities.
    pub(crate) fn relations(&self, schema: &Schema, problems: &mut Vec<Problem>) -> Relations {
        let mut relations = Relations::default();
        let groups = self.groups();
        for (source, file) in &self.0 {
            for (group, members) in &file.groups {
                for member in members {
                    let added = add_member(group, &member.value, &groups, &mut relations);
                    if let Err((message, help)) = added {
                        let span = yaml::span(source, &member.referenced);
                        problems.push(source.problem(span, message).with_help(help));
                    }
                }
            }
        }
        self.refuse_cycles(&relations, problems);
        self.refuse_crowds(&relations, problems);
        let entities = self.0.iter().flat_map(|(source, file)| {
            let entities = file.entities.iter();
            entities.map(move |entity| (*source, entity))
        });
        own::add_entities(entities, schema, &mut relations, problems);
        relations
    }

    /// A group that is in itself, by whatever way.
    fn refuse_cycles(&self, relations: &Relations, problems: &mut Vec<Problem>) {
        for (source, file) in &self.0 {
            for (group, members) in &file.groups {
                let Some(way) = way_back(group, &relations.parents) else {
                    continue;
                };
                let span = members
                    .first()
                    .map_or(0..0, |member| yaml::span(source, &member.referenced));
                problems.push(
                    source
                        .problem(span, format!("the group `{group}` is in itself"))
                        .with_help(format!("it is in {}", way.join(", which is in "))),
                );
            }
        }
    }

    /// A member whose every decision would look at too many groups.
    fn refuse_crowds(&self, relations: &Relations, problems: &mut Vec<Problem>) {
        for (source, file) in &self.0 {
            for (group, members) in &file.groups {
                let start = [("Group".to_owned(), group.clone())];
                let count = reach(&start, &relations.parents);
                let Some(member) = members.first().filter(|_| count > MOST_GROUPS) else {
                    continue;
                };
                let span = yaml::span(source, &member.referenced);
                let message = format!("members of `{group}` are in more than {MOST_GROUPS} groups");
                problems.push(
                    source
                        .problem(span, message)
                        .with_help("nest groups less deeply"),
                );
            }
        }
        for (prefix, groups) in &relations.members {
            let start: Vec<_> = groups
                .iter()
                .map(|name| ("Group".to_owned(), name.clone()))
                .collect();
            if reach(&start, &relations.parents) > MOST_GROUPS {
                let message = format!("`{prefix}` is in more than {MOST_GROUPS} groups");
                if let Some((source, _)) = self.0.first() {
                    problems.push(source.problem(0..0, message));
                }
            }
        }
    }
}

/// How many groups are reached from these, themselves included; stops soon after the limit.
fn reach(start: &[(String, String)], parents: &Parents) -> usize {
    let mut seen: BTreeSet<&(String, String)> = BTreeSet::new();
    let mut open: Vec<&(String, String)> = start.iter().collect();
    while let Some(group) = open.pop() {
        if seen.len() > MOST_GROUPS {
            break;
        }
        if seen.insert(group) {
            open.extend(parents.get(group).into_iter().flatten());
        }
    }
    seen.len()
}

type Parents = BTreeMap<(String, String), BTreeSet<(String, String)>>;

/// The shortest way from a group through its parents back to itself.
fn way_back(group: &str, parents: &Parents) -> Option<Vec<String>> {
    let start = ("Group".to_owned(), group.to_owned());
    let mut open = vec![(start.clone(), Vec::new())];
    let mut seen = BTreeSet::new();
    while !open.is_empty() {
        let mut next = Vec::new();
        for (uid, way) in open {
            for parent in parents.get(&uid).into_iter().flatten() {
                let longer = [way.as_slice(), &[format!("`{}`", parent.1)]].concat();
                if *parent == start {
                    return Some(longer);
                }
                if seen.insert(parent.clone()) {
                    next.push((parent.clone(), longer));
                }
            }
        }
        open = next;
    }
    None
}

/// A message and its remedy.
type Mistake = (String, String);

fn add_member(
    group: &str,
    member: &str,
    groups: &BTreeSet<&str>,
    relations: &mut Relations,
) -> Result<(), Mistake> {
    let parent = ("Group".to_owned(), group.to_owned());
    if let Some(name) = quoted(member, "Service") {
        let child = ("Service".to_owned(), name.to_owned());
        relations.parents.entry(child).or_default().insert(parent);
        return Ok(());
    }
    if let Some(name) = quoted(member, "Group") {
        if !groups.contains(name) {
            let help = match did_you_mean(name, groups.iter().copied()) {
                Some(meant) => format!("did you mean `Group::\"{meant}\"`?"),
                None => "define it under `groups:`".to_owned(),
            };
            return Err((format!("no group is called `{name}`"), help));
        }
        let child = ("Group".to_owned(), name.to_owned());
        relations.parents.entry(child).or_default().insert(parent);
        return Ok(());
    }
    let id: SpiffeId = member.parse().map_err(|error| {
        (
            format!("`{member}` is not a member of a group: {error}"),
            "write a SPIFFE ID or the start of one, `Service::\"name\"` or `Group::\"name\"`"
                .to_owned(),
        )
    })?;
    let of_prefix = relations.members.entry(id.as_str().to_owned()).or_default();
    of_prefix.insert(group.to_owned());
    Ok(())
}

/// The name in `Type::"name"`.
fn quoted<'a>(member: &'a str, type_name: &str) -> Option<&'a str> {
    let rest = member.strip_prefix(type_name)?.strip_prefix("::\"")?;
    let name = rest.strip_suffix('"')?;
    (!name.is_empty() && !name.contains(['"', '\\'])).then_some(name)
}

fn add_headers(
    source: &Source,
    schema: &RawSchema,
    declared: &mut Declared,
    problems: &mut Vec<Problem>,
) {
    for header in &schema.headers {
        let name = header.value.as_str();
        let mistake = if schema::HEADERS.contains(&name) {
            Some((
                format!("the header `{name}` is built in"),
                "leave it out: policies can read it already",
            ))
        } else if declared.headers.iter().any(|each| &**each == name) {
            Some((
                format!("the header `{name}` is declared twice"),
                "leave one out",
            ))
        } else if !is_header_name(name) {
            Some((
                format!("`{name}` is not a header's name"),
                "write it in lower case: a-z, 0-9, `-` and `_`",
            ))
        } else {
            declared.headers.push(name.into());
            None
        };
        problems.extend(mistake.map(|(message, help)| {
            let span = yaml::span(source, &header.referenced);
            source.problem(span, message).with_help(help)
        }));
    }
}

fn is_header_name(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    !name.is_empty() && name.len() <= 100 && name.bytes().all(plain)
}

fn add_claims(
    source: &Source,
    schema: &RawSchema,
    declared: &mut Declared,
    problems: &mut Vec<Problem>,
) {
    for (name, type_name) in &schema.claims {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        let mistake = if name.is_empty() || !name.chars().all(plain) {
            Some((
                format!("`{name}` is not a claim's name"),
                "use a-z, A-Z, 0-9, `_`, `-`, `.`, `:` and `/`".to_owned(),
            ))
        } else if declared.claims.iter().any(|(each, _)| **each == **name) {
            Some((
                format!("the claim `{name}` is declared twice"),
                "leave one out".to_owned(),
            ))
        } else if let Some(of_type) = ClaimType::from_name(&type_name.value) {
            declared.claims.push((name.as_str().into(), of_type));
            None
        } else {
            Some((
                format!("`{}` is not the type of a claim", type_name.value),
                format!("use one of {}", ClaimType::NAMES.join(", ")),
            ))
        };
        problems.extend(mistake.map(|(message, help)| {
            let span = yaml::span(source, &type_name.referenced);
            source.problem(span, message).with_help(help)
        }));
    }
}
