//! What ties a request to its traces elsewhere: `X-Request-Id` and W3C `traceparent`.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// The header that carries a request's id, in and out.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The values of a header that most requests do not have: a look at each name costs less than the hash of
/// a name that `http` does not know.
pub(crate) fn values<'a>(
    headers: &'a HeaderMap,
    name: &'static HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> {
    headers.iter().filter_map(move |(known, value)| (known == name).then_some(value))
}

/// Identifies one request in the logs of all programs that it passed.
#[derive(Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// Takes the client's id over when it is sane: 1 to 128 characters that a log or a header can hold as they
    /// are, and of which the ids of Apache, `HAProxy` and AWS are made. Else makes one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match values(headers, &REQUEST_ID).next() {
            Some(given) if Self::is_sane(given.as_bytes()) => Self(given.clone()),
            _ => Self::new(),
        }
    }

    fn is_sane(id: &[u8]) -> bool {
        (1..=128).contains(&id.len())
            && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~@:=+/,;".contains(byte))
    }

    /// A new id: 128 random bits, as 32 hexadecimal digits.
    pub(crate) fn new() -> Self {
        let mut id = const_hex::Buffer::<16>::new();
        id.format(&fastrand::u128(..).to_be_bytes());
        let id = HeaderValue::from_bytes(id.as_bytes());
        // Hexadecimal digits are a valid value.
        Self(id.unwrap_or(HeaderValue::from_static("unknown")))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn into_header(self) -> HeaderValue {
        self.0
    }
}

/// A valid `traceparent` (W3C Trace Context, section 3.2).
#[derive(Debug)]
pub(crate) struct TraceParent(HeaderValue);

impl TraceParent {
    /// The caller's trace, when there is exactly one and it is valid.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = values(headers, &TRACEPARENT);
        let value = values.next()?;
        let valid = values.next().is_none() && Self::is_valid(value.as_bytes());
        valid.then(|| Self(value.clone()))
    }

    /// `version-trace_id-parent_id-flags` in lower-case hexadecimal. Version 00 has exactly these
    /// four fields, a later one may have more, ff is invalid; so is an id of zeros.
    fn is_valid(value: &[u8]) -> bool {
        let Some((fields, rest)) = value.split_at_checked(55) else {
            return false;
        };
        let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (version, trace, parent, flags) = (&fields[..2], &fields[3..35], &fields[36..52], &fields[53..]);
        [fields[2], fields[35], fields[52]] == *b"---"
            && [version, trace, parent, flags].into_iter().all(hex)
            && [trace, parent].into_iter().all(|id| id.iter().any(|byte| *byte != b'0'))
            && version != b"ff"
            && (rest.is_empty() || version != b"00" && rest[0] == b'-')
    }

    fn part(&self, range: std::ops::Range<usize>) -> &str {
        let value = self.0.to_str().ok();
        value.and_then(|value| value.get(range)).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::{REQUEST_ID, RequestId, TRACEPARENT, TraceParent};

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traceparent(values: &[&str]) -> Option<TraceParent> {
        let headers = values.iter().map(|value| {
            let value = HeaderValue::from_str(value).expect("a value");
            (TRACEPARENT.clone(), value)
        });
        TraceParent::of(&headers.collect())
    }

    #[test]
    fn a_valid_traceparent_is_taken_apart() {
        for (begin, end) in [("00", "01"), ("00", "00"), ("cc", "01-more"), ("01", "01")] {
            let value = format!("{begin}{}{end}", &VALID[2..53]);
            let trace = traceparent(&[&value]).expect("a valid one");
            assert_eq!(trace.trace_id(), &VALID[3..35], "{value}");
            assert_eq!(trace.parent_id(), &VALID[36..52], "{value}");
        }
    }

    #[test]
    fn no_other_traceparent_is_taken() {
        let zeros = "0".repeat(32);
        for value in [
            &VALID[..54],
            &VALID.replace("00-", "ff-"),
            &format!("{VALID}-more"),
            &VALID.replace("-01", "-0g"),
            &VALID.replace('-', "_"),
            &VALID.to_uppercase(),
            &VALID.replace(&VALID[3..35], &zeros),
            &VALID.replace(&VALID[36..52], &zeros[..16]),
        ] {
            assert!(traceparent(&[value]).is_none(), "{value}");
        }
        assert!(traceparent(&[VALID, VALID]).is_none(), "two of them");
    }

    #[test]
    fn a_sane_request_id_is_kept_and_another_one_replaced() {
        let id_of = |given: &str| {
            let given = HeaderValue::from_str(given).expect("a value");
            let headers = [(REQUEST_ID.clone(), given)].into_iter().collect();
            RequestId::of(&headers).as_str().to_owned()
        };
        let long = "x".repeat(128);
        for sane in ["one", "A-b_c.9", "aZ09@QWERTY", "Root=1-67891233-abcdef", "a+/b==", "0:1,2;3~4", &long]
        {
            assert_eq!(id_of(sane), sane);
        }
        for other in ["", "a b", "a\"b", "a\\b", "<a>", "\u{e9}", &(long + "x")] {
            let made = id_of(other);
            assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }
}
