//! Where the program's own words go: standard error, in the shape that was asked for.
//! Standard output belongs to the decision records.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging. `WAYLEAVE_LOG` overrides the level, with tracing's filter syntax.
pub(super) fn start(level: tracing::Level, format: LogFormat) {
    let filter = EnvFilter::try_from_env("WAYLEAVE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(level.as_str().to_lowercase()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start, as in a test, keeps the first.
    let _ = match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_target(false)
            .try_init(),
        LogFormat::Text => builder
            .with_ansi(super::report::wants_color(&std::io::stderr()))
            .with_target(false)
            .without_time()
            .try_init(),
    };
}
