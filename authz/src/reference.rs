//! Facts as Cedar's own requests, entities and contexts. Slow, and what everything else here
//! is measured against: the compiled engine must answer as Cedar answers to this.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context as CedarContext, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression,
};

use wayleave_identity::SpiffeId;

use crate::{
    action::Family,
    calendar,
    compile::{
        call::Call,
        fact::{ClaimType, Declared},
        value::{Const, Net},
    },
    facts::{Claim, Claims, Facts, Headers, LAST_MILLISECOND, Principal, Tls},
    signals::{Kind, Signal, SignalValues},
    snapshot::{EntityRef, Snapshot},
};

/// Why facts could not be put to Cedar. Whoever meets it denies.
#[derive(Debug, thiserror::Error)]
#[error("the facts cannot be put to cedar: {0}")]
pub(crate) struct Inexpressible(String);

impl Inexpressible {
    fn because(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

type Attributes = HashMap<String, RestrictedExpression>;

/// The entity type names in use, parsed once.
#[derive(Debug)]
pub(crate) struct Translator {
    action: EntityTypeName,
    anonymous: EntityTypeName,
    endpoint: EntityTypeName,
    port: EntityTypeName,
    service: EntityTypeName,
    spiffe_path: EntityTypeName,
    workload: EntityTypeName,
    group: EntityTypeName,
    headers: Vec<Box<str>>,
    claims: Vec<(Box<str>, ClaimType)>,
}

impl Translator {
    pub(crate) fn new(declared: &Declared) -> Result<Self, Inexpressible> {
        let name = |name: &str| name.parse().map_err(Inexpressible::because);
        Ok(Self {
            action: name("Action")?,
            anonymous: name("Anonymous")?,
            endpoint: name("Endpoint")?,
            port: name("Port")?,
            service: name("Service")?,
            spiffe_path: name("SpiffePath")?,
            workload: name("Workload")?,
            group: name("Group")?,
            headers: declared.headers.clone(),
            claims: declared.claims.clone(),
        })
    }

    pub(crate) fn request(&self, facts: &Facts<'_>) -> Result<Request, Inexpressible> {
        Request::new(
            self.principal(facts),
            uid(&self.action, facts.action.as_str()),
            self.resource(facts)?,
            self.context(facts)?,
            None,
        )
        .map_err(Inexpressible::because)
    }

    /// The entities that belong to this call: the principal and its prefixes, the resource
    /// and its service.
    pub(crate) fn entities(&self, call: &Call<'_>) -> Result<Vec<Entity>, Inexpressible> {
        let mut entities = self.principal_entities(call)?;
        entities.extend(self.resource_entities(call)?);
        Ok(entities)
    }

    /// The snapshot as Cedar has it.
    pub(crate) fn statics(&self, snapshot: &Snapshot) -> Result<Entities, Inexpressible> {
        let uid_of = |number: u32| -> Result<EntityUid, Inexpressible> {
            let known = snapshot
                .entity(number)
                .ok_or_else(|| Inexpressible::because("a number without an entity"))?;
            let type_name = snapshot.type_name(known.type_id);
            let type_name = type_name.parse().map_err(Inexpressible::because)?;
            Ok(uid(&type_name, &known.id))
        };
        let mut entities = Vec::new();
        for (number, known) in (0..).zip(snapshot.entities()) {
            let Some(fields) = &known.attributes else {
                continue;
            };
            let mut attributes = Attributes::new();
            for (name, value) in fields {
                attributes.insert(name.to_string(), expression(value, &uid_of)?);
            }
            let parents = known.ancestors.iter().map(|parent| uid_of(*parent));
            entities.push(entity(
                uid_of(number)?,
                attributes,
                parents.collect::<Result<_, _>>()?,
            )?);
        }
        Entities::from_entities(entities, None).map_err(Inexpressible::because)
    }

    fn principal(&self, facts: &Facts<'_>) -> EntityUid {
        match facts.principal {
            Principal::Workload(id) => uid(&self.workload, id.as_str()),
            Principal::Anonymous => uid(&self.anonymous, "anonymous"),
        }
    }

    fn principal_entities(&self, call: &Call<'_>) -> Result<Vec<Entity>, Inexpressible> {
        let Principal::Workload(id) = call.facts.principal else {
            let uid = self.principal(call.facts);
            return Ok(vec![Entity::new_no_attrs(uid, HashSet::new())]);
        };
        // A workload that the snapshot knows is there already, with all its ancestors.
        if call.principal != EntityRef::Principal {
            return Ok(Vec::new());
        }
        let mut entities = Vec::new();
        let mut parents = HashSet::new();
        for prefix in id.prefixes() {
            let path = uid(&self.spiffe_path, prefix);
            if call.snapshot.path(prefix).is_none() {
                entities.push(Entity::new_no_attrs(path.clone(), parents.clone()));
            }
            parents.insert(path);
        }
        for path in call.paths.as_slice() {
            let groups = call.snapshot.lends(*path).iter();
            let groups = groups.filter_map(|group| call.snapshot.entity(*group));
            parents.extend(groups.map(|group| uid(&self.group, &group.id)));
        }
        entities.push(entity(
            self.principal(call.facts),
            workload_attributes(id),
            parents,
        )?);
        Ok(entities)
    }

    fn resource(&self, facts: &Facts<'_>) -> Result<EntityUid, Inexpressible> {
        Ok(match facts.action.family() {
            Family::Tcp => uid(&self.port, &facts.resource.port.to_string()),
            Family::Http | Family::Grpc => uid(
                &self.endpoint,
                &facts.resource.endpoint_id(self.method(facts)?),
            ),
        })
    }

    fn resource_entities(&self, call: &Call<'_>) -> Result<Vec<Entity>, Inexpressible> {
        let facts = call.facts;
        let resource = &facts.resource;
        let service = uid(&self.service, resource.service);
        let mut attributes = Attributes::from([
            pair("host", text(resource.host)),
            pair("port", RestrictedExpression::new_long(resource.port.into())),
        ]);
        if facts.action.family() != Family::Tcp {
            attributes.extend([
                pair("path", text(resource.path)),
                pair(
                    "documented",
                    RestrictedExpression::new_bool(resource.documented),
                ),
            ]);
            attributes.extend(
                resource
                    .template
                    .map(|template| pair("template", text(template))),
            );
        }
        let mut entities = Vec::new();
        if call.service.is_none() {
            entities.push(Entity::new_no_attrs(service.clone(), HashSet::new()));
        }
        let uid = self.resource(facts)?;
        entities.push(entity(uid, attributes, HashSet::from([service]))?);
        Ok(entities)
    }

    fn method<'a>(&self, facts: &Facts<'a>) -> Result<&'a str, Inexpressible> {
        facts
            .context
            .method
            .ok_or_else(|| Inexpressible::because("no method"))
    }

    fn context(&self, facts: &Facts<'_>) -> Result<CedarContext, Inexpressible> {
        let context = &facts.context;
        let ms = context
            .time_ms()
            .ok_or_else(|| Inexpressible::because("the time"))?;
        let mut pairs = Attributes::from([
            pair("direction", text(context.direction.as_str())),
            pair(
                "time",
                RestrictedExpression::new_datetime(calendar::format(ms)),
            ),
            pair(
                "source_ip",
                RestrictedExpression::new_ip(Net::of(context.source_ip).to_string()),
            ),
            pair("claims", self.claims(context.claims)?),
            pair("signals", signals(context.signals)?),
        ]);
        if let Some(tls) = context.tls {
            pairs.extend([pair("tls", tls_record(&tls)?)]);
        }
        if facts.action.family() != Family::Tcp {
            pairs.extend([
                pair("method", text(self.method(facts)?)),
                pair("headers", self.headers(context.headers)?),
            ]);
            pairs.extend(context.query.map(|query| pair("query", text(query))));
        }
        if facts.action.family() == Family::Grpc {
            let rpc = context
                .rpc
                .ok_or_else(|| Inexpressible::because("no rpc"))?;
            let fields = Attributes::from([
                pair("service", text(rpc.service)),
                pair("method", text(rpc.method)),
            ]);
            pairs.extend([pair("rpc", record(fields)?)]);
        }
        CedarContext::from_pairs(pairs).map_err(Inexpressible::because)
    }

    fn headers(&self, headers: &dyn Headers) -> Result<RestrictedExpression, Inexpressible> {
        let mut fields = Attributes::new();
        for name in &self.headers {
            let mut values = Vec::new();
            headers.any(name, &mut |value| {
                values.push(text(value));
                false
            });
            fields.insert(name.to_string(), RestrictedExpression::new_set(values));
        }
        record(fields)
    }

    fn claims(&self, claims: &dyn Claims) -> Result<RestrictedExpression, Inexpressible> {
        let mut fields = Attributes::new();
        for (name, of_type) in &self.claims {
            let value = match (of_type, claims.claim(name)) {
                (ClaimType::Text, Some(Claim::Text(value))) => text(value),
                (ClaimType::Long, Some(Claim::Long(value))) => {
                    RestrictedExpression::new_long(value)
                }
                (ClaimType::Bool, Some(Claim::Bool(value))) => {
                    RestrictedExpression::new_bool(value)
                }
                (ClaimType::Texts, Some(Claim::Texts(values))) => {
                    RestrictedExpression::new_set(values.iter().map(|value| text(value)))
                }
                _ => continue,
            };
            fields.insert(name.to_string(), value);
        }
        record(fields)
    }
}

fn workload_attributes(id: &SpiffeId) -> Attributes {
    Attributes::from([
        pair("trust_domain", text(id.trust_domain().as_str())),
        pair("path", text(id.path())),
    ])
}

/// A constant as Cedar writes it.
fn expression(
    constant: &Const,
    uid_of: &dyn Fn(u32) -> Result<EntityUid, Inexpressible>,
) -> Result<RestrictedExpression, Inexpressible> {
    Ok(match constant {
        Const::Bool(value) => RestrictedExpression::new_bool(*value),
        Const::Long(value) => RestrictedExpression::new_long(*value),
        Const::Text(value) => text(value),
        Const::Entity(EntityRef::Known(number)) => {
            RestrictedExpression::new_entity_uid(uid_of(*number)?)
        }
        Const::Entity(_) => return Err(Inexpressible::because("an entity of a call")),
        Const::Decimal(value) => RestrictedExpression::new_decimal(decimal(*value)),
        Const::Ip(net) => RestrictedExpression::new_ip(net.to_string()),
        Const::Datetime(ms) if (0..=LAST_MILLISECOND).contains(ms) => {
            RestrictedExpression::new_datetime(calendar::format(*ms))
        }
        Const::Datetime(_) => return Err(Inexpressible::because("a time before 1970")),
        Const::Duration(ms) => RestrictedExpression::new_duration(format!("{ms}ms")),
        Const::Set(members) => {
            let members = members.iter().map(|member| expression(member, uid_of));
            RestrictedExpression::new_set(members.collect::<Result<Vec<_>, _>>()?)
        }
        Const::Record(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| Ok((name.to_string(), expression(value, uid_of)?)));
            record(fields.collect::<Result<_, Inexpressible>>()?)?
        }
    })
}

fn decimal(ten_thousandths: i64) -> String {
    let sign = if ten_thousandths < 0 { "-" } else { "" };
    let absolute = ten_thousandths.unsigned_abs();
    format!("{sign}{}.{:04}", absolute / 10_000, absolute % 10_000)
}

fn tls_record(tls: &Tls<'_>) -> Result<RestrictedExpression, Inexpressible> {
    record(Attributes::from([
        pair("version", text(tls.version)),
        pair("key_exchange", text(tls.key_exchange)),
        pair(
            "post_quantum",
            RestrictedExpression::new_bool(tls.post_quantum),
        ),
    ]))
}

fn signals(values: &SignalValues) -> Result<RestrictedExpression, Inexpressible> {
    let (mut fields, mut of_endpoint) = (Attributes::new(), Attributes::new());
    for signal in Signal::ALL {
        let value = values.value(signal);
        let value = match signal.kind() {
            Kind::Long => RestrictedExpression::new_long(value),
            Kind::Bool => RestrictedExpression::new_bool(value != 0),
            Kind::Level => text(values.risk().as_str()),
        };
        match signal.name().strip_prefix("endpoint.") {
            Some(name) => of_endpoint.extend([pair(name, value)]),
            None => fields.extend([pair(signal.name(), value)]),
        }
    }
    fields.extend([pair("endpoint", record(of_endpoint)?)]);
    record(fields)
}

fn uid(type_name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

fn pair(name: &str, value: RestrictedExpression) -> (String, RestrictedExpression) {
    (name.to_owned(), value)
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn record(fields: Attributes) -> Result<RestrictedExpression, Inexpressible> {
    RestrictedExpression::new_record(fields).map_err(Inexpressible::because)
}

fn entity(
    uid: EntityUid,
    attributes: Attributes,
    parents: HashSet<EntityUid>,
) -> Result<Entity, Inexpressible> {
    Entity::new(uid, attributes, parents).map_err(Inexpressible::because)
}

/// All entities of a call: those of the snapshot, and its own.
pub(crate) fn with_entities(
    snapshot: &Entities,
    own: Vec<Entity>,
) -> Result<Entities, Inexpressible> {
    snapshot
        .clone()
        .upsert_entities(own, None)
        .map_err(Inexpressible::because)
}
