//! Reads what a call is. Owns the one interpretation of a request's head that policy and
//! the upstream share; it decides nothing and sends nothing.

mod call;
pub(crate) mod canonical;
pub(crate) mod grpc;
pub(crate) mod http2;
pub(crate) mod target;

pub(crate) use call::{Call, Shape};
pub(crate) use call::{accepts_trailers, has};
pub(crate) use canonical::Ambiguity;
