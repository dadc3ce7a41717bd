//! The compiled form of policies: an index over their scopes, and their conditions as
//! programs over numbered facts. Means exactly what Cedar means, or is not compiled.

pub(crate) mod call;
pub(crate) mod fact;
pub(crate) mod flips;
pub(crate) mod index;
mod like;
pub(crate) mod lower;
pub(crate) mod program;
pub(crate) mod reads;
pub(crate) mod signals;
pub(crate) mod value;
