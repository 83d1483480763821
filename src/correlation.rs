//! What ties a request to its traces elsewhere: `X-Request-Id` and W3C `traceparent`.

use hyper::header::{HeaderName, HeaderValue};

use crate::fields::Field;

/// The header that carries a request's id, in and out.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Identifies one request in the logs of everybody who saw it.
#[derive(Debug)]
pub(crate) enum RequestId {
    /// By whoever asked.
    Given(HeaderValue),
    /// Here: 32 hexadecimal digits.
    Made(const_hex::Buffer<16>),
}

impl RequestId {
    /// Takes the client's id over when it is sane (1 to 128 letters, digits, `.`, `_` and `-`), so
    /// that it can be put into a log or a header as it is. Else makes one.
    pub(crate) fn of(given: &Field<'_>) -> Self {
        match given.first {
            Some(given) if Self::is_sane(given.as_bytes()) => Self::Given(given.clone()),
            _ => Self::new(),
        }
    }

    fn is_sane(id: &[u8]) -> bool {
        (1..=128).contains(&id.len())
            && id
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    }

    /// A new id: 128 random bits.
    pub(crate) fn new() -> Self {
        let mut id = const_hex::Buffer::new();
        id.format(&fastrand::u128(..).to_be_bytes());
        Self::Made(id)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Given(id) => id.to_str().unwrap_or_default(),
            Self::Made(id) => id.as_str(),
        }
    }

    pub(crate) fn header(&self) -> HeaderValue {
        match self {
            Self::Given(id) => id.clone(),
            Self::Made(id) => HeaderValue::from_bytes(id.as_bytes())
                .unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

/// A valid `traceparent` (W3C Trace Context, section 3.2).
#[derive(Debug)]
pub(crate) struct TraceParent(HeaderValue);

impl TraceParent {
    /// The caller's trace, when there is exactly one and it is valid.
    pub(crate) fn of(given: &Field<'_>) -> Option<Self> {
        let value = given.first?;
        let valid = !given.repeated && Self::is_valid(value.as_bytes());
        valid.then(|| Self(value.clone()))
    }

    /// `version-trace_id-parent_id-flags` in lower-case hexadecimal. Version 00 has exactly these
    /// four fields, a later one may have more, ff is invalid; so is an id of zeros.
    fn is_valid(value: &[u8]) -> bool {
        let (Some(fields), rest) = (value.get(..55), value.get(55..).unwrap_or_default()) else {
            return false;
        };
        let hex = |part: &[u8]| {
            part.iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let (version, trace, parent, flags) =
            (&fields[..2], &fields[3..35], &fields[36..52], &fields[53..]);
        [fields[2], fields[35], fields[52]] == *b"---"
            && [version, trace, parent, flags].into_iter().all(hex)
            && [trace, parent]
                .into_iter()
                .all(|id| id.iter().any(|byte| *byte != b'0'))
            && version != b"ff"
            && (rest.is_empty() || version != b"00" && rest[0] == b'-')
    }

    fn part(&self, range: std::ops::Range<usize>) -> &str {
        self.0
            .to_str()
            .ok()
            .and_then(|value| value.get(range))
            .unwrap_or_default()
    }

    /// The whole trace's id.
    pub(crate) fn trace_id(&self) -> &str {
        self.part(3..35)
    }

    /// The id of the caller's span.
    pub(crate) fn parent_id(&self) -> &str {
        self.part(36..52)
    }
}
