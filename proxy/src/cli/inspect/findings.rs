//! What was found, in the shape in which programs read it.

use serde::Serialize;
use wayleave_certs::inspect::{self, BundleReport, CertificateReport, Outcome};

use crate::moment::moment;

/// Everything that was found about one target.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    pub(super) target: String,
    pub(super) kind: Kind,
    /// Whether no rule is broken.
    pub(super) ok: bool,
    /// How many rules are broken.
    pub(super) broken: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<Tls>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) chain: Vec<Certificate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bundles: Vec<Bundle>,
    /// The rules for the whole of it.
    pub(super) checks: Vec<Check>,
}

/// What the target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Svid,
    Bundle,
    Peer,
}

/// What a handshake agreed on.
#[derive(Debug, Serialize)]
pub(super) struct Tls {
    pub(super) version: &'static str,
    pub(super) key_exchange: &'static str,
    pub(super) post_quantum: bool,
    pub(super) cipher_suite: String,
    pub(super) alpn: Option<String>,
    pub(super) client_certificate: ClientCertificate,
}

/// What the peer made of our certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientCertificate {
    /// It did not ask for one.
    NotRequested,
    /// It asked, and went on without one.
    Optional,
    /// It asked, and ended the connection because it was shown none.
    Required,
    /// It asked, and did not refuse the one that it was shown.
    NotRefused,
    /// It ended the connection with this alert.
    Refused(String),
}

#[derive(Debug, Serialize)]
pub(super) struct Bundle {
    pub(super) trust_domain: Option<String>,
    pub(super) sequence: Option<u64>,
    pub(super) refresh_hint_seconds: Option<u64>,
    pub(super) authorities: Vec<Certificate>,
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) place: String,
    #[serde(flatten)]
    pub(super) facts: Option<Facts>,
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) id: Option<String>,
    pub(super) uris: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) ip_addresses: Vec<String>,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) key: String,
    pub(super) sha256: String,
    /// For the distance from now, which only people read.
    #[serde(skip)]
    pub(super) ends: std::time::SystemTime,
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) rule: &'static str,
    pub(super) section: &'static str,
    pub(super) result: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    Failed,
    NotChecked,
}

impl Findings {
    pub(super) fn new(target: &str, kind: Kind) -> Self {
        Self {
            target: target.to_owned(),
            kind,
            ok: true,
            broken: 0,
            tls: None,
            chain: Vec::new(),
            bundles: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Counts what is broken.
    pub(super) fn counted(mut self) -> Self {
        let bundles = self.bundles.iter();
        let of_bundles = bundles.flat_map(|bundle| {
            let authorities = bundle.authorities.iter().flat_map(|c| &c.checks);
            authorities.chain(&bundle.checks)
        });
        let of_chain = self.chain.iter().flat_map(|c| &c.checks);
        let all = of_chain.chain(of_bundles).chain(&self.checks);
        self.broken = all.filter(|c| c.result == Verdict::Failed).count();
        self.ok = self.broken == 0;
        self
    }

    pub(super) fn to_json(&self) -> String {
        // Strings, numbers and lists: there is nothing here that JSON cannot say.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl From<BundleReport> for Bundle {
    fn from(report: BundleReport) -> Self {
        Self {
            trust_domain: report.trust_domain.map(|name| name.to_string()),
            sequence: report.sequence,
            refresh_hint_seconds: report.refresh_hint.map(|hint| hint.as_secs()),
            authorities: report.authorities.into_iter().map(Into::into).collect(),
            checks: report.checks.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<CertificateReport> for Certificate {
    fn from(report: CertificateReport) -> Self {
        Self {
            place: report.place.to_string(),
            facts: report.facts.map(Into::into),
            checks: report.checks.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<inspect::Facts> for Facts {
    fn from(facts: inspect::Facts) -> Self {
        let addresses = facts.ip_addresses.iter();
        Self {
            id: facts.id.map(|id| id.to_string()),
            uris: facts.uris,
            dns_names: facts.dns_names,
            ip_addresses: addresses.map(ToString::to_string).collect(),
            subject: facts.subject,
            issuer: facts.issuer,
            serial: facts.serial,
            not_before: moment(facts.not_before),
            not_after: moment(facts.not_after),
            key: facts.key,
            sha256: facts.sha256,
            ends: facts.not_after,
        }
    }
}

impl From<inspect::Check> for Check {
    fn from(check: inspect::Check) -> Self {
        let (result, detail) = match check.outcome {
            Outcome::Kept => (Verdict::Ok, None),
            Outcome::Broken(words) => (Verdict::Failed, Some(words)),
            Outcome::NotChecked(why) => (Verdict::NotChecked, Some(why)),
        };
        Self {
            rule: check.rule,
            section: check.section,
            result,
            detail,
        }
    }
}
