//! The command that `wayleave dev` starts and watches.
