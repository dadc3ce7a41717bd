//! Whom an event is about (RFC 9493, and the complex subjects of the Shared Signals Framework):
//! from subject identifiers to the SPIFFE IDs of principals.
//!
//! A SPIFFE ID means itself; other identifiers mean what the configuration says. Nothing is
//! guessed from an e-mail address or an account.

use std::collections::HashMap;

use serde_json::{Map, Value};
use wayleave_identity::{SpiffeId, TrustDomain};

use super::refusal::Refusal;
use crate::config::{MappedSubject, SubjectName};

/// The members of a complex subject that can be a principal. A tenant, a group or an
/// organisational unit only narrows down where one is.
const PRINCIPALS: [&str; 5] = ["session", "application", "workload", "device", "user"];
/// Most identifiers of one subject.
const MOST_ALIASES: usize = 32;

/// What a transmitter's subjects mean.
#[derive(Debug, Clone)]
pub(super) struct Subjects {
    mapped: HashMap<SubjectName, Vec<SpiffeId>>,
    /// All where there is none.
    trust_domains: Option<Vec<TrustDomain>>,
}

impl Subjects {
    pub(super) fn new(mapped: &[MappedSubject], trust_domains: Option<&[TrustDomain]>) -> Self {
        let mapped = mapped.iter();
        Self {
            mapped: mapped
                .map(|one| (one.name.clone(), one.spiffe_ids.clone()))
                .collect(),
            trust_domains: trust_domains.map(<[TrustDomain]>::to_vec),
        }
    }

    /// The principals that a subject means, each once; none where it means nobody known here.
    ///
    /// # Errors
    /// When the subject is malformed, or one of whom the transmitter may not speak.
    pub(super) fn principals(
        &self,
        subject: &Map<String, Value>,
    ) -> Result<Vec<SpiffeId>, Refusal> {
        let mut found = Vec::new();
        match format(subject)? {
            "complex" => self.add_complex(subject, &mut found)?,
            _ => self.add(subject, &mut found)?,
        }
        found.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        found.dedup();
        Ok(found)
    }

    /// Members that are not there stand for anything, so one that names a principal is enough.
    fn add_complex(
        &self,
        subject: &Map<String, Value>,
        found: &mut Vec<SpiffeId>,
    ) -> Result<(), Refusal> {
        for name in PRINCIPALS {
            match subject.get(name) {
                None => {}
                Some(Value::Object(member)) => self.add(member, found)?,
                Some(_) => return Err(Refusal::Subject),
            }
        }
        Ok(())
    }

    fn add(&self, subject: &Map<String, Value>, found: &mut Vec<SpiffeId>) -> Result<(), Refusal> {
        match format(subject)? {
            "aliases" => {
                let all = subject.get("identifiers").and_then(Value::as_array);
                let all = all.ok_or(Refusal::Subject)?;
                if all.is_empty() || all.len() > MOST_ALIASES {
                    return Err(Refusal::Subject);
                }
                for one in all {
                    let one = one.as_object().ok_or(Refusal::Subject)?;
                    self.add_simple(one, found)?;
                }
                Ok(())
            }
            _ => self.add_simple(subject, found),
        }
    }

    fn add_simple(
        &self,
        subject: &Map<String, Value>,
        found: &mut Vec<SpiffeId>,
    ) -> Result<(), Refusal> {
        let name = match format(subject)? {
            "uri" => {
                let uri = text(subject, "uri")?;
                if is_spiffe(uri) {
                    found.push(self.spiffe_id(uri)?);
                    return Ok(());
                }
                SubjectName::Uri(uri.to_owned())
            }
            "opaque" => SubjectName::Opaque(text(subject, "id")?.to_owned()),
            "iss_sub" => SubjectName::IssSub {
                iss: text(subject, "iss")?.to_owned(),
                sub: text(subject, "sub")?.to_owned(),
            },
            // Neither holds another one that could be one (RFC 9493 §3.2.8).
            "aliases" | "complex" => return Err(Refusal::Subject),
            _ => return Ok(()),
        };
        found.extend(self.mapped.get(&name).into_iter().flatten().cloned());
        Ok(())
    }

    fn spiffe_id(&self, uri: &str) -> Result<SpiffeId, Refusal> {
        let id: SpiffeId = uri.parse().map_err(|_| Refusal::Subject)?;
        // A trust domain is no principal.
        if id.is_root() {
            return Err(Refusal::Subject);
        }
        match &self.trust_domains {
            // SECURITY: a transmitter speaks only of those that it was put in charge of.
            Some(allowed) if !allowed.contains(id.trust_domain()) => Err(Refusal::TrustDomain),
            _ => Ok(id),
        }
    }
}

fn format(subject: &Map<String, Value>) -> Result<&str, Refusal> {
    text(subject, "format")
}

fn text<'a>(subject: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    let value = subject.get(name).and_then(Value::as_str);
    value
        .filter(|value| !value.is_empty())
        .ok_or(Refusal::Subject)
}

fn is_spiffe(uri: &str) -> bool {
    let scheme = uri.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CART: &str = "spiffe://shop.example/cart";
    const AGENT: &str = "spiffe://shop.example/agent";

    fn subjects() -> Subjects {
        let mapped = |name, id: &str| MappedSubject {
            name,
            spiffe_ids: vec![id.parse().unwrap()],
        };
        let iss_sub = SubjectName::IssSub {
            iss: "https://idp.example".to_owned(),
            sub: "42".to_owned(),
        };
        let all = [
            mapped(SubjectName::Opaque("a-7".to_owned()), AGENT),
            mapped(SubjectName::Uri("urn:agent:7".to_owned()), AGENT),
            mapped(iss_sub, CART),
        ];
        Subjects::new(&all, Some(&["shop.example".parse().unwrap()]))
    }

    fn principals(subject: Value) -> Result<Vec<String>, Refusal> {
        let found = subjects().principals(subject.as_object().unwrap())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_subject_means_its_spiffe_id_or_what_the_configuration_says() {
        let uri = |uri: &str| json!({"format": "uri", "uri": uri});
        let opaque = json!({"format": "opaque", "id": "a-7"});
        let iss_sub = json!({"format": "iss_sub", "iss": "https://idp.example", "sub": "42"});
        let table = [
            (uri(CART), vec![CART]),
            (uri("SPIFFE://Shop.Example/cart"), vec![CART]),
            (uri("urn:agent:7"), vec![AGENT]),
            (uri("urn:agent:8"), vec![]),
            (opaque.clone(), vec![AGENT]),
            (json!({"format": "opaque", "id": "a-8"}), vec![]),
            (iss_sub.clone(), vec![CART]),
            (
                json!({"format": "iss_sub", "iss": "https://other.example", "sub": "42"}),
                vec![],
            ),
            (
                json!({"format": "email", "email": "a@shop.example"}),
                vec![],
            ),
            (
                json!({"format": "aliases", "identifiers": [opaque, iss_sub, uri(AGENT)]}),
                vec![AGENT, CART],
            ),
        ];
        for (subject, expected) in table {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(principals(subject.clone()), Ok(expected), "{subject}");
        }
    }

    #[test]
    fn a_complex_subject_means_the_principals_among_its_members() {
        let cart = json!({"format": "uri", "uri": CART});
        let agent = json!({"format": "opaque", "id": "a-7"});
        let email = json!({"format": "email", "email": "a@shop.example"});
        let session = json!({"format": "complex", "user": email, "session": cart});
        assert_eq!(principals(session), Ok(vec![CART.to_owned()]));
        let two = json!({"format": "complex", "device": agent, "application": cart});
        assert_eq!(principals(two), Ok(vec![AGENT.to_owned(), CART.to_owned()]));
        let tenant = json!({"format": "complex", "tenant": cart});
        assert_eq!(principals(tenant), Ok(vec![]));
        let nested = json!({"format": "complex", "user": {"format": "complex", "user": cart}});
        assert_eq!(principals(nested), Err(Refusal::Subject));
        let no_object = json!({"format": "complex", "user": CART});
        assert_eq!(principals(no_object), Err(Refusal::Subject));
    }

    #[test]
    fn rejects_a_subject_of_another_trust_domain() {
        let other = json!({"format": "uri", "uri": "spiffe://other.example/cart"});
        assert_eq!(principals(other.clone()), Err(Refusal::TrustDomain));
        let hidden = json!({"format": "complex", "session": other});
        assert_eq!(principals(hidden), Err(Refusal::TrustDomain));
    }

    #[test]
    fn rejects_a_malformed_subject() {
        for subject in [
            json!({}),
            json!({"format": 1}),
            json!({"uri": CART}),
            json!({"format": "uri"}),
            json!({"format": "uri", "uri": ""}),
            json!({"format": "uri", "uri": "spiffe://shop.example"}),
            json!({"format": "uri", "uri": "spiffe://shop.example/a//b"}),
            json!({"format": "iss_sub", "iss": "https://idp.example"}),
            json!({"format": "aliases", "identifiers": []}),
            json!({"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": []}]}),
        ] {
            assert_eq!(
                principals(subject.clone()),
                Err(Refusal::Subject),
                "{subject}"
            );
        }
    }
}
