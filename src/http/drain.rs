//! Ends without losing a request.
//!
//! Closing idle connections outright would lose those whose next request is on the wire, so every answer
//! says `Connection: close` instead, and the clients leave by themselves:
//!
//! 1. Accept as before until the connections of before the signal are gone, or have been idle for so long
//!    that nothing is on its way, and the lame-duck time is over. Clients that come meanwhile are answered
//!    at once and do not have to wait for the next process.
//! 2. Stop accepting, and wait for the rest in the same way.
//! 3. At `DRAIN_TIMEOUT`, cut what remains and say what it was.

use std::rc::Rc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::http::connection::State;
use crate::http::connections::Connections;
use crate::process::supervisor;

/// How often connections are looked over while the end is waited for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// How often the service manager is told that the end takes longer.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(1);

/// The times of a drain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The least time for which new connections are still accepted.
    pub(crate) lame_duck: Duration,
    /// How long a connection must have been idle before it is closed.
    pub(crate) idle: Duration,
    /// When what remains is cut.
    pub(crate) timeout: Duration,
}

impl Times {
    pub(crate) fn of(config: &Config) -> Self {
        Self { lame_duck: config.drain_lame_duck, idle: config.drain_idle, timeout: config.drain_timeout }
    }
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Since it began.
    waited: Duration,
    accepting: bool,
    /// Connections of before the signal.
    old: usize,
    /// All connections.
    open: usize,
}

/// What a drain does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    StopAccepting,
    Finish,
    Cut,
}

impl Progress {
    fn next_step(self, times: &Times) -> Step {
        if self.accepting && self.old == 0 && self.waited >= times.lame_duck {
            Step::StopAccepting
        } else if !self.accepting && self.open == 0 {
            Step::Finish
        } else if self.waited >= times.timeout {
            Step::Cut
        } else {
            Step::Wait
        }
    }
}

/// Whether a connection that has been in a state for so long is closed, `waited` after the drain began.
fn is_over(state: State, lasted: Duration, waited: Duration, times: &Times) -> bool {
    state.is_idle() && lasted.min(waited) > times.idle
}

/// Drains all connections. Returns whether they came to their end; false: what remains is to be cut.
pub(crate) async fn drain(
    connections: &Connections,
    stop_accepting: watch::Sender<()>,
    accepting: Vec<JoinHandle<()>>,
    times: Times,
) -> bool {
    let begun = Instant::now();
    connections.app.begin_draining();
    let mut notified = supervisor::notify(&[NotifyState::Stopping]);
    let mut last_notified = begun;
    let mut accepting = Some((stop_accepting, accepting));
    let mut old: Vec<_> =
        connections.open().iter().map(|(_, connection)| Rc::downgrade(connection)).collect();
    loop {
        let now = Instant::now();
        let waited = now - begun;
        connections.sweep(now);
        for (_, connection) in connections.open().iter() {
            let (state, lasted) = connection.state(now);
            if is_over(state, lasted, waited, &times) {
                connection.end();
            }
        }
        old.retain(|connection| connection.strong_count() > 0);
        let progress = Progress {
            waited,
            accepting: accepting.is_some(),
            old: old.len(),
            open: connections.open().len(),
        };
        match progress.next_step(&times) {
            Step::StopAccepting => {
                if let Some((stop, tasks)) = accepting.take() {
                    drop(stop);
                    for task in tasks {
                        // It has let in the backlog.
                        let _ = task.await;
                    }
                }
                continue;
            }
            Step::Finish => {
                tracing::info!(drained_ms = millis(waited), "drained");
                return true;
            }
            Step::Cut => {
                log_what_is_cut(connections, times.timeout);
                return false;
            }
            Step::Wait => {}
        }
        if now - last_notified >= NOTIFY_INTERVAL {
            last_notified = now;
            notified = notified || supervisor::notify(&[NotifyState::Stopping]);
            let more = times.timeout - waited + Duration::from_secs(2);
            supervisor::extend_stop_timeout(more);
        }
        sleep(SWEEP_INTERVAL).await;
    }
}

fn log_what_is_cut(connections: &Connections, drain_timeout: Duration) {
    let now = Instant::now();
    let count = |wanted: &[State]| {
        let open = connections.open();
        let states = open.iter().map(|(_, connection)| connection.state(now).0);
        states.filter(|state| wanted.contains(state)).count()
    };
    let answering = count(&[State::Answering]);
    let receiving = count(&[State::Receiving]);
    let idle = count(&[State::Opened, State::Sending, State::Idle]);
    let closing = count(&[State::Closing]);
    tracing::warn!(
        answering,
        receiving,
        idle,
        closing,
        drain_timeout_ms = millis(drain_timeout),
        "DRAIN_TIMEOUT has passed; connections were cut: {answering} answering, {receiving} receiving, \
         {idle} idle, {closing} closing"
    );
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Progress, Step, Times, is_over};
    use crate::http::connection::State;

    const TIMES: Times = Times {
        lame_duck: Duration::from_millis(250),
        idle: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
    };

    #[test]
    fn a_drain_waits_for_connections_and_for_its_times() {
        let (early, lame_duck, timeout) = (TIMES.lame_duck / 2, TIMES.lame_duck, TIMES.timeout);
        for (waited, accepting, old, open, expected) in [
            (early, true, 0, 0, Step::Wait),
            (lame_duck, true, 1, 1, Step::Wait),
            (lame_duck, true, 0, 5, Step::StopAccepting),
            (lame_duck, false, 0, 1, Step::Wait),
            (lame_duck, false, 0, 0, Step::Finish),
            (timeout, false, 0, 1, Step::Cut),
            (timeout, true, 1, 1, Step::Cut),
        ] {
            let progress = Progress { waited, accepting, old, open };
            assert_eq!(progress.next_step(&TIMES), expected, "{progress:?}");
        }
    }

    #[test]
    fn only_what_has_been_idle_since_the_drain_began_is_closed() {
        let (long, short) = (Duration::from_secs(2), Duration::from_secs(1));
        assert!(is_over(State::Idle, long, long, &TIMES));
        assert!(is_over(State::Opened, long, long, &TIMES));
        assert!(!is_over(State::Idle, short, long, &TIMES));
        assert!(!is_over(State::Idle, long, short, &TIMES), "idle before");
        for busy in [State::Receiving, State::Answering, State::Closing] {
            assert!(!is_over(busy, long, long, &TIMES), "{busy:?}");
        }
    }
}
