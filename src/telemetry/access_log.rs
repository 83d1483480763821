//! One event for each request.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::telemetry::stdout::Output;

/// What is logged of a request.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    /// `None` when the request could not be read.
    pub(crate) method: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// For a reason of this service or of what is behind it.
    pub(crate) failed: bool,
    /// Of the answer's content.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) visit: Option<i64>,
    /// Whether the visitor has come back; `None` when that is not known.
    pub(crate) returning: Option<bool>,
    /// `None` on a unix socket.
    pub(crate) client: Option<&'a str>,
    pub(crate) request_id: &'a str,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) parent_id: Option<&'a str>,
    pub(crate) release: &'a str,
    /// Why the request was refused, when it was the client's fault.
    pub(crate) reason: Option<&'a str>,
    /// As the client has sent it, like the next one.
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) referrer: Option<&'a [u8]>,
}

/// How much is logged of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDetail {
    /// Nothing.
    Off,
    /// What the service knows of it.
    On,
    /// What its client says of itself, too.
    Full,
}

/// How much is logged of a user agent or a referrer, in bytes.
const MAX_TEXT: usize = 256;

/// Hands the fields of an access event to a macro, each with its kind. All forms have this list.
macro_rules! with_fields {
    ($access:ident, $path:ident, $user_agent:ident, $referrer:ident, $emit:ident) => {
        $emit! {
            http_method: token = $access.method,
            http_path: text = Some($path),
            http_status: number = Some($access.status),
            http_bytes: number = Some($access.bytes),
            duration_us: number = Some(u64::try_from($access.duration.as_micros()).unwrap_or(u64::MAX)),
            visit: number = $access.visit,
            returning: flag = $access.returning,
            client: token = $access.client,
            request_id: token = Some($access.request_id),
            trace_id: token = $access.trace_id,
            parent_id: token = $access.parent_id,
            release: text = Some($access.release),
            reason: text = $access.reason,
            user_agent: text = $user_agent,
            referrer: text = $referrer,
        }
    };
}

/// In which form requests are logged.
#[derive(Debug)]
pub(crate) enum AccessLog {
    /// As an event, like any other.
    Event,
    /// As a JSON object, where the level allows it. That of tracing-subscriber takes ten times as long.
    Json(Arc<Output>, LevelFilter),
}

impl AccessLog {
    /// Logs one request. A refusal for want of Redis is a warning; its cause is logged where it arises,
    /// once.
    pub(crate) fn write(&self, access: &Access<'_>) {
        let path = &*printable(access.path.as_bytes(), "");
        let text = |value: Option<&[u8]>| {
            value.map(|value| printable(&value[..value.len().min(MAX_TEXT)], " ").into_owned())
        };
        let (user_agent, referrer) = (text(access.user_agent), text(access.referrer));
        let (user_agent, referrer) = (user_agent.as_deref(), referrer.as_deref());
        let failed = access.failed;
        if let Self::Json(output, filter) = self {
            let (level, text) = match failed {
                true => (Level::WARN, r#","level":"WARN","message":"request""#),
                false => (Level::INFO, r#","level":"INFO","message":"request""#),
            };
            if level > *filter {
                return;
            }
            output.line(|line| {
                put_time(line);
                line.extend_from_slice(text.as_bytes());
                macro_rules! put {
                    ($($name:ident: $kind:ident = $value:expr,)+) => {
                        $(
                            if let Some(value) = $value {
                                line.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
                                json::$kind(line, value);
                            }
                        )+
                    };
                }
                with_fields!(access, path, user_agent, referrer, put);
                line.extend_from_slice(b"}\n");
            });
            if failed {
                output.flush_now();
            }
            return;
        }
        let (method, status) = (access.method.unwrap_or("-"), access.status);
        // The level of an event is fixed where it is written.
        macro_rules! warn {
            ($($name:ident: $kind:ident = $value:expr,)+) => {
                tracing::warn!($($name = $value,)+ "{method} {path} {status}")
            };
        }
        macro_rules! info {
            ($($name:ident: $kind:ident = $value:expr,)+) => {
                tracing::info!($($name = $value,)+ "{method} {path} {status}")
            };
        }
        if failed {
            with_fields!(access, path, user_agent, referrer, warn);
        } else {
            with_fields!(access, path, user_agent, referrer, info);
        }
    }
}

/// Begins a JSON object with the time (RFC 3339). The text of a second is kept: it takes a third of the line.
fn put_time(line: &mut Vec<u8>) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since_epoch.as_secs() {
            *second = since_epoch.as_secs();
            *text = format!("{{\"timestamp\":\"{:.19}.", humantime::format_rfc3339_seconds(now).to_string());
        }
        line.extend_from_slice(text.as_bytes());
    });
    // A leading one keeps the zeros behind it.
    let mut digits = itoa::Buffer::new();
    line.extend_from_slice(&digits.format(1_000_000 + since_epoch.subsec_micros()).as_bytes()[1..]);
    line.extend_from_slice(b"Z\"");
}

/// Values of JSON, by kind.
mod json {
    /// Any text. Most need no escape, and to copy those whole takes about half the instructions.
    pub(super) fn text(line: &mut Vec<u8>, value: &str) {
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        // Without a branch for each byte, so that many are looked at together.
        if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            token(line, value);
        } else {
            // Writing into a Vec cannot fail.
            let _ = serde_json::to_writer(line, value);
        }
    }

    /// A text of which it is known that it needs no escape.
    pub(super) fn token(line: &mut Vec<u8>, value: &str) {
        debug_assert_eq!(serde_json::to_string(value).unwrap_or_default(), format!("\"{value}\""));
        line.push(b'"');
        line.extend_from_slice(value.as_bytes());
        line.push(b'"');
    }

    pub(super) fn number(line: &mut Vec<u8>, value: impl itoa::Integer) {
        line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub(super) fn flag(line: &mut Vec<u8>, value: bool) {
        line.extend_from_slice(if value { b"true" } else { b"false" });
    }
}

/// A text in the characters that RFC 3986 leaves a URI, and in those `also` allowed. Others could steer the
/// terminal on which the log is read, even inside a JSON string (U+009B, U+202E).
fn printable<'a>(text: &'a [u8], also: &str) -> Cow<'a, str> {
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || also.as_bytes().contains(byte);
    if let (true, Ok(text)) = (text.iter().all(is_printable), std::str::from_utf8(text)) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(3 * text.len());
    for byte in text {
        if is_printable(byte) {
            printable.push((*byte).into());
        } else {
            printable += &format!("%{byte:02X}");
        }
    }
    Cow::Owned(printable)
}

#[cfg(test)]
mod tests {
    use super::{json, printable};

    #[test]
    fn a_text_is_written_as_serde_json_writes_it() {
        for value in ["", "GET", "a b~", "a\"b", "a\\b", "\u{7f}", "\n", "\u{9b}é"] {
            let mut line = Vec::new();
            json::text(&mut line, value);
            assert_eq!(line, serde_json::to_vec(value).expect("JSON"), "{value:?}");
        }
    }

    #[test]
    fn what_is_no_part_of_a_uri_is_percent_encoded() {
        assert_eq!(printable(b"/a\"\\b?%41", ""), "/a\"\\b?%41");
        assert_eq!(printable("/a b\u{9b}".as_bytes(), ""), "/a%20b%C2%9B");
        assert_eq!(printable(b"curl 8 \xff\x1b", " "), "curl 8 %FF%1B");
    }
}
