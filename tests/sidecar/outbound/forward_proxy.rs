//! An outbound listener that clients name as their HTTP proxy.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::client::status_of;
use crate::support::mesh::{beside, echo, outbound, proxy};
use crate::support::pki::{Ca, workload};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

/// A sidecar that is the proxy of `frontend`, with these destinations.
pub(super) async fn started(destinations: &str) -> (Sidecar, SocketAddr) {
    let caller = beside(&Ca::new(), "frontend", &proxy(destinations))
        .start()
        .await;
    let out = outbound(&caller, "proxy").await;
    (caller, out)
}

/// The proxy, and an application behind it that is called `shop.example`.
async fn shop() -> (Upstream, Sidecar, SocketAddr) {
    let app = Upstream::start(Speaks::Http1).await;
    let destination = format!(
        "{{ service: shop, hosts: [shop.example, \"*.shop.example\"], upstream: {{ address: \"{}\" }} }}",
        app.address
    );
    let (caller, out) = started(&destination).await;
    (app, caller, out)
}

/// A proxy that leads wherever it is asked, as far as these addresses may be.
pub(super) async fn anywhere(allowed: &str) -> (Sidecar, SocketAddr) {
    let upstream = format!("{{ original: true, allow_addresses: [{allowed}] }}");
    started(&format!(
        "{{ service: shop, hosts: [\"*\"], upstream: {upstream} }}"
    ))
    .await
}

/// Sends a head as it is and reads until the other side closes.
async fn raw(proxy: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) async fn get(proxy: SocketAddr, url: &str) -> String {
    let host = url.split('/').nth(2).unwrap();
    raw(
        proxy,
        &format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
    .await
}

pub(super) fn reason(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    problem["reason_code"].as_str().unwrap().to_owned()
}

/// The head of the answer to a `CONNECT`, and the connection that it was given on.
async fn connect(proxy: SocketAddr, target: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(within("the answer", stream.read_u8()).await.unwrap());
    }
    (String::from_utf8(answer).unwrap(), stream)
}

#[tokio::test]
async fn curl_reaches_a_destination_by_its_host_and_leaves_its_password_here() {
    let (app, caller, out) = shop().await;
    let proxy = format!("http://{out}");
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-i",
        "-x",
        &proxy,
        "--proxy-user",
        "me:secret",
        "--noproxy",
        "",
    ]);
    let told = tool::run(curl.args(["--data", "abc", "http://Shop.example:8080/orders?a=1"])).await;
    let told = told.successful().stdout();
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let seen = app.only();
    assert_eq!(seen.target, "/orders?a=1");
    assert_eq!(seen.values("host"), ["Shop.example:8080"]);
    for name in [
        "proxy-connection",
        "proxy-authorization",
        "x-forwarded-client-cert",
    ] {
        assert!(seen.values(name).is_empty(), "{name}: {:?}", seen.headers);
    }
    let record = caller.record(|_| true).await;
    assert_eq!(record["principal"], workload("frontend"));
    assert_eq!(record["direction"], "outbound");
    assert_eq!(record["action"], "http:post");
    assert_eq!(record["resource"]["service"], "shop");
    assert_eq!(record["resource"]["host"], "shop.example");
    assert_eq!(record["resource"]["port"], 8080);
}

#[tokio::test]
async fn python_takes_it_from_its_environment() {
    let (app, _caller, out) = shop().await;
    let standard = "import urllib.request as u; print(u.urlopen('http://shop.example/a').status)";
    let requests =
        "import requests; print(requests.get('http://v1.shop.example:80/b').status_code)";
    let mut expected = vec!["/a"];
    for (script, module) in [(standard, "urllib"), (requests, "requests")] {
        let mut python = Command::new("python3");
        python.args(["-c", &format!("import {module}")]);
        if module == "requests" && !tool::run(&mut python).await.0.status.success() {
            tool::skip("the Python module `requests` is not installed");
            continue;
        }
        let mut python = Command::new("python3");
        for name in ["no_proxy", "NO_PROXY"] {
            python.env_remove(name);
        }
        python
            .env("http_proxy", format!("http://{out}"))
            .args(["-c", script]);
        assert_eq!(tool::run(&mut python).await.successful().stdout(), "200\n");
        if module == "requests" {
            expected.push("/b");
        }
    }
    let targets: Vec<_> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, expected);
}

#[tokio::test]
async fn node_asks_by_absolute_url_and_by_connect() {
    if tool::find("node").is_none() {
        return;
    }
    let (app, caller, out) = shop().await;
    let script = format!(
        "const http = require('http');
         const proxy = {{ host: '{}', port: {} }};
         http.get({{ ...proxy, path: 'http://shop.example/absolute', headers: {{ host: 'shop.example' }} }}, answer => {{
           answer.resume().on('end', () => http.request({{ ...proxy, method: 'CONNECT', path: 'shop.example:80' }})
             .on('connect', (reply, socket) => {{
               socket.write('GET /tunnelled HTTP/1.1\\r\\nHost: shop.example\\r\\nConnection: close\\r\\n\\r\\n');
               socket.on('data', data => console.log(answer.statusCode, reply.statusCode, String(data).slice(0, 12)));
               socket.on('end', () => process.exit(0));
             }}).end());
         }});",
        out.ip(),
        out.port()
    );
    let told = tool::run(Command::new("node").args(["-e", &script])).await;
    let told = told.successful().stdout();
    assert!(told.starts_with("200 200 HTTP/1.1 200"), "{told}");
    let targets: Vec<_> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/absolute", "/tunnelled"]);
    let tunnel = caller.record(|line| line["action"] == "tcp:connect").await;
    assert_eq!(tunnel["resource"]["host"], "shop.example");
    assert_eq!(tunnel["resource"]["port"], 80);
    assert_eq!(tunnel["status"], 200);
}

#[tokio::test]
async fn a_request_without_an_absolute_target_is_placed_by_its_host() {
    let (app, _caller, out) = shop().await;
    let head = "GET /simple HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&raw(out, head).await), 200);
    assert_eq!(app.only().target, "/simple");
}

#[tokio::test]
async fn a_host_that_leads_nowhere_is_refused_and_on_record() {
    let (app, caller, out) = shop().await;
    for url in [
        "http://other.example/",
        "http://xshop.example/",
        "http://shop.example.evil/",
    ] {
        let answer = get(out, url).await;
        assert_eq!(status_of(&answer), 403, "{url}");
        assert_eq!(reason(&answer), "destination_unknown");
    }
    let record = caller
        .record(|line| line["resource"]["host"] == "other.example")
        .await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(record["reason_code"], "destination_unknown");
    let answer = raw(out, "CONNECT other.example:443 HTTP/1.1\r\n\r\n").await;
    assert_eq!(status_of(&answer), 403);
    assert_eq!(reason(&answer), "destination_unknown");
    // Its own address as a host is no way in.
    let own = format!("GET / HTTP/1.1\r\nHost: {out}\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&raw(out, &own).await), 403);
    app.assert_untouched();
}

#[tokio::test]
async fn status_shows_what_the_proxy_leads_to() {
    let (_app, caller, out) = shop().await;
    let admin = caller.admin.to_string();
    let told = tool::run(wayleave().args(["status", "--admin", &admin])).await;
    let told = told.successful().stdout();
    for words in [
        &format!("proxy  {out} outbound, as a forward proxy"),
        "called by shop.example, *.shop.example",
    ] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
}

#[tokio::test]
async fn ports_tell_destinations_of_one_host_apart() {
    let (web, admin) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let destinations = format!(
        "{{ service: shop, hosts: [a.example], ports: [80], upstream: {{ address: \"{}\" }} }},\
         {{ service: admin, hosts: [a.example], ports: [81], upstream: {{ address: \"{}\" }} }}",
        web.address, admin.address
    );
    let (caller, out) = started(&destinations).await;
    assert_eq!(status_of(&get(out, "http://a.example/").await), 200);
    // Policy knows the other port by another service, which is not permitted.
    assert_eq!(
        reason(&get(out, "http://a.example:81/").await),
        "no_matching_policy"
    );
    assert_eq!(
        reason(&get(out, "http://a.example:82/").await),
        "destination_unknown"
    );
    let denied = caller.record(|line| line["resource"]["port"] == 81).await;
    assert_eq!(denied["resource"]["service"], "admin");
    assert_eq!(web.seen().len(), 1);
    admin.assert_untouched();
}

#[tokio::test]
async fn a_target_that_would_lose_its_protection_or_has_two_readings_is_refused() {
    let (app, _caller, out) = shop().await;
    for (head, expected) in [
        (
            "GET https://shop.example/ HTTP/1.1\r\nHost: shop.example",
            "scheme_refused",
        ),
        (
            "GET http://shop.example/ HTTP/1.1\r\nHost: other.example",
            "host_mismatch",
        ),
        (
            "GET http://me:pw@shop.example/ HTTP/1.1\r\nHost: shop.example",
            "host_mismatch",
        ),
        ("GET http://127.1/ HTTP/1.1\r\nHost: 127.1", "host_invalid"),
        (
            "GET http://shop.example../ HTTP/1.1\r\nHost: shop.example..",
            "host_invalid",
        ),
        (
            "CONNECT shop.example HTTP/1.1\r\nHost: shop.example",
            "connect_port",
        ),
    ] {
        let answer = raw(out, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status_of(&answer), 400, "{head}: {answer}");
        if answer.contains("reason_code") {
            assert_eq!(reason(&answer), expected, "{head}");
        }
    }
    app.assert_untouched();
}

#[tokio::test]
async fn connect_carries_bytes_once_it_is_allowed_and_connected() {
    let upstream = echo().await;
    let destination = format!(
        "{{ service: shop, hosts: [db.example], upstream: {{ address: \"{upstream}\" }} }}"
    );
    let (caller, out) = started(&destination).await;
    let (answer, mut stream) = connect(out, "Db.example:5432").await;
    assert_eq!(status_of(&answer), 200);
    assert!(
        !answer.to_ascii_lowercase().contains("content-length"),
        "{answer}"
    );
    stream.write_all(b"\0bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    within("the answer", stream.read_to_end(&mut back))
        .await
        .unwrap();
    assert_eq!(back, b"\0bytesfarewell");
    let record = caller.record(|_| true).await;
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["resource"]["host"], "db.example");
    assert_eq!(record["resource"]["port"], 5432);
    assert_eq!(record["status"], 200);
    assert_eq!(record["failure"], Value::Null);
}

#[tokio::test]
async fn connect_is_served_over_http_2_as_well() {
    let upstream = echo().await;
    let destination = format!(
        "{{ service: shop, hosts: [db.example], upstream: {{ address: \"{upstream}\" }} }}"
    );
    let (_caller, out) = started(&destination).await;
    let io = TokioIo::new(TcpStream::connect(out).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let connect = |target: &str| {
        Request::connect(target)
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let refused = within(
        "the refusal",
        sender.send_request(connect("other.example:1")),
    )
    .await;
    assert_eq!(refused.unwrap().status(), 403);
    let response = within("the answer", sender.send_request(connect("db.example:1"))).await;
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello ").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    within("the answer", stream.read_to_string(&mut back))
        .await
        .unwrap();
    assert_eq!(back, "hello farewell");
}

#[tokio::test]
async fn a_denied_connect_opens_no_connection_and_its_bytes_go_nowhere() {
    let app = Upstream::start(Speaks::Nothing).await;
    let destination = format!(
        "{{ service: vault, hosts: [vault.example], upstream: {{ address: \"{}\" }} }}",
        app.address
    );
    let (caller, out) = started(&destination).await;
    let early = "CONNECT vault.example:443 HTTP/1.1\r\nHost: vault.example:443\r\n\r\nGET / HTTP/1.1\r\nHost: vault.example\r\n\r\n";
    let answer = raw(out, early).await;
    assert_eq!(status_of(&answer), 403);
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert_eq!(reason(&answer), "no_matching_policy");
    app.assert_untouched();
    let record = caller.record(|_| true).await;
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["effect"], "deny");
}

#[tokio::test]
async fn connect_is_answered_with_502_where_nobody_listens() {
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let destination =
        format!("{{ service: shop, hosts: [gone.example], upstream: {{ address: \"{gone}\" }} }}");
    let (caller, out) = started(&destination).await;
    let answer = raw(
        out,
        "CONNECT gone.example:80 HTTP/1.1\r\nHost: gone.example\r\n\r\n",
    )
    .await;
    assert_eq!(status_of(&answer), 502, "{answer}");
    assert_eq!(reason(&answer), "upstream_unreachable");
    assert_eq!(
        caller.record(|_| true).await["failure"],
        "upstream_unreachable"
    );
}

#[tokio::test]
async fn connect_to_another_workload_goes_by_mutual_tls() {
    let mut shop = Setup::new(echo().await);
    shop.inbound_keys.push("protocol: tcp");
    shop.write_policy(
        "@id(\"f\") permit (principal == Workload::\"spiffe://test.example/ns/default/sa/frontend\", \
         action == Action::\"tcp:connect\", resource in Service::\"app\");",
    );
    let shop = shop.start().await;
    let upstream = crate::support::mesh::mutual(shop.inbound, &workload("app"), "");
    let keys = proxy(&format!(
        "{{ service: shop, hosts: [db.example], upstream: {upstream} }}"
    ));
    let caller = beside(&shop.setup.ca, "frontend", &keys).start().await;
    let (answer, mut stream) = connect(outbound(&caller, "proxy").await, "db.example:1").await;
    assert_eq!(status_of(&answer), 200);
    stream.write_all(b"hello ").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    within("the answer", stream.read_to_string(&mut back))
        .await
        .unwrap();
    assert_eq!(back, "hello farewell");
    assert_eq!(
        shop.record(|_| true).await["principal"],
        workload("frontend")
    );
}

#[tokio::test]
async fn any_host_is_reached_where_the_configuration_says_so() {
    let app = Upstream::start(Speaks::Http1).await;
    let (caller, out) = anywhere("loopback").await;
    let url = format!("http://localhost:{}/", app.address.port());
    for _ in 0..2 {
        assert_eq!(status_of(&get(out, &url).await), 200);
    }
    // The second call went by the connection of the first.
    assert_eq!(app.connections(), 1);
    let record = caller.record(|_| true).await;
    assert_eq!(record["resource"]["service"], "shop");
    assert_eq!(record["resource"]["host"], "localhost");
    assert_eq!(record["resource"]["port"], app.address.port());
    let (answer, _stream) = connect(out, &format!("127.0.0.1:{}", app.address.port())).await;
    assert_eq!(status_of(&answer), 200);
}

#[tokio::test]
async fn refuses_addresses_that_a_caller_may_not_have_us_call() {
    let app = Upstream::start(Speaks::Http1).await;
    let port = app.address.port();
    let (caller, out) = anywhere("private").await;
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
    ] {
        let answer = get(out, &format!("http://{host}:{port}/")).await;
        assert_eq!(status_of(&answer), 403, "{host}: {answer}");
        assert_eq!(reason(&answer), "address_refused", "{host}");
        let target = format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n");
        assert_eq!(
            reason(&raw(out, &target).await),
            "address_refused",
            "{host}"
        );
    }
    let metadata = get(out, "http://169.254.169.254/latest/meta-data/").await;
    assert_eq!(reason(&metadata), "address_refused");
    app.assert_untouched();
    let record = caller
        .record(|line| line["resource"]["host"] == "169.254.169.254")
        .await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(record["reason_code"], "address_refused");
    assert_eq!(record["policies"][0], "frontend-calls-out");
    caller
        .process
        .stderr
        .contains("169.254.169.254:80 is a link_local address")
        .await;
}

#[tokio::test]
async fn never_calls_a_listener_of_its_own() {
    let (caller, out) = anywhere("loopback, link_local, private").await;
    for own in [out, caller.inbound, caller.admin] {
        let answer = get(out, &format!("http://{own}/")).await;
        assert_eq!(status_of(&answer), 403, "{own}: {answer}");
        assert_eq!(reason(&answer), "address_refused", "{own}");
    }
    let origin = format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
        out.port()
    );
    assert_eq!(reason(&raw(out, &origin).await), "address_refused");
}
