//! Which form of an answer a client likes best.

use std::str::FromStr as _;

use headers_accept::Accept;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};
use mediatype::{MediaType, Name, names};

use crate::telemetry::metrics::Exposition;

/// The most that is read of what a client accepts, in bytes.
const MAX_ACCEPT: usize = 1024;

/// The forms that an answer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Html,
    Json,
}

/// The media types that stand for a form, the plain ones in the order of our preference. That of a
/// problem (RFC 9457) asks for JSON.
static MEDIA_TYPES: [(Form, MediaType<'_>); 4] = [
    (Form::Text, MediaType::new(names::TEXT, names::PLAIN)),
    (Form::Html, MediaType::new(names::TEXT, names::HTML)),
    (Form::Json, MediaType::new(names::APPLICATION, names::JSON)),
    (
        Form::Json,
        MediaType::from_parts(names::APPLICATION, Name::new_unchecked("problem"), Some(names::JSON), &[]),
    ),
];

impl Form {
    pub(crate) const ALL: [Self; 3] = [Self::Text, Self::Html, Self::Json];

    /// The form that the client likes best (RFC 9110, section 12.5.1). The `preferred` one when it does not
    /// care, or wants something that there is not: an answer in a plain form beats none.
    pub(crate) fn wanted(headers: &HeaderMap, preferred: Self) -> Self {
        // Case means nothing here.
        let all: Vec<_> =
            headers.get_all(ACCEPT).iter().map(|accept| accept.as_bytes().to_ascii_uppercase()).collect();
        // What nearly all clients say that are not browsers.
        if matches!(&*all, [] | [_] if all.first().is_none_or(|accept| accept == b"*/*")) {
            return preferred;
        }
        let all = all.join(&b',');
        // Longer than any client sends, and to read it would cost more than all the rest of the answer.
        if all.len() > MAX_ACCEPT {
            return preferred;
        }
        let Some(accept) = std::str::from_utf8(&all).ok().and_then(|all| {
            let all = in_utf_8(all);
            Accept::from_str(&all).or_else(|_| readable(&all).parse()).ok()
        }) else {
            return preferred;
        };
        // Of two that it likes as well, the first one.
        let (first, rest): (Vec<_>, Vec<_>) = MEDIA_TYPES.iter().partition(|(form, _)| *form == preferred);
        let chosen = accept.negotiate(first.into_iter().chain(rest).map(|(_, known)| known));
        MEDIA_TYPES.iter().find(|(_, known)| Some(known) == chosen).map_or(preferred, |(form, _)| *form)
    }

    /// The content type of a greeting in this form.
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
        })
    }
}

/// OpenMetrics where `Accept` names it, with a quality not below that of the text format. Else the text
/// format, which all scrapers read.
pub(crate) fn exposition(headers: &HeaderMap) -> Exposition {
    let openmetrics = quality(headers, "application/openmetrics-text");
    if openmetrics > 0.0 && openmetrics >= quality(headers, "text/plain") {
        Exposition::OpenMetrics
    } else {
        Exposition::Prometheus
    }
}

/// The quality of a type that `Accept` names, from 0 to 1 (RFC 9110, section 12.4.2); 0 when it does not.
fn quality(headers: &HeaderMap, wanted: &str) -> f32 {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let qualities = lists.flat_map(|list| list.split(',')).filter_map(|member| {
        let mut parts = member.split(';').map(str::trim);
        let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted);
        let quality = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('=')?.parse().ok());
        is_wanted.then(|| quality.unwrap_or(1.0))
    });
    qualities.fold(0.0, f32::max)
}

/// An `Accept` list without the character set that all forms have, which would make two types of one.
fn in_utf_8(all: &str) -> String {
    let ours = |parameter: &&str| parameter.trim() != "CHARSET=UTF-8";
    let members = all.split(',').map(|member| {
        let parameters: Vec<_> = member.split(';').filter(ours).collect();
        parameters.join(";")
    });
    members.collect::<Vec<_>>().join(",")
}

/// The members of an `Accept` list that can be read. Empty ones are allowed (RFC 9110, section
/// 5.6.1), and what is no media range, such as the lone `*` of old Java programs, spoils no other.
fn readable(all: &str) -> String {
    let members = all.split(',').map(str::trim);
    let readable = members.filter(|member| !member.is_empty() && member.parse::<Accept>().is_ok());
    readable.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT, HeaderValue};

    use super::{Form, exposition};
    use crate::telemetry::metrics::Exposition;

    #[test]
    fn openmetrics_needs_at_least_the_quality_of_the_text_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        for (accepts, expected) in [
            (prometheus, Exposition::OpenMetrics),
            ("Application/OpenMetrics-Text", Exposition::OpenMetrics),
            ("*/*, application/openmetrics-text; q=0.1", Exposition::OpenMetrics),
            ("*/*", Exposition::Prometheus),
            ("text/plain;version=0.0.4", Exposition::Prometheus),
            ("application/openmetrics-text;q=0", Exposition::Prometheus),
            ("application/openmetrics-text;Q=0.1, text/plain;q=0.5", Exposition::Prometheus),
            ("application/openmetrics-text-not", Exposition::Prometheus),
        ] {
            let headers = [(ACCEPT, HeaderValue::from_static(accepts))].into_iter().collect();
            assert_eq!(exposition(&headers), expected, "{accepts}");
        }
    }

    #[test]
    fn quality_and_precision_decide_and_text_is_for_clients_that_do_not_care() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let too_long = "text/html,".repeat(200);
        for (accepts, form) in [
            (&[browser][..], Form::Html),
            (&[], Form::Text),
            (&["*/*"], Form::Text),
            (&["text/*"], Form::Text),
            (&["image/png"], Form::Text),
            (&["nonsense"], Form::Text),
            (&[""], Form::Text),
            (&["application/json"], Form::Json),
            (&["application/problem+json"], Form::Json),
            (&["text/plain;q=0.1, application/json;q=0.2"], Form::Json),
            (&["text/plain;q=0", "TEXT/HTML"], Form::Html),
            (&["application/json; charset=utf-8"], Form::Json),
            (&["*, , text/html"], Form::Html),
            (&[&too_long], Form::Text),
        ] {
            let values = accepts.iter().map(|accept| HeaderValue::from_str(accept).expect("a value"));
            let headers = values.map(|value| (ACCEPT, value)).collect();
            assert_eq!(Form::wanted(&headers, Form::Text), form, "{accepts:?}");
        }
    }
}
