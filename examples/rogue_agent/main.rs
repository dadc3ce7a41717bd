//! An agent reads orders as it should, then begins to sweep the API at machine speed: it is slowed,
//! then put in quarantine, and the stream that it had opened before is cut. A second agent does
//! nothing wrong here, but an event from elsewhere in the organisation (CAEP `session-revoked`) ends
//! its stream while it is open. Everything is real: the sidecar runs as a process of its own.
//!
//! ```console
//! $ cargo run -p wayleave-proxy --example rogue_agent
//! ```

#![allow(
    clippy::print_stdout,
    reason = "what it prints is what the example is for"
)]

mod agent;
mod application;
mod sidecar;
mod transmitter;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::{Agent, Answer, Cut, Watch};
use anyhow::Context as _;
use sidecar::Sidecar;
use transmitter::Transmitter;

/// Set for the processes that are the sidecar itself.
const AS_WAYLEAVE: &str = "WAYLEAVE_EXAMPLE_IS_WAYLEAVE";
/// What must come, comes within this time.
const SOON: Duration = Duration::from_secs(20);
/// What the sweeping agent would read, if it were let.
const ORDERS: u32 = 500;

fn main() -> anyhow::Result<ExitCode> {
    if std::env::var_os(AS_WAYLEAVE).is_some() {
        return Ok(wayleave_proxy::cli::main());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(story())?;
    Ok(ExitCode::SUCCESS)
}

async fn story() -> anyhow::Result<()> {
    let application = application::start().await?;
    let transmitter = Transmitter::new()?;
    let sidecar = Sidecar::start(application, &transmitter).await?;
    let told = Told(Instant::now());
    let sweeper = Agent::new(&sidecar, "sweeper")?;
    let courier = Agent::new(&sidecar, "courier")?;

    told.tell("sweeper", "opens a stream of changes");
    let swept = sweeper.watch("/orders/changes").await?;
    told.tell("courier", "opens a stream of changes");
    let carried = courier.watch("/orders/changes").await?;
    told.tell("sweeper", "reads order 7 as it should");
    anyhow::ensure!(
        sweeper.get("/orders/7").await?.status == 200,
        "order 7 is denied"
    );

    told.tell(
        "sweeper",
        "begins to read every order there is, at machine speed",
    );
    sweep(&told, &sweeper).await?;
    told.cut("sweeper", &swept.cut().await?);
    let denied = sweeper.get("/orders/7").await?;
    told.answer("sweeper", "asks for order 7 again", &denied);
    anyhow::ensure!(
        carried.is_open(),
        "the other agent's stream was cut as well"
    );
    told.tell("courier", "has noticed nothing");

    told.tell(
        "security",
        "pushes a CAEP event: session-revoked for courier",
    );
    transmitter.revoke(sidecar.events, &courier.id).await?;
    told.cut("courier", &carried.cut().await?);
    let denied = courier.get("/orders/7").await?;
    told.answer("courier", "asks for an order", &denied);
    sidecar.stop().await
}

/// Reads on until there is no more, or no way.
async fn sweep(told: &Told, agent: &Agent) -> anyhow::Result<()> {
    let mut allowed = 0;
    for order in 1..=ORDERS {
        let answer = agent.get(&format!("/orders/{order}")).await?;
        match answer.status {
            200 => allowed += 1,
            429 => {
                let wait = answer.retry_after.context("429 without Retry-After")?;
                let slowed = format!("429 at order {order}: told to wait {wait} s, and does");
                told.tell(&agent.name, &slowed);
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            _ => {
                let asked = format!("asks for order {order}, having got {allowed}");
                told.answer(&agent.name, &asked, &answer);
                return Ok(());
            }
        }
    }
    anyhow::bail!("nobody stopped the sweep")
}

/// Says what happens, and when.
struct Told(Instant);

impl Told {
    fn tell(&self, who: &str, what: &str) {
        self.tell_at(Instant::now(), who, what);
    }

    fn answer(&self, who: &str, what: &str, answer: &Answer) {
        let (status, reason) = (answer.status, &answer.reason_code);
        self.tell(who, &format!("{what}: {status} {reason}"));
    }

    fn cut(&self, who: &str, cut: &Cut) {
        let Cut { at, events, how } = cut;
        let what = format!("the stream that it had open is cut, after {events} changes: {how}");
        self.tell_at(*at, who, &what);
    }

    fn tell_at(&self, at: Instant, who: &str, what: &str) {
        let since = at.duration_since(self.0).as_secs_f64();
        println!("{since:7.3} s  {who:<9} {what}");
    }
}

impl Watch {
    /// How it was cut.
    async fn cut(self) -> anyhow::Result<Cut> {
        tokio::time::timeout(SOON, self.ended)
            .await
            .context("the stream was not cut")?
            .context("lost")
    }

    fn is_open(&self) -> bool {
        !self.ended.is_finished()
    }
}
