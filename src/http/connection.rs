//! One connection: its state, how it is served, and how it ends.
//!
//! hyper can time the reading of headers, but it registers a timer for every request, which costs
//! a quarter of what a request costs here altogether, and it cannot tell an idle connection from a
//! slow request. So a connection only notes its state, and one sweep over all of them, a few times a
//! second, ends those that have been in it for too long.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, REFERER, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout};

use crate::http::app::App;
use crate::http::request::{Entrance, RequestMeta, Route};
use crate::http::request_id::{REQUEST_ID, RequestId, TraceParent};
use crate::http::routes::{self, Visited};
use crate::http::socket::{Socket, check_reset};
use crate::telemetry::access_log::{Access, AccessDetail};

/// How long a connection that is over is still read from.
const MAX_LINGER: Duration = Duration::from_secs(1);

/// The status under which a request is measured and logged that ended without an answer (nginx's).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing has been received yet.
    Opened,
    /// The head of a request has begun to arrive.
    Receiving,
    /// A request is answered.
    Answering,
    /// The answer is not yet with the kernel as a whole.
    Sending,
    /// Waiting for another request.
    Idle,
    /// Over, but for what the client still sends.
    Closing,
}

impl State {
    /// Whether nothing is on its way, as far as this side can know.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Opened | Self::Sending | Self::Idle)
    }
}

/// What the sweep and the drain know of a connection, and by which they end it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The address of the other side, and its text for the log; `None` on a unix socket.
    peer: Option<(IpAddr, String)>,
    pub(crate) entrance: Entrance,
    activity: RefCell<Activity>,
}

#[derive(Debug)]
struct Activity {
    state: State,
    since: Instant,
    /// When the last bytes came.
    received: Instant,
    /// To end, unless the state changes before the task hears of it.
    must_end: bool,
    /// To heed a reset by the client for as long as this state lasts.
    heeds_reset: bool,
    /// The request answered last is the client's last one, by its own word.
    was_last_request: bool,
    /// Wakes the connection's task, to look at what is asked of it here.
    waker: Option<Waker>,
}

impl Connection {
    pub(crate) fn new(peer: Option<IpAddr>, entrance: Entrance) -> Self {
        let now = Instant::now();
        Self {
            entrance,
            peer: peer.map(|address| (address, address.to_string())),
            activity: RefCell::new(Activity {
                state: State::Opened,
                since: now,
                received: now,
                must_end: false,
                heeds_reset: false,
                was_last_request: false,
                waker: None,
            }),
        }
    }

    fn peer(&self) -> Option<(IpAddr, &str)> {
        self.peer.as_ref().map(|(address, text)| (*address, &**text))
    }

    /// The state, and for how long it has lasted.
    pub(crate) fn state(&self, now: Instant) -> (State, Duration) {
        let activity = self.activity.borrow();
        let lasted = now.saturating_duration_since(activity.since);
        (activity.state, lasted)
    }

    /// Asks the connection to end, unless its state changes before it hears of it.
    pub(crate) fn end(&self) {
        let mut activity = self.activity.borrow_mut();
        activity.must_end = true;
        activity.wake();
    }

    /// Asks a connection that answers to heed a reset by the client from now on.
    pub(crate) fn heed_reset(&self) {
        let mut activity = self.activity.borrow_mut();
        if !std::mem::replace(&mut activity.heeds_reset, true) {
            activity.wake();
        }
    }
}

impl Activity {
    fn set_state(&mut self, state: State, since: Instant) {
        self.state = state;
        self.since = since;
        self.must_end = false;
        self.heeds_reset = false;
    }

    /// Returns when the request arrived: with the last bytes, or once the one before was answered, if they came
    /// together.
    fn begin_answering(&mut self) -> Instant {
        let arrived = self.received.max(self.since);
        self.set_state(State::Answering, arrived);
        arrived
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Fails if the connection is to end; if not, has the task woken when it is.
    fn heed_end(&mut self, context: &Context<'_>) -> io::Result<()> {
        if self.must_end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        Ok(())
    }
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve(app: Arc<App>, connection: Rc<Connection>, socket: Socket) {
    let (app, connection) = (&*app, &*connection);
    let mut io = MonitoredIo { socket, connection, first_bytes: [0; 12], last_bytes: [0; 4] };
    // Boxed, so that a connection has room for what answers a request only while one is answered.
    let service = service_fn(|request| Box::pin(respond(app, connection, request)));
    let ended = app.http.serve_connection(TokioIo::new(&mut io), service).await;
    let end = End::of(ended, &connection.activity.borrow());
    let final_bytes = match end {
        // Nothing may follow what the client has called its last request (RFC 9112, section 9.6).
        End::Finished if connection.activity.borrow().was_last_request => return,
        End::Finished => String::new(),
        // No answer is on its way that a reset could destroy.
        End::Idle | End::Broken => return,
        End::Refused { status, reason, by_hyper } => {
            if matches!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG) {
                app.metrics.limit_hits.headers.inc();
            }
            let (_, duration) = connection.state(Instant::now());
            let reason = other_protocol(&io.first_bytes).unwrap_or(&reason);
            let client = connection.peer().map(|(_, text)| text);
            let outcome = Outcome { status: status.as_u16(), reason: Some(reason), ..Outcome::default() };
            log(app, client, &RequestId::new(), None, &outcome, duration);
            match by_hyper {
                true => String::new(),
                false => {
                    let date = httpdate::fmt_http_date(SystemTime::now());
                    format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\ndate: {date}\r\n\r\n"
                    )
                }
            }
        }
    };
    connection.activity.borrow_mut().set_state(State::Closing, Instant::now());
    // Boxed for the same reason. Too slow, too much or broken: closed all the same.
    let lingering = Box::pin(linger(io.socket, &final_bytes, app.config.max_body_bytes));
    let _ = timeout(MAX_LINGER, lingering).await;
}

/// Answers one request, and logs it.
fn respond(
    app: &App,
    connection: &Connection,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> {
    // Outside of the future, which would keep room for the whole request too.
    let (head, content) = request.into_parts();
    async move {
        let arrived = connection.activity.borrow_mut().begin_answering();
        let meta = RequestMeta::of(&head, arrived, connection.peer(), connection.entrance, &app.config);
        let cut = LogIfCut { app, meta: &meta };
        let mut answer = routes::answer(app, &meta, content).await;
        std::mem::forget(cut);
        let answered = Instant::now();
        let bytes = match meta.method {
            &Method::HEAD => 0,
            _ => answer.bytes(),
        };
        let status = answer.response.status().as_u16();
        let outcome = Outcome { status, bytes, visit: answer.visit, reason: answer.reason };
        let id = RequestId::of(meta.headers);
        log(app, meta.client.as_deref(), &id, Some(&meta), &outcome, answered - meta.arrived);
        let mut activity = connection.activity.borrow_mut();
        activity.set_state(State::Sending, answered);
        activity.was_last_request = meta.framing.is_ok_and(|frame| frame.is_last);
        drop(activity);
        let headers = answer.response.headers_mut();
        let keeps = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
        if head.version == Version::HTTP_10 && !meta.headers.get(CONNECTION).is_some_and(keeps) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(&REQUEST_ID, id.into_header());
        Ok(answer.response)
    }
}

/// Logs a request that was dropped before its answer, because its client has left or the process may wait
/// no longer.
struct LogIfCut<'a> {
    app: &'a App,
    meta: &'a RequestMeta<'a>,
}

impl Drop for LogIfCut<'_> {
    fn drop(&mut self) {
        let Self { app, meta } = self;
        let outcome = Outcome { status: CLIENT_CLOSED_REQUEST, ..Outcome::default() };
        let id = RequestId::of(meta.headers);
        log(app, meta.client.as_deref(), &id, Some(meta), &outcome, meta.arrived.elapsed());
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome<'a> {
    status: u16,
    /// Of the answer's content.
    bytes: u64,
    visit: Option<Visited>,
    /// Why the request was refused.
    reason: Option<&'a str>,
}

/// Measures and logs a request that is over; without `meta`, one that could not be read.
fn log(
    app: &App,
    client: Option<&str>,
    id: &RequestId,
    meta: Option<&RequestMeta<'_>>,
    outcome: &Outcome<'_>,
    duration: Duration,
) {
    let Outcome { status, bytes, visit, reason } = *outcome;
    let route = match meta {
        Some(meta) if status != 400 => meta.route,
        _ => Route::Malformed,
    };
    let trace = meta.and_then(|meta| meta.trace.as_ref());
    let of_client = |name| match app.config.access_log {
        AccessDetail::Full => meta.and_then(|meta| meta.headers.get(name)).map(HeaderValue::as_bytes),
        AccessDetail::On | AccessDetail::Off => None,
    };
    // That a prefetch is turned away, or the end announced, is no failure.
    let is_wanted = route == Route::Prefetch || route == Route::Readyz && app.is_draining();
    let access = Access {
        method: meta.map(|meta| meta.method.as_str()),
        path: meta.map_or("-", |meta| meta.path),
        status,
        failed: status >= 500 && !is_wanted,
        bytes,
        duration,
        visit: visit.map(|visit| visit.number),
        returning: visit.and_then(|visit| visit.returning),
        client,
        request_id: id.as_str(),
        trace_id: trace.map(TraceParent::trace_id),
        parent_id: trace.map(TraceParent::parent_id),
        release: &app.release,
        reason,
        user_agent: of_client(USER_AGENT),
        referrer: of_client(REFERER),
    };
    app.metrics.count_request(route.name(), status, duration.as_secs_f64());
    if let Some(log) = &app.access_log {
        log.write(&access);
    }
}

/// How a connection came to its end.
enum End {
    /// As HTTP wants it.
    Finished,
    /// No request was sent for long enough.
    Idle,
    /// The request gets this status; where hyper could not read it, hyper has given that answer.
    Refused { status: StatusCode, reason: String, by_hyper: bool },
    /// The other side vanished.
    Broken,
}

impl End {
    fn of(ended: hyper::Result<()>, activity: &Activity) -> Self {
        let Err(error) = ended else {
            return Self::Finished;
        };
        let (status, by_hyper) = if error.is_parse_version_h2() {
            (StatusCode::BAD_REQUEST, false)
        } else if error.is_parse_too_large() {
            // hyper tells the two apart in its text only.
            match error.to_string().contains("URI") {
                true => (StatusCode::URI_TOO_LONG, true),
                false => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, true),
            }
        } else if error.is_parse() {
            (StatusCode::BAD_REQUEST, true)
        } else if !activity.must_end {
            return Self::Broken;
        } else if activity.state == State::Receiving {
            let reason = "the head was not complete within HEADER_TIMEOUT".to_owned();
            return Self::Refused { status: StatusCode::REQUEST_TIMEOUT, reason, by_hyper: false };
        } else {
            return Self::Idle;
        };
        Self::Refused { status, reason: error.to_string(), by_hyper }
    }
}

/// Another protocol that people bring to a port of plain HTTP, by its first bytes.
fn other_protocol(first_bytes: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 4] = [
        (b"\x16\x03", "a TLS ClientHello: this port speaks plain HTTP"),
        (b"PRI * HTTP/2", "an HTTP/2 preface: this port speaks HTTP/1.1"),
        (b"PROXY ", "a header of the PROXY protocol, which is not spoken here"),
        (b"\r\n\r\n\0\r\nQUIT\n", "a header of the PROXY protocol, which is not spoken here"),
    ];
    KNOWN.iter().find_map(|(bytes, what)| first_bytes.starts_with(bytes).then_some(*what))
}

/// Ends our side, then takes in what the client still sends, up to a limit, until it ends too. Closing
/// at once while bytes of the client are unread would make the kernel send a reset, which can destroy
/// the answer before it is read (RFC 9112, section 9.6).
async fn linger(mut socket: Socket, final_bytes: &str, max_bytes: usize) -> io::Result<()> {
    socket.write_all(final_bytes.as_bytes()).await?;
    socket.shutdown().await?;
    let mut left = max_bytes;
    // Mostly there is nothing but the end.
    let mut discarded = [0; 512];
    while let count @ 1.. = socket.read(&mut discarded).await?
        && count <= left
    {
        left -= count;
    }
    Ok(())
}

/// The socket under hyper: notes when a request begins to arrive and when an answer has been sent.
struct MonitoredIo<'a> {
    socket: Socket,
    connection: &'a Connection,
    /// What was received first, by which other protocols are known.
    first_bytes: [u8; 12],
    /// The last bytes that were received, the latest of them last.
    last_bytes: [u8; 4],
}

impl MonitoredIo<'_> {
    fn note_received(&mut self, received: &[u8]) {
        let kept = received.len().min(4);
        self.last_bytes.rotate_left(kept);
        self.last_bytes[4 - kept..].copy_from_slice(&received[received.len() - kept..]);
        let mut activity = self.connection.activity.borrow_mut();
        activity.received = Instant::now();
        if activity.state == State::Opened {
            let kept = received.len().min(self.first_bytes.len());
            self.first_bytes[..kept].copy_from_slice(&received[..kept]);
        }
        if matches!(activity.state, State::Opened | State::Idle) {
            let since = activity.received;
            activity.set_state(State::Receiving, since);
        }
    }

    /// Whether a further request has begun behind the one being answered. hyper does not tell, but all
    /// requests here end with their head, and a head ends so.
    fn has_begun_another(&self) -> bool {
        self.last_bytes != *b"\r\n\r\n"
    }
}

impl AsyncRead for MonitoredIo<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            self.note_received(received);
        }
        polled
    }
}

impl AsyncWrite for MonitoredIo<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // hyper answers HTTP/1.0 in kind. The version of an answer is that of the server (RFC 9110, section 2.5).
        let polled = match bytes.strip_prefix(b"HTTP/1.0 ") {
            None => Pin::new(&mut self.socket).poll_write(context, bytes),
            Some(rest) => {
                let answer = [b"HTTP/1.1 ", rest].concat();
                Pin::new(&mut self.socket).poll_write(context, &answer)
            }
        };
        if polled.is_pending() {
            self.connection.activity.borrow_mut().heed_end(context)?;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes whenever it is polled and has nothing left to write, and ends when that fails. It does not
        // read while a request is answered.
        let connection = self.connection;
        let mut activity = connection.activity.borrow_mut();
        match activity.state {
            State::Sending => {
                let since = activity.since;
                let next = if self.has_begun_another() { State::Receiving } else { State::Idle };
                activity.set_state(next, since);
            }
            State::Answering if activity.heeds_reset => check_reset(&self.socket, context)?,
            _ => {}
        }
        activity.heed_end(context)?;
        drop(activity);
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Left to [`linger`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
