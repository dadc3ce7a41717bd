//! SPIFFE IDs and trust domains: who a workload is. Pure: no I/O, no TLS.
//!
//! Names are checked once, when they are parsed, and are canonical from then on: two values
//! that name the same workload compare equal byte by byte. Nothing here says that a caller
//! *is* who it claims to be; that is proved by the handshake, in `wayleave-certs`.
//!
//! ```
//! use wayleave_identity::{SpiffeId, SpiffeIdPattern};
//!
//! let cart: SpiffeId = "spiffe://shop.example/ns/web/sa/cart".parse()?;
//! assert_eq!(cart.trust_domain().as_str(), "shop.example");
//!
//! let web: SpiffeIdPattern = "spiffe://shop.example/ns/web/*".parse()?;
//! assert!(web.matches(&cart));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pattern;
mod spiffe_id;
mod trust_domain;

pub use pattern::{SpiffeIdPattern, SpiffeIdPatternError};
pub use spiffe_id::{Prefixes, SpiffeId, SpiffeIdError};
pub use trust_domain::{TrustDomain, TrustDomainError};
