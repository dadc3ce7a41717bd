//! The identity from files: what is refused and in which words, and how changes are noticed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use support::{Chain, Root, expires_in, pem};
use tempfile::TempDir;
use wayleave_certs::IdentityReader;
use wayleave_certs::bundle::BundleDocument;
use wayleave_certs::source::files::{FileError, FilesConfig, FilesSource, WatchTiming};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

fn chain_pem(chain: &Chain) -> String {
    let ders: Vec<&[u8]> = chain.certificates.iter().map(|der| der.as_ref()).collect();
    pem("CERTIFICATE", &ders)
}

fn root_pem(root: &Root) -> String {
    pem("CERTIFICATE", &[root.certificate.as_ref()])
}

struct Files {
    dir: TempDir,
}

impl Files {
    fn new(root: &Root, chain: &Chain) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write("key.pem", &chain.key.serialize_pem());
        files.write("svid.pem", &chain_pem(chain));
        files.write("bundle.pem", &root_pem(root));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn config(&self) -> FilesConfig {
        FilesConfig::new(
            self.path("svid.pem"),
            self.path("key.pem"),
            self.path("bundle.pem"),
        )
    }

    fn load(&self) -> Result<FilesSource, FileError> {
        FilesSource::load(self.config(), SystemTime::now())
    }

    /// What is wrong, without the directory's name.
    fn error(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn reads_an_identity() {
    let root = Root::new("shop.example");
    let intermediate = root.intermediate_with(|_| {});
    let cart = intermediate.issue(CART).below(&intermediate);
    let files = Files::new(&root, &cart);
    let identity = files.load().unwrap().reader().current().unwrap();
    assert_eq!(identity.svid().id().as_str(), CART);
    assert_eq!(identity.svid().chain(), cart.certificates);
    assert_eq!(identity.bundles().len(), 1);
    assert_eq!(identity.generation(), 1);
}

#[test]
fn says_which_file_is_wrong_and_what_to_do() {
    let root = Root::new("shop.example");
    let cart = root.issue(CART);
    let other = root.issue("spiffe://shop.example/ns/web/sa/other");
    let ed25519 =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let leaf = chain_pem(&cart);
    let cut = &leaf[..leaf.len() / 2];
    let no_uri = root.issue_with(CART, |p| p.subject_alt_names.clear());
    let began = Instant::now();
    let expired = root.issue_with(CART, |p| expires_in(p, -1));
    let table: &[(&str, &str, &str)] = &[
        (
            "svid.pem",
            "",
            "svid.pem: the certificate cannot be read: it is empty; expected `-----BEGIN CERTIFICATE-----`",
        ),
        (
            "svid.pem",
            "hello",
            "svid.pem: the certificate cannot be read: it is not PEM; expected",
        ),
        (
            "svid.pem",
            &cart.key.serialize_pem(),
            "svid.pem: the certificate cannot be read: it holds `PRIVATE KEY`; expected `CERTIFICATE`",
        ),
        (
            "svid.pem",
            cut,
            "svid.pem: the certificate cannot be read: its PEM is broken",
        ),
        (
            "svid.pem",
            &pem("CERTIFICATE", &[b"junk"]),
            "svid.pem: certificate is not valid DER",
        ),
        (
            "svid.pem",
            &root_pem(&root),
            "svid.pem: certificate's SPIFFE ID `spiffe://shop.example` has no path",
        ),
        (
            "key.pem",
            "",
            "key.pem: the private key cannot be read: it is empty; expected `-----BEGIN PRIVATE KEY-----`",
        ),
        (
            "key.pem",
            ed25519,
            "key.pem: the private key cannot be read: the private key is encrypted; write it unencrypted",
        ),
        (
            "key.pem",
            &leaf,
            "key.pem: the private key cannot be read: it holds `CERTIFICATE`; expected `PRIVATE KEY`",
        ),
        (
            "key.pem",
            &pem("PRIVATE KEY", &[b"junk"]),
            "key.pem: the private key cannot be used",
        ),
        (
            "key.pem",
            &other.key.serialize_pem(),
            "key.pem: the private key does not belong to the certificate of `spiffe://shop.example/ns/web/sa/cart`, which is in svid.pem; write both again",
        ),
        (
            "bundle.pem",
            "",
            "bundle.pem: the trust bundle cannot be used: it is empty",
        ),
        (
            "bundle.pem",
            &leaf,
            "bundle.pem: the trust bundle cannot be used: authority 1 (CN=leaf) is not a CA certificate",
        ),
        (
            "bundle.pem",
            &(root_pem(&root) + &leaf),
            "bundle.pem: the trust bundle cannot be used: authority 2 (CN=leaf) is not a CA",
        ),
        (
            "bundle.pem",
            &(root_pem(&root) + &root_pem(&Root::new("partner.example"))),
            "bundle.pem: the trust bundle cannot be used: authority 2 says that it belongs to `spiffe://partner.example`, not to trust domain `shop.example`; bundles of several trust domains are not pooled",
        ),
        (
            "bundle.pem",
            &root_pem(&Root::new("shop.example")),
            "bundle.pem: the SVID in svid.pem is not one of this trust bundle",
        ),
    ];
    for (name, text, expected) in table {
        let files = Files::new(&root, &cart);
        files.write(name, text);
        let error = files.error();
        assert!(error.starts_with(expected), "{error}\nexpected {expected}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = Files::new(&root, &no_uri).error();
    assert!(
        error.starts_with("svid.pem: certificate has no URI SAN"),
        "{error}"
    );
    let error = Files::new(&root, &expired).error();
    let seconds = error
        .strip_prefix("svid.pem: the SVID of `spiffe://shop.example/ns/web/sa/cart` expired ")
        .and_then(|rest| rest.split_once(" s ago; have the issuer renew it"))
        .and_then(|(seconds, _)| seconds.parse().ok());
    let slow = began.elapsed().as_secs() + 1;
    assert!(
        seconds.is_some_and(|seconds: u64| (3600..=3600 + slow).contains(&seconds)),
        "{error}"
    );
}

#[test]
fn says_when_a_file_is_missing_or_may_not_be_read() {
    let root = Root::new("shop.example");
    let files = Files::new(&root, &root.issue(CART));
    fs::remove_file(files.path("key.pem")).unwrap();
    assert!(
        files
            .error()
            .starts_with("key.pem: the private key file does not exist")
    );

    fs::create_dir(files.path("key.pem")).unwrap();
    assert!(
        files
            .error()
            .starts_with("key.pem: the private key file cannot be read: is a directory")
    );

    // Root may read everything, so only an ordinary user sees this refused.
    fs::set_permissions(files.path("svid.pem"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(files.path("svid.pem")).is_err() {
        assert!(
            files
                .error()
                .starts_with("svid.pem: the SVID file may not be read by this user")
        );
    }
}

#[test]
fn keeps_federated_bundles_apart() {
    let shop = Root::new("shop.example");
    let partner = Root::new("partner.example");
    let files = Files::new(&shop, &shop.issue(CART));
    files.write("partner.pem", &root_pem(&partner));
    let mut config = files.config();
    let name = partner.trust_domain.clone();
    config
        .federated
        .insert(name.clone(), files.path("partner.pem"));
    let source = FilesSource::load(config.clone(), SystemTime::now()).unwrap();
    let identity = source.reader().current().unwrap();
    assert_eq!(identity.bundles().len(), 2);
    let authorities = identity.bundles().of(&name).unwrap().authorities();
    assert_eq!(authorities[0].certificate(), &partner.certificate);

    config
        .federated
        .insert(shop.trust_domain.clone(), files.path("bundle.pem"));
    let error = FilesSource::load(config, SystemTime::now()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`shop.example` is the SVID's own"),
        "{error}"
    );
}

#[test]
fn reads_bundles_in_the_spiffe_format_and_its_map_form() {
    let (shop, partner) = (Root::new("shop.example"), Root::new("partner.example"));
    let jwks = |root: &Root| {
        let document = BundleDocument {
            bundle: root.bundle(),
            refresh_hint: None,
        };
        document.to_jwks()
    };
    let map = |entries: &[(&Root, &str)]| {
        let entry = |(root, text): &(&Root, &str)| format!("\"{}\": {text}", root.trust_domain);
        let entries: Vec<_> = entries.iter().map(entry).collect();
        format!("{{\"trust_domains\": {{{}}}}}", entries.join(", "))
    };
    let files = Files::new(&shop, &shop.issue(CART));
    let trusted = |files: &Files| {
        files
            .load()
            .unwrap()
            .reader()
            .current()
            .unwrap()
            .bundles()
            .len()
    };
    files.write("bundle.pem", &jwks(&shop));
    assert_eq!(trusted(&files), 1);
    files.write(
        "bundle.pem",
        &map(&[(&partner, &jwks(&partner)), (&shop, &jwks(&shop))]),
    );
    assert_eq!(trusted(&files), 2);
    files.write("bundle.pem", &map(&[(&partner, &jwks(&partner))]));
    assert!(
        files
            .error()
            .ends_with("it has no bundle for trust domain `shop.example`")
    );

    files.write("bundle.pem", &root_pem(&shop));
    let forged = Root::new("shop.example");
    files.write(
        "partner.json",
        &map(&[(&partner, &jwks(&partner)), (&forged, &jwks(&forged))]),
    );
    let mut config = files.config();
    config
        .federated
        .insert(partner.trust_domain.clone(), files.path("partner.json"));
    let source = FilesSource::load(config, SystemTime::now()).unwrap();
    let identity = source.reader().current().unwrap();
    let own = identity.bundles().of(&shop.trust_domain).unwrap();
    assert_eq!(own.authorities()[0].certificate(), &shop.certificate);
}

#[test]
fn publishes_only_what_is_new_and_keeps_the_last_good_identity() {
    let root = Root::new("shop.example");
    let files = Files::new(&root, &root.issue(CART));
    let mut source = files.load().unwrap();
    let reader = source.reader();
    assert!(!source.reload(SystemTime::now()).unwrap());
    assert_eq!(reader.current().unwrap().generation(), 1);

    let next = root.issue(CART);
    files.write("svid.pem", &chain_pem(&next));
    let error = source.reload(SystemTime::now()).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(reader.current().unwrap().generation(), 1);

    files.write("key.pem", &next.key.serialize_pem());
    assert!(source.reload(SystemTime::now()).unwrap());
    let identity = reader.current().unwrap();
    assert_eq!(identity.svid().chain(), next.certificates);
    assert_eq!((identity.generation(), identity.trust_generation()), (2, 1));
}

/// Waits until the reader's identity shows this chain.
async fn shows(reader: &mut IdentityReader, chain: &Chain) {
    let wait = async {
        while reader.current().unwrap().svid().chain() != chain.certificates {
            reader.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
}

fn timing(poll: Duration) -> WatchTiming {
    WatchTiming {
        quiet: Duration::from_millis(20),
        retry: Duration::from_millis(50),
        poll,
        ..WatchTiming::default()
    }
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn follows_the_swapped_data_link_of_csi_driver_spiffe() {
    let root = Root::new("shop.example");
    let (first, second, third) = (root.issue(CART), root.issue(CART), root.issue(CART));
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let publish = |version: &str, chain: &Chain| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("tls.crt"), chain_pem(chain)).unwrap();
        fs::write(at(version).join("tls.key"), chain.key.serialize_pem()).unwrap();
        fs::write(at(version).join("ca.crt"), root_pem(&root)).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    publish("..1", &first);
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let config = FilesConfig::new(at("tls.crt"), at("tls.key"), at("ca.crt"));
    let source = FilesSource::load(config, SystemTime::now()).unwrap();
    let mut reader = source.reader();
    let watch = tokio::spawn(source.watch_with(timing(NEVER)));
    tokio::time::sleep(Duration::from_millis(50)).await;

    publish("..2", &second);
    shows(&mut reader, &second).await;
    fs::remove_dir_all(at("..1")).unwrap();
    publish("..3", &third);
    shows(&mut reader, &third).await;
    watch.abort();
}

#[tokio::test]
async fn waits_for_files_that_are_out_of_step() {
    let root = Root::new("shop.example");
    let files = Files::new(&root, &root.issue(CART));
    let source = files.load().unwrap();
    let mut reader = source.reader();
    let watch = tokio::spawn(source.watch_with(timing(NEVER)));
    tokio::time::sleep(Duration::from_millis(50)).await;

    let next = root.issue(CART);
    let text = chain_pem(&next);
    files.write("svid.pem", &text[..text.len() / 2]);
    tokio::time::sleep(Duration::from_millis(60)).await;
    files.write("svid.pem", &text);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(reader.current().unwrap().generation(), 1);
    files.write("key.pem", &next.key.serialize_pem());

    shows(&mut reader, &next).await;
    assert_eq!(reader.current().unwrap().generation(), 2);
    watch.abort();
}

#[tokio::test]
async fn polls_where_events_do_not_reach() {
    let root = Root::new("shop.example");
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("certs");
    let fill = |chain: &Chain| {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("svid.pem"), chain_pem(chain)).unwrap();
        fs::write(dir.join("key.pem"), chain.key.serialize_pem()).unwrap();
        fs::write(dir.join("bundle.pem"), root_pem(&root)).unwrap();
    };
    fill(&root.issue(CART));
    let at = |name: &str| dir.join(name);
    let config = FilesConfig::new(at("svid.pem"), at("key.pem"), at("bundle.pem"));
    let source = FilesSource::load(config, SystemTime::now()).unwrap();
    let mut reader = source.reader();
    let watch = tokio::spawn(source.watch_with(timing(Duration::from_millis(100))));
    tokio::time::sleep(Duration::from_millis(50)).await;

    fs::remove_dir_all(&dir).unwrap();
    let next = root.issue(CART);
    fill(&next);
    shows(&mut reader, &next).await;
    watch.abort();
}

#[tokio::test]
async fn a_failure_shows_in_the_status_and_keeps_the_identity() {
    let root = Root::new("shop.example");
    let files = Files::new(&root, &root.issue(CART));
    let source = files.load().unwrap();
    let reader = source.reader();
    let watch = tokio::spawn(source.watch_with(timing(Duration::from_millis(50))));
    files.write("bundle.pem", "hello");
    let failed = async {
        while reader.status().failures == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed)
        .await
        .unwrap();
    let status = reader.status();
    assert!(
        status
            .last_failure
            .unwrap()
            .message
            .contains("it is not PEM")
    );
    assert_eq!(reader.current().unwrap().generation(), 1);

    files.write("bundle.pem", &root_pem(&root));
    let recovered = async {
        while reader.status().last_failure.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recovered)
        .await
        .unwrap();
    watch.abort();
}
