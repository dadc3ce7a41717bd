//! Deciding allocates nothing, however many policies there are.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::hint::black_box;

use cap::Cap;
use support::{Call, engine};

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// `count` policies of every kind that is compiled.
fn policies(count: usize) -> String {
    (0..count)
        .map(|n| {
            let rest = match n % 5 {
                0 => "when { resource.path like \"/a/*/b*c\" && context.source_ip.isInRange(ip(\"10.0.0.0/8\")) }",
                1 => "when { context.headers.accept.contains(\"text/plain\") || context.headers.accept.isEmpty() }",
                2 => "when { context.time > datetime(\"2020-01-01\") && resource.port + 1 == 444 }",
                3 => "when { context.signals.calls_per_minute > 3 || context.signals.risk == \"HIGH\" }",
                _ => "unless { context has tls && context.tls.version == \"1.2\" }",
            };
            let principal = match n % 3 {
                0 => format!("principal == Workload::\"spiffe://shop.example/ns/n{n}/sa/cart\""),
                1 => "principal in SpiffePath::\"spiffe://shop.example/ns/web\"".to_owned(),
                _ => "principal".to_owned(),
            };
            let effect = if n % 5 == 4 { "forbid" } else { "permit" };
            let action = "action in [Action::\"http:read\", Action::\"http:write\"]";
            format!("@id(\"p{n}\") {effect} ({principal}, {action}, resource in Service::\"s{}\") {rest};\n", n / 10)
        })
        .collect()
}

#[test]
fn a_decision_allocates_nothing() {
    let calls = [
        Call::http("spiffe://shop.example/ns/web/sa/cart", "GET", "/a/x/bc").service("s0"),
        Call::http("spiffe://shop.example/ns/n3/sa/cart", "POST", "/a").service("s0"),
        Call::http("spiffe://shop.example/ns/n0/sa/cart", "GET", "/a")
            .header("accept", "x")
            .service("s0"),
        Call::http("spiffe://other.example/a", "GET", "/").service("nowhere"),
        Call::anonymous("GET", "/"),
        Call::tcp("spiffe://shop.example/ns/web/sa/cart"),
    ];
    for count in [10, 150] {
        let engine = engine(&policies(count));
        assert_eq!(engine.not_compiled().count(), 0);
        let mut outcomes = Vec::with_capacity(64);
        let before = ALLOCATOR.total_allocated();
        for _ in 0..10 {
            for call in &calls {
                outcomes.push(black_box(call.decide(&engine)).is_allow());
            }
        }
        assert_eq!(
            ALLOCATOR.total_allocated() - before,
            0,
            "with {count} policies"
        );
        assert!(outcomes.contains(&true) && outcomes.contains(&false));
    }
}
