//! What a lease keeps of a call's headers: the values that the policies in force read, and which
//! others there were, so that a later decision knows what it cannot know.

use std::cell::Cell;

use http::HeaderMap;
use wayleave_authz::{Engine, Headers};

/// How many headers the built-in schema declares, each of which has a bit of its own.
const BUILT_IN: usize = 9;

/// Some of a call's headers.
#[derive(Debug, Default)]
pub(crate) struct KeptHeaders {
    values: Vec<(Box<str>, Vec<String>)>,
    /// Which headers were sent: a bit for each built-in name, and one of those left for any
    /// other name, which several may share.
    present: u64,
}

/// The kept headers during one decision.
pub(super) struct Recalled<'a> {
    kept: &'a KeptHeaders,
    unknown: Cell<bool>,
}

impl KeptHeaders {
    /// Keeps what the policies of `engine` read; allocates nothing where they read none.
    pub(super) fn of(headers: &HeaderMap, engine: &Engine) -> Self {
        let names = headers.keys().map(|name| bit(name.as_str()));
        let mut kept = Self {
            values: Vec::new(),
            present: names.fold(0, |all, one| all | one),
        };
        for name in engine.headers_read() {
            let values = headers.get_all(name).iter();
            let values: Vec<String> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            kept.values.push((name.into(), values));
        }
        kept
    }

    pub(super) fn recall(&self) -> Recalled<'_> {
        Recalled {
            kept: self,
            unknown: Cell::new(false),
        }
    }
}

impl Recalled<'_> {
    /// Whether a policy asked for a header that was, or may have been, sent and was not kept.
    pub(super) fn asked_in_vain(&self) -> bool {
        self.unknown.get()
    }
}

impl Headers for Recalled<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut values = self.kept.values.iter();
        if let Some((_, values)) = values.find(|(kept, _)| **kept == *name) {
            return values.iter().any(|value| test(value));
        }
        if self.kept.present & bit(name) != 0 {
            self.unknown.set(true);
        }
        false
    }
}

/// The bit that stands for a header.
fn bit(name: &str) -> u64 {
    let place = match name {
        "accept" => 0,
        "authorization" => 1,
        "content-length" => 2,
        "content-type" => 3,
        "origin" => 4,
        "referer" => 5,
        "traceparent" => 6,
        "user-agent" => 7,
        "x-request-id" => 8,
        _ => BUILT_IN + hash(name) % (64 - BUILT_IN),
    };
    1_u64.rotate_left(u32::try_from(place).unwrap_or_default())
}

/// FNV-1a: a few operations a byte, for a handful of short names.
fn hash(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(names: &[&'static str]) -> KeptHeaders {
        let present = names.iter().fold(0, |all, name| all | bit(name));
        let values = Vec::new();
        KeptHeaders { values, present }
    }

    #[test]
    fn a_header_that_was_not_sent_is_known_to_be_absent() {
        let engine = Engine::load(&wayleave_authz::Inputs::default()).unwrap();
        let kept = kept(&["accept", "host"]);
        let recalled = kept.recall();
        for name in engine.headers_declared().filter(|name| *name != "accept") {
            assert!(!recalled.any(name, &mut |_| true));
        }
        assert!(!recalled.asked_in_vain());
    }

    #[test]
    fn a_header_that_was_sent_and_not_kept_is_unknown() {
        for name in ["accept", "x-team"] {
            let kept = kept(&[name]);
            let recalled = kept.recall();
            assert!(!recalled.any(name, &mut |_| true));
            assert!(recalled.asked_in_vain(), "{name}");
        }
    }

    #[test]
    fn every_header_of_the_built_in_schema_has_a_bit_of_its_own() {
        let engine = Engine::load(&wayleave_authz::Inputs::default()).unwrap();
        let bits: Vec<_> = engine.headers_declared().map(bit).collect();
        assert_eq!(bits.len(), BUILT_IN);
        assert_eq!(
            bits.iter().fold(0, |all, one| all | one),
            (1 << BUILT_IN) - 1
        );
    }
}
