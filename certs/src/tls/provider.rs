//! The one crypto provider of this program: aws-lc-rs, its TLS 1.3 suites, and key exchange
//! that prefers the post-quantum hybrid.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{NamedGroup, SupportedCipherSuite};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(make(|_| true)));
static POST_QUANTUM: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(make(is_post_quantum)));

/// The provider that everything in this crate uses.
#[must_use]
pub fn crypto_provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The same provider without any key exchange that a quantum computer could break.
pub(crate) fn post_quantum_provider() -> &'static Arc<CryptoProvider> {
    &POST_QUANTUM
}

/// The names of the groups that resist a quantum computer, preferred first.
pub(crate) fn post_quantum_groups() -> String {
    let groups = post_quantum_provider().kx_groups.iter();
    let names: Vec<_> = groups.map(|group| group_name(group.name())).collect();
    names.join(" or ")
}

fn make(wanted: fn(NamedGroup) -> bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
    provider.kx_groups.retain(|group| wanted(group.name()));
    // A stable sort: the hybrid first, the rest as the provider orders them.
    provider
        .kx_groups
        .sort_by_key(|group: &&dyn SupportedKxGroup| !is_post_quantum(group.name()));
    provider
}

/// Whether a group resists a quantum computer.
#[must_use]
pub fn is_post_quantum(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768
            | NamedGroup::secp256r1MLKEM768
            | NamedGroup::MLKEM512
            | NamedGroup::MLKEM768
            | NamedGroup::MLKEM1024
    )
}

/// The name of a group in the TLS registry of IANA.
#[must_use]
pub fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::secp256r1MLKEM768 => "SecP256r1MLKEM768",
        NamedGroup::MLKEM512 => "MLKEM512",
        NamedGroup::MLKEM768 => "MLKEM768",
        NamedGroup::MLKEM1024 => "MLKEM1024",
        NamedGroup::X25519 => "X25519",
        NamedGroup::X448 => "X448",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::secp521r1 => "secp521r1",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_the_post_quantum_hybrid() {
        let first = crypto_provider().kx_groups.first().unwrap().name();
        assert_eq!(first, NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn the_post_quantum_provider_has_no_other_group() {
        let groups = &post_quantum_provider().kx_groups;
        assert!(!groups.is_empty());
        assert!(groups.iter().all(|group| is_post_quantum(group.name())));
    }

    #[test]
    fn knows_tls_1_3_alone() {
        let suites = &crypto_provider().cipher_suites;
        assert!(suites.iter().all(|suite| suite.tls13().is_some()));
    }
}
