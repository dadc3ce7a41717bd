//! The proxies that this is compared with: where they are, which versions, and how they are
//! told to do the same job. Their configurations are in `benches/peers`, to be argued with.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::papers::Papers;
use crate::process::find_program;

/// A proxy that others have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Envoy,
    Nginx,
    Haproxy,
}

/// Whether a peer writes of each request. Only Envoy's configuration has a place for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    File,
}

/// A peer that is there.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) peer: Peer,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// How many files and connections the peers are allowed.
const FILES: &str = "30000";
const CONNECTIONS: &str = "12000";

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Envoy, Self::Nginx, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    fn version_flag(self) -> &'static str {
        match self {
            Self::Envoy => "--version",
            Self::Nginx | Self::Haproxy => "-v",
        }
    }

    fn template(self) -> (&'static str, &'static str) {
        match self {
            Self::Envoy => ("envoy.yaml", include_str!("../peers/envoy.yaml")),
            Self::Nginx => ("nginx.conf", include_str!("../peers/nginx.conf")),
            Self::Haproxy => ("haproxy.cfg", include_str!("../peers/haproxy.cfg")),
        }
    }

    /// Looks on the path, where daemons are, and where `benches/peers/install.sh` puts things.
    pub(crate) fn find(self) -> Option<Found> {
        let others = [PathBuf::from("/usr/sbin")].into_iter().chain(installed());
        let program = find_program(self.program(), others)?;
        let version = version(&program, self.version_flag())?;
        Some(Found {
            peer: self,
            program,
            version,
        })
    }
}

/// Where `install.sh` puts what Debian does not have.
fn installed() -> Option<PathBuf> {
    let folder = std::env::var_os("WAYLEAVE_PEERS").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/wayleave-peers"));
    folder.or_else(home)
}

/// The first thing that looks like `1.22.1` in what a program says of itself.
fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let number = |word: &&str| {
        word.split('.').count() == 3 && word.split('.').all(|part| part.parse::<u32>().is_ok())
    };
    told.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(number)
        .map(str::to_owned)
}

impl Found {
    /// Writes the peer's configuration; answers with the arguments that start it.
    pub(crate) fn configure(
        &self,
        papers: &Papers,
        log: AccessLog,
        listen: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Vec<OsString>> {
        let log = match log {
            AccessLog::Off => "[]",
            AccessLog::File => concat!("\n", include_str!("../peers/envoy-access-log.yaml")),
        };
        let (name, template) = self.peer.template();
        let directory = papers.path().to_str().context("the folder is not UTF-8")?;
        let config = template
            .replace("@ACCESS_LOG@", log)
            .replace("@PORT@", &listen.port().to_string())
            .replace("@UPSTREAM_PORT@", &upstream.port().to_string())
            .replace("@PAPERS@", directory)
            .replace("@DIRECTORY@", directory)
            .replace("@FILES@", FILES)
            .replace("@CONNECTIONS@", CONNECTIONS);
        let path = papers.path().join(name);
        std::fs::write(&path, config)?;
        let path = path.to_str().context("the folder is not UTF-8")?;
        let arguments: &[&str] = match self.peer {
            Peer::Envoy => &[
                "-c",
                path,
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
            ],
            Peer::Nginx => &["-p", directory, "-c", path, "-e", "stderr"],
            Peer::Haproxy => &["-db", "-q", "-f", path],
        };
        Ok(arguments.iter().map(OsString::from).collect())
    }
}
