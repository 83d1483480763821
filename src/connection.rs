//! One connection: what it is doing, how long it may, and how it ends.
//!
//! hyper can time the reading of headers, but it registers a timer for every request, which costs
//! a quarter of what a request costs here altogether, and it cannot tell an idle connection from a
//! slow request. So a connection only notes what it is doing, and one sweep over all of them, a few
//! times a second, sees for how long already, and ends those that take too long.
//!
//! hyper also keeps two buffers of 8 KiB each for as long as it has a connection. So it has one only
//! while there is something to read or to write: a connection that idles rests without it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Join, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::framing::Lines;
use crate::routes::{self, App};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing yet.
    Opened = 0,
    /// Waiting for another request, or writing an answer that the client does not read.
    Idle = 1,
    /// Receiving the headers of a request.
    Receiving = 2,
    /// Answering a request.
    Answering = 3,
    /// The answer is made and hyper has it.
    Answered = 4,
    /// Over, but for what the client still sends.
    Closing = 5,
    /// Waiting for another request, without hyper and its buffers.
    Resting = 6,
}

impl Doing {
    const ALL: [Self; 7] = [
        Self::Opened,
        Self::Idle,
        Self::Receiving,
        Self::Answering,
        Self::Answered,
        Self::Closing,
        Self::Resting,
    ];

    fn of(activity: u64) -> Self {
        Self::ALL[(activity & ((1 << DOING_BITS) - 1)) as usize]
    }

    /// Whether nothing is on its way, as far as this side can know.
    pub(crate) fn is_nothing(self) -> bool {
        matches!(self, Self::Opened | Self::Idle | Self::Resting)
    }
}

/// The bits of [`Connection::activity`] that hold what it is doing.
const DOING_BITS: u32 = 3;

/// Not a number of whole heads.
const PARTIAL: u64 = u64::MAX;

/// What others may know of a connection and do to it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The client's address as it is logged; `None` on a unix socket.
    pub(crate) client: Option<String>,
    /// How often it has gone on to something else, and [`Doing`] in the lowest bits.
    activity: AtomicU64,
    /// How often that was when somebody last looked, and when it was first seen so.
    seen: Mutex<(u64, Instant)>,
    /// Asked to end while it does this ([`Doing`] plus one), or zero.
    ending: AtomicU8,
    /// Asked to rest if it idles, and to heed a reset by the client for as long as it answers.
    nudged: AtomicBool,
    /// An answer is not yet with the kernel as a whole.
    unsent: AtomicBool,
    /// Requests that have come to be answered.
    requests: AtomicU64,
    /// The first request, counted from zero, with a line that is wrong, as [`Lines`] say.
    wrong_line: AtomicU64,
    /// The request that was answered last is the client's last one, by its own word.
    last_request: AtomicBool,
    /// Heads of requests that were received; [`PARTIAL`] while one of them is not whole.
    heads: AtomicU64,
    /// Wakes the connection's task.
    task: OnceLock<Waker>,
}

impl Connection {
    pub(crate) fn new(client: Option<IpAddr>) -> Self {
        Self {
            client: client.map(|address| address.to_string()),
            activity: AtomicU64::new(Doing::Opened as u64),
            seen: Mutex::new((0, Instant::now())),
            ending: AtomicU8::new(0),
            nudged: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            wrong_line: AtomicU64::new(u64::MAX),
            last_request: AtomicBool::new(false),
            heads: AtomicU64::new(0),
            task: OnceLock::new(),
        }
    }

    /// Notes what the connection goes on to.
    pub(crate) fn goes_on_to(&self, doing: Doing) {
        self.notes(doing, 1);
    }

    /// Notes whether a connection that waits for another request rests meanwhile, which is nothing new.
    fn rests(&self, rests: bool) {
        self.notes(if rests { Doing::Resting } else { Doing::Idle }, 0);
    }

    fn notes(&self, doing: Doing, new: u64) {
        let changes = (self.activity.load(Relaxed) >> DOING_BITS) + new;
        self.activity
            .store(changes << DOING_BITS | doing as u64, Relaxed);
    }

    /// What the connection does.
    pub(crate) fn doing(&self) -> Doing {
        Doing::of(self.activity.load(Relaxed))
    }

    /// What the connection does `now`, and for how long it has been seen to do that. No request pays for
    /// a look at the clock: who asks now and then knows well enough.
    pub(crate) fn seen(&self, now: Instant) -> (Doing, Duration) {
        let activity = self.activity.load(Relaxed);
        let mut seen = self.seen.lock();
        let changes = activity >> DOING_BITS;
        if seen.0 != changes {
            *seen = (changes, now);
        }
        (Doing::of(activity), now.saturating_duration_since(seen.1))
    }

    /// Whether each line of the next request to be answered is as it must be.
    pub(crate) fn next_has_right_lines(&self) -> bool {
        self.requests.fetch_add(1, Relaxed) < self.wrong_line.load(Relaxed)
    }

    /// Notes whether the client has called the request that is answered now its last one.
    pub(crate) fn note_last_request(&self, last: bool) {
        self.last_request.store(last, Relaxed);
    }

    /// Asks the connection to end, unless it has gone on to something else by the time it hears.
    pub(crate) fn end_while(&self, doing: Doing) {
        self.ending.store(doing as u8 + 1, Relaxed);
        self.wake();
    }

    /// Asks a connection that idles to rest, and one that answers to heed a reset by the client, unless
    /// it does something else by the time it hears.
    pub(crate) fn nudge(&self) {
        if !self.nudged.swap(true, Relaxed) {
            self.wake();
        }
    }

    /// Notes which task this connection has, for as long as it lives.
    async fn note_task(&self) {
        let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        self.task.get_or_init(|| task);
    }

    fn wake(&self) {
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    /// Whether the connection is to end, now that it does `doing`.
    fn must_end(&self, doing: Doing) -> bool {
        match self.ending.load(Relaxed) {
            0 => false,
            asked => {
                self.ending.store(0, Relaxed);
                asked == doing as u8 + 1
            }
        }
    }

    /// Whether a request has begun to arrive behind all those that were answered, and their answers are
    /// on their way.
    fn has_begun_another(&self) -> bool {
        self.heads.load(Relaxed) == PARTIAL && !self.unsent.load(Relaxed)
    }

    /// Whether the connection is to rest, now that it does `doing`.
    fn must_rest(&self, doing: Doing) -> bool {
        self.nudged.load(Relaxed) && doing != Doing::Answering && {
            self.nudged.store(false, Relaxed);
            // hyper is to hold nothing that was received or is to be sent.
            doing == Doing::Idle
                && !self.unsent.load(Relaxed)
                && self.heads.load(Relaxed) == self.requests.load(Relaxed)
        }
    }
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve(
    app: Arc<App>,
    connection: Arc<Connection>,
    socket: impl Duplex,
    http: Arc<http1::Builder>,
) {
    let (app, connection) = (&*app, &*connection);
    connection.note_task().await;
    let mut stream = Watched {
        socket,
        connection,
        lines: Lines::default(),
    };
    let end = loop {
        if let Some(end) = until_readable(&stream).await {
            break end;
        }
        let service = service_fn(move |request: Request<Incoming>| async move {
            Ok::<_, Infallible>(routes::answer(app, connection, &request).await)
        });
        let exchange = http.serve_connection(TokioIo::new(&mut stream), service);
        // Boxed, so that it takes no place in a connection that rests.
        if let Some(end) = until_end_or_rest(Box::pin(exchange), connection).await {
            break end;
        }
        connection.rests(true);
    };
    let socket = stream.socket;
    let last_words = match end {
        // Nothing may follow what the client has called its last request (RFC 9112, section 9.6).
        End::Finished if connection.last_request.load(Relaxed) => return,
        End::Finished => String::new(),
        // Nothing is on its way, so there is no answer that a reset could destroy.
        End::Idle => return,
        End::RefusedByHyper(status) => {
            routes::log_unreadable(app, connection, status);
            String::new()
        }
        End::Refused(status) => {
            routes::log_unreadable(app, connection, status);
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        }
        // Nobody is there any more.
        End::Broken => return,
    };
    connection.goes_on_to(Doing::Closing);
    // Boxed, for what it needs would take its place in every connection from the beginning.
    let mut drained = Box::pin(linger(socket, &last_words, app.max_body_bytes));
    poll_fn(|context| match drained.as_mut().poll(context) {
        Poll::Pending if !connection.must_end(Doing::Closing) => Poll::Pending,
        // Too slow, too much or broken: closed all the same.
        _ => Poll::Ready(()),
    })
    .await;
}

/// Waits until there is something for hyper to do, or until the end: `Some`.
async fn until_readable(stream: &Watched<'_, impl Duplex>) -> Option<End> {
    let connection = stream.connection;
    let end = poll_fn(|context| {
        if stream.socket.poll_readable(context).is_ready() {
            Poll::Ready(None)
        } else if connection.must_end(connection.doing()) {
            Poll::Ready(Some(End::Idle))
        } else {
            Poll::Pending
        }
    })
    .await;
    if connection.doing() == Doing::Resting {
        connection.rests(false);
    }
    end
}

/// Lets hyper serve requests until the end, or until the connection is to rest: `None`.
async fn until_end_or_rest(
    mut exchange: Pin<Box<impl Future<Output = hyper::Result<()>>>>,
    connection: &Connection,
) -> Option<End> {
    poll_fn(|context| {
        let polled = exchange.as_mut().poll(context);
        match connection.doing() {
            // Its beginning may have come together with the request before.
            Doing::Answered | Doing::Idle if connection.has_begun_another() => {
                connection.goes_on_to(Doing::Receiving);
            }
            Doing::Answered => connection.goes_on_to(Doing::Idle),
            _ => {}
        }
        let doing = connection.doing();
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(Some(End::Finished)),
            Poll::Ready(Err(error)) => Poll::Ready(Some(End::of(&error))),
            Poll::Pending if connection.must_end(doing) => Poll::Ready(Some(match doing {
                Doing::Receiving => End::Refused(StatusCode::REQUEST_TIMEOUT),
                _ => End::Idle,
            })),
            Poll::Pending if connection.must_rest(doing) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// How a connection came to its end.
enum End {
    /// As HTTP wants it.
    Finished,
    /// Nothing was asked for long enough.
    Idle,
    /// hyper could not read the request and has answered with this status.
    RefusedByHyper(StatusCode),
    /// The request has not been answered; it is to get this status.
    Refused(StatusCode),
    /// The other side vanished.
    Broken,
}

impl End {
    fn of(error: &hyper::Error) -> Self {
        if error.is_parse_version_h2() {
            Self::Refused(StatusCode::BAD_REQUEST)
        } else if error.is_parse_too_large() {
            // hyper tells the two apart in its text only.
            let uri = error.to_string().contains("URI");
            Self::RefusedByHyper(if uri {
                StatusCode::URI_TOO_LONG
            } else {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            })
        } else if error.is_parse() {
            Self::RefusedByHyper(StatusCode::BAD_REQUEST)
        } else {
            Self::Broken
        }
    }
}

/// Ends our side, then takes in what the client still sends, up to a limit, until it ends too. Closing
/// at once while bytes of the client are unread would make the kernel send a reset, which can destroy
/// the answer before it is read (RFC 9112, section 9.6).
async fn linger(mut socket: impl Duplex, last_words: &str, max_bytes: usize) -> io::Result<()> {
    socket.write_all(last_words.as_bytes()).await?;
    socket.shutdown().await?;
    let mut left = max_bytes;
    // Mostly there is nothing but the end.
    let mut scrap = [0; 512];
    while let count @ 1.. = socket.read(&mut scrap).await?
        && count <= left
    {
        left -= count;
    }
    Ok(())
}

/// What a connection reads from and writes to.
///
/// It is a trait for the sake of tests that bring a network of their own: the simulation's hosts
/// and the fuzz target speak through no socket of the kernel. The service has [`Socket`] only.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {
    /// Fails when the client has reset the connection, and wakes its task when it does so later.
    /// A client that has only ended its own side still waits for its answer.
    fn check_reset(&self, context: &mut Context<'_>) -> io::Result<()>;

    /// Whether reading would bring something: bytes, the end or an error. Wakes its task when it does
    /// so later.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// Two halves that somebody else has made. Nobody can ask them for anything without reading.
impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Duplex for Join<R, W> {
    fn check_reset(&self, _: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// An accepted socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls a method of whichever socket it is.
macro_rules! on_socket {
    ($socket:expr, $method:ident($($argument:expr),*)) => {
        match $socket {
            Socket::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Socket::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_socket!(&mut *self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_socket!(&mut *self, poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(&mut *self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(&mut *self, poll_shutdown(context))
    }
}

impl Duplex for Socket {
    fn check_reset(&self, context: &mut Context<'_>) -> io::Result<()> {
        // A unix socket knows no reset.
        let Self::Tcp(stream) = self else {
            return Ok(());
        };
        // Nothing has happened on most sockets: then the kernel need not be asked.
        if stream.poll_read_ready(context).is_pending() {
            return Ok(());
        }
        stream.take_error()?.map_or(Ok(()), Err)
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            // tokio takes a new connection for readable until it has tried.
            Self::Tcp(stream) => stream
                .poll_peek(context, &mut ReadBuf::new(&mut [0]))
                .map(drop),
            Self::Unix(stream) => stream.poll_read_ready(context).map(drop),
        }
    }
}

/// The socket under an HTTP connection: notices when a request begins to arrive.
struct Watched<'a, S> {
    socket: S,
    connection: &'a Connection,
    lines: Lines,
}

impl<S: Duplex> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        let received = &buffer.filled()[before..];
        if received.is_empty() {
            return polled;
        }
        if let Some(head) = self.lines.follow(received) {
            self.connection.wrong_line.fetch_min(head, Relaxed);
        }
        let heads = self.lines.whole_heads().unwrap_or(PARTIAL);
        self.connection.heads.store(heads, Relaxed);
        // Empty lines are no request. Never while an answer cannot be written: hyper does not read on
        // before it is.
        let begun = heads != self.connection.requests.load(Relaxed);
        if begun && self.connection.doing().is_nothing() {
            self.connection.goes_on_to(Doing::Receiving);
        }
        polled
    }
}

impl<S: Duplex> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.unsent.store(true, Relaxed);
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes whenever it is polled and has nothing left to write, and does not read while a
        // request is answered.
        self.connection.unsent.store(false, Relaxed);
        if self.connection.nudged.load(Relaxed) && self.connection.doing() == Doing::Answering {
            self.socket.check_reset(context)?;
        }
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Left to [`linger`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use hyper::server::conn::http1;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Connection, Doing, Socket, serve};
    use crate::config::Config;
    use crate::counter::Counter;
    use crate::event_loop;
    use crate::metrics::Metrics;
    use crate::output::Output;
    use crate::routes::App;
    use crate::store::Store;
    use crate::telemetry;

    fn app() -> App {
        let config = Config::from_vars([("ACCESS_LOG".into(), "off".into())]).expect("settings");
        let metrics = Arc::new(Metrics::new("test"));
        let output = Arc::new(Output::stdout(metrics.clone()).expect("stdout"));
        let store = Store::new(&config).expect("a store");
        let (counter, _) = Counter::start(store, 1, false, metrics.clone()).expect("a timer");
        App {
            counter,
            metrics,
            access_log: telemetry::start(&config, &output).expect("a log"),
            release: "test".to_owned(),
            draining: false.into(),
            max_body_bytes: 0,
        }
    }

    async fn does(connection: &Connection, doing: Doing) {
        while connection.doing() != doing {
            tokio::task::yield_now().await;
        }
    }

    async fn read_answer(client: &mut TcpStream) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            assert_ne!(client.read_buf(&mut answer).await.expect("it reads"), 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }

    #[test]
    fn a_connection_goes_on_after_a_rest_and_so_does_a_request_that_had_begun() {
        const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
        let event_loop = event_loop::build().expect("an event loop");
        event_loop.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.expect("a free port");
            let address = listener.local_addr().expect("an address");
            let mut client = TcpStream::connect(address).await.expect("it listens");
            let (stream, _) = listener.accept().await.expect("a client");
            let connection = Arc::new(Connection::new(None));
            let http = Arc::new(http1::Builder::new());
            let served = serve(app().into(), connection.clone(), Socket::Tcp(stream), http);
            let served = tokio::spawn(served);
            for _ in 0..2 {
                client.write_all(REQUEST).await.expect("it reads");
                read_answer(&mut client).await;
                does(&connection, Doing::Idle).await;
                connection.nudge();
                does(&connection, Doing::Resting).await;
            }
            // One and a half at once: of the second, hyper has read a part when it is let go.
            let (part, rest) = REQUEST.split_at(10);
            let both = [REQUEST, part].concat();
            client.write_all(&both).await.expect("it reads");
            read_answer(&mut client).await;
            does(&connection, Doing::Receiving).await;
            connection.nudge();
            while connection.nudged.load(Relaxed) {
                tokio::task::yield_now().await;
            }
            client.write_all(rest).await.expect("it reads");
            read_answer(&mut client).await;
            client.shutdown().await.expect("a socket");
            served.await.expect("it ends");
        });
    }
}
