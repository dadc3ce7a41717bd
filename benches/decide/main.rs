//! How long a decision takes: `decide/N` for the compiled engine with N policies,
//! `decide_cedar/N`, `decide_regorus/N` and `decide_cel/N` for others on equivalent rules, and
//! a table of all of them side by side.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up has nothing better to do"
)]

mod rivals;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cap::Cap;
use criterion::{BenchmarkId, Criterion, Throughput};
use rivals::{Cel, Rego, Rival};
use wayleave_authz::{Engine, Inputs, PolicyFile};
use wayleave_benches::rules::{self, Call, engine};
use wayleave_benches::stock::Stock;

/// Counts the memory that a loaded engine keeps.
#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

const SIZES: [usize; 4] = [10, 100, 1000, 10_000];
/// The others are measured up to here; beyond, one decision takes tens of milliseconds.
const LARGEST_RIVAL: usize = 1000;

struct Compiled(Engine);

impl Rival for Compiled {
    fn allows(&mut self, call: &Call) -> bool {
        self.0.decide(&call.facts()).is_allow()
    }
}

fn contender(name: &str, size: usize) -> Box<dyn Rival> {
    let rules = rules::rules(size);
    match name {
        "decide" => Box::new(Compiled(engine(size))),
        "decide_cedar" => Box::new(Stock::new(&rules)),
        "decide_regorus" => Box::new(Rego::new(&rules)),
        _ => Box::new(Cel::new(&rules)),
    }
}

const CONTENDERS: [&str; 4] = ["decide", "decide_cedar", "decide_regorus", "decide_cel"];

fn sizes_of(name: &str) -> impl Iterator<Item = usize> {
    let largest = if name == "decide" {
        usize::MAX
    } else {
        LARGEST_RIVAL
    };
    SIZES.into_iter().filter(move |size| *size <= largest)
}

fn criterion_groups(criterion: &mut Criterion) {
    let calls = rules::calls();
    for name in CONTENDERS {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for size in sizes_of(name) {
            let mut contender = contender(name, size);
            let mut next = calls.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| next.next().map(|call| contender.allows(black_box(call))));
            });
        }
        group.finish();
    }
}

/// The median and the 99th percentile of single decisions, in nanoseconds.
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// Times rounds over all calls; a round is long enough for the clock.
fn percentiles(contender: &mut dyn Rival, calls: &[Call], budget: Duration) -> Percentiles {
    let mut rounds = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < budget || rounds.len() < 3 {
        let start = Instant::now();
        for call in calls {
            black_box(contender.allows(black_box(call)));
        }
        rounds.push(start.elapsed().as_nanos() as f64 / calls.len() as f64);
    }
    rounds.sort_by(f64::total_cmp);
    let at = |share: f64| rounds[((rounds.len() - 1) as f64 * share) as usize];
    Percentiles {
        p50: at(0.5),
        p99: at(0.99),
    }
}

fn table(budget: Duration) {
    let calls = rules::calls();
    println!(
        "\nnanoseconds a decision, median of rounds of {} calls (99th percentile)\n",
        calls.len()
    );
    println!("| policies | compiled | cedar-policy | ratio | regorus | cel |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for size in SIZES {
        let mut expected = Vec::new();
        let measured = CONTENDERS.map(|name| {
            if name != "decide" && size > LARGEST_RIVAL {
                return None;
            }
            let mut contender = contender(name, size);
            let answers: Vec<bool> = calls.iter().map(|call| contender.allows(call)).collect();
            if expected.is_empty() {
                expected.clone_from(&answers);
            }
            assert_eq!(answers, expected, "{name} decides otherwise at {size}");
            Some(percentiles(&mut *contender, &calls, budget))
        });
        print_row(size, &measured);
    }
}

fn print_row(size: usize, measured: &[Option<Percentiles>; 4]) {
    let cell = |measured: &Option<Percentiles>| match measured {
        Some(told) => format!("{:.0} ({:.0})", told.p50, told.p99),
        None => "".to_owned(),
    };
    let ratio = match measured {
        [Some(compiled), Some(cedar), ..] => format!("{:.0}", cedar.p50 / compiled.p50),
        _ => String::new(),
    };
    let [compiled, cedar, regorus, cel] = measured;
    println!(
        "| {size} | {} | {} | {ratio} | {} | {} |",
        cell(compiled),
        cell(cedar),
        cell(regorus),
        cell(cel)
    );
}

/// Inputs made to be slow, at two sizes each: the cost may grow with the size, not faster.
fn pathological(budget: Duration) {
    println!("\n| made to be slow | size | nanoseconds a decision |");
    println!("| --- | ---: | ---: |");
    let policy = |number: usize, condition: &str| {
        format!(
            "@id(\"p{number}\") permit (principal, action == Action::\"http:get\", resource) \
             when {{ {condition} }};\n"
        )
    };
    for size in [1000, 10_000] {
        let text: String = (0..size)
            .map(|n| policy(n, &format!("resource.path like \"/{n}/*\"")))
            .collect();
        slow_row("policies of one scope", size, &text, "", "/x", budget);
    }
    for size in [7, 31] {
        let pattern = (0..size).fold(String::from("*"), |text, _| text + "ab*");
        let path = "a".repeat(4096);
        let text = policy(0, &format!("resource.path like \"{pattern}\""));
        slow_row("wildcards, 4 KB path", size, &text, "", &path, budget);
    }
    for size in [1000, 10_000] {
        let members: Vec<_> = (0..size).map(|n| format!("\"/{n}\"")).collect();
        let text = policy(
            0,
            &format!("[{}].contains(resource.path)", members.join(", ")),
        );
        slow_row("members of a set", size, &text, "", "/9999", budget);
    }
    for size in [25, 250] {
        let mut groups = "groups:\n  g0: [\"spiffe://shop.example\"]\n".to_owned();
        for n in 1..size {
            groups += &format!("  g{n}: ['Group::\"g{}\"']\n", n - 1);
        }
        let text = policy(0, &format!("principal in Group::\"g{}\"", size - 1));
        slow_row("groups in groups", size, &text, &groups, "/x", budget);
    }
}

fn slow_row(what: &str, size: usize, policies: &str, groups: &str, path: &str, budget: Duration) {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let inputs = Inputs {
        policies: vec![file("slow.cedar", policies), file("entities.yaml", groups)],
    };
    let engine = Engine::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"));
    let mut calls = rules::calls();
    for call in &mut calls {
        path.clone_into(&mut call.path);
        call.method = "GET";
    }
    let told = percentiles(&mut Compiled(engine), &calls, budget / 4);
    println!("| {what} | {size} | {:.0} |", told.p50);
}

/// Time and memory of loading, and what a reload in a loop does to decisions beside it.
fn loading() {
    println!("\n| policies | load | processor time | memory kept |");
    println!("| ---: | ---: | ---: | ---: |");
    for size in SIZES {
        let before = ALLOCATOR.allocated();
        let processor = processor_time();
        let start = Instant::now();
        let engine = engine(size);
        let took = start.elapsed();
        let processor = processor_time() - processor;
        let mebibytes = |bytes: usize| bytes as f64 / 1024.0 / 1024.0;
        println!(
            "| {size} | {took:.0?} | {processor} ms | {:.1} MiB |",
            mebibytes(ALLOCATOR.allocated().saturating_sub(before)),
        );
        drop(engine);
    }
}

/// The processor time of this process in milliseconds, to 10 ms; 0 where there is no /proc.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2);
    let ticks = ticks.filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() * 10
}

fn reloading(budget: Duration) {
    let store = wayleave_authz::PolicyStore::new(engine(1000));
    let calls = rules::calls();
    println!("\n| decisions through the store, 1000 policies | p50 | p99 | p99.9 | longest |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for reload in [false, true] {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut single = std::thread::scope(|scope| {
            if reload {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        store.replace(engine(1000));
                    }
                });
            }
            let single = time_single(&store, &calls, budget);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            single
        });
        single.sort_unstable();
        let at = |share: f64| single[((single.len() - 1) as f64 * share) as usize];
        println!(
            "| {} | {} ns | {} ns | {} ns | {} us |",
            if reload {
                "while reloading in a loop"
            } else {
                "at rest"
            },
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0) / 1000
        );
    }
}

fn time_single(store: &wayleave_authz::PolicyStore, calls: &[Call], budget: Duration) -> Vec<u64> {
    let mut single = Vec::with_capacity(4_000_000);
    let begin = Instant::now();
    while begin.elapsed() < budget && single.len() + calls.len() < single.capacity() {
        for call in calls {
            let start = Instant::now();
            let decision = store
                .current()
                .as_ref()
                .map(|engine| engine.decide(&call.facts()));
            black_box(decision);
            single.push(start.elapsed().as_nanos() as u64);
        }
    }
    single
}

/// `cargo bench` runs everything; with `--test` each benchmark runs once, and with
/// `--table` only the tables are made.
fn main() {
    let smoke = std::env::args().any(|argument| argument == "--test");
    let only_table = std::env::args().any(|argument| argument == "--table");
    if !only_table {
        let mut criterion = Criterion::default().configure_from_args();
        criterion_groups(&mut criterion);
        criterion.final_summary();
    }
    let budget = Duration::from_millis(if smoke { 1 } else { 1500 });
    table(budget);
    loading();
    pathological(budget);
    reloading(budget);
}
