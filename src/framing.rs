//! Strict at the edge: requests that RFC 9112 calls malformed, or that two servers could read
//! differently, are refused before anything is done for them.
//!
//! hyper refuses most. What it lets through is refused here, because proxies in front pass it on
//! and this service is the last word: a request hidden in another one's content must not count.

use hyper::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Version};

/// What is wrong with a request's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ambiguous or malformed: 400.
    Malformed(&'static str),
    /// Announces more content than `MAX_BODY_BYTES`: 413.
    TooLarge,
}

/// What a request says about its content, none of which is ever used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// There is none.
    None,
    /// There is some, so the connection cannot be used for another request.
    Announced,
}

/// Judges the frame of a request.
pub(crate) fn check<B>(request: &Request<B>, max_body_bytes: usize) -> Result<Content, Fault> {
    let headers = request.headers();
    check_host(request.version(), headers)?;
    // hyper drops a Content-Length beside it, so the two together can no longer be told apart from
    // one alone, and nothing here takes content anyway.
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Fault::Malformed(
            "Transfer-Encoding is not accepted: nothing here takes content",
        ));
    }
    let length = match headers.get(CONTENT_LENGTH) {
        None => 0,
        // hyper has made sure that it is one number.
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(u64::MAX),
    };
    if length == 0 && !headers.contains_key(EXPECT) {
        return Ok(Content::None);
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Fault::Malformed(
            "a GET or HEAD request must not announce content",
        ));
    }
    if length > max_body_bytes as u64 {
        return Err(Fault::TooLarge);
    }
    Ok(Content::Announced)
}

/// RFC 9112, section 3.2: an HTTP/1.1 request has exactly one Host, and a valid one.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Fault> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return match version {
            Version::HTTP_10 => Ok(()),
            _ => Err(Fault::Malformed("the Host header is missing")),
        };
    };
    if hosts.next().is_some() {
        return Err(Fault::Malformed("there is more than one Host header"));
    }
    let host = host.as_bytes();
    // Plain names and addresses, the usual case, without the general parser.
    let plain = !host.is_empty()
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let valid = plain
        || Authority::try_from(host).is_ok_and(|authority| {
            !authority.as_str().contains('@') && !authority.host().is_empty()
        });
    if valid {
        Ok(())
    } else {
        Err(Fault::Malformed("the Host header is not a host"))
    }
}
