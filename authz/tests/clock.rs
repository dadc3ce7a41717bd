//! When the clock alone can change a decision.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by panicking"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wayleave_authz::{Engine, Inputs, PolicyFile};

/// 2026-06-01T00:00:00Z, in milliseconds.
const JUNE: u64 = 1_780_272_000_000;

fn engine(condition: &str) -> Engine {
    let text = format!("@id(\"a\") permit (principal, action, resource) when {{ {condition} }};");
    let name = "a.cedar".to_owned();
    Engine::load(&Inputs {
        policies: vec![PolicyFile { name, text }],
    })
    .unwrap()
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

#[test]
fn a_comparison_with_a_moment_changes_there_and_never_again() {
    for condition in [
        r#"context.time < datetime("2026-06-01")"#,
        r#"datetime("2026-06-01") >= context.time"#,
        r#"!(context.time == datetime("2026-06-01"))"#,
    ] {
        let engine = engine(condition);
        assert_eq!(
            engine.next_change(at(JUNE - 5)),
            Some(at(JUNE)),
            "{condition}"
        );
        assert_eq!(
            engine.next_change(at(JUNE)),
            Some(at(JUNE + 1)),
            "{condition}"
        );
        assert_eq!(engine.next_change(at(JUNE + 1)), None, "{condition}");
    }
}

#[test]
fn time_that_is_read_otherwise_changes_within_a_second() {
    for condition in [
        r#"context.time.toTime() < duration("8h")"#,
        r#"context.time.offset(duration("1h")) < datetime("2026-06-01")"#,
        r#"[context.time, datetime("2026-06-01")].contains(datetime("2026-06-01"))"#,
    ] {
        let next = engine(condition).next_change(at(JUNE + 10)).unwrap();
        assert!(next <= at(JUNE + 1_010), "{condition}");
    }
}

#[test]
fn without_a_word_of_time_nothing_changes_by_itself() {
    assert_eq!(engine("resource.port == 80").next_change(at(JUNE)), None);
}
