//! What the micro-benchmarks ask of the way of a call without a connection: reading a request, and
//! its record. Compiled with the feature `bench` alone; opens what is there and changes nothing in it.

use http::Method;
use http::request::Parts;
use wayleave_authz::Action;

use crate::forward::headers::{self, Upgrade};
use crate::protocol::{Ambiguity, Call, Shape};
pub use crate::record::bench::{Outcome, Records};

/// A request in its one reading.
#[derive(Debug, Clone)]
pub struct Reading(pub(crate) Call);

impl Reading {
    /// The host asked for.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// The path, percent-encoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    pub(crate) fn action(&self) -> Action {
        Action::from_http_method(self.0.method().map_or("", Method::as_str))
    }
}

/// Reads a request's head, and makes its headers those that policy sees and the upstream gets.
///
/// # Errors
///
/// The reason code of a request that has more than one reading.
pub fn read(head: &mut Parts) -> Result<Reading, &'static str> {
    let shape = Shape::of(head);
    let call = Call::read(shape, head).map_err(Ambiguity::reason_code)?;
    let upgrade = match shape {
        Shape::WebSocket => Upgrade::WebSocket,
        _ => Upgrade::Strip,
    };
    headers::clean_request(&mut head.headers, upgrade);
    Ok(Reading(call))
}
