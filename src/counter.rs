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
//! * The link carries one command at a time and is dropped on any doubt. A new one is sought while
//!   somebody waits, at most ten times a second, so nothing is sent again more often than that. Nobody
//!   waiting, nothing is tried.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::event_loop::Timer;
use crate::metrics::{Gauge, Limit, Metrics};
use crate::store::{Link, Store, StoreError, Total};
use crate::waiting::{Queue, Waiting, WaitingRoom, wake};

/// Between two attempts to connect: at most ten a second.
const ATTEMPT_EVERY: Duration = Duration::from_millis(100);

/// How many attempts may hang at one time. Each ends with the time budget of a visit.
const MOST_ATTEMPTS: u32 = 8;

/// How often deadlines are looked at, and so how far from its own a visit may be refused.
const TICK: Duration = Duration::from_millis(20);

/// How long the end may take to leave no key behind.
const CLEANING_UP: Duration = Duration::from_secs(1);

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
    #[error("Redis does not count: {0}")]
    Unreachable(Arc<str>),
    /// Redis answers, but the key cannot be counted up.
    #[error("the counter is unusable: {0}")]
    Uncountable(Arc<str>),
    /// `COUNTER_FENCE` is on and the number may have been given out before.
    #[error("the count has gone back; run reset-count or raise it")]
    Fenced,
}

/// The way into the next batch.
#[derive(Debug)]
pub struct Counter {
    room: Arc<WaitingRoom>,
    metrics: Arc<Metrics>,
    limit: i64,
    budget: Duration,
}

/// One of those who are counted as waiting, until the visit is answered or the visitor leaves.
struct Counted<'a>(&'a Gauge);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counter {
    /// Starts the task that counts. It ends, and cleans up after itself, when the [`Counter`] is
    /// gone.
    ///
    /// # Errors
    /// When the system gives no timer.
    pub fn start(
        store: Store,
        limit: usize,
        fence: bool,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let room = Arc::<WaitingRoom>::default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let budget = store.budget();
        let counter = Self {
            room: room.clone(),
            metrics: metrics.clone(),
            limit,
            budget,
        };
        let batcher = Batcher {
            room,
            timer: store.clock().timer()?,
            // A short budget wants a finer tick, or nobody would be given a chance at all.
            tick: TICK.min(budget / 8),
            store: Arc::new(store),
            next_queue: Vec::new(),
            woken: Vec::new(),
            attempts: JoinSet::new(),
            attempted: None,
            batch: None,
            next_batch: 1,
            until: 0,
            send_script: false,
            may_run_late: false,
            highest: None,
            introduced: false,
            introduction: JoinSet::new(),
            told: Arc::default(),
            trouble: "no answer in time".into(),
            went_back: false,
            fence,
            state: LinkState::Unknown,
            metrics,
        };
        Ok((counter, tokio::spawn(batcher.run())))
    }

    /// Counts one visit that came in at `arrived`, and returns its number.
    ///
    /// # Errors
    /// A [`Refusal`], at the latest when the time budget of the visit is spent.
    pub async fn visit(&self, arrived: Instant) -> Result<i64, Refusal> {
        let before = self.metrics.waiting_visits.inc();
        let _counted = Counted(&self.metrics.waiting_visits);
        if before >= self.limit {
            self.metrics.hit(Limit::WaitingVisits);
            return Err(Refusal::QueueFull);
        }
        let deadline = arrived + self.budget;
        self.room
            .wait(deadline, |waiting| &mut waiting.visits)
            .await
    }

    /// Finds out whether a visit could be counted now.
    ///
    /// # Errors
    /// The [`Refusal`] that a visit would get.
    pub async fn probe(&self) -> Result<(), Refusal> {
        let deadline = Instant::now() + self.budget;
        let answer = self.room.wait(deadline, |waiting| &mut waiting.probes);
        answer.await.map(drop)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.room.close();
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
    /// In the order of their numbers, with those that were refused meanwhile.
    visits: Queue,
    /// Until when Redis is to remember it, in the copy that was sent last.
    until: u64,
    /// A copy has been run, or nobody knows whether it has: further ones say the same.
    may_have_run: bool,
}

struct Batcher {
    store: Arc<Store>,
    room: Arc<WaitingRoom>,
    timer: Timer,
    /// How often deadlines are looked at, and so how long before its own a visit may be refused.
    tick: Duration,
    /// Empty: the next queue, while those of the last one are counted.
    next_queue: Queue,
    /// Empty: who is to be woken, having been answered.
    woken: Vec<Waker>,
    attempts: JoinSet<Result<Link, StoreError>>,
    /// When the last of them began.
    attempted: Option<Instant>,
    /// The batch that was sent and has no answer yet.
    batch: Option<Batch>,
    next_batch: u64,
    /// Until when Redis is to remember the last batch, in its own Unix seconds.
    until: u64,
    /// Redis does not know the script: send it whole.
    send_script: bool,
    /// A link was dropped with a batch on its way: Redis may still come to that copy.
    may_run_late: bool,
    /// The highest number that this process has given out, with the latest epoch that it has seen.
    highest: Option<Total>,
    /// The count stands below `highest`, and that has been logged.
    went_back: bool,
    fence: bool,
    /// The server that the link leads to is or has been asked what it can promise.
    introduced: bool,
    introduction: JoinSet<()>,
    /// What the log has been told of such a server last.
    told: Arc<Mutex<String>>,
    /// What went wrong last on the way to Redis.
    trouble: Arc<str>,
    state: LinkState,
    metrics: Arc<Metrics>,
}

/// Tells the log and the metrics what this Redis can promise; the log only what it has not been `told`.
/// On a connection of its own, for nobody is to wait for that.
async fn introduce(store: Arc<Store>, metrics: Arc<Metrics>, told: Arc<Mutex<String>>) {
    // When it does not answer, the next visit finds out and says so, and the next link introduces it.
    let Ok(Ok(server)) = store.clock().limit(store.budget(), store.server()).await else {
        return;
    };
    let durable = server.is_durable();
    metrics.tell_durable(durable);
    let server = server.to_string();
    let mut told = told.lock();
    if *told == server {
        return;
    }
    told.clone_from(&server);
    if durable == Some(false) {
        tracing::warn!("Redis is {server}");
    } else {
        tracing::info!("Redis is {server}");
    }
}

impl Batcher {
    async fn run(mut self) {
        let mut link = None;
        while self.batch.is_some() || poll_fn(|context| self.room.poll_somebody(context)).await {
            if let Some(open) = &mut link {
                if !self.count(open).await {
                    link = None;
                }
            } else {
                link = self.connect().await;
            }
        }
        self.clean_up(link).await;
    }

    /// Waits for a link, and looks after those who wait for it, too. Returns after each thing that
    /// happens, with a link or without.
    async fn connect(&mut self) -> Option<Link> {
        self.attempt_to_connect();
        tokio::select! {
            biased;
            Some(attempt) = self.attempts.join_next() => match attempt {
                Ok(Ok(link)) => {
                    // The others are called off, and one that has just failed is not heard any more.
                    self.attempts = JoinSet::new();
                    self.introduced = false;
                    return Some(link);
                }
                Ok(Err(error)) => self.say_down(&error.to_string().into()),
                // It was called off.
                Err(_) => {}
            },
            () = poll_fn(|context| self.timer.poll_moment(context, self.tick)) => {
                self.refuse_late_ones();
                if self.batch.is_none() && self.room.lock().is_nobody() {
                    self.attempts = JoinSet::new();
                }
            }
        }
        None
    }

    /// Has Redis count the next batch, or once more the last one. Returns whether the link is still
    /// to be trusted.
    async fn count(&mut self, link: &mut Link) -> bool {
        if self.batch.is_none() {
            self.batch = self.gather();
        }
        let Some(batch) = &mut self.batch else {
            return true;
        };
        let now = Instant::now();
        if !batch.may_have_run {
            // Never less than another has said, though the clock may have been set back.
            self.until = self.until.max(link.remember_until(now));
            batch.until = self.until;
        }
        let (number, size, until) = (batch.number, batch.size, batch.until);
        let send_script = std::mem::take(&mut self.send_script);
        let increment = pin!(link.increment(number, size, until, send_script));
        let answer = self.answer_of(increment, now).await;
        let trusted = self.settle(answer, send_script);
        if size > 1 {
            // Whoever has been answered goes first, and so does whoever asks meanwhile: they join the
            // next batch.
            tokio::task::yield_now().await;
        }
        trusted
    }

    /// What Redis says to the increment that was sent at `asked`; an error when it says nothing for too
    /// long, or when the process may end. Visits that come meanwhile gather without waking this task.
    async fn answer_of(
        &mut self,
        mut increment: Pin<&mut impl Future<Output = Result<Total, StoreError>>>,
        asked: Instant,
    ) -> Result<Total, StoreError> {
        let mut silent = self.timer.is_silent(self.tick, asked);
        poll_fn(|context| {
            loop {
                if let Poll::Ready(answer) = increment.as_mut().poll(context) {
                    return Poll::Ready(answer);
                }
                if std::mem::take(&mut silent) {
                    return Poll::Pending;
                }
                ready!(self.timer.poll_moment(context, self.tick));
                self.refuse_late_ones();
                let over = self.batch.is_none() && self.room.lock().is_over();
                if over || asked.elapsed() > self.store.patience() {
                    let silence = "no answer to a command".to_owned();
                    return Poll::Ready(Err(StoreError::Unreachable(silence)));
                }
            }
        })
        .await
    }

    /// Makes the next batch of whoever waits.
    fn gather(&mut self) -> Option<Batch> {
        let mut waiting = self.room.lock();
        // A visitor who left meanwhile is not counted.
        waiting.forget_who_left();
        if waiting.is_nobody() {
            return None;
        }
        let visits = std::mem::replace(&mut waiting.visits, std::mem::take(&mut self.next_queue));
        drop(waiting);
        if !visits.is_empty() {
            self.metrics.batch_visits.observe(visits.len() as f64);
        }
        let number = self.next_batch;
        self.next_batch += 1;
        Some(Batch {
            number,
            size: visits.len(),
            visits,
            until: 0,
            may_have_run: false,
        })
    }

    /// Deals with the answer to the batch. Returns whether the link is still to be trusted.
    fn settle(&mut self, answer: Result<Total, StoreError>, sent_script: bool) -> bool {
        match answer {
            Ok(total) => {
                self.say_up();
                self.have_introduced();
                if let Some(batch) = self.batch.take() {
                    let first = self.first_number(batch.size, total);
                    self.answer(batch, &first);
                }
                true
            }
            Err(StoreError::UnknownScript) if !sent_script => {
                self.send_script = true;
                true
            }
            Err(StoreError::Uncountable(reason)) => {
                let reason: Arc<str> = reason.into();
                self.say_down(&reason);
                if let Some(batch) = self.batch.take() {
                    self.answer(batch, &Err(Refusal::Uncountable(reason)));
                }
                true
            }
            // The batch stays, to be sent again, here as in the other cases that follow.
            Err(lacking @ StoreError::Unreplicated { .. }) => {
                if let Some(batch) = &mut self.batch {
                    batch.may_have_run = true;
                }
                self.metrics.redis_errors.inc();
                self.trouble = lacking.to_string().into();
                true
            }
            Err(StoreError::Unreachable(reason)) => {
                self.may_run_late = true;
                if let Some(batch) = &mut self.batch {
                    batch.may_have_run = true;
                }
                self.break_link(reason.into());
                false
            }
            Err(StoreError::Moved(reason)) => {
                self.break_link(reason.into());
                false
            }
            // It was not run, but a server behind the same name may run it.
            Err(refused @ (StoreError::Refused(_) | StoreError::UnknownScript)) => {
                self.say_down(&refused.to_string().into());
                false
            }
        }
    }

    /// Gives every visit of an applied batch its own number, from the first one on, or a refusal; and
    /// whoever probes what a visit would get.
    fn answer(&mut self, mut batch: Batch, first: &Result<i64, Refusal>) {
        let mut waiting = self.room.lock();
        let Waiting { seats, probes, .. } = &mut *waiting;
        for place in probes.drain(..).flatten() {
            self.woken.extend(seats.answer(place, first.clone()));
        }
        for (place, nth) in batch.visits.drain(..).zip(0..) {
            let number = match first {
                Ok(first) => Ok(first + nth),
                Err(refusal) => Err(refusal.clone()),
            };
            self.woken
                .extend(place.and_then(|place| seats.answer(place, number)));
        }
        wake(self.woken.drain(..), waiting);
        self.next_queue = batch.visits;
    }

    /// Has the server introduced, once for each link: one that can be reached but does not count is
    /// left again at once.
    fn have_introduced(&mut self) {
        if std::mem::replace(&mut self.introduced, true) {
            return;
        }
        let (store, metrics, told) = (&self.store, &self.metrics, &self.told);
        metrics.tell_durable(None);
        let introduction = introduce(store.clone(), metrics.clone(), told.clone());
        // That of an earlier link is called off.
        self.introduction = JoinSet::new();
        self.introduction.spawn(introduction);
    }

    /// The number of the first visit of an applied batch. An error when the fence forbids it.
    fn first_number(&mut self, size: usize, total: Total) -> Result<i64, Refusal> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let first = total.count.saturating_sub(size - 1);
        if let Some(highest) = self.highest {
            // An epoch that goes back is a loss of data, whatever the count: it was reset before.
            if total.epoch < highest.epoch || total.epoch == highest.epoch && first <= highest.count
            {
                self.say_went_back(first, highest.count);
                if self.fence {
                    // The highest number stays, so this goes on until the count is above it, or a reset
                    // begins a new epoch.
                    return Err(Refusal::Fenced);
                }
            } else if first <= highest.count {
                tracing::info!(visit = first, "the count was reset");
            }
        }
        self.highest = Some(total);
        self.went_back = false;
        Ok(first)
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
        let pause = if self.attempts.is_empty() {
            ATTEMPT_EVERY
        } else {
            ATTEMPT_EVERY.max(self.store.budget() / MOST_ATTEMPTS)
        };
        if self.attempted.is_some_and(|last| now < last + pause) {
            return;
        }
        self.attempted = Some(now);
        self.metrics.redis_connection_attempts.inc();
        let store = self.store.clone();
        self.attempts.spawn(async move { store.connect().await });
    }

    /// Notes that the link broke with a command on its way. That alone is no outage: Redis closes
    /// idle links too, and a visit may well be counted on the next one. An attempt that fails, or
    /// a visit that must be refused, makes it one.
    fn break_link(&mut self, reason: Arc<str>) {
        self.metrics.redis_errors.inc();
        if matches!(self.state, LinkState::Up) && !self.room.lock().is_over() {
            tracing::info!(%reason, "the link to Redis broke; connecting anew");
        }
        self.trouble = reason;
    }

    /// Refuses whoever would not get an answer in time, and gives the batch up when nobody waits for it
    /// any more.
    fn refuse_late_ones(&mut self) {
        let mut waiting = self.room.lock();
        let Waiting {
            seats,
            visits,
            probes,
            ..
        } = &mut *waiting;
        let soon = Instant::now() + self.tick;
        let reason = self.trouble.clone();
        let sent = self.batch.iter_mut().flat_map(|batch| &mut batch.visits);
        for place in visits.iter_mut().chain(sent).chain(probes) {
            self.woken
                .extend(seats.refuse_if_late(place, soon, &reason));
        }
        // Nor does anybody hear who has left meanwhile: in an outage nothing else would forget them.
        waiting.forget_who_left();
        let probed = !waiting.probes.is_empty();
        let given_up = self.batch.take_if(|batch| {
            let mut visits = batch.visits.iter();
            let counts_somebody = !visits.all(|place| waiting.seats.has_left(place));
            let tells_somebody = batch.size == 0 && probed;
            !counts_somebody && !tells_somebody
        });
        for mut place in given_up.into_iter().flat_map(|batch| batch.visits) {
            waiting.seats.keep(&mut place);
        }
        let refused = !self.woken.is_empty();
        wake(self.woken.drain(..), waiting);
        if refused {
            self.say_down(&reason);
        }
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
    async fn clean_up(self, link: Option<Link>) {
        if let Some(mut link) = link
            && self.next_batch > 1
            && !self.may_run_late
        {
            // Nobody waits for this, and the key expires anyway.
            let limit = self.store.patience().min(CLEANING_UP);
            let cleaning_up = link.forget_producer();
            let _ = self.store.clock().limit(limit, cleaning_up).await;
        }
    }
}
