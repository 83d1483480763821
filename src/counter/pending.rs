//! What waits for the counter: visits, and probes that ask whether visits could be counted.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::store::{SessionReply, SessionRequest};

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

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A number for a visit without a session.
    Visit,
    /// Whether a visit could be counted.
    Probe,
    /// The count.
    Count,
    Session(SessionRequest),
}

/// What is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// The visit's number; for what counts nothing, the count.
    pub(super) number: i64,
    /// For what is asked of a session.
    pub(super) session: SessionReply,
}

pub(super) type Answer = Result<Reply, Refusal>;

/// A visit or a probe that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) purpose: Purpose,
    deadline: Instant,
    /// `None` once it has been answered.
    reply: Option<oneshot::Sender<Answer>>,
}

impl Pending {
    pub(super) fn new(purpose: Purpose, deadline: Instant, reply: oneshot::Sender<Answer>) -> Self {
        Self { purpose, deadline, reply: Some(reply) }
    }

    /// Whether an answer is still waited for: none was given, and the visitor has not left.
    pub(super) fn is_waiting(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Answers it, unless it was answered before.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // The visitor may leave at any time.
            let _ = reply.send(answer);
        }
    }

    /// Refuses it if it waits and its deadline is before `soon`. Returns whether it was refused.
    pub(super) fn expire(&mut self, soon: Instant, reason: &Arc<str>) -> bool {
        let late = self.deadline <= soon && self.is_waiting();
        if late {
            self.answer(Err(Refusal::Unreachable(reason.clone())));
        }
        late
    }
}
