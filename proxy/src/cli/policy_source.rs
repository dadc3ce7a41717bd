//! Where the policy commands take their policies from: a configuration, or files.

use std::path::PathBuf;
use std::process::ExitCode;

use miette::Diagnostic;
use wayleave_authz::Engine;

use super::report;
use crate::config::{self, Config, ConfigErrors};
use crate::policies::PolicyFiles;

/// The policies that a command speaks of.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct PolicySource {
    /// The sidecar's configuration file; its policies and its first listener's service are taken
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Policy files and folders; may be given several times
    #[arg(short, long, value_name = "PATH")]
    policies: Vec<PathBuf>,
}

impl PolicySource {
    /// Loads the policies, and names the service of the configuration's first listener.
    ///
    /// # Errors
    /// Tells every problem, and answers with the exit status for it.
    pub(super) fn load(&self) -> Result<(Engine, Option<String>), ExitCode> {
        let (paths, service) = match &self.config {
            Some(path) => {
                let config = config::load(path).map_err(|errors| tell(&errors))?;
                let service = service(&config);
                (config.policies.paths, service)
            }
            None => (self.policies.clone(), None),
        };
        Ok((engine(paths)?, service))
    }
}

fn service(config: &Config) -> Option<String> {
    config
        .inbound
        .first()
        .map(|inbound| inbound.service.to_string())
}

fn tell(errors: &ConfigErrors) -> ExitCode {
    report::problems(
        errors
            .problems()
            .iter()
            .map(|problem| problem as &dyn Diagnostic),
    )
}

/// Loads policies from files and folders.
///
/// # Errors
/// Tells every problem, and answers with the exit status for it.
pub(super) fn engine(paths: Vec<PathBuf>) -> Result<Engine, ExitCode> {
    PolicyFiles::new(paths).load().map_err(|errors| {
        report::problems(
            errors
                .problems()
                .iter()
                .map(|problem| problem as &dyn Diagnostic),
        )
    })
}
