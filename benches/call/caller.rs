//! A caller that a handshake has proved.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use wayleave_certs::ca::{CertificateAuthority, SvidRequest};
use wayleave_certs::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};
use wayleave_certs::{IdentityPublisher, IdentityReader, Peer, Svid, TrustBundle};
use wayleave_identity::{SpiffeIdPattern, TrustDomain};

const HOUR: Duration = Duration::from_secs(3_600);
/// Who it is.
pub(crate) const CALLER: &str = "spiffe://shop.example/ns/web/sa/cart";
const SERVED: &str = "spiffe://shop.example/ns/web/sa/orders";

/// Who calls, after a handshake in memory.
pub(crate) fn proved() -> Result<Peer> {
    let trust_domain: TrustDomain = "shop.example".parse()?;
    let ca = CertificateAuthority::create(&trust_domain, HOUR, SystemTime::now())?;
    let server = ServerTls::new(identity(&ca, SERVED)?, ServerTlsOptions::default());
    let expected = SpiffeIdPattern::Exact(SERVED.parse()?);
    let client = ClientTls::new(identity(&ca, CALLER)?, ClientTlsOptions::new(expected));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (accepted, connected) = tokio::join!(
            server.accept(far),
            client.connect("orders".try_into()?, near)
        );
        connected?;
        Ok(accepted?.1)
    })
}

fn identity(ca: &CertificateAuthority, id: &str) -> Result<IdentityReader> {
    let issued = ca.issue(&SvidRequest::new(id.parse()?, HOUR), SystemTime::now())?;
    let svid = Svid::from_pem(issued.certificate_pem.as_bytes(), issued.key_pem.as_bytes())?;
    let bundle = TrustBundle::from_pem(ca.trust_domain().clone(), ca.certificate_pem().as_bytes())
        .context("the CA's own bundle")?;
    let (mut publisher, reader) = IdentityPublisher::new();
    publisher.publish(Arc::new(svid), [bundle].into_iter().collect());
    Ok(reader)
}
