//! Which pages of other sites may read an answer by script (CORS, in the Fetch standard).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, VARY,
};

use crate::config::{Config, Origins};

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Adds to the headers of an answer what a browser must see before it hands that to a page of another
/// origin. Cookies count for listed origins only, never for all.
pub(crate) fn allow(config: &Config, asked: &HeaderMap, answer: &mut HeaderMap) {
    let allowed = match &config.cors_origins {
        Origins::None => return,
        Origins::Any => HeaderValue::from_static("*"),
        Origins::Listed(origins) => {
            answer.append(VARY, HeaderValue::from_static("Origin"));
            match asked.get(ORIGIN) {
                Some(origin) if origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes()) => {
                    if config.session_lifetime.is_some() {
                        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                    }
                    origin.clone()
                }
                _ => return,
            }
        }
    };
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("traceparent, x-request-id"));
        // A day; browsers keep it for two hours at most.
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
}

/// Whether a page of this site has made the request; `None` when its client does not say. The scheme is not
/// known behind a proxy, so hosts are compared.
pub(crate) fn is_same_origin(asked: &HeaderMap) -> Option<bool> {
    if let Some(site) = asked.get(&SEC_FETCH_SITE) {
        return Some(site == "same-origin");
    }
    let origin = asked.get(ORIGIN)?.as_bytes();
    let origin = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    Some(origin.is_some_and(|origin| {
        asked.get(HOST).is_some_and(|host| origin.eq_ignore_ascii_case(host.as_bytes()))
    }))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HOST, HeaderValue, ORIGIN};

    use super::{SEC_FETCH_SITE, is_same_origin};

    #[test]
    fn a_request_comes_from_this_site_when_its_client_says_so() {
        for (origin, site, same) in [
            (Some("http://a.test"), None, Some(true)),
            (Some("https://A.test"), None, Some(true)),
            (Some("http://a.test:81"), None, Some(false)),
            (Some("http://b.test"), None, Some(false)),
            (Some("null"), None, Some(false)),
            (Some("null"), Some("same-origin"), Some(true)),
            (Some("http://a.test"), Some("same-site"), Some(false)),
            (None, Some("cross-site"), Some(false)),
            (None, None, None),
        ] {
            let headers = [(HOST, Some("a.test")), (ORIGIN, origin), (SEC_FETCH_SITE.clone(), site)];
            let headers = headers
                .into_iter()
                .filter_map(|(name, value)| Some((name, HeaderValue::from_static(value?))));
            assert_eq!(is_same_origin(&headers.collect()), same, "{origin:?} {site:?}");
        }
    }
}
