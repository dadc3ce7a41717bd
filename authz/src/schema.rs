//! The Cedar schema that policies are validated against: the built-in one, with the headers
//! that policies may read.

use std::fmt::Write as _;

use cedar_policy::Schema;

use crate::compile::fact::Declared;

/// Everything of the schema that does not depend on configuration.
const BUILT_IN: &str = include_str!("schema.cedarschema");

/// The headers that policies can read without declaring them.
pub(crate) const HEADERS: [&str; 9] = [
    "accept",
    "authorization",
    "content-length",
    "content-type",
    "origin",
    "referer",
    "traceparent",
    "user-agent",
    "x-request-id",
];

/// The types that the built-in schema declares, which an extension may not declare again.
pub(crate) const NAMES: [&str; 16] = [
    "Anonymous",
    "Claims",
    "Endpoint",
    "EndpointSignals",
    "Group",
    "GrpcContext",
    "Headers",
    "HttpContext",
    "Port",
    "Rpc",
    "Service",
    "Signals",
    "SpiffePath",
    "TcpContext",
    "Tls",
    "Workload",
];

/// What entities files add to the built-in schema.
#[derive(Debug)]
pub(crate) struct Extension {
    /// The built-in headers and the user's own, and the claims.
    pub(crate) declared: Declared,
    /// Entity types in Cedar's schema syntax.
    pub(crate) types: String,
}

impl Extension {
    /// The whole schema in Cedar's schema syntax.
    pub(crate) fn text(&self) -> String {
        let mut text = BUILT_IN.to_owned();
        text.push_str(
            "\n/// Every header is the set of its values; one that was not sent is empty.\n",
        );
        text.push_str("type Headers = {\n");
        for header in &self.declared.headers {
            let _ = writeln!(text, "  {header:?}: Set<String>,");
        }
        text.push_str("};\n\n/// The claims of a verified token.\ntype Claims = {\n");
        for (claim, of_type) in &self.declared.claims {
            let _ = writeln!(text, "  {claim:?}?: {},", of_type.as_str());
        }
        text.push_str("};\n");
        text.push_str(&self.types);
        text
    }
}

/// The built-in schema in Cedar's schema syntax.
#[must_use]
pub fn built_in() -> String {
    let declared = Declared {
        headers: HEADERS.map(Box::from).to_vec(),
        claims: Vec::new(),
    };
    let types = String::new();
    Extension { declared, types }.text()
}

/// The parsed schema.
pub(crate) fn parse(text: &str) -> Result<Schema, String> {
    let (schema, _warnings) = Schema::from_cedarschema_str(text).map_err(|e| e.to_string())?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;

    #[test]
    fn the_schema_knows_every_action_in_its_group() {
        let schema = parse(&built_in()).unwrap();
        let entities = schema.action_entities().unwrap();
        let uid = |name: &str| format!("Action::{name:?}").parse().unwrap();
        for action in Action::ALL {
            let groups: std::collections::BTreeSet<_> = entities
                .ancestors(&uid(action.as_str()))
                .unwrap()
                .cloned()
                .collect();
            let expected = action.groups().map(uid).collect();
            assert_eq!(groups, expected, "{action}");
        }
        assert_eq!(schema.actions().count(), Action::ALL.len() + 2);
    }

    #[test]
    fn all_types_of_the_schema_are_listed() {
        let text = built_in();
        let declared: std::collections::BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("entity ").or(line.strip_prefix("type ")))
            .filter_map(|rest| rest.split([' ', ';']).next())
            .collect();
        assert_eq!(declared, NAMES.into());
    }
}
