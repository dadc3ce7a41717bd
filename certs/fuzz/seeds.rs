//! Writes a first corpus: one good input of each kind, so that fuzzing begins within the
//! formats rather than before them.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use wayleave_certs::bundle::BundleDocument;
use wayleave_certs::ca::{CertificateAuthority, SvidRequest};
use wayleave_certs::workload_api::{X509Context, X509Svid};
use wayleave_certs::{Svid, TrustBundle};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ID: &str = "spiffe://shop.example/ns/web";

fn main() -> Result<(), Box<dyn Error>> {
    let now = SystemTime::now();
    let trust_domain = "shop.example".parse()?;
    let ca = CertificateAuthority::create(&trust_domain, 365 * DAY, now)?;
    let issued = ca.issue(&SvidRequest::new(ID.parse()?, DAY), now)?;
    let svid = Svid::from_pem(issued.certificate_pem.as_bytes(), issued.key_pem.as_bytes())?;
    let leaf: Vec<u8> = svid.chain().iter().flat_map(|der| der.to_vec()).collect();
    let bundle = TrustBundle::from_der(trust_domain, vec![ca.certificate().clone()])?;
    let document = BundleDocument {
        bundle: bundle.with_sequence(Some(1)),
        refresh_hint: Some(DAY),
    };
    let context = X509Context {
        svids: vec![X509Svid {
            spiffe_id: ID.to_owned(),
            x509_svid: leaf.clone(),
            x509_svid_key: vec![1, 2, 3],
            bundle: ca.certificate().to_vec(),
            hint: "web".to_owned(),
        }],
        ..X509Context::default()
    };
    write("spiffe_id", ID.as_bytes())?;
    write("svid_der", &leaf)?;
    write(
        "svid_pem",
        (issued.certificate_pem + &issued.key_pem).as_bytes(),
    )?;
    write("bundle_jwks", document.to_jwks().as_bytes())?;
    write("revocation_list", &revocation_list(&ca)?)?;
    write("workload_api", &context.encode())?;
    Ok(())
}

fn revocation_list(ca: &CertificateAuthority) -> Result<Vec<u8>, Box<dyn Error>> {
    let now = time::OffsetDateTime::now_utc();
    let key = KeyPair::from_pem(&ca.key_pem())?;
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(77),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::days(1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(&Issuer::new(params, key))?.der().to_vec())
}

fn write(target: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("seed"), bytes)
}
