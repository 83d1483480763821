//! The greeting, and the problem in its place, as text, HTML and JSON.

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::http::negotiation::Form;

/// The page; `{...}` stand for what differs.
const PAGE: &str = include_str!("page.html");

/// What the page may do: nothing but be styled by its own style sheet, named by its hash.
pub(crate) const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'sha256-",
    "E+O9XTTGTcYLnpW1KrCTyT0QIhzrG9Kd/00qzD6doDs=",
    "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
);

/// Greets the visitor with this number.
pub(crate) fn greeting(form: Form, number: i64) -> String {
    match form {
        Form::Text => format!("Welcome to Abukiks! Visitor count: {number}"),
        Form::Json => {
            format!("{{\"message\":\"Welcome to Abukiks!\",\"visitorCount\":{number}}}")
        }
        Form::Html => {
            let count = format!("<p>Visitor count: <strong>{number}</strong></p>");
            let main = format!("<h1>Welcome to Abukiks!</h1>\n{count}");
            fill_in("Welcome to Abukiks!", &main)
        }
    }
}

fn fill_in(title: &str, main: &str) -> String {
    PAGE.replace("{title}", title).replace("{main}", main)
}

/// Says what went wrong, with its content type. `detail` is a sentence for the visitor; it may hold
/// what stands in Redis, which any client of it may have written.
pub(crate) fn problem(form: Form, status: StatusCode, detail: &str) -> (HeaderValue, String) {
    let title = status.canonical_reason().unwrap_or("Error");
    match form {
        Form::Text => (form.content_type(), format!("{title}: {detail}")),
        Form::Html => {
            let detail = detail.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let main =
                format!("<h1>{title}</h1>\n<p>{detail} <strong>{code}</strong></p>", code = status.as_u16());
            (form.content_type(), fill_in(title, &main))
        }
        // RFC 9457. With the type about:blank it means no more than the status.
        Form::Json => {
            let problem = serde_json::json!({
                "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
            });
            (HeaderValue::from_static("application/problem+json"), problem.to_string())
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
        assert!(CONTENT_SECURITY_POLICY.contains(&source), "the policy wants {source}");
    }
}
