//! Everything that can end an allow, times everything that can be open: who is cut and who is not,
//! what the client was told, what the application saw, and what the record says.
//!
//! Each trigger has a sidecar on which calls of every kind are open at once, of the caller that it
//! hits and of another one. Whatever lives carries numbered units all the while, so that whoever is
//! not cut is known to have lost none.

mod applications;
mod calls;
mod races;
mod tally;
mod triggers;
mod uploads;
mod world;

use serde_json::Value;

use crate::support::pki::workload;
use calls::{KINDS, Kind, Open, Whose};
use tally::UNIT;
use triggers::Trigger;
use world::World;

/// What becomes of the calls of one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its lease ends, by this trigger.
    Lease(&'static str),
    /// Its caller is no longer trusted, for this reason.
    Trust(&'static str),
    /// It goes on.
    GoesOn,
}

/// What the client of a call is told, and what its application sees (DESIGN: what the caller is
/// told).
fn told(kind: Kind, fate: Fate) -> (&'static str, &'static str) {
    match kind {
        // An answer can still be given, unless the connection itself is no longer trusted.
        Kind::Upload if matches!(fate, Fate::Trust(_)) => ("cut", "cut"),
        Kind::Upload => ("403 lease_ended", "cut"),
        Kind::Download => ("cut", "cut"),
        Kind::Http2 => ("RST_STREAM", "RST_STREAM"),
        Kind::Grpc => ("grpc-status 7", "RST_STREAM"),
        Kind::Sse => ("RST_STREAM", "cut"),
        Kind::WebSocket => ("close 1008", "close 1008"),
        Kind::Tcp | Kind::Connect => ("reset", "reset"),
    }
}

/// One row: opens everything, pulls the trigger, and looks at every cell.
async fn row(trigger: Trigger) {
    let world = World::begin(trigger.beginning()).await;
    let mut open = Vec::new();
    for kind in KINDS {
        for whose in [Whose::Hit, Whose::Other] {
            open.push((whose, Open::new(&world, kind, whose).await));
        }
    }
    trigger.pull(&world).await;
    for (whose, call) in &open {
        match trigger.fate(call.kind, *whose) {
            Fate::GoesOn => {}
            fate => is_cut(&world, call, *whose, fate).await,
        }
    }
    for (whose, call) in &open {
        if trigger.fate(call.kind, *whose) == Fate::GoesOn {
            call.goes_on(20).await;
        }
    }
    let again = [Whose::Hit, Whose::Other].map(|whose| trigger.fate(Kind::Download, whose));
    for (whose, fate) in [Whose::Hit, Whose::Other].into_iter().zip(again) {
        let status = world.new_call(whose).await;
        match fate {
            Fate::GoesOn => assert_eq!(status, Some(200), "{trigger:?}"),
            Fate::Lease(_) => assert_eq!(status, Some(403), "{trigger:?}"),
            Fate::Trust(_) => assert_eq!(status, None, "{trigger:?}"),
        }
    }
    for (whose, call) in &open {
        if trigger.fate(call.kind, *whose) == Fate::GoesOn {
            call.finishes_whole().await;
        }
    }
    counted(&world, trigger).await;
}

/// One cell of somebody who is hit.
async fn is_cut(world: &World, call: &Open, whose: Whose, fate: Fate) {
    let what = format!("{} by {fate:?}", call.name);
    let (client, application) = told(call.kind, fate);
    assert_eq!(
        call.client
            .until_ended(&format!("the client of {what}"))
            .await,
        client,
        "the client of {what}"
    );
    let seen = call
        .application
        .until_ended(&format!("the application of {what}"))
        .await;
    assert_eq!(seen, application, "the application of {what}");
    let record = record(world, call, whose).await;
    assert_eq!(record["effect"], "allow", "{record}");
    match fate {
        Fate::Lease(by) => {
            assert_eq!(record["failure"], "lease_ended", "{record}");
            assert_eq!(record["ended_by"], by, "{record}");
        }
        Fate::Trust(_) | Fate::GoesOn => {
            assert_eq!(record["failure"], "trust_ended", "{record}");
            assert_eq!(record["ended_by"], Value::Null, "{record}");
        }
    }
    match (call.kind, fate) {
        // Nobody was left to note them.
        (Kind::Upload, Fate::Trust(_)) => assert_eq!(record["bytes_in"], Value::Null, "{record}"),
        _ => adds_up(call, &record),
    }
}

/// The record of an open call, once it is over.
async fn record(world: &World, call: &Open, whose: Whose) -> Value {
    let of_kind = |record: &Value| match call.kind {
        Kind::Tcp => record["listener"] == "tcp",
        Kind::Connect => record["resource"]["service"] == World::destination(whose),
        _ => record["resource"]["path"] == call.name,
    };
    let principal = match (call.kind, whose) {
        (Kind::Connect, _) => workload("app"),
        (_, Whose::Hit) => world.hit.clone(),
        (_, Whose::Other) => workload("other"),
    };
    let its = |record: &Value| record["principal"] == principal && of_kind(record);
    world.sidecar.record(its).await
}

/// The record knows of every byte that reached an end, and of none that was not sent.
fn adds_up(call: &Open, record: &Value) {
    let number = |field: &str| {
        let number = record[field].as_u64();
        number.unwrap_or_else(|| panic!("no `{field}` in {record}"))
    };
    assert!(number("duration_us") > 0, "{record}");
    let bytes = |units: u64| units * UNIT as u64;
    let (client, application) = (&call.client, &call.application);
    // The first line of a connection, and the heads of frames.
    let more = |units: u64| match call.kind {
        Kind::Tcp | Kind::Connect => call.name.len() as u64 + 1,
        Kind::WebSocket => units * 6,
        _ => 0,
    };
    let (up, down) = (number("bytes_in"), number("bytes_out"));
    assert!(bytes(application.got()) <= up, "{record}");
    assert!(up <= bytes(client.sent()) + more(client.sent()), "{record}");
    assert!(bytes(client.got()) <= down, "{record}");
    assert!(
        down <= bytes(application.sent()) + more(application.sent()),
        "{record}"
    );
}

/// The metrics count what was cut, and the log says why.
async fn counted(world: &World, trigger: Trigger) {
    let fates = || {
        let all = KINDS
            .into_iter()
            .flat_map(|kind| [Whose::Hit, Whose::Other].map(|whose| trigger.fate(kind, whose)));
        all.filter(|fate| *fate != Fate::GoesOn)
    };
    match fates().next() {
        Some(Fate::Lease(by)) => {
            let series = format!("wayleave_leases_ended_total{{trigger=\"{by}\"}}");
            let count = world.sidecar.metric(&series).await;
            assert_eq!(count, fates().count() as f64, "{trigger:?}");
        }
        Some(Fate::Trust(reason)) => {
            let said = format!("\"reason_code\":\"{reason}\"");
            world.sidecar.process.stderr.contains(&said).await;
        }
        Some(Fate::GoesOn) | None => {
            let metrics = world.sidecar.admin_get("/metrics").await.unwrap().text();
            assert!(
                !metrics.contains("wayleave_leases_ended_total{"),
                "{metrics}"
            );
        }
    }
}

#[tokio::test]
async fn a_policy_change() {
    row(Trigger::PolicyChange).await;
}

#[tokio::test]
async fn other_policies_in_a_configuration_that_changes_every_listener() {
    row(Trigger::ListenersChanged).await;
}

#[tokio::test]
async fn other_policies_in_a_configuration_that_removes_listeners() {
    row(Trigger::ListenersRemoved).await;
}

#[tokio::test]
async fn an_entity_change() {
    row(Trigger::EntityChange).await;
}

#[tokio::test]
async fn an_svid_that_expires() {
    row(Trigger::SvidExpiry).await;
}

#[tokio::test]
async fn a_revocation_list() {
    row(Trigger::RevocationList).await;
}

#[tokio::test]
async fn a_trust_domain_that_is_removed() {
    row(Trigger::TrustDomainRemoved).await;
}

#[tokio::test]
async fn a_revoked_principal() {
    row(Trigger::Revocation).await;
}

#[tokio::test]
async fn a_session_that_is_said_to_be_revoked() {
    row(Trigger::SecurityEvent).await;
}

#[tokio::test]
async fn a_quarantine() {
    row(Trigger::Quarantine).await;
}

#[tokio::test]
async fn a_principal_that_is_found_risky() {
    row(Trigger::Risk).await;
}

#[tokio::test]
async fn a_moment_that_comes() {
    row(Trigger::Time).await;
}

#[tokio::test]
async fn a_period_that_is_over() {
    row(Trigger::Reauthorize).await;
}
