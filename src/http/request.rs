//! What is known of a request once it has been read.

use hyper::header::HeaderName;
use hyper::{Method, Request};
use tokio::time::Instant;

use crate::http::negotiation::Form;
use crate::http::request_id::{RequestId, TraceParent, values};
use crate::http::validate::{self, Fault, Frame};

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// The resources, and whatever is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Healthz,
    Readyz,
    Metrics,
    Version,
    /// No such path.
    Unknown,
    /// Not even a request.
    Malformed,
}

impl Route {
    /// Each route as metrics name it: by its path, if it has one.
    pub(crate) const NAMES: [(Self, &'static str); 7] = [
        (Self::Root, "/"),
        (Self::Healthz, "/healthz"),
        (Self::Readyz, "/readyz"),
        (Self::Metrics, "/metrics"),
        (Self::Version, "/version"),
        (Self::Unknown, "unknown"),
        (Self::Malformed, "malformed"),
    ];

    fn of(path: &str) -> Self {
        let mut names = Self::NAMES.into_iter();
        let found = names.find(|(_, name)| path.starts_with('/') && *name == path);
        found.map_or(Self::Unknown, |(route, _)| route)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// Made once for each request, by its connection. It goes with the request down to its answer, and then
/// into the log.
#[derive(Debug)]
pub(crate) struct RequestMeta<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    /// When its head was complete.
    pub(crate) arrived: Instant,
    /// The client's address as it is logged; `None` on a unix socket.
    pub(crate) client: Option<&'a str>,
    pub(crate) route: Route,
    /// Whether it is framed as RFC 9112 demands.
    pub(crate) framing: Result<Frame, Fault>,
    /// The form in which it wants its answer.
    pub(crate) form: Form,
    /// A browser fetches ahead of a visit that may never come.
    pub(crate) is_prefetch: bool,
    pub(crate) id: RequestId,
    pub(crate) trace: Option<TraceParent>,
}

impl<'a> RequestMeta<'a> {
    pub(crate) fn of<B>(
        request: &'a Request<B>,
        arrived: Instant,
        client: Option<&'a str>,
        max_body_bytes: usize,
    ) -> Self {
        let headers = request.headers();
        let framing = validate::check(request, max_body_bytes);
        let mut purposes = values(headers, &SEC_PURPOSE);
        Self {
            method: request.method(),
            path: request.uri().path(),
            arrived,
            client,
            route: match framing {
                Err(Fault::Malformed(_)) => Route::Malformed,
                _ => Route::of(request.uri().path()),
            },
            framing,
            form: Form::wanted(headers),
            is_prefetch: purposes.any(|purpose| purpose.as_bytes().starts_with(b"prefetch")),
            id: RequestId::of(headers),
            trace: TraceParent::of(headers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Route;

    #[test]
    fn a_path_is_a_route_or_unknown() {
        assert!(Route::NAMES.iter().enumerate().all(|(place, (route, _))| *route as usize == place));
        assert_eq!(Route::of("/"), Route::Root);
        assert_eq!(Route::of("/version"), Route::Version);
        for other in ["", "*", "/version/", "/nowhere", "unknown", "malformed"] {
            assert_eq!(Route::of(other), Route::Unknown);
        }
    }
}
