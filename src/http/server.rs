//! Accepts connections within the limits, until a signal or idleness ends it.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;

use crate::config::Config;
use crate::http::app::App;
use crate::http::connection::{self, Connection};
use crate::http::connections::Connections;
use crate::http::drain::{self, drain};
use crate::http::request::Entrance;
use crate::http::socket::Socket;
use crate::process;
use crate::process::listener::{Listeners, address_of};
use crate::process::signals::StopSignals;
use crate::process::supervisor;
use crate::version::{COMMIT, VERSION};

/// The pause after an accept that failed for want of something, such as a file descriptor.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Between two looks for a connection that can make room.
const RETRY: Duration = Duration::from_millis(20);

/// Connections at the sockets for health and metrics, which those of visitors must not take away.
const MAX_ADMIN_CONNECTIONS: usize = 8;

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
    let Listeners { sockets, admin, inherited } = listeners;
    let max_connections = max_connections(config, sockets.len() + admin.len());
    app.metrics.max_connections.set(i64::try_from(max_connections).unwrap_or(i64::MAX));
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    app.metrics.start_time.set(since_1970.as_secs().cast_signed());
    let connections = Rc::new(Connections::new(config, app.clone()));
    for socket in &sockets {
        let address = address_of(socket);
        tracing::info!(listening = address, inherited, "listening on {address}");
    }
    for socket in &admin {
        let address = address_of(socket);
        tracing::info!(admin = address, inherited, "listening for health and metrics on {address}");
    }
    let unused = ["HOST", "PORT", "ADMIN_PORT"].into_iter().filter(|name| config.is_set(name));
    let unused: Vec<_> = unused.collect();
    if inherited && !unused.is_empty() {
        let unused = unused.join(" and ");
        tracing::warn!(unused, "a socket was handed over, so these settings have no effect: {unused}");
    }
    let (stop_accepting, stopped) = watch::channel(());
    let entrance = if admin.is_empty() { Entrance::Only } else { Entrance::Public };
    let acceptor =
        |sockets, entrance, limit| Acceptor::new(sockets, entrance, inherited, limit, connections.clone());
    let mut acceptors = vec![acceptor(sockets, entrance, max_connections)?];
    if !admin.is_empty() {
        acceptors.push(acceptor(admin, Entrance::Admin, MAX_ADMIN_CONNECTIONS)?);
    }
    let accepting = acceptors.into_iter().map(|acceptor| spawn_local(acceptor.run(stopped.clone())));
    let accepting = accepting.collect();
    if !config.redis_tls_verify {
        tracing::warn!("REDIS_TLS_VERIFY is off: any server can pass for Redis");
    }
    tracing::info!(release = app.release, version = VERSION, commit = COMMIT, max_connections, "ready");
    // Ends with this function, and not before: a drain may take longer than the watchdog waits.
    let mut reporting = JoinSet::new();
    reporting.spawn(supervisor::report(move || (app.is_draining(), app.status())));

    let mut times = drain::Times::of(config);
    tokio::select! {
        (signal, _) = signals.next() => {
            tracing::info!(signal, connections = connections.open().len(), "draining");
        }
        () = connections.watch_over(config.idle_exit) => {
            tracing::info!("ending: no connection for as long as IDLE_EXIT says");
            // No load balancer has to be warned before an idle process ends.
            times.lame_duck = Duration::ZERO;
        }
    }
    tokio::select! {
        drained = drain(&connections, stop_accepting, accepting, times) => {
            Ok(if drained { Ended::Drained } else { Ended::Cut })
        }
        (signal, number) = signals.next() => {
            let connections = connections.open().len();
            tracing::warn!(signal, connections, "ending at once: {signal} came during the drain; connections cut: {connections}");
            Ok(Ended::AtOnce(number))
        }
    }
}

/// Serves HTTP on a stream that the caller has opened, as [`run`] does on a socket that it has accepted,
/// until either side ends it. The simulation and the fuzz target come this way; the limits of time and
/// number are for them to keep.
pub async fn serve_stream(app: Arc<App>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let connection = Rc::new(Connection::new(None, Entrance::Only));
    connection::serve(app, connection, Either::Right(Box::new(stream))).await;
}

/// `MAX_CONNECTIONS`, or what the limit of open files leaves.
fn max_connections(config: &Config, listeners: usize) -> usize {
    let limit = config.max_connections.unwrap_or_else(|| process::connections_left(listeners));
    limit.min(Semaphore::MAX_PERMITS)
}

/// Accepts from all listening sockets of one kind.
struct Acceptor {
    sockets: Vec<AsyncFd<socket2::Socket>>,
    entrance: Entrance,
    /// systemd holds the sockets too.
    inherited: bool,
    permits: Arc<Semaphore>,
    connections: Rc<Connections>,
}

impl Acceptor {
    #[expect(deprecated, reason = "its successor is unsafe; the descriptor stays open while it is kept")]
    fn new(
        sockets: Vec<socket2::Socket>,
        entrance: Entrance,
        inherited: bool,
        max_connections: usize,
        connections: Rc<Connections>,
    ) -> io::Result<Self> {
        let register = |socket| AsyncFd::with_interest(socket, Interest::READABLE);
        Ok(Self {
            sockets: sockets.into_iter().map(register).collect::<Result<_, _>>()?,
            entrance,
            inherited,
            permits: Arc::new(Semaphore::new(max_connections)),
            connections,
        })
    }

    /// Accepts until `stop` closes. Then, where the sockets are this process's own and about to close, the
    /// clients in their backlog are still let in: closing would reset them. Where they are systemd's, the
    /// clients wait there for the next process.
    async fn run(self, mut stop: watch::Receiver<()>) {
        tokio::select! {
            () = self.accept_all() => {}
            _ = stop.changed() => {}
        }
        if !self.inherited {
            for socket in &self.sockets {
                // By the kernel's word: the event loop may not have heard of them yet.
                while let Ok((socket, connection)) = self.accept_from(socket.get_ref()) {
                    let permit = self.permits.clone().try_acquire_owned().ok();
                    self.connections.serve(socket, connection, permit);
                }
            }
        }
    }

    async fn accept_all(&self) {
        let metrics = &self.connections.app.metrics;
        let mut failing = false;
        loop {
            match self.admit().await {
                Ok((socket, connection, permit)) => {
                    failing = false;
                    self.connections.serve(socket, connection, permit);
                }
                // The client was faster in leaving than this process in accepting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    metrics.accept_errors.inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "cannot accept connections: {error}");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Lets one connection in. The permit comes before it, so that one too many waits in the backlog.
    async fn admit(&self) -> io::Result<(Socket, Connection, Option<OwnedSemaphorePermit>)> {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => self.make_room().await?,
        };
        let (socket, connection) = self.accept().await?;
        Ok((socket, connection, permit))
    }

    /// Waits for a permit. When a client is waiting, too, the connection that has been idle longest is closed,
    /// as nginx and `HAProxy` do. Busy ones are left alone.
    async fn make_room(&self) -> io::Result<Option<OwnedSemaphorePermit>> {
        self.connections.app.metrics.limit_hits.connections.inc();
        let permit = self.permits.clone().acquire_owned();
        tokio::pin!(permit);
        tokio::select! {
            permit = &mut permit => return Ok(permit.ok()),
            waiting = self.client_waits() => waiting?,
        }
        loop {
            self.connections.end_longest_idle(self.entrance);
            // Perhaps it was not idle any more.
            if let Ok(permit) = timeout(RETRY, &mut permit).await {
                return Ok(permit.ok());
            }
        }
    }

    /// Returns once a client waits in a backlog.
    async fn client_waits(&self) -> io::Result<()> {
        poll_fn(|context| {
            for socket in &self.sockets {
                while let Poll::Ready(mut ready) = socket.poll_read_ready(context)? {
                    let mut listener = [PollFd::new(socket.get_ref(), PollFlags::IN)];
                    if rustix::event::poll(&mut listener, Some(&Timespec::default()))? > 0 {
                        return Poll::Ready(Ok(()));
                    }
                    // The event loop remembers one that has been let in.
                    ready.clear_ready();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Accepts one connection, from a socket that is chosen at random so that none waits for another.
    async fn accept(&self) -> io::Result<(Socket, Connection)> {
        poll_fn(|context| {
            let first = fastrand::usize(..self.sockets.len());
            let (later, sooner) = self.sockets.split_at(first);
            for socket in sooner.iter().chain(later) {
                while let Poll::Ready(mut ready) = socket.poll_read_ready(context)? {
                    if let Ok(accepted) = ready.try_io(|socket| self.accept_from(socket.get_ref())) {
                        return Poll::Ready(accepted);
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes the next connection out of the backlog.
    fn accept_from(&self, listener: &socket2::Socket) -> io::Result<(Socket, Connection)> {
        let (socket, client) = listener.accept()?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(match client.as_socket() {
            Some(client) => {
                let stream = TcpStream::from_std(socket.into())?;
                // Without it the kernel may hold an answer back until the last one is acknowledged. It fails on
                // a connection that is gone, as reading from it soon will.
                let _ = stream.set_nodelay(true);
                (Either::Left(stream), self.connection(Some(client.ip().to_canonical())))
            }
            None => (Either::Right(Box::new(UnixStream::from_std(socket.into())?)), self.connection(None)),
        })
    }

    fn connection(&self, peer: Option<IpAddr>) -> Connection {
        Connection::new(peer, self.entrance)
    }
}
