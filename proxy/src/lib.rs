//! The policy enforcement point: the data plane of the sidecar and its command line.
//!
//! A call's way is one straight line, and the modules are its stations: [`listener`]
//! accepts, [`protocol`] reads what the call is, [`enforce`] asks the policies and makes a
//! lease of an allow, [`forward`] needs that lease, [`record`] keeps what happened.
//! [`app`] puts the stations together, [`cli`] starts them.

mod admin;
mod admission;
mod app;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod caller;
pub mod child;
pub mod cli;
pub mod config;
mod config_loads;
mod connection;
mod control_doors;
pub mod demo;
mod denial;
mod drain;
mod enforce;
mod file_watch;
mod fleet;
mod flow;
mod forward;
mod gate;
mod hand_over;
mod handshakes;
mod identity;
mod identity_switch;
mod inbound;
mod leads;
mod listener;
mod listeners;
mod memory;
mod moment;
mod open_files;
mod outbound;
mod plaintext;
mod policies;
mod policy_loads;
mod policy_switch;
mod probes;
mod protocol;
mod record;
mod review;
mod route;
mod sockets;
mod ssf;
mod standing;
mod state_file;
mod stream;
mod trust;
mod unix_socket;
mod waiting;
mod warnings;
mod worker;
