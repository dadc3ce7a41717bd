//! What calls of a principal count into, read back as policies do: under a clock of its own, and
//! from many threads.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::engine;
use wayleave_authz::Resource;
use wayleave_authz::signals::{
    Behaviour, Change, Counted, Origin, Principals, Risk, RiskLevel, Signal, SignalSet,
    SignalValues,
};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

fn resource<'a>(service: &'a str, path: &'a str) -> Resource<'a> {
    Resource {
        service,
        host: "orders.shop.example",
        path,
        template: None,
        port: 443,
        documented: false,
    }
}

fn set(signals: &[Signal]) -> SignalSet {
    let signals = signals.iter();
    signals.fold(SignalSet::EMPTY, |set, signal| set.with(*signal))
}

fn begin(behaviour: &Behaviour, reads: SignalSet, path: &str, now: Instant) -> Counted {
    let orders = resource("orders", path);
    behaviour.begin(reads, &orders, Some("GET"), now).0
}

fn value(behaviour: &Behaviour, signal: Signal, now: Instant) -> i64 {
    let of_nothing = Counted::default();
    behaviour
        .read(&of_nothing, &SignalValues::NONE, set(&[signal]), now)
        .value(signal)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_call_counts_itself_and_reading_again_does_not() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let reads = set(&[Signal::CallsPerMinute, Signal::InFlight]);
    let orders = resource("orders", "/orders");
    for expected in 1..=5 {
        let (counted, values) = cart.begin(reads, &orders, Some("GET"), now);
        assert_eq!(values.known(), reads);
        for values in [values, cart.read(&counted, &values, reads, now)] {
            assert_eq!(values.value(Signal::CallsPerMinute), expected);
            assert_eq!(values.value(Signal::InFlight), 1);
        }
        cart.ended(&counted);
    }
    assert_eq!(value(&cart, Signal::InFlight, now), 0);
    assert_eq!(value(&cart, Signal::CallsPerMinute, now + seconds(62)), 0);
}

#[test]
fn denials_errors_and_bytes_count_where_their_call_did() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let denials = [Signal::DenialsPerMinute, Signal::EndpointDenialsPerMinute];
    let errors = [Signal::ErrorsPerHour, Signal::EndpointErrorsPerHour];
    let bytes = [Signal::BytesOutPerSecond, Signal::EndpointBytesOutPerSecond];
    let reads = set(&[denials, errors, bytes].concat());
    let (one, other) = (
        begin(&cart, reads, "/a", now),
        begin(&cart, reads, "/b", now),
    );
    cart.denied(&one, now);
    cart.failed(&one, now);
    cart.sent(&one, 1_000, now);
    cart.sent(&other, 10, now);
    cart.denied(&begin(&cart, SignalSet::EMPTY, "/a", now), now);
    for (counted, expected) in [
        (one, [1, 1, 1, 1, 1_010, 1_000]),
        (other, [1, 0, 1, 0, 1_010, 10]),
    ] {
        let values = cart.read(&counted, &SignalValues::NONE, reads, now);
        let told = [denials, errors, bytes].concat();
        let told: Vec<i64> = told.into_iter().map(|s| values.value(s)).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_change_of_policies_between_begin_and_end_unbalances_nothing() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let before = begin(&cart, set(&[Signal::CallsPerHour]), "/", now);
    let after = begin(&cart, set(&[Signal::InFlight]), "/", now);
    cart.ended(&before);
    assert_eq!(value(&cart, Signal::InFlight, now), 1);
    cart.ended(&after);
    assert_eq!(value(&cart, Signal::InFlight, now), 0);
}

#[test]
fn a_sweep_of_paths_is_seen_and_its_endpoints_share_one_count_beyond_64() {
    let principals = Principals::new(10);
    let (scout, now) = (principals.of(CART), Instant::now());
    let reads = set(&[Signal::EndpointsPerMinute, Signal::EndpointCallsPerMinute]);
    for number in 1..=200_i64 {
        let path = format!("/orders/{number}");
        let orders = resource("orders", &path);
        let (_, values) = scout.begin(reads, &orders, Some("GET"), now);
        let distinct = values.value(Signal::EndpointsPerMinute);
        assert!(distinct.abs_diff(number) <= 20, "{distinct} of {number}");
        let calls = values.value(Signal::EndpointCallsPerMinute);
        assert_eq!(calls, if number <= 64 { 1 } else { number - 64 });
    }
    // With a template it is one endpoint, whatever the path.
    let fresh = principals.of("spiffe://shop.example/b");
    for number in 1..=200_i64 {
        let path = format!("/orders/{number}");
        let mut orders = resource("orders", &path);
        orders.template = Some("/orders/{id}");
        let (_, values) = fresh.begin(reads, &orders, Some("GET"), now);
        assert_eq!(values.value(Signal::EndpointsPerMinute), 1);
        assert_eq!(values.value(Signal::EndpointCallsPerMinute), number);
    }
    // What was not called for longer than the window makes room.
    let later = now + seconds(70);
    let (_, values) = scout.begin(reads, &resource("orders", "/new"), Some("GET"), later);
    assert_eq!(values.value(Signal::EndpointCallsPerMinute), 1);
    assert_eq!(values.value(Signal::EndpointsPerMinute), 1);
}

#[test]
fn services_are_told_apart() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let reads = set(&[Signal::ServicesPerMinute]);
    for (service, expected) in [("a", 1), ("a", 1), ("b", 2), ("c", 3), ("b", 3)] {
        let (_, values) = cart.begin(reads, &resource(service, "/"), Some("GET"), now);
        assert_eq!(values.value(Signal::ServicesPerMinute), expected);
    }
}

#[test]
fn an_endpoint_stays_a_first_contact_until_a_call_of_it_was_allowed() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let reads = set(&[Signal::FirstContact]);
    let first = |method: &str, path: &str| {
        let (counted, values) = cart.begin(reads, &resource("orders", path), Some(method), now);
        (counted, values.value(Signal::FirstContact) == 1)
    };
    let (denied, is_first) = first("GET", "/a");
    cart.denied(&denied, now);
    assert!(is_first);
    let (allowed, is_first) = first("GET", "/a");
    cart.allowed(&allowed);
    assert!(is_first, "it was denied before");
    assert!(!first("GET", "/a").1);
    assert!(first("POST", "/a").1 && first("GET", "/b").1);
    let again = cart.read(&allowed, &SignalValues::NONE, reads, now + seconds(5));
    assert_eq!(again.value(Signal::FirstContact), 1, "it stays what it was");
}

#[test]
fn what_others_counted_is_added_until_it_is_a_window_old() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let calls = Signal::CallsPerMinute;
    let counted = begin(&cart, set(&[calls]), "/", now);
    cart.set_others(calls, 40, now);
    assert_eq!(value(&cart, calls, now), 41);
    assert_eq!(cart.local(calls, now), 1);
    assert_eq!(
        cart.until_within(&counted, calls, 42, now),
        Some(seconds(0))
    );
    assert!(cart.until_within(&counted, calls, 41, now) > Some(seconds(0)));
    assert_eq!(
        cart.until_within(&counted, calls, 40, now),
        Some(seconds(60))
    );
    assert_eq!(value(&cart, calls, now + seconds(59)), 41);
    cart.set_others(calls, 2, now + seconds(59));
    assert_eq!(value(&cart, calls, now + seconds(100)), 2);
    assert_eq!(value(&cart, calls, now + seconds(120)), 0);
    cart.set_others(Signal::EndpointCallsPerMinute, 9, now);
    assert_eq!(value(&cart, Signal::EndpointCallsPerMinute, now), 0);
}

#[test]
fn risk_and_staleness_are_what_was_said() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let rate = |level| {
        let origin = Origin {
            by: "ssf:idp".into(),
            reason: None,
            at_ms: level as u64,
        };
        let principal = CART.into();
        principals
            .apply(&Change::Rated(Risk {
                principal,
                level,
                origin,
            }))
            .unwrap();
    };
    assert_eq!(value(&cart, Signal::Risk, now), 0);
    rate(RiskLevel::High);
    let reads = set(&[Signal::Risk, Signal::Stale]);
    let (_, values) = cart.begin(reads, &resource("a", "/"), None, now);
    assert_eq!(values.risk(), RiskLevel::High);
    assert_eq!(values.value(Signal::Stale), 0);
    principals.set_stale(true);
    assert_eq!(value(&cart, Signal::Stale, now), 1);
}

#[test]
fn a_limit_that_is_passed_up_or_down_is_noticed_once() {
    let engine = engine(
        r#"@id("a") forbid (principal, action, resource)
           when { context.signals.denials_per_second > 2 || context.signals.endpoint.denials_per_minute >= 6
                  || context.signals.calls_per_minute > 3 };
           @id("b") permit (principal, action, resource) unless { context.signals.risk == "HIGH" };"#,
    );
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let (reads, limits) = (engine.signals_read(), engine.signal_limits());
    assert!(!cart.bands_changed(limits, now));
    let call = |now| {
        cart.denied(&begin(&cart, reads, "/a", now), now);
        cart.bands_changed(limits, now)
    };
    assert_eq!(
        [call(now), call(now), call(now), call(now)],
        [false, false, true, false]
    );
    let later = now + seconds(2);
    assert!(cart.bands_changed(limits, later), "down again");
    assert!(!cart.bands_changed(limits, later));
    assert_eq!(
        [call(later), call(later)],
        [false, true],
        "the endpoint's minute"
    );
    assert!(!cart.bands_changed(limits, later));
    let much_later = later + seconds(70);
    assert!(cart.bands_changed(limits, much_later));
    assert_eq!(cart.bands(limits, much_later), 0);
}

#[test]
fn how_a_call_began_stays_so_while_it_is_open() {
    let principals = Principals::new(10);
    let (cart, now) = (principals.of(CART), Instant::now());
    let kept = [Signal::CallsPerMinute, Signal::InFlight];
    let reads = set(&[&kept[..], &[Signal::EndpointsPerMinute]].concat());
    let (counted, begun) = cart.begin(reads, &resource("orders", "/0"), Some("GET"), now);
    for path in ["/1", "/2", "/3"] {
        let _ = begin(&cart, reads, path, now);
    }
    let again = cart.read(&counted, &begun, reads, now);
    for signal in kept {
        assert_eq!(again.value(signal), 1, "{signal:?}");
    }
    assert_eq!(again.value(Signal::EndpointsPerMinute), 4);
}

#[test]
fn a_principal_that_rests_keeps_its_contacts_alone_and_a_connected_one_all() {
    let principals = Principals::new(10);
    let now = Instant::now();
    let reads = set(&[Signal::CallsPerHour, Signal::FirstContact]);
    let (cart, away) = (
        principals.of(CART),
        principals.of("spiffe://shop.example/b"),
    );
    for behaviour in [&cart, &away] {
        behaviour.allowed(&begin(behaviour, reads, "/", now));
    }
    drop(away);
    assert_eq!(principals.rest(now + seconds(3_600)), 0, "not yet");
    let later = now + seconds(3_700);
    assert_eq!(principals.rest(later), 1);
    let away = principals.of("spiffe://shop.example/b");
    let (_, values) = away.begin(reads, &resource("orders", "/"), Some("GET"), later);
    assert_eq!(values.value(Signal::FirstContact), 0);
    assert_eq!(values.value(Signal::CallsPerHour), 1);
    let _ = cart;
}

#[test]
fn who_has_not_called_for_the_longest_time_is_forgotten_first() {
    let principals = Principals::new(16 * 20);
    let now = Instant::now();
    let reads = set(&[Signal::CallsPerHour]);
    let name = |number: u64| format!("spiffe://shop.example/{number}");
    for number in 0..2_000 {
        let one = principals.of(&name(number));
        let _ = begin(&one, reads, "/", now + seconds(number));
    }
    let kept = |numbers: std::ops::Range<u64>| {
        let mut numbers = numbers.map(name);
        numbers.all(|name| principals.find(&name).is_some())
    };
    assert!(principals.len() <= 16 * 20);
    // Each of 16 parts keeps its latest 20.
    assert!(kept(1_900..2_000));
    assert!((0..1_000).all(|number| principals.find(&name(number)).is_none()));
}

#[test]
fn of_a_burst_on_many_threads_exactly_the_limit_passes() {
    let principals = Arc::new(Principals::new(10));
    let now = Instant::now();
    let reads = set(&[Signal::CallsPerMinute, Signal::EndpointCallsPerMinute]);
    let within: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let cart = principals.of(CART);
                    let orders = resource("orders", "/");
                    let call = |_: &i32| {
                        let (_, values) = cart.begin(reads, &orders, Some("GET"), now);
                        values.value(Signal::EndpointCallsPerMinute) <= 100
                    };
                    (0..1_250).filter(call).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(within, 100);
}
