//! Values of signals as records and policy tests write them: a table of names, as policies call
//! them below `context.signals`, and values of the type that policies see.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::problem::did_you_mean;

use super::signal::{Kind, RiskLevel, Signal, SignalValues};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Bool(bool),
    Long(i64),
    Text(String),
}

impl SignalValues {
    /// Sets the signal with this name, as `calls_per_minute` or `endpoint.calls_per_minute`, to a
    /// value as it is written.
    ///
    /// # Errors
    ///
    /// Says what of the two is not as it should be, and what to write instead.
    pub fn set_by_name(&mut self, name: &str, value: &str) -> Result<(), String> {
        let written = match (value.parse(), value.parse()) {
            (Ok(flag), _) => Written::Bool(flag),
            (_, Ok(number)) => Written::Long(number),
            _ => Written::Text(value.to_owned()),
        };
        self.set_written(name, &written)
    }

    fn set_written(&mut self, name: &str, written: &Written) -> Result<(), String> {
        let signal = Signal::from_name(name).ok_or_else(|| unknown(name))?;
        let value = match (signal.kind(), written) {
            (Kind::Bool, Written::Bool(flag)) => i64::from(*flag),
            (Kind::Long, Written::Long(number)) if *number >= 0 => *number,
            (Kind::Level, Written::Text(level)) => match RiskLevel::from_name(level) {
                Some(level) => level as i64,
                None => return Err(no_level(level)),
            },
            (kind, _) => return Err(format!("the signal `{name}` is {}", described(kind))),
        };
        self.set(signal, value);
        Ok(())
    }

    fn written(&self, signal: Signal) -> Written {
        let value = self.value(signal);
        match signal.kind() {
            Kind::Bool => Written::Bool(value != 0),
            Kind::Long => Written::Long(value),
            Kind::Level => Written::Text(RiskLevel::from_number(value).as_str().to_owned()),
        }
    }
}

fn unknown(name: &str) -> String {
    let names = Signal::ALL.map(Signal::name);
    match did_you_mean(name, names) {
        Some(meant) => format!("there is no signal `{name}`; did you mean `{meant}`?"),
        None => format!(
            "there is no signal `{name}`; signals are {}",
            names.join(", ")
        ),
    }
}

/// What is wrong with a word that is no level of risk.
pub(crate) fn no_level(word: &str) -> String {
    let levels = RiskLevel::ALL.map(RiskLevel::as_str).join(", ");
    format!("`{word}` is not a level of risk; levels are {levels}")
}

fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "`true` or `false`",
        Kind::Long => "a number from 0 on",
        Kind::Level => "a level: \"NONE\", \"LOW\", \"MEDIUM\" or \"HIGH\"",
    }
}

impl Serialize for SignalValues {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for signal in self.known().iter() {
            map.serialize_entry(signal.name(), &self.written(signal))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for SignalValues {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Named)
    }
}

struct Named;

impl<'de> Visitor<'de> for Named {
    type Value = SignalValues;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of signals, such as `calls_per_minute: 101`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SignalValues, A::Error> {
        let mut values = SignalValues::NONE;
        while let Some((name, written)) = map.next_entry::<String, Written>()? {
            let set = values.set_written(&name, &written);
            set.map_err(A::Error::custom)?;
        }
        Ok(values)
    }
}
