//! Who calls: one connector for each connection, with the certificates that the command names.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::found::Side;
use super::{Arguments, Pair};
use crate::connector::Connector;

/// One connector for each connection, by turns of all identities.
pub(super) fn callers(arguments: &Arguments) -> Result<Vec<(Side, Connector)>> {
    let mut addresses = arguments.server.to_socket_addrs().context("host:port")?;
    let address = addresses.next().context("the host has no address")?;
    let host = arguments
        .server
        .rsplit_once(':')
        .map_or("", |(host, _)| host);
    let name = arguments
        .name
        .as_deref()
        .unwrap_or(host.trim_matches(['[', ']']));
    let allowed = arguments.allowed.iter().map(|pair| (Side::Allowed, pair));
    let denied = arguments.denied.iter().map(|pair| (Side::Denied, pair));
    let mut identities = Vec::new();
    for (side, pair) in allowed.chain(denied) {
        identities.push((side, connector(address, name, &arguments.roots, pair)?));
    }
    ensure!(
        !identities.is_empty(),
        "nobody calls: give `--allowed` or `--denied`"
    );
    let connections = usize::try_from(arguments.connections)?.max(identities.len());
    Ok(identities
        .iter()
        .cycle()
        .take(connections)
        .cloned()
        .collect())
}

fn connector(address: SocketAddr, name: &str, roots: &Path, pair: &Pair) -> Result<Connector> {
    let told = |path: &Path| path.display().to_string();
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).with_context(|| told(roots))? {
        store.add(root?).with_context(|| told(roots))?;
    }
    let chain = CertificateDer::pem_file_iter(&pair.chain).with_context(|| told(&pair.chain))?;
    let chain = chain
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| told(&pair.chain))?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).with_context(|| told(&pair.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Connector::with(address, name, Some(config))
}
