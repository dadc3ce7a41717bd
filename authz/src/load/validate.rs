//! Strict validation against the schema. What Cedar only warns of counts as well: a policy that
//! can never apply, or whose text deceives the eye, protects nothing, and a warning would scroll
//! away.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use crate::{problem::Problem, stack};

use super::{
    Origin, Parsed,
    environments::{Actions, Environments},
    words,
};

/// Fewer policies than this are not worth a narrower schema.
const WORTH_NARROWING: usize = 100;

/// Validates all policies. `text` is what the schema was parsed from.
pub(super) fn validate(parsed: &[Parsed], schema: Schema, text: &str) -> Vec<Problem> {
    validate_narrowly(parsed, schema, text, WORTH_NARROWING)
}

/// Makes a narrower schema wherever it serves so many policies.
fn validate_narrowly(
    parsed: &[Parsed],
    schema: Schema,
    text: &str,
    worth_narrowing: usize,
) -> Vec<Problem> {
    let mut validators = vec![Validator::new(schema)];
    let assigned = assign(parsed, text, worth_narrowing, &mut validators);
    let found = stack::deep_parts(&assigned, |_, part| validate_part(part, &validators));
    found.into_iter().flatten().collect()
}

/// A policy and the place of the validator that is to check it.
type Assigned<'a> = (&'a Parsed, usize);

/// The first validator, of the whole schema, is for all for which there is none narrower.
fn assign<'a>(
    parsed: &'a [Parsed],
    text: &str,
    worth_narrowing: usize,
    validators: &mut Vec<Validator>,
) -> Vec<Assigned<'a>> {
    let environments = match parsed.len() < worth_narrowing {
        true => None,
        false => Environments::new(text),
    };
    let Some(environments) = environments else {
        return parsed.iter().map(|policy| (policy, 0)).collect();
    };
    let actions = |policy: &Parsed| environments.of(&policy.policy, policy.tree.as_ref()?);
    let actions: Vec<Option<Actions>> = parsed.iter().map(actions).collect();
    let mut counts: HashMap<Actions, usize> = HashMap::new();
    for actions in actions.iter().flatten() {
        *counts.entry(*actions).or_default() += 1;
    }
    let mut narrower: HashMap<Actions, usize> = HashMap::new();
    for (actions, count) in counts {
        if count < worth_narrowing {
            continue;
        }
        if let Some(schema) = environments.narrowed(actions) {
            narrower.insert(actions, validators.len());
            validators.push(Validator::new(schema));
        }
    }
    let place = |actions: Option<Actions>| narrower.get(&actions?).copied();
    let places = actions
        .into_iter()
        .map(|actions| place(actions).unwrap_or(0));
    parsed.iter().zip(places).collect()
}

/// Validates some policies, each under its place among them.
fn validate_part(part: &[Assigned<'_>], validators: &[Validator]) -> Vec<Problem> {
    let mut found: BTreeMap<usize, Vec<Problem>> = BTreeMap::new();
    let mut report = |id: &PolicyId, diagnostic: &dyn Diagnostic| {
        let number: Option<usize> = AsRef::<str>::as_ref(id).parse().ok();
        if let Some((number, (policy, _))) = number.and_then(|n| Some((n, part.get(n)?))) {
            let Origin { source, span } = &policy.origin;
            let problem = words::problem(source, span, policy.base, diagnostic);
            found.entry(number).or_default().push(problem);
        }
    };
    for (place, validator) in validators.iter().enumerate() {
        let mut set = PolicySet::new();
        for (number, (policy, assigned)) in part.iter().enumerate() {
            let id = PolicyId::new(number.to_string());
            if *assigned == place
                && let Err(error) = set.add(policy.policy.new_id(id.clone()))
            {
                report(&id, &error);
            }
        }
        let result = validator.validate(&set, ValidationMode::Strict);
        for error in result.validation_errors() {
            report(error.policy_id(), error);
        }
        for warning in result.validation_warnings() {
            report(warning.policy_id(), warning);
        }
    }
    found.into_values().flat_map(words::settle).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{problem::Source, schema};

    const SCOPES: [&str; 14] = [
        "principal, action, resource",
        "principal, action, resource is Endpoint",
        "principal is Anonymous, action, resource is Port",
        "principal is Anonymous, action == Action::\"grpc:call\", resource",
        "principal, action == Action::\"tcp:connect\", resource",
        "principal, action == Action::\"http:read\", resource",
        "principal, action == Action::\"http:gett\", resource",
        "principal, action == Other::Action::\"http:get\", resource",
        "principal, action in Action::\"http:read\", resource in Service::\"a\"",
        "principal, action in Action::\"http:write\", resource is Port",
        "principal in SpiffePath::\"spiffe://a\", action in [Action::\"http:get\", Action::\"tcp:connect\"], resource",
        "principal == Port::\"1\", action in [Action::\"http:read\", Action::\"grpc:call\"], resource",
        "principal in SpiffePaht::\"a\", action in [Action::\"http:read\", Action::\"grpc:cal\"], resource",
        "principal, action in [], resource == Endpoint::\"*\"",
    ];

    const CONDITIONS: [&str; 26] = [
        "true",
        "false",
        "resource.path like \"/a/*\" && context.direction == \"inbound\"",
        "resource.path",
        "resource.pth == \"a\"",
        "resource.port == \"a\"",
        "principal.path == \"a\"",
        "principal is Workload && principal.path == 1",
        "context.query == \"a\"",
        "context has query && context.query == \"a\"",
        "context.rpc.service == \"a\"",
        "context has rpc.service && context.rpc.service == \"a\"",
        "context.method == \"GET\" || context.headers.accept.contains(\"a\")",
        "context.headers.acept.contains(\"a\")",
        "context.tls.version == \"1.3\"",
        "context.claims.level > 3",
        "action == Action::\"http:get\"",
        "action == Action::\"http:get\" && context.rpc.service == \"a\"",
        "action in Action::\"http:read\" && resource.pth == \"a\"",
        "[action].contains(Action::\"http:put\") && context.metod == \"a\"",
        "action in [Action::\"http:read\", Action::\"tcp:connect\"] || resource.path == \"a\"",
        "Action::\"http:get\" in Action::\"http:read\" && context.metod == \"a\"",
        "if action == Action::\"tcp:connect\" then resource.host == \"a\" else resource.path == 1",
        "{a: action}.a == Action::\"http:trace\"",
        "principal == resource",
        "resource.host == \"\u{430}pple\"",
    ];

    /// Each policy from a file of its own, named after its place.
    fn parsed(policies: &[String]) -> Vec<Parsed> {
        let mut problems = Vec::new();
        let files = policies.iter().enumerate();
        let sources: Vec<_> = files
            .map(|(number, text)| Source::new(&number.to_string(), text))
            .collect();
        let parsed = super::super::parse_all(&sources, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        parsed
    }

    fn told(policies: &[Parsed], worth_narrowing: usize) -> Vec<String> {
        let text = schema::built_in();
        let schema = schema::parse(&text).unwrap();
        let problems = validate_narrowly(policies, schema, &text, worth_narrowing);
        let told = |problem: Problem| format!("{problem} {:?}", problem.help_text());
        problems.into_iter().map(told).collect()
    }

    #[test]
    fn a_narrower_schema_finds_what_the_whole_one_finds() {
        let mut policies = Vec::new();
        for scope in SCOPES {
            for condition in CONDITIONS {
                for kind in ["when", "unless"] {
                    policies.push(format!("permit ({scope}) {kind} {{ {condition} }};"));
                }
            }
        }
        let parsed = parsed(&policies);
        let whole = told(&parsed, usize::MAX);
        let narrow = told(&parsed, 1);
        for (whole, narrow) in whole.iter().zip(&narrow) {
            assert_eq!(whole, narrow);
        }
        assert_eq!(whole.len(), narrow.len());
        let refused: BTreeSet<_> = whole.iter().map(|told| told.split(':').next()).collect();
        let accepted = policies.len() - refused.len();
        assert!(accepted > 50 && refused.len() > 50, "{accepted} accepted");
    }

    #[test]
    fn a_policy_is_checked_once_for_actions_that_are_alike() {
        let environments = Environments::new(&schema::built_in()).unwrap();
        let count = |text: &str| {
            let policy = parsed(&[text.to_owned()]).remove(0);
            let actions = environments.of(&policy.policy, policy.tree.as_ref().unwrap());
            let schema = actions.and_then(|actions| environments.narrowed(actions));
            schema.map(|schema| schema.request_envs().count())
        };
        let read = "permit (principal, action in Action::\"http:read\", resource)";
        for (text, environments) in [
            ("permit (principal, action, resource);".to_owned(), Some(6)),
            (format!("{read};"), Some(2)),
            (
                format!("{read} when {{ resource.path == \"a\" }};"),
                Some(2),
            ),
            (format!("{read} when {{ [action].isEmpty() }};"), Some(6)),
            (read.replace("read", "raed") + ";", None),
        ] {
            assert_eq!(count(&text), environments, "{text}");
        }
    }
}
