//! Reliability runs: the sidecar among calls that go on while things change, among peers that
//! mean it ill, and before an upstream that fails. Each ends with a verdict, and with exit status
//! 1 where a promise is broken.

mod attacks;
pub(crate) mod chaos;
mod clock;
mod disk;
pub(crate) mod everyday;
mod fate;
mod frames;
mod ground;
pub(crate) mod hostile;
mod liar;
pub(crate) mod soak;
mod store;
mod verdict;
mod witness;
