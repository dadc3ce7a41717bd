//! The policy decision point of Wayleave: facts in, decision out.
//!
//! Policies are written in [Cedar](https://www.cedarpolicy.com/), validated against a
//! built-in schema, and decided synchronously, without I/O. This crate knows no sockets, no
//! TLS and no async runtime, so it can be embedded anywhere. [`Engine`] shows how.
//!
//! Deny is the default: no policy, no match, facts that are incomplete, a `forbid` whose
//! evaluation fails, all deny.

mod action;
mod calendar;
mod compile;
mod decision;
mod diff;
mod engine;
mod entities;
mod explain;
mod facts;
mod hash;
mod limits;
mod literals;
pub mod load;
mod obligation;
mod problem;
mod record;
mod reference;
mod schema;
pub mod signals;
mod snapshot;
mod stack;
mod store;
pub mod testing;
mod tree;
mod yaml;

pub use action::Action;
pub use decision::{Decision, Effect, ReasonCode, Revision};
pub use diff::{Change, Difference, Group, Told};
pub use engine::{Engine, Inputs, Reference};
pub use explain::{
    ConditionOutcome, ExplainedCondition, ExplainedPolicy, ExplainedScope, Explanation,
};
pub use facts::{
    Claim, Claims, Context, Direction, Facts, Headers, NoClaims, NoHeaders, Principal, Resource,
    Rpc, Tls,
};
pub use load::PolicyFile;
pub use obligation::{Alert, Mode, Obligations, QuarantineScope, QuarantineTerms};
pub use problem::{LoadErrors, Problem};
pub use record::{ClaimValue, RecordedFacts, RecordedHeaders, RecordedRpc, RecordedTls};
pub use schema::built_in as built_in_schema;
pub use store::PolicyStore;
