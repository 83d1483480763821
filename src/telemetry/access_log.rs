//! One event for each request.

use std::borrow::Cow;
use std::time::Duration;

use tracing::Level;

/// The target of access events, by which a form can tell them from others.
pub(crate) const TARGET: &str = "access";

/// What is logged of a request.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    /// `None` when the request could not be read.
    pub(crate) method: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Of the answer's content.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) visit: Option<i64>,
    /// `None` on a unix socket.
    pub(crate) client: Option<&'a str>,
    pub(crate) request_id: &'a str,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) parent_id: Option<&'a str>,
    pub(crate) release: &'a str,
}

impl Access<'_> {
    /// Logs the request. A refusal for want of Redis is a warning; its cause is logged where it arises,
    /// once.
    pub(crate) fn log(&self) {
        let path = &*printable(self.path);
        // All forms have the fields of this list. The level is an argument because tracing fixes it where
        // an event is written.
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    http_method = self.method,
                    http_path = path,
                    http_status = self.status,
                    http_bytes = self.bytes,
                    duration_us = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
                    visit = self.visit,
                    client = self.client,
                    request_id = self.request_id,
                    trace_id = self.trace_id,
                    parent_id = self.parent_id,
                    release = self.release,
                    "{} {path} {}",
                    self.method.unwrap_or("-"),
                    self.status,
                )
            };
        }
        if self.status >= 500 {
            event!(Level::WARN);
        } else {
            event!(Level::INFO);
        }
    }
}

/// A path in the characters that RFC 3986 leaves a URI. Others could steer the terminal on which the log
/// is read, even inside a JSON string (U+009B, U+202E).
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

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_is_no_part_of_a_uri_is_percent_encoded() {
        assert_eq!(printable("/a\"\\b?%41"), "/a\"\\b?%41");
        assert_eq!(printable("/a b\u{9b}"), "/a%20b%C2%9B");
    }
}
