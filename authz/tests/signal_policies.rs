//! Policies that read signals: what they decide, what they compare signals with, how long a
//! caller has to wait, and what they may not say.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::time::{Duration, Instant};

use support::{Call, engine, inputs};
use wayleave_authz::signals::{Principals, RiskLevel, Signal, SignalSet, SignalValues};
use wayleave_authz::{
    Engine, QuarantineScope, QuarantineTerms, ReasonCode, RecordedFacts, testing::CallSpec,
};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
const PERMIT: &str = "@id(\"p\") permit (principal, action, resource);";

fn forbid(condition: &str) -> String {
    format!("{PERMIT} @id(\"f\") forbid (principal, action, resource) when {{ {condition} }};")
}

fn call(signals: &[(Signal, i64)]) -> Call {
    let mut call = Call::http(CART, "GET", "/orders");
    for (signal, value) in signals {
        call.signals.set(*signal, *value);
    }
    call
}

fn set(signals: &[Signal]) -> SignalSet {
    let signals = signals.iter();
    signals.fold(SignalSet::EMPTY, |set, signal| set.with(*signal))
}

#[test]
fn every_signal_can_be_read_and_decides_for_every_kind_of_call() {
    for signal in Signal::ALL {
        let (compared, value) = match signal {
            Signal::Risk => (" == \"HIGH\"", RiskLevel::High as i64),
            Signal::FirstContact | Signal::Stale => ("", 1),
            _ => (" > 9", 10),
        };
        let engine = engine(&forbid(&format!(
            "context.signals.{}{compared}",
            signal.name()
        )));
        assert_eq!(engine.not_compiled().count(), 0);
        assert_eq!(engine.signals_read(), set(&[signal]), "{signal:?}");
        for kind in [Call::tcp(CART), Call::grpc(CART, "a", "b"), call(&[])] {
            let mut over = kind.clone();
            over.signals.set(signal, value);
            let mut within = kind;
            within.signals.set(signal, value - 1);
            assert!(!over.decide(&engine).is_allow(), "{signal:?}");
            assert!(within.decide(&engine).is_allow(), "{signal:?}");
        }
    }
}

#[test]
fn what_a_signal_is_compared_with_is_known() {
    let limits = |condition: &str, signal| {
        let engine = engine(&forbid(condition));
        let limits = engine.signal_limits().of(signal).cloned();
        let limits = limits.unwrap_or_default();
        (limits.at().to_vec(), limits.otherwise())
    };
    let signal = Signal::CallsPerMinute;
    for (condition, expected) in [
        ("context.signals.calls_per_minute > 10", (vec![10], false)),
        ("context.signals.calls_per_minute >= 10", (vec![9], false)),
        ("!(context.signals.calls_per_minute < 10)", (vec![9], false)),
        ("10 < context.signals.calls_per_minute", (vec![10], false)),
        ("10 <= context.signals.calls_per_minute", (vec![9], false)),
        (
            "context.signals.calls_per_minute == 10",
            (vec![9, 10], false),
        ),
        (
            "[3, 10].contains(context.signals.calls_per_minute)",
            (vec![2, 3, 9, 10], false),
        ),
        ("context.signals.calls_per_minute * 2 > 10", (vec![], true)),
        (
            "context.signals.calls_per_minute > context.signals.in_flight",
            (vec![], true),
        ),
        (
            "context.signals.calls_per_minute > 10 && context.signals.calls_per_minute < 100",
            (vec![10, 99], false),
        ),
        (
            "{a: context.signals.calls_per_minute}.a > 3",
            (vec![], true),
        ),
        ("context.signals.stale", (vec![], false)),
    ] {
        assert_eq!(limits(condition, signal), expected, "{condition}");
    }
    let stale = limits("!context.signals.stale", Signal::Stale);
    assert_eq!(stale, (vec![0], false));
    let risk = limits(
        "[\"HIGH\", \"LOW\"].contains(context.signals.risk)",
        Signal::Risk,
    );
    assert_eq!(risk, (vec![0, 1, 2, 3], false));
    let risk = limits("context.signals.risk like \"H*\"", Signal::Risk);
    assert_eq!(risk, (vec![], true));
}

#[test]
fn a_policy_that_is_left_to_cedar_reads_what_it_names_or_everything() {
    for (condition, expected) in [
        (
            "{a: context.signals.in_flight}.a > 3",
            set(&[Signal::InFlight]),
        ),
        ("[context.signals].isEmpty()", SignalSet::all()),
    ] {
        let engine = engine(&forbid(condition));
        assert_eq!(engine.not_compiled().count(), 1);
        assert_eq!(engine.signals_read(), expected, "{condition}");
    }
    assert!(engine(PERMIT).signals_read().is_empty());
}

#[test]
fn a_signal_that_there_is_not_is_told_once_whatever_the_scope_admits() {
    let condition = "context.signals.calls_per_minit > 5";
    let errors = Engine::load(&inputs(&forbid(condition))).unwrap_err();
    let [problem] = errors.problems() else {
        panic!("{errors}");
    };
    let help = problem.help_text().unwrap_or_default();
    assert!(help.contains("did you mean `calls_per_minute`?"), "{help}");
}

#[test]
fn a_level_of_risk_that_there_is_not_is_refused_with_its_place() {
    for (condition, word, help) in [
        (
            "context.signals.risk == \"EXTREME\"",
            "EXTREME",
            "in capitals",
        ),
        (
            "context.signals.risk == \"HIHG\"",
            "HIHG",
            "did you mean \"HIGH\"?",
        ),
        ("\"high\" != context.signals.risk", "high", "HIGH"),
        (
            "[\"LOW\", \"MEDIUMM\"].contains(context.signals.risk)",
            "MEDIUMM",
            "MEDIUM",
        ),
        ("{a: context.signals.risk == \"NO\"}.a", "NO", ""),
    ] {
        let errors = Engine::load(&inputs(&forbid(condition))).unwrap_err();
        let [problem] = errors.problems() else {
            panic!("{errors}");
        };
        let told = problem.to_string();
        assert!(
            told.contains(&format!("`{word}` is not a level of risk")),
            "{told}"
        );
        assert!(told.contains("NONE, LOW, MEDIUM, HIGH"), "{told}");
        let all = format!("{told} {}", problem.help_text().unwrap_or_default());
        assert!(all.contains(help), "{all}");
        assert_eq!(problem.line(), Some(1));
    }
}

/// Calls once, and tells whether it was allowed and how long to wait.
fn once(engine: &Engine, principals: &Principals, now: Instant) -> (bool, Option<Duration>) {
    let mut call = Call::http(CART, "GET", "/orders");
    let cart = principals.of(CART);
    let method = call.method.clone();
    let reads = engine.signals_read();
    let (counted, values) =
        call.with_facts(|facts| cart.begin(reads, &facts.resource, method.as_deref(), now));
    call.signals = values;
    let decision = call.decide(engine);
    if !decision.is_allow() {
        cart.denied(&counted, now);
    }
    (
        decision.is_allow(),
        cart.retry_after(&counted, &decision, now),
    )
}

#[test]
fn the_call_after_the_limit_is_denied_and_told_when_the_next_passes() {
    let engine = engine(&forbid("context.signals.calls_per_minute > 3"));
    let principals = Principals::new(10);
    let now = Instant::now();
    for _ in 0..3 {
        assert!(once(&engine, &principals, now).0);
    }
    let (allowed, wait) = once(&engine, &principals, now);
    let wait = wait.unwrap();
    assert!(
        !allowed && wait > Duration::from_secs(59) && wait <= Duration::from_secs(61),
        "{wait:?}"
    );
    let early = now + wait - Duration::from_millis(1);
    assert!(!once(&engine, &principals, early).0);
    let other = Principals::new(10);
    let now = Instant::now();
    for _ in 0..4 {
        once(&engine, &other, now);
    }
    let wait = Duration::from_secs(61);
    assert!(once(&engine, &other, now + wait).0);
}

#[test]
fn waiting_is_told_for_what_has_a_window_and_for_nothing_else() {
    let after = |policies: &str| {
        let principals = Principals::new(10);
        let now = Instant::now();
        let engine = engine(policies);
        once(&engine, &principals, now);
        once(&engine, &principals, now).1
    };
    let minute = Some(Duration::from_secs(60));
    assert_eq!(
        after(&forbid("context.signals.calls_per_minute * 2 > 2")),
        minute
    );
    assert_eq!(
        after(&forbid("context.signals.calls_per_minute > 0")),
        minute
    );
    assert!(
        after(&forbid("context.signals.endpoint.calls_per_second > 1"))
            > Some(Duration::from_millis(900))
    );
    assert_eq!(after(&forbid("context.signals.in_flight > 0")), None);
    assert_eq!(after(&forbid("resource.port == 443")), None);
    assert_eq!(after(PERMIT), None);
    let also = format!(
        "{} @id(\"g\") forbid (principal, action, resource);",
        forbid("context.signals.calls_per_second > 1")
    );
    assert_eq!(after(&also), None, "no waiting helps against the other");
}

#[test]
fn a_quarantine_is_asked_for_by_the_widest_of_the_forbids_that_decide() {
    let engine = engine(
        r#"@id("p") permit (principal, action, resource);
           @id("no") @quarantine("9d") forbid (principal, action, resource) when { context.signals.in_flight > 100 };
           @id("service") @quarantine("10m service") forbid (principal, action, resource) when { context.signals.in_flight > 1 };
           @id("all") @quarantine("60s") forbid (principal, action, resource) when { context.signals.in_flight > 2 };"#,
    );
    let decide = |in_flight| call(&[(Signal::InFlight, in_flight)]).decide(&engine);
    assert!(!decide(1).asks_for_quarantine());
    let terms = |scope, seconds| QuarantineTerms {
        scope,
        time: Duration::from_secs(seconds),
    };
    for (in_flight, by, expected) in [
        (2, "service", terms(QuarantineScope::Service, 600)),
        (3, "all", terms(QuarantineScope::Everything, 600)),
    ] {
        let decision = decide(in_flight);
        assert!(decision.asks_for_quarantine());
        let (id, told) = decision.quarantine().unwrap();
        assert_eq!((&**id, told), (by, expected));
        assert_eq!(decision.obligations().quarantine, Some(expected));
        let waived = decision.in_audit_mode();
        assert!(!waived.asks_for_quarantine(), "nothing is enforced");
    }
}

#[test]
fn what_no_policy_decided_is_denied_and_never_waived() {
    let engine = engine(PERMIT);
    for (reason, name) in [
        (ReasonCode::Quarantined, "quarantined"),
        (ReasonCode::Revoked, "revoked"),
    ] {
        let decision = engine.refuse(reason).in_audit_mode();
        assert!(!decision.is_allow());
        assert_eq!(decision.reason().as_str(), name);
        assert_eq!(decision.policies().count(), 0);
        assert_eq!(decision.revision(), engine.revision());
    }
    assert!(!engine.refuse(ReasonCode::PolicyAllow).is_allow());
}

#[test]
fn a_record_keeps_the_signals_that_policies_read_and_decides_alike() {
    let engine = engine(&forbid(
        "context.signals.endpoint.calls_per_hour > 9 && context.signals.risk == \"LOW\" && context.signals.first_contact",
    ));
    let call = call(&[
        (Signal::EndpointCallsPerHour, 10),
        (Signal::Risk, 1),
        (Signal::FirstContact, 1),
        (Signal::InFlight, 3),
    ]);
    let recorded = call.with_facts(|facts| RecordedFacts::of(facts, &engine));
    let written = serde_json::to_value(&recorded).unwrap();
    let expected = serde_json::json!({
        "endpoint.calls_per_hour": 10, "risk": "LOW", "first_contact": true,
    });
    assert_eq!(written["signals"], expected);
    let again = RecordedFacts::from_record(&written.to_string()).unwrap();
    assert_eq!(again, recorded);
    assert!(!engine.decide(&again.facts()).is_allow());
    let without = call.with_facts(|facts| RecordedFacts::of(facts, &support::engine(PERMIT)));
    let without = serde_json::to_value(&without).unwrap();
    assert_eq!(without.get("signals"), None);
}

#[test]
fn signals_that_are_written_wrongly_are_refused_with_what_is_meant() {
    for (signals, told) in [
        ("calls_per_minut: 3", "did you mean `calls_per_minute`?"),
        ("nonsense: 3", "signals are calls_per_second, "),
        (
            "calls_per_minute: -1",
            "`calls_per_minute` is a number from 0 on",
        ),
        (
            "calls_per_minute: true",
            "`calls_per_minute` is a number from 0 on",
        ),
        ("stale: 1", "`stale` is `true` or `false`"),
        ("risk: EXTREME", "`EXTREME` is not a level of risk"),
        ("risk: 3", "`risk` is a level"),
    ] {
        let read: Result<CallSpec, _> =
            serde_saphyr::from_str(&format!("signals: {{ {signals} }}"));
        let error = read.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let mut values = SignalValues::NONE;
    assert!(
        values
            .set_by_name("endpont.calls_per_hour", "3")
            .unwrap_err()
            .contains("endpoint.calls_per_hour")
    );
    values.set_by_name("endpoint.calls_per_hour", "3").unwrap();
    values.set_by_name("risk", "HIGH").unwrap();
    values.set_by_name("stale", "true").unwrap();
    assert_eq!(values.value(Signal::EndpointCallsPerHour), 3);
    assert_eq!(values.risk(), RiskLevel::High);
    assert_eq!(values.value(Signal::Stale), 1);
}

#[test]
fn a_call_as_a_person_writes_it_has_signals_over_its_defaults() {
    let read = |text: &str| serde_saphyr::from_str::<CallSpec>(text).unwrap();
    let defaults = read("signals: { risk: LOW, calls_per_hour: 5 }");
    let own = read("signals: { calls_per_hour: 7, endpoint.calls_per_hour: 2 }");
    let signals = own.over(&defaults).recorded().unwrap().signals;
    assert_eq!(signals.risk(), RiskLevel::Low);
    assert_eq!(signals.value(Signal::CallsPerHour), 7);
    assert_eq!(signals.value(Signal::EndpointCallsPerHour), 2);
}
