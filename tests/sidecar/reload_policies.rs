//! A new configuration file that names other policies: one set is in force for the whole process,
//! also for what is open at listeners that the file changes or has no more.
//!
//! What becomes of every kind of open call is in the matrix.

use hyper::body::Incoming;
use serde_json::Value;

use super::leases::{end, ended, ticking, ticks};
use super::reload::{
    Listener, TOP, any_port, file, free_port, listener, revision, start, under_way, until_failed,
    until_other_than, write,
};
use crate::support::client;
use crate::support::load::{self, Target};
use crate::support::raw_http2::{DATA, HEADERS, RawHttp2, get_path};
use crate::support::service::{How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

/// Policies in a folder of their own, and the top of a file that names it. What was accepted has
/// minutes to finish.
fn policies(sidecar: &Sidecar, folder: &str, policy: &str) -> String {
    let path = sidecar.setup.path(folder);
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("main.cedar"), policy).unwrap();
    let top = TOP.replace("[policies]", &format!("[{folder}]"));
    format!("{top}drain_timeout: 10m\n")
}

/// Brings a file into force.
async fn reload(sidecar: &Sidecar, top: &str, listeners: &[Listener<'_>]) {
    let before = revision(sidecar).await;
    write(sidecar, &file(top, listeners));
    until_other_than(sidecar, &before).await;
}

/// The same listener with another limit.
fn changed(listener: Listener<'_>) -> Listener<'_> {
    Listener {
        more: "limits: { max_requests: 9999 }",
        ..listener
    }
}

/// A sidecar with two listeners at which the same caller may do the same.
async fn two_listeners(policy: &str, upstream: &Upstream) -> (Sidecar, [Listener<'static>; 2]) {
    let listeners = [("one", free_port()), ("two", free_port())];
    let listeners = listeners.map(|(name, listen)| listener(name, listen, upstream));
    (start(file(TOP, &listeners), policy).await, listeners)
}

/// A connection on which a call is open for as long as the test likes, so that it lasts, by a
/// client that never says that it has read the GOAWAY: it may go on to call.
async fn held(sidecar: &Sidecar, listener: &Listener<'_>, upstream: &Upstream) -> RawHttp2 {
    let caller = sidecar.setup.caller("frontend");
    let bundle = sidecar.setup.ca.pem().into_bytes();
    let tls = client::tls(Some(&caller), &bundle, &["h2"]);
    let stream = client::handshake(listener.listen, tls).await.unwrap();
    let mut connection = RawHttp2::over(stream, &[]).await;
    let before = upstream.seen().len();
    connection.send(&get_path(1, "/held")).await.unwrap();
    eventually("the call to be in flight", || async {
        (upstream.seen().len() > before).then_some(())
    })
    .await;
    connection
}

/// Waits for the answer of a stream; whether it is 200, which HPACK has a byte for.
async fn answered(connection: &mut RawHttp2, stream: u32) -> bool {
    let head = connection.find(|frame| frame.kind == HEADERS && frame.stream == stream);
    let head = head.await;
    head.expect("an answer").payload.first() == Some(&0x88)
}

/// The record of the call for a path.
async fn record(sidecar: &Sidecar, path: &str) -> Value {
    let its = |record: &Value| record["resource"]["path"] == path;
    sidecar.record(its).await
}

#[tokio::test]
async fn a_kept_connection_decides_its_next_call_by_the_new_policies() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (sidecar, [one, two]) = two_listeners(POLICY, &upstream).await;
    let mut connections = [
        held(&sidecar, &one, &upstream).await,
        held(&sidecar, &two, &upstream).await,
    ];
    let closed = POLICY.replace("/forbidden*", "/closed*");
    let top = policies(&sidecar, "next", &closed);
    // The first one changes, and the second is no more.
    reload(&sidecar, &top, &[changed(one)]).await;
    for (connection, paths) in connections
        .iter_mut()
        .zip([["/closed/1", "/open/1"], ["/closed/2", "/open/2"]])
    {
        for (stream, path) in [3, 5].into_iter().zip(paths) {
            connection.send(&get_path(stream, path)).await.unwrap();
            let open = path.starts_with("/open");
            assert_eq!(answered(connection, stream).await, open, "{path}");
            let record = record(&sidecar, path).await;
            assert_eq!(record["status"], if open { 200 } else { 403 }, "{record}");
            assert_eq!(record["effect"], if open { "allow" } else { "deny" });
        }
    }
    // What was open is still allowed, and whole.
    for connection in &mut connections {
        upstream.release();
        assert!(answered(connection, 1).await);
        let data = connection.find(|frame| frame.kind == DATA && frame.stream == 1);
        assert!(!data.await.unwrap().payload.is_empty());
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| !seen.target.starts_with("/closed")));
}

#[tokio::test]
async fn what_was_denied_where_a_connection_came_in_stays_denied_there() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (sidecar, [one, two]) = two_listeners(POLICY, &upstream).await;
    let mut connections = [
        held(&sidecar, &one, &upstream).await,
        held(&sidecar, &two, &upstream).await,
    ];
    let everything = "@id(\"all\") permit (principal, action, resource);";
    let top = policies(&sidecar, "next", everything);
    reload(&sidecar, &top, &[changed(one)]).await;
    for (connection, path) in connections.iter_mut().zip(["/forbidden/1", "/forbidden/2"]) {
        connection.send(&get_path(3, path)).await.unwrap();
        assert!(!answered(connection, 3).await, "{path}");
        let record = record(&sidecar, path).await;
        assert_eq!(
            (&record["effect"], &record["status"]),
            (&"deny".into(), &403.into())
        );
    }
    assert_eq!(upstream.seen().len(), 2, "nothing but what is held");
    let mut new = Target::at(&sidecar, one.listen).http1().await;
    assert_eq!(new.send(client::get("/forbidden/3")).await.status, 200);
}

/// An answer without an end.
async fn open(sidecar: &Sidecar, listener: &Listener<'_>, path: &str) -> http::Response<Incoming> {
    let mut http2 = Target::at(sidecar, listener.listen).http2().await;
    let mut request = client::get(&format!("https://localhost{path}"));
    let value = http::HeaderValue::from_static("en");
    request.headers_mut().insert("x-request-id", value);
    let mut response = within("the head", http2.0.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    ticks(&mut response, 2).await;
    // Its task goes on without it.
    drop(http2);
    response
}

async fn two_with_ticks() -> (Service, Sidecar, [Listener<'static>; 2]) {
    let service = Service::start(How::http1(), |_| async { ticking("text/plain") }).await;
    let listeners = [("one", free_port()), ("two", free_port())];
    let listeners = listeners.map(|(name, listen)| Listener {
        name,
        listen,
        upstream: service.address.parse().unwrap(),
        service: "app",
        more: "",
    });
    let mut setup = Setup::new("127.0.0.1:9");
    setup.text = Some(file(TOP, &listeners));
    (service, setup.start().await, listeners)
}

#[tokio::test]
async fn a_header_that_the_new_policies_read_and_nobody_kept_ends_what_a_left_listener_carries() {
    let (_service, sidecar, [one, two]) = two_with_ticks().await;
    let mut one_open = open(&sidecar, &one, "/one").await;
    let mut two_open = open(&sidecar, &two, "/two").await;
    let reads = POLICY.replace(
        r#"resource.path like "/forbidden*""#,
        r#"context.headers["x-request-id"].contains("none")"#,
    );
    let top = policies(&sidecar, "next", &reads);
    reload(&sidecar, &top, &[changed(one)]).await;
    for open in [&mut one_open, &mut two_open] {
        assert!(end(open).await.is_err());
    }
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn a_later_edit_reaches_what_is_left_of_earlier_configurations() {
    let (_service, sidecar, [one, two]) = two_with_ticks().await;
    let mut first = open(&sidecar, &one, "/cut/1").await;
    let mut kept = open(&sidecar, &two, "/kept").await;
    let top = policies(&sidecar, "next", POLICY);
    // The first version is two behind when the policies change.
    let again = Listener {
        more: "show_reason: true",
        ..changed(one)
    };
    reload(&sidecar, &top, &[changed(one)]).await;
    let mut second = open(&sidecar, &one, "/cut/2").await;
    reload(&sidecar, &top, &[again]).await;
    for open in [&mut first, &mut second, &mut kept] {
        ticks(open, 20).await;
    }
    let only_kept = POLICY
        .replace("unless", "when")
        .replace("/forbidden*", "/kept*");
    std::fs::write(sidecar.setup.path("next/main.cedar"), only_kept).unwrap();
    for open in [&mut first, &mut second] {
        assert!(end(open).await.is_err());
    }
    ticks(&mut kept, 50).await;
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn policies_that_do_not_load_refuse_the_whole_change() {
    let (_service, sidecar, [one, two]) = two_with_ticks().await;
    let mut opened = [
        open(&sidecar, &one, "/one").await,
        open(&sidecar, &two, "/two").await,
    ];
    let top = policies(&sidecar, "broken", "permit (principal");
    write(&sidecar, &file(&top, &[changed(one)]));
    let problems = until_failed(&sidecar).await["problems"].to_string();
    assert!(problems.contains("main.cedar"), "{problems}");
    for opened in &mut opened {
        ticks(opened, 20).await;
    }
    for listener in [&one, &two] {
        drop(open(&sidecar, listener, "/again").await);
    }
    // The policies in force are still the watched ones, for what was open all the while too.
    sidecar.setup.write_policy("");
    for opened in &mut opened {
        assert!(end(opened).await.is_err());
    }
    ended(&sidecar, "policy_change").await;
    assert_eq!(Target::at(&sidecar, two.listen).call().await, 403);
}

#[tokio::test]
async fn a_service_is_renamed_without_a_lost_call_by_policies_that_know_both_names() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    let renamed = POLICY
        .replace("Service::\"app\"", "Service::\"renamed\"")
        .replace("frontend-calls-app", "frontend-calls-renamed");
    let both = policies(&sidecar, "both", &format!("{POLICY}{renamed}"));
    let last = policies(&sidecar, "last", &renamed);
    let target = Target::of(&sidecar);
    let with = |service| {
        [Listener {
            service,
            ..listener("app", any_port(), &upstream)
        }]
    };
    load::until_with_new_connections(&target, async {
        under_way(&upstream).await;
        reload(&sidecar, &both, &with("renamed")).await;
        under_way(&upstream).await;
    })
    .await;
    // What came in by the old name has finished: its calls would be ended now.
    load::until_with_new_connections(&target, async {
        under_way(&upstream).await;
        reload(&sidecar, &last, &with("renamed")).await;
        under_way(&upstream).await;
    })
    .await;
    // The new files are watched, and the old ones no more.
    sidecar.setup.write_policy("");
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    std::fs::write(sidecar.setup.path("last/main.cedar"), "").unwrap();
    eventually("the new files to be in force", || async {
        (sidecar.get("frontend", "/").await.status == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_policies_cover_no_more_is_denied_where_it_was_allowed() {
    let (_service, sidecar, [one, two]) = two_with_ticks().await;
    let mut opened = [
        open(&sidecar, &one, "/one").await,
        open(&sidecar, &two, "/two").await,
    ];
    // Both change together: the calls to the old service belong to nobody's configuration.
    let renamed = POLICY.replace("Service::\"app\"", "Service::\"renamed\"");
    let top = policies(&sidecar, "next", &renamed);
    let renamed = Listener {
        service: "renamed",
        ..one
    };
    reload(&sidecar, &top, &[renamed]).await;
    for opened in &mut opened {
        assert!(end(opened).await.is_err());
    }
    ended(&sidecar, "policy_change").await;
    open(&sidecar, &one, "/new").await;
}
