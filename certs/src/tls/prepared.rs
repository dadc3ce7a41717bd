//! The rustls configuration for the current identity, made anew only when that is another.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::handshake_error::HandshakeError;
use crate::{Identity, IdentityReader};

/// The last configuration that was made, of either side.
#[derive(Debug)]
pub(super) struct Prepared<C>(ArcSwapOption<Made<C>>);

#[derive(Debug)]
struct Made<C> {
    identity: Arc<Identity>,
    config: Arc<C>,
}

impl<C> Prepared<C> {
    /// Nothing made yet.
    pub(super) fn empty() -> Self {
        Self(ArcSwapOption::empty())
    }

    /// The configuration for the identity that is current at `now`.
    pub(super) fn config(
        &self,
        reader: &IdentityReader,
        now: SystemTime,
        prepare: impl FnOnce(&Arc<Identity>) -> Result<C, HandshakeError>,
    ) -> Result<Arc<C>, HandshakeError> {
        let identity = reader
            .current()
            .filter(|identity| identity.svid().is_valid_at(now))
            .ok_or(HandshakeError::NoIdentity)?;
        if let Some(made) = self.0.load().as_ref()
            && Arc::ptr_eq(&made.identity, &identity)
        {
            return Ok(Arc::clone(&made.config));
        }
        let config = Arc::new(prepare(&identity)?);
        let made = Made {
            identity,
            config: Arc::clone(&config),
        };
        self.0.store(Some(Arc::new(made)));
        Ok(config)
    }
}
