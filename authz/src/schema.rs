//! The Cedar schema that policies are validated against: the built-in one, with the headers
//! that policies may read.

use std::fmt::Write as _;

use cedar_policy::Schema;

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

/// The built-in schema in Cedar's schema syntax.
#[must_use]
pub fn built_in() -> String {
    let mut text = BUILT_IN.to_owned();
    text.push_str("\n/// Every header is the set of its values; one that was not sent is empty.\n");
    text.push_str("type Headers = {\n");
    for header in HEADERS {
        let _ = writeln!(text, "  {header:?}: Set<String>,");
    }
    text.push_str("};\n\ntype Claims = {};\n");
    text
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
            let groups: Vec<_> = entities
                .ancestors(&uid(action.as_str()))
                .unwrap()
                .cloned()
                .collect();
            let expected: Vec<_> = action.group().map(uid).into_iter().collect();
            assert_eq!(groups, expected, "{action}");
        }
        assert_eq!(schema.actions().count(), Action::ALL.len() + 2);
    }
}
