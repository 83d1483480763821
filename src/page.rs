//! The greeting, and what is said instead when there is none, as text, HTML and JSON.

use std::io::Cursor;
use std::str::FromStr as _;
use std::sync::LazyLock;

use bytes::buf::{Chain, Take};
use bytes::{Buf as _, Bytes};
use headers_accept::Accept;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use mediatype::{MediaType, Name, names};

use crate::fields::Fields;

/// The most that is read of what a client accepts, in bytes.
const LONGEST_ACCEPT: usize = 1024;

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
    Text = 0,
    Html = 1,
    Json = 2,
}

/// The media types that stand for a form, the plain ones in the order of our preference. That of a
/// problem (RFC 9457) asks for JSON.
static MEDIA_TYPES: [(Form, MediaType<'_>); 4] = [
    (Form::Text, MediaType::new(names::TEXT, names::PLAIN)),
    (Form::Html, MediaType::new(names::TEXT, names::HTML)),
    (Form::Json, MediaType::new(names::APPLICATION, names::JSON)),
    (
        Form::Json,
        MediaType::from_parts(
            names::APPLICATION,
            Name::new_unchecked("problem"),
            Some(names::JSON),
            &[],
        ),
    ),
];

impl Form {
    /// Every form, in the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Text, Self::Html, Self::Json];

    /// The form that the client likes best (RFC 9110, section 12.5.1). Text when it does not care,
    /// or wants something that there is not: a greeting in a plain form beats none.
    pub(crate) fn wanted(fields: &Fields<'_>) -> Self {
        match fields.accept.first {
            None => return Self::Text,
            Some(first) if first == "*/*" && !fields.accept.repeated => return Self::Text,
            Some(_) => {}
        }
        // Case means nothing here.
        let all: Vec<_> = fields
            .accepts()
            .map(|accept| accept.as_bytes().to_ascii_uppercase())
            .collect();
        let all = all.join(&b',');
        // No client says so much, and reading it would cost more than all the rest of the answer.
        if all.len() > LONGEST_ACCEPT {
            return Self::Text;
        }
        let Some(accept) = std::str::from_utf8(&all).ok().and_then(|all| {
            let all = in_utf_8(all);
            Accept::from_str(&all)
                .or_else(|_| readable(&all).parse())
                .ok()
        }) else {
            return Self::Text;
        };
        let chosen = accept.negotiate(MEDIA_TYPES.iter().map(|(_, known)| known));
        MEDIA_TYPES
            .iter()
            .find(|(_, known)| Some(known) == chosen)
            .map_or(Self::Text, |(form, _)| *form)
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

/// What is sent: text, then perhaps a number, and text after it. Where the text is the same for all, it
/// is never put together.
pub(crate) type Body = Chain<Bytes, Chain<Number, &'static [u8]>>;

/// The digits of a number, or none.
type Number = Take<Cursor<[u8; LONGEST_NUMBER]>>;

/// `i64::MIN`, with its sign.
const LONGEST_NUMBER: usize = 20;

/// A body without a number.
pub(crate) fn body(text: impl Into<Bytes>) -> Body {
    around(text.into(), "", b"")
}

fn around(before: Bytes, number: &str, after: &'static [u8]) -> Body {
    let mut digits = [0; LONGEST_NUMBER];
    digits[..number.len()].copy_from_slice(number.as_bytes());
    let number = Cursor::new(digits).take(number.len());
    before.chain(number.chain(after))
}

/// Greets the visitor with this number.
pub(crate) fn greeting(form: Form, number: i64) -> Body {
    let [before, after] = match form {
        Form::Text => ["Welcome to Abukiks! Visitor count: ", ""],
        Form::Json => [
            "{\"message\":\"Welcome to Abukiks!\",\"visitorCount\":",
            "}",
        ],
        Form::Html => GREETING.each_ref().map(String::as_str),
    };
    let mut digits = itoa::Buffer::new();
    let number = digits.format(number);
    around(
        Bytes::from_static(before.as_bytes()),
        number,
        after.as_bytes(),
    )
}

/// The page that greets, up to the number and after it.
static GREETING: LazyLock<[String; 2]> = LazyLock::new(|| {
    let main = "<h1>Welcome to Abukiks!</h1>\n<p>Visitor count: <strong>{number}</strong></p>";
    let page = filled_in("Welcome to Abukiks!", main);
    let (before, after) = page.split_once("{number}").unwrap_or_default();
    [before, after].map(str::to_owned)
});

fn filled_in(title: &str, main: &str) -> String {
    PAGE.replace("{title}", title).replace("{main}", main)
}

/// Says what went wrong, with its content type. `detail` is a sentence for the visitor; it may hold
/// what stands in Redis, which anybody may have written.
pub(crate) fn problem(form: Form, status: StatusCode, detail: &str) -> (HeaderValue, Bytes) {
    let title = status.canonical_reason().unwrap_or("Error");
    match form {
        Form::Text => (form.content_type(), format!("{title}: {detail}").into()),
        Form::Html => {
            let detail = detail
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            let main = format!(
                "<h1>{title}</h1>\n<p>{detail} <strong>{code}</strong></p>",
                code = status.as_u16()
            );
            (form.content_type(), filled_in(title, &main).into())
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
