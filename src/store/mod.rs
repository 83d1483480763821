//! The attached Redis: how it is reached.
//!
//! Factor IV: Redis is a resource named by a URL. Nothing here knows which server stands behind
//! it, and any one that speaks the protocol can take its place with a change of settings.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::config::{AddressFamily, Config};
use crate::store::keys::Keys;
use crate::store::redis_session::RedisSession;
use crate::store::sentinel::Sentinels;
use crate::store::stream::connect_tcp;
#[cfg(feature = "tls")]
use crate::store::tls::Tls;

mod check;
mod error;
mod keys;
mod link;
mod redis_session;
mod sentinel;
mod server_info;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod visitor_session;

pub use check::Check;
pub use error::{StoreError, StoreSetupError};
pub(crate) use link::{Counted, Increment};
pub use link::{Link, Total, integer};
pub use server_info::ServerInfo;
pub use stream::Stream;
pub use visitor_session::{SESSION_BYTES, SessionId, SessionReply, SessionRequest, VisitorSession};

/// Where the count is kept and how to get there.
#[derive(Debug)]
pub struct Store {
    /// The address of the server, unless Sentinels know it; how to log in to it.
    server: ConnectionInfo,
    /// Whether the URL is the default: then an error says how to set it.
    is_default: bool,
    sentinels: Option<Sentinels>,
    /// Which addresses of a host are tried.
    family: AddressFamily,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    connector: Option<Box<dyn Connector>>,
    keys: Arc<Keys>,
    min_replicas: i64,
    /// How long a link may stay silent before the batch is sent again on a new one.
    pub(crate) reply_timeout: Duration,
    /// The time budget of a visit.
    pub(crate) budget: Duration,
    session_lifetime_ms: u64,
}

/// Opens streams to Redis in place of the URL's address.
///
/// The service has none. It is for a simulation, whose network is not the kernel's, and costs one
/// look at an `Option` for each connection.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Opens one more stream.
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;
}

impl Store {
    /// Prepares to reach the Redis of `config`. Connects to nothing yet.
    ///
    /// # Errors
    /// When the TLS settings do not make sense, or the system gives no random numbers.
    pub fn new(config: &Config) -> Result<Self, StoreSetupError> {
        let url = &config.redis_url;
        let keys = Keys::new(&config.counter_key)
            .map_err(|error| StoreSetupError(format!("no random numbers for a producer id: {error}")))?;
        Ok(Self {
            server: url.connection.clone(),
            is_default: !config.is_set("REDIS_URL"),
            sentinels: url.sentinels.as_ref().map(Sentinels::new),
            family: url.family,
            #[cfg(feature = "tls")]
            tls: url.is_tls().then(|| Tls::new(config)).transpose()?,
            connector: None,
            keys: Arc::new(keys),
            min_replicas: i64::try_from(config.min_replicas_ack).unwrap_or(i64::MAX),
            reply_timeout: config.redis_timeout / 2,
            budget: config.redis_timeout,
            session_lifetime_ms: config.session_lifetime.map_or(0, |time| time.as_millis() as u64),
        })
    }

    /// The same store, reached by `connector`. User, password and database stay those of the URL.
    #[must_use]
    pub fn reached_by(mut self, connector: impl Connector + 'static) -> Self {
        self.connector = Some(Box::new(connector));
        self
    }

    /// Opens a Redis session with the server that counts, and makes sure that it answers: one that hangs, loads
    /// its data or is full still lets the kernel connect.
    async fn open_verified(&self) -> Result<RedisSession, StoreError> {
        // The increment needs the right to read this key too.
        let question = Cmd::get(&self.keys.epoch);
        let mut session = self.open_master().await?;
        let Err(error) = session.ask::<Value>(&question).await else {
            return Ok(session);
        };
        // A node of a Redis Cluster names the one that has the keys.
        let Some(node) = self.moved(&error) else {
            return Err(match StoreError::from(error) {
                StoreError::Uncountable(_) => {
                    StoreError::Uncountable(format!("key {} does not hold a plain integer", self.keys.epoch))
                }
                other => other.at(&session.address),
            });
        };
        let mut session = self.open_session(&node).await?;
        session.ask_at::<Value>(&question).await?;
        Ok(session)
    }

    /// Opens a Redis session with the server of the URL, or with the one that Sentinels name.
    async fn open_master(&self) -> Result<RedisSession, StoreError> {
        let Some(sentinels) = &self.sentinels else {
            return self.open_session(&self.server).await;
        };
        let mut last_error = StoreError::Unreachable("there is no Sentinel to ask".to_owned());
        // When one Sentinel fails or hangs, the next one is asked, and the next attempt begins there. Each has
        // half of the time that is left, which is enough for a distant one, and for the next.
        let begun = Instant::now();
        for node in sentinels.in_turn() {
            let turn = self.budget.saturating_sub(begun.elapsed()) / 2;
            let opening = async {
                let mut asked = self.open_session(node).await?;
                let (host, port) = sentinels.master_address(&mut asked).await?;
                let mut session = self.open_session(&self.other(host, port)).await?;
                sentinel::check_is_master(&mut session).await?;
                Ok(session)
            };
            last_error = match timeout(turn, opening).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => {
                    StoreError::Unreachable("no answer by way of the Sentinel".to_owned()).at(node.addr())
                }
            };
        }
        Err(last_error)
    }

    /// Another server than that of the URL, to be reached in the way that the URL says.
    fn other(&self, host: String, port: u16) -> ConnectionInfo {
        let address = match self.server.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.server.clone().set_addr(address)
    }

    /// The node of a Redis Cluster that this error names as the one that has the keys.
    fn moved(&self, error: &RedisError) -> Option<ConnectionInfo> {
        if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
            return None;
        }
        let (address, _slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let host = match (host, self.server.addr()) {
            // The same host, by another port.
            ("", ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host,
            _ => host,
        };
        Some(self.other(host.to_owned(), port.parse().ok()?))
    }

    /// Opens a stream to this server, and logs in.
    async fn open_session(&self, server: &ConnectionInfo) -> Result<RedisSession, StoreError> {
        let opening = async {
            let stream: Stream = match (&self.connector, server.addr()) {
                (Some(connector), _) => connector.connect().await?,
                (None, ConnectionAddr::Tcp(host, port)) => {
                    Box::pin(connect_tcp(host, *port, self.family).await?)
                }
                (None, ConnectionAddr::Unix(path)) => Box::pin(UnixStream::connect(path).await?),
                #[cfg(feature = "tls")]
                (None, ConnectionAddr::TcpTls { host, port, .. }) if let Some(tls) = &self.tls => {
                    Box::pin(tls.connect(host, *port, self.family).await?)
                }
                (None, other) => {
                    let other = format!("this build cannot connect to {other}");
                    return Err(io::Error::new(io::ErrorKind::Unsupported, other).into());
                }
            };
            RedisSession::open(stream, server).await
        };
        let opened: Result<_, RedisError> = opening.await;
        opened.map_err(|error| StoreError::from(error).at(server.addr()))
    }

    /// Opens a link, within the time budget of a visit.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] with what the network said, [`StoreError::Refused`] with what
    /// Redis said.
    pub async fn connect(&self) -> Result<Link, StoreError> {
        let connecting = async {
            let mut session = self.open_verified().await?;
            let (seconds, micros): (u64, u64) = session.ask_at(&redis::cmd("TIME")).await?;
            if seconds > u32::MAX.into() || micros >= 1_000_000 {
                return Err(error::not_of_redis());
            }
            let time = Duration::from_secs(seconds) + Duration::from_micros(micros);
            Ok(Link {
                session,
                time: (time, Instant::now()),
                keys: self.keys.clone(),
                min_replicas: self.min_replicas,
                reply_timeout: self.reply_timeout,
                budget: self.budget,
                session_lifetime_ms: self.session_lifetime_ms,
            })
        };
        let connected = timeout(self.budget, connecting).await.unwrap_or_else(|_| {
            // A Redis that waits for a whole line says nothing to the first message of TLS.
            let how = match self.server.addr() {
                ConnectionAddr::TcpTls { .. } => " by TLS; has this port TLS?",
                _ => "",
            };
            let late = StoreError::Unreachable(format!("no answer to a connection attempt{how}"));
            Err(match &self.sentinels {
                None => late.at(self.server.addr()),
                Some(_) => late,
            })
        });
        connected.map_err(|error| if self.is_default { error.at_default() } else { error })
    }
}
