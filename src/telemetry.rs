//! Logs: which events there are, and in which form they leave.
//!
//! Factor XI: events go to the journal or to stdout, structured, in the order in which they
//! happened. Where they end up is the platform's business.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::{Method, StatusCode};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{self, LookupSpan};

use crate::config::{Config, LogFormat, LogLevel};
use crate::correlation::{RequestId, TraceParent};
use crate::output::Output;

/// The name under which the journal files the events.
const IDENTIFIER: &str = "abukiks";

/// Writes one event for each request.
#[derive(Debug)]
pub struct AccessLog {
    form: Form,
    /// The least severe level that is written.
    least: LevelFilter,
    release: String,
    release_in_json: String,
}

#[derive(Debug)]
enum Form {
    /// As JSON by hand, which costs a fifth of what a general serializer of events does.
    Json(Arc<Output>),
    /// As any other event.
    Event,
}

/// What is logged of a request.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    /// `None` when it could not be read.
    pub(crate) method: Option<&'a Method>,
    pub(crate) path: &'a str,
    pub(crate) status: StatusCode,
    /// Of the answer's content.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) duration: Duration,
    pub(crate) visit: Option<i64>,
    /// `None` on a unix socket.
    pub(crate) client: Option<&'a str>,
    pub(crate) request_id: &'a RequestId,
    pub(crate) trace: Option<&'a TraceParent>,
}

impl Access<'_> {
    fn duration_us(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Starts logging as `config` says.
///
/// # Errors
/// When `LOG_FORMAT=journald` and there is no journal.
pub fn start(config: &Config, output: &Arc<Output>) -> io::Result<AccessLog> {
    let level = match config.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let release = config.release_id();
    let format = match config.log_format {
        LogFormat::Auto if is_journal(io::stdout()) || is_journal(io::stderr()) => {
            LogFormat::Journald
        }
        LogFormat::Auto if io::stdout().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        other => other,
    };
    let lines = {
        let output = output.clone();
        move || Line {
            output: output.clone(),
            bytes: Vec::new(),
        }
    };
    let journal = match (format, config.log_format) {
        (LogFormat::Journald, LogFormat::Journald) => {
            Some(tracing_journald::layer().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("LOG_FORMAT=journald, but the journal cannot be reached: {error}"),
                )
            })?)
        }
        // A sandbox can have the journal's stream and not its socket; then the stream has to do.
        (LogFormat::Journald, _) => tracing_journald::layer().ok(),
        _ => None,
    };
    let (layer, form) = match (format, journal) {
        (_, Some(journal)) => {
            let journal = journal
                // Field names as journalctl(1) users type them: HTTP_STATUS, not F_HTTP_STATUS.
                .with_field_prefix(None)
                .with_syslog_identifier(IDENTIFIER.to_owned())
                .with_priority_mappings(journal_priorities());
            (journal.boxed(), Form::Event)
        }
        (LogFormat::Text, _) => {
            let colours = io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            let text = tracing_subscriber::fmt::layer()
                .with_target(false)
                .with_ansi(colours)
                .with_writer(lines);
            (text.boxed(), Form::Event)
        }
        _ => {
            let json = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_writer(lines);
            (json.boxed(), Form::Json(output.clone()))
        }
    };
    // Fails when a logger is installed already: a test may run several services in one process.
    let _ = tracing::subscriber::set_global_default(NoSpans.with(layer).with(level));
    let least = if config.access_log.0 {
        level
    } else {
        LevelFilter::OFF
    };
    Ok(AccessLog {
        form,
        least,
        release_in_json: serde_json::Value::from(&*release).to_string(),
        release,
    })
}

/// What the layers stand on. There are events here and no spans, for which a
/// [`tracing_subscriber::Registry`] would set a table of 32 KiB up.
struct NoSpans;

impl Subscriber for NoSpans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl<'a> LookupSpan<'a> for NoSpans {
    type Data = registry::Data<'a>;

    fn span_data(&'a self, _: &span::Id) -> Option<Self::Data> {
        None
    }
}

/// syslog(3) priorities: an error is an error, and what the service merely does is informational
/// (tracing-journald's own default files it as a notice).
fn journal_priorities() -> tracing_journald::PriorityMappings {
    use tracing_journald::{Priority, PriorityMappings};
    PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
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

/// A line of the `fmt` layers, handed over whole when it is complete.
struct Line {
    output: Arc<Output>,
    bytes: Vec<u8>,
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.output
            .line(|lines| lines.extend_from_slice(&self.bytes));
        self.output.hurry();
    }
}

impl AccessLog {
    /// Logs one request. A refusal for want of Redis is a warning; its cause is logged where it
    /// arises, once.
    pub(crate) fn write(&self, access: &Access<'_>) {
        let level = if access.status.is_server_error() {
            Level::WARN
        } else {
            Level::INFO
        };
        if self.least < level {
            return;
        }
        match &self.form {
            Form::Json(output) => {
                output.line(|line| self.write_json(line, level, access));
                if level == Level::WARN {
                    output.hurry();
                }
            }
            Form::Event => self.emit(level, access),
        }
    }

    fn emit(&self, level: Level, access: &Access<'_>) {
        let Access {
            method,
            path,
            status,
            bytes,
            duration: _,
            visit,
            client,
            request_id,
            trace,
        } = access;
        let path = &*printable(path);
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    http_method = method.map(Method::as_str),
                    http_path = path,
                    http_status = status.as_u16(),
                    http_bytes = bytes,
                    duration_us = access.duration_us(),
                    visit,
                    client,
                    request_id = request_id.as_str(),
                    trace_id = trace.map(TraceParent::trace_id),
                    parent_id = trace.map(TraceParent::parent_id),
                    release = self.release,
                    "{} {} {}",
                    method.map_or("-", Method::as_str),
                    path,
                    status.as_u16(),
                )
            };
        }
        // The level of an event is fixed where it is written.
        if level == Level::WARN {
            event!(Level::WARN);
        } else {
            event!(Level::INFO);
        }
    }

    /// Only what could hold a quote or a backslash is escaped: a path. Methods are tokens (RFC 9110,
    /// section 5.6.2), and the rest is numbers, or was checked or made here.
    fn write_json(&self, line: &mut Vec<u8>, level: Level, access: &Access<'_>) {
        let mut digits = itoa::Buffer::new();
        let mut put = |text: &str| line.extend_from_slice(text.as_bytes());
        put("{\"timestamp\":\"");
        timestamp(&mut put);
        put("\",\"level\":\"");
        put(level.as_str());
        put("\",\"message\":\"request\"");
        if let Some(method) = access.method {
            put(",\"http_method\":\"");
            put(method.as_str());
            put("\"");
        }
        put(",\"http_path\":\"");
        let path = printable(access.path);
        if memchr::memchr2(b'"', b'\\', path.as_bytes()).is_none() {
            put(&path);
        } else {
            put(&path.replace('\\', "\\\\").replace('"', "\\\""));
        }
        put("\",\"http_status\":");
        put(access.status.as_str());
        put(",\"http_bytes\":");
        put(digits.format(access.bytes));
        put(",\"duration_us\":");
        put(digits.format(access.duration_us()));
        if let Some(visit) = access.visit {
            put(",\"visit\":");
            put(digits.format(visit));
        }
        if let Some(client) = access.client {
            put(",\"client\":\"");
            put(client);
            put("\"");
        }
        put(",\"request_id\":\"");
        put(access.request_id.as_str());
        if let Some(trace) = access.trace {
            put("\",\"trace_id\":\"");
            put(trace.trace_id());
            put("\",\"parent_id\":\"");
            put(trace.parent_id());
        }
        put("\",\"release\":");
        put(&self.release_in_json);
        put("}\n");
    }
}

/// The time in the form of the other events. Most lines differ from the one before in microseconds
/// only, so the text of the second is kept.
fn timestamp(mut put: impl FnMut(&str)) {
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
        put(text);
    });
    // A leading one keeps the zeros behind it.
    let mut digits = itoa::Buffer::new();
    let micros = digits.format(1_000_000 + since_epoch.subsec_micros());
    put(".");
    put(&micros[1..]);
    put("Z");
}

/// A path in the characters that RFC 3986 leaves a URI. What a client sends beyond them could
/// steer the terminal of whoever reads the log, even inside a JSON string (U+009B, U+202E).
fn printable(path: &str) -> Cow<'_, str> {
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Cow::Borrowed(path);
    }
    let mut printable = String::with_capacity(3 * path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            printable.push(byte.into());
        } else {
            printable += &format!("%{byte:02X}");
        }
    }
    Cow::Owned(printable)
}
