//! Whether the crypto module runs in its FIPS 140-3 mode.
//!
//! The `fips` cargo feature links AWS-LC's FIPS module instead of the ordinary one, and
//! restricts suites, groups and signatures to those that rustls counts as approved. That is a
//! property of the build, not a certificate: whether a deployment is compliant also hangs on
//! the module's validation status, the platform and how it is operated.

use std::sync::Arc;

use rustls::ServerConfig;

use super::provider::crypto_provider;

/// Why a build for FIPS mode does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FipsError {
    /// The module is another, or its self-test failed.
    #[error(
        "this program was built for FIPS mode, and its crypto module does not run in it; \
         it does not start without"
    )]
    NotInFipsMode,
}

/// Whether this is a build for FIPS mode.
#[must_use]
pub const fn is_fips_build() -> bool {
    cfg!(feature = "fips")
}

/// Checks that a build for FIPS mode runs in it; to be asked before anything is served.
///
/// Always well in a build without the `fips` feature, which claims nothing.
///
/// # Errors
///
/// When the crypto module, or a suite, group or signature that is offered, is not in FIPS mode.
pub fn check_fips() -> Result<(), FipsError> {
    if !is_fips_build() || provider_is_fips() {
        return Ok(());
    }
    Err(FipsError::NotInFipsMode)
}

/// rustls's own judgement of a configuration as it is served.
pub(crate) fn check_config(config: &ServerConfig) -> Result<(), FipsError> {
    if !is_fips_build() || config.fips() {
        return Ok(());
    }
    Err(FipsError::NotInFipsMode)
}

fn provider_is_fips() -> bool {
    Arc::as_ref(crypto_provider()).fips()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_what_the_build_promises() {
        assert_eq!(check_fips(), Ok(()));
        assert_eq!(provider_is_fips(), is_fips_build());
    }
}
