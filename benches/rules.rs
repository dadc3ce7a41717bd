//! One set of rules, written for each engine: who may do what to which service, with
//! conditions on the path and a few forbids. Whatever their number, a call meets a handful.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use wayleave_authz::signals::SignalValues;
use wayleave_authz::{
    Action, Context, Direction, Engine, Facts, Inputs, NoClaims, PolicyFile, Principal, Resource,
    Tls,
};

/// One rule.
pub struct Rule {
    number: usize,
    forbids: bool,
    who: Who,
    verb: Verb,
    service: Option<usize>,
    path: String,
}

enum Who {
    Workload { namespace: usize, account: usize },
    Namespace(usize),
    Anybody,
}

#[derive(Clone, Copy)]
enum Verb {
    Read,
    Write,
    Any,
}

/// `count` rules: of ten, seven permit one workload one service, one permits a namespace to
/// ping, one forbids everybody a part of one service, and one forbids a namespace a service's
/// writing. The first ten hold for all sizes, so that every size decides the same calls alike.
#[must_use]
pub fn rules(count: usize) -> Vec<Rule> {
    (0..count)
        .map(|number| {
            let group = number / 10;
            let service = Some(group);
            let namespace = group;
            let (forbids, who, verb, service, path) = match number % 10 {
                kind @ 0..=6 => {
                    let verb = if kind % 3 == 2 {
                        Verb::Write
                    } else {
                        Verb::Read
                    };
                    let who = Who::Workload {
                        namespace,
                        account: kind,
                    };
                    (false, who, verb, service, format!("/api/v{kind}/*"))
                }
                7 => (
                    false,
                    Who::Namespace(namespace),
                    Verb::Read,
                    service,
                    "/ping*".into(),
                ),
                8 => (true, Who::Anybody, Verb::Any, service, "*/secret/*".into()),
                _ => (
                    true,
                    Who::Namespace(namespace),
                    Verb::Write,
                    service,
                    "/frozen/*".into(),
                ),
            };
            Rule {
                number,
                forbids,
                who,
                verb,
                service,
                path,
            }
        })
        .collect()
}

/// One call, as all engines are asked about it.
pub struct Call {
    /// Who calls.
    pub principal: wayleave_identity::SpiffeId,
    /// The HTTP method.
    pub method: &'static str,
    /// What is called.
    pub service: String,
    /// The path, canonical.
    pub path: String,
}

/// Sixty-four calls on the first ten rules: most allowed, some met by no rule, some forbidden.
///
/// # Panics
/// Never: the identities are well-formed.
#[expect(clippy::panic, reason = "the identities are written below")]
#[must_use]
pub fn calls() -> Vec<Call> {
    (0..64)
        .map(|number| {
            let account = number % 8;
            let method = if account % 3 == 2 { "POST" } else { "GET" };
            let path = match number / 8 {
                0 => "/ping".to_owned(),
                1 => format!("/api/v{account}/secret/key"),
                2 => "/frozen/x".to_owned(),
                item => format!("/api/v{account}/orders/{item}/lines"),
            };
            Call {
                principal: spiffe_id(0, account)
                    .parse()
                    .unwrap_or_else(|error| panic!("{error}")),
                method,
                service: service_name(0),
                path,
            }
        })
        .collect()
}

const HEADERS: &[(&str, &str)] = &[("accept", "*/*"), ("user-agent", "bench/1.0")];

impl Call {
    /// What the compiled engine is told of it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            principal: Principal::Workload(&self.principal),
            action: Action::from_http_method(self.method),
            resource: Resource {
                service: &self.service,
                host: "orders.shop.example",
                path: &self.path,
                template: None,
                port: 443,
                documented: false,
            },
            context: Context {
                direction: Direction::Inbound,
                time: UNIX_EPOCH + Duration::from_secs(1_795_370_096),
                source_ip: IpAddr::from([10, 0, 0, 7]),
                tls: Some(Tls {
                    version: "1.3",
                    key_exchange: "X25519MLKEM768",
                    post_quantum: true,
                }),
                method: Some(self.method),
                query: None,
                headers: &HEADERS,
                claims: &NoClaims,
                rpc: None,
                signals: &SignalValues::NONE,
            },
        }
    }
}

/// The compiled engine with so many rules.
///
/// # Panics
/// When the rules are no policies.
#[expect(
    clippy::panic,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]
#[must_use]
pub fn engine(size: usize) -> Engine {
    let inputs = Inputs {
        policies: vec![PolicyFile {
            name: "rules.cedar".to_owned(),
            text: cedar(&rules(size)),
        }],
    };
    Engine::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"))
}

fn spiffe_id(namespace: usize, account: usize) -> String {
    format!("spiffe://shop.example/ns/team-{namespace}/sa/worker-{account}")
}

fn service_name(number: usize) -> String {
    format!("service-{number}")
}

/// As policies in Cedar.
#[must_use]
pub fn cedar(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let effect = if rule.forbids { "forbid" } else { "permit" };
        let principal = match rule.who {
            Who::Workload { namespace, account } => {
                format!(
                    "principal == Workload::\"{}\"",
                    spiffe_id(namespace, account)
                )
            }
            Who::Namespace(namespace) => {
                format!("principal in SpiffePath::\"spiffe://shop.example/ns/team-{namespace}\"")
            }
            Who::Anybody => "principal".to_owned(),
        };
        let action = match rule.verb {
            Verb::Read => "action in Action::\"http:read\"",
            Verb::Write => "action in Action::\"http:write\"",
            Verb::Any => "action in [Action::\"http:read\", Action::\"http:write\"]",
        };
        let resource = rule.service.map_or_else(
            || "resource is Endpoint".to_owned(),
            |service| format!("resource in Service::\"{}\"", service_name(service)),
        );
        let (number, path) = (rule.number, &rule.path);
        let _ = writeln!(
            text,
            "@id(\"rule-{number}\") {effect} ({principal}, {action}, {resource}) when {{ \
             resource.path like \"{path}\" && context.direction == \"inbound\" }};"
        );
    }
    text
}

/// As a package whose `allow` is a permit without a forbid.
#[must_use]
pub fn rego(rules: &[Rule]) -> String {
    let mut text = "package wayleave\n\
                    default allow := false\n\
                    default permitted := false\n\
                    default forbidden := false\n\
                    allow if { permitted; not forbidden }\n"
        .to_owned();
    for rule in rules {
        let head = if rule.forbids {
            "forbidden"
        } else {
            "permitted"
        };
        let who = match rule.who {
            Who::Workload { namespace, account } => {
                format!("input.principal == \"{}\"; ", spiffe_id(namespace, account))
            }
            Who::Namespace(namespace) => format!(
                "startswith(input.principal, \"spiffe://shop.example/ns/team-{namespace}/\"); "
            ),
            Who::Anybody => String::new(),
        };
        let methods = methods(rule.verb);
        let service = rule.service.map_or_else(String::new, |service| {
            format!("input.service == \"{}\"; ", service_name(service))
        });
        let _ = writeln!(
            text,
            "{head} if {{ {who}input.method in {{{methods}}}; {service}{}; \
             input.direction == \"inbound\" }}",
            path_test(&rule.path, |function, text| format!(
                "{function}(input.path, {text})"
            ))
        );
    }
    text
}

/// Each rule as (forbids, expression).
#[must_use]
pub fn cel(rules: &[Rule]) -> Vec<(bool, String)> {
    rules
        .iter()
        .map(|rule| {
            let who = match rule.who {
                Who::Workload { namespace, account } => {
                    format!("principal == \"{}\" && ", spiffe_id(namespace, account))
                }
                Who::Namespace(namespace) => format!(
                    "principal.startsWith(\"spiffe://shop.example/ns/team-{namespace}/\") && "
                ),
                Who::Anybody => String::new(),
            };
            let service = rule.service.map_or_else(String::new, |service| {
                format!("service == \"{}\" && ", service_name(service))
            });
            let path = path_test(&rule.path, |function, text| {
                let method = if function == "contains" {
                    "contains"
                } else {
                    "startsWith"
                };
                format!("path.{method}({text})")
            });
            let methods = methods(rule.verb);
            let expression = format!(
                "{who}method in [{methods}] && {service}{path} && direction == \"inbound\""
            );
            (rule.forbids, expression)
        })
        .collect()
}

fn methods(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "\"GET\", \"HEAD\", \"OPTIONS\"",
        Verb::Write => "\"POST\", \"PUT\", \"PATCH\", \"DELETE\"",
        Verb::Any => "\"GET\", \"HEAD\", \"OPTIONS\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\"",
    }
}

/// `*text*` and `text*` as what the other languages call them.
fn path_test(pattern: &str, write: impl Fn(&str, String) -> String) -> String {
    let text = format!("{:?}", pattern.trim_matches('*'));
    match pattern.starts_with('*') {
        true => write("contains", text),
        false => write("startswith", text),
    }
}
