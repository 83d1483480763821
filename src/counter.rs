//! Joins the visits that wait at one time into a single increment, and gives each its own number.
//!
//! One task owns the link to Redis. While a batch is on its way the next one gathers, so the cost
//! of a round trip is shared by everybody who waits for it, and a lone visit is sent at once.
//! Nothing outlives its request: a process holds no count (factor VI).
//!
//! Three rules make the numbers right, whatever breaks:
//! * A batch is fixed once it has been sent. A visit that comes later joins the next one, so it
//!   never gets a number that was drawn before it came.
//! * A batch whose answer was lost is sent again, as the same batch, until its visits' deadlines.
//!   [`Store`] makes that safe. After that its visits are refused and its number is never reused.
//! * The link is dropped on any doubt, and a new one is sought ten times a second while somebody
//!   waits. Nobody waiting, nothing is tried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::metrics::{Gauge, Limit, Metrics};
use crate::store::{Link, Store, StoreError};

/// Between two attempts to connect: at most ten a second.
const ATTEMPT_EVERY: Duration = Duration::from_millis(100);

/// How far from its deadline a visit may be refused.
const TICK: Duration = Duration::from_millis(20);

/// Why a visit got no number.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// As many visits wait as `MAX_WAITING_VISITS` allows.
    #[error("too many visits are waiting")]
    QueueFull,
    /// Redis did not answer within the visit's time budget.
    #[error("Redis is unreachable: {0}")]
    Unreachable(Arc<str>),
    /// Redis answers, but the key cannot be counted up.
    #[error("the counter is unusable: {0}")]
    Uncountable(Arc<str>),
    /// `COUNTER_FENCE` is on and the number may have been given out before.
    #[error("the count has gone back; run reset-count or raise it")]
    Fenced,
}

/// The way into the next batch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Counter {
    asks: mpsc::UnboundedSender<Ask>,
    metrics: Arc<Metrics>,
    limit: i64,
    budget: Duration,
}

/// Somebody who waits for Redis.
#[derive(Debug)]
enum Ask {
    Visit(Waiter<i64>),
    /// Wants to know whether Redis answers, and counts nothing.
    Probe(Waiter<()>),
}

#[derive(Debug)]
struct Waiter<T> {
    deadline: Instant,
    answer: oneshot::Sender<Result<T, Refusal>>,
}

impl<T> Waiter<T> {
    fn has_left(&self) -> bool {
        self.answer.is_closed()
    }

    fn answer(self, answer: Result<T, Refusal>) {
        // Whoever left does not mind.
        let _ = self.answer.send(answer);
    }
}

/// A place among the waiting, given back when the visit is answered or the visitor leaves.
struct Place<'a>(&'a Gauge);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counter {
    /// Starts the task that counts. It ends, and cleans up after itself, when the last [`Counter`]
    /// is gone.
    pub fn start(
        store: Store,
        limit: usize,
        fence: bool,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        let (asks, inbox) = mpsc::unbounded_channel();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let counter = Self {
            asks,
            metrics: metrics.clone(),
            limit,
            budget: store.budget(),
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let batcher = Batcher {
            store: Arc::new(store),
            inbox,
            tick,
            queue: Vec::new(),
            probes: Vec::new(),
            link: None,
            attempts: JoinSet::new(),
            next_attempt: Instant::now(),
            batch: None,
            next_batch: 1,
            send_script: false,
            may_run_late: false,
            highest: None,
            epoch: None,
            went_back: false,
            fence,
            state: LinkState::Unknown,
            metrics,
        };
        (counter, tokio::spawn(batcher.run()))
    }

    /// Counts one visit that came in at `arrived`, and returns its number.
    ///
    /// # Errors
    /// A [`Refusal`], at the latest when the time budget of the visit is spent.
    pub async fn visit(&self, arrived: Instant) -> Result<i64, Refusal> {
        let before = self.metrics.waiting_visits.inc();
        let _place = Place(&self.metrics.waiting_visits);
        if before >= self.limit {
            self.metrics.hit(Limit::WaitingVisits);
            return Err(Refusal::QueueFull);
        }
        let (answer, number) = oneshot::channel();
        self.ask(
            Ask::Visit(Waiter {
                deadline: arrived + self.budget,
                answer,
            }),
            number,
        )
        .await
    }

    /// Finds out whether a visit could be counted now.
    ///
    /// # Errors
    /// The [`Refusal`] that a visit would get.
    pub async fn probe(&self) -> Result<(), Refusal> {
        let (answer, result) = oneshot::channel();
        self.ask(
            Ask::Probe(Waiter {
                deadline: Instant::now() + self.budget,
                answer,
            }),
            result,
        )
        .await
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        answer: oneshot::Receiver<Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let ended = || Refusal::Unreachable("the process is ending".into());
        self.asks.send(ask).map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// What was last said in the log about Redis: changes are logged, not every refused visit.
#[derive(Debug)]
enum LinkState {
    Unknown,
    Up,
    Down {
        since: Instant,
        logged: Instant,
        reason: Arc<str>,
    },
}

/// Visits that are counted together.
struct Batch {
    number: u64,
    size: usize,
    /// In the order of their numbers; `None` for one that was refused meanwhile.
    visits: Vec<Option<Waiter<i64>>>,
}

/// The answer to whatever was asked of Redis last.
type Reply = std::pin::Pin<Box<dyn Future<Output = Result<i64, StoreError>> + Send>>;

struct Batcher {
    store: Arc<Store>,
    inbox: mpsc::UnboundedReceiver<Ask>,
    tick: tokio::time::Interval,
    /// Visits that belong to no batch yet, oldest first.
    queue: Vec<Waiter<i64>>,
    probes: Vec<Waiter<()>>,
    link: Option<Link>,
    attempts: JoinSet<Result<Link, StoreError>>,
    next_attempt: Instant,
    /// The batch that was sent and has no answer yet.
    batch: Option<Batch>,
    next_batch: u64,
    /// Redis does not know the script: send it whole.
    send_script: bool,
    /// A batch was given up without an answer: Redis may still come to it.
    may_run_late: bool,
    /// The highest number that this process has given out since the last reset.
    highest: Option<i64>,
    epoch: Option<i64>,
    /// The count stands below `highest`, and that has been logged.
    went_back: bool,
    fence: bool,
    state: LinkState,
    metrics: Arc<Metrics>,
}

/// The answer to the command on its way; never, when there is none.
async fn answered(reply: &mut Option<(Reply, Instant)>) -> Result<i64, StoreError> {
    match reply {
        Some((reply, _)) => reply.await,
        None => std::future::pending().await,
    }
}

/// Tells the log, at the first connection, what this Redis can promise.
async fn say_what_it_is(mut link: Link) {
    match link.server().await {
        Ok(server) if server.is_durable() == Some(false) => {
            tracing::warn!("Redis is {server}");
        }
        Ok(server) => tracing::info!("Redis is {server}"),
        // The next visit finds out and says so.
        Err(_) => {}
    }
}

impl Batcher {
    async fn run(mut self) {
        let mut reply: Option<(Reply, Instant)> = None;
        loop {
            if reply.is_none() {
                reply = self.next_command().map(|command| (command, Instant::now()));
            }
            let idle = reply.is_none()
                && self.batch.is_none()
                && self.queue.is_empty()
                && self.probes.is_empty();
            if self.link.is_none() && !idle {
                self.attempt_to_connect();
            }
            tokio::select! {
                biased;
                answer = answered(&mut reply) => {
                    reply = None;
                    self.settle(answer).await;
                }
                Some(attempt) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    // An attempt that was called off has nothing to say.
                    if let Ok(attempt) = attempt {
                        self.attempted(attempt);
                    }
                }
                // With a command on its way, visits gather in the inbox without waking this task.
                ask = self.inbox.recv(), if reply.is_none() => match ask {
                    Some(ask) => self.sort_in(ask),
                    None => break,
                },
                _ = self.tick.tick(), if !idle => {
                    if reply.as_ref().is_some_and(|(_, sent)| sent.elapsed() > self.store.patience()) {
                        reply = None;
                        self.lose_link("no answer to a command".to_owned());
                    }
                    if self.refuse_late_ones() {
                        reply = None;
                    }
                }
            }
        }
        self.clean_up().await;
    }

    fn sort_in(&mut self, ask: Ask) {
        match ask {
            Ask::Visit(visit) => self.queue.push(visit),
            Ask::Probe(probe) => self.probes.push(probe),
        }
    }

    /// What to ask of Redis next, if there is a link and anybody waits.
    fn next_command(&mut self) -> Option<Reply> {
        while let Ok(ask) = self.inbox.try_recv() {
            self.sort_in(ask);
        }
        let link = self.link.clone()?;
        if self.batch.is_none() {
            // A visitor who left while queued is not counted.
            let visits: Vec<_> = std::mem::take(&mut self.queue)
                .into_iter()
                .filter(|visit| !visit.has_left())
                .map(Some)
                .collect();
            if !visits.is_empty() {
                self.metrics.batch_visits.observe(visits.len() as f64);
                self.batch = Some(Batch {
                    number: self.next_batch,
                    size: visits.len(),
                    visits,
                });
                self.next_batch += 1;
            }
        }
        if let Some(batch) = &self.batch {
            return Some(Box::pin(link.increment(
                batch.number,
                batch.size,
                self.send_script,
            )));
        }
        self.probes.retain(|probe| !probe.has_left());
        if self.probes.is_empty() {
            return None;
        }
        Some(Box::pin(async { link.probe().await.map(|()| 0) }))
    }

    /// Deals with the answer to the last command: that of the batch, or else of a probe.
    async fn settle(&mut self, answer: Result<i64, StoreError>) {
        self.send_script = false;
        match answer {
            Ok(total) => {
                self.say_up();
                for probe in self.probes.drain(..) {
                    probe.answer(Ok(()));
                }
                if let Some(batch) = self.batch.take() {
                    self.number(batch, total).await;
                }
            }
            Err(StoreError::UnknownScript) => self.send_script = true,
            Err(StoreError::Uncountable(reason)) => {
                let reason: Arc<str> = reason.into();
                self.say_down(&reason);
                for visit in self
                    .batch
                    .take()
                    .into_iter()
                    .flat_map(|batch| batch.visits)
                    .flatten()
                {
                    visit.answer(Err(Refusal::Uncountable(reason.clone())));
                }
                for probe in self.probes.drain(..) {
                    probe.answer(Err(Refusal::Uncountable(reason.clone())));
                }
            }
            // The batch stays, to be sent again.
            Err(StoreError::Unreachable(reason)) => self.lose_link(reason),
        }
    }

    /// Gives every visit of an applied batch its own number.
    async fn number(&mut self, batch: Batch, total: i64) {
        let size = i64::try_from(batch.size).unwrap_or(i64::MAX);
        let first = total - size + 1;
        let went_back = self.highest.is_some_and(|highest| first <= highest);
        if went_back && !self.was_reset(first).await && self.fence {
            // The highest number stays, so this goes on until the count is above it.
            for visit in batch.visits.into_iter().flatten() {
                visit.answer(Err(Refusal::Fenced));
            }
            return;
        }
        self.highest = Some(total);
        self.went_back = false;
        for (visit, number) in batch.visits.into_iter().zip(first..=total) {
            if let Some(visit) = visit {
                visit.answer(Ok(number));
            }
        }
    }

    /// Whether `reset-count` explains that the count went back to `first`. If not, Redis has lost
    /// data or somebody changed the key, and numbers may repeat.
    async fn was_reset(&mut self, first: i64) -> bool {
        let reading = async { self.link.clone()?.read_epoch().await.ok() };
        let epoch = tokio::time::timeout(self.store.patience(), reading)
            .await
            .ok()
            .flatten();
        let marked = epoch > self.epoch;
        self.epoch = epoch.or(self.epoch);
        if marked {
            tracing::info!(visit = first, "the count was reset");
        } else if !std::mem::replace(&mut self.went_back, true) {
            self.metrics.counter_went_back.inc();
            tracing::error!(
                visit = first,
                highest = self.highest,
                fence = self.fence,
                "the count went back without a reset: Redis lost data, or somebody changed the key; \
                 numbers may repeat"
            );
        }
        marked
    }

    /// Starts another attempt to connect when its time has come. Attempts overlap, so that one
    /// which hangs does not hide that Redis is back; the first to succeed is taken.
    fn attempt_to_connect(&mut self) {
        let now = Instant::now();
        if now < self.next_attempt {
            return;
        }
        self.next_attempt = now + ATTEMPT_EVERY;
        self.metrics.redis_connection_attempts.inc();
        let store = self.store.clone();
        self.attempts.spawn(async move { store.connect().await });
    }

    fn attempted(&mut self, attempt: Result<Link, StoreError>) {
        match attempt {
            Ok(link) => {
                self.attempts.abort_all();
                if self.epoch.is_some_and(|known| link.epoch > known) {
                    self.highest = None;
                }
                self.epoch = self.epoch.max(Some(link.epoch));
                if matches!(self.state, LinkState::Unknown) {
                    tokio::spawn(say_what_it_is(link.clone()));
                }
                self.link = Some(link);
            }
            Err(error) => self.say_down(&error.to_string().into()),
        }
    }

    fn lose_link(&mut self, reason: String) {
        self.link = None;
        self.say_down(&reason.into());
    }

    /// Refuses whoever would not get an answer in time. Returns whether the batch was given up.
    fn refuse_late_ones(&mut self) -> bool {
        while let Ok(ask) = self.inbox.try_recv() {
            self.sort_in(ask);
        }
        let soon = Instant::now() + TICK;
        let reason = match &self.state {
            LinkState::Down { reason, .. } => reason.clone(),
            LinkState::Unknown | LinkState::Up => "no answer in time".into(),
        };
        let refusal = || Refusal::Unreachable(reason.clone());
        for visit in self.queue.extract_if(.., |visit| visit.deadline <= soon) {
            visit.answer(Err(refusal()));
        }
        for probe in self.probes.extract_if(.., |probe| probe.deadline <= soon) {
            probe.answer(Err(refusal()));
        }
        let Some(batch) = &mut self.batch else {
            return false;
        };
        for place in &mut batch.visits {
            if let Some(visit) = place.take_if(|visit| visit.deadline <= soon) {
                visit.answer(Err(refusal()));
            }
        }
        let given_up = batch.visits.iter().all(Option::is_none);
        if given_up {
            self.batch = None;
            self.may_run_late = true;
        }
        given_up
    }

    fn say_up(&mut self) {
        match &self.state {
            LinkState::Up => return,
            LinkState::Unknown => tracing::info!("Redis answers"),
            LinkState::Down { since, .. } => {
                let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(outage_ms, "Redis answers again");
            }
        }
        self.metrics.redis_up.set(1);
        self.state = LinkState::Up;
    }

    fn say_down(&mut self, why: &Arc<str>) {
        self.metrics.redis_errors.inc();
        self.metrics.redis_up.set(0);
        let now = Instant::now();
        let since = match &self.state {
            LinkState::Down {
                since,
                logged,
                reason,
            } => {
                if reason == why || now.duration_since(*logged) < Duration::from_secs(1) {
                    return;
                }
                *since
            }
            LinkState::Unknown | LinkState::Up => now,
        };
        tracing::error!(reason = %why, "Redis does not count; visits get 503");
        self.state = LinkState::Down {
            since,
            logged: now,
            reason: why.clone(),
        };
    }

    /// An orderly end leaves no key behind, unless Redis may still come to a batch that was given
    /// up: then the memory must stay until it expires by itself.
    async fn clean_up(self) {
        if let Some(link) = self.link
            && self.next_batch > 1
            && !self.may_run_late
        {
            // Nobody waits for this, and the key expires anyway.
            let _ = tokio::time::timeout(self.store.patience(), link.forget_producer()).await;
        }
    }
}
