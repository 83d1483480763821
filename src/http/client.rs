//! Who the visitor is, where a proxy hands their request on.
//!
//! What a header says of its sender is worth as much as the peer that has sent it. So it is read from the
//! right, where the nearest proxy has added its own client, and only as far as the proxies are trusted.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

use crate::config::Config;

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// `None` on a unix socket.
    pub(crate) address: Option<IpAddr>,
    /// A trusted proxy has received it by HTTPS.
    pub(crate) is_https: bool,
}

impl Client {
    /// The peer itself, or whom it names if it is a trusted proxy.
    pub(crate) fn of(config: &Config, peer: Option<IpAddr>, headers: &HeaderMap) -> Self {
        if !config.trusted_proxies.trusts(peer) {
            return Self { address: peer, is_https: false };
        }
        let header = &config.forwarded_header;
        // The last one first.
        let lines = |name| {
            let lines = headers.get_all(name).iter().rev();
            lines.map(|line| line.to_str().unwrap_or(UNREADABLE))
        };
        if *header == FORWARDED {
            let elements: Vec<_> = lines(header).flat_map(elements_from_the_right).collect();
            let nodes = elements.iter().map(|element| element.node.as_deref().and_then(read_address));
            let (address, hops) = walk(config, peer, nodes);
            let last = hops.checked_sub(1).and_then(|last| elements.get(last));
            return Self { address, is_https: is_https(last.and_then(|last| last.scheme.as_deref())) };
        }
        let nodes = lines(header).flat_map(members_from_the_right).map(read_address);
        let (address, hops) = walk(config, peer, nodes);
        // A proxy adds to both lists, or sets one scheme for all.
        let schemes = lines(&X_FORWARDED_PROTO).flat_map(members_from_the_right);
        Self { address, is_https: is_https(schemes.take(hops.max(1)).last()) }
    }
}

/// Goes from a trusted peer to the left, for as long as the next node is an address and the one before it is
/// trusted. Returns the last address, and how many nodes lead to it.
fn walk(
    config: &Config,
    peer: Option<IpAddr>,
    nodes: impl Iterator<Item = Option<IpAddr>>,
) -> (Option<IpAddr>, usize) {
    let (mut address, mut hops) = (peer, 0);
    for node in nodes {
        if node.is_none() {
            break;
        }
        (address, hops) = (node, hops + 1);
        if !config.trusted_proxies.trusts(node) {
            break;
        }
    }
    (address, hops)
}

fn is_https(scheme: Option<&str>) -> bool {
    scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// In the place of a line that is no text.
const UNREADABLE: &str = "unknown";

fn members_from_the_right(line: &str) -> impl Iterator<Item = &str> {
    line.rsplit(',').filter(|member| !member.trim().is_empty())
}

/// One proxy's client, as `Forwarded` has it (RFC 7239, section 4).
#[derive(Debug, Default)]
struct Element {
    /// `for`
    node: Option<String>,
    /// `proto`
    scheme: Option<String>,
}

/// The elements of a line of `Forwarded`. A line with a quote that does not end is one element that says
/// nothing: part of it may have been written by the proxy, and the rest by an untrusted client.
fn elements_from_the_right(line: &str) -> Vec<Element> {
    let Some(elements) = split_unquoted(line, ',') else {
        return vec![Element::default()];
    };
    let read = |element: &str| {
        let mut read = Element::default();
        for pair in split_unquoted(element, ';').unwrap_or_default() {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let place = match name.trim().to_ascii_lowercase().as_str() {
                "for" => &mut read.node,
                "proto" => &mut read.scheme,
                _ => continue,
            };
            let value = value.trim();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            *place = Some(quoted.map_or_else(|| value.to_owned(), |quoted| quoted.replace('\\', "")));
        }
        read
    };
    let elements = elements.into_iter().rev().filter(|element| !element.trim().is_empty());
    elements.map(read).collect()
}

/// The parts between separators that stand outside of quotes (RFC 9110, section 5.6.4); `None` when a quote
/// does not end.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(|character| {
        let separates = character == separator && !is_quoted;
        is_quoted ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && is_quoted && !is_escaped;
        separates
    });
    let parts = parts.collect();
    (!is_quoted).then_some(parts)
}

/// An address, perhaps with a port. `unknown` and names that hide the address are none (RFC 7239, section 6).
fn read_address(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let host = match node.strip_prefix('[') {
        _ if node.parse::<IpAddr>().is_ok() => node,
        Some(rest) => rest.split_once(']')?.0,
        None => node.split_once(':')?.0,
    };
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hyper::header::{HeaderName, HeaderValue};

    use super::Client;
    use crate::config::Config;

    fn client(header: &str, peer: Option<&str>, lines: &[(&'static str, &str)]) -> (String, bool) {
        let settings = [("TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8,unix"), ("FORWARDED_HEADER", header)];
        let settings = settings.map(|(name, value)| (name.into(), value.into()));
        let config = Config::from_vars(settings).expect("settings");
        let headers = lines.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        });
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        let client = Client::of(&config, peer, &headers.collect());
        (client.address.as_ref().map_or_else(String::new, IpAddr::to_string), client.is_https)
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        let x = "x-forwarded-for";
        let nonsense = "a,;\"=\\[]:".repeat(900);
        for (peer, lines, expected) in [
            (Some("10.0.0.1"), vec![(x, "192.0.2.1")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![], "10.0.0.1"),
            (Some("203.0.113.9"), vec![(x, "192.0.2.1")], "203.0.113.9"),
            (None, vec![(x, "192.0.2.1")], "192.0.2.1"),
            (None, vec![], ""),
            (Some("10.0.0.1"), vec![(x, "1.1.1.1, 192.0.2.1, 10.9.9.9")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![(x, "1.1.1.1"), (x, "192.0.2.1"), (x, "fd00::2")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![(x, "10.0.0.3,10.0.0.2")], "10.0.0.3"),
            (Some("10.0.0.1"), vec![(x, "192.0.2.1:4711")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![(x, "2001:db8::1")], "2001:db8::1"),
            (Some("10.0.0.1"), vec![(x, "[2001:db8::1]:4711")], "2001:db8::1"),
            (Some("10.0.0.1"), vec![(x, "[2001:db8::1]")], "2001:db8::1"),
            (Some("10.0.0.1"), vec![(x, "::ffff:192.0.2.1")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![(x, "192.0.2.1, unknown")], "10.0.0.1"),
            (Some("10.0.0.1"), vec![(x, "192.0.2.1, _hidden, 10.0.0.2")], "10.0.0.2"),
            (Some("10.0.0.1"), vec![(x, "192.0.2.1"), (x, "\u{e9}")], "10.0.0.1"),
            (Some("10.0.0.1"), vec![(x, "192.0.2.1, ,")], "192.0.2.1"),
            (Some("10.0.0.1"), vec![(x, &nonsense)], "10.0.0.1"),
            (Some("10.0.0.1"), vec![("forwarded", "for=192.0.2.1")], "10.0.0.1"),
        ] {
            assert_eq!(client("X-Forwarded-For", peer, &lines).0, expected, "{peer:?} {lines:?}");
        }
        assert_eq!(client("X-Real-IP", None, &[("x-real-ip", "192.0.2.1")]).0, "192.0.2.1");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (lines, address, is_https) in [
            (&["for=192.0.2.60;proto=https;by=203.0.113.43"][..], "192.0.2.60", true),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17", false),
            (&["for=1.1.1.1;proto=https, for=192.0.2.43;proto=http"], "192.0.2.43", false),
            (&["for=1.1.1.1", "for=192.0.2.43;Proto=HTTPS", "for=10.0.0.9;proto=http"], "192.0.2.43", true),
            (&["for=\"192.0.2.1:_port\""], "192.0.2.1", false),
            (&["for=192.0.2.1;secret=\"a,b;for=6.6.6.6\""], "192.0.2.1", false),
            (&["for=192.0.2.1, for=unknown"], "10.0.0.1", false),
            (&["for=192.0.2.1, for=\"_gazonk\""], "10.0.0.1", false),
            (&["secret=\", for=6.6.6.6, for=192.0.2.1"], "10.0.0.1", false),
            (&["secret=\"\\\", for=6.6.6.6"], "10.0.0.1", false),
            (&["proto=https"], "10.0.0.1", false),
            (&["192.0.2.1"], "10.0.0.1", false),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            let found = client("Forwarded", Some("10.0.0.1"), &lines);
            assert_eq!(found, (address.to_owned(), is_https), "{lines:?}");
        }
        let other = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
        assert_eq!(client("Forwarded", Some("10.0.0.1"), &other), ("10.0.0.1".to_owned(), false));
    }

    #[test]
    fn the_scheme_is_that_of_the_client_and_taken_from_trusted_proxies_alone() {
        let (for_, proto) = ("x-forwarded-for", "x-forwarded-proto");
        for (peer, lines, is_https) in [
            ("10.0.0.1", vec![(for_, "192.0.2.1"), (proto, "https")], true),
            ("10.0.0.1", vec![(proto, "HTTPS")], true),
            ("10.0.0.1", vec![(for_, "192.0.2.1"), (proto, "http")], false),
            ("192.0.2.9", vec![(for_, "192.0.2.1"), (proto, "https")], false),
            // The client's own claim, and what two proxies have seen.
            ("10.0.0.1", vec![(for_, "1.1.1.1, 192.0.2.1"), (proto, "https, http")], false),
            ("10.0.0.1", vec![(for_, "192.0.2.1, 10.0.0.2"), (proto, "https, http")], true),
            ("10.0.0.1", vec![(for_, "192.0.2.1, 10.0.0.2"), (proto, "https")], true),
        ] {
            assert_eq!(client("X-Forwarded-For", Some(peer), &lines).1, is_https, "{peer} {lines:?}");
        }
    }
}
