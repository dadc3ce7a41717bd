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

/// Runs `work` on each of a few parts of `items`, side by side on deep stacks, and gives the
/// results in the order of the parts. Each part comes with the place of its first item.
pub(crate) fn deep_parts<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(usize, &[T]) -> R + Sync,
) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let size = items
        .len()
        .div_ceil(threads.min(MOST_PARTS))
        .max(SMALLEST_PART);
    let work = &work;
    thread::scope(|scope| {
        let run = |(number, part)| {
            let work = move || work(number * size, part);
            let builder = thread::Builder::new().stack_size(STACK);
            match builder.spawn_scoped(scope, work) {
                Ok(worker) => Part::Running(worker),
                // No more threads to be had: this one is deep enough as well.
                Err(_) => Part::Done(work()),
            }
        };
        let running: Vec<_> = items.chunks(size).enumerate().map(run).collect();
        running.into_iter().map(Part::wait).collect()
    })
}

/// More threads than this would not make loading faster, only the rest of the machine slower.
const MOST_PARTS: usize = 4;

/// Fewer items than this are not worth a thread of their own.
const SMALLEST_PART: usize = 200;

enum Part<'scope, R> {
    Running(thread::ScopedJoinHandle<'scope, R>),
    Done(R),
}

impl<R> Part<'_, R> {
    fn wait(self) -> R {
        match self {
            Self::Done(result) => result,
            Self::Running(worker) => match worker.join() {
                Ok(result) => result,
                Err(panic) => resume_unwind(panic),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order() {
        let items: Vec<usize> = (0..1000).collect();
        let sums = deep_parts(&items, |first, part| (first, part.to_vec()));
        let mut expected = 0;
        for (first, part) in sums {
            assert_eq!(first, expected);
            assert_eq!(part.first(), Some(&first));
            expected += part.len();
        }
        assert_eq!(expected, 1000);
    }
}
