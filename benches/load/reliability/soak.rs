//! Mixed traffic while everything around it changes: SVIDs rotate, policies are loaded again, the
//! upstream and the signal store end and come back. No allowed call may be lost but to an upstream
//! that is away, no denied call may pass, and memory stays where it is.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fate::{Fate, Part, Side, Tally};
use super::ground::{self, Ground, Setting, Sidecar};
use super::store::{Losses, PROGRAMS, Store};
use super::verdict::{Findings, MemoryOverTime};
use super::witness::Witness;
use crate::job::{Job, Line};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(5..=604_800))]
    seconds: u64,
    /// Identities that are allowed, and as many that are not.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    identities: u16,
    /// Seconds from one rotation of all SVIDs to the next.
    #[arg(long, default_value_t = 3.0, value_parser = crate::seconds)]
    rotate: f64,
    /// Seconds from one load of policies to the next.
    #[arg(long, default_value_t = 2.0, value_parser = crate::seconds)]
    reload: f64,
    /// Seconds from one end of the upstream to the next.
    #[arg(long, default_value_t = 5.0, value_parser = crate::seconds)]
    restart: f64,
    /// Seconds that the upstream stays away.
    #[arg(long, default_value_t = 0.5, value_parser = crate::seconds)]
    away: f64,
    /// Seconds from one loss of the signal store to the next: it is killed and started with nothing in
    /// it, or stopped for a while, by turns.
    #[arg(long, default_value_t = 4.0, value_parser = crate::seconds)]
    store: f64,
}

/// Exchanges on one connection before the next is opened.
const EXCHANGES: usize = 50;
/// Between two exchanges of one caller.
const PAUSE: Duration = Duration::from_millis(5);
/// An exchange that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// The last changes may still be on their way, and two of them may be read as one.
const TAKEN: f64 = 0.7;
const SAMPLE: Duration = Duration::from_millis(100);

/// # Errors
/// Where a promise is broken, or the run cannot be made.
pub(crate) async fn run(arguments: &Arguments, program: PathBuf) -> Result<()> {
    let callers = usize::from(arguments.identities);
    let mut store = Store::start().await?;
    let mut ground = Ground::lay(program, callers)?;
    if let Some(store) = &store {
        ground.share(store.address)?;
    }
    let ground = Arc::new(ground);
    let mut witness = Witness::start(ground.upstreams).await?;
    let mut sidecar = ground.start(Setting::PLAIN).await?;
    if store.is_some() {
        ground.quarantine().await?;
    }
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut crowd = crowd(&ground, &tally, callers, end);
    let mut changes = Changes::new(arguments);
    let (memory, losses) = tokio::join!(
        changes.make(&ground, &mut witness, &tally, &mut sidecar, end),
        lose(&mut store, &ground, arguments, end),
    );
    while let Some(caller) = crowd.join_next().await {
        caller??;
    }
    let taken = Taken {
        rotations: ground.metric("wayleave_identity_updates_total").await?,
        reloads: ground.metric("wayleave_policy_loads_total").await?,
    };
    let mut findings = Findings::default();
    report(&tally, &witness, &changes, &taken, &mut findings);
    match (&store, losses?) {
        (Some(store), Some(losses)) => shared(store, &losses, &ground, &mut findings).await?,
        _ => findings.skip(&format!(
            "soak: the signal store (none of {PROGRAMS:?} is here)"
        )),
    }
    if let Some(store) = &mut store {
        store.kill().await?;
    }
    let memory = memory?;
    findings.promise("memory is flat", memory.is_flat(), memory);
    findings.promise("the sidecar lives", sidecar.lives()?, "to the end");
    findings.verdict("soak")
}

/// Has the signal store come and go, where there is one.
async fn lose(
    store: &mut Option<Store>,
    ground: &Ground,
    arguments: &Arguments,
    end: Instant,
) -> Result<Option<Losses>> {
    let Some(store) = store else {
        return Ok(None);
    };
    let (every, away) = (arguments.store, arguments.away);
    let (every, away) = (
        Duration::from_secs_f64(every),
        Duration::from_secs_f64(away),
    );
    let losses = store.come_and_go(ground, every, away, end).await?;
    Ok(Some(losses))
}

/// What became of a signal store that came and went.
async fn shared(
    store: &Store,
    losses: &Losses,
    ground: &Ground,
    findings: &mut Findings,
) -> Result<()> {
    let rounds = "wayleave_signal_store_reconcile_duration_seconds_count";
    let (rounds, changes) = (
        ground.metric(rounds).await?,
        ground.metric("wayleave_signal_store_changes_total").await?,
    );
    let entries = store.entries().await?;
    findings.promise(
        "the signal store is used",
        rounds > 0.0 && changes > 0.0 && entries > 0,
        format!("{rounds} rounds of counters, {changes} changes, {entries} entries at the end"),
    );
    let reconnects = "wayleave_signal_store_reconnects_total";
    let reconnects = ground.metric(reconnects).await?;
    findings.promise(
        "the signal store is lost, noticed and found again each time",
        losses.count() > 0
            && (losses.noticed, losses.found_again) == (losses.count(), losses.count())
            && reconnects >= f64::from(losses.count()),
        format!(
            "{} ends and {} pauses, {} noticed, {} found again, {reconnects} new connections",
            losses.ends, losses.pauses, losses.noticed, losses.found_again
        ),
    );
    findings.promise(
        "what the signal store forgot is written anew",
        losses.written_anew == losses.ends,
        format!("{} times", losses.written_anew),
    );
    Ok(())
}

/// What the sidecar says that it took up, its start included.
struct Taken {
    rotations: f64,
    reloads: f64,
}

fn crowd(
    ground: &Arc<Ground>,
    tally: &Arc<Tally>,
    callers: usize,
    end: Instant,
) -> JoinSet<Result<()>> {
    let mut crowd = JoinSet::new();
    for job in Job::ALL {
        for caller in 0..callers {
            for side in [Side::Allowed, Side::Denied] {
                let (ground, tally) = (Arc::clone(ground), Arc::clone(tally));
                crowd.spawn(call(ground, tally, Part { job, caller, side }, end));
            }
        }
    }
    crowd
}

/// One caller, who comes back with the newest SVID for every connection. One in three keeps its
/// connection for as long as it lasts.
async fn call(ground: Arc<Ground>, tally: Arc<Tally>, part: Part, end: Instant) -> Result<()> {
    let ask = part.ask();
    let limit = if part.caller % 3 == 2 {
        usize::MAX
    } else {
        EXCHANGES
    };
    while Instant::now() < end {
        let begun = Instant::now();
        let connector = ground.connector(&part.name(), part.job)?;
        let opened = patiently(Line::open(&connector, part.job, &ask)).await;
        let mut line = match opened {
            Ok(Ok(line)) => line,
            Ok(Err(answer)) => {
                tally.note(part, begun, Ok(answer));
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => {
                tally.note(part, begun, Err(error));
                sleep(PAUSE).await;
                continue;
            }
        };
        for _ in 0..limit {
            let begun = Instant::now();
            let answer = patiently(line.exchange(&ask)).await;
            let over = answer.is_err();
            tally.note(part, begun, answer);
            sleep(PAUSE).await;
            if over || Instant::now() >= end {
                break;
            }
        }
    }
    Ok(())
}

async fn patiently<T>(exchange: impl Future<Output = Result<T>>) -> Result<T> {
    let in_time = timeout(PATIENCE, exchange).await;
    in_time.unwrap_or_else(|_| Err(anyhow!("no answer in {PATIENCE:?}")))
}

/// What changes around the calls, and how often it has.
struct Changes {
    rotate: Duration,
    reload: Duration,
    restart: Duration,
    away: Duration,
    rotations: usize,
    reloads: usize,
    restarts: usize,
}

impl Changes {
    fn new(arguments: &Arguments) -> Self {
        let seconds = Duration::from_secs_f64;
        Self {
            rotate: seconds(arguments.rotate),
            reload: seconds(arguments.reload),
            restart: seconds(arguments.restart),
            away: seconds(arguments.away),
            rotations: 0,
            reloads: 0,
            restarts: 0,
        }
    }

    /// Makes them until the end; answers with the sidecar's memory meanwhile.
    async fn make(
        &mut self,
        ground: &Ground,
        witness: &mut Witness,
        tally: &Tally,
        sidecar: &mut Sidecar,
        end: Instant,
    ) -> Result<MemoryOverTime> {
        let start = Instant::now();
        let mut memory = MemoryOverTime::default();
        let due = |every: Duration, done: usize| {
            start.elapsed().as_secs_f64() >= every.as_secs_f64() * (done + 1) as f64
        };
        while Instant::now() < end {
            if due(self.rotate, self.rotations) {
                self.rotations += 1;
                ground.papers.issue("app", "sa/app")?;
                ground
                    .papers
                    .issue(&ground::allowed(0), "ns/allowed/sa/0")?;
            }
            if due(self.reload, self.reloads) {
                self.reloads += 1;
                ground.permit(self.reloads)?;
            }
            if due(self.restart, self.restarts) {
                self.restarts += 1;
                tally.leave();
                witness.end();
                sleep(self.away).await;
                witness.begin().await?;
                tally.come_back();
            }
            memory.push(sidecar.process.memory()?.resident_kib);
            sleep(SAMPLE).await;
        }
        Ok(memory)
    }
}

fn report(
    tally: &Tally,
    witness: &Witness,
    changes: &Changes,
    taken: &Taken,
    findings: &mut Findings,
) {
    println!(
        "\n| calls | served | upstream away: told | upstream away: cut | lost | refused | passed |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for job in Job::ALL {
        let count = |fate: Fate| tally.count(|_, of, f| of == job && f == fate);
        println!(
            "| {job} | {} | {} | {} | {} | {} | {} |",
            count(Fate::Served),
            count(Fate::UpstreamAway),
            count(Fate::UpstreamCut),
            count(Fate::Lost),
            count(Fate::Refused),
            count(Fate::Passed)
        );
    }
    println!(
        "\n{} rotations of SVIDs, {} loads of policies, {} ends of the upstream\n",
        changes.rotations, changes.reloads, changes.restarts
    );
    let wrong = tally.wrong.lock().unwrap_or_else(PoisonError::into_inner);
    for told in wrong.iter() {
        println!("{told}");
    }
    let of = |fate: Fate| tally.count(|_, _, f| f == fate);
    let every = |fate| {
        Job::ALL
            .iter()
            .all(|job| tally.count(|_, of, f| of == *job && f == fate) > 0)
    };
    let ledger = witness.ledger();
    findings.promise(
        "every protocol is served",
        every(Fate::Served),
        of(Fate::Served),
    );
    findings.promise(
        "every protocol refuses",
        every(Fate::Refused),
        of(Fate::Refused),
    );
    findings.promise(
        "no allowed call is lost",
        of(Fate::Lost) == 0,
        format!("{} lost", of(Fate::Lost)),
    );
    findings.promise(
        "no denied call passes",
        of(Fate::Passed) == 0 && ledger.denied() == 0,
        format!(
            "{} not refused, {} of {} calls that reached the upstream were denied",
            of(Fate::Passed),
            ledger.denied(),
            ledger.reached()
        ),
    );
    let (rotations, reloads) = (changes.rotations as f64, changes.reloads as f64);
    findings.promise(
        "changes are taken up",
        taken.rotations > rotations * TAKEN && taken.reloads > reloads * TAKEN,
        format!(
            "{} identities and {} policy sets",
            taken.rotations, taken.reloads
        ),
    );
}
