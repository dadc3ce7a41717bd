//! Policies, entities and calls made from a list of choices, so that a property test can
//! shrink them and a fuzzer can steer them. What is made is mostly valid; the rest is for the
//! loader to refuse.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use wayleave_authz::{Action, ClaimValue, signals::Signal};

use super::Call;

/// A source of choices; when it runs dry it always takes the first.
pub(crate) struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % end
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == one_in - 1
    }
}

const WORKLOADS: [&str; 5] = [
    "spiffe://shop.example/ns/web/sa/cart",
    "spiffe://shop.example/ns/web/sa/robot",
    "spiffe://shop.example/ns/agents/sa/scout",
    "spiffe://shop.example/ns/agents",
    "spiffe://other.example/ns/web/sa/cart",
];

const PATHS: [&str; 5] = [
    "spiffe://shop.example",
    "spiffe://shop.example/ns/web",
    "spiffe://shop.example/ns/agents",
    "spiffe://shop.example/ns/web/sa/cart",
    "spiffe://other.example",
];

const GROUPS: [&str; 4] = ["agents", "machines", "storefront", "empty"];
const SERVICES: [&str; 3] = ["orders", "cart", "pay"];
const ENDPOINTS: [&str; 3] = ["*", "GET /orders/{id}", "POST /orders/{id}"];
const TEXTS: [&str; 8] = [
    "/orders/7",
    "/orders/",
    "inbound",
    "GET",
    "a",
    "",
    "é*b\\\\",
    "orders.shop.example",
];
const PATTERNS: [&str; 8] = [
    "*",
    "/orders/*",
    "*7",
    "/*/*",
    "a*b*",
    "*.example",
    "",
    "\\*é*",
];
const LONGS: [&str; 6] = ["0", "443", "1", "9223372036854775807", "-1", "7"];
const METHODS: [&str; 6] = ["GET", "POST", "HEAD", "DELETE", "BREW", "get"];
const IPS: [&str; 6] = [
    "10.0.0.7",
    "10.0.0.0/8",
    "127.0.0.1",
    "::1",
    "2001:db8::/32",
    "224.0.0.0/4",
];
const TIMES: [&str; 4] = [
    "2026-11-22",
    "2026-11-22T17:54:56Z",
    "1970-01-01",
    "1969-12-31T23:00:00Z",
];
const DURATIONS: [&str; 4] = ["1h", "-1d2h", "0ms", "17h54m56s789ms"];
const DECIMALS: [&str; 3] = ["1.5", "-0.0001", "0.0"];

/// The entities that generated policies speak of.
pub(crate) const ENTITIES: &str = r#"
schema:
  headers: [x-tenant]
  claims: { tenant: String, level: Long, admin: Bool, scopes: "Set<String>" }
  types: |
    entity Region in [Region] { open: Bool, limit?: Long, names: Set<String>, home: Region };
    entity Tagged tags String;
groups:
  agents: [spiffe://shop.example/ns/agents, spiffe://shop.example/ns/web/sa/robot]
  machines: ['Group::"agents"', spiffe://other.example]
  storefront: ['Service::"orders"', 'Service::"cart"']
  empty: []
entities:
  - uid: { type: Region, id: eu }
    attrs: { open: true, limit: 7, names: [a, /orders/7], home: { type: Region, id: world } }
    parents: [{ type: Region, id: world }]
  - uid: { type: Region, id: world }
    attrs: { open: false, names: [], home: { type: Region, id: eu } }
    parents: []
"#;

/// Policies, one on each line.
pub(crate) fn policies(choices: &mut Choices<'_>) -> String {
    let count = 1 + choices.below(12);
    (0..count)
        .map(|number| policy(choices, number) + "\n")
        .collect()
}

pub(crate) fn policy(choices: &mut Choices<'_>, number: usize) -> String {
    let effect = choices.one(&["permit", "permit", "forbid"]);
    let mode = if choices.chance(8) {
        "@mode(\"audit\") "
    } else {
        ""
    };
    let scope = scope(choices);
    let mut text = format!("@id(\"p{number}\") {mode}{effect} ({scope})");
    for _ in 0..choices.below(3) {
        let clause = choices.one(&["when", "when", "unless"]);
        let condition = boolean(choices, 3);
        text.push_str(&format!(" {clause} {{ {condition} }}"));
    }
    text + ";"
}

fn scope(choices: &mut Choices<'_>) -> String {
    let workload = choices.one(&WORKLOADS);
    let path = choices.one(&PATHS);
    let group = choices.one(&GROUPS);
    let principal = choices.one(&[
        "principal".to_owned(),
        "principal".to_owned(),
        "principal".to_owned(),
        format!("principal in SpiffePath::\"{path}\""),
        format!("principal in Group::\"{group}\""),
        format!("principal == Workload::\"{workload}\""),
        format!("principal in Workload::\"{workload}\""),
        format!("principal is Workload in SpiffePath::\"{path}\""),
        "principal is Workload".to_owned(),
        "principal is Anonymous".to_owned(),
    ]);
    let service = choices.one(&SERVICES);
    let endpoint = choices.one(&ENDPOINTS);
    let resource = choices.one(&[
        "resource is Endpoint".to_owned(),
        "resource is Endpoint".to_owned(),
        "resource".to_owned(),
        format!("resource in Service::\"{service}\""),
        format!("resource is Endpoint in Service::\"{service}\""),
        "resource in Group::\"storefront\"".to_owned(),
        format!("resource == Endpoint::\"{endpoint}\""),
        "resource is Endpoint in Group::\"storefront\"".to_owned(),
        "resource == Port::\"443\"".to_owned(),
    ]);
    format!("{principal}, {}, {resource}", action_scope(choices))
}

fn action_scope(choices: &mut Choices<'_>) -> &'static str {
    choices.one(&[
        "action",
        "action",
        "action in Action::\"http:read\"",
        "action in [Action::\"http:read\", Action::\"http:write\"]",
        "action in Action::\"http:post\"",
        "action in Action::\"http:write\"",
        "action in Action::\"grpc:call\"",
        "action == Action::\"http:get\"",
        "action == Action::\"http:other\"",
        "action == Action::\"grpc:call\"",
        "action == Action::\"tcp:connect\"",
    ])
}

fn boolean(choices: &mut Choices<'_>, depth: usize) -> String {
    if depth == 0 {
        return leaf(choices);
    }
    let smaller = depth - 1;
    match choices.below(7) {
        0 => leaf(choices),
        1 => format!(
            "({} && {})",
            boolean(choices, smaller),
            boolean(choices, smaller)
        ),
        2 => format!(
            "({} || {})",
            boolean(choices, smaller),
            boolean(choices, smaller)
        ),
        3 => format!("!({})", boolean(choices, smaller)),
        4 => format!(
            "(if {} then {} else {})",
            boolean(choices, smaller),
            boolean(choices, smaller),
            boolean(choices, smaller)
        ),
        5 => format!("{} == {}", text(choices, smaller), text(choices, smaller)),
        _ => comparison(choices, smaller),
    }
}

fn comparison(choices: &mut Choices<'_>, depth: usize) -> String {
    let operator = choices.one(&["<", "<=", ">", ">=", "==", "!="]);
    let (left, right) = match choices.below(3) {
        0 => (long(choices, depth), long(choices, depth)),
        1 => (time(choices, depth), time(choices, depth)),
        _ => (duration(choices, depth), duration(choices, depth)),
    };
    format!("{left} {operator} {right}")
}

/// A question about a signal.
fn signal(choices: &mut Choices<'_>) -> String {
    let number = choices.below(4);
    let signal = choices.one(&Signal::ALL);
    let name = format!("context.signals.{}", signal.name());
    match signal {
        Signal::FirstContact | Signal::Stale => name,
        Signal::Risk => {
            let level = choices.one(&["NONE", "LOW", "MEDIUM", "HIGH"]);
            choices.one(&[
                format!("{name} == \"{level}\""),
                format!("[\"{level}\", \"LOW\"].contains({name})"),
                format!("{name} like \"*{level}*\""),
                format!("[{name}, resource.host].contains(\"{level}\")"),
            ])
        }
        _ => choices.one(&[
            format!("{name} > {}", number),
            format!("{} <= {name}", number),
            format!("{name} == {}", number),
            format!("[1, 3].contains({name})"),
            format!("{{a: {name}}}.a > {number}"),
            format!("{name} * 9223372036854775807 > {number}"),
            "context has signals.endpoint.calls_per_hour".to_owned(),
            "context.signals has endpoint".to_owned(),
            "context.signals.endpoint has risk".to_owned(),
        ]),
    }
}

fn leaf(choices: &mut Choices<'_>) -> String {
    match choices.below(21) {
        18 | 19 => signal(choices),
        16 | 20 => "resource.port * 9223372036854775807 > 0".to_owned(),
        17 => "Region::\"nowhere\".open".to_owned(),
        0 => format!("{} like \"{}\"", text(choices, 0), choices.one(&PATTERNS)),
        1 => format!("{} in {}", entity(choices), entity(choices)),
        2 => {
            let (one, other) = (choices.one(&GROUPS), choices.one(&GROUPS));
            let who = choices.one(&["principal", "resource", "Region::\"eu\""]);
            choices.one(&[
                format!("{who} in [Group::\"{one}\", Group::\"{other}\"]"),
                format!("{who} in [Region::\"world\".home, Region::\"world\"]"),
            ])
        }
        3 => choices
            .one(&[
                "principal is Workload",
                "principal is Anonymous",
                "principal is Workload in Group::\"machines\"",
                "resource is Endpoint",
                "action == Action::\"http:get\"",
                "action in Action::\"http:read\"",
            ])
            .to_owned(),
        4 => {
            let method = choices.one(&["contains", "contains"]);
            format!("{}.{method}({})", set(choices), text(choices, 1))
        }
        5 => {
            let method = choices.one(&["containsAll", "containsAny"]);
            format!("{}.{method}({})", set(choices), set(choices))
        }
        6 => format!("{}.isEmpty()", set(choices)),
        7 => format!("{} == {}", set(choices), set(choices)),
        8 => format!("{}.isInRange({})", ip(choices), ip(choices)),
        9 => {
            let test = choices.one(&["isIpv4", "isIpv6", "isLoopback", "isMulticast"]);
            format!("{}.{test}()", ip(choices))
        }
        10 => guarded(choices),
        11 => {
            let test = choices.one(&[
                "lessThan",
                "lessThanOrEqual",
                "greaterThan",
                "greaterThanOrEqual",
            ]);
            let (left, right) = (choices.one(&DECIMALS), choices.one(&DECIMALS));
            format!("decimal(\"{left}\").{test}(decimal(\"{right}\"))")
        }
        12 => format!("{} == {}", entity(choices), entity(choices)),
        13 => left_to_cedar(choices),
        14 => {
            let other = text(choices, 1);
            format!(
                "[{}, {other}].contains({})",
                text(choices, 1),
                text(choices, 1)
            )
        }
        _ => format!("{} == {}", ip(choices), ip(choices)),
    }
}

/// Attributes that may be absent, behind the question whether they are there.
fn guarded(choices: &mut Choices<'_>) -> String {
    let literal = choices.one(&TEXTS);
    let pattern = choices.one(&PATTERNS);
    let workload = choices.one(&WORKLOADS);
    choices.one(&[
        "context has tls && context.tls.post_quantum".to_owned(),
        format!("context has tls && context.tls.version == \"{literal}\""),
        "context has tls.version".to_owned(),
        format!("context has query && context.query like \"{pattern}\""),
        format!("resource has template && resource.template like \"{pattern}\""),
        "resource has template".to_owned(),
        "context has method".to_owned(),
        "context has rpc.service".to_owned(),
        format!("principal has path && principal.path like \"{pattern}\""),
        format!("principal is Workload && principal.trust_domain == \"{literal}\""),
        format!("context.claims has tenant && context.claims.tenant == \"{literal}\""),
        "context.claims has level && context.claims.level > 3".to_owned(),
        "context.claims has admin && context.claims.admin".to_owned(),
        format!("context.claims has scopes && context.claims.scopes.contains(\"{literal}\")"),
        "context has claims.scopes".to_owned(),
        "Region::\"eu\" has limit && Region::\"eu\".limit < resource.port".to_owned(),
        "Region::\"world\" has limit".to_owned(),
        "(if context has tls then Region::\"eu\" else Region::\"world\").home.open".to_owned(),
        "Region::\"eu\".home.home == Region::\"eu\"".to_owned(),
        "Region::\"nowhere\".open".to_owned(),
        format!("Workload::\"{workload}\".path == \"{literal}\""),
        "context has tls && context.tls has version".to_owned(),
        "context has headers.accept".to_owned(),
        "Region::\"eu\" has home.home.open".to_owned(),
        "Endpoint::\"*\".path like \"/orders*\"".to_owned(),
        "Endpoint::\"*\" in Service::\"orders\"".to_owned(),
    ])
}

/// What has no compiled form.
fn left_to_cedar(choices: &mut Choices<'_>) -> String {
    let one = text(choices, 0);
    let other = text(choices, 0);
    choices.one(&[
        format!("{{a: {one}, b: 1}}.a == {other}"),
        format!("[{one}, {other}] == [{other}]"),
        "context has tls && context.tls == {version: \"1.3\", key_exchange: \"x\", post_quantum: true}"
            .to_owned(),
        "Tagged::\"x\".hasTag(\"a\")".to_owned(),
        format!("Tagged::\"x\".getTag({one}) == {other}"),
    ])
}

fn text(choices: &mut Choices<'_>, depth: usize) -> String {
    let literal = format!("\"{}\"", choices.one(&TEXTS));
    if depth > 0 && choices.chance(5) {
        let smaller = depth - 1;
        return format!(
            "(if {} then {} else {})",
            leaf(choices),
            text(choices, smaller),
            text(choices, smaller)
        );
    }
    choices.one(&[
        "resource.path".to_owned(),
        literal,
        "resource.host".to_owned(),
        "context.direction".to_owned(),
        "context.method".to_owned(),
        "context.rpc.method".to_owned(),
        "context.signals.risk".to_owned(),
    ])
}

fn long(choices: &mut Choices<'_>, depth: usize) -> String {
    let literal = choices.one(&LONGS).to_owned();
    if depth == 0 {
        return choices.one(&[
            literal,
            "resource.port".to_owned(),
            "context.signals.endpoint.calls_per_second".to_owned(),
        ]);
    }
    let smaller = depth - 1;
    match choices.below(6) {
        0 => "resource.port".to_owned(),
        1 => literal,
        2 => format!("({} + {})", long(choices, smaller), long(choices, smaller)),
        3 => format!("({} - {})", long(choices, smaller), long(choices, smaller)),
        4 => format!("({} * {})", long(choices, smaller), long(choices, smaller)),
        _ => {
            let part = choices.one(&["Milliseconds", "Seconds", "Minutes", "Hours", "Days"]);
            format!("{}.to{part}()", duration(choices, smaller))
        }
    }
}

fn time(choices: &mut Choices<'_>, depth: usize) -> String {
    if depth > 0 && choices.chance(3) {
        let earlier = time(choices, depth - 1);
        let offset = duration(choices, 0);
        return choices.one(&[
            format!("{earlier}.offset({offset})"),
            format!("{earlier}.toDate()"),
        ]);
    }
    let literal = format!("datetime(\"{}\")", choices.one(&TIMES));
    choices.one(&["context.time".to_owned(), literal])
}

fn duration(choices: &mut Choices<'_>, depth: usize) -> String {
    if depth > 0 && choices.chance(2) {
        let (one, other) = (time(choices, depth - 1), time(choices, 0));
        return choices.one(&[
            format!("{one}.durationSince({other})"),
            format!("{one}.toTime()"),
        ]);
    }
    format!("duration(\"{}\")", choices.one(&DURATIONS))
}

fn set(choices: &mut Choices<'_>) -> String {
    let (one, other) = (choices.one(&TEXTS), choices.one(&TEXTS));
    choices.one(&[
        "context.headers[\"x-tenant\"]".to_owned(),
        "context.headers.accept".to_owned(),
        format!("[\"{one}\", \"{other}\"]"),
        "Region::\"eu\".names".to_owned(),
        format!("[\"{one}\"]"),
    ])
}

fn ip(choices: &mut Choices<'_>) -> String {
    let literal = format!("ip(\"{}\")", choices.one(&IPS));
    choices.one(&["context.source_ip".to_owned(), literal])
}

fn entity(choices: &mut Choices<'_>) -> String {
    let workload = choices.one(&WORKLOADS);
    let path = choices.one(&PATHS);
    let group = choices.one(&GROUPS);
    let service = choices.one(&SERVICES);
    choices.one(&[
        "principal".to_owned(),
        "resource".to_owned(),
        format!("SpiffePath::\"{path}\""),
        format!("Group::\"{group}\""),
        format!("Service::\"{service}\""),
        format!("Workload::\"{workload}\""),
        "Endpoint::\"*\"".to_owned(),
        "Region::\"eu\"".to_owned(),
        "Region::\"world\"".to_owned(),
        "action".to_owned(),
        "Action::\"http:read\"".to_owned(),
        "Action::\"http:put\"".to_owned(),
        "Action::\"http:write\"".to_owned(),
    ])
}

/// A call that policies from the same pools may well match.
pub(crate) fn call(choices: &mut Choices<'_>) -> Call {
    let method = choices.one(&METHODS);
    let path = choices.one(&TEXTS);
    let mut call = Call::anonymous(method, path);
    if !choices.chance(6) {
        call.principal = Some(choices.one(&WORKLOADS).parse().unwrap());
    }
    call = call.service(choices.one(&SERVICES));
    match choices.below(6) {
        0 => {
            call.action = Action::TCP_CONNECT;
            call.method = None;
        }
        1 => {
            call.action = Action::GRPC_CALL;
            call.rpc = Some(("shop.v1.Orders".to_owned(), choices.one(&TEXTS).to_owned()));
        }
        _ => {}
    }
    call.template = choices.one(&[None, Some("/orders/{id}".to_owned())]);
    call.query = choices.one(&[None, Some("a=b".to_owned())]);
    call.port = choices.one(&[443, 0, 65535]);
    call.tls = !choices.chance(4);
    call.time = UNIX_EPOCH + Duration::from_millis(choices.one(&[1_795_370_096_789, 0, 1]));
    call.source_ip = choices.one(&[
        IpAddr::from([10, 0, 0, 7]),
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 7]),
    ]);
    for _ in 0..choices.below(3) {
        call = call.header("x-tenant", choices.one(&TEXTS));
    }
    if choices.chance(2) {
        call.claims = claims(choices);
    }
    for _ in 0..choices.below(6) {
        let value = choices.below(4) as i64;
        call.signals.set(choices.one(&Signal::ALL), value);
    }
    call
}

fn claims(choices: &mut Choices<'_>) -> BTreeMap<String, ClaimValue> {
    let one = choices.one(&TEXTS);
    let claims = choices.one(&[
        serde_json::json!({ "tenant": one, "level": 7, "admin": true, "scopes": [one, "a"] }),
        serde_json::json!({ "tenant": 7, "level": one, "scopes": one }),
        serde_json::json!({ "level": 1, "admin": false, "scopes": [] }),
    ]);
    serde_json::from_value(claims).unwrap()
}
