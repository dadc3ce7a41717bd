//! Checks the `identity` section: exactly one source, and the trust domains beside it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use wayleave_identity::TrustDomain;

use super::defaults as default;
use super::problem::Wrong;
use super::raw::{Field, RawFederation, RawFiles, RawIdentity, RawWorkloadApi, Section};
use super::validate::{HOUR, Validator, content};
use super::{
    FederationConfig, FilesConfig, IdentityConfig, IdentitySource, Profile, SvidChoice,
    WorkloadApiConfig, scalar,
};

const FIRST_SVID_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;
const FETCH_TIME: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);

/// The names of the two profiles of a bundle endpoint (SPIFFE Federation section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProfileName {
    HttpsWeb,
    HttpsSpiffe,
}

const PROFILES: [(&str, ProfileName); 2] = [
    ("https_web", ProfileName::HttpsWeb),
    ("https_spiffe", ProfileName::HttpsSpiffe),
];

impl Validator<'_> {
    pub(super) fn identity(&mut self, raw: &Section<RawIdentity>) -> Option<IdentityConfig> {
        let source = self.identity_source(raw);
        let federation = self.federation(&raw.1);
        Some(IdentityConfig {
            source: source?,
            federation: federation?,
        })
    }

    fn identity_source(&mut self, raw: &Section<RawIdentity>) -> Option<IdentitySource> {
        let Section(at, raw) = raw;
        match (&raw.files, &raw.workload_api) {
            (Some(files), None) => self.files(files).map(IdentitySource::Files),
            (None, Some(api)) => self.workload_api(api).map(IdentitySource::WorkloadApi),
            (Some(_), Some(Section(second, _))) => {
                let wrong = Wrong::new("the identity has two sources, `files` and `workload_api`");
                self.note(Some(Field(*second)), wrong.help("keep one of the two"));
                None
            }
            (None, None) => {
                self.note_no_source(*at);
                None
            }
        }
    }

    fn files(&mut self, raw: &Section<RawFiles>) -> Option<FilesConfig> {
        let Section(at, files) = raw;
        let svid = self.required_path(*at, "svid", files.svid);
        let key = self.required_path(*at, "key", files.key);
        let bundle = self.required_path(*at, "bundle", files.bundle);
        let federated = self.federated(files);
        let base = self.base;
        let revocation_lists = match &files.revocation_lists {
            Some(Section(_, lists)) => {
                self.distinct(lists, "file", |node| scalar::path(node, base))
            }
            None => Some(Vec::new()),
        };
        let mut files = FilesConfig::new(svid?, key?, bundle?);
        files.federated = federated?;
        files.revocation_lists = revocation_lists?;
        Some(files)
    }

    fn federated(&mut self, raw: &RawFiles) -> Option<BTreeMap<TrustDomain, PathBuf>> {
        let mut bundles = BTreeMap::new();
        let mut complete = true;
        for Section(at, raw) in raw.federated.iter().flat_map(content) {
            let domain = self.required(*at, "trust_domain", raw.trust_domain, scalar::trust_domain);
            let bundle = self.required_path(*at, "bundle", raw.bundle);
            let (Some(domain), Some(bundle)) = (domain, bundle) else {
                complete = false;
                continue;
            };
            if bundles.insert(domain, bundle).is_some() {
                self.note_second_bundle(raw.trust_domain);
            }
        }
        complete.then_some(bundles)
    }

    fn workload_api(&mut self, raw: &Section<RawWorkloadApi>) -> Option<WorkloadApiConfig> {
        let raw = content(raw);
        let endpoint = self.maybe(raw.endpoint, scalar::endpoint);
        let hint = self.maybe(raw.hint, scalar::hint);
        let id = self.maybe(raw.id, scalar::spiffe_id);
        let first_svid_timeout = self.time(
            raw.first_svid_timeout,
            default::FIRST_SVID_TIMEOUT,
            &FIRST_SVID_TIME,
        );
        let choice = match (hint?, id?) {
            (None, None) => SvidChoice::First,
            (Some(hint), None) => SvidChoice::Hint(hint),
            (None, Some(id)) => SvidChoice::Id(id),
            (Some(_), Some(_)) => {
                let wrong = Wrong::new("an SVID is chosen by `hint` or by `id`, not by both");
                self.note(raw.id, wrong.help("keep one of the two"));
                return None;
            }
        };
        Some(WorkloadApiConfig {
            endpoint: endpoint?,
            choice,
            first_svid_timeout: first_svid_timeout?,
        })
    }

    fn federation(&mut self, raw: &RawIdentity) -> Option<Vec<FederationConfig>> {
        let in_files = raw.files.iter().flat_map(|section| &section.1.federated);
        let mut known: Vec<TrustDomain> = in_files
            .flat_map(content)
            .filter_map(|section| self.peek(section.1.trust_domain, scalar::trust_domain))
            .collect();
        let mut relationships = Vec::new();
        let mut complete = true;
        for section in raw.federation.iter().flat_map(content) {
            match self.relationship(section) {
                Some(config) if known.contains(&config.trust_domain) => {
                    self.note_second_bundle(section.1.trust_domain);
                    complete = false;
                }
                Some(config) => {
                    known.push(config.trust_domain.clone());
                    relationships.push(config);
                }
                None => complete = false,
            }
        }
        complete.then_some(relationships)
    }

    fn relationship(&mut self, raw: &Section<RawFederation>) -> Option<FederationConfig> {
        let Section(at, fields) = raw;
        let base = self.base;
        let domain = self.required(
            *at,
            "trust_domain",
            fields.trust_domain,
            scalar::trust_domain,
        );
        let url = self.required(*at, "url", fields.url, scalar::bundle_url);
        let profile = self.profile(raw);
        let store = self.maybe(fields.store, |node| scalar::path(node, base));
        let limit = self.time(fields.timeout, default::FETCH_TIMEOUT, &FETCH_TIME);
        let mut config = FederationConfig::new(domain?, url?, profile?);
        config.store = store?;
        config.time_limit = limit?;
        Some(config)
    }

    fn profile(&mut self, raw: &Section<RawFederation>) -> Option<Profile> {
        let Section(at, fields) = raw;
        let base = self.base;
        let name = self.required(*at, "profile", fields.profile, |node| {
            scalar::choice(node, &PROFILES)
        });
        let roots = self.maybe(fields.roots, |node| scalar::path(node, base));
        let bootstrap = self.maybe(fields.bootstrap_bundle, |node| scalar::path(node, base));
        match name? {
            ProfileName::HttpsWeb => {
                let spiffe = [fields.endpoint_id, fields.bootstrap_bundle];
                self.of_the_other_profile(spiffe, "https_spiffe")?;
                Some(Profile::HttpsWeb { roots: roots? })
            }
            ProfileName::HttpsSpiffe => {
                let id = self.required(*at, "endpoint_id", fields.endpoint_id, scalar::spiffe_id);
                self.of_the_other_profile([fields.roots], "https_web")?;
                Some(Profile::HttpsSpiffe {
                    endpoint_id: id?,
                    bootstrap: bootstrap?,
                })
            }
        }
    }

    /// SECURITY: a key that would be ignored is somebody's belief about how an endpoint is proved.
    fn of_the_other_profile<const N: usize>(
        &mut self,
        fields: [Option<Field>; N],
        profile: &str,
    ) -> Option<()> {
        let mut none = Some(());
        for field in fields.into_iter().flatten() {
            let wrong = Wrong::new(format!("this belongs to the profile `{profile}`"));
            let help = format!("leave it out, or write `profile: {profile}`");
            self.note(Some(field), wrong.help(help));
            none = None;
        }
        none
    }

    fn note_second_bundle(&mut self, field: Option<Field>) {
        let wrong = Wrong::new("this trust domain has a bundle already");
        self.note(field, wrong.help("name each trust domain once"));
    }
}
