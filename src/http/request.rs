//! What is known of a request once it has been read.

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::Method;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use tokio::time::Instant;

use crate::config::Config;
use crate::http::client::Client;
use crate::http::negotiation::Form;
use crate::http::request_id::TraceParent;
use crate::http::validate::{self, Fault, Frame};

/// The resources, and whatever is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Count,
    Badge,
    Session,
    Forget,
    Healthz,
    Readyz,
    Metrics,
    Version,
    Status,
    Robots,
    Favicon,
    /// What would be a visit, but that a browser asks ahead of it.
    Prefetch,
    /// No such path.
    Unknown,
    /// Not even a request.
    Malformed,
}

impl Route {
    /// Each route as metrics name it: by its path, if it has one.
    pub(crate) const NAMES: [(Self, &'static str); 15] = [
        (Self::Root, "/"),
        (Self::Count, "/count"),
        (Self::Badge, "/badge.svg"),
        (Self::Session, "/session"),
        (Self::Forget, "/session/forget"),
        (Self::Healthz, "/healthz"),
        (Self::Readyz, "/readyz"),
        (Self::Metrics, "/metrics"),
        (Self::Version, "/version"),
        (Self::Status, "/status"),
        (Self::Robots, "/robots.txt"),
        (Self::Favicon, "/favicon.ico"),
        (Self::Prefetch, "prefetch"),
        (Self::Unknown, "unknown"),
        (Self::Malformed, "malformed"),
    ];

    fn of(path: &str) -> Self {
        let found = Self::NAMES.iter().find(|(_, name)| path.starts_with('/') && *name == path);
        found.map_or(Self::Unknown, |(route, _)| *route)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// By which listening socket a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// There is one for all.
    Only,
    /// That of visitors.
    Public,
    /// That of monitoring.
    Admin,
}

impl Entrance {
    fn leads_to(self, route: Route) -> bool {
        let is_internal =
            matches!(route, Route::Healthz | Route::Readyz | Route::Metrics | Route::Version | Route::Status);
        match self {
            Self::Only => true,
            Self::Public => !is_internal,
            Self::Admin => is_internal,
        }
    }
}

/// What a client wants of a resource that counts, as its headers say. Of two the later one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Intent {
    /// To visit it.
    Visit,
    /// To have it as a part of another page, such as an image (Fetch Metadata, "Sec-Fetch-Dest").
    Part,
    /// To visit it, in data that may be sent again (RFC 8470).
    EarlyData,
    /// To have it at hand for a visit that may never come.
    Prefetch,
}

/// What a browser shows to a person, or leaves to a script.
const SHOWN: [&[u8]; 7] = [b"document", b"iframe", b"frame", b"fencedframe", b"embed", b"object", b"empty"];

impl Intent {
    fn of(headers: &HeaderMap) -> Self {
        let intents = headers.iter().filter_map(|(name, value)| {
            let value = value.as_bytes();
            match name.as_str() {
                "sec-purpose" | "purpose" | "x-purpose" | "x-moz" => {
                    let begins = |word: &[u8]| {
                        value.get(..word.len()).is_some_and(|value| value.eq_ignore_ascii_case(word))
                    };
                    (begins(b"prefetch") || begins(b"preview")).then_some(Self::Prefetch)
                }
                "early-data" => (value == b"1").then_some(Self::EarlyData),
                "sec-fetch-dest" => (!SHOWN.contains(&value)).then_some(Self::Part),
                _ => None,
            }
        });
        intents.max().unwrap_or(Self::Visit)
    }
}

/// Made once for each request, by its connection. It goes with the request down to its answer, and then
/// into the log.
#[derive(Debug)]
pub(crate) struct RequestMeta<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    /// When its head was complete.
    pub(crate) arrived: Instant,
    /// The visitor's address as it is logged; `None` on a unix socket.
    pub(crate) client: Option<Cow<'a, str>>,
    /// The visitor uses HTTPS, by the word of a trusted proxy.
    pub(crate) is_https: bool,
    pub(crate) route: Route,
    /// Whether it is framed as RFC 9112 demands.
    pub(crate) framing: Result<Frame, Fault>,
    /// The form in which it wants its answer.
    pub(crate) form: Form,
    pub(crate) intent: Intent,
    pub(crate) trace: Option<TraceParent>,
}

impl<'a> RequestMeta<'a> {
    /// `peer` is the address of the other side and its text; `None` on a unix socket.
    pub(crate) fn of(
        request: &'a Parts,
        arrived: Instant,
        peer: Option<(IpAddr, &'a str)>,
        entrance: Entrance,
        config: &Config,
    ) -> Self {
        let headers = &request.headers;
        let client = Client::of(config, peer.map(|(address, _)| address), headers);
        let framing = validate::check(request, client.is_https, config.max_body_bytes);
        let mut route = Route::of(request.uri.path());
        if !entrance.leads_to(route) {
            route = Route::Unknown;
        }
        let mut intent = Intent::Visit;
        if matches!(route, Route::Root | Route::Badge) && request.method == Method::GET {
            intent = Intent::of(headers);
            if intent == Intent::Prefetch {
                route = Route::Prefetch;
            }
        }
        let preferred = match route {
            Route::Count | Route::Session => Form::Json,
            _ => Form::Text,
        };
        Self {
            method: &request.method,
            path: request.uri.path(),
            query: request.uri.query(),
            headers,
            arrived,
            client: client.address.map(|address| match peer {
                Some((peer, text)) if peer == address => text.into(),
                _ => address.to_string().into(),
            }),
            is_https: client.is_https,
            route,
            framing,
            form: Form::wanted(headers, preferred),
            intent,
            trace: TraceParent::of(headers),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::{Intent, Route};

    #[test]
    fn a_path_is_a_route_or_unknown() {
        assert!(Route::NAMES.iter().enumerate().all(|(place, (route, _))| *route as usize == place));
        assert_eq!(Route::of("/"), Route::Root);
        assert_eq!(Route::of("/version"), Route::Version);
        for other in ["", "*", "/version/", "/nowhere", "unknown", "malformed"] {
            assert_eq!(Route::of(other), Route::Unknown);
        }
    }

    #[test]
    fn what_is_asked_ahead_or_as_a_part_of_another_page_is_no_visit() {
        for (headers, intent) in [
            (&[][..], Intent::Visit),
            (&[("sec-purpose", "prefetch;prerender")], Intent::Prefetch),
            (&[("purpose", "Prefetch")], Intent::Prefetch),
            (&[("x-purpose", "preview")], Intent::Prefetch),
            (&[("x-moz", "prefetch")], Intent::Prefetch),
            (&[("purpose", "anything else")], Intent::Visit),
            (&[("early-data", "1")], Intent::EarlyData),
            (&[("early-data", "0")], Intent::Visit),
            (&[("sec-fetch-dest", "document")], Intent::Visit),
            (&[("sec-fetch-dest", "empty")], Intent::Visit),
            (&[("sec-fetch-dest", "image")], Intent::Part),
            (&[("sec-purpose", "prefetch"), ("sec-fetch-dest", "image")], Intent::Prefetch),
        ] {
            let pairs = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            assert_eq!(Intent::of(&pairs.collect()), intent, "{headers:?}");
        }
    }
}
