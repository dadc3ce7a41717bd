//! A certificate authority that issues good SVIDs, and bad ones to order. It is made with
//! rcgen alone, so that a mistake in the sidecar's own issuing does not hide one in its
//! verifying.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// The trust domain of every good certificate here.
pub(crate) const TRUST_DOMAIN: &str = "test.example";

/// The SPIFFE ID of a workload in the test's trust domain.
pub(crate) fn workload(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}")
}

/// An authority with its key.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A leaf with its key, as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// The chain and the key in DER.
    pub(crate) der: Vec<u8>,
    pub(crate) key_der: Vec<u8>,
}

/// What to put into a leaf; [`Leaf::svid`] is a good one.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    /// Also valid for `localhost` and the loopback addresses.
    pub(crate) local: bool,
    pub(crate) is_ca: bool,
    pub(crate) expired: bool,
    /// How long it is valid from now; an hour where nothing is said.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) serial: Option<u64>,
}

impl Leaf {
    pub(crate) fn svid(id: &str) -> Self {
        Self {
            uris: vec![id.to_owned()],
            local: false,
            is_ca: false,
            expired: false,
            lifetime: None,
            serial: None,
        }
    }

    /// A good one for a server that stock clients verify by `localhost`.
    pub(crate) fn local(id: &str) -> Self {
        Self {
            local: true,
            ..Self::svid(id)
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Wayleave tests");
        let uris = self
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.collect();
        if self.local {
            params.subject_alt_names.extend([
                SanType::DnsName("localhost".try_into().unwrap()),
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ]);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::hours(2);
        params.not_after = if self.expired {
            now - Duration::hours(1)
        } else {
            now + self.lifetime.unwrap_or(Duration::hours(1))
        };
        params.serial_number = self.serial.map(SerialNumber::from);
        params
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        Self::of(TRUST_DOMAIN)
    }

    /// The authority of another trust domain.
    pub(crate) fn of(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Wayleave tests CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let id = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params().signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }

    /// A revocation list, as PEM, of these serial numbers.
    pub(crate) fn revocation_list(&self, number: u64, serials: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - Duration::minutes(1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::hours(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A client's PEM files, as curl and others take them.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
}

impl Credentials {
    /// Writes a leaf and the bundle that its owner trusts into a folder of their own.
    pub(crate) fn write(directory: &Path, issued: &Issued, bundle: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let credentials = Self {
            certificate: directory.join("svid.pem"),
            key: directory.join("key.pem"),
            bundle: directory.join("bundle.pem"),
        };
        std::fs::write(&credentials.certificate, &issued.certificate).unwrap();
        std::fs::write(&credentials.key, &issued.key).unwrap();
        std::fs::write(&credentials.bundle, bundle).unwrap();
        credentials
    }
}
