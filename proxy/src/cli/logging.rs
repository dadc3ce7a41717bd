//! Where the program's own words go: standard error, in the shape that was asked for.
//! Standard output belongs to the decision records.

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::LogFormat;

/// Changes the level while the program runs.
#[derive(Debug, Clone)]
pub(super) struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    /// Whether the environment says what is logged.
    overridden: bool,
}

impl LogLevel {
    /// Logs from this level on, unless the environment says otherwise.
    pub(super) fn set(&self, level: Level) {
        if self.overridden {
            return;
        }
        if let Err(error) = self.filter.reload(filter(level)) {
            tracing::error!(%error, "the log level stays as it is");
        }
    }
}

/// Starts logging. `WAYLEAVE_LOG` overrides the level, with tracing's filter syntax.
pub(super) fn start(level: Level, format: LogFormat) -> LogLevel {
    let from_environment = EnvFilter::try_from_env("WAYLEAVE_LOG").ok();
    let overridden = from_environment.is_some();
    let first = from_environment.unwrap_or_else(|| filter(level));
    let (layer, filter) = reload::Layer::new(first);
    let registry = tracing_subscriber::registry().with(layer);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A second start, as in a test, keeps the first.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            let colour = super::report::wants_color(&std::io::stderr());
            registry
                .with(lines.with_ansi(colour).without_time())
                .try_init()
        }
    };
    LogLevel { filter, overridden }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(level.as_str().to_lowercase())
}
