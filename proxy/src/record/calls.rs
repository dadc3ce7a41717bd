//! The calls of one connection that have not ended, what they hold of the listener's limits, and
//! why they are cut if they are.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use wayleave_authz::signals::Behaviour;
use wayleave_certs::Peer;

use super::Failure;
use super::ending::Ending;
use crate::admission::{Excess, Place};
use crate::flow::Flow;
use crate::standing::canonical_serial;

/// Shared by a connection and the records of its calls.
#[derive(Debug)]
pub(crate) struct Calls {
    open: AtomicU32,
    cut: OnceLock<Failure>,
    place: Place,
    /// What is known of the caller; none while nobody can be named.
    behaviour: Option<Arc<Behaviour>>,
    /// That of the caller's SVID, once somebody has asked for it.
    serial: OnceLock<Box<str>>,
    flow: Flow,
    ending: Ending,
}

impl Calls {
    /// The calls of a connection that has this place.
    pub(crate) fn at(place: Place, behaviour: Option<Arc<Behaviour>>) -> Self {
        Self {
            open: AtomicU32::new(0),
            cut: OnceLock::new(),
            place,
            behaviour,
            serial: OnceLock::new(),
            flow: Flow::default(),
            ending: Ending::default(),
        }
    }

    /// What is known of the caller.
    pub(crate) fn behaviour(&self) -> Option<&Arc<Behaviour>> {
        self.behaviour.as_ref()
    }

    /// The serial number of the SVID that the caller has shown, as revocations write it.
    pub(crate) fn serial(&self, peer: &Peer) -> &str {
        self.serial.get_or_init(|| {
            // A certificate has one: it was verified.
            canonical_serial(&peer.serial_hex()).unwrap_or_default()
        })
    }

    /// What moves on the connection.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Whether those that wait for more of an answer are to end.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Whether every call has ended.
    pub(crate) fn none_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Says why the calls are cut that do not complete from here on.
    pub(crate) fn cut(&self, why: Failure) {
        let _ = self.cut.set(why);
    }

    /// Why the call that has just begun is one too many, if it is.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.place.excess()
    }

    /// Whether the connection itself is one too many of its peer's.
    pub(crate) fn is_unwelcome(&self) -> bool {
        self.place.is_unwelcome()
    }

    /// Why a call that did not complete has ended: its caller left, unless we cut it.
    pub(crate) fn why_cut(&self) -> Failure {
        self.cut.get().copied().unwrap_or(Failure::CallerGone)
    }

    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.place.begin();
    }

    pub(super) fn end(&self) {
        self.place.end();
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.flow.comes_to_rest();
        }
    }
}
