//! What an operator orders: the requests that the admin socket takes, and their answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wayleave_authz::signals::{
    Change, Concerned, Origin, Quarantine, Revocation, Revoked, Risk, RiskLevel, Scope,
};
use wayleave_identity::SpiffeId;

/// The longest quarantine, as in policies.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The longest reason, in bytes.
const REASON: usize = 200;
/// The longest serial number (RFC 5280 section 4.1.2.2), in hexadecimal digits.
const SERIAL: usize = 40;

/// One order. As JSON: `{"quarantine": {"principal": "spiffe://...", "seconds": 60}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Deny a principal for a while.
    Quarantine {
        principal: String,
        seconds: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// End every quarantine of a principal.
    Release {
        principal: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Revoke a principal, or one SVID.
    Revoke {
        subject: Revoked,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Revoke it no longer.
    Reinstate {
        subject: Revoked,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Say how risky a principal is.
    Rate {
        principal: String,
        level: RiskLevel,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ordered {
    /// Whether anything is otherwise than before.
    pub(crate) changed: bool,
}

/// Why an order cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error(
        "`{0}` is no principal: give a SPIFFE ID such as `spiffe://shop.example/ns/web/sa/cart`, or `anonymous`"
    )]
    Principal(String),
    #[error("a quarantine lasts 1 s to 720 h")]
    Time,
    #[error("`{0}` is no serial number: give up to {SERIAL} hexadecimal digits")]
    Serial(String),
    #[error("a reason is up to {REASON} bytes of printable text on one line")]
    Reason,
}

impl Ordered {
    pub(crate) fn of(concerned: &Concerned) -> Self {
        Self {
            changed: *concerned != Concerned::Nobody,
        }
    }
}

impl Order {
    /// The change that `by` makes with it.
    ///
    /// # Errors
    /// When it names nothing that can be changed.
    pub(crate) fn change(self, by: &str, now_ms: u64) -> Result<Change, OrderError> {
        let origin = |reason: Option<String>| origin(by, reason, now_ms);
        Ok(match self {
            Self::Quarantine {
                principal,
                seconds,
                service,
                reason,
            } => {
                if !(1..=LONGEST.as_secs()).contains(&seconds) {
                    return Err(OrderError::Time);
                }
                Change::Quarantined(Quarantine {
                    principal: principal_of(&principal)?,
                    scope: service.map_or(Scope::Everything, |name| Scope::Service(name.into())),
                    until_ms: now_ms.saturating_add(seconds.saturating_mul(1_000)),
                    status: None,
                    origin: origin(reason)?,
                })
            }
            Self::Release { principal, reason } => Change::Released {
                principal: principal_of(&principal)?,
                origin: origin(reason)?,
            },
            Self::Revoke { subject, reason } => Change::Revoked(Revocation {
                subject: subject_of(subject)?,
                origin: origin(reason)?,
            }),
            Self::Reinstate { subject, reason } => Change::Reinstated {
                subject: subject_of(subject)?,
                origin: origin(reason)?,
            },
            Self::Rate {
                principal,
                level,
                reason,
            } => Change::Rated(Risk {
                principal: principal_of(&principal)?,
                level,
                origin: origin(reason)?,
            }),
        })
    }
}

fn origin(by: &str, reason: Option<String>, at_ms: u64) -> Result<Origin, OrderError> {
    let fits = |reason: &String| reason.len() <= REASON && !reason.chars().any(char::is_control);
    if !reason.iter().all(fits) {
        return Err(OrderError::Reason);
    }
    Ok(Origin {
        by: by.into(),
        reason: reason.map(Into::into),
        at_ms,
    })
}

/// A principal's name in its one form.
///
/// # Errors
/// When it is none.
pub(super) fn principal_of(name: &str) -> Result<Box<str>, OrderError> {
    if name == "anonymous" {
        return Ok(name.into());
    }
    let id: SpiffeId = name
        .parse()
        .map_err(|_| OrderError::Principal(name.to_owned()))?;
    Ok(id.as_str().into())
}

fn subject_of(subject: Revoked) -> Result<Revoked, OrderError> {
    Ok(match subject {
        Revoked::Principal(name) => Revoked::Principal(principal_of(&name)?),
        Revoked::Serial(serial) => Revoked::Serial(canonical_serial(&serial)?),
    })
}

/// A serial number as it is compared: lower case, without colons and leading zeros.
///
/// # Errors
/// When it is none.
pub(crate) fn canonical_serial(serial: &str) -> Result<Box<str>, OrderError> {
    let wrong = || OrderError::Serial(serial.to_owned());
    let digits: String = serial.chars().filter(|c| *c != ':').collect();
    let digits = digits.trim_start_matches('0').to_ascii_lowercase();
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits.is_empty() || digits.len() > SERIAL || !hexadecimal {
        return Err(wrong());
    }
    Ok(digits.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_read_in_the_forms_in_which_tools_print_it() {
        for serial in ["0A:1B:00", "a1b00", "00A1B00"] {
            assert_eq!(&*canonical_serial(serial).unwrap(), "a1b00");
        }
        for serial in ["", "0", "xyz", &"1".repeat(41)] {
            assert!(canonical_serial(serial).is_err(), "{serial}");
        }
    }

    #[test]
    fn an_order_that_names_nothing_says_how_to_write_it() {
        let release = Order::Release {
            principal: "cart".to_owned(),
            reason: None,
        };
        let why = release.change("operator", 0).unwrap_err().to_string();
        assert!(why.contains("spiffe://shop.example"), "{why}");
        for (seconds, reason) in [(0, None), (2_592_001, None), (5, Some("a\nb".to_owned()))] {
            let order = Order::Quarantine {
                principal: "anonymous".to_owned(),
                seconds,
                service: None,
                reason,
            };
            assert!(order.change("operator", 0).is_err());
        }
    }
}
