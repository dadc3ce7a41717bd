//! The calls of a soak: who makes them, and what became of each.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use super::ground;
use super::witness::{DENIED, DENIED_BYTE};
use crate::job::{Answer, Ask, Job};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Allowed,
    Denied,
}

/// Who calls how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) job: Job,
    pub(super) caller: usize,
    pub(super) side: Side,
}

impl Part {
    pub(super) fn name(self) -> String {
        match self.side {
            Side::Allowed => ground::allowed(self.caller),
            Side::Denied => ground::denied(self.caller),
        }
    }

    pub(super) fn ask(self) -> Ask {
        let first = match self.side {
            Side::Allowed => b'A',
            Side::Denied => DENIED_BYTE,
        };
        let mut ask = ground::ask(self.job, &[first; 32]);
        ask.mark = (self.side == Side::Denied).then_some(DENIED);
        ask
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Served,
    /// It met an upstream that was away, and was told so.
    UpstreamAway,
    /// It was cut, as its upstream was.
    UpstreamCut,
    Refused,
    /// It was allowed, the upstream was there, and it was not served.
    Lost,
    /// It was denied, and not refused.
    Passed,
}

/// What becomes of a call by its answer; `away` is whether the upstream was, meanwhile.
fn fate(side: Side, job: Job, answer: &Result<Answer>, away: bool) -> Fate {
    match (side, answer) {
        (Side::Allowed, Ok(Answer::Ok)) => Fate::Served,
        (Side::Allowed, Ok(Answer::Http(502..=504) | Answer::Grpc(14))) if away => {
            Fate::UpstreamAway
        }
        (Side::Allowed, Err(_)) if away => Fate::UpstreamCut,
        (Side::Allowed, _) => Fate::Lost,
        (Side::Denied, Ok(Answer::Http(403) | Answer::Grpc(7))) => Fate::Refused,
        // Bytes have no status: the connection is reset.
        (Side::Denied, Err(_)) if job == Job::Tcp => Fate::Refused,
        (Side::Denied, _) => Fate::Passed,
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    fates: Mutex<BTreeMap<(Side, Job, Fate), u64>>,
    /// From when to when the upstream was away; the last may not have ended.
    away: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// The first few calls that went wrong.
    pub(super) wrong: Mutex<Vec<String>>,
}

/// How many calls that went wrong are told one by one.
const TOLD: usize = 10;

impl Tally {
    pub(super) fn note(&self, part: Part, begun: Instant, answer: Result<Answer>) {
        let fate = fate(part.side, part.job, &answer, self.was_away(begun));
        if matches!(fate, Fate::Lost | Fate::Passed) {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if wrong.len() < TOLD {
                let told = match &answer {
                    Ok(answer) => answer.to_string(),
                    Err(error) => format!("{error:#}"),
                };
                wrong.push(format!("{fate:?}: {} by {}: {told}", part.job, part.name()));
            }
        }
        let mut fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
        *fates.entry((part.side, part.job, fate)).or_default() += 1;
    }

    /// Whether the upstream was away at any moment since.
    fn was_away(&self, since: Instant) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let last = away.last();
        last.is_some_and(|(_, back)| back.is_none_or(|back| back >= since))
    }

    pub(super) fn leave(&self) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.push((Instant::now(), None));
    }

    pub(super) fn come_back(&self) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, back)) = away.last_mut() {
            *back = Some(Instant::now());
        }
    }

    pub(super) fn count(&self, which: impl Fn(Side, Job, Fate) -> bool) -> u64 {
        let fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = fates
            .iter()
            .filter(|((side, job, fate), _)| which(*side, *job, *fate));
        counted.map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;

    fn broke() -> Result<Answer> {
        Err(anyhow!("reset"))
    }

    #[test]
    fn an_allowed_call_is_excused_by_an_upstream_that_was_away_alone() {
        let told = |answer: &Result<Answer>, away| fate(Side::Allowed, Job::Http1, answer, away);
        assert_eq!(told(&Ok(Answer::Ok), false), Fate::Served);
        assert_eq!(told(&Ok(Answer::Http(502)), true), Fate::UpstreamAway);
        assert_eq!(told(&Ok(Answer::Grpc(14)), true), Fate::UpstreamAway);
        assert_eq!(told(&broke(), true), Fate::UpstreamCut);
        for answer in [Ok(Answer::Http(502)), Ok(Answer::Grpc(14)), broke()] {
            assert_eq!(told(&answer, false), Fate::Lost, "{answer:?}");
        }
        // An upstream that is away is no reason to deny.
        assert_eq!(told(&Ok(Answer::Http(403)), true), Fate::Lost);
    }

    #[test]
    fn a_denied_call_must_be_told_so() {
        let told = |job, answer: &Result<Answer>| fate(Side::Denied, job, answer, true);
        assert_eq!(told(Job::Http2, &Ok(Answer::Http(403))), Fate::Refused);
        assert_eq!(told(Job::GrpcUnary, &Ok(Answer::Grpc(7))), Fate::Refused);
        assert_eq!(told(Job::Tcp, &broke()), Fate::Refused);
        for answer in [Ok(Answer::Ok), Ok(Answer::Http(502)), broke()] {
            assert_eq!(told(Job::Http2, &answer), Fate::Passed, "{answer:?}");
        }
    }

    #[test]
    fn a_call_is_excused_for_as_long_as_it_met_the_time_away() {
        let tally = Tally::default();
        let before = Instant::now();
        assert!(!tally.was_away(before));
        tally.leave();
        assert!(tally.was_away(before));
        tally.come_back();
        assert!(tally.was_away(before));
        assert!(!tally.was_away(Instant::now() + Duration::from_secs(1)));
    }
}
