//! What a sidecar commonly does, each thing a few times: every protocol, for callers that it serves
//! and callers that it refuses, calls of its own workload, scrapes of its metrics, and a change of its policies.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{sleep, timeout};

use super::ground::{self, Ground, Setting, Sidecar};
use super::witness::{DENIED, DENIED_BYTE, Witness};
use crate::connector::Connector;
use crate::job::{Answer, Job, Line};

const RECORDING: Setting = Setting {
    decisions: "file:log/decisions.jsonl",
    ..Setting::PLAIN
};
/// A sidecar under an instrument takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// A sidecar that has done it all, and still runs.
pub(crate) struct Day {
    sidecar: Sidecar,
    /// Kept: they end when dropped.
    _witness: Witness,
    _ground: Ground,
}

impl Day {
    /// Has a sidecar do it, run by `instrument`: so many exchanges by each protocol.
    ///
    /// # Errors
    /// When a call is not answered as it should be, or the new policies are not taken up.
    pub(crate) async fn spend(
        program: PathBuf,
        instrument: Vec<OsString>,
        exchanges: usize,
    ) -> Result<Self> {
        let ground = Ground::lay(program, 1)?.run_by(instrument);
        let witness = Witness::start(ground.upstreams).await?;
        let sidecar = ground.start(RECORDING).await?;
        for job in Job::ALL {
            serve(&ground, job, exchanges).await?;
            refuse(&ground, job).await?;
        }
        for job in [Job::Http1, Job::Http2] {
            exchange(&ground.connector_out()?, job, exchanges).await?;
        }
        ground.permit(1)?;
        let taken_up = timeout(PATIENCE, loaded_again(&ground)).await;
        taken_up.context("the new policies were not taken up")??;
        Ok(Self {
            sidecar,
            _witness: witness,
            _ground: ground,
        })
    }

    /// Has the sidecar end by itself.
    pub(crate) async fn end(self) -> Result<()> {
        self.sidecar.end().await
    }

    pub(crate) fn pid(&self) -> u32 {
        self.sidecar.process.pid()
    }
}

/// Waits until policies were loaded once more than at the start.
async fn loaded_again(ground: &Ground) -> Result<()> {
    while ground.metric("wayleave_policy_loads_total").await? < 2.0 {
        sleep(POLL).await;
    }
    Ok(())
}

async fn serve(ground: &Ground, job: Job, exchanges: usize) -> Result<()> {
    let connector = ground.connector(&ground::allowed(0), job)?;
    exchange(&connector, job, exchanges).await
}

async fn exchange(connector: &Connector, job: Job, exchanges: usize) -> Result<()> {
    let ask = ground::ask(job, &[b'A'; 32]);
    let opened = timeout(PATIENCE, Line::open(connector, job, &ask)).await??;
    let Ok(mut line) = opened else {
        anyhow::bail!("{job} was refused to a caller that is allowed");
    };
    for _ in 0..exchanges {
        let answer = timeout(PATIENCE, line.exchange(&ask)).await??;
        ensure!(answer == Answer::Ok, "{job} was answered {answer}");
    }
    Ok(())
}

async fn refuse(ground: &Ground, job: Job) -> Result<()> {
    let connector = ground.connector(&ground::denied(0), job)?;
    let mut ask = ground::ask(job, &[DENIED_BYTE; 32]);
    ask.mark = Some(DENIED);
    let exchange = async {
        match Line::open(&connector, job, &ask).await? {
            Ok(mut line) => line.exchange(&ask).await,
            Err(answer) => Ok(answer),
        }
    };
    // Bytes have no status: the connection is reset.
    let answer = timeout(PATIENCE, exchange).await?;
    ensure!(
        !matches!(answer, Ok(Answer::Ok)),
        "{job} was served to a caller that is denied"
    );
    Ok(())
}
