//! Signals take constant memory, and a call allocates nothing but what was never needed before.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

use std::time::{Duration, Instant};

use cap::Cap;
use wayleave_authz::Resource;
use wayleave_authz::signals::{Behaviour, Principals, Signal, SignalSet};

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// One call and all that can come of it.
fn call(behaviour: &Behaviour, path: &str, now: Instant) {
    let orders = Resource {
        service: "orders",
        host: "orders.shop.example",
        path,
        template: None,
        port: 443,
        documented: false,
    };
    let (counted, _) = behaviour.begin(SignalSet::all(), &orders, Some("GET"), now);
    behaviour.allowed(&counted);
    behaviour.denied(&counted, now);
    behaviour.failed(&counted, now);
    behaviour.sent(&counted, 7, now);
    behaviour.ended(&counted);
}

/// Alone in its program, so that nothing else allocates.
#[test]
fn memory_is_what_is_stated_however_much_a_principal_calls() {
    let principals = Principals::new(10);
    let cart = principals.of("spiffe://shop.example/ns/web/sa/cart");
    let paths: Vec<String> = (0..20_000).map(|number| format!("/{number}")).collect();
    let paths_take = ALLOCATOR.allocated();
    let mut now = Instant::now();
    let step = Duration::from_millis(1);
    for path in &paths {
        now += step;
        call(&cart, path, now);
    }
    for signal in Signal::ALL {
        cart.set_others(signal, 1, now);
    }
    let table = ALLOCATOR.allocated() - paths_take;
    let stated = Behaviour::most_bytes();
    assert!(
        table > stated / 10 * 9 && table <= stated,
        "{table} of {stated}"
    );
    assert!(stated <= 450 * 1024, "{stated}");
    let total = ALLOCATOR.total_allocated();
    for path in &paths {
        now += step;
        call(&cart, path, now);
    }
    assert_eq!(ALLOCATOR.total_allocated(), total);
}
