//! Strict at the edge: requests that RFC 9112 calls malformed, or that two servers could read
//! differently, are refused before anything is done for them.
//!
//! hyper refuses most. What it lets through is refused here, because proxies in front pass it on
//! and this service is the last word: a request hidden in another one's content must not count.

use std::net::Ipv6Addr;

use hyper::http::request::Parts;
use hyper::{Method, Uri, Version};

/// What is wrong with a request's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ambiguous or malformed: 400.
    Malformed(&'static str),
    /// Announces more content than `MAX_BODY_BYTES`: 413.
    TooLarge,
}

/// What a request says about its frame, when that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// There is content, none of which is ever used: the connection cannot be used for another request.
    pub(crate) has_content: bool,
    /// Only its end tells whether that content is empty.
    pub(crate) is_chunked: bool,
    /// It is the client's last request: `Connection` is there once and says `close` alone.
    pub(crate) is_last: bool,
}

/// What no GET or HEAD request may have.
pub(crate) const CONTENT: Fault = Fault::Malformed("a GET or HEAD request must not have content");

/// Judges the frame of a request, in one pass over its headers.
pub(crate) fn check(request: &Parts, is_https: bool, max_body_bytes: usize) -> Result<Frame, Fault> {
    let (method, version) = (&request.method, request.version);
    check_target(method, &request.uri, is_https)?;
    let (mut hosts, mut connections, mut length) = (0, 0, 0);
    let (mut closes, mut is_chunked, mut expects) = (false, false, false);
    for (name, value) in &request.headers {
        match name.as_str() {
            "host" => {
                hosts += 1;
                if !value.to_str().is_ok_and(is_host) {
                    return Err(Fault::Malformed("the Host header is not a host"));
                }
            }
            "connection" => {
                connections += 1;
                closes = value.as_bytes().eq_ignore_ascii_case(b"close");
            }
            // hyper has made sure that it is one number.
            "content-length" => {
                length = value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
            }
            // hyper drops a Content-Length beside it. The connection ends after either (RFC 9112, section 6.1).
            "transfer-encoding" => {
                let is_plain =
                    version != Version::HTTP_10 && value.as_bytes().eq_ignore_ascii_case(b"chunked");
                if is_chunked || !is_plain {
                    return Err(Fault::Malformed("Transfer-Encoding is not `chunked` alone"));
                }
                is_chunked = true;
            }
            // Others are unknown, and in HTTP/1.0 it means nothing (RFC 9110, section 10.1.1).
            "expect" => {
                expects =
                    version != Version::HTTP_10 && value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            // It means nothing here, but something to a program in front that takes `Content_Length` for
            // `Content-Length`.
            other if resembles_length_header(other) => {
                let what = "a header looks like Content-Length or Transfer-Encoding and is neither";
                return Err(Fault::Malformed(what));
            }
            _ => {}
        }
    }
    // RFC 9112, section 3.2: an HTTP/1.1 request has exactly one Host.
    match hosts {
        0 if version != Version::HTTP_10 => Err(Fault::Malformed("the Host header is missing")),
        0 | 1 if is_chunked => Ok(Frame { has_content: true, is_chunked, is_last: false }),
        0 | 1 if length == 0 && !expects => {
            Ok(Frame { has_content: false, is_chunked, is_last: connections == 1 && closes })
        }
        0 | 1 if matches!(*method, Method::GET | Method::HEAD) => Err(CONTENT),
        0 | 1 if length > max_body_bytes as u64 => Err(Fault::TooLarge),
        0 | 1 => Ok(Frame { has_content: true, is_chunked, is_last: false }),
        _ => Err(Fault::Malformed("there is more than one Host header")),
    }
}

/// The method is spelt as every registered one is, and the target has the form that belongs to it
/// (RFC 9112, section 3.2), with a host as `Host` names it, if with any, and the scheme by which it has come
/// (RFC 9110, section 7.4).
fn check_target(method: &Method, target: &Uri, is_https: bool) -> Result<(), Fault> {
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
    if !fits || !target.authority().is_none_or(|authority| is_host(authority.as_str())) {
        return Err(Fault::Malformed("the request target is not valid"));
    }
    match target.scheme_str() {
        None | Some("http") => Ok(()),
        Some("https") if is_https => Ok(()),
        Some(_) => Err(Fault::Malformed("the scheme of the request target is not the one that was used")),
    }
}

/// A host, and nothing else but perhaps a port: no user name (RFC 9110, section 4.2.4).
fn is_host(authority: &str) -> bool {
    // A name of RFC 3986, section 3.2.2, without `%` and the comma. With a comma, a program in front may have
    // joined two headers (RFC 9110, section 5.3).
    let in_name = |char: char| {
        char.is_ascii_alphanumeric()
            || matches!(char, '!' | '$' | '&'..='+' | '-' | '.' | ';' | '=' | '_' | '~')
    };
    let in_brackets = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host_is_valid, port) = match in_brackets {
        Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let port = authority.trim_start_matches(in_name);
            (port.len() < authority.len(), port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some("") => true,
        Some(port) => !port.starts_with('+') && port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    host_is_valid && port_is_valid
}

/// Whether a name reads like `Content-Length` or `Transfer-Encoding` once all but letters and digits is
/// left out.
fn resembles_length_header(name: &str) -> bool {
    let letters = || name.bytes().filter(u8::is_ascii_alphanumeric);
    name.len() >= 13 && (letters().eq(*b"contentlength") || letters().eq(*b"transferencoding"))
}

#[cfg(test)]
mod tests {
    use hyper::http::request::Parts;
    use hyper::{Request, Version};

    use super::{Fault, Frame};

    const NONE: Result<Frame, Fault> = Ok(Frame { has_content: false, is_chunked: false, is_last: false });
    const ANNOUNCED: Result<Frame, Fault> =
        Ok(Frame { has_content: true, is_chunked: false, is_last: false });
    const CHUNKED: Result<Frame, Fault> = Ok(Frame { has_content: true, is_chunked: true, is_last: false });

    fn check(request: &Parts, max_body_bytes: usize) -> Result<Frame, Fault> {
        super::check(request, false, max_body_bytes)
    }

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(target);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn is_malformed(request: &Parts) -> bool {
        matches!(check(request, 10), Err(Fault::Malformed(_)))
    }

    #[test]
    fn one_valid_host_is_needed_from_http_1_1_on() {
        for host in ["a", "example.org.", "a:", "a_b:80", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(check(&request("GET", "/", &[("host", host)]), 0), NONE);
        }
        for host in [
            "", "user@a", "a b", "a,b", "a,", "a/b", "a%41", "a[1]", "a:b", "a:99999", "a:+1", "a:1:2",
            ":80", "[::1", "[x]:1", "[::1]a",
        ] {
            assert!(is_malformed(&request("GET", "/", &[("host", host)])), "{host}");
        }
        assert!(is_malformed(&request("GET", "/", &[("host", "a"), ("host", "a")])));
        let mut without = request("GET", "/", &[]);
        assert!(is_malformed(&without));
        without.version = Version::HTTP_10;
        assert_eq!(check(&without, 0), NONE);
    }

    #[test]
    fn content_is_for_methods_that_can_have_it_and_bounded() {
        let with = |method, name, value| request(method, "/", &[("host", "a"), (name, value)]);
        assert_eq!(check(&with("POST", "content-length", "10"), 10), ANNOUNCED);
        assert_eq!(check(&with("POST", "content-length", "11"), 10), Err(Fault::TooLarge));
        for (name, value) in [("content-length", "0"), ("expect", ""), ("expect", "a miracle")] {
            assert_eq!(check(&with("GET", name, value), 10), NONE, "{name}: {value}");
        }
        for method in ["GET", "POST"] {
            assert_eq!(check(&with(method, "transfer-encoding", "Chunked"), 10), CHUNKED);
        }
        for (method, name, value) in [
            ("GET", "content-length", "1"),
            ("GET", "expect", "100-continue"),
            ("GET", "transfer-encoding", "gzip, chunked"),
            ("POST", "transfer-encoding", "identity"),
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
    fn the_scheme_is_the_one_by_which_the_request_has_come() {
        let fits = |target, is_https| {
            let request = request("GET", target, &[("host", "a")]);
            super::check(&request, is_https, 0).is_ok()
        };
        assert!(fits("http://a/", false) && fits("http://a/", true) && fits("https://a/", true));
        assert!(!fits("https://a/", false) && !fits("ftp://a/", true));
    }

    #[test]
    fn only_close_alone_says_close() {
        let says = |values: &[&str]| {
            let connection = values.iter().map(|value| ("connection", *value));
            let headers: Vec<_> = connection.chain([("host", "a")]).collect();
            check(&request("GET", "/", &headers), 0).is_ok_and(|frame| frame.is_last)
        };
        assert!(says(&["close"]) && says(&["CLOSE"]));
        assert!(!says(&[]) && !says(&["close, upgrade"]) && !says(&["close", "close"]));
    }
}
