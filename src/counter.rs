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
//! * The link carries one command at a time and is dropped on any doubt. A new one is sought ten
//!   times a second while somebody waits, so nothing is sent again more often than that. Nobody
//!   waiting, nothing is tried.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::metrics::{Gauge, Limit, Metrics};
use crate::store::{Link, Store, StoreError, Total};

/// Between two attempts to connect: at most ten a second.
const ATTEMPT_EVERY: Duration = Duration::from_millis(100);

/// How often deadlines are looked at, and so how far from its own a visit may be refused.
const TICK: Duration = Duration::from_millis(20);

/// Between two reasons that the log is told of one outage.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// How many reasons the log is told of one outage.
const MOST_REASONS: usize = 8;

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
        let budget = store.budget();
        let counter = Self {
            asks,
            metrics: metrics.clone(),
            limit,
            budget,
        };
        // A short budget wants a finer tick, or nobody would be given a chance at all.
        let margin = TICK.min(budget / 8);
        let mut tick = tokio::time::interval(margin.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let batcher = Batcher {
            store: Arc::new(store),
            inbox,
            tick,
            margin,
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
            introduced: false,
            trouble: "no answer in time".into(),
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
        logged: Option<Instant>,
        /// The reasons that were logged. One outage may show itself in several ways by turns.
        told: Vec<Arc<str>>,
    },
}

/// Visits that are counted together.
struct Batch {
    number: u64,
    /// Zero for one that only finds out, for those who probe, whether visits could be counted.
    size: usize,
    /// In the order of their numbers; `None` for one that was refused meanwhile.
    visits: Vec<Option<Waiter<i64>>>,
    /// Until when it may be run, in the copy that was sent last.
    not_after: u64,
    /// A copy has been run, or nobody knows whether it has: further ones may be run no longer than it.
    may_have_run: bool,
}

/// The answer to a batch that was sent.
type Reply = std::pin::Pin<Box<dyn Future<Output = Result<Total, StoreError>> + Send>>;

struct Batcher {
    store: Arc<Store>,
    inbox: mpsc::UnboundedReceiver<Ask>,
    tick: tokio::time::Interval,
    /// How long before its deadline a visit is refused.
    margin: Duration,
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
    /// A link was dropped with a batch on its way: Redis may still come to that copy.
    may_run_late: bool,
    /// The highest number that this process has given out, with the latest epoch that it has seen.
    highest: Option<Total>,
    /// The count stands below `highest`, and that has been logged.
    went_back: bool,
    fence: bool,
    /// The log has been told what kind of server this is.
    introduced: bool,
    /// What went wrong last on the way to Redis.
    trouble: Arc<str>,
    state: LinkState,
    metrics: Arc<Metrics>,
}

/// The answer to the command on its way; never, when there is none.
async fn answered(reply: &mut Option<(Reply, Instant)>) -> Result<Total, StoreError> {
    match reply {
        Some((reply, _)) => reply.await,
        None => std::future::pending().await,
    }
}

/// Tells the log and the metrics, at the first connection, what this Redis can promise.
async fn say_what_it_is(mut link: Link, metrics: Arc<Metrics>) {
    // When it does not answer, the next visit finds out and says so.
    let Ok(server) = link.server().await else {
        return;
    };
    let durable = server.is_durable();
    if let Some(durable) = durable {
        metrics.tell_durable(durable);
    }
    if durable == Some(false) {
        tracing::warn!("Redis is {server}");
    } else {
        tracing::info!("Redis is {server}");
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
                    let crowd = self.batch.as_ref().is_some_and(|batch| batch.size > 1);
                    self.settle(answer);
                    if crowd {
                        // Whoever has been answered goes first, and so does whoever asks meanwhile:
                        // they join the next batch.
                        tokio::task::yield_now().await;
                    }
                }
                Some(attempt) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    // An attempt that was called off has nothing to say.
                    if let Ok(attempt) = attempt {
                        self.attempted(attempt);
                    }
                }
                _ = self.tick.tick(), if !idle => {
                    let given_up = self.refuse_late_ones();
                    let silent = |sent: &Instant| sent.elapsed() > self.store.patience();
                    if reply.as_ref().is_some_and(|(_, sent)| given_up || silent(sent)) {
                        reply = None;
                        let reason = if given_up {
                            self.trouble.clone()
                        } else {
                            "no answer to a command".into()
                        };
                        self.break_link(reason);
                    }
                }
                // With a command on its way, visits gather in the inbox without waking this task.
                ask = self.inbox.recv(), if reply.is_none() => match ask {
                    Some(ask) => self.sort_in(ask),
                    None => break,
                },
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
            self.batch = self.gather();
        }
        let batch = self.batch.as_mut()?;
        if !batch.may_have_run {
            batch.not_after = link.not_after();
        }
        let (number, size, not_after) = (batch.number, batch.size, batch.not_after);
        let reply = link.increment(number, size, not_after, self.send_script);
        Some(Box::pin(reply))
    }

    /// Makes the next batch of whoever waits.
    fn gather(&mut self) -> Option<Batch> {
        // A visitor who left while queued is not counted.
        self.queue.retain(|visit| !visit.has_left());
        self.probes.retain(|probe| !probe.has_left());
        if self.queue.is_empty() && self.probes.is_empty() {
            return None;
        }
        let visits: Vec<_> = self.queue.drain(..).map(Some).collect();
        if !visits.is_empty() {
            self.metrics.batch_visits.observe(visits.len() as f64);
        }
        let number = self.next_batch;
        self.next_batch += 1;
        Some(Batch {
            number,
            size: visits.len(),
            visits,
            not_after: 0,
            may_have_run: false,
        })
    }

    /// Deals with the answer to the batch.
    fn settle(&mut self, answer: Result<Total, StoreError>) {
        let sent_script = std::mem::take(&mut self.send_script);
        match answer {
            Ok(total) => {
                self.say_up();
                for probe in self.probes.drain(..) {
                    probe.answer(Ok(()));
                }
                if let Some(batch) = self.batch.take() {
                    self.number(batch, total);
                }
            }
            Err(StoreError::UnknownScript) if !sent_script => self.send_script = true,
            Err(StoreError::Uncountable(reason)) => {
                let reason: Arc<str> = reason.into();
                self.say_down(&reason);
                let visits = self.batch.take().map(|batch| batch.visits);
                for visit in visits.into_iter().flatten().flatten() {
                    visit.answer(Err(Refusal::Uncountable(reason.clone())));
                }
                for probe in self.probes.drain(..) {
                    probe.answer(Err(Refusal::Uncountable(reason.clone())));
                }
            }
            // The batch stays, to be sent again, here as in the other cases that follow.
            Err(lacking @ StoreError::Unreplicated { .. }) => {
                if let Some(batch) = &mut self.batch {
                    batch.may_have_run = true;
                }
                self.metrics.redis_errors.inc();
                self.trouble = lacking.to_string().into();
            }
            Err(StoreError::Unreachable(reason)) => self.break_link(reason.into()),
            // It was not run, but a server behind the same name may run it.
            Err(refused @ (StoreError::Refused(_) | StoreError::UnknownScript)) => {
                self.link = None;
                self.say_down(&refused.to_string().into());
            }
        }
    }

    /// Gives every visit of an applied batch its own number.
    fn number(&mut self, batch: Batch, total: Total) {
        let size = i64::try_from(batch.size).unwrap_or(i64::MAX);
        let first = total.count.saturating_sub(size).saturating_add(1);
        if let Some(highest) = self.highest
            && first <= highest.count
        {
            if total.epoch > highest.epoch {
                tracing::info!(visit = first, "the count was reset");
            } else {
                self.say_went_back(first, highest.count);
                if self.fence {
                    // The highest number stays, so this goes on until the count is above it. The
                    // epoch may have gone back too: from here on it is a reset that raises it.
                    self.highest = Some(Total {
                        epoch: total.epoch,
                        ..highest
                    });
                    for visit in batch.visits.into_iter().flatten() {
                        visit.answer(Err(Refusal::Fenced));
                    }
                    return;
                }
            }
        }
        self.highest = Some(total);
        self.went_back = false;
        // Not `first..`, which would count on past the greatest number there is.
        for (visit, number) in batch.visits.into_iter().zip(first..=total.count) {
            if let Some(visit) = visit {
                visit.answer(Ok(number));
            }
        }
    }

    /// Tells the log, once, that Redis has lost data or somebody changed the key.
    fn say_went_back(&mut self, first: i64, highest: i64) {
        if std::mem::replace(&mut self.went_back, true) {
            return;
        }
        self.metrics.counter_went_back.inc();
        tracing::error!(
            visit = first,
            highest,
            fence = self.fence,
            "the count went back without a reset: Redis lost data, or somebody changed the key; \
             numbers may repeat"
        );
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
                // The others are called off, and one that has just failed is not heard any more.
                self.attempts = JoinSet::new();
                if !std::mem::replace(&mut self.introduced, true) {
                    let introduction = say_what_it_is(link.clone(), self.metrics.clone());
                    tokio::spawn(tokio::time::timeout(self.store.budget(), introduction));
                }
                self.link = Some(link);
            }
            Err(error) => self.say_down(&error.to_string().into()),
        }
    }

    /// Drops a link that broke with a command on its way. That alone is no outage: Redis closes
    /// idle links too, and a visit may well be counted on the next one. An attempt that fails, or
    /// a visit that must be refused, makes it one.
    fn break_link(&mut self, reason: Arc<str>) {
        self.link = None;
        self.may_run_late = true;
        if let Some(batch) = &mut self.batch {
            batch.may_have_run = true;
        }
        self.metrics.redis_errors.inc();
        if matches!(self.state, LinkState::Up) {
            tracing::info!(%reason, "the link to Redis broke; connecting anew");
        }
        self.trouble = reason;
    }

    /// Refuses whoever would not get an answer in time. Returns whether the batch was given up.
    fn refuse_late_ones(&mut self) -> bool {
        while let Ok(ask) = self.inbox.try_recv() {
            self.sort_in(ask);
        }
        let soon = Instant::now() + self.margin;
        let late = |deadline: Instant| deadline <= soon;
        let mut refused = Vec::new();
        // Those who left are forgotten: in an outage nothing else would do it.
        self.queue.retain(|visit| !visit.has_left());
        refused.extend(self.queue.extract_if(.., |visit| late(visit.deadline)));
        if let Some(batch) = &mut self.batch {
            let places = batch.visits.iter_mut();
            refused.extend(places.filter_map(|place| place.take_if(|visit| late(visit.deadline))));
        }
        let probes: Vec<_> = self
            .probes
            .extract_if(.., |probe| late(probe.deadline))
            .collect();
        if refused.is_empty() && probes.is_empty() {
            return false;
        }
        let reason = self.trouble.clone();
        self.say_down(&reason);
        for visit in refused {
            visit.answer(Err(Refusal::Unreachable(reason.clone())));
        }
        for probe in probes {
            probe.answer(Err(Refusal::Unreachable(reason.clone())));
        }
        self.batch
            .take_if(|batch| {
                let counts_somebody = batch.visits.iter().any(Option::is_some);
                let tells_somebody = batch.size == 0 && !self.probes.is_empty();
                !counts_somebody && !tells_somebody
            })
            .is_some()
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
        self.trouble = "no answer in time".into();
        self.state = LinkState::Up;
    }

    fn say_down(&mut self, why: &Arc<str>) {
        self.metrics.redis_errors.inc();
        self.metrics.redis_up.set(0);
        self.trouble = why.clone();
        let now = Instant::now();
        if !matches!(self.state, LinkState::Down { .. }) {
            self.state = LinkState::Down {
                since: now,
                logged: None,
                told: Vec::new(),
            };
        }
        if let LinkState::Down { logged, told, .. } = &mut self.state
            && !told.contains(why)
            && told.len() < MOST_REASONS
            && logged.is_none_or(|logged| now.duration_since(logged) >= SAY_AGAIN)
        {
            tracing::error!(reason = %why, "Redis does not count; visits get 503");
            *logged = Some(now);
            told.push(why.clone());
        }
    }

    /// An orderly end leaves no key behind, unless Redis may still come to a copy of a batch: then
    /// the memory, by which it would know that copy, must stay until it expires by itself.
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
