//! Which request gets which answer.

use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body as _;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Response, StatusCode};

use crate::counter::Refusal;
use crate::http::app::App;
use crate::http::negotiation::Form;
use crate::http::page;
use crate::http::request::{RequestMeta, Route};
use crate::http::request_id::REQUEST_ID;
use crate::http::validate::Fault;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::version::{COMMIT, VERSION};

/// A page without scripts, forms or frames needs none of what these forbid.
const PAGE_HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// An answer, and what is logged of it.
pub(crate) struct Answer {
    pub(crate) response: Response<Full<Bytes>>,
    /// The number that was given out.
    pub(crate) visit: Option<i64>,
}

impl Answer {
    fn new(status: StatusCode, content_type: HeaderValue, content: impl Into<Bytes>) -> Self {
        let mut response = Response::new(Full::new(content.into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if content_type == Form::Html.content_type() {
            for (name, value) in PAGE_HEADERS {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self { response, visit: None }
    }

    fn problem(form: Form, status: StatusCode, detail: &str) -> Self {
        let (content_type, content) = page::problem(form, status, detail);
        Self::new(status, content_type, content).with(header::VARY, "Accept")
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        let value = HeaderValue::from_static(value);
        self.response.headers_mut().insert(name, value);
        self
    }

    /// The size of the content, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.response.body().size_hint().lower()
    }
}

/// The head of a greeting in each form. To put it together for every visit takes a tenth of the
/// instructions of a request.
static GREETING_HEADS: LazyLock<[Parts; 3]> = LazyLock::new(|| {
    Form::ALL.map(|form| {
        let (mut head, _) = without_content(form, StatusCode::OK).response.into_parts();
        // A clone has no room for one more header: this is the place of the request's id.
        head.headers.insert(&REQUEST_ID, HeaderValue::from_static(""));
        head
    })
});

/// Answers one request.
pub(crate) async fn answer(app: &App, meta: &RequestMeta<'_>) -> Answer {
    let form = meta.form;
    let mut answer = match meta.framing {
        Err(Fault::Malformed(what)) => Answer::problem(form, StatusCode::BAD_REQUEST, what),
        Err(Fault::TooLarge) => {
            app.metrics.limit_hits.body_bytes.inc();
            let detail = "Nothing here takes content, least of all so much.";
            Answer::problem(form, StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Ok(_) => match (meta.method, meta.route) {
            // A browser throws it away, and asks again when the visit is real.
            (&Method::GET, Route::Root) if meta.is_prefetch => without_content(form, StatusCode::NO_CONTENT),
            (&Method::GET, Route::Root) => greet(form, app.counter.visit(meta.arrived).await),
            (&Method::GET | &Method::HEAD, Route::Readyz) => readiness(app, form).await,
            _ => without_counter(app, meta),
        },
    };
    if meta.framing.map_or(true, |frame| frame.has_content) || app.is_draining() {
        answer = answer.with(header::CONNECTION, "close");
    }
    answer
}

/// Answers what takes nothing of Redis.
fn without_counter(app: &App, meta: &RequestMeta<'_>) -> Answer {
    let (form, route) = (meta.form, meta.route);
    // Not so OPTIONS * and CONNECT, which are about the server itself.
    let names_resource = meta.path.starts_with('/');
    match (meta.method, route) {
        (_, Route::Unknown | Route::Malformed) if names_resource => {
            Answer::problem(form, StatusCode::NOT_FOUND, "There is nothing at this address.")
        }
        (&Method::HEAD, Route::Root) => without_content(form, StatusCode::OK),
        (&Method::GET | &Method::HEAD, Route::Healthz) => {
            Answer::new(StatusCode::OK, Form::Text.content_type(), "ok\n")
        }
        (&Method::GET | &Method::HEAD, Route::Version) => version(app),
        (&Method::GET | &Method::HEAD, Route::Metrics) => {
            Answer::new(StatusCode::OK, HeaderValue::from_static(CONTENT_TYPE), app.metrics.render())
        }
        _ => {
            let detail = "Only GET and HEAD are understood here.";
            Answer::problem(form, StatusCode::METHOD_NOT_ALLOWED, detail).with(header::ALLOW, "GET, HEAD")
        }
    }
}

/// `GET /`: greets the visitor with a number, or gives the reason for a refusal.
fn greet(form: Form, visit: Result<i64, Refusal>) -> Answer {
    match visit {
        Ok(number) => Answer {
            response: Response::from_parts(
                GREETING_HEADS[form as usize].clone(),
                Full::new(page::greeting(form, number).into()),
            ),
            visit: Some(number),
        },
        Err(refusal) => {
            // The reason is in the log; the visitor learns no more than helps.
            let detail = match refusal {
                Refusal::QueueFull => "Too many visitors are waiting. Please try again in a second.",
                Refusal::Unreachable(_) | Refusal::Uncountable(_) | Refusal::Fenced => {
                    "Visitors cannot be counted right now. Please try again in a second."
                }
            };
            unready(form, detail)
        }
    }
}

/// The headers of `GET /`; the content, and with it its length, would need a visit.
fn without_content(form: Form, status: StatusCode) -> Answer {
    Answer::new(status, form.content_type(), "").with(header::VARY, "Accept, Sec-Purpose")
}

/// `/readyz`: whether a visit could be counted here now.
async fn readiness(app: &App, form: Form) -> Answer {
    if app.is_draining() {
        return unready(form, "draining");
    }
    match app.counter.probe().await {
        Ok(()) => Answer::new(StatusCode::OK, Form::Text.content_type(), "ready\n"),
        Err(refusal) => unready(form, &refusal.to_string()),
    }
}

fn unready(form: Form, reason: &str) -> Answer {
    Answer::problem(form, StatusCode::SERVICE_UNAVAILABLE, reason).with(header::RETRY_AFTER, "1")
}

/// `/version`: what runs here.
fn version(app: &App) -> Answer {
    let version = serde_json::json!({
        "version": VERSION, "commit": COMMIT, "release": app.release,
    });
    Answer::new(StatusCode::OK, Form::Json.content_type(), version.to_string())
}
