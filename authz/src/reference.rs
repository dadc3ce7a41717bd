//! Facts as Cedar's own requests, entities and contexts. Slow, and what everything else here
//! is measured against: the compiled engine must answer as Cedar answers to this.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context as CedarContext, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression,
};

use crate::{
    action::Family,
    calendar,
    facts::{Facts, Headers, Principal, Tls},
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
    headers: Vec<String>,
}

impl Translator {
    pub(crate) fn new(headers: Vec<String>) -> Result<Self, Inexpressible> {
        let name = |name: &str| name.parse().map_err(Inexpressible::because);
        Ok(Self {
            action: name("Action")?,
            anonymous: name("Anonymous")?,
            endpoint: name("Endpoint")?,
            port: name("Port")?,
            service: name("Service")?,
            spiffe_path: name("SpiffePath")?,
            workload: name("Workload")?,
            headers,
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
    pub(crate) fn entities(&self, facts: &Facts<'_>) -> Result<Vec<Entity>, Inexpressible> {
        let mut entities = self.principal_entities(facts)?;
        entities.extend(self.resource_entities(facts)?);
        Ok(entities)
    }

    fn principal(&self, facts: &Facts<'_>) -> EntityUid {
        match facts.principal {
            Principal::Workload(id) => uid(&self.workload, id.as_str()),
            Principal::Anonymous => uid(&self.anonymous, "anonymous"),
        }
    }

    fn principal_entities(&self, facts: &Facts<'_>) -> Result<Vec<Entity>, Inexpressible> {
        let Principal::Workload(id) = facts.principal else {
            let parents = HashSet::new();
            return Ok(vec![Entity::new_no_attrs(self.principal(facts), parents)]);
        };
        let mut entities = Vec::new();
        let mut parents = HashSet::new();
        for prefix in id.prefixes() {
            let path = uid(&self.spiffe_path, prefix);
            entities.push(Entity::new_no_attrs(path.clone(), parents.clone()));
            parents.insert(path);
        }
        let attributes = Attributes::from([
            pair("trust_domain", text(id.trust_domain().as_str())),
            pair("path", text(id.path())),
        ]);
        entities.push(entity(self.principal(facts), attributes, parents)?);
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

    fn resource_entities(&self, facts: &Facts<'_>) -> Result<Vec<Entity>, Inexpressible> {
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
        Ok(vec![
            entity(
                self.resource(facts)?,
                attributes,
                HashSet::from([service.clone()]),
            )?,
            Entity::new_no_attrs(service, HashSet::new()),
        ])
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
            pair("source_ip", ip(context.source_ip)),
            pair("claims", record(Attributes::new())?),
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
            fields.insert(name.clone(), RestrictedExpression::new_set(values));
        }
        record(fields)
    }
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

/// Cedar refuses IPv6 addresses that are written with an IPv4 tail, as std writes mapped ones.
fn ip(address: std::net::IpAddr) -> RestrictedExpression {
    match address {
        std::net::IpAddr::V4(address) => RestrictedExpression::new_ip(address.to_string()),
        std::net::IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:x}"));
            RestrictedExpression::new_ip(groups.join(":"))
        }
    }
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
