//! The user's own entity types and entities: Cedar's schema syntax and Cedar's JSON format,
//! checked by Cedar against the whole schema.

use std::collections::BTreeSet;

use cedar_policy::{Entities, Entity, EvalResult, Schema, SchemaFragment};
use serde_saphyr::Spanned;

use crate::{
    compile::{
        lower::cedar_long,
        value::{Const, Net, parse_decimal},
    },
    problem::{Problem, Source},
    schema,
    snapshot::{AttributeValue, Relations},
    yaml,
};

/// Whether the declarations stand on their own, and hide nothing that is built in.
pub(super) fn check_types(text: &str) -> Result<(), String> {
    let (fragment, _) = SchemaFragment::from_cedarschema_str(text).map_err(|e| e.to_string())?;
    let declared = fragment.to_json_value().map_err(|e| e.to_string())?;
    let Some(namespaces) = declared.as_object() else {
        return Ok(());
    };
    for (namespace, content) in namespaces {
        let names = |of: &str| -> BTreeSet<String> {
            let names = content.get(of).and_then(|names| names.as_object());
            names
                .into_iter()
                .flat_map(|names| names.keys().cloned())
                .collect()
        };
        if let Some(action) = names("actions").first() {
            return Err(format!(
                "actions are built in: `{action}` cannot be declared"
            ));
        }
        let all = &names("entityTypes") | &names("commonTypes");
        let hidden = all
            .iter()
            .find(|name| namespace.is_empty() && schema::NAMES.contains(&name.as_str()));
        if let Some(name) = hidden {
            return Err(format!("`{name}` is built in and cannot be declared again"));
        }
    }
    Ok(())
}

/// Adds the user's own entities to the relations.
pub(super) fn add_entities<'a>(
    entities: impl Iterator<Item = (&'a Source, &'a Spanned<serde_json::Value>)>,
    schema: &Schema,
    relations: &mut Relations,
    problems: &mut Vec<Problem>,
) {
    let mut valid = Vec::new();
    let mut first = None;
    for (source, entity) in entities {
        let span = || yaml::span(source, &entity.referenced);
        match check_one(&entity.value, schema) {
            Ok(()) => valid.push(entity.value.clone()),
            Err(message) => problems.push(source.problem(span(), message).with_help(
                "write `{uid: {type: …, id: …}, attrs: {…}, parents: […]}` as the schema has it",
            )),
        }
        first.get_or_insert((source, span()));
    }
    // One by one they are valid; together they may still be double or in a circle.
    let all = Entities::from_json_value(serde_json::Value::Array(valid), Some(schema));
    match (all, first) {
        (Ok(all), _) => all
            .iter()
            .for_each(|entity| add_entity(entity, &all, relations)),
        (Err(error), Some((source, span))) => {
            problems.push(source.problem(span, with_sources(&error)));
        }
        (Err(_), None) => {}
    }
}

fn check_one(entity: &serde_json::Value, schema: &Schema) -> Result<(), String> {
    let type_name = entity
        .pointer("/uid/type")
        .and_then(|name| name.as_str())
        .ok_or("an entity needs a `uid` with a `type` and an `id`")?;
    if schema::NAMES.contains(&type_name) || type_name == "Action" {
        return Err(format!(
            "entities of the type `{type_name}` come from calls; membership is written under \
             `groups:`"
        ));
    }
    let alone = serde_json::Value::Array(vec![entity.clone()]);
    match Entities::from_json_value(alone, Some(schema)) {
        Ok(_) => Ok(()),
        Err(error) => Err(with_sources(&error)),
    }
}

/// Cedar's message with the causes that it keeps in its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}

fn add_entity(entity: &Entity, all: &Entities, relations: &mut Relations) {
    let uid = name_of(&entity.uid());
    if uid.0 == "Action" {
        return;
    }
    let ancestors = all.ancestors(&entity.uid()).into_iter().flatten();
    relations
        .parents
        .insert(uid.clone(), ancestors.map(name_of).collect());
    let fields = entity
        .attrs()
        .filter_map(|(name, value)| Some((name.into(), attribute(&value.ok()?)?)))
        .collect();
    relations.attributes.insert(uid, fields);
}

fn name_of(uid: &cedar_policy::EntityUid) -> (String, String) {
    (uid.type_name().to_string(), uid.id().unescaped().to_owned())
}

fn attribute(value: &EvalResult) -> Option<AttributeValue> {
    Some(match value {
        EvalResult::Bool(value) => AttributeValue::Const(Const::Bool(*value)),
        EvalResult::Long(value) => AttributeValue::Const(Const::Long(*value)),
        EvalResult::String(value) => AttributeValue::Const(Const::Text(value.as_str().into())),
        EvalResult::EntityUid(uid) => {
            let (type_name, id) = name_of(uid);
            AttributeValue::Entity(type_name, id)
        }
        EvalResult::Set(members) => {
            AttributeValue::Set(members.iter().map(attribute).collect::<Option<_>>()?)
        }
        EvalResult::Record(fields) => {
            let fields = fields.iter();
            let fields =
                fields.map(|(name, value)| Some((name.as_str().into(), attribute(value)?)));
            AttributeValue::Record(fields.collect::<Option<_>>()?)
        }
        EvalResult::ExtensionValue(text) => AttributeValue::Const(extension(text)?),
    })
}

/// The constant that Cedar prints as a call of its constructor.
fn extension(text: &str) -> Option<Const> {
    let argument = |name: &str| {
        let rest = text.strip_prefix(name)?.strip_prefix("(\"")?;
        rest.strip_suffix("\")")
    };
    if let Some(address) = argument("ip") {
        return Net::parse(address).map(Const::Ip);
    }
    if let Some(number) = argument("decimal") {
        return parse_decimal(number).map(Const::Decimal);
    }
    if let Some(ms) = cedar_long(&format!("({text}).toMilliseconds()")) {
        return Some(Const::Duration(ms));
    }
    let since = "durationSince(datetime(\"1970-01-01\")).toMilliseconds()";
    cedar_long(&format!("({text}).{since}")).map(Const::Datetime)
}
