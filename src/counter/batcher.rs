//! The task that counts: it owns the link, gathers what waits into a batch, and has one batch in flight.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::counter::link_state::LinkState;
use crate::counter::pending::{Pending, Purpose, Refusal, Reply};
use crate::counter::regression::Regression;
use crate::store::{Counted, Increment, Link, SessionReply, SessionRequest, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Between two attempts to connect: at most ten a second.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(100);

/// How many attempts may hang at one time. Each ends with the time budget of a visit.
const MAX_ATTEMPTS: u32 = 8;

/// How often deadlines are looked at, and so how far from its own a visit may be refused.
const MAX_TICK: Duration = Duration::from_millis(20);

/// A smaller batch waits for a few turns of the event loop, when visitors are expected. Shared by so many, a
/// command costs each of them little.
const MIN_BATCH: usize = 32;

/// For how many turns it waits. A second one saves a tenth of the commands at 8 and at 32 connections.
const GATHER_TURNS: usize = 2;

/// How long the end may take to leave no key behind.
const MAX_CLEAN_UP: Duration = Duration::from_secs(1);

/// Visits that are counted together, and probes that are answered with them.
struct Batch {
    number: u64,
    /// The visits without a session.
    visits: usize,
    /// What else is asked for. Nothing at all finds out, for probes, whether visits could be counted.
    requests: Vec<SessionRequest>,
    /// In the order of their numbers, with those that were refused or left meanwhile.
    members: Vec<Pending>,
    /// Until when Redis is to remember it, in the copy that was sent last.
    expires_at: u64,
    /// A copy has been run, or may have been: further ones say the same.
    may_have_run: bool,
}

pub(super) struct Batcher {
    store: Arc<Store>,
    arrivals: UnboundedReceiver<Pending>,
    /// What has arrived and belongs to no batch yet, oldest first.
    pending: Vec<Pending>,
    /// The batch that was sent and has no answer yet.
    batch: Option<Batch>,
    next_batch: u64,
    /// Until when Redis is to remember the last batch, in its own Unix seconds.
    expires_at: u64,
    /// Redis does not know the script: send it whole.
    send_script: bool,
    /// A link was dropped with a batch on its way: Redis may still come to that copy.
    may_run_late: bool,
    attempts: JoinSet<Result<Link, StoreError>>,
    /// When the last of them began.
    last_attempt: Option<Instant>,
    /// When to look at deadlines.
    tick: Interval,
    state: LinkState,
    regression: Regression,
    metrics: Arc<Metrics>,
}

impl Batcher {
    pub(super) fn new(
        store: Store,
        arrivals: UnboundedReceiver<Pending>,
        fence: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        // A short budget wants a finer tick, or a visit would be refused as soon as it comes.
        let mut tick = interval(MAX_TICK.min(store.budget / 8));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            store: Arc::new(store),
            arrivals,
            pending: Vec::new(),
            batch: None,
            next_batch: 1,
            expires_at: 0,
            send_script: false,
            may_run_late: false,
            attempts: JoinSet::new(),
            last_attempt: None,
            tick,
            state: LinkState::new(metrics.clone()),
            regression: Regression::new(fence, metrics.clone()),
            metrics,
        }
    }

    /// Counts until the [`Counter`](crate::counter::Counter) is dropped and all that waits is answered.
    pub(super) async fn run(mut self) {
        let mut link = None;
        while self.has_work().await {
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

    /// Waits for something to count. False: nothing will come any more.
    async fn has_work(&mut self) -> bool {
        if self.batch.is_some() || !self.pending.is_empty() {
            return true;
        }
        // The first to arrive wakes this task; all that come until it runs join it.
        self.arrivals.recv_many(&mut self.pending, usize::MAX).await > 0
    }

    /// Takes in what has arrived, and forgets what is not waited for any more.
    fn take_arrivals(&mut self) {
        while let Ok(arrived) = self.arrivals.try_recv() {
            self.pending.push(arrived);
        }
        self.pending.retain(Pending::is_waiting);
    }

    /// Whether nothing waits and nothing will come any more.
    fn is_finished(&self) -> bool {
        self.batch.is_none()
            && self.pending.is_empty()
            && self.arrivals.is_closed()
            && self.arrivals.is_empty()
    }

    /// Waits for a link, and meanwhile looks at deadlines. Returns after each event, with a link or
    /// without.
    async fn connect(&mut self) -> Option<Link> {
        self.attempt_to_connect();
        tokio::select! {
            biased;
            Some(attempt) = self.attempts.join_next() => match attempt {
                Ok(Ok(link)) => {
                    // The other attempts are cancelled.
                    self.attempts = JoinSet::new();
                    self.state.mark_new_link();
                    return Some(link);
                }
                Ok(Err(error)) => {
                    if error.is_of_certificate() {
                        self.metrics.redis_tls_errors.inc();
                    }
                    self.state.mark_down(&error.to_string().into());
                }
                // It was cancelled.
                Err(_) => {}
            },
            _ = self.tick.tick() => {
                self.expire_late();
                if self.batch.is_none() && self.pending.is_empty() {
                    self.attempts = JoinSet::new();
                }
            }
        }
        None
    }

    /// Starts another attempt to connect when its time has come. Attempts overlap, so that one
    /// which hangs does not hide that Redis is back; the first to succeed is taken.
    fn attempt_to_connect(&mut self) {
        let now = Instant::now();
        let pause = if self.attempts.is_empty() {
            ATTEMPT_INTERVAL
        } else {
            ATTEMPT_INTERVAL.max(self.store.budget / MAX_ATTEMPTS)
        };
        if self.last_attempt.is_some_and(|last| now < last + pause) {
            return;
        }
        self.last_attempt = Some(now);
        self.metrics.redis_connection_attempts.inc();
        let store = self.store.clone();
        self.attempts.spawn(async move { store.connect().await });
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
            // Never less than another batch, though the clock may have been set back.
            self.expires_at = self.expires_at.max(link.expires_at(now));
            batch.expires_at = self.expires_at;
        }
        let (number, visits, expires_at) = (batch.number, batch.visits, batch.expires_at);
        let size = batch.members.len();
        let requests = batch.requests.clone();
        let send_script = std::mem::take(&mut self.send_script);
        let increment = Increment { batch: number, visits, requests: &requests, expires_at, send_script };
        let reply = self.await_reply(link.increment(increment), now).await;
        let trusted = self.handle_reply(reply, send_script);
        // The visitors just answered may visit again at once: they join the next batch.
        for _ in 0..GATHER_TURNS {
            if size > 1 && self.pending.len() + self.arrivals.len() < MIN_BATCH {
                yield_now().await;
            }
        }
        trusted
    }

    /// Makes the next batch of all that waits. A visitor who has left is not counted.
    fn gather(&mut self) -> Option<Batch> {
        self.take_arrivals();
        if self.pending.is_empty() {
            return None;
        }
        let members = std::mem::take(&mut self.pending);
        let visits = members.iter().filter(|member| member.purpose == Purpose::Visit).count();
        let requests = members.iter().filter_map(|member| match member.purpose {
            Purpose::Session(request) => Some(request),
            _ => None,
        });
        let requests: Vec<_> = requests.collect();
        let size = visits
            + requests.iter().filter(|request| matches!(request, SessionRequest::Visit { .. })).count();
        if size > 0 {
            self.metrics.batch_visits.observe(size as f64);
        }
        let number = self.next_batch;
        self.next_batch += 1;
        Some(Batch { number, visits, requests, members, expires_at: 0, may_have_run: false })
    }

    /// What Redis replies to the increment that was sent at `sent`; an error when it is silent for too
    /// long, or when the process may end. Visits that come meanwhile do not wake this task.
    async fn await_reply(
        &mut self,
        increment: impl Future<Output = Result<Counted, StoreError>>,
        sent: Instant,
    ) -> Result<Counted, StoreError> {
        let mut increment = pin!(increment);
        loop {
            tokio::select! {
                biased;
                reply = &mut increment => return reply,
                _ = self.tick.tick() => {
                    self.expire_late();
                    if self.is_finished() || sent.elapsed() > self.store.reply_timeout {
                        let silence = "no answer to a command".to_owned();
                        return Err(StoreError::Unreachable(silence));
                    }
                }
            }
        }
    }

    /// Deals with the reply to the batch. Returns whether the link is still to be trusted.
    fn handle_reply(&mut self, reply: Result<Counted, StoreError>, sent_script: bool) -> bool {
        match reply {
            Ok(counted) => {
                self.state.mark_up();
                self.state.ensure_inspected(&self.store);
                if let Some(batch) = self.batch.take() {
                    self.answer(batch, counted);
                }
                true
            }
            Err(StoreError::UnknownScript) if !sent_script => {
                self.send_script = true;
                true
            }
            Err(StoreError::Uncountable(reason)) => {
                let reason: Arc<str> = reason.into();
                self.state.mark_down(&reason);
                for mut member in self.batch.take().into_iter().flat_map(|batch| batch.members) {
                    member.answer(Err(Refusal::Uncountable(reason.clone())));
                }
                true
            }
            // The batch stays, to be sent again, here as in the other cases that follow.
            Err(lacking @ StoreError::Unreplicated { .. }) => {
                if let Some(batch) = &mut self.batch {
                    batch.may_have_run = true;
                }
                self.state.note_error(lacking.to_string().into());
                true
            }
            Err(StoreError::Unreachable(reason)) => {
                self.may_run_late = true;
                if let Some(batch) = &mut self.batch {
                    batch.may_have_run = true;
                }
                self.state.note_broken(reason.into(), self.is_finished());
                false
            }
            Err(StoreError::Moved(reason)) => {
                self.state.note_broken(reason.into(), self.is_finished());
                false
            }
            // It was not run, but a server behind the same name may run it.
            Err(refused @ (StoreError::Refused(_) | StoreError::UnknownScript)) => {
                self.state.mark_down(&refused.to_string().into());
                false
            }
        }
    }

    /// Gives every visit of an applied batch its own number, and to each request its reply. A probe gets what
    /// a visit would get.
    fn answer(&mut self, batch: Batch, counted: Counted) {
        let is_new = |reply: &&SessionReply| matches!(reply, SessionReply::Counted(_));
        let new = batch.visits + counted.replies.iter().filter(is_new).count();
        let returned =
            counted.replies.iter().filter(|reply| matches!(reply, SessionReply::Returned(_))).count();
        self.metrics.new_visits.inc_by(new as u64);
        self.metrics.returning_visits.inc_by(returned as u64);
        let first = self.regression.first_number(new, counted.total);
        let (mut next, mut replies) = (first.clone(), counted.replies.into_iter());
        for mut member in batch.members {
            let number = |number: i64| Reply { number, session: SessionReply::None };
            member.answer(match member.purpose {
                Purpose::Visit => {
                    let given = next.clone().map(number);
                    next = next.map(|number| number.saturating_add(1));
                    given
                }
                Purpose::Probe => first.clone().map(number),
                Purpose::Count => Ok(number(counted.total.count)),
                Purpose::Session(_) => {
                    let session = replies.next().unwrap_or(SessionReply::None);
                    let reply = Reply { number: counted.total.count, session };
                    // A number that was given before is not fenced.
                    if is_new(&&session) { first.clone().map(|_| reply) } else { Ok(reply) }
                }
            });
        }
    }

    /// Refuses what would not get an answer in time, and gives the batch up when none of it is waited for.
    fn expire_late(&mut self) {
        self.take_arrivals();
        let soon = Instant::now() + self.tick.period();
        let reason = self.state.last_error().clone();
        let sent = self.batch.iter_mut().flat_map(|batch| &mut batch.members);
        let mut refused = false;
        for member in self.pending.iter_mut().chain(sent) {
            refused |= member.expire(soon, &reason);
        }
        self.pending.retain(Pending::is_waiting);
        self.batch.take_if(|batch| !batch.members.iter().any(Pending::is_waiting));
        if refused {
            self.state.mark_down(&reason);
        }
    }

    /// An orderly end leaves no key behind, unless Redis may still come to a copy of a batch: then
    /// the record, by which it would know that copy, must stay until it expires by itself.
    async fn clean_up(self, link: Option<Link>) {
        if let Some(mut link) = link
            && self.next_batch > 1
            && !self.may_run_late
        {
            // Nothing waits for this, and the key expires anyway.
            let limit = self.store.reply_timeout.min(MAX_CLEAN_UP);
            let _ = timeout(limit, link.forget_producer()).await;
        }
    }
}
