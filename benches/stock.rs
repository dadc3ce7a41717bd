//! The stock Cedar evaluator on the same calls, with the entities and context of each call built
//! for that call, as its documentation shows: what the compiled engine is measured against.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};

use crate::rules::{self, Call, Rule};

/// `cedar_policy::Authorizer`.
pub struct Stock {
    policies: PolicySet,
    types: HashMap<&'static str, EntityTypeName>,
}

impl Stock {
    /// # Panics
    /// When the rules are no policies.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let names = ["Action", "Workload", "SpiffePath", "Service", "Endpoint"];
        let types = names.map(|name| (name, name.parse().expect("a type name")));
        Self {
            policies: rules::cedar(rules).parse().expect("policies"),
            types: types.into(),
        }
    }

    fn uid(&self, type_name: &str, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.types[type_name].clone(), EntityId::new(id))
    }

    /// The principal with its prefixes, the resource with its service, the action with its
    /// group.
    fn entities(&self, call: &Call, uids: &[EntityUid; 3]) -> Entities {
        let [principal, action, resource] = uids.clone();
        let mut entities = Vec::with_capacity(8);
        let mut paths = HashSet::new();
        for prefix in call.principal.prefixes() {
            let path = self.uid("SpiffePath", prefix);
            entities.push(Entity::new_no_attrs(path.clone(), paths.clone()));
            paths.insert(path);
        }
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let id = &call.principal;
        let workload = HashMap::from([
            ("trust_domain".to_owned(), text(id.trust_domain().as_str())),
            ("path".to_owned(), text(id.path())),
        ]);
        entities.push(Entity::new(principal, workload, paths).expect("a workload"));
        let service = self.uid("Service", &call.service);
        let endpoint = HashMap::from([
            ("host".to_owned(), text("orders.shop.example")),
            ("path".to_owned(), text(&call.path)),
            ("port".to_owned(), RestrictedExpression::new_long(443)),
            (
                "documented".to_owned(),
                RestrictedExpression::new_bool(false),
            ),
        ]);
        let parents = HashSet::from([service.clone()]);
        entities.push(Entity::new(resource, endpoint, parents).expect("an endpoint"));
        entities.push(Entity::new_no_attrs(service, HashSet::new()));
        let group = if call.method == "GET" {
            "http:read"
        } else {
            "http:write"
        };
        let group = self.uid("Action", group);
        entities.push(Entity::new_no_attrs(action, HashSet::from([group.clone()])));
        entities.push(Entity::new_no_attrs(group, HashSet::new()));
        Entities::from_entities(entities, None).expect("entities")
    }

    fn context(call: &Call) -> Context {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let accept = RestrictedExpression::new_set([text("*/*")]);
        let headers = RestrictedExpression::new_record([("accept".to_owned(), accept)]);
        let tls = RestrictedExpression::new_record([
            ("version".to_owned(), text("1.3")),
            ("key_exchange".to_owned(), text("X25519MLKEM768")),
            (
                "post_quantum".to_owned(),
                RestrictedExpression::new_bool(true),
            ),
        ]);
        Context::from_pairs([
            ("direction".to_owned(), text("inbound")),
            ("method".to_owned(), text(call.method)),
            (
                "time".to_owned(),
                RestrictedExpression::new_datetime("2026-11-22T18:00:00.000Z"),
            ),
            (
                "source_ip".to_owned(),
                RestrictedExpression::new_ip("10.0.0.7"),
            ),
            ("headers".to_owned(), headers.expect("headers")),
            ("tls".to_owned(), tls.expect("tls")),
        ])
        .expect("a context")
    }
}

impl Stock {
    /// Whether it allows a call.
    ///
    /// # Panics
    /// When the call cannot be put to it.
    #[must_use]
    pub fn allows(&self, call: &Call) -> bool {
        let action = if call.method == "GET" {
            "http:get"
        } else {
            "http:post"
        };
        let uids = [
            self.uid("Workload", call.principal.as_str()),
            self.uid("Action", action),
            self.uid("Endpoint", "*"),
        ];
        let entities = self.entities(call, &uids);
        let [principal, action, resource] = uids;
        let request = Request::new(principal, action, resource, Self::context(call), None);
        let request = request.expect("a request");
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        response.decision() == cedar_policy::Decision::Allow
    }
}
