//! In which form log events leave: for the journal, as JSON or as text.
//!
//! Factor XI: events go to the journal or to stdout, structured, in the order in which they happened.
//! Where they end up is the platform's business.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, fmt, registry};

use crate::telemetry::access_log::AccessLog;
use crate::telemetry::recent::{Recent, RememberProblems};
use crate::telemetry::stdout::Output;

/// The name under which the journal files the events.
const IDENTIFIER: &str = "abukiks";

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal, a terminal or JSON lines, whichever the output is made for.
    Auto,
    /// The journal's native protocol.
    Journald,
    /// One JSON object a line, on stdout.
    Json,
    /// Lines for people, on stdout.
    Text,
}

/// Starts logging in this process. Fails when the format is `journald` and there is no journal.
pub(crate) fn start(
    format: LogFormat,
    level: LevelFilter,
    output: &Arc<Output>,
    recent: &Arc<Recent>,
) -> io::Result<AccessLog> {
    let journal = match format {
        LogFormat::Journald => Some(journal().map_err(|error| {
            let what = "LOG_FORMAT=journald, but the journal cannot be reached";
            io::Error::new(error.kind(), format!("{what}: {error}"))
        })?),
        // A sandbox can have the journal's stream and not its socket; then the stream has to do.
        LogFormat::Auto if is_journal(io::stdout()) || is_journal(io::stderr()) => journal().ok(),
        _ => None,
    };
    let is_text = match format {
        LogFormat::Auto => io::stdout().is_terminal(),
        other => other == LogFormat::Text,
    };
    let (layer, access_log) = match journal {
        Some(journal) => (journal.boxed(), AccessLog::Event),
        None if is_text => (lines(output).boxed(), AccessLog::Event),
        None => (lines(output).json().flatten_event(true).boxed(), AccessLog::Json(output.clone(), level)),
    };
    // Fails when a logger is installed already: a test may run several services in one process.
    let layers = vec![layer, RememberProblems(recent.clone()).boxed()];
    let _ = tracing::subscriber::set_global_default(registry().with(layers).with(level));
    Ok(access_log)
}

fn journal() -> io::Result<tracing_journald::Layer> {
    use tracing_journald::{Priority, PriorityMappings};
    Ok(tracing_journald::layer()?
        // Field names as journalctl(1) users type them: HTTP_STATUS, not F_HTTP_STATUS.
        .with_field_prefix(None)
        .with_syslog_identifier(IDENTIFIER.to_owned())
        // As in syslog(3): tracing-journald's own default files INFO as a notice.
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        }))
}

fn lines<S>(output: &Arc<Output>) -> fmt::Layer<S, DefaultFields, Format, Arc<Output>>
where
    S: Subscriber + for<'a> registry::LookupSpan<'a>,
{
    let colours =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    fmt::layer().with_target(false).with_ansi(colours).with_writer(output.clone())
}

/// Whether `stream` leads to the journal: systemd puts device and inode of the stream that it
/// connected into `JOURNAL_STREAM` (systemd.exec(5)). A shell behind it may have redirected it.
fn is_journal(stream: impl AsFd) -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stream = rustix::fs::fstat(stream);
    stream.is_ok_and(|stream| announced == format!("{}:{}", stream.st_dev, stream.st_ino))
}
