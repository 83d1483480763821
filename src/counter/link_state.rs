//! Whether Redis counts: for the metrics, and for the log, which has changes and not every refused visit.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// Between two reasons of one outage in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How many reasons of one outage are logged.
const MAX_REASONS: usize = 8;

/// The state of the link, as the log and the metrics know it.
pub(super) struct LinkState {
    state: State,
    /// What went wrong last on the way to Redis.
    last_error: Arc<str>,
    /// The server of this link is or has been asked what it promises.
    inspected: bool,
    inspection: JoinSet<()>,
    /// What was logged last of a server's promises.
    last_logged: Arc<Mutex<String>>,
    metrics: Arc<Metrics>,
}

enum State {
    Unknown,
    Up,
    /// With the reasons that were logged. One outage may show itself in several ways by turns.
    Down {
        since: Instant,
        last_logged: Option<Instant>,
        reasons: Vec<Arc<str>>,
    },
}

impl LinkState {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            state: State::Unknown,
            last_error: no_answer(),
            inspected: false,
            inspection: JoinSet::new(),
            last_logged: Arc::default(),
            metrics,
        }
    }

    /// What a visit is refused with that waits in vain.
    pub(super) fn last_error(&self) -> &Arc<str> {
        &self.last_error
    }

    /// Notes an error that is no outage yet: the batch is sent again.
    pub(super) fn note_error(&mut self, error: Arc<str>) {
        self.metrics.redis_errors.inc();
        self.last_error = error;
    }

    /// Notes that the link broke with a command on its way. That alone is no outage: Redis closes
    /// idle links too, and a visit may well be counted on the next one. An attempt that fails, or
    /// a visit that must be refused, makes it one.
    pub(super) fn note_broken(&mut self, reason: Arc<str>, is_ending: bool) {
        if matches!(self.state, State::Up) && !is_ending {
            tracing::info!(%reason, "the link to Redis broke; connecting anew");
        }
        self.note_error(reason);
    }

    /// Redis has counted.
    pub(super) fn mark_up(&mut self) {
        match &self.state {
            State::Up => return,
            State::Unknown => tracing::info!("Redis answers"),
            State::Down { since, .. } => {
                let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(outage_ms, "Redis answers again");
            }
        }
        self.metrics.set_redis_up(true);
        self.last_error = no_answer();
        self.state = State::Up;
    }

    /// Redis does not count, or visits were refused because it does not in time.
    pub(super) fn mark_down(&mut self, reason: &Arc<str>) {
        self.note_error(reason.clone());
        self.metrics.set_redis_up(false);
        let now = Instant::now();
        if !matches!(self.state, State::Down { .. }) {
            self.state = State::Down { since: now, last_logged: None, reasons: Vec::new() };
        }
        if let State::Down { last_logged, reasons, .. } = &mut self.state
            && !reasons.contains(reason)
            && reasons.len() < MAX_REASONS
            && last_logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL)
        {
            tracing::error!(%reason, "Redis does not count; visits get 503: {reason}");
            *last_logged = Some(now);
            reasons.push(reason.clone());
        }
    }

    /// A new link leads perhaps to another server.
    pub(super) fn mark_new_link(&mut self) {
        self.inspected = false;
    }

    /// Has the server inspected, once for each link: one that can be reached but does not count is
    /// left again at once.
    pub(super) fn ensure_inspected(&mut self, store: &Arc<Store>) {
        if std::mem::replace(&mut self.inspected, true) {
            return;
        }
        self.metrics.set_promises(None, None);
        // The inspection of an earlier link is cancelled.
        self.inspection = JoinSet::new();
        self.inspection.spawn(inspect(store.clone(), self.metrics.clone(), self.last_logged.clone()));
    }
}

fn no_answer() -> Arc<str> {
    "no answer in time".into()
}

/// Logs and exports what the server promises, in a session of its own, so that no visit waits for it.
async fn inspect(store: Arc<Store>, metrics: Arc<Metrics>, last_logged: Arc<Mutex<String>>) {
    // When it does not answer, the next visit finds out, and the next link is inspected.
    let Ok(mut link) = store.connect().await else { return };
    let Ok(server) = link.server().await else { return };
    let (durable, may_evict) = (server.is_durable(), server.may_evict());
    metrics.set_promises(durable, may_evict);
    let server = server.to_string();
    let mut last_logged = last_logged.lock();
    if *last_logged == server {
        return;
    }
    last_logged.clone_from(&server);
    if durable == Some(false) || may_evict == Some(true) {
        tracing::warn!("Redis is {server}");
    } else {
        tracing::info!("Redis is {server}");
    }
}
