//! Which request gets which answer.

use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::timeout;

use crate::counter::Refusal;
use crate::http::app::App;
use crate::http::badge::badge;
use crate::http::negotiation::{Form, exposition};
use crate::http::request::{Intent, RequestMeta, Route};
use crate::http::request_id::REQUEST_ID;
use crate::http::validate::{CONTENT, Fault};
use crate::http::{cookie, cors, page};
use crate::store::{SessionReply, SessionRequest};
use crate::version::{COMMIT, VERSION};

static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A page without scripts, forms or frames needs none of what these forbid.
const PAGE_HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// A visit that was answered with a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visited {
    pub(crate) number: i64,
    /// Whether the visitor has come back; unknown without sessions.
    pub(crate) returning: Option<bool>,
}

/// An answer, and what is logged of it.
pub(crate) struct Answer {
    pub(crate) response: Response<Full<Bytes>>,
    pub(crate) visit: Option<Visited>,
    /// Why the request was refused, when it was malformed.
    pub(crate) reason: Option<&'static str>,
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
        Self { response, visit: None, reason: None }
    }

    fn text(status: StatusCode, text: &'static str) -> Self {
        Self::new(status, Form::Text.content_type(), text)
    }

    fn ok(form: Form, content: String) -> Self {
        Self::new(StatusCode::OK, form.content_type(), content).with(header::VARY, "Accept")
    }

    fn problem(form: Form, status: StatusCode, detail: &str) -> Self {
        let (content_type, content) = page::problem(form, status, detail);
        let mut answer = Self::new(status, content_type, content).with(header::VARY, "Accept");
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let phrase = ReasonPhrase::from_static(page::CONTENT_TOO_LARGE.as_bytes());
            answer.response.extensions_mut().insert(phrase);
        }
        answer
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        self.with_value(name, HeaderValue::from_static(value))
    }

    fn with_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
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
        let (mut head, _) = without_content(form).response.into_parts();
        // A clone has no room for one more header: this is the place of the request's id.
        head.headers.insert(&REQUEST_ID, HeaderValue::from_static(""));
        head
    })
});

/// Answers one request.
pub(crate) async fn answer(app: &App, meta: &RequestMeta<'_>, content: Incoming) -> Answer {
    let form = meta.form;
    let framing = match meta.framing {
        // So a proxy may pass on what came without content by HTTP/2.
        Ok(frame) if frame.is_chunked && matches!(*meta.method, Method::GET | Method::HEAD) => {
            let is_empty = timeout(app.config.header_timeout, is_empty(content)).await;
            if is_empty == Ok(true) { Ok(frame) } else { Err(CONTENT) }
        }
        other => other,
    };
    let mut answer = match framing {
        Err(Fault::Malformed(what)) => Answer::problem(form, StatusCode::BAD_REQUEST, what),
        Err(Fault::TooLarge) => {
            app.metrics.limit_hits.body_bytes.inc();
            let detail = "Nothing here takes content, least of all so much.";
            Answer::problem(form, StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Ok(_) if !is_known(meta.method) => {
            let detail = "No method of this name is known here.";
            Answer::problem(form, StatusCode::NOT_IMPLEMENTED, detail)
        }
        Ok(_) => match (meta.method, meta.route) {
            (&Method::GET, Route::Root | Route::Badge) => visit(app, meta).await,
            (&Method::GET | &Method::HEAD, Route::Count) => count(app, form).await,
            (_, Route::Session | Route::Forget) => session(app, meta).await,
            (&Method::GET | &Method::HEAD, Route::Readyz) => readiness(app, form).await,
            _ => without_counter(app, meta),
        },
    };
    if matches!(meta.route, Route::Root | Route::Count | Route::Badge) {
        cors::allow(&app.config, meta.headers, answer.response.headers_mut());
    }
    if framing.map_or(true, |frame| frame.has_content) || app.is_draining() {
        answer = answer.with(header::CONNECTION, "close");
    }
    answer.reason = match framing {
        Err(Fault::Malformed(what)) => Some(what),
        Err(Fault::TooLarge) => Some("it announces more content than MAX_BODY_BYTES"),
        Ok(_) => None,
    };
    answer
}

/// Whether content ends before it has begun.
async fn is_empty(mut content: Incoming) -> bool {
    while let Some(frame) = content.frame().await {
        if !frame.is_ok_and(|frame| frame.data_ref().is_none_or(Bytes::is_empty)) {
            return false;
        }
    }
    true
}

/// Whether this is a method of HTTP: of RFC 9110, of RFC 5789, or the new QUERY.
fn is_known(method: &Method) -> bool {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];
    known.contains(&method.as_str())
}

/// Answers what takes nothing of Redis.
fn without_counter(app: &App, meta: &RequestMeta<'_>) -> Answer {
    let (form, route) = (meta.form, meta.route);
    // Not so OPTIONS * and CONNECT, which are about the server itself.
    let names_resource = meta.path.starts_with('/');
    match (meta.method, route) {
        (_, Route::Unknown) if names_resource => {
            Answer::problem(form, StatusCode::NOT_FOUND, "There is nothing at this address.")
        }
        (&Method::OPTIONS, _) => Answer::new(StatusCode::NO_CONTENT, form.content_type(), "")
            .with(header::ALLOW, allowed_methods(route)),
        // After it browsers ask again when the visit is real. After 204 they would show nothing.
        (&Method::GET, Route::Prefetch) => unready(form, "A visit is not counted ahead of itself."),
        (&Method::HEAD, Route::Root) => without_content(form),
        (&Method::HEAD, Route::Badge) => picture(String::new()),
        (&Method::GET | &Method::HEAD, Route::Healthz) => Answer::text(StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, Route::Version) => version(app),
        (&Method::GET | &Method::HEAD, Route::Metrics) => {
            let exposition = exposition(meta.headers);
            let content_type = HeaderValue::from_static(exposition.content_type());
            Answer::new(StatusCode::OK, content_type, app.metrics.render(exposition))
                .with(header::VARY, "Accept")
        }
        (&Method::GET | &Method::HEAD, Route::Robots) => {
            let rules = if app.config.robots_disallow {
                "User-agent: *\nDisallow: /$\nDisallow: /?\nDisallow: /badge.svg\n"
            } else {
                "User-agent: *\nDisallow:\n"
            };
            Answer::text(StatusCode::OK, rules).with(header::CACHE_CONTROL, "max-age=3600")
        }
        (&Method::GET | &Method::HEAD, Route::Favicon) => {
            Answer::new(StatusCode::OK, HeaderValue::from_static("image/svg+xml"), page::ICON)
                .with(header::CACHE_CONTROL, "max-age=86400")
        }
        _ => not_allowed(form, route),
    }
}

fn not_allowed(form: Form, route: Route) -> Answer {
    let methods = allowed_methods(route);
    let detail = format!("Only these methods are understood here: {methods}.");
    Answer::problem(form, StatusCode::METHOD_NOT_ALLOWED, &detail).with(header::ALLOW, methods)
}

fn allowed_methods(route: Route) -> &'static str {
    match route {
        Route::Session => "GET, HEAD, DELETE, OPTIONS",
        Route::Forget => "POST, OPTIONS",
        _ => "GET, HEAD, OPTIONS",
    }
}

/// `GET /` and `GET /badge.svg`: counts the visit of one who is not known, and tells the number, or gives the
/// reason for a refusal.
async fn visit(app: &App, meta: &RequestMeta<'_>) -> Answer {
    let form = meta.form;
    if meta.intent == Intent::EarlyData {
        let detail = "A visit is not counted before it is sure to come once. Please send it again.";
        return Answer::problem(form, StatusCode::TOO_EARLY, detail);
    }
    if meta.route == Route::Root && meta.intent == Intent::Part {
        let detail = "This page counts those who open it. For other pages there is /badge.svg.";
        return Answer::problem(form, StatusCode::FORBIDDEN, detail);
    }
    let shows_only = |query: &str| query.split('&').any(|parameter| parameter == "count=no");
    if meta.route == Route::Badge && meta.query.is_some_and(shows_only) {
        return match app.counter.count().await {
            Ok(number) => picture(badge(&app.config, number)),
            Err(refusal) => refused(form, &refusal),
        };
    }
    let visited = match app.config.session_lifetime {
        None => {
            let number = app.counter.visit(meta.arrived).await;
            number.map(|number| (Visited { number, returning: None }, None))
        }
        Some(lifetime) => {
            let visit = app
                .counter
                .visit_in_session(cookie::named_session(meta.headers, meta.is_https), meta.arrived)
                .await;
            visit.map(|(number, id, returning)| {
                let cookie = cookie::keep(id, lifetime, meta.is_https);
                (Visited { number, returning: Some(returning) }, Some(cookie))
            })
        }
    };
    let (visited, cookie) = match visited {
        Ok(visited) => visited,
        Err(refusal) => return refused(form, &refusal),
    };
    let Visited { number, returning } = visited;
    let mut answer = match meta.route {
        Route::Badge => picture(badge(&app.config, number)),
        _ => {
            let content = page::greeting(form, number, returning);
            let head = GREETING_HEADS[form as usize].clone();
            Answer {
                response: Response::from_parts(head, Full::new(content.into())),
                visit: None,
                reason: None,
            }
        }
    };
    answer.visit = Some(visited);
    match cookie {
        None => answer,
        Some(cookie) => answer.with_value(header::SET_COOKIE, cookie),
    }
}

/// The reason is in the log; the visitor learns no more than helps.
fn refused(form: Form, refusal: &Refusal) -> Answer {
    let detail = match refusal {
        Refusal::QueueFull => "Too many visitors are waiting. Please try again in a second.",
        Refusal::Unreachable(_) | Refusal::Uncountable(_) | Refusal::Fenced => {
            "Visitors cannot be counted right now. Please try again in a second."
        }
    };
    unready(form, detail)
}

/// An image for other pages. What caches images for them, as code forges do, is asked not to.
fn picture(content: String) -> Answer {
    Answer::new(StatusCode::OK, HeaderValue::from_static("image/svg+xml"), content)
        .with(header::CACHE_CONTROL, "max-age=0, no-cache, no-store, must-revalidate")
        .with(header::CONTENT_SECURITY_POLICY, "default-src 'none'")
        .with(CROSS_ORIGIN_RESOURCE_POLICY.clone(), "cross-origin")
}

/// `/count`: the count, without a visit.
async fn count(app: &App, form: Form) -> Answer {
    match app.counter.count().await {
        Err(refusal) => refused(form, &refusal),
        Ok(number) => {
            let answer = Answer::ok(form, page::count(form, number));
            match app.config.count_max_age.as_secs() {
                0 => answer,
                age => match HeaderValue::try_from(format!("max-age={age}")) {
                    Ok(age) => answer.with_value(header::CACHE_CONTROL, age),
                    Err(_) => answer,
                },
            }
        }
    }
}

/// `/session`: shows a visitor what is kept of them, or removes it.
async fn session(app: &App, meta: &RequestMeta<'_>) -> Answer {
    let form = meta.form;
    let same_origin = cors::is_same_origin(meta.headers);
    let (forgets, allowed) = match (meta.method, meta.route) {
        (&Method::GET | &Method::HEAD, Route::Session) => (false, true),
        (&Method::DELETE, Route::Session) => (true, same_origin != Some(false)),
        (&Method::POST, Route::Forget) => (true, same_origin == Some(true)),
        _ => return without_counter(app, meta),
    };
    if app.config.session_lifetime.is_none() {
        let detail = "No sessions are kept here (SESSION_LIFETIME=off).";
        return Answer::problem(form, StatusCode::NOT_FOUND, detail);
    }
    if !allowed {
        let detail = "Only a page of this site may ask for that.";
        return Answer::problem(form, StatusCode::FORBIDDEN, detail);
    }
    let reply = match cookie::named_session(meta.headers, meta.is_https) {
        None => Ok(SessionReply::None),
        Some(id) => {
            let request = if forgets { SessionRequest::Forget(id) } else { SessionRequest::Show(id) };
            app.counter.session(request, meta.arrived).await
        }
    };
    let kept = match reply {
        Ok(SessionReply::Kept(session)) => Some(session),
        Ok(_) => None,
        Err(refusal) => return refused(form, &refusal),
    };
    if forgets {
        let answer = match meta.route {
            Route::Forget => {
                Answer::new(StatusCode::SEE_OTHER, form.content_type(), "").with(header::LOCATION, "/session")
            }
            _ => Answer::new(StatusCode::NO_CONTENT, form.content_type(), ""),
        };
        return cookie::forget(meta.is_https).into_iter().fold(answer, |mut answer, cookie| {
            answer.response.headers_mut().append(header::SET_COOKIE, cookie);
            answer
        });
    }
    let answer = Answer::ok(form, page::session(form, kept));
    match form {
        Form::Html => answer
            .with(header::CONTENT_SECURITY_POLICY, page::FORM_SECURITY_POLICY)
            // With less, the browser would not say where the form comes from.
            .with(header::REFERRER_POLICY, "same-origin"),
        _ => answer,
    }
}

/// The headers of `GET /`; the content, and with it its length, would need a visit.
fn without_content(form: Form) -> Answer {
    Answer::new(StatusCode::OK, form.content_type(), "").with(header::VARY, "Accept, Sec-Purpose")
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
