//! Accepts connections within the limits, until a signal or idleness ends it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::Config;
use crate::http::app::App;
use crate::http::connection::{self, Connection};
use crate::http::connections::Connections;
use crate::http::drain::{self, drain};
use crate::http::socket::Socket;
use crate::process::listener::{Listener, Listeners};
use crate::process::signals::StopSignals;
use crate::process::supervisor;
use crate::version::{COMMIT, VERSION};

/// The pause after an accept that failed for want of something, such as a file descriptor.
const BACK_OFF: Duration = Duration::from_millis(100);

/// File descriptors kept for other things than connections and listeners: standard streams, epoll,
/// attempts to reach Redis, name lookups.
const RESERVED_FILES: usize = 32;

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
    let max_connections = max_connections(config, listeners.sockets.len());
    let permits = Arc::new(Semaphore::new(max_connections));
    let connections = Arc::new(Connections::new(config, app.clone()));
    let (stop_accepting, stopped) = watch::channel(());
    let mut accepting = JoinSet::new();
    for socket in listeners.sockets {
        tracing::info!(listening = %socket, inherited = listeners.inherited, "listening");
        let acceptor = Acceptor {
            listener: AsyncListener::new(socket)?,
            inherited: listeners.inherited,
            permits: permits.clone(),
            connections: connections.clone(),
        };
        accepting.spawn(acceptor.run(stopped.clone()));
    }
    drop(stopped);
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
            tracing::warn!(signal, connections = connections.open().len(), "ending at once");
            Ok(Ended::AtOnce(number))
        }
    }
}

/// Serves HTTP on a stream that the caller has opened, as [`run`] does on a socket that it has accepted,
/// until either side ends it. The simulation and the fuzz target come this way; the limits of time and
/// number are for them to keep.
pub async fn serve_stream(app: Arc<App>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let connection = Arc::new(Connection::new(None));
    connection::serve(app, connection, Socket::Other(Box::new(stream))).await;
}

/// `MAX_CONNECTIONS`, or what the limit of open files leaves.
fn max_connections(config: &Config, listeners: usize) -> usize {
    let limit = config.max_connections.unwrap_or_else(|| {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        files.saturating_sub(RESERVED_FILES + listeners).max(1)
    });
    limit.min(Semaphore::MAX_PERMITS)
}

/// A listening socket on the event loop.
enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsyncListener {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listener::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
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

    /// Accepts all connections that are in the backlog, by the kernel's word: the event loop may not have
    /// heard of them yet.
    fn accept_backlog(self, mut accepted: impl FnMut(Socket, Connection)) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                loop {
                    let (stream, client) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    let (socket, connection) = accepted_tcp(stream.try_into()?, client);
                    accepted(socket, connection);
                }
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                loop {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    accepted(Socket::Unix(stream.try_into()?), Connection::new(None));
                }
            }
        }
    }
}

fn accepted_tcp(stream: TcpStream, client: SocketAddr) -> (Socket, Connection) {
    // Without it the kernel may hold an answer back until the last one is acknowledged. It fails on
    // a connection that is gone, as reading from it soon will.
    let _ = stream.set_nodelay(true);
    let client = client.ip().to_canonical();
    (Socket::Tcp(stream), Connection::new(Some(client)))
}

/// Accepts from one socket.
struct Acceptor {
    listener: AsyncListener,
    /// systemd holds the socket too.
    inherited: bool,
    permits: Arc<Semaphore>,
    connections: Arc<Connections>,
}

impl Acceptor {
    /// Accepts until `stop` closes. Then, where the socket is this process's own and about to close, the
    /// clients in its backlog are still let in: closing would reset them. Where it is systemd's, they
    /// wait there for the next process.
    async fn run(self, mut stop: watch::Receiver<()>) {
        tokio::select! {
            () = self.accept_all() => {}
            _ = stop.changed() => {}
        }
        if !self.inherited {
            // Ends with the error that says that the backlog is empty.
            let _ = self.listener.accept_backlog(|socket, connection| {
                let permit = self.permits.clone().try_acquire_owned().ok();
                self.connections.serve(socket, connection, permit);
            });
        }
    }

    async fn accept_all(&self) {
        let metrics = &self.connections.app.metrics;
        let mut failing = false;
        let mut waited_for = None;
        loop {
            let Some((accepted, permit)) = self.accept(&mut waited_for).await else {
                metrics.limit_hits.connections.inc();
                // The semaphore is never closed.
                waited_for = self.permits.clone().acquire_owned().await.ok();
                continue;
            };
            match accepted {
                Ok((socket, connection)) => {
                    failing = false;
                    self.connections.serve(socket, connection, Some(permit));
                }
                // The client was faster in leaving than this process in accepting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    metrics.accept_errors.inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "cannot accept connections; trying again");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Accepts one connection. `None` when all permits are taken.
    ///
    /// The permit comes before the connection, so that one too many waits in the backlog. It is held
    /// only while a connection is there: the next may come to another socket.
    async fn accept(
        &self,
        waited_for: &mut Option<OwnedSemaphorePermit>,
    ) -> Option<(io::Result<(Socket, Connection)>, OwnedSemaphorePermit)> {
        poll_fn(|context| {
            let permit = waited_for.take().or_else(|| self.permits.clone().try_acquire_owned().ok());
            let Some(permit) = permit else {
                return Poll::Ready(None);
            };
            let accepted = ready!(self.listener.poll_accept(context));
            Poll::Ready(Some((accepted, permit)))
        })
        .await
    }
}
