//! Strict at the edge: requests that RFC 9112 calls malformed, or that two servers could read
//! differently, are refused before anything is done for them.
//!
//! hyper refuses most. What it lets through is refused here, because proxies in front pass it on
//! and this service is the last word: a request hidden in another one's content must not count.

use std::net::Ipv6Addr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri, Version};

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
    check_target(request.method(), request.uri())?;
    check_host(request.version(), headers)?;
    // It means nothing here, but something to a program in front that takes `Content_Length` for
    // `Content-Length`.
    if headers.keys().any(resembles_length_header) {
        return Err(Fault::Malformed(
            "a header looks like Content-Length or Transfer-Encoding and is neither",
        ));
    }
    // hyper drops a Content-Length beside it, so the two together can no longer be told apart from
    // one alone, and nothing here takes content anyway.
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Fault::Malformed("Transfer-Encoding is not accepted: nothing here takes content"));
    }
    let length = match headers.get(CONTENT_LENGTH) {
        None => 0,
        // hyper has made sure that it is one number.
        Some(length) => length.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX),
    };
    // In HTTP/1.0 an expectation means nothing (RFC 9110, section 10.1.1).
    let expects = request.version() != Version::HTTP_10 && headers.contains_key(EXPECT);
    if length == 0 && !expects {
        return Ok(Content::None);
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Fault::Malformed("a GET or HEAD request must not announce content"));
    }
    if length > max_body_bytes as u64 {
        return Err(Fault::TooLarge);
    }
    Ok(Content::Announced)
}

/// The method is spelt as every registered one is, and the target has the form that belongs to it
/// (RFC 9112, section 3.2), with a host as `Host` names it, if with any.
fn check_target(method: &Method, target: &Uri) -> Result<(), Fault> {
    let spelt = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if !method.as_str().bytes().all(spelt) {
        return Err(Fault::Malformed("the method is not one of HTTP"));
    }
    let fits = match target.path() {
        "*" => method == Method::OPTIONS,
        // A host and a port alone, which is for tunnels.
        "" => method == Method::CONNECT,
        _ => method != Method::CONNECT,
    };
    if fits && target.authority().is_none_or(is_host) {
        Ok(())
    } else {
        Err(Fault::Malformed("the request target is not valid"))
    }
}

/// RFC 9112, section 3.2: an HTTP/1.1 request has exactly one Host, and a valid one.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Fault> {
    let mut hosts = headers.get_all(HOST).iter();
    let is_valid = |host: &HeaderValue| Authority::try_from(host.as_bytes()).is_ok_and(|host| is_host(&host));
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Fault::Malformed("there is more than one Host header")),
        (Some(host), None) if is_valid(host) => Ok(()),
        (Some(_), None) => Err(Fault::Malformed("the Host header is not a host")),
        (None, None) if version == Version::HTTP_10 => Ok(()),
        (None, None) => Err(Fault::Malformed("the Host header is missing")),
    }
}

/// A host, and nothing else but perhaps a port: no user name (RFC 9110, section 4.2.4).
fn is_host(authority: &Authority) -> bool {
    let host = authority.host();
    let host_is_valid = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        // With a comma, a program in front may have made one of two (RFC 9110, section 5.3).
        None => !host.is_empty() && !host.contains(','),
    };
    // There is no such prefix where a user is named.
    let port_is_valid = match authority.as_str().strip_prefix(host) {
        Some("" | ":") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }),
        None => false,
    };
    host_is_valid && port_is_valid
}

/// Whether a name reads like `Content-Length` or `Transfer-Encoding` once all but letters and digits is
/// left out, and is neither.
fn resembles_length_header(name: &HeaderName) -> bool {
    const SHORTER: &[u8; 13] = b"contentlength";
    let letters = || name.as_str().bytes().filter(u8::is_ascii_alphanumeric);
    name.as_str().len() >= SHORTER.len()
        && name != CONTENT_LENGTH
        && name != TRANSFER_ENCODING
        && (letters().eq(*SHORTER) || letters().eq(*b"transferencoding"))
}

/// Whether `Connection` is there once and says `close` alone.
pub(crate) fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter();
    let close = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    close && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use hyper::{Request, Version};

    use super::{Content, Fault, check, says_close};

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri(target);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request")
    }

    fn is_malformed(request: &Request<()>) -> bool {
        matches!(check(request, 10), Err(Fault::Malformed(_)))
    }

    #[test]
    fn one_valid_host_is_needed_from_http_1_1_on() {
        for host in ["a", "example.org.", "a:", "a_b:80", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(check(&request("GET", "/", &[("host", host)]), 0), Ok(Content::None));
        }
        for host in ["", "user@a", "a b", "a,b", "a/b", "a:b", "a:99999", ":80", "[::1", "[x]:1"] {
            assert!(is_malformed(&request("GET", "/", &[("host", host)])), "{host}");
        }
        assert!(is_malformed(&request("GET", "/", &[("host", "a"), ("host", "a")])));
        let mut without = request("GET", "/", &[]);
        assert!(is_malformed(&without));
        *without.version_mut() = Version::HTTP_10;
        assert_eq!(check(&without, 0), Ok(Content::None));
    }

    #[test]
    fn content_is_for_methods_that_can_have_it_and_bounded() {
        let with = |method, name, value| request(method, "/", &[("host", "a"), (name, value)]);
        assert_eq!(check(&with("POST", "content-length", "10"), 10), Ok(Content::Announced));
        assert_eq!(check(&with("POST", "content-length", "11"), 10), Err(Fault::TooLarge));
        assert_eq!(check(&with("GET", "content-length", "0"), 10), Ok(Content::None));
        for (method, name, value) in [
            ("GET", "content-length", "1"),
            ("GET", "expect", "100-continue"),
            ("POST", "transfer-encoding", "chunked"),
            ("POST", "content_length", "0"),
            ("GET", "transfer.encoding", "x"),
        ] {
            assert!(is_malformed(&with(method, name, value)), "{method} {name}");
        }
    }

    #[test]
    fn the_target_has_the_form_of_its_method() {
        let host = [("host", "a")];
        for (method, target) in [("GET", "/a?b"), ("OPTIONS", "*"), ("CONNECT", "a:80")] {
            assert!(!is_malformed(&request(method, target, &host)), "{method} {target}");
        }
        for (method, target) in
            [("GET", "*"), ("GET", "a:80"), ("CONNECT", "/"), ("GET", "http://u@a/"), ("get", "/")]
        {
            assert!(is_malformed(&request(method, target, &host)), "{method} {target}");
        }
    }

    #[test]
    fn only_close_alone_says_close() {
        let says = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("connection", *value)).collect();
            says_close(request("GET", "/", &headers).headers())
        };
        assert!(says(&["close"]) && says(&["CLOSE"]));
        assert!(!says(&[]) && !says(&["close, upgrade"]) && !says(&["close", "close"]));
    }
}
