//! What a process remembers of its own past, for `/status`: the visits of each minute of the last hour, and
//! what it has logged last of what went wrong.
//!
//! It is a few hundred bytes of counts and a few lines of text. No other process needs them, no answer to a visitor
//! depends on them, and they end with the process: factor VI forbids nothing of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::{Instant, interval_at};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::telemetry::metrics::Metrics;

const MINUTE: Duration = Duration::from_mins(1);

/// How many minutes are remembered, the one under way among them.
pub(crate) const MAX_MINUTES: usize = 60;

/// How many warnings and errors are remembered.
const MAX_PROBLEMS: usize = 5;

/// A warning or an error as it was logged.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) at: SystemTime,
    pub(crate) message: String,
}

/// The recent past of one process.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    minutes: Mutex<Minutes>,
    problems: Mutex<VecDeque<Problem>>,
}

#[derive(Debug, Default)]
struct Minutes {
    /// Visits in each minute that is over, oldest first.
    visits: VecDeque<u32>,
    /// All visits by the end of the last of them.
    total: u64,
}

impl Minutes {
    /// The visits since the last minute that is over, of `total` since the start.
    fn under_way(&self, total: u64) -> u32 {
        u32::try_from(total.saturating_sub(self.total)).unwrap_or(u32::MAX)
    }

    fn end(&mut self, total: u64) {
        let visits = self.under_way(total);
        self.visits.push_back(visits);
        if self.visits.len() == MAX_MINUTES {
            self.visits.pop_front();
        }
        self.total = total;
    }
}

impl Recent {
    /// Reads the number of visits once a minute, so that a visit itself costs nothing here.
    pub(crate) async fn watch(&self, metrics: &Metrics) {
        let mut minutes = interval_at(Instant::now() + MINUTE, MINUTE);
        loop {
            minutes.tick().await;
            self.minutes.lock().end(metrics.visits());
        }
    }

    /// The visits of each minute, oldest first. The last one is under way. `total` is all since the start.
    pub(crate) fn visits(&self, total: u64) -> Vec<u32> {
        let minutes = self.minutes.lock();
        minutes.visits.iter().copied().chain([minutes.under_way(total)]).collect()
    }

    /// The last warnings and errors, oldest first.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.problems.lock().iter().cloned().collect()
    }
}

/// Has the warnings and errors remembered that are logged. Those of a request are counted in the metrics.
pub(crate) struct RememberProblems(pub(crate) Arc<Recent>);

impl<S: Subscriber> Layer<S> for RememberProblems {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.fields().field("http_status").is_some() {
            return;
        }
        let mut problem = Problem { at: SystemTime::now(), message: String::new() };
        event.record(&mut problem);
        let mut problems = self.0.problems.lock();
        problems.push_back(problem);
        if problems.len() > MAX_PROBLEMS {
            problems.pop_front();
        }
    }
}

impl Visit for Problem {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::registry;

    use super::{MAX_MINUTES, MAX_PROBLEMS, Minutes, Recent, RememberProblems};

    #[test]
    fn each_minute_has_its_own_visits_and_the_oldest_is_forgotten() {
        let mut minutes = Minutes::default();
        minutes.end(3);
        minutes.end(3);
        minutes.end(8);
        assert_eq!(minutes.visits, [3, 0, 5]);
        assert_eq!(minutes.under_way(10), 2);
        for total in 9..100 {
            minutes.end(total);
        }
        // With the one under way they are an hour.
        assert_eq!(minutes.visits, [1; MAX_MINUTES - 1]);
    }

    #[test]
    fn the_last_warnings_and_errors_are_remembered_and_no_requests() {
        let recent = Arc::new(Recent::default());
        let logger = registry().with(RememberProblems(recent.clone()));
        tracing::subscriber::with_default(logger, || {
            for number in 1..=MAX_PROBLEMS {
                tracing::warn!("{number}");
            }
            tracing::error!(reason = "tired", "{} of them", 6);
            tracing::warn!(http_status = 503, "{}", 7);
            tracing::info!("{}", 8);
        });
        let messages: Vec<_> = recent.problems().into_iter().map(|problem| problem.message).collect();
        assert_eq!(messages, ["2", "3", "4", "5", "6 of them"]);
    }
}
