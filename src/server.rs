//! Accepts connections within the limits, watches over them, and drains them at the end.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Config;
use crate::connection::{self, Connection, Doing, Socket};
use crate::event_loop::{Clock, Timer};
use crate::lifecycle::{self, StopSignals};
use crate::listener::{Listener, Listeners};
use crate::metrics::Limit;
use crate::routes::App;
use crate::workers::Workers;

/// How often connections are looked over for having taken too long.
const SWEEP: Duration = Duration::from_millis(100);

/// The same while draining, when people wait for the end.
const DRAIN_SWEEP: Duration = Duration::from_millis(10);

/// How long a connection that is over is still read from.
const LINGER: Duration = Duration::from_secs(1);

/// The pause after an accept that failed for want of something, such as a file descriptor.
const BACK_OFF: Duration = Duration::from_millis(100);

/// File descriptors kept for other things than connections: standard streams, epoll, timers, attempts
/// to reach Redis, name lookups.
const RESERVED_FILES: usize = 32;

/// File descriptors that a further thread takes for its event loop.
const WORKER_FILES: usize = 4;

/// File descriptors that a thread takes for each address: the listener, and a timer to back off by.
const LISTENER_FILES: usize = 2;

/// How the server has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every connection was brought to its end.
    Drained,
    /// `DRAIN_TIMEOUT` has passed; what remains is to be cut.
    Cut,
    /// A second signal, of this number, wanted it at once.
    AtOnce(u8),
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Drained | Ended::Cut => Self::SUCCESS,
            // As a shell reports a process that the signal has killed.
            Ended::AtOnce(signal) => Self::from(128 + signal),
        }
    }
}

/// The limits and times of a server.
struct Rules {
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    lame_duck: Duration,
    drain_idle: Duration,
    drain_timeout: Duration,
    idle_exit: Option<Duration>,
}

/// What the accept loops, the sweep and the drain share.
struct Server {
    app: Arc<App>,
    http: Arc<http1::Builder>,
    rules: Rules,
    connections: Mutex<Slab<Arc<Connection>>>,
    /// A connection has opened or closed.
    changed: Notify,
    permits: Arc<Semaphore>,
}

/// Serves `listeners` until a signal, or idleness, ends it.
///
/// # Errors
/// When a socket cannot be registered with the event loop.
pub async fn run(
    config: &Config,
    listeners: Listeners,
    app: Arc<App>,
    signals: &mut StopSignals,
) -> io::Result<Ended> {
    let max_connections = max_connections(config, &listeners);
    let server = Arc::new(Server {
        http: Arc::new(http(config)),
        rules: Rules {
            header_timeout: config.header_timeout.0,
            keep_alive_timeout: config.keep_alive_timeout.0,
            lame_duck: config.drain_lame_duck.0,
            drain_idle: config.drain_idle.0,
            drain_timeout: config.drain_timeout.0,
            idle_exit: config.idle_exit.0.map(|period| period.0),
        },
        connections: Mutex::default(),
        changed: Notify::new(),
        permits: Arc::new(Semaphore::new(max_connections)),
        app,
    });
    let (stop_accepting, stopped) = watch::channel(());
    let mut accepting = JoinSet::new();
    let workers = Workers::start(config.worker_threads.0 - 1).map_err(|error| {
        let threads = &config.worker_threads;
        io::Error::new(
            error.kind(),
            format!("WORKER_THREADS={threads} cannot be had: {error}"),
        )
    })?;
    for listener in listeners.sockets {
        tracing::info!(listening = %listener, inherited = listeners.inherited, "listening");
        for event_loop in workers.event_loops() {
            let (listener, back_off) = {
                let _registers_with = event_loop.enter();
                (Async::new(listener.try_clone()?)?, Clock::SYSTEM.timer()?)
            };
            let accept = server.clone().accept_from(
                listener,
                back_off,
                listeners.inherited,
                stopped.clone(),
            );
            accepting.spawn_on(accept, &event_loop);
        }
    }
    drop(stopped);
    tracing::info!(
        release = server.app.release,
        version = crate::VERSION,
        commit = crate::COMMIT,
        max_connections,
        "ready"
    );
    // Ends with this function, and not before: a drain may take longer than the watchdog waits.
    let mut reporting = JoinSet::new();
    reporting.spawn(lifecycle::report(
        server.app.clone(),
        Clock::SYSTEM.timer()?,
    ));

    let mut sweep = Clock::SYSTEM.timer()?;
    let signal = tokio::select! {
        (name, _) = signals.next() => Some(name),
        () = server.watch_over(&mut sweep) => None,
    };
    match signal {
        Some(signal) => {
            tracing::info!(signal, connections = server.connections().len(), "draining");
        }
        None => tracing::info!("ending: no connection for as long as IDLE_EXIT says"),
    }
    tokio::select! {
        ended = server.drain(stop_accepting, accepting, signal.is_none(), sweep) => Ok(ended),
        (name, number) = signals.next() => {
            tracing::warn!(signal = name, connections = server.connections().len(), "ending at once");
            Ok(Ended::AtOnce(number))
        }
    }
}

/// Serves HTTP on a stream that the caller has opened, as [`run`] does on one that it has accepted,
/// until either side ends it. The simulation and the fuzz target come this way, whose streams are
/// none of the kernel's; the limits of time and number are for them to keep.
pub async fn serve_stream(
    config: &Config,
    app: Arc<App>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(read, write);
    let connection = Arc::new(Connection::new(None));
    connection::serve(app, connection, stream, Arc::new(http(config))).await;
}

fn http(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Answers are small: copied behind their headers and written whole, they cost less.
    http.writev(false);
    // A client that has sent its request and closed its side still gets the answer.
    http.half_close(true);
    http.max_header_size(config.max_header_bytes.0);
    // hyper refuses to buffer less than 8 KiB; max_header_size is what decides.
    http.max_buf_size(config.max_header_bytes.0.max(8192));
    http.max_headers(config.max_headers.0);
    http
}

/// `MAX_CONNECTIONS`, or what the limit of open files leaves.
fn max_connections(config: &Config, listeners: &Listeners) -> usize {
    let set = config.max_connections.0.map(|limit| limit.0);
    let limit = set.unwrap_or_else(|| {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files
            .and_then(|files| usize::try_from(files).ok())
            .unwrap_or(usize::MAX);
        let listening = listeners.sockets.len() * LISTENER_FILES;
        let further_threads = config.worker_threads.0 - 1;
        let theirs = further_threads.saturating_mul(WORKER_FILES + listening);
        files
            .saturating_sub(RESERVED_FILES + listening)
            .saturating_sub(theirs)
            .max(1)
    });
    limit.min(Semaphore::MAX_PERMITS)
}

/// A listening socket on the event loop.
enum Async {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Async {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(socket) => Self::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Listener::Unix(socket) => Self::Unix(tokio::net::UnixListener::from_std(socket)?),
        })
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Socket, Connection)>> {
        match self {
            Self::Tcp(listener) => {
                let accepted = ready!(listener.poll_accept(context));
                Poll::Ready(accepted.map(|(stream, client)| accepted_tcp(stream, client)))
            }
            Self::Unix(listener) => {
                let accepted = ready!(listener.poll_accept(context));
                let accepted = accepted.map(|(stream, _)| Socket::Unix(stream));
                Poll::Ready(accepted.map(|socket| (socket, Connection::new(None))))
            }
        }
    }

    /// Accepts a connection that is there; an error when there is none.
    fn accept_now(&self) -> io::Result<(Socket, Connection)> {
        match self {
            Self::Tcp(listener) => {
                let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
                let (stream, client) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(accepted_tcp(stream.try_into()?, client))
            }
            Self::Unix(listener) => {
                let listener =
                    std::os::unix::net::UnixListener::from(listener.as_fd().try_clone_to_owned()?);
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Socket::Unix(stream.try_into()?), Connection::new(None)))
            }
        }
    }
}

fn accepted_tcp(stream: tokio::net::TcpStream, client: SocketAddr) -> (Socket, Connection) {
    // Without it the kernel may hold an answer back until the last one is acknowledged. It fails on
    // a connection that is gone, as reading from it soon will.
    let _ = stream.set_nodelay(true);
    (
        Socket::Tcp(stream),
        Connection::new(Some(client.ip().to_canonical())),
    )
}

impl Server {
    /// Accepts until told to stop. Then, where the socket is this process's own and about to
    /// close, whoever is in its backlog is still let in: closing would reset them. Where it is
    /// systemd's, they wait there for the next process.
    async fn accept_from(
        self: Arc<Self>,
        listener: Async,
        back_off: Timer,
        inherited: bool,
        mut stop: watch::Receiver<()>,
    ) {
        tokio::select! {
            () = self.clone().accept_all(&listener, back_off) => {}
            _ = stop.changed() => {}
        }
        if !inherited {
            // By the kernel's word and not the event loop's, which may not have heard of them yet.
            while let Ok((socket, connection)) = listener.accept_now() {
                self.serve(
                    socket,
                    connection,
                    self.permits.clone().try_acquire_owned().ok(),
                );
            }
        }
    }

    async fn accept_all(self: Arc<Self>, listener: &Async, mut back_off: Timer) {
        let mut failing = false;
        let mut waited_for = None;
        loop {
            // The permit comes before the connection, so that one too many waits in the backlog. Nobody
            // holds one while there is no connection: the next may come to another socket.
            let accepted = poll_fn(|context| {
                let permit = waited_for
                    .take()
                    .or_else(|| self.permits.clone().try_acquire_owned().ok());
                let Some(permit) = permit else {
                    return Poll::Ready(None);
                };
                let accepted = ready!(listener.poll_accept(context));
                Poll::Ready(Some(accepted.map(|accepted| (accepted, permit))))
            });
            let Some(accepted) = accepted.await else {
                self.app.metrics.hit(Limit::Connections);
                // The semaphore is never closed.
                waited_for = self.permits.clone().acquire_owned().await.ok();
                continue;
            };
            match accepted {
                Ok(((socket, connection), permit)) => {
                    failing = false;
                    self.serve(socket, connection, Some(permit));
                }
                // The client was faster in leaving than this process in accepting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.app.metrics.accept_errors.inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "cannot accept connections; trying again");
                    }
                    back_off.sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Serves a connection in a task of its own. From here on it is known to whoever waits for
    /// connections to end.
    fn serve(
        self: &Arc<Self>,
        socket: Socket,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let connection = Arc::new(connection);
        let place = self.connections().insert(connection.clone());
        self.app.metrics.connections_accepted.inc();
        self.app.metrics.connections.inc();
        self.changed.notify_one();
        let server = self.clone();
        tokio::spawn(async move {
            connection::serve(server.app.clone(), connection, socket, server.http.clone()).await;
            server.app.metrics.connections.dec();
            server.connections().remove(place);
            server.changed.notify_one();
            drop(permit);
        });
    }

    /// Ends connections that take too long, and returns once none has been open for `idle_exit`.
    /// Sleeps for as long as there is nothing to watch.
    async fn watch_over(&self, sweep: &mut Timer) {
        loop {
            while self.connections().is_empty() {
                let opened = self.changed.notified();
                match self.rules.idle_exit {
                    None => opened.await,
                    Some(idle) => tokio::select! {
                        biased;
                        () = opened => {}
                        () = sweep.sleep(idle) => return,
                    },
                }
            }
            sweep.sleep(SWEEP).await;
            self.end_overdue(Instant::now());
        }
    }

    /// Ends those that take too long. After a while those that idle rest, and those that answer heed a
    /// reset by the client: at once, that would cost every visit.
    fn end_overdue(&self, now: Instant) {
        for (_, connection) in self.connections().iter() {
            let (doing, time) = connection.seen(now);
            let (allowed, limit) = match doing {
                Doing::Idle | Doing::Resting => {
                    (self.rules.keep_alive_timeout, Some(Limit::KeepAliveTimeout))
                }
                Doing::Opened | Doing::Receiving => {
                    (self.rules.header_timeout, Some(Limit::HeaderTimeout))
                }
                Doing::Closing => (LINGER, None),
                // A visit has its own time limit.
                Doing::Answering | Doing::Answered => (Duration::MAX, None),
            };
            if time > allowed {
                if let Some(limit) = limit {
                    self.app.metrics.hit(limit);
                }
                connection.end_while(doing);
            // It did so at the last sweep, too.
            } else if matches!(doing, Doing::Idle | Doing::Answering) && time > SWEEP / 2 {
                connection.nudge();
            }
        }
    }

    /// Ends without losing a request. Closing idle connections outright would lose those whose
    /// next request is on the wire, so every answer says `Connection: close` instead, and the
    /// clients leave by themselves:
    ///
    /// 1. Accept as before until the connections of before the signal are gone, or have been idle
    ///    for so long that nothing is on its way, and the lame-duck time is over. Whoever comes
    ///    meanwhile is answered at once and does not have to wait for the next process.
    /// 2. Stop accepting, and wait for the rest in the same way.
    /// 3. At `drain_timeout`, cut what remains and say what it was.
    ///
    /// Nobody has to be warned before an idle process ends: then there is no lame-duck time.
    async fn drain(
        &self,
        stop_accepting: watch::Sender<()>,
        mut accepting: JoinSet<()>,
        idle: bool,
        mut sweep: Timer,
    ) -> Ended {
        let begun = Instant::now();
        let lame_duck = if idle {
            Duration::ZERO
        } else {
            self.rules.lame_duck
        };
        self.app.draining.store(true, Relaxed);
        let mut said = lifecycle::stopping();
        let mut old: Vec<_> = self
            .connections()
            .iter()
            .map(|(_, open)| Arc::downgrade(open))
            .collect();
        let mut stop_accepting = Some(stop_accepting);
        let mut told = begun;
        loop {
            let now = Instant::now();
            let waited = now.duration_since(begun);
            self.end_overdue(now);
            self.end_idle(begun, now);
            old.retain(|connection| connection.strong_count() > 0);
            if waited >= lame_duck && old.is_empty() && stop_accepting.take().is_some() {
                while accepting.join_next().await.is_some() {}
            }
            let left = self.connections().len();
            if stop_accepting.is_none() && left == 0 {
                tracing::info!(drained_ms = millis(waited), "drained");
                return Ended::Drained;
            }
            if waited >= self.rules.drain_timeout {
                self.log_what_is_cut();
                return Ended::Cut;
            }
            if now.duration_since(told) >= Duration::from_secs(1) {
                told = now;
                said = said || lifecycle::stopping();
                let more = self.rules.drain_timeout - waited + Duration::from_secs(2);
                lifecycle::still_stopping(more);
            }
            sweep.sleep(DRAIN_SWEEP).await;
        }
    }

    /// Ends connections that have been idle for long enough since the drain began.
    fn end_idle(&self, begun: Instant, now: Instant) {
        for (_, connection) in self.connections().iter() {
            let (doing, time) = connection.seen(now);
            let in_the_drain = time.min(now.duration_since(begun));
            if doing.is_nothing() && in_the_drain > self.rules.drain_idle {
                connection.end_while(doing);
            }
        }
    }

    fn log_what_is_cut(&self) {
        let count = |wanted: Doing| {
            self.connections()
                .iter()
                .filter(|(_, open)| open.doing() == wanted)
                .count()
        };
        tracing::warn!(
            answering = count(Doing::Answering) + count(Doing::Answered),
            receiving = count(Doing::Receiving),
            idle = count(Doing::Opened) + count(Doing::Idle) + count(Doing::Resting),
            closing = count(Doing::Closing),
            drain_timeout_ms = millis(self.rules.drain_timeout),
            "DRAIN_TIMEOUT has passed; connections were cut"
        );
    }

    fn connections(&self) -> MutexGuard<'_, Slab<Arc<Connection>>> {
        self.connections.lock()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
