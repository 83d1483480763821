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
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

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
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) started: Instant,
    minutes: Mutex<Minutes>,
    problems: Mutex<VecDeque<Problem>>,
}

#[derive(Debug)]
struct Minutes {
    /// Visits in each minute that is over, oldest first.
    visits: VecDeque<u32>,
    /// All visits by the end of the last of them.
    total: u64,
    /// When the minute under way began.
    began: Instant,
}

impl Minutes {
    fn new(began: Instant) -> Self {
        Self { visits: VecDeque::new(), total: 0, began }
    }

    /// The visits of the minute under way, of `total` since the start.
    fn under_way(&self, total: u64) -> u32 {
        u32::try_from(total.saturating_sub(self.total)).unwrap_or(u32::MAX)
    }

    /// Ends the minutes that are over.
    fn advance(&mut self, now: Instant, total: u64) {
        while now.saturating_duration_since(self.began) >= MINUTE {
            let visits = self.under_way(total);
            self.visits.push_back(visits);
            if self.visits.len() == MAX_MINUTES {
                self.visits.pop_front();
            }
            self.total = total;
            self.began += MINUTE;
        }
    }
}

impl Recent {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, minutes: Mutex::new(Minutes::new(started)), problems: Mutex::default() }
    }

    /// Notes how many visits there have been. It takes those since the last call for visits of the minute in which
    /// that call was, so it is called often while there may be visits. A visit itself costs nothing here.
    pub(crate) fn advance(&self, now: Instant, total: u64) {
        self.minutes.lock().advance(now, total);
    }

    /// The visits of each minute, oldest first. The last one is under way. `total` is all since the start.
    pub(crate) fn visits(&self, now: Instant, total: u64) -> Vec<u32> {
        let mut minutes = self.minutes.lock();
        minutes.advance(now, total);
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
    use std::time::Duration;

    use tokio::time::Instant;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::registry;

    use super::{MAX_MINUTES, MAX_PROBLEMS, MINUTE, Minutes, Recent, RememberProblems};

    #[test]
    fn each_minute_has_its_own_visits_and_the_oldest_is_forgotten() {
        let start = Instant::now();
        let mut minutes = Minutes::new(start);
        let second = Duration::from_secs(1);
        for (now, total, over, under_way) in [
            (30 * second, 2, &[][..], 2),
            (61 * second, 3, &[3], 0),
            (62 * second, 4, &[3], 1),
            // A pause of two minutes and more.
            (245 * second, 4, &[3, 1, 0, 0], 0),
            (246 * second, 9, &[3, 1, 0, 0], 5),
        ] {
            minutes.advance(start + now, total);
            assert_eq!(minutes.visits, over, "{now:?}");
            assert_eq!(minutes.under_way(total), under_way, "{now:?}");
        }
        minutes.advance(start + 100 * MINUTE, 9);
        // With the one under way they are an hour.
        assert_eq!(minutes.visits, [0; MAX_MINUTES - 1]);
    }

    #[test]
    fn the_last_warnings_and_errors_are_remembered_and_no_requests() {
        let recent = Arc::new(Recent::new(Instant::now()));
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
