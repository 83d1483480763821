//! Which request gets which answer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use bytes::{Buf as _, Bytes};
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::connection::{Connection, Doing};
use crate::correlation::{REQUEST_ID, RequestId, TraceParent};
use crate::counter::{Counter, Refusal};
use crate::fields::Fields;
use crate::framing::{self, Content, Fault};
use crate::metrics::{self, Limit, Metrics};
use crate::page::{self, Body, Form};
use crate::telemetry::{Access, AccessLog};

/// What every request may need.
#[derive(Debug)]
pub struct App {
    /// The way to a number.
    pub counter: Counter,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// The release that answers, for `/version`.
    pub release: String,
    /// The process is about to end: invite nobody to stay.
    pub draining: AtomicBool,
    /// `MAX_BODY_BYTES`.
    pub max_body_bytes: usize,
}

impl App {
    /// Measures and logs a request.
    fn account(&self, route: Route, access: &Access<'_>) {
        self.metrics
            .answered(route, access.status, access.duration.as_secs_f64());
        self.access_log.write(access);
    }

    /// The state in a few words, for `systemctl status`.
    pub(crate) fn status(&self) -> String {
        let metrics = &self.metrics;
        format!(
            "{}: {} connections open, {} requests answered, Redis {}",
            if self.draining.load(Relaxed) {
                "draining"
            } else {
                "serving"
            },
            metrics.connections.get(),
            metrics.requests(),
            if metrics.redis_up.get() == 1 {
                "answers"
            } else {
                "does not answer or was not needed yet"
            },
        )
    }
}

/// The resources, and whatever is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its path")]
pub enum Route {
    Root = 0,
    Healthz = 1,
    Readyz = 2,
    Metrics = 3,
    Version = 4,
    /// No such path.
    Unknown = 5,
    /// Not even a request.
    Malformed = 6,
}

impl Route {
    /// Every route, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Root,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Version,
        Self::Unknown,
        Self::Malformed,
    ];

    fn of(path: &str) -> Self {
        match path {
            "/" => Self::Root,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/version" => Self::Version,
            _ => Self::Unknown,
        }
    }

    /// The route as metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Version => "/version",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
        }
    }
}

/// What a route decides; the rest of the answer is the same for all.
struct Answer {
    response: Response<Full<Body>>,
    bytes: u64,
    visit: Option<i64>,
}

impl Answer {
    fn new(status: StatusCode, content_type: HeaderValue, content: impl Into<Bytes>) -> Self {
        let body = page::body(content);
        let bytes = body.remaining() as u64;
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        hold_place_of_request_id(headers);
        if content_type == Form::Html.content_type() {
            page_headers(headers);
        }
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Self {
            response,
            bytes,
            visit: None,
        }
    }

    fn greeting(form: Form, number: i64) -> Self {
        let body = page::greeting(form, number);
        Self {
            bytes: body.remaining() as u64,
            response: Response::from_parts(GREETING_HEADS[form as usize].clone(), Full::new(body)),
            visit: Some(number),
        }
    }

    fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self::new(status, Form::Text.content_type(), text)
    }

    fn problem(form: Form, status: StatusCode, detail: &str) -> Self {
        let (content_type, content) = page::problem(form, status, detail);
        Self::new(status, content_type, content).with(header::VARY, "Accept")
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        self
    }
}

/// The head of a greeting in each form, put together once and not for every visit.
static GREETING_HEADS: LazyLock<[Parts; 3]> = LazyLock::new(|| {
    Form::ALL.map(|form| {
        let greeting = without_content(form, StatusCode::OK);
        greeting.response.into_parts().0
    })
});

/// Puts the request's id first among the headers of an answer, before it is known.
fn hold_place_of_request_id(headers: &mut HeaderMap) {
    headers.insert(&REQUEST_ID, HeaderValue::from_static(""));
}

/// Puts the request's id into its place.
fn put_request_id(headers: &mut HeaderMap, id: &RequestId) {
    if let Some(place) = headers.values_mut().next() {
        *place = id.header();
    }
}

/// A page without scripts, forms or frames needs none of what these forbid.
fn page_headers(headers: &mut HeaderMap) {
    let page_only = [
        (
            header::CONTENT_SECURITY_POLICY,
            page::CONTENT_SECURITY_POLICY,
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in page_only {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What a request asks for.
struct Asked {
    route: Route,
    framing: Result<Content, Fault>,
    /// In which form it wants its answer.
    form: Form,
    /// A browser fetches ahead of a visit that may never come.
    prefetch: bool,
    request_id: RequestId,
    trace: Option<TraceParent>,
}

impl Asked {
    fn of<B>(app: &App, connection: &Connection, request: &Request<B>) -> Self {
        let fields = Fields::of(request.headers());
        let framing = if connection.next_has_right_lines() {
            framing::check(request, &fields, app.max_body_bytes)
        } else {
            Err(Fault::Malformed(
                "a line does not end in CRLF or begins with a CR, or the request target has a fragment",
            ))
        };
        connection.note_last_request(fields.says_close() && framing == Ok(Content::None));
        Self {
            route: match framing {
                Err(Fault::Malformed(_)) => Route::Malformed,
                _ => Route::of(request.uri().path()),
            },
            framing,
            form: Form::wanted(&fields),
            prefetch: fields.prefetch,
            request_id: RequestId::of(&fields.request_id),
            trace: TraceParent::of(&fields.traceparent),
        }
    }
}

/// The status under which a request is measured and logged that ended without an answer (nginx's).
pub(crate) const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => unreachable!(),
};

/// A request under way. It is measured and logged when it is over: answered, or dropped because its
/// client has left or the process may wait no longer.
struct Exchange<'a, B> {
    app: &'a App,
    connection: &'a Connection,
    request: &'a Request<B>,
    asked: Asked,
    arrived: Instant,
    status: StatusCode,
    bytes: u64,
    visit: Option<i64>,
}

impl<B> Drop for Exchange<'_, B> {
    fn drop(&mut self) {
        let access = Access {
            method: Some(self.request.method()),
            path: self.request.uri().path(),
            status: self.status,
            bytes: match *self.request.method() {
                Method::HEAD => 0,
                _ => self.bytes,
            },
            duration: self.arrived.elapsed(),
            visit: self.visit,
            client: self.connection.client.as_deref(),
            request_id: &self.asked.request_id,
            trace: self.asked.trace.as_ref(),
        };
        self.app.account(self.asked.route, &access);
    }
}

/// Answers one request.
pub(crate) async fn answer<B>(
    app: &App,
    connection: &Connection,
    request: &Request<B>,
) -> Response<Full<Body>> {
    let arrived = Instant::now();
    connection.goes_on_to(Doing::Answering);
    let mut exchange = Exchange {
        app,
        connection,
        request,
        asked: Asked::of(app, connection, request),
        arrived,
        status: CLIENT_CLOSED_REQUEST,
        bytes: 0,
        visit: None,
    };
    let asked = &exchange.asked;
    let (form, route) = (asked.form, asked.route);
    let mut answer = match asked.framing {
        Err(Fault::Malformed(what)) => Answer::problem(form, StatusCode::BAD_REQUEST, what),
        Err(Fault::TooLarge) => {
            app.metrics.hit(Limit::BodyBytes);
            let detail = "Nothing here takes content, least of all so much.";
            Answer::problem(form, StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        // A browser throws it away, and asks again when the visit is real.
        Ok(_) if asked.prefetch && (request.method(), route) == (&Method::GET, Route::Root) => {
            without_content(form, StatusCode::NO_CONTENT)
        }
        Ok(_) => match (request.method(), route) {
            (&Method::GET, Route::Root) => greet(form, app.counter.visit(arrived).await),
            (&Method::GET | &Method::HEAD, Route::Readyz) => readiness(app, form).await,
            _ => without_counter(app, form, request, route),
        },
    };

    let headers = answer.response.headers_mut();
    put_request_id(headers, &asked.request_id);
    if asked.framing != Ok(Content::None) || app.draining.load(Relaxed) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.status = answer.response.status();
    exchange.bytes = answer.bytes;
    exchange.visit = answer.visit;
    drop(exchange);
    connection.goes_on_to(Doing::Answered);
    answer.response
}

/// Accounts for a request that never became one: nobody can say what it asked for.
pub(crate) fn log_unreadable(app: &App, connection: &Connection, status: StatusCode) {
    if status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE || status == StatusCode::URI_TOO_LONG {
        app.metrics.hit(Limit::Headers);
    }
    let (_, duration) = connection.seen(Instant::now());
    let access = Access {
        method: None,
        path: "-",
        status,
        bytes: 0,
        duration,
        visit: None,
        client: connection.client.as_deref(),
        request_id: &RequestId::new(),
        trace: None,
    };
    app.account(Route::Malformed, &access);
}

/// Answers what takes nothing of Redis.
fn without_counter<B>(app: &App, form: Form, request: &Request<B>, route: Route) -> Answer {
    // Not so OPTIONS * and CONNECT, which are about the server itself.
    let names_resource = request.uri().path().starts_with('/');
    match (request.method(), route) {
        (_, Route::Unknown | Route::Malformed) if names_resource => Answer::problem(
            form,
            StatusCode::NOT_FOUND,
            "There is nothing at this address.",
        ),
        (&Method::HEAD, Route::Root) => without_content(form, StatusCode::OK),
        (&Method::GET | &Method::HEAD, Route::Healthz) => Answer::text(StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, Route::Version) => version(app),
        (&Method::GET | &Method::HEAD, Route::Metrics) => Answer::new(
            StatusCode::OK,
            HeaderValue::from_static(metrics::CONTENT_TYPE),
            app.metrics.render(),
        ),
        _ => {
            let detail = "Only GET and HEAD are understood here.";
            Answer::problem(form, StatusCode::METHOD_NOT_ALLOWED, detail)
                .with(header::ALLOW, "GET, HEAD")
        }
    }
}

/// `GET /`: greets the visitor who was counted, or says why nobody was.
fn greet(form: Form, visit: Result<i64, Refusal>) -> Answer {
    match visit {
        Ok(number) => Answer::greeting(form, number),
        Err(refusal) => {
            // The log says why; the visitor learns no more than helps.
            let detail = match refusal {
                Refusal::QueueFull => {
                    "Too many visitors are waiting. Please try again in a second."
                }
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
    Answer::new(status, form.content_type(), Bytes::new()).with(header::VARY, "Accept, Sec-Purpose")
}

/// `/readyz`: whether a visit could be counted here now.
async fn readiness(app: &App, form: Form) -> Answer {
    if app.draining.load(Relaxed) {
        return unready(form, "draining");
    }
    match app.counter.probe().await {
        Ok(()) => Answer::text(StatusCode::OK, "ready\n"),
        Err(refusal) => unready(form, &refusal.to_string()),
    }
}

fn unready(form: Form, reason: &str) -> Answer {
    Answer::problem(form, StatusCode::SERVICE_UNAVAILABLE, reason).with(header::RETRY_AFTER, "1")
}

/// `/version`: what runs here.
fn version(app: &App) -> Answer {
    let version = serde_json::json!({
        "version": crate::VERSION, "commit": crate::COMMIT, "release": app.release,
    });
    Answer::new(
        StatusCode::OK,
        Form::Json.content_type(),
        version.to_string(),
    )
}
