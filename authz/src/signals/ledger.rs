//! Everything that is known against principals, by name, whether or not they have ever called.

use std::collections::BTreeMap;

use super::signal::RiskLevel;
use super::standing::{Against, Change, Known, Quarantine, Revocation, Revoked, Risk};

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

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    quarantines: BTreeMap<Box<str>, Vec<Quarantine>>,
    revocations: BTreeMap<Revoked, Revocation>,
    risks: BTreeMap<Box<str>, Risk>,
}

impl Ledger {
    /// Makes a change.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Concerned, StandingError> {
        let concerned = |changed: bool, principal: &str| match changed {
            true => Concerned::Principal(principal.into()),
            false => Concerned::Nobody,
        };
        Ok(match change {
            Change::Quarantined(quarantine) => {
                concerned(self.quarantine(quarantine)?, &quarantine.principal)
            }
            Change::Released { principal, .. } => {
                concerned(self.quarantines.remove(principal).is_some(), principal)
            }
            Change::Revoked(revocation) => {
                let changed = self.revoke(revocation)?;
                of_subject(changed, &revocation.subject)
            }
            Change::Reinstated { subject, .. } => {
                of_subject(self.revocations.remove(subject).is_some(), subject)
            }
            Change::Rated(risk) => concerned(self.rate(risk)?, &risk.principal),
        })
    }

    fn quarantine(&mut self, new: &Quarantine) -> Result<bool, StandingError> {
        if !self.quarantines.contains_key(&new.principal) {
            room(self.quarantines.len())?;
        }
        let all = self.quarantines.entry(new.principal.clone()).or_default();
        match all.iter_mut().find(|known| known.scope == new.scope) {
            Some(known) if known.until_ms >= new.until_ms => return Ok(false),
            Some(known) => *known = new.clone(),
            None => all.push(new.clone()),
        }
        Ok(true)
    }

    fn revoke(&mut self, new: &Revocation) -> Result<bool, StandingError> {
        if self.revocations.contains_key(&new.subject) {
            return Ok(false);
        }
        room(self.revocations.len())?;
        self.revocations.insert(new.subject.clone(), new.clone());
        Ok(true)
    }

    fn rate(&mut self, new: &Risk) -> Result<bool, StandingError> {
        match self.risks.get_mut(&new.principal) {
            Some(known) if known.origin.at_ms > new.origin.at_ms => Ok(false),
            Some(known) => {
                let changed = known.level != new.level;
                *known = new.clone();
                Ok(changed)
            }
            None => {
                room(self.risks.len())?;
                self.risks.insert(new.principal.clone(), new.clone());
                Ok(new.level != RiskLevel::None)
            }
        }
    }

    /// Forgets the quarantines that are over, and says whose.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Box<str>> {
        let mut whose = Vec::new();
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

    pub(super) fn revoked_serials(&self) -> usize {
        let serial = |subject: &&Revoked| matches!(subject, Revoked::Serial(_));
        self.revocations.keys().filter(serial).count()
    }

    pub(super) fn known(&self) -> Known {
        Known {
            quarantines: self.quarantines.values().flatten().cloned().collect(),
            revocations: self.revocations.values().cloned().collect(),
            risks: self.risks.values().cloned().collect(),
        }
    }
}

fn of_subject(changed: bool, subject: &Revoked) -> Concerned {
    match subject {
        _ if !changed => Concerned::Nobody,
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
    use super::super::standing::{Origin, Scope};
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
        assert_eq!(
            ledger.apply(&quarantined(5_000, Scope::Everything)),
            Ok(cart.clone())
        );
        let shorter = ledger.apply(&quarantined(4_000, Scope::Everything));
        assert_eq!(shorter, Ok(Concerned::Nobody));
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
        assert_eq!(
            ledger.apply(&rated(RiskLevel::Low, 1)),
            Ok(Concerned::Nobody)
        );
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
        assert_eq!(again.apply(&reinstated), Ok(Concerned::Serial("1f".into())));
        assert_eq!(again.revoked_serials(), 0);
    }
}
