//! The policy decision point: Cedar policies, facts in, decision out. Pure and synchronous.
