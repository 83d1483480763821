//! The link to the server that counts: the one command that counts, and what admin processes ask.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, RedisError, Value};
use tokio::time::{Instant, timeout};

use crate::store::error::{OVERFLOW, StoreError, not_of_redis};
use crate::store::keys::Keys;
use crate::store::redis_session::RedisSession;
use crate::store::server_info::ServerInfo;
use crate::store::visitor_session::{SessionReply, SessionRequest};

/// The idempotent increment: what makes it safe to send a batch again when its answer was lost.
///
/// Redis keeps, for each producer (a running process), the number of the last batch and what came of it. A
/// greater number is applied, the same number gets the kept result, and a smaller one is refused. Without a
/// record, a batch is refused whose record may have expired. The result is the new total and its epoch.
///
/// * A repetition writes what stands there already, so that `WAIT` has something to wait for.
/// * `INCRBY` is taken back when the `SET` that remembers it is refused: an error means "not applied".
/// * A visitor who comes back is told the number in their session. A new one is counted up, and gets a
///   session. When the batch is sent again, the session that it has made has the number.
/// * Lua's numbers have an exponent from 10^14 on when they become text: such a total is read back.
const INCREMENT: &str = include_str!("scripts/increment.lua");

/// The name that Redis has for [`INCREMENT`].
static INCREMENT_SHA: LazyLock<String> =
    LazyLock::new(|| redis::Script::new(INCREMENT).get_hash().to_owned());

/// Sets the count and begins a new epoch, unless it comes so late that its failure has been reported.
const RESET: &str = include_str!("scripts/reset.lua");

/// Reads the count and its epoch at one moment, with the rights that a reset needs.
const TOTAL: &str = "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}";

/// Writes what `mail-report` keeps, unless another process has changed it since this one read it.
const REPLACE: &str = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end \
                       redis.call('SET', KEYS[1], ARGV[2]) return 1";

/// How much is shown of what stands at a key, in bytes. `reset.lua` knows it too.
const MAX_SHOWN: usize = 1000;

/// How long after a batch is first sent its record lasts.
///
/// A copy of a batch that ran after the record had expired would count twice. So each copy says until when
/// Redis keeps the record, and Redis runs a copy without a record only until half an hour before that, by
/// its own clock. A copy that comes hours late finds either the record or its own time past. The half hour
/// is for a promoted replica, whose clock may differ. Visits wait for a minute at most.
const DEDUP_TTL: Duration = Duration::from_secs(60 * 60);

/// A Redis session with the server that counts, in which one thing is asked at a time.
pub struct Link {
    pub(super) session: RedisSession,
    /// What the clock of Redis showed, since 1970, and when that was, or a little later.
    pub(super) time: (Duration, Instant),
    pub(super) keys: Arc<Keys>,
    pub(super) min_replicas: i64,
    pub(super) reply_timeout: Duration,
    pub(super) budget: Duration,
    pub(super) session_lifetime_ms: u64,
}

/// What Redis is asked to count, at most once for each `batch` of this producer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Increment<'a> {
    pub(crate) batch: u64,
    /// Visits without a session.
    pub(crate) visits: usize,
    pub(crate) requests: &'a [SessionRequest],
    /// Until when Redis remembers the batch (see [`Link::expires_at`]).
    pub(crate) expires_at: u64,
    /// Send the whole script, which is needed once after Redis forgot it.
    pub(crate) send_script: bool,
}

/// What came of a batch.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) total: Total,
    /// One for each of the requests.
    pub(crate) replies: Vec<SessionReply>,
}

/// The count at one moment, such as a batch has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// The number of the last visit.
    pub count: i64,
    /// Later after each reset.
    pub epoch: i64,
}

impl Counted {
    /// Reads `COUNT EPOCH` and a reply to each of the `requests`, as the script returns them.
    fn read(text: &[u8], requests: &[SessionRequest]) -> Result<Self, StoreError> {
        let mut words = std::str::from_utf8(text).map_err(|_| not_of_redis())?.split(' ');
        let mut next = || words.next().ok_or_else(not_of_redis);
        let count = next()?.parse().map_err(|_| not_of_redis())?;
        let epoch = next()?;
        let epoch =
            epoch.parse().map_err(|_| StoreError::Uncountable("the epoch is no number".to_owned()))?;
        let replies =
            requests.iter().map(|request| SessionReply::read(next()?, request).ok_or_else(not_of_redis));
        let replies = replies.collect::<Result<_, _>>()?;
        match words.next() {
            None => Ok(Self { total: Total { count, epoch }, replies }),
            Some(_) => Err(not_of_redis()),
        }
    }
}

impl Link {
    /// Until when a batch that is sent `now` is to be remembered, in Unix seconds of this Redis.
    pub(crate) fn expires_at(&self, now: Instant) -> u64 {
        (self.time_at(now) + DEDUP_TTL).as_secs()
    }

    /// What the clock of this Redis shows, or a little less.
    fn time_at(&self, now: Instant) -> Duration {
        let (time, then) = self.time;
        time + now.saturating_duration_since(then)
    }

    /// Counts up, and does what else is asked for, at most once for each batch.
    ///
    /// # Errors
    /// After [`StoreError::Unreachable`] and [`StoreError::Unreplicated`] send the same batch again: it may
    /// have been applied. After the others it was not.
    pub(crate) async fn increment(&mut self, increment: Increment<'_>) -> Result<Counted, StoreError> {
        let is_probe = increment.visits == 0 && increment.requests.is_empty();
        match self.ask_increment(increment).await {
            // No visit could be counted up further, though none was asked for.
            Ok(counted) if is_probe && counted.total.count == i64::MAX => {
                Err(StoreError::Uncountable(self.describe_key(OVERFLOW).await))
            }
            Ok(counted) => Ok(counted),
            Err(error) => Err(self.explain(error).await),
        }
    }

    fn increment_command(&self, increment: Increment<'_>) -> Cmd {
        let Increment { batch, visits, requests, expires_at, send_script } = increment;
        let (evaluate, script) = match send_script {
            true => ("EVAL", INCREMENT),
            false => ("EVALSHA", &**INCREMENT_SHA),
        };
        let mut kinds = String::with_capacity(requests.len());
        let mut sessions = Vec::with_capacity(2 * requests.len());
        for request in requests {
            let (kind, id, made) = match *request {
                SessionRequest::Visit { named: Some(named), new } => ('v', named, Some(new)),
                SessionRequest::Visit { named: None, new } => ('n', new, None),
                SessionRequest::Show(id) => ('s', id, None),
                SessionRequest::Forget(id) => ('f', id, None),
            };
            kinds.push(kind);
            sessions.push(self.keys.session(id));
            sessions.extend(made.map(|id| self.keys.session(id)));
        }
        let mut command = Cmd::with_capacity(11 + sessions.len(), 512 + 64 * sessions.len());
        command.arg(evaluate).arg(script).arg(3 + sessions.len());
        command.arg(&self.keys.counter).arg(&self.keys.producer).arg(&self.keys.epoch).arg(sessions);
        command.arg(expires_at).arg(visits).arg(batch);
        if !requests.is_empty() {
            command.arg(kinds).arg(self.session_lifetime_ms);
        }
        command
    }

    /// Sends the increment, and a `WAIT` behind it where replicas must have it.
    async fn ask_increment(&mut self, increment: Increment<'_>) -> Result<Counted, StoreError> {
        let command = self.increment_command(increment);
        let want = self.min_replicas;
        let replies = if want == 0 {
            self.session.ask_all(&[&command]).await?
        } else {
            // Within the time for which this answer is waited for.
            let wait_ms = (self.reply_timeout / 2).as_millis().max(1);
            let mut wait = redis::cmd("WAIT");
            wait.arg(want).arg(wait_ms.to_string());
            self.session.ask_all(&[&command, &wait]).await?
        };
        let mut replies = replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(Value::ServerError(error)), _) | (_, Some(Value::ServerError(error))) => {
                Err(RedisError::from(error).into())
            }
            (Some(Value::BulkString(text)), None) => Counted::read(&text, increment.requests),
            (Some(Value::BulkString(text)), Some(Value::Int(have))) => {
                match Counted::read(&text, increment.requests)? {
                    counted if have >= want => Ok(counted),
                    _ => Err(StoreError::Unreplicated { have, want }),
                }
            }
            _ => Err(not_of_redis()),
        }
    }

    /// Finds out, by counting no visit, whether one could be counted. The error is that of a visit.
    pub async fn probe(&mut self) -> Result<(), StoreError> {
        let budget = self.budget;
        let begun = Instant::now();
        let expires_at = self.expires_at(begun);
        let probe = Increment { batch: 1, visits: 0, requests: &[], expires_at, send_script: true };
        // Whole first, and then by its name: visits need both.
        let mut whole = true;
        let probed = loop {
            let probed = within(budget, self.increment(Increment { send_script: whole, ..probe })).await;
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
        let _ = within(budget, self.forget_producer()).await;
        probed.map(drop)
    }

    /// Removes this process's memory of its last batch.
    pub(crate) async fn forget_producer(&mut self) -> Result<(), StoreError> {
        let forget = Cmd::del(&self.keys.producer);
        Ok(self.session.ask(&forget).await?)
    }

    /// The count, or `None` before the first visit. Another thing at its key is an error.
    pub async fn count(&mut self) -> Result<Option<i64>, StoreError> {
        match self.raw_value().await? {
            None => Ok(None),
            Some(text) if let Some(count) = integer(&text) => Ok(Some(count)),
            Some(_) => Err(StoreError::Uncountable(self.describe_key("not an integer").await)),
        }
    }

    /// The count and its epoch, both of one moment; `None` before the first visit.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when one of the two keys holds another thing.
    pub async fn total(&mut self) -> Result<Option<Total>, StoreError> {
        let mut read = redis::cmd("EVAL");
        read.arg(TOTAL).arg(2).arg(&self.keys.counter).arg(&self.keys.epoch);
        let (count, epoch) = match self.ask::<(Option<Vec<u8>>, Option<Vec<u8>>)>(&read).await {
            Ok(held) => held,
            Err(error) => return Err(self.explain(error).await),
        };
        let Some(count) = count else { return Ok(None) };
        match (integer(&count), epoch.as_deref().map_or(Some(0), integer)) {
            (Some(count), Some(epoch)) => Ok(Some(Total { count, epoch })),
            (None, _) => Err(StoreError::Uncountable(self.describe_key("not an integer").await)),
            (_, None) => Err(StoreError::Uncountable(self.describe_key("the epoch is no number").await)),
        }
    }

    /// Sets the count, marks that this was meant (the epoch), and returns what stood there. One
    /// script: a visit counted meanwhile is either in the old value or on top of the new one.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when the key holds no text at all; then nothing is changed. After
    /// [`StoreError::Unreachable`] it may have been, within the time budget of a visit.
    pub async fn reset(&mut self, to: i64) -> Result<Option<String>, StoreError> {
        self.set(Total { count: to, epoch: 0 }, true).await.map(|(_, held)| held)
    }

    /// Sets the count as [`Link::reset`] does, and begins an epoch that is later than that of `total`
    /// too. Unless it may go `down`, a count that is not lower stays. Returns whether the count was set,
    /// and what stood there.
    ///
    /// # Errors
    /// Those of [`Link::reset`].
    pub async fn restore(&mut self, total: Total, down: bool) -> Result<(bool, Option<String>), StoreError> {
        let epoch = total.epoch.saturating_add(1);
        self.set(Total { epoch, ..total }, down).await
    }

    /// Sets the count, and begins an epoch that is not earlier than that of `total`.
    async fn set(&mut self, total: Total, down: bool) -> Result<(bool, Option<String>), StoreError> {
        let until = (self.time_at(Instant::now()) + self.budget).as_millis();
        let mut reset = redis::cmd("EVAL");
        reset.arg(RESET).arg(2).arg(&self.keys.counter).arg(&self.keys.epoch);
        reset.arg(total.count).arg(until.to_string()).arg(total.epoch).arg(if down { "" } else { "up" });
        let error = match self.ask::<(bool, Option<Vec<u8>>)>(&reset).await {
            Ok((set, held)) => return Ok((set, held.map(truncate))),
            Err(error) => error,
        };
        Err(match self.explain(error).await {
            StoreError::Unreachable(why) => {
                StoreError::Unreachable(format!("{why}; the count may have been set all the same"))
            }
            other => other,
        })
    }

    /// What stands at the counter's key, as text; `None` when there is nothing. What is no text is an error.
    pub async fn read(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.raw_value().await?.map(truncate))
    }

    async fn raw_value(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.ask(&Cmd::get(&self.keys.counter)).await {
            Ok(held) => Ok(held),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// What the clock of this Redis shows since 1970, or a little less.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.time_at(Instant::now())
    }

    /// What `mail-report` keeps beside the count, as text; empty before its first report.
    ///
    /// # Errors
    /// [`StoreError::Uncountable`] when the key holds no text.
    pub async fn reports(&mut self) -> Result<String, StoreError> {
        let key = self.keys.reports();
        let held = self.ask::<Option<Vec<u8>>>(&Cmd::get(key)).await?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&held).into_owned())
    }

    /// Replaces what [`Link::reports`] reads, if that is still `old`. Returns whether it was.
    ///
    /// # Errors
    /// After [`StoreError::Unreachable`] it may have been replaced or not.
    pub async fn replace_reports(&mut self, old: &str, new: &str) -> Result<bool, StoreError> {
        let mut replace = redis::cmd("EVAL");
        replace.arg(REPLACE).arg(1).arg(self.keys.reports()).arg(old).arg(new);
        self.ask(&replace).await
    }

    /// What kind of server this is, as far as its access rules let this user ask.
    pub async fn server(&mut self) -> Result<ServerInfo, StoreError> {
        let answer = ServerInfo::of(&mut self.session);
        within(self.budget, answer).await
    }

    /// Asks something, and waits for the answer no longer than a visit would.
    async fn ask<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.session.ask(command);
        within(self.budget, answer).await
    }

    async fn explain(&mut self, error: StoreError) -> StoreError {
        match error {
            StoreError::Uncountable(reason) => StoreError::Uncountable(self.describe_key(&reason).await),
            other => other,
        }
    }

    /// Describes what stands at the counter's key or at the epoch's, of which one cannot be counted up.
    async fn describe_key(&mut self, reason: &str) -> String {
        let keys = self.keys.clone();
        let count = self.integer_at(&keys.counter).await;
        if reason.contains(OVERFLOW) {
            let holds = |count: Option<i64>| format!("holds {}, which ", count.unwrap_or_default());
            let holds = count.map(holds).unwrap_or_default();
            return format!("key {} {holds}cannot be counted up further", keys.counter);
        }
        let (key, held) = match count {
            Err(wrong) if !reason.contains("epoch") => (&keys.counter, Err(wrong)),
            _ => (&keys.epoch, self.integer_at(&keys.epoch).await),
        };
        match held {
            Err(wrong) => format!("key {key} {wrong}"),
            // Not there, or not any more.
            Ok(_) => reason.to_owned(),
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
                let other = || format!("holds {:?}, which is not an integer", String::from_utf8_lossy(&text));
                integer(&text).map(Some).ok_or_else(other)
            }
            Ok(kind) => Err(format!("holds a {kind}, not a plain integer")),
            Err(_) => Err("does not hold a plain integer".to_owned()),
        }
    }
}

/// What stood at a key, as text; the beginning of a long one, and a mark.
fn truncate(mut held: Vec<u8>) -> String {
    if held.len() > MAX_SHOWN {
        held.truncate(MAX_SHOWN);
        held.extend(b"...");
    }
    String::from_utf8_lossy(&held).into_owned()
}

/// An integer exactly as Redis writes it: `INCRBY` takes neither `+5` nor `007`.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = text.parse().ok()?;
    (i64::to_string(&number) == text).then_some(number)
}

/// The answer, if it comes within `budget`.
async fn within<T, E: Into<StoreError>>(
    budget: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    match timeout(budget, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(StoreError::Unreachable(format!("no answer within {budget:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, StoreError, integer};

    #[test]
    fn a_total_is_a_count_and_an_epoch() {
        let read = |text: &str| Counted::read(text.as_bytes(), &[]);
        let total = read("-12 7").expect("a total").total;
        assert_eq!((total.count, total.epoch), (-12, 7));
        assert!(matches!(read("12 x"), Err(StoreError::Uncountable(_))));
        for other in ["", "12", "x 7", "99999999999999999999 7", "12 7 13"] {
            assert!(matches!(read(other), Err(StoreError::Unreachable(_))), "{other}");
        }
    }

    #[test]
    fn an_integer_is_as_redis_writes_it() {
        assert_eq!(integer(b"-7"), Some(-7));
        for other in ["+5", "007", "", "1.0", " 1", "9223372036854775808"] {
            assert_eq!(integer(other.as_bytes()), None, "{other}");
        }
    }
}
