//! Checks what Cedar's validation cannot: that the entities a policy names can exist at all.
//! A misspelt SPIFFE ID or group would otherwise be a policy that silently never matches.

use std::collections::BTreeSet;

use cedar_policy::{
    EntityUid,
    pst::{BinaryOp, Expr, Literal, Var},
};
use wayleave_identity::SpiffeId;

use crate::{
    action::Action,
    compile::lower::{path, signal_at},
    load::CheckedPolicy,
    problem::{Problem, did_you_mean},
    signals::{RiskLevel, Signal, no_level},
    tree,
};

/// A message and its remedy.
type Mistake = (String, String);

/// Checks all entities that the policies name.
pub(crate) fn check(
    policies: &[CheckedPolicy],
    groups: &BTreeSet<&str>,
    problems: &mut Vec<Problem>,
) {
    for policy in policies {
        let literals: BTreeSet<_> = policy.policy.entity_literals().into_iter().collect();
        for uid in literals {
            if let Err((message, help)) = check_one(&uid, groups) {
                let origin = &policy.origin;
                let span = origin.find(&uid.to_string());
                problems.push(origin.source.problem(span, message).with_help(help));
            }
        }
        for word in unknown_levels(policy) {
            let origin = &policy.origin;
            let span = origin.find(&format!("{word:?}"));
            let help = match did_you_mean(&word, RiskLevel::ALL.map(RiskLevel::as_str)) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => "compare it with one of them: in capitals, as CAEP writes them".to_owned(),
            };
            let problem = origin.source.problem(span, no_level(&word));
            problems.push(problem.with_help(help));
        }
    }
}

/// The words that a policy compares the level of risk with though no level has them.
fn unknown_levels(policy: &CheckedPolicy) -> BTreeSet<String> {
    let mut unknown = BTreeSet::new();
    let clauses = policy.tree.iter().flat_map(|tree| tree.body().clauses());
    for expression in clauses.flat_map(tree::expressions) {
        if let Expr::BinaryOp { op, left, right } = expression {
            let words = match (op, is_risk(left), is_risk(right)) {
                (BinaryOp::Eq | BinaryOp::NotEq, true, _) => words(right),
                (BinaryOp::Eq | BinaryOp::NotEq | BinaryOp::Contains, _, true) => words(left),
                _ => Vec::new(),
            };
            let wrong = words
                .iter()
                .filter(|word| RiskLevel::from_name(word).is_none());
            unknown.extend(wrong.map(|word| (*word).to_owned()));
        }
    }
    unknown
}

fn is_risk(expression: &Expr) -> bool {
    matches!(path(expression), Some((Var::Context, names)) if signal_at(&names) == Some(Signal::Risk))
}

/// The texts that an expression is, or is a set of.
fn words(expression: &Expr) -> Vec<&str> {
    match expression {
        Expr::Literal(Literal::String(word)) => vec![word.as_str()],
        Expr::Set(members) => members.iter().flat_map(|member| words(member)).collect(),
        _ => Vec::new(),
    }
}

fn check_one(uid: &EntityUid, groups: &BTreeSet<&str>) -> Result<(), Mistake> {
    let id = uid.id().unescaped();
    match uid.type_name().to_string().as_str() {
        "Workload" => check_workload(id),
        "SpiffePath" => check_path(id),
        "Group" => check_group(id, groups),
        "Endpoint" => check_endpoint(id),
        "Port" => check_port(id),
        "Anonymous" if id != "anonymous" => Err((
            format!("there is no anonymous peer called `{id}`"),
            "write `Anonymous::\"anonymous\"`, or `principal is Anonymous`".to_owned(),
        )),
        "Service" if id.is_empty() => Err((
            "a service has a name".to_owned(),
            "write the name of the service that the listener's config gives".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn check_workload(id: &str) -> Result<(), Mistake> {
    let parsed = check_spiffe(id, "a SPIFFE ID")?;
    if parsed.is_root() {
        return Err((
            format!("`{id}` names a trust domain, not a workload"),
            format!("for all of its workloads write `principal in SpiffePath::\"{id}\"`"),
        ));
    }
    Ok(())
}

fn check_path(id: &str) -> Result<(), Mistake> {
    check_spiffe(id, "a SPIFFE ID or the start of one")?;
    Ok(())
}

/// Parses it, and insists on the canonical writing: policies compare ids as text.
fn check_spiffe(id: &str, what: &str) -> Result<SpiffeId, Mistake> {
    let parsed: SpiffeId = id.parse().map_err(|error| {
        (
            format!("`{id}` is not {what}: {error}"),
            "write `spiffe://trust-domain/path`".to_owned(),
        )
    })?;
    if parsed.as_str() != id {
        return Err((
            format!("`{id}` is not written in the canonical way"),
            format!("write `{parsed}`"),
        ));
    }
    Ok(parsed)
}

fn check_group(id: &str, groups: &BTreeSet<&str>) -> Result<(), Mistake> {
    if groups.contains(id) {
        return Ok(());
    }
    let help = match did_you_mean(id, groups.iter().copied()) {
        Some(meant) => format!("did you mean `Group::\"{meant}\"`?"),
        None => "define it under `groups:` in an entities file".to_owned(),
    };
    Err((format!("no group is called `{id}`"), help))
}

fn check_endpoint(id: &str) -> Result<(), Mistake> {
    let is_endpoint = id == "*"
        || id.split_once(' ').is_some_and(|(method, template)| {
            template.starts_with('/') && Action::from_http_method(method).as_str() != "http:other"
        });
    if is_endpoint {
        return Ok(());
    }
    Err((
        format!("`{id}` is not an endpoint"),
        "write `METHOD /template`, such as `GET /orders/{id}`, or `*`; a path is \
         `resource.path`"
            .to_owned(),
    ))
}

fn check_port(id: &str) -> Result<(), Mistake> {
    match id.parse::<u16>() {
        Ok(port) if port.to_string() == id => Ok(()),
        _ => Err((
            format!("`{id}` is not a port"),
            "write a number from 0 to 65535".to_owned(),
        )),
    }
}
