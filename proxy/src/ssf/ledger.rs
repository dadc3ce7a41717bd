//! Which tokens were taken and what is in force because of them, per transmitter: no token has
//! an effect twice, and none has one after a later event about the same has had its own.
//!
//! Pure: knows no file and no clock. Whoever holds it makes it durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wayleave_identity::SpiffeId;

use super::effects::{Because, Effects, RiskLevel};
use super::event::EventType;

/// Most tokens that are remembered of one transmitter; then the oldest are forgotten early.
pub(super) const MAX_TOKENS: usize = 100_000;
/// Most effects in force by one transmitter.
pub(super) const MAX_EFFECTS: usize = 100_000;

/// Whom or what an effect is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    #[serde(with = "spiffe_text")]
    Principal(SpiffeId),
    Certificate {
        issuer: Option<String>,
        serial: String,
    },
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
pub(super) struct Entry {
    pub(super) transmitter: Arc<str>,
    pub(super) jti: String,
    /// When the token would be too old to be taken, so that it need not be remembered.
    pub(super) forget_after: u64,
    pub(super) event: EventType,
    /// When the event happened.
    pub(super) happened: u64,
    /// When the token was taken.
    pub(super) taken: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) effects: Vec<(Target, Outcome)>,
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has had an effect.
    Effect,
    /// It says nothing that changes what a principal may do.
    NoEffect,
    /// It was taken before.
    Replayed,
    /// A later event about the same has had its effect.
    Outdated,
}

/// What is in force about one target, by one transmitter and kind of event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    outcome: Outcome,
    happened: u64,
    taken: u64,
    jti: String,
    forget_after: u64,
    reason: Option<String>,
}

type Place = (EventType, Target);

/// What is known of one transmitter.
#[derive(Debug, Default)]
struct Book {
    tokens: HashMap<String, u64>,
    by_age: BTreeSet<(u64, String)>,
    standing: HashMap<Place, Standing>,
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
    before: Vec<(Place, Option<Standing>)>,
}

/// There is no room for a further effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Ledger {
    /// Takes a token: decides what becomes of it, and tells its effects.
    ///
    /// # Errors
    /// When too many effects of the transmitter are in force. What of it has room is in force.
    pub(super) fn take(
        &mut self,
        entry: &Entry,
        effects: &dyn Effects,
    ) -> Result<(Verdict, Option<Undo>), Full> {
        let book = self.books.entry(Arc::clone(&entry.transmitter)).or_default();
        book.forget(entry.taken);
        if book.has_taken(entry) {
            return Ok((Verdict::Replayed, None));
        }
        let mut undo = Undo {
            transmitter: Arc::clone(&entry.transmitter),
            jti: entry.jti.clone(),
            before: Vec::new(),
        };
        let mut full = false;
        for (target, outcome) in &entry.effects {
            let place = (entry.event, target.clone());
            if book.is_outdated(&place, entry) {
                continue;
            }
            if !book.has_room_for(&place) {
                full = true;
            }
            let before = book.standing.insert(place.clone(), entry.standing(*outcome));
            undo.before.push((place, before));
        }
        let verdict = match (entry.effects.is_empty(), undo.before.is_empty()) {
            (true, _) => Verdict::NoEffect,
            (false, true) => Verdict::Outdated,
            (false, false) => Verdict::Effect,
        };
        book.remember(&entry.jti, entry.forget_after);
        for ((_, target), _) in &undo.before {
            self.tell(target, &entry.because(), effects);
        }
        if full {
            // SECURITY: the effect stays for as long as this process runs, and is not
            // acknowledged, so that it is told again.
            self.undo(undo);
            return Err(Full);
        }
        Ok((verdict, Some(undo)))
    }

    /// Forgets that a token was taken, because it could not be kept. What it did stays done
    /// until it is sent again.
    pub(super) fn undo(&mut self, undo: Undo) {
        let Some(book) = self.books.get_mut(&undo.transmitter) else {
            return;
        };
        if let Some(forget_after) = book.tokens.remove(&undo.jti) {
            book.by_age.remove(&(forget_after, undo.jti));
        }
        for (place, before) in undo.before.into_iter().rev() {
            match before {
                Some(standing) => book.standing.insert(place, standing),
                None => book.standing.remove(&place),
            };
        }
    }

    /// Takes what was kept, in the order in which it was kept. Tells nobody.
    pub(super) fn restore(&mut self, entry: &Entry) {
        let book = self.books.entry(Arc::clone(&entry.transmitter)).or_default();
        book.remember(&entry.jti, entry.forget_after);
        for (target, outcome) in &entry.effects {
            let place = (entry.event, target.clone());
            if !book.is_outdated(&place, entry) {
                book.standing.insert(place, entry.standing(*outcome));
            }
        }
    }

    /// Tells all that is in force.
    pub(super) fn tell_all(&self, effects: &dyn Effects) {
        for entry in self.entries(0).filter(|entry| !entry.effects.is_empty()) {
            for (target, _) in &entry.effects {
                self.tell(target, &entry.because(), effects);
            }
        }
    }

    /// Everything that has to be kept, in a form from which it can be restored.
    pub(super) fn entries(&self, now: u64) -> impl Iterator<Item = Entry> {
        self.books
            .iter()
            .flat_map(move |(name, book)| book.entries(name, now))
    }

    /// How many effects are in force.
    pub(super) fn effects(&self) -> usize {
        self.books.values().map(|book| book.standing.len()).sum()
    }

    /// How many entries it takes to keep everything, at most.
    pub(super) fn size(&self) -> usize {
        let books = self.books.values();
        books
            .map(|book| book.standing.len() + book.tokens.len())
            .sum()
    }

    /// Says how it is about a target: revocations hold, and of several risks the highest.
    fn tell(&self, target: &Target, because: &Because, effects: &dyn Effects) {
        match target {
            Target::Certificate { issuer, serial } => {
                effects.revoke_serial(issuer.as_deref(), serial, because);
            }
            Target::Principal(principal) => {
                let own = self.books.get(&because.transmitter);
                let place = (because.event_type, target.clone());
                match own.and_then(|book| book.standing.get(&place)) {
                    Some(standing) if standing.outcome == Outcome::Revoked => {
                        effects.revoke(principal, because);
                    }
                    _ => effects.risk(principal, self.risk(target), because),
                }
            }
        }
    }

    /// The highest risk that anybody knows of.
    fn risk(&self, target: &Target) -> RiskLevel {
        let kinds = [EventType::RiskLevelChange, EventType::DeviceComplianceChange];
        let places = kinds.map(|kind| (kind, target.clone()));
        let known = self.books.values().flat_map(|book| {
            let places = places.iter();
            places.filter_map(|place| book.standing.get(place))
        });
        let levels = known.filter_map(|standing| match standing.outcome {
            Outcome::Risk(level) => Some(level),
            Outcome::Revoked => None,
        });
        levels.max().unwrap_or(RiskLevel::Low)
    }
}

impl Book {
    /// By its name; and by what is in force, which is remembered for longer.
    fn has_taken(&self, entry: &Entry) -> bool {
        let by_effect = |(target, _): &(Target, Outcome)| {
            let standing = self.standing.get(&(entry.event, target.clone()));
            standing.is_some_and(|standing| standing.jti == entry.jti)
        };
        self.tokens.contains_key(&entry.jti) || entry.effects.iter().any(by_effect)
    }

    fn is_outdated(&self, place: &Place, entry: &Entry) -> bool {
        let standing = self.standing.get(place);
        standing.is_some_and(|standing| standing.happened > entry.happened)
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

    /// Makes room where it can. A low risk is what holds of everybody, so that it may go; a
    /// revocation may not.
    fn has_room_for(&mut self, place: &Place) -> bool {
        if self.standing.len() < MAX_EFFECTS || self.standing.contains_key(place) {
            return true;
        }
        let low = |standing: &Standing| standing.outcome == Outcome::Risk(RiskLevel::Low);
        let lows = self.standing.iter().filter(|(_, standing)| low(standing));
        let oldest = lows.min_by_key(|(_, standing)| standing.happened);
        match oldest.map(|(place, _)| place.clone()) {
            Some(place) => self.standing.remove(&place).is_some(),
            None => false,
        }
    }

    fn entries(&self, name: &Arc<str>, now: u64) -> impl Iterator<Item = Entry> {
        let standing = self.standing.iter().map({
            let name = Arc::clone(name);
            move |((event, target), standing)| Entry {
                transmitter: Arc::clone(&name),
                jti: standing.jti.clone(),
                forget_after: standing.forget_after,
                event: *event,
                happened: standing.happened,
                taken: standing.taken,
                reason: standing.reason.clone(),
                effects: vec![(target.clone(), standing.outcome)],
            }
        });
        let name = Arc::clone(name);
        let tokens = self.tokens.iter();
        let tokens = tokens.filter(move |(_, until)| **until >= now);
        let tokens = tokens.map(move |(jti, until)| Entry {
            transmitter: Arc::clone(&name),
            jti: jti.clone(),
            forget_after: *until,
            event: EventType::Other,
            happened: 0,
            taken: 0,
            reason: None,
            effects: Vec::new(),
        });
        standing.chain(tokens)
    }
}

impl Entry {
    fn standing(&self, outcome: Outcome) -> Standing {
        Standing {
            outcome,
            happened: self.happened,
            taken: self.taken,
            jti: self.jti.clone(),
            forget_after: self.forget_after,
            reason: self.reason.clone(),
        }
    }

    fn because(&self) -> Because {
        let taken = UNIX_EPOCH.checked_add(Duration::from_millis(self.taken));
        Because {
            transmitter: Arc::clone(&self.transmitter),
            jti: self.jti.clone(),
            event_type: self.event,
            at: taken.unwrap_or(SystemTime::UNIX_EPOCH),
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
