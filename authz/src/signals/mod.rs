//! Live numbers and flags about a principal: how it behaves, and what is known against it.
//!
//! [`Principals`] holds one [`Behaviour`] for each, which calls count into and policies read from
//! as `context.signals`, and what somebody has said against a principal: quarantines, revocations,
//! a level of risk. Time is passed in; nothing here waits, logs or does I/O.

mod behaviour;
mod distinct;
mod endpoints;
mod ledger;
mod limits;
mod merge;
mod others;
mod principals;
mod serials;
mod signal;
mod standing;
mod values;
mod window;

pub use behaviour::{Behaviour, Counted};
pub use ledger::{Concerned, Merged, StandingError};
pub use limits::{Limits, SignalLimits};
pub use principals::Principals;
pub(crate) use signal::Kind;
pub use signal::{RiskLevel, Signal, SignalSet, SignalValues};
pub use standing::{Against, Change, Known, Origin, Quarantine, Revocation, Revoked, Risk, Scope};
pub(crate) use values::no_level;
