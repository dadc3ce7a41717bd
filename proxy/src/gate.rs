//! One listener's way of serving, as one worker holds it: who is let in and by which limits,
//! where calls go, and who decides and records them.

use std::sync::Arc;

use wayleave_certs::IdentityReader;

use crate::admission::Admission;
use crate::config::LimitsConfig;
use crate::connection::Roster;
use crate::enforce::Enforcer;
use crate::record::Recorder;
use crate::record::metrics::Metrics;
use crate::route::Routes;

/// What every connection of a listener shares on one worker.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The listener's name.
    pub(crate) name: Arc<str>,
    pub(crate) limits: LimitsConfig,
    pub(crate) enforcer: Arc<Enforcer>,
    pub(crate) routes: Routes,
    /// Whether the listener is asked as a proxy is, `CONNECT` included.
    pub(crate) is_proxy: bool,
    pub(crate) identity: IdentityReader,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    /// What the listener takes on; shared by its workers.
    pub(crate) admission: Arc<Admission>,
    /// The HTTP connections here.
    pub(crate) roster: Roster,
}
