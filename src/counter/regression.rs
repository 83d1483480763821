//! Notices that the count has gone back, so that numbers may repeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::counter::pending::Refusal;
use crate::store::Total;
use crate::telemetry::metrics::Metrics;

/// How often a fence is logged that goes on to refuse visits.
const FENCE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Compares each new total with the highest that this process has given out.
pub(super) struct Regression {
    /// `COUNTER_FENCE`: refuse visits while the count stands below the highest number.
    fence: bool,
    /// The highest number given out, with the latest epoch seen.
    highest: Option<Total>,
    /// When it was logged that the count stands below `highest`; `None` while it does not.
    last_logged: Option<Instant>,
    metrics: Arc<Metrics>,
}

impl Regression {
    pub(super) fn new(fence: bool, metrics: Arc<Metrics>) -> Self {
        Self { fence, highest: None, last_logged: None, metrics }
    }

    /// The number of the first visit of an applied batch of `size` visits. An error when the fence
    /// forbids it.
    pub(super) fn first_number(&mut self, size: usize, total: Total) -> Result<i64, Refusal> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let first = total.count.saturating_sub(size - 1);
        if let Some(highest) = self.highest {
            let repeats = first <= highest.count;
            // An epoch that goes back is a loss of data, whatever the count: it was reset before.
            if total.epoch < highest.epoch || total.epoch == highest.epoch && repeats {
                self.report(first, highest.count);
                if self.fence {
                    // The highest number stays, so this goes on until the count is above it, or a reset
                    // begins a new epoch.
                    return Err(Refusal::Fenced);
                }
            } else if repeats {
                tracing::info!(visit = first, "the count was reset");
            }
        }
        self.highest = Some(total);
        self.last_logged = None;
        Ok(first)
    }

    /// Logs that Redis has lost data or that the key was changed.
    fn report(&mut self, first: i64, highest: i64) {
        let now = Instant::now();
        if self.last_logged.is_none() {
            self.metrics.count_went_back.inc();
        } else if !self.is_due_again(now) {
            return;
        }
        self.last_logged = Some(now);
        let effect =
            if self.fence { "visits get 503 until reset-count is run" } else { "numbers may repeat" };
        tracing::error!(
            visit = first,
            highest,
            fence = self.fence,
            "the count went back without a reset: visit {first} would follow {highest}, as Redis lost data \
             or the key was changed; {effect}"
        );
    }

    /// Whether what was logged is logged once more: a fence refuses visits for as long as the count
    /// stands there.
    fn is_due_again(&self, now: Instant) -> bool {
        self.fence && self.last_logged.is_some_and(|logged| now.duration_since(logged) >= FENCE_LOG_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{FENCE_LOG_INTERVAL, Regression};
    use crate::store::Total;
    use crate::telemetry::metrics::Metrics;

    fn regression(fence: bool) -> Regression {
        Regression::new(fence, Metrics::new("test", []).into())
    }

    fn first(regression: &mut Regression, size: usize, count: i64, epoch: i64) -> Option<i64> {
        regression.first_number(size, Total { count, epoch }).ok()
    }

    #[test]
    fn the_visits_of_a_batch_end_with_its_total() {
        let mut regression = regression(true);
        assert_eq!(first(&mut regression, 3, 3, 0), Some(1));
        assert_eq!(first(&mut regression, 1, 4, 0), Some(4));
        // Another process may have counted between the two.
        assert_eq!(first(&mut regression, 2, 9, 0), Some(8));
    }

    #[test]
    fn a_reset_begins_again_and_a_loss_of_data_is_reported_once() {
        for (fence, lost, reports) in [(false, Some(1), 2), (true, None, 1)] {
            let mut regression = regression(fence);
            assert_eq!(first(&mut regression, 1, 10, 0), Some(10));
            assert_eq!(first(&mut regression, 1, 1, 5), Some(1), "a reset");
            assert_eq!(first(&mut regression, 1, 1, 4), lost);
            assert_eq!(first(&mut regression, 1, 1, 4), lost);
            assert_eq!(regression.metrics.count_went_back.get(), reports);
        }
    }
    #[test]
    fn a_fence_that_refuses_visits_is_logged_each_minute_and_counted_once() {
        for fence in [false, true] {
            let mut regression = regression(fence);
            let logged = Instant::now();
            regression.last_logged = Some(logged);
            assert!(!regression.is_due_again(logged + FENCE_LOG_INTERVAL / 2));
            assert_eq!(regression.is_due_again(logged + FENCE_LOG_INTERVAL), fence);
        }
        let mut regression = regression(true);
        assert_eq!(first(&mut regression, 1, 10, 0), Some(10));
        assert_eq!(first(&mut regression, 1, 1, 0), None);
        let logged = regression.last_logged.and_then(|logged| logged.checked_sub(FENCE_LOG_INTERVAL));
        regression.last_logged = logged;
        assert_eq!(first(&mut regression, 1, 2, 0), None);
        assert!(regression.last_logged > logged, "it was logged again");
        assert_eq!(regression.metrics.count_went_back.get(), 1);
    }
}
