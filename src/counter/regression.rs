//! Notices that the count has gone back, so that numbers may repeat.

use std::sync::Arc;

use crate::counter::pending::Refusal;
use crate::store::Total;
use crate::telemetry::metrics::Metrics;

/// Compares each new total with the highest that this process has given out.
pub(super) struct Regression {
    /// `COUNTER_FENCE`: refuse visits while the count stands below the highest number.
    fence: bool,
    /// The highest number given out, with the latest epoch seen.
    highest: Option<Total>,
    /// The count stands below `highest`, and that has been logged.
    reported: bool,
    metrics: Arc<Metrics>,
}

impl Regression {
    pub(super) fn new(fence: bool, metrics: Arc<Metrics>) -> Self {
        Self { fence, highest: None, reported: false, metrics }
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
        self.reported = false;
        Ok(first)
    }

    /// Logs, once, that Redis has lost data or that the key was changed.
    fn report(&mut self, first: i64, highest: i64) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        self.metrics.count_went_back.inc();
        tracing::error!(
            visit = first,
            highest,
            fence = self.fence,
            "the count went back without a reset: Redis lost data, or the key was changed; numbers \
             may repeat"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Regression;
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
}
