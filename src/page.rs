//! The greeting, and what is said instead when there is none, as text, HTML and JSON.

use bytes::Bytes;
use headers_accept::Accept;
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use mediatype::{MediaType, Name, names};

/// The page; `{...}` stand for what differs.
const PAGE: &str = include_str!("page.html");

/// What the page may do: nothing but be styled by its own style sheet, named by its hash.
pub(crate) const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'sha256-",
    "E+O9XTTGTcYLnpW1KrCTyT0QIhzrG9Kd/00qzD6doDs=",
    "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
);

/// The forms that an answer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Html,
    Json,
}

static MEDIA_TYPES: [(Form, MediaType<'_>); 3] = [
    (Form::Text, MediaType::new(names::TEXT, names::PLAIN)),
    (Form::Html, MediaType::new(names::TEXT, names::HTML)),
    (Form::Json, MediaType::new(names::APPLICATION, names::JSON)),
];

/// A form that clients ask for when they want a problem explained (RFC 9457).
static PROBLEM_JSON: MediaType<'_> = MediaType::from_parts(
    names::APPLICATION,
    Name::new_unchecked("problem"),
    Some(names::JSON),
    &[],
);

impl Form {
    /// The form that the client likes best (RFC 9110, section 12.5.1). Text when it does not care,
    /// or wants something that there is not: a greeting in a plain form beats none.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let mut accepts = headers.get_all(ACCEPT).iter();
        let Some(first) = accepts.next() else {
            return Self::Text;
        };
        if first == "*/*" {
            return Self::Text;
        }
        let all = accepts.fold(first.as_bytes().to_vec(), |mut all, more| {
            all.push(b',');
            all.extend_from_slice(more.as_bytes());
            all
        });
        let Some(accept) = std::str::from_utf8(&all)
            .ok()
            .and_then(|all| all.parse::<Accept>().ok())
        else {
            return Self::Text;
        };
        let known = MEDIA_TYPES.iter().map(|(_, media_type)| media_type);
        let chosen = accept.negotiate(known.chain([&PROBLEM_JSON]));
        match chosen {
            Some(media_type) if *media_type == PROBLEM_JSON => Self::Json,
            Some(media_type) => MEDIA_TYPES
                .iter()
                .find(|(_, known)| known == media_type)
                .map_or(Self::Text, |(form, _)| *form),
            None => Self::Text,
        }
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

/// Greets the visitor with this number.
pub(crate) fn greeting(form: Form, number: i64) -> Bytes {
    let mut digits = itoa::Buffer::new();
    let number = digits.format(number);
    match form {
        Form::Text => ["Welcome to Abukiks! Visitor count: ", number].concat(),
        Form::Json => [
            "{\"message\":\"Welcome to Abukiks!\",\"visitorCount\":",
            number,
            "}",
        ]
        .concat(),
        Form::Html => PAGE.replace("{title}", "Welcome to Abukiks!").replace(
            "{main}",
            &format!(
                "<h1>Welcome to Abukiks!</h1>\n<p>Visitor count: <strong>{number}</strong></p>"
            ),
        ),
    }
    .into()
}

/// Says what went wrong, with its content type. `detail` is a sentence for the visitor, and holds
/// nothing that the visitor sent.
pub(crate) fn problem(form: Form, status: StatusCode, detail: &str) -> (HeaderValue, Bytes) {
    let title = status.canonical_reason().unwrap_or("Error");
    match form {
        Form::Text => (form.content_type(), format!("{title}: {detail}").into()),
        Form::Html => {
            let main = format!(
                "<h1>{title}</h1>\n<p>{detail} <strong>{code}</strong></p>",
                code = status.as_u16()
            );
            (
                form.content_type(),
                PAGE.replace("{title}", title)
                    .replace("{main}", &main)
                    .into(),
            )
        }
        // RFC 9457. The type about:blank says: no more than the status means.
        Form::Json => {
            let problem = serde_json::json!({
                "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
            });
            (
                HeaderValue::from_static("application/problem+json"),
                problem.to_string().into(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use ring::digest::{SHA256, digest};

    use super::{CONTENT_SECURITY_POLICY, PAGE};

    /// Browsers would refuse the style sheet otherwise.
    #[test]
    fn the_content_security_policy_names_the_style_sheet_of_the_page() {
        let (_, rest) = PAGE.split_once("<style>").expect("a style sheet");
        let (style_sheet, _) = rest.split_once("</style>").expect("its end");
        let hash = BASE64_STANDARD.encode(digest(&SHA256, style_sheet.as_bytes()));
        let source = format!("style-src 'sha256-{hash}'");
        assert!(
            CONTENT_SECURITY_POLICY.contains(&source),
            "the policy wants {source}"
        );
    }
}
