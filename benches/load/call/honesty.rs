//! `load call` as its command line has it, against servers whose delays are known. What it tells must
//! be what the schedule and the delays say. A busy machine can only add to a delay, so bounds on what
//! is told are from below, and those on what the server had in hand from above.

use std::path::Path;
use std::sync::OnceLock;

use clap::Parser;
use serde_json::Value;
use tokio::time::{Instant as Moment, sleep_until};

use super::*;
use crate::papers::Papers;

#[path = "delaying.rs"]
mod delaying;

use delaying::{Refusal, Server};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// The command line, after `load call`.
fn arguments(papers: &Papers, server: &Server, more: &str) -> Arguments {
    let file = |name: &str| papers.path().join(name).display().to_string();
    let line = format!(
        "load {} --name localhost --roots {} {more}",
        server.address,
        file("bundle.pem")
    );
    let (chain, key) = (file("loader.pem"), file("loader.key"));
    let line = line.replace("LOADER", &format!("{chain},{key}"));
    Line::parse_from(line.split_whitespace()).arguments
}

/// A whole run, and the JSON that it wrote.
async fn told(papers: &Papers, server: &Server, more: &str) -> Value {
    let json = papers.path().join(format!("{}.json", server.address));
    let more = format!("{more} --json {}", json.display());
    run(&arguments(papers, server, &more)).await.unwrap();
    read(&json)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const MS: f64 = 1e3;

/// How many exchanges took at least so many milliseconds, to the histogram's three digits.
fn took(outcome: &Outcome, side: Side, ms: u64) -> u64 {
    let latency = &outcome.sides[&side].latency;
    let beyond = latency.count_between(ms * 999_000, latency.high());
    beyond.min(latency.len())
}

/// Of every hundred answers 80 take 10 ms, 15 take 400 ms and 5 take a second.
fn known(number: u64) -> Duration {
    Duration::from_millis(match number % 100 {
        0..80 => 10,
        80..95 => 400,
        _ => 1_000,
    })
}

async fn tells_a_known_distribution(job: &str) {
    let papers = Papers::create().unwrap();
    let delay = |number| tokio::time::sleep(known(number));
    let server = Server::start(&papers, Refusal::Nobody, delay).await;
    let more = "--allowed LOADER --connections 32 --rate 100 --warm-up 0.5 --seconds 3";
    let report = told(&papers, &server, &format!("--job {job} {more}")).await;
    let found = &report["callers"][0];
    assert_eq!(found["exchanges"], 300, "{report}");
    let us = |name: &str| found[name].as_f64().unwrap();
    assert!(us("p50_us") >= 10.0 * MS, "{report}");
    assert!(us("p90_us") >= 400.0 * MS * 0.999, "{report}");
    assert!(us("p99_us") >= 1_000.0 * MS * 0.999, "{report}");
}

#[tokio::test]
async fn a_known_distribution_is_told_as_it_is_in_every_kind_of_exchange() {
    tokio::join!(
        tells_a_known_distribution("http1"),
        tells_a_known_distribution("http2"),
        tells_a_known_distribution("grpc-stream"),
        tells_a_known_distribution("tcp"),
    );
}

const STALL: Duration = Duration::from_millis(500);

/// Every answer takes 2 ms. From the exchange of a certain number on nothing is answered for half a
/// second. `held` counts what the server itself kept waiting for at least half of that.
#[derive(Default)]
struct Stall {
    since: OnceLock<Moment>,
    held: AtomicU64,
}

impl Stall {
    async fn delay(self: Arc<Self>, number: u64, first: u64) {
        let now = Moment::now();
        if number >= first {
            let end = *self.since.get_or_init(|| now) + STALL;
            if end.saturating_duration_since(now) >= STALL / 2 {
                self.held.fetch_add(1, Ordering::Relaxed);
            }
            sleep_until(end).await;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

async fn stalling(papers: &Papers, first: u64, refusal: Refusal) -> (Server, Arc<Stall>) {
    let stall = Arc::<Stall>::default();
    let delaying = Arc::clone(&stall);
    let delay = move |number| Arc::clone(&delaying).delay(number, first);
    (Server::start(papers, refusal, delay).await, stall)
}

/// 50 of 300 exchanges are due while nothing is answered, spread evenly over half a second: 25 of
/// them wait for a quarter of a second and more, 10 for 0.4 s. One or two are at the edges.
fn charged(outcome: &Outcome, side: Side) {
    assert_eq!(outcome.sides[&side].latency.len(), 300);
    assert!(took(outcome, side, 250) >= 23);
    assert!(took(outcome, side, 400) >= 8);
    // The share of each is in the percentiles that are told: 8 % and 3 %.
    assert!(outcome.sides[&side].us(0.925) >= 249.0 * MS);
    assert!(outcome.sides[&side].us(0.975) >= 399.0 * MS);
    assert!(outcome.late_us() >= 390.0 * MS, "there were four callers");
}

const STALLED: &str = "--connections 4 --rate 100 --warm-up 0.5 --seconds 3";

async fn charges_a_stall(job: &str) {
    let papers = Papers::create().unwrap();
    let (server, stall) = stalling(&papers, 150, Refusal::Nobody).await;
    let more = format!("--job {job} --allowed LOADER {STALLED}");
    let outcome = measure(&arguments(&papers, &server, &more)).await.unwrap();
    charged(&outcome, Side::Allowed);
    // The server had no more of them at that time than there were callers: who counts from the
    // moment at which a request was sent would have told of four.
    assert!(stall.held.load(Ordering::Relaxed) <= 4);
}

#[tokio::test]
async fn a_stall_is_charged_to_every_exchange_that_was_due_meanwhile() {
    tokio::join!(
        charges_a_stall("http1"),
        charges_a_stall("http2"),
        charges_a_stall("grpc-stream"),
        charges_a_stall("tcp"),
    );
}

#[tokio::test]
async fn a_closed_loop_hides_the_stall_that_an_open_one_tells() {
    let papers = Papers::create().unwrap();
    let (server, stall) = stalling(&papers, 100, Refusal::Nobody).await;
    let more = "--allowed LOADER --connections 4 --warm-up 0.1 --seconds 4";
    let outcome = measure(&arguments(&papers, &server, more)).await.unwrap();
    assert!(outcome.exchanges() > 0);
    // Whatever the machine added: the stall is in four latencies, of at least a hundred. On a
    // schedule it is in a sixth of all.
    assert!((1..=4).contains(&stall.held.load(Ordering::Relaxed)));
}

#[tokio::test]
async fn a_refusal_is_charged_for_a_stall_as_an_answer_is() {
    // These are refused at the opening of the stream, which is tried again for each exchange.
    let papers = Papers::create().unwrap();
    let (server, _) = stalling(&papers, 150, Refusal::Forbidden).await;
    let more = format!("--job grpc-stream --denied LOADER {STALLED}");
    let outcome = measure(&arguments(&papers, &server, &more)).await.unwrap();
    let found = &outcome.sides[&Side::Denied];
    assert!(took(&outcome, Side::Denied, 250) >= 23);
    assert_eq!((found.latency.len(), found.unexpected), (300, 0));
}

#[tokio::test]
async fn a_pause_of_the_loader_is_not_told_as_the_servers_latency() {
    let papers = Papers::create().unwrap();
    let at_once = |_| std::future::ready(());
    let server = Server::start(&papers, Refusal::Closed, at_once).await;
    // Long enough to be told from what a busy machine adds.
    let pause = Duration::from_secs(1);
    for rate in ["", "--rate 50"] {
        let more = "--job tcp --denied LOADER --connections 1 --warm-up 0.1 --seconds 1.5";
        let arguments = arguments(&papers, &server, &format!("{more} {rate}"));
        let outcome = measure_pausing(&arguments, pause).await.unwrap();
        let found = &outcome.sides[&Side::Denied];
        assert_eq!(found.unexpected, 0);
        let least = Duration::from_nanos(found.latency.min());
        assert!(least < pause, "{least:?} {rate}");
    }
}

#[tokio::test]
async fn a_rate_that_the_server_does_not_sustain_is_told() {
    // Two callers at 25 ms an answer: 80 a second, at most.
    let papers = Papers::create().unwrap();
    let delay = |_| tokio::time::sleep(Duration::from_millis(25));
    let server = Server::start(&papers, Refusal::Nobody, delay).await;
    let more = "--allowed LOADER --connections 2 --rate 240 --warm-up 0.1 --seconds 1";
    let report = told(&papers, &server, more).await;
    assert_eq!(report["sustained"], false, "{report}");
    let found = &report["callers"][0];
    assert_eq!(found["exchanges"], 240, "{report}");
    assert!(found["per_second"].as_f64().unwrap() <= 90.0, "{report}");
    // The last was due at the end of the second, and answered two seconds after it.
    assert!(
        found["max_us"].as_f64().unwrap() >= 1_900.0 * MS,
        "{report}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let papers = Papers::create().unwrap();
    let server = Server::nobody();
    let more = "--allowed LOADER --rate 100 --warm-up 0.1 --seconds 0.5";
    let error = run(&arguments(&papers, &server, more)).await.unwrap_err();
    let told = error.to_string();
    assert!(
        told.starts_with("50 exchanges of allowed callers"),
        "{told}"
    );
}
