//! A stack deep enough for Cedar's parser and validator, which recurse over expressions.

use std::{panic::resume_unwind, thread};

/// Reserved, not used: only what recursion touches becomes memory.
const STACK: usize = 256 * 1024 * 1024;

/// Runs `work` on a thread with a deep stack, and waits for it.
pub(crate) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new()
            .name("policy-load".to_owned())
            .stack_size(STACK);
        let worker = builder.spawn_scoped(scope, work).ok()?;
        match worker.join() {
            Ok(result) => Some(result),
            Err(panic) => resume_unwind(panic),
        }
    })
}
