//! Which tokens were taken, and what the latest event about each target was, per transmitter: no
//! token has an effect twice, and none has one after a later event about the same has had its
//! own.
//!
//! Pure: knows no file and no clock. Whoever holds it makes it durable; what is in force is kept
//! elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wayleave_authz::signals::RiskLevel;
use wayleave_identity::SpiffeId;

use super::effects::{Because, Effects, NotKept};
use super::event::EventType;

/// Most tokens that are remembered of one transmitter; the oldest are forgotten first.
pub(super) const MAX_TOKENS: usize = 100_000;
/// Most targets whose latest event is remembered of one transmitter; those whose event is longest
/// ago are forgotten first.
pub(super) const MAX_TARGETS: usize = 100_000;

/// Whom or what an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    #[serde(with = "spiffe_text")]
    Principal(SpiffeId),
    /// A certificate by its serial number.
    Serial(Box<str>),
}

/// What an event does to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Revoked,
    Risk(RiskLevel),
}

/// A token that passed every check, in the form that is kept. Times are milliseconds since the
/// epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) transmitter: Arc<str>,
    pub(super) jti: String,
    /// When the token would be too old to be taken, so that it need not be remembered.
    pub(super) forget_after: u64,
    pub(super) event: EventType,
    /// When the event happened.
    pub(super) happened: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) effects: Vec<(Target, Outcome)>,
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has had an effect.
    Effect,
    /// It says nothing that changes what a principal known here may do.
    NoEffect,
    /// It was taken before.
    Replayed,
    /// A later event about the same has had its effect.
    Outdated,
}

impl Verdict {
    /// Its name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Effect => "effect",
            Self::NoEffect => "no_effect",
            Self::Replayed => "replayed",
            Self::Outdated => "outdated",
        }
    }
}

/// The latest event of one kind about one target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Latest {
    outcome: Outcome,
    happened: u64,
    jti: String,
    forget_after: u64,
}

type Place = (EventType, Target);

/// What is known of one transmitter.
#[derive(Debug, Default)]
struct Book {
    tokens: HashMap<String, u64>,
    by_age: BTreeSet<(u64, String)>,
    latest: HashMap<Place, Latest>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    books: HashMap<Arc<str>, Book>,
}

/// How things were before a token was taken, should it turn out that it cannot be kept.
#[derive(Debug)]
pub(super) struct Undo {
    transmitter: Arc<str>,
    jti: String,
    before: Vec<(Place, Option<Latest>)>,
}

impl Ledger {
    /// Takes a token at a moment: decides what becomes of it, and tells its effects.
    ///
    /// # Errors
    /// When an effect has no place; then the token counts as not taken.
    pub(super) fn take(
        &mut self,
        entry: &Entry,
        now: u64,
        effects: &dyn Effects,
    ) -> Result<(Verdict, Option<Undo>), NotKept> {
        let book = self.book(&entry.transmitter);
        book.forget(now);
        if book.has_taken(entry) {
            return Ok((Verdict::Replayed, None));
        }
        let undo = book.enter(entry);
        let verdict = match (entry.effects.is_empty(), undo.before.is_empty()) {
            (true, _) => Verdict::NoEffect,
            (false, true) => Verdict::Outdated,
            (false, false) => Verdict::Effect,
        };
        for ((_, target), _) in &undo.before {
            if self.tell(target, entry, effects).is_err() {
                self.undo(undo);
                return Err(NotKept);
            }
        }
        Ok((verdict, Some(undo)))
    }

    /// Forgets that a token was taken, because it could not be kept. What it did stays done, and
    /// is done again when the token is sent again.
    pub(super) fn undo(&mut self, undo: Undo) {
        let book = self.book(&undo.transmitter);
        if let Some(forget_after) = book.tokens.remove(&undo.jti) {
            book.by_age.remove(&(forget_after, undo.jti));
        }
        for (place, before) in undo.before.into_iter().rev() {
            match before {
                Some(latest) => book.latest.insert(place, latest),
                None => book.latest.remove(&place),
            };
        }
    }

    /// Takes what was kept, in the order in which it was kept. Tells nobody.
    pub(super) fn restore(&mut self, entry: &Entry) {
        self.book(&entry.transmitter).enter(entry);
    }

    /// Everything that has to be kept at a moment, in a form from which it can be restored.
    pub(super) fn entries(&self, now: u64) -> impl Iterator<Item = Entry> {
        let books = self.books.iter();
        books.flat_map(move |(name, book)| book.entries(name, now))
    }

    /// How many entries it takes to keep everything, at most.
    pub(super) fn size(&self) -> usize {
        let sizes = self.books.values();
        sizes
            .map(|book| book.latest.len() + book.tokens.len())
            .sum()
    }

    fn book(&mut self, transmitter: &Arc<str>) -> &mut Book {
        self.books.entry(Arc::clone(transmitter)).or_default()
    }

    fn tell(&self, target: &Target, entry: &Entry, effects: &dyn Effects) -> Result<(), NotKept> {
        let mut because = entry.because();
        let principal = match target {
            Target::Serial(serial) => return effects.revoke_serial(serial, &because),
            Target::Principal(principal) => principal,
        };
        let own = entry.effects.iter().find(|(own, _)| own == target);
        if own.is_some_and(|(_, outcome)| *outcome == Outcome::Revoked) {
            return effects.revoke(principal, &because);
        }
        // SECURITY: of several risks the highest holds, so that one transmitter, or one kind of
        // event, cannot take back what another has said.
        let (level, at_ms) = self.risk(target);
        because.at_ms = at_ms;
        effects.risk(principal, level, &because)
    }

    /// The highest risk that anybody knows of, and when the latest of all was told.
    fn risk(&self, target: &Target) -> (RiskLevel, u64) {
        let kinds = [
            EventType::RiskLevelChange,
            EventType::DeviceComplianceChange,
        ];
        let places = kinds.map(|kind| (kind, target.clone()));
        let (mut level, mut at) = (RiskLevel::None, 0);
        for book in self.books.values() {
            for latest in places.iter().filter_map(|place| book.latest.get(place)) {
                if let Outcome::Risk(known) = latest.outcome {
                    (level, at) = (level.max(known), at.max(latest.happened));
                }
            }
        }
        (level, at)
    }
}

impl Book {
    /// By its name; and as the latest about a target, which is remembered for longer.
    fn has_taken(&self, entry: &Entry) -> bool {
        let is_latest = |(target, _): &(Target, Outcome)| {
            let latest = self.latest.get(&(entry.event, target.clone()));
            latest.is_some_and(|latest| latest.jti == entry.jti)
        };
        self.tokens.contains_key(&entry.jti) || entry.effects.iter().any(is_latest)
    }

    /// Remembers a token, and those of its effects that are not outdated.
    fn enter(&mut self, entry: &Entry) -> Undo {
        let mut before = Vec::new();
        for (target, outcome) in &entry.effects {
            let place = (entry.event, target.clone());
            let known = self.latest.get(&place);
            if known.is_some_and(|latest| latest.happened > entry.happened) {
                continue;
            }
            let latest = self.latest.insert(place.clone(), entry.latest(*outcome));
            before.push((place, latest));
        }
        self.remember(&entry.jti, entry.forget_after);
        if self.latest.len() > MAX_TARGETS {
            self.forget_targets();
        }
        Undo {
            transmitter: Arc::clone(&entry.transmitter),
            jti: entry.jti.clone(),
            before,
        }
    }

    fn remember(&mut self, jti: &str, forget_after: u64) {
        if let Some(before) = self.tokens.insert(jti.to_owned(), forget_after) {
            self.by_age.remove(&(before, jti.to_owned()));
        }
        self.by_age.insert((forget_after, jti.to_owned()));
        while self.tokens.len() > MAX_TOKENS {
            self.forget_oldest();
        }
    }

    /// Forgets the tokens that would be refused for their age.
    fn forget(&mut self, now: u64) {
        while self.by_age.first().is_some_and(|(until, _)| *until < now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, jti)) = self.by_age.pop_first() {
            self.tokens.remove(&jti);
        }
    }

    /// Forgets a tenth at once, so that it need not be done for every event.
    fn forget_targets(&mut self) {
        let mut times: Vec<u64> = self.latest.values().map(|latest| latest.happened).collect();
        let tenth = MAX_TARGETS / 10;
        let (_, limit, _) = times.select_nth_unstable(tenth);
        let limit = *limit;
        self.latest.retain(|_, latest| latest.happened > limit);
    }

    fn entries(&self, name: &Arc<str>, now: u64) -> impl Iterator<Item = Entry> {
        let owner = Arc::clone(name);
        let latest = self
            .latest
            .iter()
            .map(move |((event, target), latest)| Entry {
                transmitter: Arc::clone(&owner),
                jti: latest.jti.clone(),
                forget_after: latest.forget_after,
                event: *event,
                happened: latest.happened,
                reason: None,
                effects: vec![(target.clone(), latest.outcome)],
            });
        let owner = Arc::clone(name);
        let tokens = self.tokens.iter().filter(move |(_, until)| **until >= now);
        let tokens = tokens.map(move |(jti, until)| Entry {
            transmitter: Arc::clone(&owner),
            jti: jti.clone(),
            forget_after: *until,
            event: EventType::Other,
            happened: 0,
            reason: None,
            effects: Vec::new(),
        });
        latest.chain(tokens)
    }
}

impl Entry {
    fn latest(&self, outcome: Outcome) -> Latest {
        Latest {
            outcome,
            happened: self.happened,
            jti: self.jti.clone(),
            forget_after: self.forget_after,
        }
    }

    fn because(&self) -> Because {
        Because {
            transmitter: Arc::clone(&self.transmitter),
            jti: self.jti.clone(),
            event_type: self.event.as_str(),
            at_ms: self.happened,
            reason_admin: self.reason.clone(),
        }
    }
}

mod spiffe_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use wayleave_identity::SpiffeId;

    pub(super) fn serialize<S: Serializer>(id: &SpiffeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SpiffeId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}
