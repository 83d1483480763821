//! Joins the visits that wait at one time into a single increment, and gives each its own number.
//!
//! One task (`batcher.rs`) owns the link to Redis. While a batch is on its way the next one gathers, and a
//! lone visit is sent at once. A process holds no count (factor VI). Three rules make the numbers right:
//! * A batch is fixed once it has been sent. A visit that comes later joins the next one, so it never gets a
//!   number that was drawn before it came.
//! * A batch whose answer was lost is sent again, as the same batch, until its visits' deadlines. [`Store`]
//!   makes that safe. After that its visits are refused and its number is never reused.
//! * The link carries one command at a time and is dropped on any doubt.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::counter::batcher::Batcher;
use crate::counter::pending::{Answer, Pending, Purpose};
use crate::store::{SessionId, SessionReply, SessionRequest, Store};
use crate::telemetry::metrics::{Gauge, Metrics};

mod batcher;
mod link_state;
mod pending;
mod regression;

pub use pending::Refusal;

/// The way into the next batch.
#[derive(Debug)]
pub struct Counter {
    arrivals: UnboundedSender<Pending>,
    metrics: Arc<Metrics>,
    max_waiting: i64,
    budget: Duration,
}

/// One of the visits that the gauge counts as waiting, until it is answered or its visitor leaves.
struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counter {
    /// Starts the task that counts. It ends, and cleans up after itself, when the [`Counter`] is
    /// dropped.
    #[must_use]
    pub fn start(config: &Config, store: Store, metrics: Arc<Metrics>) -> (Self, JoinHandle<()>) {
        let (arrivals, receiver) = unbounded_channel();
        let counter = Self {
            arrivals,
            metrics: metrics.clone(),
            max_waiting: i64::try_from(config.max_waiting_visits).unwrap_or(i64::MAX),
            budget: store.budget,
        };
        let batcher = Batcher::new(store, receiver, config.counter_fence, metrics);
        (counter, tokio::spawn(batcher.run()))
    }

    /// Counts one visit that came in at `arrived`, and returns its number.
    ///
    /// # Errors
    /// A [`Refusal`], at the latest when the time budget of the visit is spent.
    pub async fn visit(&self, arrived: Instant) -> Result<i64, Refusal> {
        self.wait(Purpose::Visit, arrived).await.map(|reply| reply.number)
    }

    /// Counts one visit, unless its visitor has come back with the session that they name. Returns the visitor's
    /// number, the session to go on with, and whether it is one that was named.
    ///
    /// # Errors
    /// As those of [`Counter::visit`].
    pub async fn visit_in_session(
        &self,
        named: Option<SessionId>,
        arrived: Instant,
    ) -> Result<(i64, SessionId, bool), Refusal> {
        let no_id = |error| Refusal::Unreachable(format!("no random numbers for a session: {error}").into());
        let new = SessionId::draw().map_err(no_id)?;
        match (self.session(SessionRequest::Visit { named, new }, arrived).await?, named) {
            (SessionReply::Counted(number), _) => Ok((number, new, false)),
            (SessionReply::Returned(number), Some(named)) => Ok((number, named, true)),
            _ => Err(Refusal::Unreachable("the session ended before the answer came".into())),
        }
    }

    /// Does what is asked of a session.
    ///
    /// # Errors
    /// As those of [`Counter::visit`].
    pub async fn session(&self, request: SessionRequest, arrived: Instant) -> Result<SessionReply, Refusal> {
        self.wait(Purpose::Session(request), arrived).await.map(|reply| reply.session)
    }

    /// Finds out whether a visit could be counted now. The error is that of a visit.
    pub async fn probe(&self) -> Result<(), Refusal> {
        self.ask(Purpose::Probe, Instant::now()).await.map(drop)
    }

    /// The count, 0 before the first visit. The error is that of a visit.
    pub async fn count(&self) -> Result<i64, Refusal> {
        self.ask(Purpose::Count, Instant::now()).await.map(|reply| reply.number)
    }

    /// As [`Counter::ask`], for one of those whose number `MAX_WAITING_VISITS` bounds.
    async fn wait(&self, purpose: Purpose, arrived: Instant) -> Answer {
        let before = self.metrics.waiting_visits.inc();
        let _waiting = Waiting(&self.metrics.waiting_visits);
        if before >= self.max_waiting {
            self.metrics.limit_hits.waiting_visits.inc();
            return Err(Refusal::QueueFull);
        }
        self.ask(purpose, arrived).await
    }

    async fn ask(&self, purpose: Purpose, arrived: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        let pending = Pending::new(purpose, arrived + self.budget, reply);
        // The batcher outlives the counter, and answers all it has taken.
        let ended = || Refusal::Unreachable("the counter has ended".into());
        self.arrivals.send(pending).map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}
