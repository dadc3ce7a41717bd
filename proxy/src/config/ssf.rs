//! Checks one transmitter of security events: who it is, how it signs, how its events come, and
//! whom they may be about.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wayleave_identity::{SpiffeId, TrustDomain};

use super::defaults as default;
use super::problem::{Wrong, quoted};
use super::raw::{Field, RawPoll, RawPush, RawPushTls, RawSubject, RawTransmitter, Section};
use super::scalar;
use super::tree::{Node, NodeId};
use super::validate::{HOUR, Validator, content};
use super::web_url::WebUrl;
use crate::protocol::canonical;

const REFRESH: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(86_400);
const MAX_AGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);
const SKEW: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const POLL_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

/// A signature algorithm of JSON Web Tokens. There is no `none` and no shared secret among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// What the non-compliance of a device does to the principals that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNoncompliant {
    /// It is told, and has no effect.
    Ignore,
    /// They are at high risk until the device is compliant again.
    HighRisk,
    /// They are revoked, until an operator lifts that.
    Revoke,
}

const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("RS256", Algorithm::Rs256),
    ("PS256", Algorithm::Ps256),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];
const NONCOMPLIANT: [(&str, OnNoncompliant); 3] = [
    ("ignore", OnNoncompliant::Ignore),
    ("high_risk", OnNoncompliant::HighRisk),
    ("revoke", OnNoncompliant::Revoke),
];

impl Algorithm {
    /// All of them, by the names that headers of tokens use (RFC 7518 §3.1, RFC 8037 §3.1).
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mut all = ALGORITHMS.iter();
        all.find(|(own, _)| *own == name).map(|(_, one)| *one)
    }
}

/// One transmitter of the OpenID Shared Signals Framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransmitterConfig {
    /// Its name in logs and metrics: 1 to 63 of `a-z`, `0-9`, `-` and `_`.
    pub name: Arc<str>,
    /// The `iss` of every event that it sends, to the letter.
    pub issuer: String,
    /// Who we are to it; one of these is in the `aud` of every event. At least one.
    pub audience: Vec<String>,
    /// Where its keys are.
    pub jwks: JwksSource,
    /// How it may sign; all that are known by default.
    pub algorithms: Vec<Algorithm>,
    /// Where it pushes events to; at least one of `push` and `poll`.
    pub push: Option<PushConfig>,
    /// Where events are fetched.
    pub poll: Option<PollConfig>,
    /// How old an event's token may be; 1 min to 30 days, 7 days by default.
    pub max_age: Duration,
    /// How far its clock may be ahead of ours; 0 s to 10 min, 60 s by default.
    pub clock_skew: Duration,
    /// Subjects by other names than SPIFFE IDs.
    pub subjects: Vec<MappedSubject>,
    /// The trust domains of whose workloads it may speak; all where there is none.
    pub trust_domains: Option<Vec<TrustDomain>>,
    /// What a non-compliant device means; `ignore` by default.
    pub on_noncompliant: OnNoncompliant,
}

/// Where a transmitter's JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// A file, read again when it changes.
    File(PathBuf),
    /// A URL.
    Url {
        /// Where.
        url: WebUrl,
        /// PEM file of the authorities that the host is verified by; the system's where none.
        ca_file: Option<PathBuf>,
        /// How often the keys are fetched without need; 30 s to 24 h, 10 min by default.
        refresh: Duration,
    },
}

/// Where a transmitter pushes events to (RFC 8935).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushConfig {
    /// The address to bind; transmitters may share one.
    pub listen: SocketAddr,
    /// The path that is its own there.
    pub path: String,
    /// The certificate that is shown; none only on loopback.
    pub tls: Option<PushTls>,
    /// The file with the bearer token that the transmitter has to send.
    pub token_file: Option<PathBuf>,
}

/// PEM files of a server's certificate chain and key, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushTls {
    /// The chain, the leaf first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Where events are fetched from (RFC 8936).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollConfig {
    /// The polling endpoint.
    pub url: WebUrl,
    /// The time between polls that bring nothing; 1 s to 1 h, 10 s by default.
    pub interval: Duration,
    /// The file with the bearer token that we send.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that the host is verified by; the system's where none.
    pub ca_file: Option<PathBuf>,
    /// Whether the transmitter may hold a poll until there is an event; `true` by default.
    pub long_poll: bool,
    /// How long an answer may take; 1 s to 1 h, 60 s by default.
    pub timeout: Duration,
    /// Most events in one answer; 1 to 256, 32 by default.
    pub max_events: usize,
}

/// Principals by the name that a transmitter has for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedSubject {
    /// The transmitter's name.
    pub name: SubjectName,
    /// Whom it means; at least one.
    pub spiffe_ids: Vec<SpiffeId>,
}

/// A subject identifier (RFC 9493 §3.2) that is no SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// `uri`, of another scheme than `spiffe`.
    Uri(String),
    /// `opaque`.
    Opaque(String),
    /// `iss_sub`.
    IssSub {
        /// Who gave the name.
        iss: String,
        /// The name.
        sub: String,
    },
}

impl Validator<'_> {
    pub(super) fn transmitter(
        &mut self,
        section: &Section<RawTransmitter>,
    ) -> Option<TransmitterConfig> {
        let Section(at, raw) = section;
        let name = self.required(*at, "name", raw.name, scalar::listener_name);
        let issuer = self.required(*at, "issuer", raw.issuer, printable);
        let audience = self.present(*at, "audience", raw.audience.as_ref());
        let audience = audience.and_then(|Section(at, fields)| {
            self.not_empty(*at, fields, "audience");
            self.distinct(fields, "audience", printable)
        });
        let jwks = self.jwks(*at, raw);
        let algorithms = self.algorithms(raw);
        let push = raw.push.as_ref().map(|push| self.push(push));
        let poll = raw.poll.as_ref().map(|poll| self.poll(poll));
        let max_age = self.time(raw.max_age, default::SET_MAX_AGE, &MAX_AGE);
        let clock_skew = self.time(raw.clock_skew, default::CLOCK_SKEW, &SKEW);
        let trust_domains = raw.trust_domains.as_ref().map(|Section(at, fields)| {
            self.not_empty(*at, fields, "trust domain");
            self.distinct(fields, "trust domain", scalar::trust_domain)
        });
        let known = trust_domains.as_ref().and_then(Option::as_deref);
        let subjects = self.subjects(raw, known);
        let on_noncompliant = self.optional(raw.on_noncompliant, OnNoncompliant::Ignore, |node| {
            scalar::choice(node, &NONCOMPLIANT)
        });
        if push.is_none() && poll.is_none() {
            let wrong = Wrong::new("no event can come from this transmitter");
            let help = "say where it pushes events to (`push`), or where they are fetched (`poll`)";
            self.note(raw.name.or(Some(Field(*at))), wrong.help(help));
            return None;
        }
        Some(TransmitterConfig {
            name: name?,
            issuer: issuer?,
            audience: audience?,
            jwks: jwks?,
            algorithms: algorithms?,
            push: all_of(push)?,
            poll: all_of(poll)?,
            max_age: max_age?,
            clock_skew: clock_skew?,
            subjects: subjects?,
            trust_domains: all_of(trust_domains)?,
            on_noncompliant: on_noncompliant?,
        })
    }

    /// Names are distinct, and so are the paths at one address, which has one certificate.
    pub(super) fn transmitters_differ(
        &mut self,
        sections: &[&Section<RawTransmitter>],
        transmitters: &[Option<TransmitterConfig>],
    ) {
        for (index, (Section(_, raw), later)) in sections.iter().zip(transmitters).enumerate() {
            let Some(later) = later else { continue };
            for earlier in transmitters.iter().take(index).flatten() {
                if earlier.name == later.name {
                    let wrong = Wrong::new(format!("`{}` is another one's name", later.name));
                    self.note(raw.name, wrong.help("give each transmitter its own name"));
                }
                if let (Some(earlier), Some(later), Some(Section(_, raw))) =
                    (&earlier.push, &later.push, &raw.push)
                {
                    self.pushes_fit(earlier, later, raw);
                }
            }
        }
    }

    fn pushes_fit(&mut self, earlier: &PushConfig, later: &PushConfig, raw: &RawPush) {
        // Port 0 is a port of its own for each.
        if earlier.listen != later.listen || later.listen.port() == 0 {
            return;
        }
        if earlier.path == later.path {
            let wrong = Wrong::new(format!(
                "another transmitter pushes to `{}` of `{}`",
                quoted(&later.path),
                later.listen
            ));
            self.note(raw.path, wrong.help("give each transmitter its own path"));
        }
        if earlier.tls != later.tls {
            let field = raw.tls.as_ref().map(|section| Field(section.0));
            let wrong = Wrong::new(format!("`{}` has another certificate", later.listen));
            let help = "one address has one `tls`; repeat that of the other transmitter";
            self.note(field.or(raw.listen), wrong.help(help));
        }
    }

    fn jwks(&mut self, at: NodeId, raw: &RawTransmitter) -> Option<JwksSource> {
        let base = self.base;
        let ca_file = self.maybe(raw.jwks_ca_file, |node| scalar::path(node, base));
        let refresh = self.time(raw.jwks_refresh, default::JWKS_REFRESH, &REFRESH);
        let place = self.required(at, "jwks", raw.jwks, |node| jwks_place(node, base))?;
        match place {
            Ok(url) => Some(JwksSource::Url {
                url,
                ca_file: ca_file?,
                refresh: refresh?,
            }),
            Err(path) => {
                for field in [raw.jwks_ca_file, raw.jwks_refresh].into_iter().flatten() {
                    let wrong = Wrong::new("the keys come from a file, which is watched");
                    self.note(
                        Some(field),
                        wrong.help("leave it out, or name an https URL"),
                    );
                }
                Some(JwksSource::File(path))
            }
        }
    }

    fn algorithms(&mut self, raw: &RawTransmitter) -> Option<Vec<Algorithm>> {
        let Some(Section(at, fields)) = &raw.algorithms else {
            return Some(ALGORITHMS.iter().map(|(_, one)| *one).collect());
        };
        self.not_empty(*at, fields, "algorithm");
        // SECURITY: neither `none` nor HS256, whose key would be the public one, can be named.
        self.distinct(fields, "algorithm", |node| {
            scalar::choice(node, &ALGORITHMS)
        })
        .filter(|algorithms| !algorithms.is_empty())
    }

    fn push(&mut self, section: &Section<RawPush>) -> Option<PushConfig> {
        let Section(at, raw) = section;
        let base = self.base;
        let listen = self.required(*at, "listen", raw.listen, scalar::listen);
        let path = self.required(*at, "path", raw.path, push_path);
        let tls = raw.tls.as_ref().map(|tls| self.push_tls(tls));
        let token_file = self.maybe(raw.token_file, |node| scalar::path(node, base));
        let listen = listen?;
        // SECURITY: tokens and events cross no wire in the clear.
        if tls.is_none() && !listen.ip().is_loopback() {
            let wrong = Wrong::new(format!("`{listen}` would be served without TLS"));
            let help = "name `tls.certificate` and `tls.key`, or listen on a loopback address";
            self.note(raw.listen, wrong.help(help));
            return None;
        }
        Some(PushConfig {
            listen,
            path: path?,
            tls: all_of(tls)?,
            token_file: token_file?,
        })
    }

    fn push_tls(&mut self, section: &Section<RawPushTls>) -> Option<PushTls> {
        let Section(at, raw) = section;
        let certificate = self.required_path(*at, "certificate", raw.certificate);
        let key = self.required_path(*at, "key", raw.key);
        Some(PushTls {
            certificate: certificate?,
            key: key?,
        })
    }

    fn poll(&mut self, section: &Section<RawPoll>) -> Option<PollConfig> {
        let Section(at, raw) = section;
        let base = self.base;
        let url = self.required(*at, "url", raw.url, web_url);
        let interval = self.time(raw.interval, default::POLL_INTERVAL, &POLL_TIME);
        let token_file = self.maybe(raw.token_file, |node| scalar::path(node, base));
        let ca_file = self.maybe(raw.ca_file, |node| scalar::path(node, base));
        let long_poll = self.optional(raw.long_poll, true, scalar::boolean);
        let timeout = self.time(raw.timeout, default::POLL_TIMEOUT, &POLL_TIME);
        let max_events = self.count(raw.max_events, default::POLL_EVENTS, 1..=256);
        Some(PollConfig {
            url: url?,
            interval: interval?,
            token_file: token_file?,
            ca_file: ca_file?,
            long_poll: long_poll?,
            timeout: timeout?,
            max_events: max_events?,
        })
    }

    fn subjects(
        &mut self,
        raw: &RawTransmitter,
        domains: Option<&[TrustDomain]>,
    ) -> Option<Vec<MappedSubject>> {
        let mut subjects: Vec<MappedSubject> = Vec::new();
        let mut complete = true;
        for section in raw.subjects.iter().flat_map(content) {
            match self.subject(section, domains) {
                Some(subject) if subjects.iter().any(|one| one.name == subject.name) => {
                    let wrong = Wrong::new("this subject is mapped already");
                    let help = "name all of its SPIFFE IDs in one place";
                    self.note(Some(Field(section.0)), wrong.help(help));
                    complete = false;
                }
                Some(subject) => subjects.push(subject),
                None => complete = false,
            }
        }
        complete.then_some(subjects)
    }

    fn subject(
        &mut self,
        section: &Section<RawSubject>,
        domains: Option<&[TrustDomain]>,
    ) -> Option<MappedSubject> {
        let Section(at, raw) = section;
        let name = self.subject_name(*at, raw);
        let ids = self.present(*at, "spiffe_ids", raw.spiffe_ids.as_ref());
        let ids = ids.and_then(|Section(at, fields)| {
            self.not_empty(*at, fields, "SPIFFE ID");
            self.distinct(fields, "SPIFFE ID", |node| {
                let id = scalar::spiffe_id(node)?;
                match domains {
                    Some(domains) if !domains.contains(id.trust_domain()) => Err(Wrong::new(
                        format!("the transmitter may not speak of `{}`", id.trust_domain()),
                    )
                    .help("add the trust domain to its `trust_domains`")),
                    _ => Ok(id),
                }
            })
        });
        Some(MappedSubject {
            name: name?,
            spiffe_ids: ids?,
        })
    }

    fn subject_name(&mut self, at: NodeId, raw: &RawSubject) -> Option<SubjectName> {
        let iss = self.maybe(raw.iss, printable)?;
        let sub = self.maybe(raw.sub, printable)?;
        let opaque = self.maybe(raw.opaque, printable)?;
        let uri = self.maybe(raw.uri, other_uri)?;
        match (uri, opaque, iss, sub) {
            (Some(uri), None, None, None) => Some(SubjectName::Uri(uri)),
            (None, Some(id), None, None) => Some(SubjectName::Opaque(id)),
            (None, None, Some(iss), Some(sub)) => Some(SubjectName::IssSub { iss, sub }),
            _ => {
                let wrong = Wrong::new("it is not clear which subject this is");
                let help = "name it by `opaque`, by `uri`, or by `iss` and `sub` together";
                self.note(Some(Field(at)), wrong.help(help));
                None
            }
        }
    }
}

/// A part that may be absent: the outer `None` is a problem.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different things"
)]
fn all_of<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(None) => None,
        Some(read) => Some(read),
    }
}

/// Text that is compared to the letter.
fn printable(node: &Node) -> Result<String, Wrong> {
    let written = scalar::text(node, "a text, such as `https://idp.example`")?;
    let clean = written.trim() == written && !written.chars().any(char::is_control);
    if written.len() <= 1024 && clean {
        return Ok(written.to_owned());
    }
    Err(
        Wrong::new(format!("`{}` cannot be compared", quoted(written)))
            .help("expected at most 1024 printable characters without blanks around them"),
    )
}

fn other_uri(node: &Node) -> Result<String, Wrong> {
    let uri = printable(node)?;
    let is_spiffe = uri
        .get(..9)
        .is_some_and(|p| p.eq_ignore_ascii_case("spiffe://"));
    if is_spiffe {
        let wrong = Wrong::new("a SPIFFE ID means itself");
        return Err(wrong.help("leave it out; it needs no mapping"));
    }
    Ok(uri)
}

fn web_url(node: &Node) -> Result<WebUrl, Wrong> {
    let expected = "an https URL, such as `https://idp.example/ssf/poll`";
    let written = scalar::text(node, expected)?;
    written.parse().map_err(|error: super::WebUrlError| {
        let told = error.to_string().replacen(written, &quoted(written), 1);
        Wrong::new(told).help(format!("expected {expected}"))
    })
}

/// A URL, or the path of a file.
fn jwks_place(node: &Node, base: &Path) -> Result<Result<WebUrl, PathBuf>, Wrong> {
    let written = scalar::text(node, "an https URL, or the path of a JWKS file")?;
    match written.contains("://") {
        true => web_url(node).map(Ok),
        false => scalar::path(node, base).map(Err),
    }
}

/// A path in the form in which it is asked for.
fn push_path(node: &Node) -> Result<String, Wrong> {
    let expected = "a path, such as `/ssf/idp`";
    let written = scalar::text(node, expected)?;
    canonical::check_path(written).map_err(|why| {
        Wrong::new(format!("`{}` is not a path", quoted(written)))
            .help(format!("expected {expected}: {why}"))
    })?;
    Ok(written.to_owned())
}
