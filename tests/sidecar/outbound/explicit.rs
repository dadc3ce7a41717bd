//! One outbound listener for one destination.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::agent::{Agent, context};
use crate::support::client::{Http1, plain};
use crate::support::eventually;
use crate::support::mesh::{beside, echo, mutual, outbound, to_shop};
use crate::support::pki::{Credentials, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;
use wayleave_certs::workload_api::X509Context;

fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", "Shop.example:8080");
    request.body(Full::default()).unwrap()
}

/// The shop's application and sidecar, and one beside its caller `frontend`.
struct Mesh {
    app: Upstream,
    shop: Sidecar,
    caller: Sidecar,
}

impl Mesh {
    async fn start(app: Speaks, protocol: &str, peer: &str) -> Self {
        let app = Upstream::start(app).await;
        let mut shop = Setup::new(app.address);
        let (inner, outer) = match protocol {
            "http2" => ("protocol: http2", ", protocol: http2"),
            _ => ("protocol: http1", ""),
        };
        shop.upstream_keys.push(inner);
        let shop = shop.start().await;
        let upstream = mutual(shop.inbound, peer, outer);
        let keys = to_shop("", &upstream);
        let caller = beside(&shop.setup.ca, "frontend", &keys).start().await;
        Self { app, shop, caller }
    }

    async fn http1(peer: &str) -> Self {
        Self::start(Speaks::Http1, "http1", peer).await
    }

    async fn get(&self, path: &str) -> crate::support::client::Answer {
        let out = outbound(&self.caller, "out").await;
        plain(out, get(path)).await.unwrap()
    }
}

#[tokio::test]
async fn a_call_passes_both_sidecars_and_is_on_record_at_each() {
    let mesh = Mesh::http1(&workload("app")).await;
    let out = outbound(&mesh.caller, "out").await;
    let mut request = get("/orders/7?full=1");
    let claim = "URI=spiffe://test.example/ns/default/sa/admin"
        .parse()
        .unwrap();
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", claim);
    let answer = plain(out, request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());

    let seen = mesh.app.only();
    assert_eq!(seen.target, "/orders/7?full=1");
    assert_eq!(seen.values("host"), ["Shop.example:8080"]);
    let xfcc = seen.values("x-forwarded-client-cert");
    assert_eq!(xfcc.len(), 1, "{xfcc:?}");
    assert!(
        xfcc[0].ends_with(&format!("URI={}", workload("frontend"))),
        "{xfcc:?}"
    );

    let left = mesh.caller.record(|_| true).await;
    assert_eq!(left["direction"], "outbound");
    assert_eq!(left["principal"], workload("frontend"));
    assert_eq!(left["resource"]["service"], "shop");
    assert_eq!(left["resource"]["host"], "shop.example");
    assert_eq!(left["policies"][0], "frontend-calls-out");
    assert_eq!(left["effect"], "allow");
    let entered = mesh.shop.record(|_| true).await;
    assert_eq!(entered["direction"], "inbound");
    assert_eq!(entered["principal"], workload("frontend"));
    assert_eq!(entered["resource"]["path"], "/orders/7");
}

#[tokio::test]
async fn the_workload_may_speak_http_2_with_prior_knowledge() {
    let mesh = Mesh::http1(&workload("app")).await;
    let stream = TcpStream::connect(outbound(&mesh.caller, "out").await)
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for path in ["/first", "/second"] {
        let request = Request::get(format!("http://shop.example{path}"));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = within("the answer", sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.version(), Version::HTTP_2);
    }
    let seen = mesh.app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].values("host"), ["shop.example"]);
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers_and_is_denied_in_its_own_words() {
    let mesh = Mesh::start(Speaks::Http2, "http2", &workload("app")).await;
    let stream = TcpStream::connect(outbound(&mesh.caller, "out").await)
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        Request::post(format!("http://shop.example{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::<Bytes>::from("message"))
            .unwrap()
    };
    let response = within("the answer", sender.send_request(request("/echo.Echo/Say"))).await;
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");
    let response = within(
        "the answer",
        sender.send_request(request("/forbidden.Echo/Say")),
    )
    .await;
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(mesh.app.seen().len(), 1);
}

#[tokio::test]
async fn the_peer_may_be_meant_by_its_id_by_a_path_or_by_its_trust_domain() {
    for peer in [
        "spiffe://test.example/ns/default/sa/app",
        "spiffe://test.example/ns/default/*",
        "spiffe://test.example/*",
    ] {
        let mesh = Mesh::http1(peer).await;
        assert_eq!(mesh.get("/").await.status, 200, "{peer}");
    }
}

#[tokio::test]
async fn refuses_an_upstream_that_is_another_workload() {
    for peer in [
        "spiffe://test.example/ns/default/sa/till",
        "spiffe://test.example/ns/other/*",
        "spiffe://other.example/*",
    ] {
        let mesh = Mesh::http1(peer).await;
        let answer = mesh.get("/").await;
        assert_eq!(answer.status, 502, "{peer}");
        assert_eq!(answer.json()["reason_code"], "upstream_identity");
        let record = mesh.caller.record(|_| true).await;
        assert_eq!(record["failure"], "upstream_identity");
        assert_eq!(record["effect"], "allow");
        mesh.app.assert_untouched();
        let told = mesh
            .caller
            .process
            .stderr
            .contains("upstream refused")
            .await;
        for words in [
            &workload("app"),
            peer,
            record["decision_id"].as_str().unwrap(),
        ] {
            assert!(told.contains(words), "no {words} in {told}");
        }
    }
}

#[tokio::test]
async fn a_denied_call_opens_no_upstream_connection() {
    let app = Upstream::start(Speaks::Http1).await;
    let ca = crate::support::pki::Ca::new();
    let keys = to_shop("", &format!("{{ address: \"{}\" }}", app.address));
    let caller = beside(&ca, "frontend", &keys).start().await;
    let out = outbound(&caller, "out").await;
    let answer = plain(out, get("/forbidden/1")).await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["reason_code"], "policy_deny");
    app.assert_untouched();
    let record = caller.record(|_| true).await;
    assert_eq!(record["policies"][0], "not-there");
    assert_eq!(record["direction"], "outbound");

    let other = beside(&ca, "backend", &keys).start().await;
    let out = outbound(&other, "out").await;
    assert_eq!(plain(out, get("/")).await.unwrap().status, 403);
    app.assert_untouched();
}

#[tokio::test]
async fn an_upstream_in_plain_text_is_told_nothing_of_the_callers_own_making() {
    let app = Upstream::start(Speaks::Http1).await;
    let keys = to_shop("", &format!("{{ address: \"{}\" }}", app.address));
    let caller = beside(&crate::support::pki::Ca::new(), "frontend", &keys);
    let caller = caller.start().await;
    let mut request = get("/");
    for name in ["x-forwarded-client-cert", "proxy-authorization", "x-kept"] {
        request
            .headers_mut()
            .insert(name, "by the workload".parse().unwrap());
    }
    let answer = plain(outbound(&caller, "out").await, request).await;
    assert_eq!(answer.unwrap().status, 200);
    let seen = app.only();
    let names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["host", "x-kept"]);
}

#[tokio::test]
async fn answers_503_while_the_workload_has_no_name_and_serves_once_it_has() {
    let app = Upstream::start(Speaks::Http1).await;
    let ca = crate::support::pki::Ca::new();
    let keys = to_shop("", &format!("{{ address: \"{}\" }}", app.address));
    let mut setup = beside(&ca, "frontend", &keys);
    let agent = Agent::start(&setup.path("agent.sock"), X509Context::default());
    let socket = agent.socket.display();
    setup.identity = format!("workload_api: {{ endpoint: \"unix://{socket}\" }}");
    let caller = setup.launch("waiting for the first SVID").await;
    let out = outbound(&caller, "out").await;
    let answer = plain(out, get("/")).await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason_code"], "no_identity");
    assert_eq!(answer.header("retry-after"), "1");
    app.assert_untouched();

    // A connection from before the name does not outlive it.
    let mut early = TcpStream::connect(out).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    early.write_all(request).await.unwrap();
    let mut first = [0; 12];
    early.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 503");
    agent.send(context(&ca, &Leaf::svid(&workload("frontend"))));
    let mut rest = Vec::new();
    within("the end", early.read_to_end(&mut rest))
        .await
        .unwrap();
    eventually("an allowed call", || async {
        (plain(out, get("/")).await?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn denies_once_the_workloads_own_svid_has_expired() {
    let app = Upstream::start(Speaks::Http1).await;
    let ca = crate::support::pki::Ca::new();
    let keys = to_shop("", &format!("{{ address: \"{}\" }}", app.address));
    let setup = beside(&ca, "frontend", &keys);
    let leaf = Leaf {
        lifetime: Some(time::Duration::seconds(5)),
        ..Leaf::svid(&workload("frontend"))
    };
    Credentials::write(&setup.path("own"), &ca.issue(&leaf), &ca.pem());
    let caller = setup.launch("ready").await;
    let out = outbound(&caller, "out").await;
    let mut kept = Http1::over_plain(TcpStream::connect(out).await.unwrap()).await;
    assert_eq!(kept.send(get("/")).await.status, 200);
    let refused = eventually("the end of the SVID", || async {
        let answer = plain(out, get("/")).await?;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["reason_code"], "no_identity");
    // Nor does a connection from before that moment go on.
    eventually("the end of the connection", || {
        let closed = kept.0.is_closed();
        async move { closed.then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn bytes_of_any_protocol_are_carried_to_the_peer_with_its_server_name() {
    let mut shop = Setup::new(echo().await);
    shop.inbound_keys.push("protocol: tcp");
    shop.write_policy(
        r#"
@id("by-name")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action == Action::"tcp:connect",
  resource in Service::"app"
) when { resource.host == "localhost" };
"#,
    );
    let shop = shop.start().await;
    let keys = to_shop(
        ", protocol: tcp",
        &mutual(shop.inbound, &workload("app"), ""),
    );
    let caller = beside(&shop.setup.ca, "frontend", &keys).start().await;
    let mut stream = TcpStream::connect(outbound(&caller, "out").await)
        .await
        .unwrap();
    stream.write_all(b"\0\x01 no HTTP \xff").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"\0\x01 no HTTP \xfffarewell");
    let left = caller.record(|_| true).await;
    assert_eq!(left["action"], "tcp:connect");
    assert_eq!(left["resource"]["port"], shop.inbound.port());
    assert_eq!(left["failure"], serde_json::Value::Null);
    // The name that was dialled is sent along.
    let entered = shop.record(|_| true).await;
    assert_eq!(entered["resource"]["host"], "localhost");
    assert_eq!(entered["principal"], workload("frontend"));
}

#[tokio::test]
async fn check_and_status_show_where_calls_may_go() {
    let ca = crate::support::pki::Ca::new();
    let upstream =
        "{ address: \"shop.internal:8443\", tls: { peer: \"spiffe://test.example/*\" } }";
    let setup = beside(&ca, "frontend", &to_shop("", upstream));
    let config = setup.write_config();
    let told = tool::run(wayleave().arg("check").arg("--config").arg(&config)).await;
    let told = told.successful().stdout();
    for words in [
        "outbound  out: 127.0.0.1:0 to the destination shop",
        "destination shop: at shop.internal:8443, which proves to be spiffe://test.example/*",
    ] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    let caller = setup.start().await;
    let out = outbound(&caller, "out").await;
    let admin = caller.admin.to_string();
    let told = tool::run(wayleave().args(["status", "--admin", &admin])).await;
    let told = told.successful().stdout();
    for words in [
        &format!("out  {out} outbound, for shop at shop.internal:8443"),
        "shop  shop.internal:8443, which proves to be spiffe://test.example/*, called by shop.internal",
    ] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    let status = caller.admin_get("/status").await.unwrap().json();
    assert_eq!(status["listeners"][1]["kind"], "explicit");
    assert_eq!(status["destinations"][0]["service"], "shop");
}
