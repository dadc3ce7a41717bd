//! What a call costs beside its decision: `read/...` reads a request's head in its one reading and
//! makes its headers those that go on, `record/...` opens, fills and ends its record, `write/...` is
//! the writer's part of that, a line of JSON to memory.
//!
//! `cargo bench -p wayleave-benches --bench call [-- --table | --test]`
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]

mod caller;
mod read;
mod record;
mod requests;

use cap::Cap;
use wayleave_benches::micro::Micro;

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

fn main() {
    let mut micro = Micro::from_args(|| ALLOCATOR.total_allocated());
    read::measure(&mut micro);
    record::measure(&mut micro);
    micro.finish();
}
