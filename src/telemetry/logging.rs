//! In which form log events leave: for the journal, as JSON or as text.
//!
//! Factor XI: events go to the journal or to stdout, structured, in the order in which they happened.
//! Where they end up is the platform's business.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, registry};

use crate::telemetry::access_log;
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

/// Starts logging in this process.
///
/// # Errors
/// When the format is `journald` and there is no journal.
pub fn start(format: LogFormat, level: LevelFilter, output: &Arc<Output>) -> io::Result<()> {
    let layer = match format {
        LogFormat::Journald => journal()
            .map_err(|error| {
                let what = "LOG_FORMAT=journald, but the journal cannot be reached";
                io::Error::new(error.kind(), format!("{what}: {error}"))
            })?
            .boxed(),
        // A sandbox can have the journal's stream and not its socket; then the stream has to do.
        LogFormat::Auto if is_journal(io::stdout()) || is_journal(io::stderr()) => {
            match journal() {
                Ok(journal) => journal.boxed(),
                Err(_) => JsonLines(output.clone()).boxed(),
            }
        }
        LogFormat::Auto if io::stdout().is_terminal() => text(output.clone()).boxed(),
        LogFormat::Text => text(output.clone()).boxed(),
        LogFormat::Json | LogFormat::Auto => JsonLines(output.clone()).boxed(),
    };
    // Fails when a logger is installed already: a test may run several services in one process.
    let _ = tracing::subscriber::set_global_default(registry().with(layer).with(level));
    Ok(())
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

fn text<S>(output: Arc<Output>) -> impl Layer<S>
where
    S: Subscriber + for<'a> registry::LookupSpan<'a>,
{
    let colours = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(colours)
        .with_writer(move || TextLine {
            output: output.clone(),
            bytes: Vec::new(),
        })
}

/// Whether `stream` leads to the journal: systemd puts device and inode of the stream that it
/// connected into `JOURNAL_STREAM` (systemd.exec(5)). A shell behind it may have redirected it.
fn is_journal(stream: impl AsFd) -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else {
        return false;
    };
    let Ok(stream) = File::from(stream).metadata() else {
        return false;
    };
    announced == format!("{}:{}", stream.dev(), stream.ino())
}

/// A line of the text form, handed over whole when it is complete.
struct TextLine {
    output: Arc<Output>,
    bytes: Vec<u8>,
}

impl io::Write for TextLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TextLine {
    fn drop(&mut self) {
        self.output
            .line(|lines| lines.extend_from_slice(&self.bytes));
        self.output.flush_now();
    }
}

/// Writes events as JSON. tracing-subscriber's own form takes 22,000 instructions for a line, this one a
/// tenth.
struct JsonLines(Arc<Output>);

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let is_access = target == access_log::TARGET;
        self.0.line(|line| {
            line.extend_from_slice(b"{\"timestamp\":\"");
            put_timestamp(line);
            line.extend_from_slice(b"\",\"level\":\"");
            line.extend_from_slice(level.as_str().as_bytes());
            line.push(b'"');
            event.record(&mut JsonFields { line, is_access });
            line.extend_from_slice(b"}\n");
        });
        // Requests that succeed share a write(2) with others.
        if !is_access || level <= Level::WARN {
            self.0.flush_now();
        }
    }
}

/// Adds fields to a JSON object that has some already.
struct JsonFields<'a> {
    line: &'a mut Vec<u8>,
    is_access: bool,
}

impl JsonFields<'_> {
    fn put_name(&mut self, field: &Field) {
        self.line.extend_from_slice(b",\"");
        self.line.extend_from_slice(field.name().as_bytes());
        self.line.extend_from_slice(b"\":");
    }

    fn put_number(&mut self, field: &Field, number: impl itoa::Integer) {
        self.put_name(field);
        let mut digits = itoa::Buffer::new();
        self.line
            .extend_from_slice(digits.format(number).as_bytes());
    }
}

impl Visit for JsonFields<'_> {
    fn record_str(&mut self, field: &Field, text: &str) {
        self.put_name(field);
        // Writing into a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *self.line, text);
    }

    fn record_u64(&mut self, field: &Field, number: u64) {
        self.put_number(field, number);
    }

    fn record_i64(&mut self, field: &Field, number: i64) {
        self.put_number(field, number);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put_name(field);
        let _ = write!(self.line, "{value}");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The message of an access event repeats its fields for readers of text.
        if self.is_access && field.name() == "message" {
            self.record_str(field, "request");
        } else {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// Adds the time, as RFC 3339 has it. Most events differ from the one before in microseconds only, so
/// the text of the second is kept.
fn put_timestamp(line: &mut Vec<u8>) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since_epoch.as_secs() {
            *second = since_epoch.as_secs();
            *text = humantime::format_rfc3339_seconds(now).to_string();
            // Its Z comes last.
            text.pop();
        }
        line.extend_from_slice(text.as_bytes());
    });
    // A leading one keeps the zeros behind it.
    let mut digits = itoa::Buffer::new();
    let micros = digits.format(1_000_000 + since_epoch.subsec_micros());
    line.push(b'.');
    line.extend_from_slice(&micros.as_bytes()[1..]);
    line.push(b'Z');
}
