//! What it costs to end what is no longer allowed: thousands of live streams, a tenth of which
//! become denied; how long each lives on, what the others notice, and what deciding all of them
//! again costs.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::client::Plan;
use crate::connector::Connector;
use crate::live::{self, Doors, Kind, Seen};
use crate::papers::{Caller, Papers};
use crate::process::{self, Process};
use crate::rate::{self, Latencies, Rate};
use crate::target;

const OPEN_FILES: u64 = 30_000;
const STRANGER: &str = "spiffe://load.example/sa/stranger";
const PATIENCE: Duration = Duration::from_secs(60);
/// Times that everything is decided again in one measurement, each second.
const PER_SECOND: u32 = 10;

/// Both callers may do everything.
const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";
/// But for one.
const BUT_ONE: &str = "@id(\"but-one\") forbid (principal == Workload::\"spiffe://load.example/sa/stranger\", action, resource);\n";

/// How much is open, and for how long it is looked at.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Live streams; a tenth of them is cut.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(40..=8_000))]
    live: u32,
    /// Seconds of each measurement of ordinary requests.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    window: u32,
    /// Ordinary requests a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ordinary: u32,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
}

/// A running sidecar with its streams.
struct Scene {
    papers: Papers,
    process: Process,
    _child: Child,
    doors: Doors,
    admin: SocketAddr,
    kept: Vec<Arc<Seen>>,
}

/// Measures, and tells.
pub(crate) async fn run(arguments: &Arguments, sidecar: &Path) -> Result<()> {
    process::raise_open_files(OPEN_FILES);
    process::go_first();
    let pinned = target::pin_self();
    let mut scene = Scene::begin(sidecar, pinned).await?;
    let live = usize::try_from(arguments.live)?;
    scene.kept = scene.open(Caller::Loader, live - live / 10).await?;
    println!("{live} live streams: gRPC, SSE, WebSocket, TCP, a quarter each; a tenth is cut");
    for round in 1..=arguments.repeat {
        let hit = scene.open(Caller::Stranger, live / 10).await?;
        println!("round {round}");
        scene.redecided(arguments, live).await?;
        let quarantine =
            format!("{{\"quarantine\":{{\"principal\":\"{STRANGER}\",\"seconds\":600}}}}");
        let start = Instant::now();
        scene.order(&quarantine).await?;
        println!(
            "  cut by a quarantine:      {}",
            Cut::of(&hit, start).await?
        );
        scene
            .order(&format!("{{\"release\":{{\"principal\":\"{STRANGER}\"}}}}"))
            .await?;
        let hit = scene.open(Caller::Stranger, live / 10).await?;
        let start = Instant::now();
        scene.policy(&format!("{ALL}{BUT_ONE}"))?;
        println!(
            "  cut by a policy's change: {}",
            Cut::of(&hit, start).await?
        );
        scene.policy(ALL)?;
        scene.allowed_again().await?;
        scene.nothing_was_lost().await?;
    }
    Ok(())
}

impl Scene {
    async fn begin(sidecar: &Path, pinned: bool) -> Result<Self> {
        let papers = Papers::create()?;
        let upstreams = live::upstream().await?;
        std::fs::create_dir(papers.path().join("policies"))?;
        std::fs::write(papers.path().join("policies/all.cedar"), ALL)?;
        let config = papers.path().join("wayleave.yaml");
        std::fs::write(&config, file(upstreams))?;
        let mut command = match pinned {
            true => Command::new("taskset"),
            false => Command::new(sidecar),
        };
        if pinned {
            command.args(["-c", "0"]).arg(sidecar);
        }
        command.arg("run").arg("--config").arg(config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let (doors, admin) = ready(&mut child).await?;
        Ok(Self {
            papers,
            process: Process::new(child.id().context("the sidecar has ended")?),
            _child: child,
            doors,
            admin,
            kept: Vec::new(),
        })
    }

    /// Opens so many streams, a quarter of each kind, and waits until each carries something.
    async fn open(&self, caller: Caller, count: usize) -> Result<Vec<Arc<Seen>>> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let opened = live::open(self.doors, self.papers.path(), caller, kind, count / 4);
            all.extend(opened.await.with_context(|| format!("{kind:?}"))?);
        }
        let start = Instant::now();
        while all.iter().any(|seen| seen.count() == 0) {
            ensure!(start.elapsed() < PATIENCE, "a stream carries nothing");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(all)
    }

    /// Ordinary requests without anything else, and while all streams are decided again and again.
    async fn redecided(&self, arguments: &Arguments, live: usize) -> Result<()> {
        let (calm, without) = self.ordinary(arguments).await?;
        let times = arguments.window * PER_SECOND;
        let deciding = async {
            for number in 0..times {
                // A serial number that nobody has concerns everybody.
                let order = match number % 2 {
                    0 => "{\"revoke\":{\"subject\":{\"serial\":\"abcdef\"}}}",
                    _ => "{\"reinstate\":{\"subject\":{\"serial\":\"abcdef\"}}}",
                };
                self.order(order).await?;
                sleep(Duration::from_secs(1) / PER_SECOND).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        let reviewed = self.reviewed().await?;
        let ((busy, with), decided) = tokio::try_join!(self.ordinary(arguments), deciding)
            .map(|(ordinary, ())| (ordinary, times))?;
        let reviewed = self.reviewed().await? - reviewed;
        let each = (with.as_secs_f64() - without.as_secs_f64()) * 1e6 / reviewed.max(1.0);
        println!(
            "  decided again {decided} times, {reviewed} streams in all ({live} live): {each:.2} us of CPU a stream"
        );
        println!(
            "  ordinary requests at {} a second: p50 {:.0} us, p99 {:.0} us; meanwhile p50 {:.0} us, p99 {:.0} us",
            arguments.ordinary, calm.p50_us, calm.p99_us, busy.p50_us, busy.p99_us
        );
        Ok(())
    }

    /// Latencies of ordinary requests, and the CPU time of the sidecar meanwhile.
    async fn ordinary(&self, arguments: &Arguments) -> Result<(Latencies, Duration)> {
        let plan = Plan::Http1 { connections: 8 };
        let connector = Connector::new(self.doors.web, Some(self.papers.path()), Caller::Loader)?;
        let rate = Rate {
            per_second: arguments.ordinary,
            length: Duration::from_secs(arguments.window.into()),
        };
        let before = self.process.cpu()?;
        let latencies = rate::run(&connector, plan, rate, self.process).await?;
        Ok((latencies, self.process.cpu()?.saturating_sub(before)))
    }

    /// How many streams were decided again so far.
    async fn reviewed(&self) -> Result<f64> {
        let admin = self.admin;
        let mut stream = TcpStream::connect(admin).await?;
        let head = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("wayleave_leases_reviewed_total "));
        Ok(line.context("no such metric")?.trim().parse()?)
    }

    /// Says something by the admin socket; it is in force when this returns.
    async fn order(&self, order: &str) -> Result<()> {
        let mut socket = UnixStream::connect(self.papers.path().join("log/admin.sock")).await?;
        let length = order.len();
        let request = format!(
            "POST /standing HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{order}"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }

    fn policy(&self, text: &str) -> Result<()> {
        let (new, path) = ("log/new.cedar", "policies/all.cedar");
        std::fs::write(self.papers.path().join(new), text)?;
        std::fs::rename(self.papers.path().join(new), self.papers.path().join(path))?;
        Ok(())
    }

    async fn allowed_again(&self) -> Result<()> {
        let start = Instant::now();
        while self.open(Caller::Stranger, 4).await.is_err() {
            ensure!(
                start.elapsed() < PATIENCE,
                "the policies are not taken back"
            );
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Whoever is allowed goes on, and got everything so far.
    async fn nothing_was_lost(&self) -> Result<()> {
        let before: Vec<u64> = self.kept.iter().map(|seen| seen.count()).collect();
        let start = Instant::now();
        let goes_on = |(seen, before): (&Arc<Seen>, &u64)| seen.count() > before + 1;
        while !self.kept.iter().zip(&before).all(goes_on) {
            ensure!(
                start.elapsed() < PATIENCE,
                "a stream that is allowed has stopped"
            );
            sleep(Duration::from_millis(100)).await;
        }
        let ended = self
            .kept
            .iter()
            .filter(|seen| seen.ended().is_some())
            .count();
        ensure!(ended == 0, "{ended} streams ended that are allowed");
        println!(
            "  the other {} streams go on, and lost nothing",
            self.kept.len()
        );
        Ok(())
    }
}

/// How long streams lived on after what ends them.
struct Cut {
    count: usize,
    sorted: Vec<Duration>,
}

impl Cut {
    async fn of(hit: &[Arc<Seen>], start: Instant) -> Result<Self> {
        while hit.iter().any(|seen| seen.ended().is_none()) {
            if start.elapsed() > PATIENCE {
                let open = hit.iter().filter(|seen| seen.ended().is_none()).count();
                bail!("{open} streams are still open that are denied");
            }
            sleep(Duration::from_millis(5)).await;
        }
        let ended: Vec<_> = hit.iter().filter_map(|seen| seen.ended()).collect();
        ensure!(
            ended.iter().all(|ended| ended.is_whole),
            "a stream lost something before its end"
        );
        let mut sorted: Vec<_> = ended
            .iter()
            .map(|ended| ended.at.duration_since(start))
            .collect();
        sorted.sort_unstable();
        Ok(Self {
            count: sorted.len(),
            sorted,
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |percent: usize| {
            let place = (self.count * percent / 100).min(self.count.saturating_sub(1));
            self.sorted
                .get(place)
                .map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let (p50, p99, max) = (at(50), at(99), at(100));
        write!(
            f,
            "{} streams, p50 {p50:.1} ms, p99 {p99:.1} ms, maximum {max:.1} ms",
            self.count
        )
    }
}

/// Waits until the sidecar is ready; answers with where it listens, and its admin listener.
async fn ready(child: &mut Child) -> Result<(Doors, SocketAddr)> {
    let told = child.stderr.take().context("no log")?;
    let mut lines = BufReader::new(told).lines();
    let mut doors = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            bail!("the sidecar says: {line}");
        };
        let fields = line.get("fields").unwrap_or(&line);
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        match text("message") {
            Some("listening") => {
                let name = text("listener").unwrap_or_default().to_owned();
                doors.push((name, text("address").unwrap_or_default().parse()?));
            }
            Some("ready") => {
                let admin = text("admin").context("no admin listener")?.parse()?;
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                let door = |name: &str| {
                    let found = doors.iter().find(|(listener, _)| listener == name);
                    found
                        .map(|(_, address)| *address)
                        .context("a listener is missing")
                };
                let doors = Doors {
                    web: door("web")?,
                    grpc: door("grpc")?,
                    tcp: door("tcp")?,
                };
                return Ok((doors, admin));
            }
            _ => {}
        }
    }
    bail!("the sidecar ended before it was ready")
}

fn file([http1, http2, tcp]: [SocketAddr; 3]) -> String {
    let inbound = |name: &str, upstream: String, more: &str| {
        format!(
            "  - {{ name: {name}, listen: \"127.0.0.1:0\", service: app, {more}upstream: {{ {upstream} }}, \
             limits: {{ max_requests: 20000, max_requests_per_peer: 20000 }} }}\n"
        )
    };
    [
        "identity: { files: { svid: app.pem, key: app.key, bundle: bundle.pem } }\n\
         policies: { paths: [policies] }\n\
         admin: { listen: \"127.0.0.1:0\", socket: log/admin.sock }\n\
         log: { decisions: \"off\" }\ninbound:\n"
            .to_owned(),
        inbound("web", format!("address: \"{http1}\""), ""),
        inbound("grpc", format!("address: \"{http2}\", protocol: http2"), ""),
        inbound("tcp", format!("address: \"{tcp}\""), "protocol: tcp, "),
    ]
    .concat()
}
