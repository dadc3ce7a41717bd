//! Clients that we did not write, as their users would call them.

use tokio::process::Command;

use crate::support::pki::Credentials;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool::{self, Finished};
use crate::support::upstream::{Speaks, Upstream};

async fn curl(sidecar: &Sidecar, caller: &Credentials, arguments: &[&str], path: &str) -> Finished {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--cacert"])
        .arg(&caller.bundle);
    curl.arg("--cert")
        .arg(&caller.certificate)
        .arg("--key")
        .arg(&caller.key);
    tool::run(curl.args(arguments).arg(sidecar.url(path)))
        .await
        .successful()
}

/// Both protocols, an allowed and a denied call each.
async fn curl_is_allowed_and_denied(flag: &str, version: &str) {
    if tool::find("curl").is_none() {
        return;
    }
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;

    let denied = curl(&sidecar, &sidecar.setup.caller("agent"), &[flag], "/orders")
        .await
        .stdout();
    assert!(denied.starts_with(&format!("{version} 403")), "{denied}");
    let (head, body) = denied.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: application/problem+json"),
        "{head}"
    );
    assert!(head.contains("cache-control: no-store"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["reason_code"], "no_matching_policy");
    assert!(
        problem["instance"]
            .as_str()
            .unwrap()
            .starts_with("urn:uuid:")
    );
    upstream.assert_untouched();

    let caller = sidecar.setup.caller("frontend");
    let allowed = curl(&sidecar, &caller, &[flag, "--data", "abc"], "/orders?a=1")
        .await
        .stdout();
    assert!(allowed.starts_with(&format!("{version} 200")), "{allowed}");
    assert!(allowed.ends_with("upstream got 3 bytes\n"), "{allowed}");
    assert_eq!(upstream.only().target, "/orders?a=1");
}

#[tokio::test]
async fn curl_over_http1_is_allowed_and_denied() {
    curl_is_allowed_and_denied("--http1.1", "HTTP/1.1").await;
}

#[tokio::test]
async fn curl_over_http2_is_allowed_and_denied() {
    curl_is_allowed_and_denied("--http2", "HTTP/2").await;
}

async fn openssl(sidecar: &Sidecar, caller: &Credentials, arguments: &str) -> Option<Finished> {
    tool::find("openssl")?;
    let request = r"GET /openssl HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let script = format!(
        "printf '{request}' | openssl s_client -connect {} -servername localhost -CAfile {} \
         -cert {} -key {} -verify_return_error -ign_eof {arguments}",
        sidecar.inbound,
        caller.bundle.display(),
        caller.certificate.display(),
        caller.key.display(),
    );
    Some(tool::run(Command::new("sh").arg("-c").arg(script)).await)
}

#[tokio::test]
async fn openssl_speaks_tls_1_3_and_gets_no_session_ticket() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let caller = sidecar.setup.caller("frontend");
    let Some(finished) = openssl(&sidecar, &caller, "-alpn http/1.1 -groups X25519").await else {
        return;
    };
    let output = finished.successful().stdout();
    for expected in [
        "New, TLSv1.3",
        "Verify return code: 0 (ok)",
        "ALPN protocol: http/1.1",
        "Server Temp Key: X25519",
        "HTTP/1.1 200 OK",
    ] {
        assert!(output.contains(expected), "no `{expected}` in:\n{output}");
    }
    // A ticket would outlive the certificate's expiry and revocation.
    assert!(!output.contains("New Session Ticket"), "{output}");
    assert_eq!(upstream.only().target, "/openssl");
}

#[tokio::test]
async fn openssl_is_given_http2_where_it_offers_both() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let caller = sidecar.setup.caller("frontend");
    if let Some(finished) = openssl(&sidecar, &caller, "-alpn h2,http/1.1").await {
        assert!(
            finished.stdout().contains("ALPN protocol: h2"),
            "{}",
            finished.stdout()
        );
    }
}

#[tokio::test]
async fn refuses_tls_1_2() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let caller = sidecar.setup.caller("frontend");
    if let Some(finished) = openssl(&sidecar, &caller, "-tls1_2").await {
        assert!(!finished.0.status.success());
        assert!(
            finished.stderr().contains("alert protocol version"),
            "{}",
            finished.stderr()
        );
        upstream.assert_untouched();
    }
}

/// Keep-alive, a body of known length, a chunked one, and a denied upload between them, after
/// which the client must either be able to go on or have been told that it cannot.
const PYTHON: &str = r#"
import http.client, json, ssl, sys
port, bundle, certificate, key = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle)
context.load_cert_chain(certificate, key)
connection = http.client.HTTPSConnection("localhost", int(port), context=context, timeout=20)
answers = []
def call(method, path, body=None, **extra):
    connection.request(method, path, body, **extra)
    response = connection.getresponse()
    answers.append([response.status, response.read().decode()])
call("GET", "/python")
socket = connection.sock
call("POST", "/python", b"x" * 100000)
kept = connection.sock is socket
tls = socket.version()
call("POST", "/forbidden", b"y" * 10)
call("PUT", "/python", iter([b"one", b"two"]), encode_chunked=True)
print(json.dumps({"answers": answers, "tls": tls, "kept": kept}))
"#;

#[tokio::test]
async fn python_http_client_goes_on_after_a_denied_upload() {
    let Some(python) = tool::find("python3") else {
        return;
    };
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let caller = sidecar.setup.caller("frontend");
    let mut command = Command::new(python);
    command
        .arg("-c")
        .arg(PYTHON)
        .arg(sidecar.inbound.port().to_string());
    command
        .arg(&caller.bundle)
        .arg(&caller.certificate)
        .arg(&caller.key);
    let output = tool::run(&mut command).await.successful().stdout();
    let result: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(result["tls"], "TLSv1.3");
    assert_eq!(result["kept"], true, "the connection was closed on the way");
    let answers = result["answers"].as_array().unwrap();
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer[0].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 200, 403, 200]);
    assert_eq!(answers[1][1], "upstream got 100000 bytes\n");
    assert_eq!(answers[3][1], "upstream got 6 bytes\n");
    assert!(upstream.seen().iter().all(|seen| seen.target == "/python"));
}
