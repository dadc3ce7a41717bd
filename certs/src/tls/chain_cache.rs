//! Verified chains that are remembered, so that a returning peer's path need not be validated
//! again.
//!
//! What is remembered is the answer for the whole chain, byte for byte, under the bundles of
//! one trust generation, until its first certificate or revocation list expires. The peer's
//! proof that it holds the key (CertificateVerify) is never remembered: rustls checks it in
//! every handshake. Refusals are not remembered either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;

use crate::Identity;
use crate::verify::{self, Role, Verified, VerifyError};

type Key = [u8; 32];

/// A bounded set of verified chains.
#[derive(Debug)]
pub(crate) struct ChainCache {
    role: Role,
    capacity: usize,
    halves: Mutex<Halves>,
}

/// When the young half is full it becomes the old one, and the old one is forgotten; who is
/// seen in the old half moves to the young one. So the busiest stay, at no cost in order.
#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Key, Arc<Verified>>,
    old: HashMap<Key, Arc<Verified>>,
}

impl ChainCache {
    /// For peers that show their chains in one role.
    pub(crate) fn new(role: Role, capacity: usize) -> Self {
        Self {
            role,
            capacity,
            halves: Mutex::default(),
        }
    }

    /// The remembered answer for a chain, or a new one.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        identity: &Identity,
        now: SystemTime,
    ) -> Result<Arc<Verified>, VerifyError> {
        let generation = identity.trust_generation();
        let key = key(chain);
        if let Some(known) = self.find(&key)
            && known.is_fresh(generation, now)
            && known.chain() == chain
        {
            return Ok(known);
        }
        let verified = verify::verify(chain, identity.bundles(), self.role, now)?;
        verified.renew(generation);
        let verified = Arc::new(verified);
        self.insert(key, Arc::clone(&verified));
        Ok(verified)
    }

    fn find(&self, key: &Key) -> Option<Arc<Verified>> {
        let mut halves = self.lock();
        if let Some(known) = halves.young.get(key) {
            return Some(Arc::clone(known));
        }
        let known = halves.old.remove(key)?;
        halves.insert(*key, Arc::clone(&known), self.capacity);
        Some(known)
    }

    fn insert(&self, key: Key, verified: Arc<Verified>) {
        self.lock().insert(key, verified, self.capacity);
    }

    /// A thread that panicked here has left two maps that are still maps.
    fn lock(&self) -> std::sync::MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn insert(&mut self, key: Key, verified: Arc<Verified>, capacity: usize) {
        if capacity == 0 {
            return;
        }
        if self.young.len() >= capacity.div_ceil(2) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

/// The digest of all certificates, each with its length.
fn key(chain: &[CertificateDer<'_>]) -> Key {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}
