//! The limit of open files, which is one of connections: raised as far as the system lets us.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the process's own limit to the highest that it may have, and tells what it is.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let words = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            let (limit, before) = (words(maximum), words(current));
            tracing::info!(limit, before, "limit of open files");
        }
        Err(error) => {
            let limit = words(current);
            tracing::warn!(limit, %error, "the limit of open files cannot be raised");
        }
    }
}
