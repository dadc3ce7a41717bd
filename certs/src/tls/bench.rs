//! What the micro-benchmarks ask of a handshake without its handshake. Compiled with the feature
//! `bench` alone; opens what is there and changes nothing in it.

use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;

use super::chain_cache::ChainCache;
use super::client_verifier::SvidClientVerifier;
use crate::Identity;
use crate::verify::Role;

/// The rule that a handshake asks about its client's chain, of a listener that lets in every trust
/// domain with a bundle and remembers so many chains.
#[must_use]
pub fn client_verifier(
    identity: Arc<Identity>,
    cached_chains: usize,
) -> Arc<dyn ClientCertVerifier> {
    let cache = Arc::new(ChainCache::new(Role::Client, cached_chains));
    Arc::new(SvidClientVerifier::new(identity, cache, None))
}
