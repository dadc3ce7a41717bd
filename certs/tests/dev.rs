//! The development directory: what is in it, what is reused, and what is left alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wayleave_certs::source::dev::{
    CA_LIFETIME, DevDirectory, DevError, DevOptions, DevWorkload, SVID_LIFETIME,
};
use wayleave_certs::{Svid, TrustBundle};

fn workload(name: &str) -> DevWorkload {
    let id = format!("spiffe://dev.wayleave/ns/default/sa/{name}");
    DevWorkload::new(name, id.parse().unwrap())
}

fn options() -> DevOptions {
    DevOptions {
        trust_domain: "dev.wayleave".parse().unwrap(),
        sidecar: workload("sidecar"),
        callers: vec![workload("frontend"), workload("agent")],
    }
}

struct Place {
    _parent: tempfile::TempDir,
    dir: PathBuf,
}

fn place() -> Place {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("wayleave");
    Place {
        _parent: parent,
        dir,
    }
}

/// Whole seconds, as certificates have them.
fn now() -> SystemTime {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.as_secs())
}

fn open(dir: &Path) -> Result<DevDirectory, DevError> {
    DevDirectory::open(dir, options(), now())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn read_all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    files(dir).into_iter().map(read).collect()
}

#[test]
fn makes_a_private_directory_with_an_svid_for_each_workload() {
    let place = place();
    let dev = open(&place.dir).unwrap();
    for name in ["sidecar", "frontend", "agent"] {
        let folder = dev.svid_directory(name);
        let svid = Svid::from_pem(
            &fs::read(folder.join("svid.pem")).unwrap(),
            &fs::read(folder.join("key.pem")).unwrap(),
        )
        .unwrap();
        assert_eq!(svid.id(), &workload(name).id);
        let bundle = fs::read(folder.join("bundle.pem")).unwrap();
        assert_eq!(bundle, fs::read(dev.bundle_path()).unwrap());
        assert_eq!(mode(&folder), 0o700);
    }
    assert_eq!(mode(&place.dir), 0o700);
    assert!(files(&place.dir).iter().all(|file| mode(file) == 0o600));
    let identity = dev.reader().current().unwrap();
    assert_eq!(identity.svid().id(), &workload("sidecar").id);
    assert_eq!(identity.generation(), 1);
}

#[test]
fn reuses_what_is_still_valid() {
    let place = place();
    drop(open(&place.dir).unwrap());
    let before = read_all(&place.dir);
    drop(open(&place.dir).unwrap());
    assert_eq!(read_all(&place.dir), before);
}

#[test]
fn renews_svids_at_two_thirds_of_their_life() {
    let place = place();
    let start = now();
    let mut dev = DevDirectory::open(&place.dir, options(), start).unwrap();
    let before = dev.reader().current().unwrap();

    let next = dev.renew(start).unwrap();
    assert!(next > start + SVID_LIFETIME / 2 && next < start + SVID_LIFETIME);
    assert_eq!(
        dev.reader().current().unwrap().generation(),
        before.generation()
    );

    dev.renew(next).unwrap();
    let after = dev.reader().current().unwrap();
    assert!(after.generation() > before.generation());
    assert!(after.svid().not_after() > before.svid().not_after());
    assert_ne!(after.svid().serial_hex(), before.svid().serial_hex());
}

#[test]
fn a_renewed_ca_leaves_the_old_one_trusted() {
    let place = place();
    let start = now();
    let mut dev = DevDirectory::open(&place.dir, options(), start).unwrap();
    let later = start + CA_LIFETIME * 2 / 3 + SVID_LIFETIME;

    dev.renew(later).unwrap();

    let text = fs::read(dev.bundle_path()).unwrap();
    let bundle = TrustBundle::from_pem(options().trust_domain, &text).unwrap();
    assert_eq!(bundle.authorities().len(), 2);
    let identity = dev.reader().current().unwrap();
    let own = identity.bundles().of(&options().trust_domain).unwrap();
    assert_eq!(own.authorities().len(), 2);
}

#[test]
fn starts_afresh_when_the_ca_has_expired() {
    let place = place();
    let past = now() - CA_LIFETIME * 2;
    drop(DevDirectory::open(&place.dir, options(), past).unwrap());
    let dev = open(&place.dir).unwrap();
    assert!(dev.reader().is_usable(now()));
}

#[test]
fn leaves_a_foreign_file_alone() {
    let table = [
        "bundle.pem",
        "ca-key.pem",
        "svids/frontend/svid.pem",
        "svids/agent/key.pem",
    ];
    for name in table {
        let place = place();
        let path = place.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&path, "mine").unwrap();
        let error = open(&place.dir).unwrap_err();
        assert!(
            matches!(&error, DevError::Foreign(at) if *at == path),
            "{name}: {error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}

#[test]
fn leaves_a_file_alone_that_was_changed_by_somebody_else() {
    let place = place();
    drop(open(&place.dir).unwrap());
    let path = place.dir.join("svids/frontend/svid.pem");
    let mut text = fs::read(&path).unwrap();
    text.push(b'\n');
    fs::write(&path, &text).unwrap();
    let error = open(&place.dir).unwrap_err();
    assert!(
        matches!(&error, DevError::Foreign(at) if *at == path),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), text);
}

#[test]
fn does_not_write_through_symbolic_links() {
    let place = place();
    let elsewhere = place.dir.with_file_name("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &place.dir).unwrap();
    let error = open(&place.dir).unwrap_err();
    assert!(matches!(error, DevError::SymbolicLink(_)), "{error}");

    fs::remove_file(&place.dir).unwrap();
    drop(open(&place.dir).unwrap());
    for name in [
        "svids",
        "svids/agent",
        "svids/agent/key.pem",
        "bundle.pem",
        "written.sha256",
    ] {
        let (path, aside) = (place.dir.join(name), place.dir.with_file_name("aside"));
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        open(&place.dir).unwrap_err();
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    open(&place.dir).unwrap();
}

#[test]
fn closes_what_was_opened_to_others() {
    let place = place();
    drop(open(&place.dir).unwrap());
    let key = place.dir.join("svids/agent/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o755)).unwrap();
    drop(open(&place.dir).unwrap());
    assert_eq!((mode(&key), mode(&place.dir)), (0o600, 0o700));
}

#[test]
fn refuses_an_open_directory_that_holds_other_files() {
    let place = place();
    fs::create_dir(&place.dir).unwrap();
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.dir.join("notes"), "").unwrap();
    let error = open(&place.dir).unwrap_err();
    assert!(
        matches!(error, DevError::OpenDirectory { mode: 0o755, .. }),
        "{error}"
    );
    assert_eq!(mode(&place.dir), 0o755);
}

#[test]
fn refuses_what_is_not_a_directory_of_this_ca() {
    let place = place();
    fs::write(&place.dir, "").unwrap();
    assert!(matches!(open(&place.dir), Err(DevError::NotADirectory(_))));
    fs::remove_file(&place.dir).unwrap();
    drop(open(&place.dir).unwrap());

    let mut other = options();
    other.trust_domain = "other.example".parse().unwrap();
    let error = DevDirectory::open(&place.dir, other, now()).unwrap_err();
    assert!(
        matches!(error, DevError::OtherTrustDomain { .. }),
        "{error}"
    );

    fs::write(place.dir.join("written.sha256"), "notes\n").unwrap();
    assert!(matches!(
        open(&place.dir),
        Err(DevError::Manifest { line: 1, .. })
    ));
}

#[test]
fn refuses_a_name_that_would_leave_the_directory() {
    let place = place();
    let mut options = options();
    options.callers[0].name = "../frontend".to_owned();
    let error = DevDirectory::open(&place.dir, options, now()).unwrap_err();
    assert!(matches!(error, DevError::Name(_)), "{error}");
}

#[test]
fn makes_a_pair_anew_that_a_crash_left_half_written() {
    let place = place();
    drop(open(&place.dir).unwrap());
    fs::remove_file(place.dir.join("svids/agent/svid.pem")).unwrap();
    fs::remove_file(place.dir.join("svids/sidecar/key.pem")).unwrap();
    let dev = open(&place.dir).unwrap();
    assert!(place.dir.join("svids/agent/svid.pem").exists());
    assert!(dev.reader().is_usable(now()));
}
