//! The starter policies of `wayleave dev`: written once, then the user's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wayleave_certs::source::dev::{DevOptions, DevWorkload};
use wayleave_identity::SpiffeIdError;

/// The service that stands behind the dev proxy, as policies name it.
pub(super) const SERVICE: &str = "app";

/// The trust domain of the dev certificates.
const TRUST_DOMAIN: &str = "dev.wayleave";
/// The sidecar, and then the sample callers.
const WORKLOADS: [&str; 3] = ["sidecar", "frontend", "agent"];

const POLICIES: &str = include_str!("starter.cedar");

/// Whom the dev CA issues SVIDs to: `spiffe://dev.wayleave/ns/default/sa/NAME`.
///
/// # Errors
/// Never for the names above; the parser has the last word.
pub(super) fn workloads() -> Result<DevOptions, SpiffeIdError> {
    let [sidecar, frontend, agent] = WORKLOADS.map(|name| {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}");
        id.parse().map(|id| DevWorkload::new(name, id))
    });
    let sidecar = sidecar?;
    let trust_domain = sidecar.id.trust_domain().clone();
    Ok(DevOptions {
        trust_domain,
        sidecar,
        callers: vec![frontend?, agent?],
    })
}

/// Makes `policies/starter.cedar` unless the folder is there already; answers with the folder.
///
/// # Errors
/// When the folder or the file cannot be made.
pub(super) fn write(dir: &Path) -> io::Result<PathBuf> {
    let folder = dir.join("policies");
    match fs::create_dir(&folder) {
        Ok(()) => fs::write(folder.join("starter.cedar"), POLICIES)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_policies_load() {
        let dir = tempfile::tempdir().unwrap();
        let folder = write(dir.path()).unwrap();
        let engine = crate::policies::PolicyFiles::new(vec![folder])
            .load()
            .unwrap();
        assert_eq!(engine.policies().len(), 4);
    }

    #[test]
    fn an_edited_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = write(dir.path()).unwrap();
        fs::remove_file(folder.join("starter.cedar")).unwrap();
        write(dir.path()).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
