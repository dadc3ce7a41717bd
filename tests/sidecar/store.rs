//! What sidecars share through Redis: quarantines, revocations, ratings and their ends, also when
//! the server, the wire to it or a sidecar was away; and counters of the whole fleet.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::support::client;
use crate::support::process::wayleave;
use crate::support::redis::{Redis, Wire};
use crate::support::service::{Body, How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool::{Finished, run};
use crate::support::{eventually, within};

const FRONTEND: &str = "spiffe://test.example/ns/default/sa/frontend";
const QUARANTINE: [&str; 5] = ["quarantine", "start", FRONTEND, "--for", "1h"];
const LIFT: [&str; 3] = ["quarantine", "lift", FRONTEND];

fn ticking() -> Response<Body> {
    let ticks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let tick = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"tick\n")));
        Some((tick, ()))
    });
    Response::new(StreamBody::new(ticks).boxed_unsync())
}

async fn service() -> Service {
    Service::start(How::http1(), |call| async move {
        match call.path.as_str() {
            "/ticks" => ticking(),
            _ => crate::support::service::say(200, "ok"),
        }
    })
    .await
}

/// One sidecar of a fleet.
struct Member {
    sidecar: Sidecar,
    service: Service,
}

impl Member {
    /// With these keys in `signals.store`, until it has read everything.
    async fn start(store: &str, policy: &str) -> Self {
        let member = Self::launch(store, policy).await;
        member.until_connected(true).await;
        member
    }

    async fn launch(store: &str, policy: &str) -> Self {
        let service = service().await;
        let setup = Setup::new(&service.address);
        setup.write_policy(policy);
        Self::of(setup, service, store).await
    }

    async fn of(mut setup: Setup, service: Service, store: &str) -> Self {
        let signals = format!("signals: {{ state_dir: state, store: {{ {store} }} }}\n");
        let text = setup.config("127.0.0.1:0").replace(
            "admin: { listen: \"127.0.0.1:0\" }\n",
            &format!("admin: {{ listen: \"127.0.0.1:0\", socket: admin.sock }}\n{signals}"),
        );
        setup.text = Some(text);
        let sidecar = setup.start().await;
        Self { sidecar, service }
    }

    /// Ends the process, and gives what a next one is started with.
    async fn stop(self) -> (Setup, Service) {
        let Sidecar {
            setup, mut process, ..
        } = self.sidecar;
        process.signal("KILL").await;
        process.ended().await;
        (setup, self.service)
    }

    async fn operator(&self, args: &[&str]) -> Finished {
        let socket = self.sidecar.setup.path("admin.sock");
        let mut command = wayleave();
        run(command.args(args).arg("--socket").arg(socket)).await
    }

    async fn orders(&self, args: &[&str]) {
        self.operator(args).await.successful();
    }

    async fn until_connected(&self, connected: bool) {
        eventually("the store to be noticed", || async {
            (self.store().await["connected"] == connected).then_some(())
        })
        .await;
    }

    /// What `/status` tells of the store.
    async fn store(&self) -> serde_json::Value {
        let status = self.sidecar.admin_get("/status").await.unwrap().json();
        status["signal_store"].clone()
    }

    /// Waits until a call is answered so.
    async fn until_answered(&self, status: u16) {
        eventually("the answer", || async {
            let mut http1 = self.sidecar.http1("frontend").await;
            // One that is under way when a quarantine begins is cut.
            let sent = http1.0.send_request(client::get("/any"));
            let answer = within("the answer", sent).await.ok()?;
            (answer.status() == status).then_some(())
        })
        .await;
    }

    async fn warnings(&self) -> serde_json::Value {
        self.sidecar.admin_get("/readyz").await.unwrap().json()["warnings"].clone()
    }
}

fn quick(redis: &Redis) -> String {
    format!("url: \"{}\", timeout: 300ms", redis.url())
}

async fn tick(response: &mut Response<Incoming>) {
    let frame = within("a tick", response.frame()).await;
    assert!(frame.unwrap().unwrap().is_data());
}

#[tokio::test]
async fn what_is_said_at_one_sidecar_is_in_force_at_the_other_and_ends_its_open_streams() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let store = quick(&redis);
    let one = Member::start(&store, POLICY).await;
    let two = Member::start(&store, POLICY).await;
    let mut http2 = two.sidecar.http2("frontend").await;
    let url = two.sidecar.url("/ticks");
    let response = within("the head", http2.0.send_request(client::get(&url))).await;
    let mut response = response.unwrap();
    tick(&mut response).await;
    one.orders(&QUARANTINE).await;
    within("the cut", async {
        while let Some(Ok(_)) = response.frame().await {}
    })
    .await;
    let ended = |record: &serde_json::Value| record["failure"] == "lease_ended";
    let record = two.sidecar.record(ended).await;
    assert_eq!(record["ended_by"], "quarantine", "{record}");
    let denied = two.sidecar.get("frontend", "/any").await;
    assert_eq!(denied.json()["reason_code"], "quarantined");
    // Lifted at the other one.
    two.orders(&LIFT).await;
    one.until_answered(200).await;
    // As are revocations and ratings.
    two.orders(&["revoke", "principal", FRONTEND]).await;
    one.until_answered(403).await;
    one.orders(&["revoke", "lift", FRONTEND]).await;
    two.until_answered(200).await;
    one.orders(&["risk", "set", FRONTEND, "high"]).await;
    eventually("the rating", || async {
        let ratings = two.sidecar.metric("wayleave_risk_ratings").await;
        (ratings == 1.0).then_some(())
    })
    .await;
    // Nothing goes back and forth.
    let sent = "wayleave_signal_store_changes_total{direction=\"sent\"}";
    assert_eq!(one.sidecar.metric(sent).await, 3.0);
    assert_eq!(two.sidecar.metric(sent).await, 2.0);
}

/// Denies whoever calls while what the fleet shares may be out of date.
fn unless_stale() -> String {
    let forbid = "@id(\"not-while-stale\")\n\
        forbid (principal, action, resource is Endpoint) when { \
        resource.path == \"/strict\" && context.signals.stale };\n";
    format!("{POLICY}{forbid}")
}

#[tokio::test]
async fn while_the_store_is_gone_calls_are_decided_and_afterwards_all_is_told_again() {
    let Some(mut redis) = Redis::start(&[]).await else {
        return;
    };
    let store = quick(&redis);
    let one = Member::start(&store, &unless_stale()).await;
    let two = Member::start(&store, &unless_stale()).await;
    assert_eq!(two.sidecar.get("frontend", "/strict").await.status, 200);
    one.orders(&["revoke", "serial", "1f"]).await;
    redis.kill().await;
    for member in [&one, &two] {
        member.until_connected(false).await;
        assert_eq!(member.warnings().await[0], "signal_store_unreachable");
        member.sidecar.until_ready().await;
        let strict = member.sidecar.get("frontend", "/strict").await;
        assert_eq!(strict.status, 403);
        assert_eq!(member.sidecar.get("frontend", "/any").await.status, 200);
    }
    let told = two.store().await;
    let connected = format!(
        "wayleave_signal_store_connected{{server=\"127.0.0.1:{}\"}}",
        redis.port
    );
    assert_eq!(two.sidecar.metric(&connected).await, 0.0);
    assert!(told["error"].is_string(), "{told}");
    // Said while it is gone, on both sides.
    one.orders(&QUARANTINE).await;
    two.orders(&["revoke", "principal", "spiffe://test.example/x"])
        .await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 403);
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 200);
    redis.restart().await;
    two.until_answered(403).await;
    for member in [&one, &two] {
        member.until_connected(true).await;
        assert!(member.warnings().await.as_array().unwrap().is_empty());
        eventually("the revocations", || async {
            let known = member.sidecar.metric("wayleave_revocations").await;
            (known == 2.0).then_some(())
        })
        .await;
    }
    // What was there before it lost everything is there again.
    assert_eq!(redis.ask(&["HLEN", "wayleave:standing"]).await.trim(), "3");
    one.orders(&LIFT).await;
    two.until_answered(200).await;
    assert_eq!(two.sidecar.get("frontend", "/strict").await.status, 200);
    assert_eq!(two.sidecar.metric(&connected).await, 1.0);
    let reconnects = "wayleave_signal_store_reconnects_total";
    assert!(two.sidecar.metric(reconnects).await >= 1.0);
}

#[tokio::test]
async fn a_store_that_says_nothing_is_noticed_and_is_used_again_when_it_goes_on() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let store = quick(&redis);
    let one = Member::start(&store, POLICY).await;
    let two = Member::start(&store, POLICY).await;
    redis.pause().await;
    // Said before anybody has noticed.
    one.orders(&QUARANTINE).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 403);
    one.until_connected(false).await;
    two.until_connected(false).await;
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 200);
    redis.resume().await;
    two.until_answered(403).await;
    one.until_connected(true).await;
}

#[tokio::test]
async fn a_lift_wins_over_what_a_partitioned_sidecar_said_before_it() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let mut wire = Wire::to(redis.port).await;
    let one = Member::start(&quick(&redis), POLICY).await;
    let store = format!("url: \"redis://{}\", timeout: 300ms", wire.address);
    let two = Member::start(&store, POLICY).await;
    one.orders(&QUARANTINE).await;
    two.until_answered(403).await;
    wire.cut();
    two.until_connected(false).await;
    // Longer than the one that both know.
    let longer = ["quarantine", "start", FRONTEND, "--for", "2h"];
    two.orders(&longer).await;
    one.orders(&LIFT).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 403);
    // It remembers nothing but what its journal does.
    let (setup, service) = two.stop().await;
    let two = Member::of(setup, service, &store).await;
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 403);
    wire.mend().await;
    two.until_answered(200).await;
    two.until_connected(true).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    // And what is said after the lift stands.
    two.orders(&QUARANTINE).await;
    one.until_answered(403).await;
}

#[tokio::test]
async fn a_quarantine_that_was_said_after_a_lift_stands_although_its_sidecar_was_partitioned() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let mut wire = Wire::to(redis.port).await;
    let one = Member::start(&quick(&redis), POLICY).await;
    let store = format!("url: \"redis://{}\", timeout: 300ms", wire.address);
    let two = Member::start(&store, POLICY).await;
    wire.cut();
    two.until_connected(false).await;
    // Of something that it need not know of.
    one.orders(&LIFT).await;
    two.orders(&QUARANTINE).await;
    wire.mend().await;
    one.until_answered(403).await;
}

#[tokio::test]
async fn a_sidecar_that_starts_knows_what_was_said_before_and_what_its_journal_remembers() {
    let Some(mut redis) = Redis::start(&[]).await else {
        return;
    };
    let store = quick(&redis);
    let one = Member::start(&store, POLICY).await;
    one.orders(&QUARANTINE).await;
    one.orders(&["revoke", "serial", "1f"]).await;
    let two = Member::start(&store, POLICY).await;
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 403);
    two.orders(&LIFT).await;
    one.until_answered(200).await;
    // Everybody is gone and everything is lost, but for one journal.
    let (setup, service) = one.stop().await;
    drop(two);
    redis.kill().await;
    redis.restart().await;
    let one = Member::of(setup, service, &store).await;
    one.until_connected(true).await;
    let three = Member::start(&store, POLICY).await;
    assert_eq!(three.sidecar.metric("wayleave_revocations").await, 1.0);
    assert_eq!(three.sidecar.metric("wayleave_quarantines").await, 0.0);
    // The lift too: what was said before it does not come back.
    let fields = redis.ask(&["HKEYS", "wayleave:standing"]).await;
    assert!(fields.contains(&format!("released {FRONTEND}")), "{fields}");
}

#[tokio::test]
async fn what_is_no_change_is_counted_and_ignored() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    redis
        .ask(&["HSET", "wayleave:standing", "quarantine x", "1 2 {}"])
        .await;
    let one = Member::start(&quick(&redis), POLICY).await;
    let unfit = "wayleave_signal_store_unfit_total";
    assert_eq!(one.sidecar.metric(unfit).await, 1.0);
    let by = "\"origin\":{\"by\":\"operator\",\"at_ms\":1}";
    for message in [
        "",
        "{",
        "{\"released\":{}}",
        // In a form that no SVID has.
        &format!("{{\"revoked\":{{\"subject\":{{\"principal\":\"frontend\"}},{by}}}}}"),
    ] {
        redis.ask(&["PUBLISH", "wayleave:changes", message]).await;
    }
    eventually("the messages to be counted", || async {
        (one.sidecar.metric(unfit).await == 5.0).then_some(())
    })
    .await;
    let log = one.sidecar.process.stderr.text();
    assert_eq!(log.matches("it is ignored").count(), 1, "{log}");
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    assert_eq!(one.sidecar.metric("wayleave_revocations").await, 0.0);
    let good = format!("{{\"revoked\":{{\"subject\":{{\"principal\":\"{FRONTEND}\"}},{by}}}}}");
    redis.ask(&["PUBLISH", "wayleave:changes", &good]).await;
    one.until_answered(403).await;
}

/// The access control list that the documentation tells operators to use.
fn documented_rules() -> Vec<String> {
    let document = include_str!("../../docs/signals-store.md");
    let (_, rest) = document.split_once("ACL SETUSER wayleave").unwrap();
    let (rules, _) = rest.split_once("```").unwrap();
    let rules = rules.replace('\\', " ").replace("PASSWORD", "hunter2");
    rules.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_documented_rules_suffice_and_the_password_is_shown_nowhere() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let rules = documented_rules();
    let mut acl = vec!["ACL", "SETUSER", "wayleave"];
    acl.extend(rules.iter().map(String::as_str));
    assert_eq!(redis.ask(&acl).await.trim(), "OK");
    let url = |password: &str| {
        let at = format!("wayleave:{password}@127.0.0.1:{}", redis.port);
        format!("url: \"redis://{at}\", timeout: 300ms, fleet_wide: [calls_per_minute]")
    };
    let reads =
        "forbid (principal, action, resource) when { context.signals.calls_per_minute > 900 };";
    let policy = format!("{POLICY}@id(\"slow-down\")\n{reads}\n");
    let one = Member::start(&url("hunter2"), &policy).await;
    let two = Member::start(&url("hunter2"), &policy).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    eventually("counters to be reconciled", || async {
        let counted = "wayleave_signal_store_counted_principals";
        (one.sidecar.metric(counted).await == 1.0).then_some(())
    })
    .await;
    one.orders(&QUARANTINE).await;
    two.until_answered(403).await;
    let refused = Member::launch(&url("hunter3"), POLICY).await;
    let told = eventually("the refusal", || async {
        Some(refused.store().await["error"].as_str()?.to_owned())
    })
    .await;
    assert!(
        told.contains("WRONGPASS") || told.contains("username-password"),
        "{told}"
    );
    for member in [&one, &refused] {
        let mut shown = member.sidecar.process.stderr.text();
        shown += &member.sidecar.process.stdout.text();
        for path in ["/status", "/metrics", "/readyz"] {
            shown += &member.sidecar.admin_get(path).await.unwrap().text();
        }
        assert!(shown.contains("signal_store"), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[tokio::test]
async fn a_mistake_in_the_setting_is_told_with_its_remedy_and_without_the_password() {
    let service = service().await;
    let mut setup = Setup::new(&service.address);
    for (store, told) in [
        (
            "url: \"http://u:hunter2@h\"",
            "neither `redis` nor `rediss`",
        ),
        ("url: \"redis://u:hunter2@h/x\"", "number of its database"),
        (
            "url: \"redis://u:hunter2@h\", prefix: \"*\"",
            "is not a prefix",
        ),
        (
            "url: \"redis://u:hunter2@h\", ca_file: x",
            "no use without TLS",
        ),
        (
            "url: memory, timeout: 1s",
            "no use where the store is this process's memory",
        ),
        (
            "url: \"redis://u:hunter2@h\", fleet_wide: [endpoints_per_minute]",
            "calls_per_minute, calls_per_hour, denials_per_minute",
        ),
        (
            "url: \"redis://u:hunter2@h\", fleet_wide: [calls_per_second]",
            "too short to be reconciled every 1s",
        ),
        (
            "url: \"redis://h\", password_file: absent.txt",
            "signals.store.password_file",
        ),
        (
            "url: \"rediss://u:hunter2@h\", ca_file: absent.pem",
            "signals.store.ca_file",
        ),
        (
            "url: \"redis://u:hunter2@h\", password_file: absent.txt",
            "has a password already",
        ),
    ] {
        let signals = format!("signals: {{ store: {{ {store} }} }}\ninbound:");
        setup.text = Some(setup.config("127.0.0.1:0").replace("inbound:", &signals));
        let path = setup.write_config();
        for format in ["text", "json"] {
            let mut command = wayleave();
            command.args(["check", "--format", format, "--config"]);
            let checked = run(command.arg(&path)).await;
            assert_eq!(checked.0.status.code(), Some(2), "{store}");
            let shown = checked.stdout() + &checked.stderr();
            // Where it is shown to people it is broken into lines.
            let one_line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            if format == "json" {
                assert!(one_line.contains(told), "{store}: {shown}");
            }
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[tokio::test]
async fn the_store_is_reached_by_tls_that_the_given_authorities_vouch_for_and_no_other() {
    use crate::support::pki::{Ca, Credentials, Leaf, workload};
    let (ca, other) = (Ca::new(), Ca::new());
    let folder = tempfile::tempdir().unwrap();
    let leaf = Leaf::local(&workload("redis"));
    let files = Credentials::write(folder.path(), &ca.issue(&leaf), &ca.pem());
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("other.pem"), other.pem()).unwrap();
    std::fs::write(path("password"), "hunter2\n").unwrap();
    let (svid, key, bundle) = (path("svid.pem"), path("key.pem"), path("bundle.pem"));
    drop(files);
    let args = [
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &svid,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &bundle,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "hunter2",
    ];
    let Some(redis) = Redis::start(&args).await else {
        return;
    };
    let store = |roots: &str| {
        let (port, password) = (redis.port, path("password"));
        format!(
            "url: \"rediss://localhost:{port}\", timeout: 2s, ca_file: \"{roots}\", \
             password_file: \"{password}\""
        )
    };
    let one = Member::start(&store(&bundle), POLICY).await;
    let two = Member::start(&store(&bundle), POLICY).await;
    one.orders(&QUARANTINE).await;
    two.until_answered(403).await;
    let refused = Member::launch(&store(&path("other.pem")), POLICY).await;
    let told = eventually("the refusal", || async {
        Some(refused.store().await["error"].as_str()?.to_owned())
    });
    let told = told.await;
    assert!(told.contains("the TLS handshake failed"), "{told}");
    assert_eq!(refused.sidecar.get("frontend", "/any").await.status, 200);
}

/// Waits until a member has told and heard once more, from beginning to end.
async fn until_reconciled(member: &Member) {
    let rounds = "wayleave_signal_store_reconcile_duration_seconds_count";
    let before = member.sidecar.metric(rounds).await;
    eventually("two more rounds", || async {
        (member.sidecar.metric(rounds).await >= before + 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_counter_of_the_fleet_lets_through_no_more_than_the_limit_once_it_is_reconciled() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let policy = format!(
        "{POLICY}@id(\"slow-down\") @status(\"429\")\n\
         forbid (principal, action, resource) when {{ context.signals.calls_per_hour > 20 }};\n"
    );
    let store = format!("{}, fleet_wide: [calls_per_hour]", quick(&redis));
    let one = Member::start(&store, &policy).await;
    let two = Member::start(&store, &policy).await;
    for _ in 0..15 {
        assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    }
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 200);
    until_reconciled(&one).await;
    until_reconciled(&two).await;
    // Four are left for both together, although each has counted less than the limit.
    for _ in 0..4 {
        assert_eq!(two.sidecar.get("frontend", "/any").await.status, 200);
    }
    assert_eq!(two.sidecar.get("frontend", "/any").await.status, 429);
    let record = two
        .sidecar
        .record(|record| record["effect"] == "deny")
        .await;
    assert_eq!(record["signals"]["calls_per_hour"], 21, "{record}");
    until_reconciled(&two).await;
    until_reconciled(&one).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 429);
    // Without the store each is for itself again, once what was known of the others is too old;
    // until then it holds.
    redis.pause().await;
    one.until_connected(false).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 429);
}

#[tokio::test]
async fn a_sidecar_that_has_counted_nothing_knows_what_others_count_after_one_call() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let policy = format!(
        "{POLICY}@id(\"slow-down\") @status(\"429\")\n\
         forbid (principal, action, resource) when {{ context.signals.calls_per_hour > 1000 }};\n"
    );
    let store = format!("{}, fleet_wide: [calls_per_hour]", quick(&redis));
    let one = Member::start(&store, &policy).await;
    let now = redis.ask(&["TIME"]).await;
    let seconds = now.lines().next().unwrap().to_owned();
    let key = format!("wayleave:count:{FRONTEND}");
    // One that is gone for an hour, and one that is not.
    let long_ago = seconds.parse::<u64>().unwrap() - 3_601;
    let gone = format!("{long_ago}000 calls_per_hour=5000");
    redis.ask(&["HSET", &key, "gone", &gone, "junk", "x"]).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    until_reconciled(&one).await;
    assert_eq!(one.sidecar.get("frontend", "/any").await.status, 200);
    let there = format!("{seconds}000 calls_per_minute=7 calls_per_hour=5000");
    redis.ask(&["HSET", &key, "there", &there]).await;
    one.until_answered(429).await;
    let fields = redis.ask(&["HKEYS", &key]).await;
    assert!(!fields.contains("junk"), "{fields}");
}
