//! Work that uses up what it is given, or whose memory is promised: what it is given is made off the
//! clock, criterion times the work, and what it allocates is counted and held against the promise.

use std::time::{Duration, Instant};

use criterion::Criterion;

/// How often the work is done between two preparations.
const BATCH: usize = 256;
/// Batches before anything counts, each twice as large: then tables have their size, buffers have room
/// to spare, and records were used before.
const WARM_UP: usize = 4;

/// How long a batch may take: less than the time slice of a process.
const UNDISTURBED: Duration = Duration::from_micros(250);

/// Some work.
pub trait Work {
    /// Makes what doing the work `count` times takes; not measured.
    fn prepare(&mut self, count: usize);

    /// Does the work as often as it was prepared.
    fn work(&mut self);

    /// Clears up; not measured.
    fn settle(&mut self) {}
}

/// What may be allocated, for each time that the work is done.
#[derive(Debug, Clone, Copy)]
pub enum Promise {
    /// Nothing at all.
    Nothing,
    /// So many bytes, and not one more.
    Bytes(usize),
    /// Nothing is promised.
    None,
}

/// Measures, and tells the results in one table.
pub struct Micro {
    criterion: Option<Criterion>,
    budget: Duration,
    total_allocated: fn() -> usize,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    median: f64,
    allocated: usize,
}

impl Micro {
    /// As the command line says: with `--test` each work is done a few times, and with `--table`
    /// criterion is left out. `total_allocated` tells the bytes allocated since the start.
    #[must_use]
    pub fn from_args(total_allocated: fn() -> usize) -> Self {
        let says = |flag: &str| std::env::args().any(|argument| argument == flag);
        let criterion = (!says("--table")).then(|| Criterion::default().configure_from_args());
        let budget = if says("--test") { 1 } else { 1_000 };
        Self {
            criterion,
            budget: Duration::from_millis(budget),
            total_allocated,
            rows: Vec::new(),
        }
    }

    /// Measures one work.
    ///
    /// # Panics
    /// When it allocates more than is promised.
    pub fn measure(&mut self, name: &str, promise: Promise, work: &mut impl Work) {
        for _ in 0..WARM_UP {
            timed(work, 2 * BATCH);
        }
        let allocated = self.allocated(work);
        match promise {
            Promise::None => {}
            Promise::Nothing => assert_eq!(allocated, 0, "bytes that {name} allocates"),
            Promise::Bytes(bytes) => {
                assert_eq!(allocated, bytes * BATCH, "bytes that {name} allocates");
            }
        }
        if let Some(criterion) = &mut self.criterion {
            criterion.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| many(work, iterations));
            });
        }
        self.rows.push(Row {
            name: name.to_owned(),
            median: self.median(work),
            allocated: allocated.div_ceil(BATCH),
        });
    }

    /// The bytes that one batch allocates.
    fn allocated(&self, work: &mut impl Work) -> usize {
        work.prepare(BATCH);
        let before = (self.total_allocated)();
        work.work();
        let after = (self.total_allocated)();
        work.settle();
        after - before
    }

    /// Nanoseconds for each time, the median of as many batches as fit into the budget.
    fn median(&self, work: &mut impl Work) -> f64 {
        let (mut batches, began) = (Vec::new(), Instant::now());
        let count = batch(timed(work, 1));
        while batches.len() < 3 || began.elapsed() < self.budget {
            batches.push(timed(work, count).as_nanos() as f64 / count as f64);
        }
        batches.sort_by(f64::total_cmp);
        batches.get(batches.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Tells everything once more.
    pub fn finish(mut self) {
        if let Some(criterion) = &mut self.criterion {
            criterion.final_summary();
        }
        println!("\n| | ns, median of batches | bytes allocated |");
        println!("| --- | ---: | ---: |");
        for row in &self.rows {
            println!("| {} | {:.0} | {} |", row.name, row.median, row.allocated);
        }
    }
}

/// How often work that takes so long is done at once: short enough that a neighbour seldom gets a turn
/// in between.
fn batch(once: Duration) -> usize {
    let fit = UNDISTURBED.as_nanos() / once.as_nanos().max(1);
    usize::try_from(fit).unwrap_or(BATCH).clamp(1, BATCH)
}

fn timed(work: &mut impl Work, count: usize) -> Duration {
    work.prepare(count);
    let began = Instant::now();
    work.work();
    let took = began.elapsed();
    work.settle();
    took
}

/// As often as criterion likes, and never more at once than a sidecar has at hand.
fn many(work: &mut impl Work, iterations: u64) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, usize::try_from(iterations).unwrap_or(BATCH));
    while left > 0 {
        let count = left.min(BATCH);
        spent += timed(work, count);
        left -= count;
    }
    spent
}
