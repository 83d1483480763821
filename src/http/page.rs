//! The greeting, and the problem in its place, as text, HTML and JSON.

use std::time::{Duration, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::http::negotiation::Form;
use crate::store::VisitorSession;

/// The page; `{...}` stand for what differs.
const PAGE: &str = include_str!("page.html");

/// For clients that ask for one though the page has its own.
pub(crate) const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><rect width=\"16\" \
    height=\"16\" rx=\"4\" fill=\"#b4471c\"/><path d=\"M0 7.5h16v1H0z\" fill=\"#fff\"/></svg>\n";

/// What a page may do: nothing but be styled by its own style sheets, named by their hashes; and send a form, or
/// not.
macro_rules! policy {
    ($form_action:literal) => {
        policy!("", $form_action)
    };
    ($more_styles:literal, $form_action:literal) => {
        concat!(
            "default-src 'none'; style-src 'sha256-",
            "E+O9XTTGTcYLnpW1KrCTyT0QIhzrG9Kd/00qzD6doDs=",
            "'",
            $more_styles,
            "; img-src data:; base-uri 'none'; form-action ",
            $form_action,
            "; frame-ancestors 'none'"
        )
    };
}

pub(crate) const CONTENT_SECURITY_POLICY: &str = policy!("'none'");

/// For the page with a form.
pub(crate) const FORM_SECURITY_POLICY: &str = policy!("'self'");

/// What `/status` has beside it, and the other pages do without.
const STATUS_STYLE_SHEET: &str = include_str!("status.css");

/// For the page with both.
pub(crate) const STATUS_SECURITY_POLICY: &str =
    policy!(" 'sha256-X565UX3eItmlxSgIM0BseH9TgBBsQKsX0Ma4f44/EbY='", "'none'");

/// Greets the visitor with this number. `returning` is unknown without sessions.
pub(crate) fn greeting(form: Form, number: i64, returning: Option<bool>) -> String {
    match form {
        // Of exact capacity: `Bytes` takes a further allocation for one with room to spare.
        Form::Text => ["Welcome to Abukiks! Visitor count: ", itoa::Buffer::new().format(number)].concat(),
        Form::Json => {
            let returning =
                returning.map_or(String::new(), |returning| format!(",\"returning\":{returning}"));
            format!("{{\"message\":\"Welcome to Abukiks!\",\"visitorCount\":{number}{returning}}}")
        }
        Form::Html if returning == Some(true) => counter("Welcome back to Abukiks!", "Your number:", number),
        Form::Html => counter("Welcome to Abukiks!", "Visitor count:", number),
    }
}

/// The count, without a visit.
pub(crate) fn count(form: Form, number: i64) -> String {
    match form {
        Form::Text => format!("{number}\n"),
        Form::Json => format!("{{\"visitorCount\":{number}}}"),
        Form::Html => counter("Abukiks", "Visitor count:", number),
    }
}

/// What is kept of a visitor.
pub(crate) fn session(form: Form, kept: Option<VisitorSession>) -> String {
    let kept = kept.map(|VisitorSession { number, since, ends_in }| {
        let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
        (number, since, ends_in.as_secs())
    });
    match (form, kept) {
        (Form::Json, None) => "{\"session\":null}".to_owned(),
        (Form::Json, Some((number, since, seconds))) => {
            format!(
                "{{\"session\":{{\"visitorCount\":{number},\"since\":\"{since}\",\"endsInSeconds\":{seconds}}}}}"
            )
        }
        (Form::Text, None) => "Nothing is kept of you.\n".to_owned(),
        (Form::Text, Some((number, since, seconds))) => {
            format!("Visitor {number} since {since}; forgotten in {seconds} s without a visit.\n")
        }
        (Form::Html, None) => fill_in("Nothing is kept of you", "<h1>Nothing is kept of you</h1>"),
        (Form::Html, Some((number, since, seconds))) => {
            let ends = humantime::format_duration(Duration::from_secs(seconds));
            let main = format!(
                "<h1>What is kept of you</h1>\n<p>Your number: <strong>{number}</strong></p>\n\
                 <p>Given on <time>{since}</time>; forgotten in {ends} without a visit.</p>\n\
                 <form method=\"post\" action=\"/session/forget\"><p><button>Forget me now</button></p></form>"
            );
            fill_in("What is kept of you", &main)
        }
    }
}

fn counter(title: &str, label: &str, number: i64) -> String {
    fill_in(title, &format!("<h1>{title}</h1>\n<p>{label} <strong>{number}</strong></p>"))
}

fn fill_in(title: &str, main: &str) -> String {
    PAGE.replace("{title}", title).replace("{main}", main)
}

/// `/status` with this content.
pub(crate) fn status(main: &str) -> String {
    let both = format!("</style>\n<style>{STATUS_STYLE_SHEET}</style>");
    fill_in("Status of Abukiks", main).replace("</style>", &both)
}

/// Text as it stands in HTML and in SVG.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text as a string of JSON.
pub(crate) fn quoted(text: &str) -> String {
    // Writing text into memory cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// What 413 means since RFC 9110.
pub(crate) const CONTENT_TOO_LARGE: &str = "Content Too Large";

/// Says what went wrong, with its content type. `detail` is a sentence for the visitor; it may hold
/// what stands in Redis, which any client of it may have written.
pub(crate) fn problem(form: Form, status: StatusCode, detail: &str) -> (HeaderValue, String) {
    let title = match status {
        StatusCode::PAYLOAD_TOO_LARGE => CONTENT_TOO_LARGE,
        status => status.canonical_reason().unwrap_or("Error"),
    };
    match form {
        Form::Text => (form.content_type(), format!("{title}: {detail}")),
        Form::Html => {
            let detail = escape(detail);
            let main =
                format!("<h1>{title}</h1>\n<p>{detail} <strong>{code}</strong></p>", code = status.as_u16());
            (form.content_type(), fill_in(title, &main))
        }
        // RFC 9457. With the type about:blank it means no more than the status.
        Form::Json => {
            let problem = format!(
                r#"{{"type":"about:blank","title":"{title}","status":{},"detail":{}}}"#,
                status.as_u16(),
                quoted(detail)
            );
            (HeaderValue::from_static("application/problem+json"), problem)
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use ring::digest::{SHA256, digest};

    use super::{CONTENT_SECURITY_POLICY, PAGE, STATUS_SECURITY_POLICY, STATUS_STYLE_SHEET};

    /// Browsers would refuse the style sheet otherwise.
    #[test]
    fn the_content_security_policy_names_the_style_sheets_of_a_page() {
        let (_, rest) = PAGE.split_once("<style>").expect("a style sheet");
        let (style_sheet, _) = rest.split_once("</style>").expect("its end");
        let [own, of_status] = [style_sheet, STATUS_STYLE_SHEET]
            .map(|text| format!("'sha256-{}'", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()))));
        let sources = format!("style-src {own};");
        assert!(CONTENT_SECURITY_POLICY.contains(&sources), "the policy wants {sources}");
        let sources = format!("style-src {own} {of_status};");
        assert!(STATUS_SECURITY_POLICY.contains(&sources), "the policy wants {sources}");
    }
}
