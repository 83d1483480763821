//! Strict at the edge: requests that RFC 9112 calls malformed, or that two servers could read
//! differently, are refused before anything is done for them.
//!
//! hyper refuses most. What it lets through is refused here, because proxies in front pass it on
//! and this service is the last word: a request hidden in another one's content must not count.

use std::net::Ipv6Addr;

use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri, Version};

use crate::fields::{Field, Fields};

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

/// Judges the frame of a request, whose `fields` these are.
pub(crate) fn check<B>(
    request: &Request<B>,
    fields: &Fields<'_>,
    max_body_bytes: usize,
) -> Result<Content, Fault> {
    check_target(request.method(), request.uri())?;
    check_host(request.version(), &fields.host)?;
    // It means nothing here, but something to a program in front that takes `Content_Length` for
    // `Content-Length`.
    if fields.look_alike {
        return Err(Fault::Malformed(
            "a header looks like Content-Length or Transfer-Encoding and is neither",
        ));
    }
    // hyper drops a Content-Length beside it, so the two together can no longer be told apart from
    // one alone, and nothing here takes content anyway.
    if fields.transfer_encoding.is_given() {
        return Err(Fault::Malformed(
            "Transfer-Encoding is not accepted: nothing here takes content",
        ));
    }
    let length = match fields.content_length.first {
        None => 0,
        // hyper has made sure that it is one number.
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(u64::MAX),
    };
    // In HTTP/1.0 an expectation means nothing (RFC 9110, section 10.1.1).
    let expects = fields.expect.is_given() && request.version() != Version::HTTP_10;
    if length == 0 && !expects {
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
fn check_host(version: Version, host: &Field<'_>) -> Result<(), Fault> {
    if host.repeated {
        return Err(Fault::Malformed("there is more than one Host header"));
    }
    let Some(host) = host.first else {
        return match version {
            Version::HTTP_10 => Ok(()),
            _ => Err(Fault::Malformed("the Host header is missing")),
        };
    };
    let host = host.as_bytes();
    if is_plain(host) || Authority::try_from(host).is_ok_and(|authority| is_host(&authority)) {
        Ok(())
    } else {
        Err(Fault::Malformed("the Host header is not a host"))
    }
}

/// A name or an IPv4 address, perhaps with a port: the usual case, recognised without the general
/// parser.
fn is_plain(host: &[u8]) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let name = host.iter().take_while(|byte| part(byte)).count();
    match host.split_at(name) {
        ([], _) => false,
        (_, []) => true,
        (_, [b':', port @ ..]) => {
            port.iter().all(u8::is_ascii_digit)
                && (port.len() < 5 || port.len() == 5 && port <= &b"65535"[..])
        }
        _ => false,
    }
}

/// A host, and nothing else but perhaps a port: no user name (RFC 9110, section 4.2.4).
fn is_host(authority: &Authority) -> bool {
    let host = authority.host();
    let host_is_valid = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
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

/// Follows the bytes of a connection to find what hyper lets pass and does not tell of:
/// * A line that ends in LF alone. hyper takes it for the end of a line, as RFC 9112, section 2.2,
///   allows; to a proxy it may be a part of the line, so that two requests here were one there.
/// * A fragment in the first line, which is no part of a request target (section 3.2).
/// * A CR alone before the first line. hyper refuses it, unless the connection has rested since it came.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Heads that are complete.
    heads: u64,
    /// A line of the next head has been received.
    in_head: bool,
    /// The line under way holds something.
    in_line: bool,
    after_cr: bool,
}

impl Lines {
    /// Takes in what was received next. Returns which head, counted from zero, has the first line
    /// that is wrong, as soon as there is one. Content counts as heads that follow: it is
    /// never read as a request, for the connection ends with the request that announced it.
    pub(crate) fn follow(&mut self, received: &[u8]) -> Option<u64> {
        // A CR that ends no line is a part of one.
        if self.after_cr && received.first().is_some_and(|first| *first != b'\n') {
            let begins_head = self.begins_head();
            (self.in_line, self.after_cr) = (true, false);
            if begins_head {
                return Some(self.heads);
            }
        }
        let mut rest = received;
        while let Some(end) = self.end_of_line(rest) {
            let line = &rest[..end];
            let ends_in_crlf = line.last().map_or(self.after_cr, |last| *last == b'\r');
            if !ends_in_crlf || rest[end] == b'#' || self.begins_with_cr(line) {
                self.in_line = true;
                return Some(self.heads);
            }
            let empty = !self.in_line && line.len() <= 1;
            // Empty lines before a request mean nothing.
            if empty && self.in_head {
                self.heads += 1;
            }
            self.in_head = !empty;
            (self.in_line, self.after_cr) = (false, false);
            rest = &rest[end + 1..];
        }
        let wrong = self.begins_with_cr(rest).then_some(self.heads);
        if let Some(last) = rest.last() {
            self.after_cr = *last == b'\r';
            self.in_line |= rest != b"\r";
        }
        wrong
    }

    /// Whether what comes next is the beginning of a head.
    fn begins_head(&self) -> bool {
        !self.in_head && !self.in_line
    }

    /// Whether a head begins with this, and that with a CR alone.
    fn begins_with_cr(&self, line: &[u8]) -> bool {
        self.begins_head() && line.len() > 1 && line[0] == b'\r'
    }

    /// Where the line ends, or where it must not go on.
    fn end_of_line(&self, bytes: &[u8]) -> Option<usize> {
        if bytes.is_empty() {
            None
        } else if self.in_head {
            memchr::memchr(b'\n', bytes)
        } else {
            memchr::memchr2(b'\n', b'#', bytes)
        }
    }

    /// How many heads were received, when no other one has begun.
    pub(crate) fn whole_heads(&self) -> Option<u64> {
        let begun = self.in_head || self.in_line;
        (!begun).then_some(self.heads)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Lines;

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_bytes_come(
            parts in prop::collection::vec(prop::sample::select(vec!["\r", "\n", "\r\n", "a", "#"]), 0..16),
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = parts.concat().into_bytes();
            let (mut whole, mut bytewise) = (Lines::default(), Lines::default());
            let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
            let found = whole.follow(first).or_else(|| whole.follow(second));
            let found_bytewise = bytes.chunks(1).find_map(|byte| bytewise.follow(byte));
            prop_assert_eq!(found, found_bytewise);
            if found.is_none() {
                prop_assert_eq!(whole.whole_heads(), bytewise.whole_heads());
            }
        }
    }
}
