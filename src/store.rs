//! The attached Redis: how it is reached, and the one command that counts.
//!
//! Factor IV: Redis is a resource named by a URL. Nothing here knows which server stands behind
//! it, and any one that speaks the protocol can take its place with a change of settings.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::Instant;

use crate::config::Config;
use crate::event_loop::Clock;
use crate::resp::{
    Connection, NO_REDIS, Reply, TOO_LONG, number, put_command, put_number, put_word, without_words,
};
use crate::sentinel::{self, Sentinels};
pub use crate::stream::Stream;
use crate::stream::{tcp, unix};
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// The idempotent increment: what makes it safe to send a batch again when its answer was lost.
///
/// For each producer (a running process) Redis keeps the number of the last batch that it applied
/// and what came of it. A greater number is applied and remembered, the same number gets the
/// remembered result again, and a smaller one is refused: a command that timed out here and that
/// Redis runs late must not count. Where nothing is remembered, so is one that is so late that its
/// memory may have expired.
///
/// The result is the new total and the epoch in which it was drawn, as one: a total that is not
/// above an earlier one of the same epoch shows that Redis has lost data.
///
/// A repetition writes what stands there already. So it renews the memory, a replica refuses it, and
/// `WAIT` has something to wait for: on a new connection that has written nothing, it returns at
/// once (Redis 7.2 and later).
///
/// `INCRBY` stands before the `SET` that remembers it, and is taken back by the same command when
/// that `SET` is refused (say by an ACL), so an error always means "not applied". A script runs
/// alone, so nobody sees the number in between. Lua's numbers are doubles, and have an exponent from
/// 10^14 on when they become text: a total beyond that is read back.
const INCREMENT: &str = include_str!("increment.lua");

/// Sets the count and marks that it was meant, unless it comes so late that whoever asked for it has
/// been told that it failed.
const RESET: &str = include_str!("reset.lua");

/// What Redis says of a number that has no next one.
const OVERFLOW: &str = "would overflow";

/// How much is shown of what stands at a key, in bytes. `reset.lua` knows it too.
const MOST_SHOWN: usize = 1000;

/// How much is told of what a server says against something, in letters.
const MOST_WORDS: usize = 300;

/// How long after a batch is first sent its memory lasts.
///
/// A copy of a batch would count twice if it ran after the memory of an earlier copy had expired.
/// That cannot happen: each copy says until when it is to be remembered, by the clock of Redis, and
/// Redis runs it only until half an hour before that, where it remembers nothing of the producer. No
/// copy says less than one before it, nor one of a batch more than one of it that may be under way. So
/// a copy that comes after Redis, this process or the network has stood still for hours, or the clock
/// of Redis was set forward or back, finds either the memory or its own time past. (Not so when the
/// clock goes forward by more than half an hour and back again while a copy is under way.) Visits do
/// not wait as long by far (`REDIS_TIMEOUT`, at most a minute).
///
/// Memory and count are written by one script, and so replicated as one: a replica that is promoted
/// has both or neither. The half hour is for its clock, which may differ.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// Where the count is kept and how to get there.
#[derive(Debug)]
pub struct Store {
    /// The address of the server, unless Sentinels know it; how to log in to it.
    server: ConnectionInfo,
    sentinels: Option<Sentinels>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    connector: Option<Box<dyn Connector>>,
    clock: Clock,
    keys: Arc<Keys>,
    min_replicas: i64,
    patience: Duration,
    budget: Duration,
}

/// Opens streams to Redis in place of the URL's address.
///
/// The service has none. It is for a simulation, whose network is not the kernel's, and costs one
/// look at an `Option` for each connection.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Opens one more stream.
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;
}

/// The keys of one counter. All share a hash slot, so that Redis Cluster runs the script too.
#[derive(Debug)]
struct Keys {
    counter: String,
    /// Each reset begins another one, so that a process can tell a reset from a loss of data.
    epoch: String,
    /// This process's last batch.
    producer: String,
    /// The command that counts, by the name that Redis has for [`INCREMENT`], up to the numbers that
    /// differ from batch to batch.
    increment: Vec<u8>,
}

impl Keys {
    fn new(counter: &str) -> Result<Self, getrandom::Error> {
        // The slot is that of the text in the first braces, when there is any (Cluster spec).
        let tagged = counter
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .is_some_and(|(tag, _)| !tag.is_empty());
        let stem = if tagged {
            counter.to_owned()
        } else {
            format!("{{{counter}}}")
        };
        let id = u128::from(getrandom::u64()?) << 64 | u128::from(getrandom::u64()?);
        let mut keys = Self {
            counter: counter.to_owned(),
            epoch: format!("{stem}:epoch"),
            producer: format!("{stem}:producer:{id:032x}"),
            increment: Vec::new(),
        };
        keys.increment = keys.begin_increment("EVALSHA", redis::Script::new(INCREMENT).get_hash());
        Ok(keys)
    }

    fn begin_increment(&self, evaluate: &str, script: &str) -> Vec<u8> {
        let mut command = Vec::new();
        put_command(&mut command, 9);
        for word in [
            evaluate,
            script,
            "3",
            &self.counter,
            &self.producer,
            &self.epoch,
        ] {
            put_word(&mut command, word.as_bytes());
        }
        command
    }
}

/// Why Redis did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No answer: nobody knows whether the command was run.
    #[error("{0}")]
    Unreachable(String),
    /// The keys are with another node of a Redis Cluster, or on their way there. The command was not
    /// run. No outage: the next connection leads to them.
    #[error("{0}")]
    Moved(String),
    /// An answer that says "not now", such as `LOADING`, `READONLY` or `OOM`. The command was not
    /// run. A new connection may lead to a server that says otherwise.
    #[error("{0}")]
    Refused(String),
    /// Redis does not know the script, for example after `SCRIPT FLUSH` or a restart.
    #[error("the script is not loaded")]
    UnknownScript,
    /// The key cannot be counted up. Only a person can help.
    #[error("{0}")]
    Uncountable(String),
    /// The command was run, but a failover could undo it yet. It may be sent again, to wait longer.
    #[error("{have} replicas of Redis have the visit, of {want} that must")]
    Unreplicated {
        /// How many replicas have acknowledged it in time.
        have: i64,
        /// `MIN_REPLICAS_ACK`.
        want: i64,
    },
}

impl StoreError {
    /// Adds where nothing was reached.
    fn at(self, address: &ConnectionAddr) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(format!("{why}, at {address}")),
            other => other,
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::UnknownScript,
            // From inside a script, Redis 6 wraps the reason in "ERR Error running script".
            _ if says(&error, "WRONGTYPE")
                || says(&error, "not an integer")
                || says(&error, OVERFLOW)
                || error.to_string().contains(TOO_LONG) =>
            {
                Self::Uncountable(error.to_string())
            }
            ErrorKind::Parse => not_of_redis(),
            kind => match error.code() {
                // In the words of Redis, which are what people search for.
                Some(code) => {
                    let detail = error.detail().unwrap_or_default();
                    let detail = without_words(detail);
                    let said = format!("{code} {detail}");
                    let said = said.chars().take(MOST_WORDS);
                    let said = said.map(|letter| if letter.is_control() { ' ' } else { letter });
                    let said = said.collect();
                    match kind {
                        ErrorKind::Server(
                            ServerErrorKind::Moved
                            | ServerErrorKind::Ask
                            | ServerErrorKind::TryAgain,
                        ) => Self::Moved(said),
                        _ => Self::Refused(said),
                    }
                }
                None => Self::Unreachable(error.to_string()),
            },
        }
    }
}

impl Store {
    /// Prepares to reach the Redis of `config`. Connects to nothing yet.
    ///
    /// # Errors
    /// When the TLS settings do not make sense, or the system gives no random numbers.
    pub fn new(config: &Config) -> Result<Self, StoreSetupError> {
        let url = &config.redis_url;
        Ok(Self {
            server: url.connection.clone(),
            sentinels: url.sentinels.as_ref().map(Sentinels::new),
            #[cfg(feature = "tls")]
            tls: url.is_tls().then(|| Tls::new(config)).transpose()?,
            connector: None,
            clock: Clock::SYSTEM,
            keys: Arc::new(Keys::new(&config.counter_key.0)?),
            min_replicas: i64::try_from(config.min_replicas_ack.0).unwrap_or(i64::MAX),
            patience: config.redis_timeout.0 / 2,
            budget: config.redis_timeout.0,
        })
    }

    /// The same store, reached by `connector`. User, password and database stay those of the URL. Time
    /// is told by tokio's clock, which a simulation may set.
    #[must_use]
    pub fn reached_by(mut self, connector: impl Connector + 'static) -> Self {
        self.connector = Some(Box::new(connector));
        self.clock = Clock::Tokio;
        self
    }

    /// The time budget of a visit.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// By what time is told.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// How long a link may stay silent before its answer is sought on a new one.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Connects to the server that counts, and makes sure that it answers: one that hangs, loads its
    /// data or is full still lets the kernel connect.
    async fn open(&self) -> Result<Connection, StoreError> {
        // The increment needs the right to read this key too.
        let question = Cmd::get(&self.keys.epoch);
        let mut connection = self.reach().await?;
        let Err(error) = connection.ask::<Value>(&question).await else {
            return Ok(connection);
        };
        // A node of a Redis Cluster names the one that has the keys.
        let Some(node) = self.moved(&error) else {
            return Err(match StoreError::from(error) {
                StoreError::Uncountable(_) => StoreError::Uncountable(format!(
                    "key {} does not hold a plain integer",
                    self.keys.epoch
                )),
                other => other.at(&connection.address),
            });
        };
        let mut connection = self.dial(&node).await?;
        ask::<Value>(&mut connection, &question).await?;
        Ok(connection)
    }

    /// Connects to the server of the URL, or to the one that Sentinels name.
    async fn reach(&self) -> Result<Connection, StoreError> {
        let Some(sentinels) = &self.sentinels else {
            return self.dial(&self.server).await;
        };
        let mut trouble = StoreError::Unreachable("there is no Sentinel to ask".to_owned());
        // Whichever fails or hangs, the next one may know better, and the next attempt begins there. Each
        // has half of the time that is left: that is enough for one that is far away, and for the next.
        let begun = Instant::now();
        for node in sentinels.in_turn() {
            let turn = self.budget.saturating_sub(begun.elapsed()) / 2;
            let opening = async {
                let (host, port) = sentinels.ask(&mut self.dial(node).await?).await?;
                let mut connection = self.dial(&self.other(host, port)).await?;
                sentinel::check_is_master(&mut connection).await?;
                Ok(connection)
            };
            trouble = match self.clock.limit(turn, opening).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(error) => {
                    let silent = format!("no answer, by way of the Sentinel {}", node.addr());
                    late(&error, &silent)
                }
            };
        }
        Err(trouble)
    }

    /// Another server than that of the URL, to be reached in the way that the URL says.
    fn other(&self, host: String, port: u16) -> ConnectionInfo {
        let address = match self.server.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
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

    /// Connects to this server, and logs in.
    async fn dial(&self, server: &ConnectionInfo) -> Result<Connection, StoreError> {
        let dialing = async {
            let stream: Stream = match (&self.connector, server.addr()) {
                (Some(connector), _) => connector.connect().await?,
                (None, ConnectionAddr::Tcp(host, port)) => Box::pin(tcp(host, *port).await?),
                (None, ConnectionAddr::Unix(path)) => Box::pin(unix(path).await?),
                #[cfg(feature = "tls")]
                (None, ConnectionAddr::TcpTls { host, port, .. }) if let Some(tls) = &self.tls => {
                    Box::pin(tls.connect(host, *port).await?)
                }
                (None, other) => {
                    let other = format!("this build cannot connect to {other}");
                    return Err(io::Error::new(io::ErrorKind::Unsupported, other).into());
                }
            };
            Connection::open(stream, server).await
        };
        let connection: Result<_, RedisError> = dialing.await;
        connection.map_err(|error| StoreError::from(error).at(server.addr()))
    }

    /// What kind of server this is, asked on a connection of its own.
    pub(crate) async fn server(&self) -> Result<Server, StoreError> {
        Server::of(&mut self.open().await?).await
    }

    /// Opens a connection, within the time budget of a visit.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] with what the network said, [`StoreError::Refused`] with what
    /// Redis said.
    pub async fn connect(&self) -> Result<Link, StoreError> {
        let connecting = async {
            let mut connection = self.open().await?;
            let time = redis::cmd("TIME");
            let (seconds, micros): (u64, u64) = ask(&mut connection, &time).await?;
            if seconds > u32::MAX.into() || micros >= 1_000_000 {
                return Err(not_of_redis());
            }
            let time = Duration::from_secs(seconds) + Duration::from_micros(micros);
            Ok(Link {
                connection,
                increment: Increment::default(),
                time: (time, Instant::now()),
                keys: self.keys.clone(),
                min_replicas: self.min_replicas,
                patience: self.patience,
                budget: self.budget,
                clock: self.clock,
            })
        };
        match self.clock.limit(self.budget, connecting).await {
            Ok(done) => done,
            Err(error) => {
                let late = late(&error, "no answer to a connection attempt");
                Err(match &self.sentinels {
                    None => late.at(self.server.addr()),
                    Some(_) => late,
                })
            }
        }
    }
}

/// Settings from which no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum StoreSetupError {
    /// The TLS files, or what they hold.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsSetupError),
    /// The system's random source failed.
    #[error("no random numbers for a producer id: {0}")]
    Random(#[from] getrandom::Error),
}

/// One connection to Redis, on which one thing is asked at a time.
pub struct Link {
    connection: Connection,
    increment: Increment,
    /// What the clock of Redis said, since 1970, and when that was, or a little later.
    time: (Duration, Instant),
    keys: Arc<Keys>,
    min_replicas: i64,
    patience: Duration,
    budget: Duration,
    clock: Clock,
}

/// The command that counts, as it was sent last. From one batch to the next, often only its last word
/// differs.
#[derive(Default)]
struct Increment {
    command: Vec<u8>,
    /// What the words before say: whether the script is sent whole, until when and for how many visits.
    beginning: Option<(bool, u64, usize)>,
    /// Where the last word begins.
    batch_at: usize,
}

impl Increment {
    fn set(&mut self, keys: &Keys, send_script: bool, until: u64, visits: usize, batch: u64) {
        let beginning = Some((send_script, until, visits));
        if self.beginning != beginning {
            self.beginning = beginning;
            self.command.clear();
            if send_script {
                self.command.extend(keys.begin_increment("EVAL", INCREMENT));
            } else {
                self.command.extend_from_slice(&keys.increment);
            }
            put_number(&mut self.command, until);
            put_number(&mut self.command, visits as u64);
            self.batch_at = self.command.len();
        }
        self.command.truncate(self.batch_at);
        put_number(&mut self.command, batch);
    }
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Total {
    /// The count after the batch: the number of its last visit.
    pub(crate) count: i64,
    /// Later after each reset.
    pub(crate) epoch: i64,
}

impl Total {
    fn read(text: &[u8]) -> Result<Self, StoreError> {
        let Some((count, [b' ', epoch @ ..])) = number(text) else {
            return Err(not_of_redis());
        };
        match number(epoch) {
            Some((epoch, [])) => Ok(Self { count, epoch }),
            _ => Err(StoreError::Uncountable("the epoch is no number".to_owned())),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Until when a batch that is sent `now` is to be remembered, in Unix seconds of this Redis: for about
    /// a second the same, so that commands are alike.
    pub(crate) fn remember_until(&mut self, now: Instant) -> u64 {
        if now > self.time.1 + Duration::from_secs(1) {
            self.time = (self.time_at(now), now);
        }
        (self.time.0 + MEMORY).as_secs()
    }

    /// What the clock of this Redis shows, or a little less.
    fn time_at(&self, now: Instant) -> Duration {
        let (time, then) = self.time;
        time + now.saturating_duration_since(then)
    }

    /// Counts `visits` up, at most once for each `batch`, which Redis remembers `until` then, and
    /// returns the new total. No visits at all show whether some could be counted. `send_script` sends
    /// the whole script, which is needed once after Redis forgot it.
    ///
    /// # Errors
    /// After [`StoreError::Unreachable`] the batch may or may not have been applied, and after
    /// [`StoreError::Unreplicated`] it was, for now: send the same one again. After the others this
    /// copy of it was not applied.
    pub(crate) async fn increment(
        &mut self,
        batch: u64,
        visits: usize,
        until: u64,
        send_script: bool,
    ) -> Result<Total, StoreError> {
        self.increment
            .set(&self.keys, send_script, until, visits, batch);
        let answer = match self.min_replicas {
            0 => self.ask_increment().await,
            replicas => self.ask_increment_and_replicas(replicas).await,
        };
        match answer {
            // None could be counted, but one could not.
            Ok(total) if visits == 0 && total.count == i64::MAX => Err(StoreError::Uncountable(
                self.what_stands_there(OVERFLOW).await,
            )),
            Ok(total) => Ok(total),
            Err(error) => Err(self.explain(error).await),
        }
    }

    async fn ask_increment(&mut self) -> Result<Total, StoreError> {
        self.connection.send(&self.increment.command).await?;
        match self.connection.reply().await? {
            Reply::Text(text) => Total::read(text),
            Reply::Other(Value::ServerError(error)) => Err(RedisError::from(error).into()),
            Reply::Other(_) => Err(not_of_redis()),
        }
    }

    async fn ask_increment_and_replicas(&mut self, want: i64) -> Result<Total, StoreError> {
        // Within the patience of whoever waits for this answer.
        let wait_ms = (self.patience / 2).as_millis().max(1);
        let wait = redis::cmd("WAIT")
            .arg(want)
            .arg(wait_ms.to_string())
            .get_packed_command();
        self.increment.command.extend(wait);
        self.connection.send(&self.increment.command).await?;
        let replies = self.connection.replies(2).await?;
        match <[Value; 2]>::try_from(replies) {
            Ok([Value::BulkString(text), Value::Int(have)]) => match Total::read(&text)? {
                total if have >= want => Ok(total),
                _ => Err(StoreError::Unreplicated { have, want }),
            },
            Ok(
                [Value::ServerError(error), _] | [Value::BulkString(_), Value::ServerError(error)],
            ) => Err(RedisError::from(error).into()),
            _ => Err(not_of_redis()),
        }
    }

    /// Finds out, by counting nobody, whether a visit could be counted.
    ///
    /// # Errors
    /// What a visit would be refused for.
    pub async fn probe(&mut self) -> Result<(), StoreError> {
        let (clock, budget) = (self.clock, self.budget);
        let begun = Instant::now();
        let until = self.remember_until(begun);
        // Whole first, and then by its name: visits need both.
        let mut whole = true;
        let probed = loop {
            let probed = within(clock, budget, self.increment(1, 0, until, whole)).await;
            let again = match &probed {
                Ok(_) => whole,
                Err(StoreError::Unreplicated { .. }) => begun.elapsed() < budget,
                Err(_) => false,
            };
            whole = false;
            if !again {
                break probed;
            }
        };
        // Where that fails, the key expires.
        let _ = within(clock, budget, self.forget_producer()).await;
        probed.map(drop)
    }

    /// Removes this process's memory of its last batch.
    pub(crate) async fn forget_producer(&mut self) -> Result<(), StoreError> {
        let forget = Cmd::del(&self.keys.producer);
        Ok(self.connection.ask(&forget).await?)
    }

    /// The count, or `None` before the first visit.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when something else stands there.
    pub async fn count(&mut self) -> Result<Option<i64>, StoreError> {
        match self.held().await? {
            None => Ok(None),
            Some(text) => match integer(&text) {
                Some(count) => Ok(Some(count)),
                None => Err(StoreError::Uncountable(
                    self.what_stands_there("not an integer").await,
                )),
            },
        }
    }

    /// Sets the count, marks that this was meant (the epoch), and returns what stood there. One
    /// script: a visit counted meanwhile is either in the old value or on top of the new one.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when the key holds no text at all; then nothing is changed. After
    /// [`StoreError::Unreachable`] it may or may not have been; it is not any more when the time budget
    /// of a visit has passed, by the clock of Redis.
    pub async fn reset(&mut self, to: i64) -> Result<Option<String>, StoreError> {
        let until = (self.time_at(Instant::now()) + self.budget).as_millis();
        let mut reset = redis::cmd("EVAL");
        reset
            .arg(RESET)
            .arg(2)
            .arg(&self.keys.counter)
            .arg(&self.keys.epoch)
            .arg(to)
            .arg(until.to_string());
        let error = match self.ask::<Option<Vec<u8>>>(&reset).await {
            Ok(held) => return Ok(held.map(shown)),
            Err(error) => error,
        };
        Err(match self.explain(error).await {
            StoreError::Unreachable(why) => {
                StoreError::Unreachable(format!("{why}; the count may have been set all the same"))
            }
            other => other,
        })
    }

    /// What stands at the counter's key, as text; `None` when there is nothing.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when it is no text at all.
    pub async fn read(&mut self) -> Result<Option<String>, StoreError> {
        let held = self.held().await?;
        Ok(held.map(shown))
    }

    async fn held(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.ask(&Cmd::get(&self.keys.counter)).await {
            Ok(held) => Ok(held),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// What kind of server this is, as far as its access rules let anybody ask.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when the connection breaks.
    pub async fn server(&mut self) -> Result<Server, StoreError> {
        let answer = Server::of(&mut self.connection);
        within(self.clock, self.budget, answer).await
    }

    /// Asks something, and waits for the answer no longer than a visit would.
    async fn ask<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.connection.ask(command);
        within(self.clock, self.budget, answer).await
    }

    async fn explain(&mut self, error: StoreError) -> StoreError {
        match error {
            StoreError::Uncountable(said) => {
                StoreError::Uncountable(self.what_stands_there(&said).await)
            }
            other => other,
        }
    }

    /// Describes what stands at the counter's key or at the epoch's, of which one cannot be counted up,
    /// as Redis or the script has said.
    async fn what_stands_there(&mut self, said: &str) -> String {
        let keys = self.keys.clone();
        let count = self.integer_at(&keys.counter).await;
        if said.contains(OVERFLOW) {
            let holds = |count: Option<i64>| format!("holds {}, which ", count.unwrap_or_default());
            let holds = count.map(holds).unwrap_or_default();
            return format!("key {} {holds}cannot be counted up further", keys.counter);
        }
        let (key, held) = match count {
            Err(wrong) if !said.contains("epoch") => (&keys.counter, Err(wrong)),
            _ => (&keys.epoch, self.integer_at(&keys.epoch).await),
        };
        match held {
            Err(wrong) => format!("key {key} {wrong}"),
            // Not there, or not any more.
            Ok(_) => said.to_owned(),
        }
    }

    /// The integer that stands at a key, if anything does; or what else does.
    async fn integer_at(&mut self, key: &str) -> Result<Option<i64>, String> {
        let kind: Result<String, _> = self.ask(redis::cmd("TYPE").arg(key)).await;
        match kind.as_deref() {
            Ok("none") => Ok(None),
            Ok("string") => {
                let text: Result<Vec<u8>, _> = self.ask(&Cmd::getrange(key, 0, 63)).await;
                let text = text.unwrap_or_default();
                let other = || {
                    format!(
                        "holds {:?}, which is not an integer",
                        String::from_utf8_lossy(&text)
                    )
                };
                integer(&text).map(Some).ok_or_else(other)
            }
            Ok(kind) => Err(format!("holds a {kind}, not a plain integer")),
            Err(_) => Err("does not hold a plain integer".to_owned()),
        }
    }
}

/// Asks something, and says where the server is that gave no answer.
pub(crate) async fn ask<T: redis::FromRedisValue>(
    connection: &mut Connection,
    command: &Cmd,
) -> Result<T, StoreError> {
    let answer = connection.ask(command).await;
    answer.map_err(|error| StoreError::from(error).at(&connection.address))
}

/// Asks something that the server's access rules may forbid.
async fn ask_if_allowed<T: redis::FromRedisValue>(
    connection: &mut Connection,
    words: &[&str],
) -> Result<Option<T>, StoreError> {
    let mut command = Cmd::new();
    command.arg(words);
    match connection.ask(&command).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_io_error() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// What a Redis server says of itself; `None` for what it does not tell this user.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its name and version.
    pub version: Option<String>,
    /// `master` or `slave`, in the words of `INFO`.
    pub role: Option<String>,
    /// Whether it keeps an append-only file.
    pub append_only: Option<bool>,
    /// When it makes that file safe: `always`, `everysec` or `no`.
    pub append_fsync: Option<String>,
}

impl Server {
    async fn of(connection: &mut Connection) -> Result<Self, StoreError> {
        let info: Option<String> = ask_if_allowed(connection, &["INFO"]).await?;
        let said = |name: &str| {
            let line = info
                .as_deref()?
                .lines()
                .find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix(':')?.trim().to_owned())
        };
        let words = ["CONFIG", "GET", "appendfsync"];
        let fsync: Option<HashMap<String, String>> = ask_if_allowed(connection, &words).await?;
        Ok(Self {
            version: said("valkey_version")
                .map(|version| format!("Valkey {version}"))
                .or_else(|| said("redis_version").map(|version| format!("Redis {version}"))),
            role: said("role"),
            append_only: said("aof_enabled").map(|enabled| enabled == "1"),
            append_fsync: fsync.and_then(|pair| pair.into_values().next()),
        })
    }

    /// Whether an acknowledged visit survives a crash of the server; `None` when it cannot be known.
    #[must_use]
    pub fn is_durable(&self) -> Option<bool> {
        if self.append_only? {
            Some(self.append_fsync.as_deref()? == "always")
        } else {
            Some(false)
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self
            .version
            .as_deref()
            .unwrap_or("a server of unknown version");
        let role = self.role.as_deref().unwrap_or("of unknown role");
        let durability = match (self.is_durable(), self.append_only) {
            (Some(true), _) => {
                "a counted visit survives a crash of the server (appendfsync always)"
            }
            (Some(false), Some(true)) => {
                "a crash of the server can lose the last visits (appendfsync is not always)"
            }
            (Some(false), _) => "a crash of the server can lose visits (appendonly is no)",
            (None, _) => "its durability cannot be read by this user (INFO and CONFIG GET)",
        };
        write!(f, "{version}, {role}; {durability}")
    }
}

/// What stood at a key, as text; the beginning of a long one, and a mark.
fn shown(mut held: Vec<u8>) -> String {
    if held.len() > MOST_SHOWN {
        held.truncate(MOST_SHOWN);
        held.extend(b"...");
    }
    String::from_utf8_lossy(&held).into_owned()
}

/// An integer exactly as Redis writes it: `INCRBY` takes neither `+5` nor `007`.
fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = text.parse().ok()?;
    (itoa::Buffer::new().format::<i64>(number) == text).then_some(number)
}

/// The answer, if it comes within `budget`.
async fn within<T, E: Into<StoreError>>(
    clock: Clock,
    budget: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    let answer = clock.limit(budget, answer).await;
    let answer = answer.map_err(|error| late(&error, &format!("no answer within {budget:?}")))?;
    answer.map_err(Into::into)
}

/// Why something has not come to an end, which says `timed_out` where it took too long.
fn late(error: &io::Error, timed_out: &str) -> StoreError {
    StoreError::Unreachable(match error.kind() {
        io::ErrorKind::TimedOut => timed_out.to_owned(),
        _ => error.to_string(),
    })
}

fn not_of_redis() -> StoreError {
    StoreError::Unreachable(format!("{NO_REDIS}: it gave an answer of another kind"))
}

fn says(error: &RedisError, words: &str) -> bool {
    error.code().is_some_and(|code| code == words)
        || error.detail().is_some_and(|detail| detail.contains(words))
}
