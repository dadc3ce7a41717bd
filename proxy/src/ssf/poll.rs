//! Fetches events from a transmitter (RFC 8936), and acknowledges those that would outlive a
//! crash.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LANGUAGE, CONTENT_TYPE};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::fetch::{FetchError, Fetcher};
use super::health::Part;
use super::json as strict;
use super::ledger::Verdict;
use super::set::MAX_BYTES;
use super::token::Bearer;
use super::transmitter::Transmitter;
use super::watched::Watched;
use crate::config::PollConfig;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Polls one transmitter.
#[derive(Debug)]
pub(super) struct Poller {
    pub(super) config: PollConfig,
    pub(super) transmitter: Arc<Transmitter>,
    pub(super) token: Option<Arc<Watched<Bearer>>>,
    pub(super) fetcher: Fetcher,
}

/// What the transmitter is to be told with the next poll.
#[derive(Debug, Default)]
struct Owed {
    taken: Vec<String>,
    refused: Map<String, Value>,
}

/// What a poll has brought.
#[derive(Debug, PartialEq, Eq)]
struct Brought {
    sets: Vec<(String, String)>,
    more: bool,
}

impl Poller {
    /// Polls until dropped.
    pub(super) async fn run(self) {
        let (mut owed, mut failures) = (Owed::default(), 0_u32);
        loop {
            let began = Instant::now();
            let wait = match self.poll(&owed).await {
                Ok(brought) => {
                    failures = 0;
                    self.went(None);
                    let (next, progress) = self.take(brought).await;
                    owed = next;
                    // Without news: a transmitter that tells the same over and over, or answers
                    // at once with nothing, is not to be asked without a pause.
                    let pause = if progress {
                        Duration::ZERO
                    } else {
                        self.config.interval
                    };
                    pause.saturating_sub(began.elapsed())
                }
                // It had nothing to tell for as long as we would wait.
                Err(FetchError::TimedOut(_)) if self.config.long_poll => Duration::ZERO,
                Err(error) => {
                    self.went(Some(error.to_string()));
                    failures = failures.saturating_add(1);
                    retry_after(failures)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn went(&self, failure: Option<String>) {
        let health = &self.transmitter.health;
        health.metrics.polled(failure.is_none());
        let transmitter = &*self.transmitter.config.name;
        if health.is(Part::Poll, failure.clone())
            && let Some(error) = failure
        {
            tracing::error!(transmitter, error, "events cannot be fetched; tried again");
        }
    }

    async fn poll(&self, owed: &Owed) -> Result<Brought, FetchError> {
        let document = json!({
            "maxEvents": self.config.max_events,
            "returnImmediately": !self.config.long_poll,
            "ack": owed.taken,
            "setErrs": owed.refused,
        });
        let mut request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        if !owed.refused.is_empty() {
            request = request.header(CONTENT_LANGUAGE, "en");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.current().header());
        }
        let most = MAX_BYTES.saturating_mul(self.config.max_events + 1);
        let body = Bytes::from(document.to_string());
        let limit = self.config.timeout;
        let answer = self.fetcher.send(request, body, most, limit).await?;
        read(answer.body(), self.config.max_events)
            .ok_or_else(|| FetchError::Unusable("it is no poll response (RFC 8936)".to_owned()))
    }

    /// Takes what came; says what the transmitter is to be told, and whether it goes on.
    async fn take(&self, brought: Brought) -> (Owed, bool) {
        let sets = brought.sets.iter();
        let taken = sets.map(|(jti, token)| self.transmitter.receive(token.as_bytes(), Some(jti)));
        let results = join_all(taken).await;
        let (mut owed, mut progress) = (Owed::default(), false);
        for ((jti, _), result) in brought.sets.into_iter().zip(results) {
            match result {
                Ok(verdict) => {
                    progress |= verdict != Verdict::Replayed;
                    owed.taken.push(jti);
                }
                Err(refusal) => {
                    // What is to be sent again is neither acknowledged nor refused.
                    let Some(err) = refusal.code() else { continue };
                    let description = refusal.to_string();
                    let told = json!({ "err": err, "description": description });
                    owed.refused.insert(jti, told);
                }
            }
        }
        progress |= brought.more && !owed.taken.is_empty();
        (owed, progress)
    }
}

/// The tokens of a poll response, by the names that they are acknowledged by.
fn read(body: &[u8], most: usize) -> Option<Brought> {
    let mut document = strict::object(body)?;
    let more = document.get("moreAvailable").and_then(Value::as_bool);
    let Value::Object(sets) = document.remove("sets")? else {
        return None;
    };
    if sets.len() > most {
        return None;
    }
    let sets = sets.into_iter().map(|(jti, token)| match token {
        Value::String(token) => Some((jti, token)),
        _ => None,
    });
    Some(Brought {
        sets: sets.collect::<Option<_>>()?,
        more: more.unwrap_or(false),
    })
}

/// Doubles with every failure; a random part keeps sidecars from asking all at once.
fn retry_after(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let longest = FIRST_RETRY.saturating_mul(doubled).min(LONGEST_RETRY);
    let mut random = [0_u8; 1];
    // Without chance it is the longest time.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [random] = random;
    longest - longest.mul_f64(f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_poll_response_and_nothing_else() {
        let brought = read(br#"{"sets":{"a":"x.y.z","b":"1"},"moreAvailable":true}"#, 2).unwrap();
        assert!(brought.more);
        assert_eq!(brought.sets.len(), 2);
        assert_eq!(read(br#"{"sets":{}}"#, 2).unwrap().sets, []);
        for body in [
            "",
            "{}",
            r#"{"sets":[]}"#,
            r#"{"sets":{"a":1}}"#,
            r#"{"sets":{"a":"x","a":"y"}}"#,
            r#"{"sets":{"a":"1","b":"2","c":"3"}}"#,
        ] {
            assert_eq!(read(body.as_bytes(), 2), None, "{body}");
        }
    }

    #[test]
    fn waits_longer_with_every_failure_and_never_too_long() {
        for (failures, longest) in [
            (1, 1),
            (2, 2),
            (5, 16),
            (9, 256),
            (10, 300),
            (u32::MAX, 300),
        ] {
            let longest = Duration::from_secs(longest);
            let wait = retry_after(failures);
            assert!(
                wait <= longest && wait * 2 >= longest,
                "{failures}: {wait:?}"
            );
        }
    }
}
