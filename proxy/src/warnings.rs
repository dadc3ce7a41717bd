//! What a configuration allows and its owner had better know: told at start, and by
//! `wayleave check`.

use std::net::IpAddr;

use wayleave_certs::TrustBundles;

use crate::config::{Config, IdentitySource, InboundConfig, TlsMode, TrustDomain};

/// What is to be told of a configuration by itself.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let permissive = config
        .inbound
        .iter()
        .filter(|listener| listener.tls.mode == TlsMode::Permissive);
    let permissive = permissive.map(|listener| {
        format!(
            "`{}` is permissive: callers without TLS are served as anonymous ones; set \
                 `tls.mode: strict` once everybody calls with TLS",
            listener.name
        )
    });
    permissive.chain(open_store(config)).collect()
}

/// A store that is talked to in clear, beyond this machine.
fn open_store(config: &Config) -> Option<String> {
    let url = &config.signals.store.as_ref()?.url;
    let host = &url.address.host;
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    (!url.tls && !here).then(|| {
        format!(
            "`signals.store` is at `{url}` without TLS: whoever is on the way can read its \
             password, start quarantines and lift them; use `rediss://`"
        )
    })
}

/// The trust domains that listeners let in and that can prove nothing, for want of a bundle; as
/// far as that is known before anybody was asked.
pub(crate) fn without_bundle(config: &Config, bundles: &TrustBundles) -> Vec<String> {
    // A Workload API may bring bundles at any time.
    if !matches!(config.identity.source, IdentitySource::Files(_)) {
        return Vec::new();
    }
    let fetched = &config.identity.federation;
    let known = |domain: &TrustDomain| {
        bundles.of(domain).is_some() || fetched.iter().any(|f| f.trust_domain == *domain)
    };
    let listed = |listener: &InboundConfig| {
        let domains = listener.trust_domains.iter().flat_map(|all| all.iter());
        let missing = domains.filter(|domain| !known(domain));
        let told = missing.map(|domain| {
            format!(
                "`{}` lets in trust domain `{domain}`, of which there is no bundle; name one in \
                 `identity.files.federated` or `identity.federation`",
                listener.name
            )
        });
        told.collect::<Vec<_>>()
    };
    config.inbound.iter().flat_map(listed).collect()
}
