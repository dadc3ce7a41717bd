//! The signals by name, sets of them, and their values at one moment.

use serde::{Deserialize, Serialize};

/// A number or flag that policies read as an attribute of `context.signals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Signal {
    /// Calls of the principal within a second, this one included.
    CallsPerSecond,
    /// Calls within a minute.
    CallsPerMinute,
    /// Calls within an hour.
    CallsPerHour,
    /// Calls that were denied within a second, this one not included.
    DenialsPerSecond,
    /// Denied calls within a minute.
    DenialsPerMinute,
    /// Denied calls within an hour.
    DenialsPerHour,
    /// Calls within a second that were answered with an error, 4xx or 5xx, or not at all.
    ErrorsPerSecond,
    /// Errors within a minute.
    ErrorsPerMinute,
    /// Errors within an hour.
    ErrorsPerHour,
    /// Bytes of bodies that left within a second: of answers inbound, of requests outbound.
    BytesOutPerSecond,
    /// Bytes out within a minute.
    BytesOutPerMinute,
    /// Bytes out within an hour.
    BytesOutPerHour,
    /// As [`Signal::CallsPerSecond`], at the endpoint that is called.
    EndpointCallsPerSecond,
    /// As [`Signal::CallsPerMinute`], at the endpoint that is called.
    EndpointCallsPerMinute,
    /// As [`Signal::CallsPerHour`], at the endpoint that is called.
    EndpointCallsPerHour,
    /// As [`Signal::DenialsPerSecond`], at the endpoint that is called.
    EndpointDenialsPerSecond,
    /// As [`Signal::DenialsPerMinute`], at the endpoint that is called.
    EndpointDenialsPerMinute,
    /// As [`Signal::DenialsPerHour`], at the endpoint that is called.
    EndpointDenialsPerHour,
    /// As [`Signal::ErrorsPerSecond`], at the endpoint that is called.
    EndpointErrorsPerSecond,
    /// As [`Signal::ErrorsPerMinute`], at the endpoint that is called.
    EndpointErrorsPerMinute,
    /// As [`Signal::ErrorsPerHour`], at the endpoint that is called.
    EndpointErrorsPerHour,
    /// As [`Signal::BytesOutPerSecond`], at the endpoint that is called.
    EndpointBytesOutPerSecond,
    /// As [`Signal::BytesOutPerMinute`], at the endpoint that is called.
    EndpointBytesOutPerMinute,
    /// As [`Signal::BytesOutPerHour`], at the endpoint that is called.
    EndpointBytesOutPerHour,
    /// Distinct endpoints called within a minute, this one included.
    EndpointsPerMinute,
    /// Distinct services called within a minute, this one included.
    ServicesPerMinute,
    /// Whether the principal has never called this endpoint before: 1 or 0.
    FirstContact,
    /// Calls of the principal that have not ended, this one included.
    InFlight,
    /// How risky the principal is said to be: a [`RiskLevel`] as a number.
    Risk,
    /// Whether what the fleet shares may be out of date: 1 or 0.
    Stale,
}

/// How many signals there are.
pub(super) const COUNT: usize = Signal::Stale as usize + 1;

/// Some signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u32);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);

    /// The set with this one too.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal as u32)
    }

    /// All that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has the signal.
    #[must_use]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & 1 << signal as u32 != 0
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The values of some signals at one moment; what is not among them reads as nought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalValues {
    known: SignalSet,
    values: [i64; COUNT],
}

impl SignalValues {
    /// No signal is known.
    pub const NONE: Self = Self {
        known: SignalSet::EMPTY,
        values: [0; COUNT],
    };

    /// Which are known.
    #[must_use]
    pub fn known(&self) -> SignalSet {
        self.known
    }

    /// The value of one.
    #[must_use]
    pub fn value(&self, signal: Signal) -> i64 {
        self.values
            .get(signal as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Makes a value known.
    pub fn set(&mut self, signal: Signal, value: i64) {
        self.known = self.known.with(signal);
        if let Some(place) = self.values.get_mut(signal as usize) {
            *place = value;
        }
    }
}

/// How risky a principal is said to be (CAEP 1.0 section 3.7).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum RiskLevel {
    /// Nobody has said anything.
    #[default]
    None,
    /// `LOW`
    Low,
    /// `MEDIUM`
    Medium,
    /// `HIGH`
    High,
}

impl RiskLevel {
    /// `"NONE"`, `"LOW"`, `"MEDIUM"` or `"HIGH"`, as policies compare it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Low => "LOW",
            Self::Medium => "MEDIUM",
            Self::High => "HIGH",
        }
    }

    /// The level with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Low, Self::Medium, Self::High]
            .into_iter()
            .find(|level| level.as_str() == name)
    }
}
