//! Two workloads, each with its sidecar: calls of the one leave through its own sidecar and reach
//! the other through that one's.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::pki::{Ca, Credentials, Leaf, workload};
use super::setup::{Setup, Sidecar, message};

/// `frontend` calls out to the service `shop` as it likes, but for what is `/forbidden`.
pub(crate) const EGRESS: &str = r#"
@id("frontend-calls-out")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action,
  resource in Service::"shop"
) when { context.direction == "outbound" };

@id("not-there")
forbid (principal, action, resource is Endpoint)
when { context.direction == "outbound" && resource.path like "/forbidden*" };
"#;

/// A sidecar to be started beside the workload `name`, of the same authority as `ca`, with more
/// of its configuration in `keys`: `outbound` and `destinations`.
pub(crate) fn beside(ca: &Ca, name: &str, keys: &str) -> Setup {
    let mut setup = Setup::new("127.0.0.1:9");
    let issued = ca.issue(&Leaf::local(&workload(name)));
    Credentials::write(&setup.path("own"), &issued, &ca.pem());
    setup.write_policy(EGRESS);
    setup.keys.push(keys.to_owned().leak());
    setup
}

/// The configuration of one outbound listener, `shop`, to one destination.
pub(crate) fn to_shop(listener: &str, upstream: &str) -> String {
    format!(
        "outbound: [{{ name: out, listen: \"127.0.0.1:0\", destination: shop{listener} }}]\n\
         destinations: [{{ service: shop, hosts: [shop.internal], upstream: {upstream} }}]"
    )
}

/// Mutual TLS to somebody at `address`, who has to be `peer`.
pub(crate) fn mutual(address: SocketAddr, peer: &str, more: &str) -> String {
    let port = address.port();
    format!("{{ address: \"localhost:{port}\", tls: {{ peer: \"{peer}\" }}{more} }}")
}

/// Where an outbound listener is.
pub(crate) async fn outbound(sidecar: &Sidecar, name: &str) -> SocketAddr {
    let listening =
        |line: &serde_json::Value| message(line) == Some("listening") && line["listener"] == name;
    let line = sidecar.process.stderr.json("the listener", listening).await;
    line["address"].as_str().unwrap().parse().unwrap()
}

/// The configuration of one outbound listener, `proxy`, that is an HTTP proxy to these
/// destinations.
pub(crate) fn proxy(destinations: &str) -> String {
    format!(
        "outbound: [{{ name: proxy, listen: \"127.0.0.1:0\", kind: forward_proxy }}]\n\
         destinations: [{destinations}]"
    )
}

/// A server that echoes bytes until the caller ends, and then says `farewell`.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"farewell").await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}
