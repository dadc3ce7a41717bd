//! What signals cost a call: `begin/N` counts a call and reads what policies read, `read/N` reads
//! alone, at N principals that call in turn; `decide` decides with and without signals.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use criterion::{BenchmarkId, Criterion};
use wayleave_authz::signals::{Behaviour, Counted, Principals, Signal, SignalSet, SignalValues};
use wayleave_authz::{
    Action, Context, Direction, Engine, Facts, Inputs, NoClaims, NoHeaders, PolicyFile, Principal,
    Resource,
};

const ORDERS: Resource<'_> = Resource {
    service: "orders",
    host: "orders.shop.example",
    path: "/orders/7",
    template: Some("/orders/{id}"),
    port: 443,
    documented: true,
};

const PERMIT: &str = "@id(\"permit\") permit (principal, action, resource);";
const FORBID: &str = "@id(\"forbid\") forbid (principal, action, resource)
    when { context.signals.calls_per_minute > 1000000 || context.signals.risk == \"HIGH\" };";

/// What policies read: one rate; those that a careful policy reads; or all.
fn sets() -> [(&'static str, SignalSet); 3] {
    let some = [
        Signal::CallsPerSecond,
        Signal::CallsPerMinute,
        Signal::DenialsPerMinute,
        Signal::EndpointCallsPerMinute,
        Signal::EndpointsPerMinute,
        Signal::InFlight,
        Signal::Risk,
    ];
    let some = some.into_iter().fold(SignalSet::EMPTY, SignalSet::with);
    [
        ("one", SignalSet::EMPTY.with(Signal::CallsPerMinute)),
        ("seven", some),
        ("all", SignalSet::all()),
    ]
}

/// So many principals, each of which has called once.
fn principals(count: usize, reads: SignalSet) -> Vec<(Arc<Behaviour>, Counted)> {
    let table = Principals::new(count);
    let names = (0..count).map(|number| format!("spiffe://shop.example/ns/web/sa/{number}"));
    let now = Instant::now();
    let begun = names.map(|name| {
        let behaviour = table.of(&name);
        let (counted, _) = behaviour.begin(reads, &ORDERS, Some("GET"), now);
        (behaviour, counted)
    });
    begun.collect()
}

fn counting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signals");
    for (name, reads) in sets() {
        // All of them at 100,000 principals would take gigabytes.
        let counts: &[usize] = if name == "all" { &[1] } else { &[1, 100_000] };
        for &count in counts {
            let all = principals(count, reads);
            // In an order that no cache foresees.
            let order = (0..count).map(|place| place * 61_637 % count);
            let mut order = order.cycle();
            let mut next = || order.next().and_then(|place| all.get(place));
            group.bench_function(
                BenchmarkId::new(format!("begin/{name}"), count),
                |bencher| {
                    bencher.iter(|| {
                        let (behaviour, _) = next().expect("there are principals");
                        let now = Instant::now();
                        let (counted, values) = behaviour.begin(reads, &ORDERS, Some("GET"), now);
                        behaviour.ended(&counted);
                        black_box(values)
                    });
                },
            );
            group.bench_function(BenchmarkId::new(format!("read/{name}"), count), |bencher| {
                bencher.iter(|| {
                    let (behaviour, counted) = next().expect("there are principals");
                    black_box(behaviour.read(counted, &SignalValues::NONE, reads, Instant::now()))
                });
            });
        }
    }
    group.finish();
}

fn deciding(criterion: &mut Criterion) {
    let cart = "spiffe://shop.example/ns/web/sa/cart"
        .parse()
        .expect("a SPIFFE ID");
    let facts = Facts {
        principal: Principal::Workload(&cart),
        action: Action::from_http_method("GET"),
        resource: ORDERS,
        context: Context {
            direction: Direction::Inbound,
            time: UNIX_EPOCH,
            source_ip: IpAddr::from([10, 0, 0, 7]),
            tls: None,
            method: Some("GET"),
            query: None,
            headers: &NoHeaders,
            claims: &NoClaims,
            rpc: None,
            signals: &SignalValues::NONE,
        },
    };
    for (name, policies) in [
        ("without", PERMIT.to_owned()),
        ("with", format!("{PERMIT}\n{FORBID}")),
    ] {
        let file = PolicyFile {
            name: "signals.cedar".to_owned(),
            text: policies,
        };
        let engine = Engine::load(&Inputs {
            policies: vec![file],
        });
        let engine = engine.unwrap_or_else(|errors| panic!("{errors}"));
        criterion.bench_function(&format!("signals/decide/{name}"), |bencher| {
            bencher.iter(|| black_box(engine.decide(black_box(&facts))));
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    counting(&mut criterion);
    deciding(&mut criterion);
    criterion.final_summary();
}
