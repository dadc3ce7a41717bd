//! What is around the sidecar fails: upstreams stall, reset, lie and close; the disk is full, the
//! clock jumps, the sidecar itself is killed. Callers are told the truth, and no call is made
//! twice.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ground::{self, Ground, Setting, Sidecar};
use super::liar::{HONEST, Liar, Lie, SLIPPED};
use super::verdict::Findings;
use super::witness::{NUMBER, Witness};
use super::{clock, disk};
use crate::body::Body;
use crate::connector::{Connector, Http1};
use crate::job::Job;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Calls before each kind of upstream.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(8..=1_000_000))]
    calls: u64,
    /// How often the sidecar is killed.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
}

const SETTING: Setting = Setting {
    limits: "",
    upstream: ", connect_timeout: 1s, response_timeout: 1s",
    decisions: "off",
};
/// A caller that waits longer has not been answered.
const PATIENCE: Duration = Duration::from_secs(15);
const CLIENTS: u64 = 8;
/// How long the sidecar lives between two kills.
const LIFE: Duration = Duration::from_millis(400);

/// # Errors
/// Where a promise is broken, or the run cannot be made.
pub(crate) async fn run(arguments: &Arguments, program: PathBuf) -> Result<()> {
    let ground = Arc::new(Ground::lay(program, 1)?);
    let mut findings = Findings::default();
    stalls(&ground, &mut findings).await?;
    for lie in [Lie::TellsMore, Lie::HalfAChunk, Lie::EndlessChunk] {
        cut_short(&ground, lie, &mut findings).await?;
    }
    for lie in [
        Lie::TellsLess,
        Lie::TwoLengths,
        Lie::LengthAndChunks,
        Lie::NoHttp,
    ] {
        misleads(&ground, lie, arguments.calls, &mut findings).await?;
    }
    for lie in [Lie::Resets, Lie::ClosesIdle] {
        breaks_off(&ground, lie, arguments.calls, &mut findings).await?;
    }
    disk::run(&ground, &mut findings).await?;
    clock::run(&ground, &mut findings).await?;
    kills(&ground, arguments, &mut findings).await?;
    findings.verdict("chaos")
}

/// What a caller got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Whole(StatusCode, String),
    /// No answer, or one without its end.
    Broken,
}

impl Got {
    fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Whole(status, _) if *status == wanted)
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.is(StatusCode::OK)
    }
}

/// A caller that opens a connection whenever it has none.
pub(crate) struct Client {
    connector: Connector,
    sender: Option<Http1>,
}

impl Client {
    pub(crate) fn new(ground: &Ground) -> Result<Self> {
        let connector = ground.connector(&ground::allowed(0), Job::Http1)?;
        Ok(Self {
            connector,
            sender: None,
        })
    }

    pub(crate) async fn call(&mut self, method: Method, number: u64) -> Got {
        let got = timeout(PATIENCE, self.try_to_call(method, number)).await;
        match got {
            Ok(Ok(got)) => got,
            Ok(Err(_)) | Err(_) => {
                self.sender = None;
                Got::Broken
            }
        }
    }

    async fn try_to_call(&mut self, method: Method, number: u64) -> Result<Got> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connector.http1().await?,
        };
        sender.ready().await?;
        let request = Request::builder().method(method).uri("/api/items");
        let request = request.header("host", "localhost").header(NUMBER, number);
        let response = sender.send_request(request.body(Body::Empty)?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok(Got::Whole(
            status,
            String::from_utf8_lossy(&body).into_owned(),
        ))
    }
}

async fn stalls(ground: &Ground, findings: &mut Findings) -> Result<()> {
    let _liar = Liar::start(ground.upstreams.web, Lie::Stalls).await?;
    let sidecar = ground.start(SETTING).await?;
    let mut calls = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::new(ground)?;
        calls.spawn(async move { client.call(Method::GET, number).await });
    }
    let got = calls.join_all().await;
    let told = got
        .iter()
        .filter(|got| got.is(StatusCode::GATEWAY_TIMEOUT))
        .count();
    findings.promise(
        "an upstream that stalls is told as 504",
        told == got.len(),
        format!("{told} of {}", got.len()),
    );
    sidecar.kill().await
}

/// A body that has not come whole must not look as if it had.
async fn cut_short(ground: &Ground, lie: Lie, findings: &mut Findings) -> Result<()> {
    let _liar = Liar::start(ground.upstreams.web, lie).await?;
    let sidecar = ground.start(SETTING).await?;
    let mut client = Client::new(ground)?;
    let mut whole = 0;
    for number in 0..CLIENTS {
        whole += u32::from(client.call(Method::GET, number).await.is_ok());
    }
    findings.promise(
        &format!("an answer cut short does not look whole ({lie:?})"),
        whole == 0,
        format!("{whole} of {CLIENTS} did"),
    );
    sidecar.kill().await
}

/// An answer is the upstream's answer to that call, or 502.
async fn misleads(ground: &Ground, lie: Lie, calls: u64, findings: &mut Findings) -> Result<()> {
    let _liar = Liar::start(ground.upstreams.web, lie).await?;
    let sidecar = ground.start(SETTING).await?;
    let mut client = Client::new(ground)?;
    let (mut honest, mut refused, mut slipped, mut other) = (0_u64, 0_u64, 0_u64, 0_u64);
    for number in 0..calls {
        match client.call(Method::GET, number).await {
            Got::Whole(_, body) if body.contains(SLIPPED) => slipped += 1,
            Got::Whole(StatusCode::OK, body) if body == HONEST => honest += 1,
            got if got.is(StatusCode::BAD_GATEWAY) => refused += 1,
            _ => other += 1,
        }
    }
    findings.promise(
        &format!("no caller gets what an upstream slipped in ({lie:?})"),
        slipped == 0 && other == 0,
        format!("{honest} answered, {refused} told 502, {slipped} misled, {other} otherwise"),
    );
    sidecar.kill().await
}

/// What may be repeated is, where the connection was dead; what may not be is made once.
async fn breaks_off(ground: &Ground, lie: Lie, calls: u64, findings: &mut Findings) -> Result<()> {
    let liar = Liar::start(ground.upstreams.web, lie).await?;
    let sidecar = ground.start(SETTING).await?;
    let mut client = Client::new(ground)?;
    let (mut served, mut told) = (0_u64, 0_u64);
    let mut numbers = 0..;
    for number in numbers.by_ref().take(usize::try_from(calls)?) {
        let got = client.call(Method::GET, number).await;
        served += u64::from(got.is_ok());
        told += u64::from(got.is(StatusCode::BAD_GATEWAY));
    }
    let (what, kept) = match lie {
        Lie::Resets => ("a reset is told as 502", told == calls),
        // One call finds out that this upstream closes early.
        _ => (
            "no second GET is lost to connections that are closed early",
            served + 1 >= calls,
        ),
    };
    findings.promise(
        what,
        kept,
        format!("of {calls}, {served} served and {told} told 502"),
    );
    let (mut served, mut told, mut first) = (0_u64, 0_u64, None);
    for number in numbers.take(usize::try_from(calls)?) {
        first.get_or_insert(number);
        let got = client.call(Method::POST, number).await;
        served += u64::from(got.is_ok());
        told += u64::from(got.is(StatusCode::BAD_GATEWAY));
    }
    let posts = liar
        .numbered()
        .into_iter()
        .filter(|(number, _)| Some(*number) >= first);
    let twice = posts.filter(|(_, times)| *times > 1).count();
    findings.promise(
        &format!("no POST is made twice ({lie:?})"),
        twice == 0 && served + told == calls,
        format!("{twice} were; of {calls}, {served} served and {told} told 502"),
    );
    sidecar.kill().await
}

/// Calls go on while the sidecar is killed and started again.
async fn kills(ground: &Arc<Ground>, arguments: &Arguments, findings: &mut Findings) -> Result<()> {
    let witness = Witness::start(ground.upstreams).await?;
    let mut sidecar = ground.start(SETTING).await?;
    let (numbers, answered) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let stop = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (numbers, answered, stop) = (
            Arc::clone(&numbers),
            Arc::clone(&answered),
            Arc::clone(&stop),
        );
        let mut client = Client::new(ground)?;
        clients.spawn(async move {
            while stop.load(Ordering::Relaxed) == 0 {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if client.call(Method::POST, number).await.is_ok() {
                    answered
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(number);
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let count = || {
        answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    };
    let mut came_back = 0;
    for _ in 0..arguments.kills {
        sleep(LIFE).await;
        sidecar.kill().await?;
        sidecar = ground.start(SETTING).await?;
        came_back += u32::from(served_again(count).await);
    }
    stop.store(1, Ordering::Relaxed);
    clients.join_all().await;
    let answered = answered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let arrived = witness.ledger().numbered();
    let made = numbers.load(Ordering::Relaxed);
    tell_kills(
        findings,
        arguments.kills,
        came_back,
        made,
        &answered,
        &arrived,
    );
    findings.promise("the sidecar lives", sidecar.lives()?, "it does");
    sidecar.kill().await
}

/// Whether more calls are answered than were.
async fn served_again(count: impl Fn() -> usize) -> bool {
    let (before, start) = (count(), Instant::now());
    while start.elapsed() < PATIENCE {
        if count() > before + usize::try_from(CLIENTS).unwrap_or_default() {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}

fn tell_kills(
    findings: &mut Findings,
    kills: u32,
    came_back: u32,
    made: u64,
    answered: &[u64],
    arrived: &HashMap<u64, u32>,
) {
    findings.promise(
        "callers are served again after each kill",
        came_back == kills,
        format!("{came_back} of {kills}"),
    );
    let twice = arrived.values().filter(|times| **times > 1).count();
    let never = answered
        .iter()
        .filter(|number| !arrived.contains_key(*number))
        .count();
    findings.promise(
        "no call is made twice, and none answered that was not made",
        twice == 0 && never == 0 && !answered.is_empty(),
        format!(
            "{twice} twice, {never} never; {made} calls, {} arrived, {} answered",
            arrived.len(),
            answered.len()
        ),
    );
}

/// Makes calls until one is answered as wanted, within a time.
pub(crate) async fn until(
    patience: Duration,
    client: &mut Client,
    wanted: impl Fn(&Got) -> bool,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if wanted(&client.call(Method::GET, 0).await) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(anyhow!("not in {patience:?}"))
}

/// A sidecar with its upstream and one caller.
pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) sidecar: Sidecar,
    _witness: Witness,
}

impl Scene {
    pub(crate) async fn new(ground: &Ground, sidecar: Sidecar) -> Result<Self> {
        Ok(Self {
            client: Client::new(ground)?,
            sidecar,
            _witness: Witness::start(ground.upstreams).await?,
        })
    }

    /// How many of so many calls are served.
    pub(crate) async fn served(&mut self, calls: u64) -> u64 {
        let mut served = 0;
        for number in 0..calls {
            served += u64::from(self.client.call(Method::GET, number).await.is_ok());
        }
        served
    }
}
