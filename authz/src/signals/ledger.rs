//! Everything that is known against principals, by name, whether or not they have ever called.

use std::collections::BTreeMap;

use super::merge::{self, REMEMBERED, Told};
use super::signal::RiskLevel;
use super::standing::{Against, Change, Known, Origin, Quarantine, Revocation, Revoked, Risk};

/// How many quarantines, revocations and ratings can be known at once, each for itself.
const MOST: usize = 1_000_000;

/// Why a change cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    /// As many are known as can be.
    #[error("{MOST} are known already, which is the most that can be kept: lift some first")]
    Full,
}

/// What a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerned {
    /// Nobody: it was known already, or is older than what is known.
    Nobody,
    /// One principal.
    Principal(Box<str>),
    /// Whoever has an SVID with this serial number.
    Serial(Box<str>),
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// For whom something in force is otherwise than before.
    pub concerned: Concerned,
    /// Whether it is worth telling others: it was not known, and not older than what was.
    pub news: bool,
}

/// The tables. The rules by which changes are merged are those of [`merge`].
#[derive(Debug, Default)]
pub(super) struct Ledger {
    quarantines: BTreeMap<Box<str>, Vec<Quarantine>>,
    released: BTreeMap<Box<str>, Origin>,
    revocations: BTreeMap<Revoked, Revocation>,
    reinstated: BTreeMap<Revoked, Origin>,
    risks: BTreeMap<Box<str>, Risk>,
}

impl Ledger {
    /// Makes a change.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Merged, StandingError> {
        let of_principal = |principal: &str| Concerned::Principal(principal.into());
        let (told, concerned) = match change {
            Change::Quarantined(new) => (self.quarantine(new)?, of_principal(&new.principal)),
            Change::Released { principal, origin } => {
                (self.release(principal, origin)?, of_principal(principal))
            }
            Change::Revoked(new) => (self.revoke(new)?, of_subject(&new.subject)),
            Change::Reinstated { subject, origin } => {
                (self.reinstate(subject, origin)?, of_subject(subject))
            }
            Change::Rated(new) => (self.rate(new)?, of_principal(&new.principal)),
        };
        Ok(Merged {
            concerned: match told {
                Told::Changed => concerned,
                Told::Nothing | Told::Remembered => Concerned::Nobody,
            },
            news: told != Told::Nothing,
        })
    }

    fn quarantine(&mut self, new: &Quarantine) -> Result<Told, StandingError> {
        if merge::lifts(self.released.get(&new.principal), new.origin.at_ms) {
            return Ok(Told::Nothing);
        }
        if !self.quarantines.contains_key(&new.principal) {
            room(self.quarantines.len())?;
        }
        let all = self.quarantines.entry(new.principal.clone()).or_default();
        if let Some(known) = all.iter_mut().find(|known| known.scope == new.scope) {
            return Ok(merge::quarantine(known, new));
        }
        all.push(new.clone());
        Ok(Told::Changed)
    }

    fn release(&mut self, principal: &str, origin: &Origin) -> Result<Told, StandingError> {
        let told = remember(&mut self.released, &principal.into(), origin)?;
        let Some(all) = self.quarantines.get_mut(principal) else {
            return Ok(told);
        };
        let before = all.len();
        all.retain(|known| !merge::lifts(Some(origin), known.origin.at_ms));
        let changed = all.len() < before;
        if all.is_empty() {
            self.quarantines.remove(principal);
        }
        Ok(if changed { Told::Changed } else { told })
    }

    fn revoke(&mut self, new: &Revocation) -> Result<Told, StandingError> {
        if merge::lifts(self.reinstated.get(&new.subject), new.origin.at_ms) {
            return Ok(Told::Nothing);
        }
        if let Some(known) = self.revocations.get_mut(&new.subject) {
            return Ok(merge::revocation(known, new));
        }
        room(self.revocations.len())?;
        self.revocations.insert(new.subject.clone(), new.clone());
        Ok(Told::Changed)
    }

    fn reinstate(&mut self, subject: &Revoked, origin: &Origin) -> Result<Told, StandingError> {
        let told = remember(&mut self.reinstated, subject, origin)?;
        let known = self.revocations.get(subject);
        if known.is_some_and(|known| merge::lifts(Some(origin), known.origin.at_ms)) {
            self.revocations.remove(subject);
            return Ok(Told::Changed);
        }
        Ok(told)
    }

    fn rate(&mut self, new: &Risk) -> Result<Told, StandingError> {
        if let Some(known) = self.risks.get_mut(&new.principal) {
            return Ok(merge::risk(known, new));
        }
        room(self.risks.len())?;
        self.risks.insert(new.principal.clone(), new.clone());
        Ok(match new.level {
            RiskLevel::None => Told::Remembered,
            _ => Told::Changed,
        })
    }

    /// When a change must have been said so that it is not older than what it answers to.
    pub(super) fn not_before(&self, change: &Change) -> u64 {
        let at = |origin: Option<&Origin>| origin.map_or(0, |origin| origin.at_ms);
        let after = |at: u64| if at == 0 { 0 } else { at.saturating_add(1) };
        match change {
            Change::Quarantined(new) => at(self.released.get(&new.principal)),
            Change::Released { principal, .. } => {
                let all = self.quarantines.get(principal);
                let all = all.into_iter().flatten().map(|known| known.origin.at_ms);
                after(all.max().unwrap_or_default())
            }
            Change::Revoked(new) => at(self.reinstated.get(&new.subject)),
            Change::Reinstated { subject, .. } => {
                let known = self.revocations.get(subject);
                after(at(known.map(|known| &known.origin)))
            }
            Change::Rated(new) => {
                let known = self.risks.get(&new.principal);
                after(at(known.map(|known| &known.origin)))
            }
        }
    }

    /// Forgets the quarantines that are over, and says whose; and lifts that nothing can be
    /// heard of any more that they would end.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Box<str>> {
        let mut whose = Vec::new();
        let remembered = |origin: &Origin| origin.at_ms.saturating_add(REMEMBERED) > now_ms;
        self.released.retain(|_, origin| remembered(origin));
        self.reinstated.retain(|_, origin| remembered(origin));
        self.quarantines.retain(|principal, all| {
            let before = all.len();
            all.retain(|quarantine| quarantine.until_ms > now_ms);
            if all.len() < before {
                whose.push(principal.clone());
            }
            !all.is_empty()
        });
        whose
    }

    /// When the next quarantine is over.
    pub(super) fn next_end(&self) -> Option<u64> {
        let all = self.quarantines.values().flatten();
        all.map(|quarantine| quarantine.until_ms).min()
    }

    /// What stands against a principal.
    pub(super) fn against(&self, principal: &str) -> Against {
        let name = Revoked::Principal(principal.into());
        Against {
            revoked: self.revocations.contains_key(&name),
            risk: self
                .risks
                .get(principal)
                .map_or(RiskLevel::None, |risk| risk.level),
            quarantines: self.quarantines.get(principal).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn is_serial_revoked(&self, serial: &str) -> bool {
        self.revocations
            .contains_key(&Revoked::Serial(serial.into()))
    }

    pub(super) fn known(&self) -> Known {
        Known {
            quarantines: self.quarantines.values().flatten().cloned().collect(),
            revocations: self.revocations.values().cloned().collect(),
            risks: self.risks.values().cloned().collect(),
        }
    }

    /// The changes that make this known where nothing was, what was lifted included.
    pub(super) fn changes(&self) -> Vec<Change> {
        let released = self.released.iter().map(|(principal, origin)| {
            let (principal, origin) = (principal.clone(), origin.clone());
            Change::Released { principal, origin }
        });
        let reinstated = self.reinstated.iter().map(|(subject, origin)| {
            let (subject, origin) = (subject.clone(), origin.clone());
            Change::Reinstated { subject, origin }
        });
        let lifted = released.chain(reinstated);
        lifted.chain(self.known().into_changes()).collect()
    }
}

/// Remembers a lift.
fn remember<S: Ord + Clone>(
    lifts: &mut BTreeMap<S, Origin>,
    subject: &S,
    origin: &Origin,
) -> Result<Told, StandingError> {
    if let Some(known) = lifts.get_mut(subject) {
        return Ok(merge::later(known, origin));
    }
    room(lifts.len())?;
    lifts.insert(subject.clone(), origin.clone());
    Ok(Told::Remembered)
}

fn of_subject(subject: &Revoked) -> Concerned {
    match subject {
        Revoked::Principal(principal) => Concerned::Principal(principal.clone()),
        Revoked::Serial(serial) => Concerned::Serial(serial.clone()),
    }
}

fn room(taken: usize) -> Result<(), StandingError> {
    if taken < MOST {
        Ok(())
    } else {
        Err(StandingError::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::Scope;
    use super::*;

    const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

    fn origin(at_ms: u64) -> Origin {
        Origin {
            by: "operator".into(),
            reason: None,
            at_ms,
        }
    }

    fn quarantined(until_ms: u64, scope: Scope) -> Change {
        Change::Quarantined(Quarantine {
            principal: CART.into(),
            scope,
            until_ms,
            status: None,
            origin: origin(0),
        })
    }

    fn rated(level: RiskLevel, at_ms: u64) -> Change {
        Change::Rated(Risk {
            principal: CART.into(),
            level,
            origin: origin(at_ms),
        })
    }

    #[test]
    fn a_quarantine_lasts_as_long_as_the_longest_says_and_no_longer() {
        let mut ledger = Ledger::default();
        let cart = Concerned::Principal(CART.into());
        let concerned = |ledger: &mut Ledger, until_ms| {
            let change = quarantined(until_ms, Scope::Everything);
            ledger.apply(&change).unwrap().concerned
        };
        assert_eq!(concerned(&mut ledger, 5_000), cart);
        assert_eq!(concerned(&mut ledger, 4_000), Concerned::Nobody);
        assert!(ledger.expire(4_999).is_empty());
        assert!(ledger.against(CART).quarantine("orders", 4_999).is_some());
        assert!(ledger.against(CART).quarantine("orders", 5_000).is_none());
        assert_eq!(ledger.expire(5_000), [CART.into()]);
        assert_eq!(ledger.known(), Known::default());
    }

    #[test]
    fn a_quarantine_of_one_service_leaves_the_others() {
        let mut ledger = Ledger::default();
        let scope = Scope::Service("orders".into());
        ledger.apply(&quarantined(5_000, scope)).unwrap();
        let against = ledger.against(CART);
        assert!(against.quarantine("orders", 0).is_some());
        assert!(against.quarantine("stock", 0).is_none());
        ledger
            .apply(&quarantined(3_000, Scope::Everything))
            .unwrap();
        assert_eq!(ledger.next_end(), Some(3_000));
        assert!(ledger.against(CART).quarantine("stock", 0).is_some());
    }

    #[test]
    fn a_rating_that_is_older_than_the_latest_has_no_effect() {
        let mut ledger = Ledger::default();
        ledger.apply(&rated(RiskLevel::High, 2)).unwrap();
        let older = ledger.apply(&rated(RiskLevel::Low, 1)).unwrap();
        assert_eq!((older.concerned, older.news), (Concerned::Nobody, false));
        assert_eq!(ledger.against(CART).risk, RiskLevel::High);
        ledger.apply(&rated(RiskLevel::Low, 3)).unwrap();
        assert_eq!(ledger.against(CART).risk, RiskLevel::Low);
    }

    #[test]
    fn what_is_known_can_be_made_known_again() {
        let mut ledger = Ledger::default();
        let serial = Revoked::Serial("1f".into());
        for subject in [serial.clone(), Revoked::Principal(CART.into())] {
            let origin = origin(1);
            let revocation = Revocation { subject, origin };
            ledger.apply(&Change::Revoked(revocation)).unwrap();
        }
        ledger.apply(&quarantined(5, Scope::Everything)).unwrap();
        ledger.apply(&rated(RiskLevel::Medium, 2)).unwrap();
        let mut again = Ledger::default();
        for change in ledger.known().into_changes() {
            let told = serde_json::to_string(&change).unwrap();
            again.apply(&serde_json::from_str(&told).unwrap()).unwrap();
        }
        assert_eq!(again.known(), ledger.known());
        assert!(again.is_serial_revoked("1f") && again.against(CART).revoked);
        let origin = origin(3);
        let reinstated = Change::Reinstated {
            subject: serial,
            origin,
        };
        let merged = again.apply(&reinstated).unwrap();
        assert_eq!(merged.concerned, Concerned::Serial("1f".into()));
        assert!(!again.is_serial_revoked("1f"));
    }
}
