//! The signals by name, sets of them, and their values at one moment.

use serde::{Deserialize, Serialize};

use super::window::Span;

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

/// How many rates there are of a principal, and as many of each of its endpoints.
pub(super) const RATES: usize = 12;

/// What kind of value a signal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Long,
    Bool,
    /// A [`RiskLevel`].
    Level,
}

/// A signal that counts events within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Below [`RATES`].
    pub(super) place: usize,
    pub(super) span: Span,
    /// Whether a call counts itself when it begins.
    pub(super) calls: bool,
    /// Whether it is of the endpoint that is called.
    pub(super) endpoint: bool,
}

impl Signal {
    /// Every signal, in the order of their numbers.
    pub const ALL: [Self; COUNT] = [
        Self::CallsPerSecond,
        Self::CallsPerMinute,
        Self::CallsPerHour,
        Self::DenialsPerSecond,
        Self::DenialsPerMinute,
        Self::DenialsPerHour,
        Self::ErrorsPerSecond,
        Self::ErrorsPerMinute,
        Self::ErrorsPerHour,
        Self::BytesOutPerSecond,
        Self::BytesOutPerMinute,
        Self::BytesOutPerHour,
        Self::EndpointCallsPerSecond,
        Self::EndpointCallsPerMinute,
        Self::EndpointCallsPerHour,
        Self::EndpointDenialsPerSecond,
        Self::EndpointDenialsPerMinute,
        Self::EndpointDenialsPerHour,
        Self::EndpointErrorsPerSecond,
        Self::EndpointErrorsPerMinute,
        Self::EndpointErrorsPerHour,
        Self::EndpointBytesOutPerSecond,
        Self::EndpointBytesOutPerMinute,
        Self::EndpointBytesOutPerHour,
        Self::EndpointsPerMinute,
        Self::ServicesPerMinute,
        Self::FirstContact,
        Self::InFlight,
        Self::Risk,
        Self::Stale,
    ];

    /// The attribute below `context.signals`; those of the endpoint begin with `endpoint.`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CallsPerSecond => "calls_per_second",
            Self::CallsPerMinute => "calls_per_minute",
            Self::CallsPerHour => "calls_per_hour",
            Self::DenialsPerSecond => "denials_per_second",
            Self::DenialsPerMinute => "denials_per_minute",
            Self::DenialsPerHour => "denials_per_hour",
            Self::ErrorsPerSecond => "errors_per_second",
            Self::ErrorsPerMinute => "errors_per_minute",
            Self::ErrorsPerHour => "errors_per_hour",
            Self::BytesOutPerSecond => "bytes_out_per_second",
            Self::BytesOutPerMinute => "bytes_out_per_minute",
            Self::BytesOutPerHour => "bytes_out_per_hour",
            Self::EndpointCallsPerSecond => "endpoint.calls_per_second",
            Self::EndpointCallsPerMinute => "endpoint.calls_per_minute",
            Self::EndpointCallsPerHour => "endpoint.calls_per_hour",
            Self::EndpointDenialsPerSecond => "endpoint.denials_per_second",
            Self::EndpointDenialsPerMinute => "endpoint.denials_per_minute",
            Self::EndpointDenialsPerHour => "endpoint.denials_per_hour",
            Self::EndpointErrorsPerSecond => "endpoint.errors_per_second",
            Self::EndpointErrorsPerMinute => "endpoint.errors_per_minute",
            Self::EndpointErrorsPerHour => "endpoint.errors_per_hour",
            Self::EndpointBytesOutPerSecond => "endpoint.bytes_out_per_second",
            Self::EndpointBytesOutPerMinute => "endpoint.bytes_out_per_minute",
            Self::EndpointBytesOutPerHour => "endpoint.bytes_out_per_hour",
            Self::EndpointsPerMinute => "endpoints_per_minute",
            Self::ServicesPerMinute => "services_per_minute",
            Self::FirstContact => "first_contact",
            Self::InFlight => "in_flight",
            Self::Risk => "risk",
            Self::Stale => "stale",
        }
    }

    /// The signal with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    /// How long its window is; none where it has none.
    #[must_use]
    pub fn window(self) -> Option<std::time::Duration> {
        match self {
            Self::EndpointsPerMinute | Self::ServicesPerMinute => Some(Span::Minute.length()),
            _ => self.rate().map(|rate| rate.span.length()),
        }
    }

    /// Whether what several sidecars count of one principal can be added up: what happens within
    /// a window, of the principal as a whole. What is distinct at each of two may be the same.
    #[must_use]
    pub const fn is_summable(self) -> bool {
        matches!(
            self.rate(),
            Some(Rate {
                endpoint: false,
                ..
            })
        )
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::FirstContact | Self::Stale => Kind::Bool,
            Self::Risk => Kind::Level,
            _ => Kind::Long,
        }
    }

    pub(super) const fn rate(self) -> Option<Rate> {
        let number = self as usize;
        if number >= 2 * RATES {
            return None;
        }
        let place = number % RATES;
        Some(Rate {
            place,
            span: match place % 3 {
                0 => Span::Second,
                1 => Span::Minute,
                _ => Span::Hour,
            },
            calls: place < 3,
            endpoint: number >= RATES,
        })
    }
}

/// Some signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u32);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);

    /// What tells how a call began: calls until then, those in flight, whether it was a first
    /// contact. It stays so for as long as the call is open: a limit on calls slows down who calls,
    /// and ends nothing.
    pub const OF_BEGINNING: Self = Self::EMPTY
        .with(Signal::CallsPerSecond)
        .with(Signal::CallsPerMinute)
        .with(Signal::CallsPerHour)
        .with(Signal::EndpointCallsPerSecond)
        .with(Signal::EndpointCallsPerMinute)
        .with(Signal::EndpointCallsPerHour)
        .with(Signal::FirstContact)
        .with(Signal::InFlight);

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

    /// All that are in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those with the numbers from `first` to before `end`.
    pub(super) const fn range(first: u32, end: u32) -> Self {
        Self((1 << end) - (1 << first))
    }

    /// Every signal.
    #[must_use]
    pub const fn all() -> Self {
        Self::range(0, COUNT as u32)
    }

    /// Each signal in it.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let signal = Signal::ALL.get(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(*signal)
        })
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

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Those of a set alone.
    #[must_use]
    pub fn only(&self, of: SignalSet) -> Self {
        let mut only = Self::NONE;
        for signal in self.known.both(of).iter() {
            only.set(signal, self.value(signal));
        }
        only
    }

    /// The level of risk.
    #[must_use]
    pub fn risk(&self) -> RiskLevel {
        RiskLevel::from_number(self.value(Signal::Risk))
    }

    /// Makes a value known.
    pub fn set(&mut self, signal: Signal, value: i64) {
        self.known = self.known.with(signal);
        if let Some(place) = self.values.get_mut(signal as usize) {
            *place = value;
        }
    }
}

impl Default for SignalValues {
    fn default() -> Self {
        Self::NONE
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

    /// Every level, from the lowest.
    pub const ALL: [Self; 4] = [Self::None, Self::Low, Self::Medium, Self::High];

    /// The level with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }

    /// The level with this number: what is above the highest is the highest.
    pub(crate) fn from_number(number: i64) -> Self {
        match number {
            ..=0 => Self::None,
            1 => Self::Low,
            2 => Self::Medium,
            3.. => Self::High,
        }
    }
}
