//! What one end of one call sent and got, counted in units that are numbered, so that one that is
//! lost, doubled or out of order is seen; and how that end learned that the call is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::support::eventually;

/// The length of a unit: a gRPC message with a number in it.
pub(super) const UNIT: usize = 13;
const HEAD: [u8; 5] = [0, 0, 0, 0, 8];
/// How often whoever sends does so.
pub(super) const BEAT: Duration = Duration::from_millis(10);

/// One end of one call.
#[derive(Default)]
pub(super) struct Tally {
    sent: AtomicU64,
    got: AtomicU64,
    end: Mutex<Option<String>>,
    asked_to_finish: watch::Sender<bool>,
}

impl Tally {
    /// The next unit to be sent; it counts as sent from here on.
    pub(super) fn next(&self) -> Bytes {
        unit(self.sent.fetch_add(1, Ordering::SeqCst))
    }

    /// Waits for the time to send, and says whether to go on.
    pub(super) async fn beat(&self) -> bool {
        let mut asked = self.asked_to_finish.subscribe();
        tokio::select! {
            () = tokio::time::sleep(BEAT) => true,
            _ = asked.wait_for(|asked| *asked) => false,
        }
    }

    pub(super) fn finish(&self) {
        self.asked_to_finish.send_replace(true);
    }

    /// Units that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Units that came so far, each in its turn.
    pub(super) fn got(&self) -> u64 {
        self.got.load(Ordering::SeqCst)
    }

    /// Notes how the call ended; what was first noted stays.
    pub(super) fn ended(&self, how: impl Into<String>) {
        self.end.lock().unwrap().get_or_insert(how.into());
    }

    pub(super) fn end(&self) -> Option<String> {
        self.end.lock().unwrap().clone()
    }

    /// How the call ended, once it has.
    pub(super) async fn until_ended(&self, whose: &str) -> String {
        eventually(&format!("the end of {whose}"), || async { self.end() }).await
    }

    /// Waits until so many units came.
    pub(super) async fn until_got(&self, units: u64, whose: &str) {
        let what = format!("{units} units of {whose}");
        eventually(&what, || async {
            assert_eq!(
                self.end(),
                None,
                "{whose} ended while {units} units were awaited"
            );
            (self.got() >= units).then_some(())
        })
        .await;
    }
}

fn unit(number: u64) -> Bytes {
    [&HEAD[..], &number.to_be_bytes()].concat().into()
}

/// Reads units out of bytes, however those are cut.
pub(super) struct Reader {
    tally: Arc<Tally>,
    rest: Vec<u8>,
}

impl Reader {
    pub(super) fn of(tally: &Arc<Tally>) -> Self {
        Self {
            tally: Arc::clone(tally),
            rest: Vec::new(),
        }
    }

    /// Takes bytes; notes an end of its own where they are not those that are due.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while self.rest.len() >= UNIT {
            let due = unit(self.tally.got());
            let came: Vec<u8> = self.rest.drain(..UNIT).collect();
            if came != due {
                self.tally
                    .ended(format!("{came:?} came where {due:?} was due"));
                return;
            }
            self.tally.got.fetch_add(1, Ordering::SeqCst);
        }
    }
}
