//! The SPIFFE Workload API (SPIFFE Workload API §5, SPIFFE Workload Endpoint): its messages,
//! the gRPC that carries them, and a client and a server for the X509-SVID profile.
//!
//! Written out on hyper rather than on a gRPC framework: there are five messages of strings
//! and bytes, one kind of call, and revocation lists that existing clients leave out.

mod authority;
mod client;
mod endpoint;
mod grpc;
mod message;
mod protobuf;
mod server;

pub use client::{Client, FetchError, Updates};
pub use endpoint::{Endpoint, EndpointError};
pub use grpc::{Code, Status};
pub use message::{MessageError, X509Bundles, X509Context, X509Svid};
pub use server::{Served, serve};
