//! Where the identity comes from. Each source ends in an [`IdentityReader`](crate::IdentityReader)
//! and keeps publishing new snapshots while its task runs; the last good one stays current
//! when the source fails, until it expires.

pub mod dev;
pub mod federation;
pub mod files;
pub mod workload_api;
