//! Carries bytes both ways between a caller and the upstream. Each way is on its own: what ends
//! on one side is passed on to the other, and the other way goes on.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::enforce::{Lease, Meter};
use crate::record::{Carried, Failure};

/// Bytes that are read at once: what a TLS record holds.
const CHUNK: usize = 16 * 1024;
/// How often in an idle time it is looked whether anything moved.
const LOOKS: u32 = 4;

/// Bytes so far. Each way has one writer.
#[derive(Debug, Default)]
pub(super) struct Moved {
    from_caller: Way,
    to_caller: Way,
}

#[derive(Debug, Default)]
struct Way {
    bytes: AtomicU64,
    /// Where they count, if they do.
    meter: Option<Meter>,
}

impl Way {
    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(meter) = &self.meter {
            meter.sent(bytes);
        }
    }
}

impl Moved {
    /// Nothing yet; what leaves is counted as the lease says.
    pub(super) fn of(lease: &Lease) -> Self {
        let way = |meter: Option<&Meter>| Way {
            bytes: AtomicU64::new(0),
            meter: meter.cloned(),
        };
        Self {
            from_caller: way(lease.request_meter()),
            to_caller: way(lease.answer_meter()),
        }
    }

    /// What has been carried so far.
    pub(super) fn so_far(&self) -> Carried {
        Carried {
            bytes_in: self.from_caller.bytes.load(Ordering::Relaxed),
            bytes_out: self.to_caller.bytes.load(Ordering::Relaxed),
        }
    }

    /// Completes once nothing moved for `limit`, or a quarter longer.
    pub(super) async fn idled(&self, limit: Duration) {
        let mut seen = self.so_far();
        let mut quiet = 0;
        while quiet < LOOKS {
            tokio::time::sleep(limit / LOOKS).await;
            let now = self.so_far();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

/// Carries until both sides have ended. Once one side has, the other has `half_closed`, where
/// that is set, to end too.
pub(super) async fn both_ways(
    caller: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    moved: &Moved,
    half_closed: Option<Duration>,
) -> Result<(), Failure> {
    let (mut from_caller, mut to_caller) = tokio::io::split(caller);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let (gone, broke) = (Failure::CallerGone, Failure::UpstreamBroke);
    let up = async {
        one_way(&mut from_caller, &mut to_upstream, &moved.from_caller)
            .await
            .map_err(|ended| ended.blame(gone, broke))
    };
    let down = async {
        one_way(&mut from_upstream, &mut to_caller, &moved.to_caller)
            .await
            .map_err(|ended| ended.blame(broke, gone))
    };
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => {
            ended?;
            at_most(half_closed, down).await
        }
        ended = &mut down => {
            ended?;
            // The upstream has said all that it had to say: how the caller ends is its affair.
            let _ = at_most(half_closed, up).await;
            Ok(())
        }
    }
}

async fn at_most(
    limit: Option<Duration>,
    rest: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, rest).await.unwrap_or(Ok(())),
        None => rest.await,
    }
}

/// Which end of one way failed.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Broken {
    /// Whose fault that was, given who was read from and who was written to.
    fn blame(self, reading: Failure, writing: Failure) -> Failure {
        let (failure, error) = match self {
            Self::Reading(error) => (reading, error),
            Self::Writing(error) => (writing, error),
        };
        tracing::debug!(failure = failure.as_str(), %error, "tunnel broke");
        failure
    }
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Way,
) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer).await.map_err(Broken::Reading)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await.map_err(Broken::Writing);
        };
        to.write_all(bytes).await.map_err(Broken::Writing)?;
        to.flush().await.map_err(Broken::Writing)?;
        moved.moved(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    async fn carried(
        caller: DuplexStream,
        upstream: DuplexStream,
    ) -> (Result<(), Failure>, Carried) {
        let moved = Moved::default();
        let ended = both_ways(caller, upstream, &moved, None).await;
        (ended, moved.so_far())
    }

    #[tokio::test]
    async fn a_half_closed_caller_gets_the_whole_answer() {
        let ((mut caller, near), (far, mut upstream)) =
            (tokio::io::duplex(64), tokio::io::duplex(64));
        let carrying = tokio::spawn(carried(near, far));
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut question = String::new();
        upstream.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        let answer = vec![b'a'; 100_000];
        let whole = answer.clone();
        tokio::spawn(async move { upstream.write_all(&whole).await.unwrap() });
        let mut read = Vec::new();
        caller.read_to_end(&mut read).await.unwrap();
        assert!(read == answer, "{} bytes", read.len());
        let (ended, moved) = carrying.await.unwrap();
        assert_eq!(ended, Ok(()));
        assert_eq!((moved.bytes_in, moved.bytes_out), (8, 100_000));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_what_moves_nothing_for_the_whole_time() {
        let moved = Moved::default();
        let limit = Duration::from_secs(40);
        let idled = moved.idled(limit);
        tokio::pin!(idled);
        for _ in 0..10 {
            tokio::select! {
                () = &mut idled => panic!("something moved"),
                () = tokio::time::sleep(Duration::from_secs(35)) => {}
            }
            moved.to_caller.moved(1);
        }
        let began = tokio::time::Instant::now();
        idled.await;
        assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
    }
}
