//! A well-behaved client among peers that mean it ill: it must be served, all of it, and how
//! long it waits is told beside a calm time. Every attacker's connection must be ended.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::attacks::{self, Attack, Fates};
use super::ground::{self, Ground, Setting};
use super::verdict::Findings;
use super::witness::Witness;
use crate::client::Plan;
use crate::connector::Http1;
use crate::hold;
use crate::job::Job;
use crate::rate::{self, Latencies, Rate};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long the attacks go on.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// Idle connections that are held meanwhile, as far as open files allow.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=11_000))]
    idle: u32,
    /// Requests a second of the well-behaved client.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// What the sidecar may hold at most, in MiB.
    #[arg(long, default_value_t = 768)]
    memory: u64,
}

const SETTING: Setting = Setting {
    limits: "max_connections: 20000, max_connections_per_peer: 15000, header_timeout: 2s, \
             handshake_timeout: 2s, body_timeout: 2s, request_timeout: 4s, idle_timeout: 900s",
    upstream: "",
    decisions: "off",
};
/// Callers: the well-behaved one, two that attack, and one that is idle.
const CALLERS: usize = 4;
const IDLE: usize = 3;
const CALM: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 32;

/// # Errors
/// Where a promise is broken, or the run cannot be made.
pub(crate) async fn run(arguments: &Arguments, program: PathBuf, open_files: u64) -> Result<()> {
    let ground = Arc::new(Ground::lay(program, CALLERS)?);
    let witness = Witness::start(ground.upstreams).await?;
    let mut sidecar = ground.start(SETTING).await?;
    let wanted = usize::try_from(arguments.idle)?;
    let idle = [wanted, wanted / 2, wanted / 10].into_iter();
    let idle = idle
        .into_iter()
        .find(|count| hold::fits(*count, open_files));
    let idle = idle.context("too few open files (see `ulimit -n`)")?;
    if idle < wanted {
        println!("{open_files} open files: {idle} idle connections in place of {wanted}");
    }
    let mut held = hold_idle(&ground, idle).await?;
    let calm = behave(&ground, arguments.rate, CALM, sidecar.process).await?;
    let length = Duration::from_secs(arguments.seconds);
    let attackers = tokio::spawn(attackers(Arc::clone(&ground), Instant::now() + length));
    let served = behave(&ground, arguments.rate, length, sidecar.process).await;
    let attacked = attackers.await??;
    let peak_mib = sidecar.process.memory()?.peak_kib / 1024;
    let calm_again = behave(&ground, arguments.rate, CALM, sidecar.process).await;

    let mut findings = Findings::default();
    tell_attacks(&mut findings, &attacked);
    println!(
        "\nthe well-behaved client, {} requests a second, µs:\n",
        arguments.rate
    );
    println!(
        "| | requests | p50 | p99 | most | sent late, p99 |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    );
    let all = [
        ("before", &Ok(calm)),
        ("meanwhile", &served),
        ("after", &calm_again),
    ];
    for (when, found) in all {
        tell_client(when, found);
    }
    println!();
    for (when, found) in all {
        let told = found
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |_| "all".to_owned());
        findings.promise(
            &format!("the well-behaved client is served, {when}"),
            found.is_ok(),
            told,
        );
    }
    let lost = held.iter_mut().filter(|sender| sender.is_closed()).count();
    findings.promise(
        "idle connections stay",
        lost == 0,
        format!("{lost} of {idle} lost"),
    );
    let denied = witness.ledger().denied();
    findings.promise(
        "no bomb reaches the upstream",
        denied == 0,
        format!("{denied} did"),
    );
    findings.promise(
        "memory stays below its bound",
        peak_mib <= arguments.memory,
        format!("{peak_mib} of {} MiB", arguments.memory),
    );
    findings.promise("the sidecar lives", sidecar.lives()?, "to the end");
    findings.verdict("hostile")
}

fn tell_attacks(findings: &mut Findings, attacked: &[(Attack, Fates)]) {
    for (attack, fates) in attacked {
        let Fates {
            ended,
            stayed,
            unopened,
        } = *fates;
        findings.promise(
            &format!("ends {attack}"),
            stayed == 0 && ended > 0,
            format!("{ended} ended, {stayed} stayed, {unopened} never opened"),
        );
    }
}

fn tell_client(when: &str, found: &Result<Latencies>) {
    match found {
        Ok(found) => println!(
            "| {when} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
            found.requests, found.p50_us, found.p99_us, found.max_us, found.sent_late_p99_us
        ),
        Err(error) => println!("| {when} | {error:#} | | | | |"),
    }
}

async fn behave(
    ground: &Ground,
    per_second: u32,
    length: Duration,
    process: crate::process::Process,
) -> Result<Latencies> {
    let connector = ground.connector(&ground::allowed(0), Job::Http1)?;
    let plan = Plan::Http1 { connections: 8 };
    rate::run(&connector, plan, Rate { per_second, length }, process).await
}

/// The attackers have a thread of their own, so that they do not delay the client here.
async fn attackers(ground: Arc<Ground>, until: Instant) -> Result<Vec<(Attack, Fates)>> {
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let attacks = Attack::ALL.into_iter().map(|attack| {
                let going_on = attacks::go_on(attack, Arc::clone(&ground), until);
                async move { Ok::<_, anyhow::Error>((attack, going_on.await?)) }
            });
            futures_util::future::try_join_all(attacks).await
        })
    });
    thread
        .await
        .map_err(|_| anyhow!("the attackers' thread panicked"))?
}

/// Opens so many connections and uses none.
async fn hold_idle(ground: &Ground, count: usize) -> Result<Vec<Http1>> {
    let connector = ground.connector(&ground::allowed(IDLE), Job::Http1)?;
    let mut held = Vec::with_capacity(count);
    let mut opening = FuturesUnordered::new();
    let mut left = count;
    while held.len() < count {
        while opening.len() < AT_ONCE && left > 0 {
            left -= 1;
            opening.push(connector.http1_from(Ipv4Addr::LOCALHOST));
        }
        let opened = opening.next().await.context("nothing is being opened")?;
        held.push(opened.with_context(|| format!("idle connection {}", held.len()))?);
    }
    Ok(held)
}
