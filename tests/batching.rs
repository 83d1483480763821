//! The batching against a small model: visits arrive and leave, links break at any byte, answers
//! are lost, scripts forgotten, in any order.
//!
//! The library is called directly, without HTTP, so that the order of events is the test's own.
//! Redis is a real one; only the wire to it is cut.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abukiks::config::Config;
use abukiks::counter::Counter;
use abukiks::process;
use abukiks::store::{SessionId, Store};
use abukiks::telemetry::metrics::Metrics;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use crate::proxy::{Fate, Proxy};
use crate::support::Redis;

#[derive(Debug, Clone)]
enum Step {
    /// Some visits arrive together.
    Arrive(usize),
    /// Some of those who were told a number come back, if visitors have sessions.
    Return(usize),
    /// The visitor who has waited longest leaves.
    Leave,
    /// A probe asks whether visits can be counted.
    Probe,
    /// Something happens to the next increment.
    Break(Fate),
    /// Every link is cut, with or without a command on its way.
    Cut,
    /// Redis forgets the script.
    Forget,
    /// The event loop goes round this often.
    Turn(usize),
    /// All that wait are answered.
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        (0..400_usize).prop_map(Fate::CutRequestAt),
        (0..12_usize).prop_map(Fate::CutAnswerAt),
        Just(Fate::Silence),
        Just(Fate::Pass),
    ];
    let step = prop_oneof![
        6 => (1..6_usize).prop_map(Step::Arrive),
        3 => (1..4_usize).prop_map(Step::Return),
        2 => Just(Step::Leave),
        1 => Just(Step::Probe),
        3 => fate.prop_map(Step::Break),
        1 => Just(Step::Cut),
        1 => Just(Step::Forget),
        4 => (1..30_usize).prop_map(Step::Turn),
        2 => Just(Step::Settle),
    ];
    vec(step, 1..25)
}

/// What one visit came to, in the order of a clock that every event moves on.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    began: u64,
    ended: u64,
    number: Option<i64>,
    /// What the visitor comes back with.
    session: Option<SessionId>,
}

/// A visitor who came back, with the number that they know, and what they were told.
type Return = (i64, Option<(i64, bool)>);

/// What the model knows: everything that was asked for, and what became of it.
#[derive(Debug, Default)]
struct Model {
    arrived: usize,
    outcomes: Vec<Outcome>,
    returns: Vec<Return>,
}

impl Model {
    fn check(&self, count: i64) -> Result<(), TestCaseError> {
        let answered: Vec<(Outcome, i64)> =
            self.outcomes.iter().filter_map(|outcome| Some((*outcome, outcome.number?))).collect();
        for (known, told) in &self.returns {
            prop_assert!(told.is_none_or(|told| told == (*known, true)), "{known} was told {told:?}");
        }
        let numbers: HashSet<i64> = answered.iter().map(|(_, number)| *number).collect();
        prop_assert_eq!(numbers.len(), answered.len(), "a number was given twice");
        prop_assert!(numbers.iter().all(|number| (1..=count).contains(number)));
        // At most once: even those who were refused or left are counted no more than that.
        prop_assert!(count <= i64::try_from(self.arrived).expect("a few"));
        for (earlier, low) in &answered {
            for (later, high) in &answered {
                prop_assert!(
                    earlier.ended > later.began || low < high,
                    "{high} was given to a visit that began after {low} had been given"
                );
            }
        }
        Ok(())
    }
}

async fn play(redis: &Redis, sessions: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    redis.run::<()>(&["FLUSHALL"]);
    let proxy = Proxy::to(redis);
    let lifetime = if sessions { "1h" } else { "off" };
    let settings = [("REDIS_URL", &*proxy.url()), ("REDIS_TIMEOUT", "300ms"), ("SESSION_LIFETIME", lifetime)]
        .map(|(name, value)| (name.into(), value.into()));
    let config = Config::from_vars(settings).expect("settings");
    let metrics = Arc::new(Metrics::new("test", []));
    let store = Store::new(&config).expect("a store");
    let (counter, counting) = Counter::start(&config, store, metrics.clone());
    let counter = Arc::new(counter);

    let clock = Arc::new(AtomicU64::new(0));
    let mut model = Model::default();
    let mut waiting: Vec<JoinHandle<Outcome>> = Vec::new();
    let mut returning: Vec<JoinHandle<Return>> = Vec::new();
    for step in steps {
        match step {
            Step::Arrive(count) => {
                model.arrived += count;
                waiting.extend((0..*count).map(|_| {
                    let (counter, clock) = (counter.clone(), clock.clone());
                    tokio::spawn(async move {
                        let began = clock.fetch_add(1, Relaxed);
                        let told = if sessions {
                            let told = counter.visit_in_session(None, Instant::now()).await.ok();
                            told.map(|(number, session, _)| (number, Some(session)))
                        } else {
                            counter.visit(Instant::now()).await.ok().map(|number| (number, None))
                        };
                        let ended = clock.fetch_add(1, Relaxed);
                        let (number, session) = told.unzip();
                        Outcome { began, ended, number, session: session.flatten() }
                    })
                }));
            }
            Step::Return(count) => {
                let known = model.outcomes.iter().rev().filter_map(|visit| visit.number.zip(visit.session));
                for (number, session) in known.take(*count) {
                    let counter = counter.clone();
                    returning.push(tokio::spawn(async move {
                        let told = counter.visit_in_session(Some(session), Instant::now()).await.ok();
                        (number, told.map(|(number, _, returning)| (number, returning)))
                    }));
                }
            }
            Step::Leave => {
                if let Some(visit) = waiting.iter().find(|visit| !visit.is_finished()) {
                    visit.abort();
                }
            }
            Step::Probe => {
                let counter = counter.clone();
                tokio::spawn(async move { counter.probe().await });
            }
            Step::Break(fate) => proxy.next([*fate]),
            Step::Cut => proxy.cut(),
            Step::Forget => redis.run(&["SCRIPT", "FLUSH"]),
            Step::Turn(count) => {
                for _ in 0..*count {
                    yield_now().await;
                }
            }
            Step::Settle => settle(&mut waiting, &mut model).await,
        }
    }
    settle(&mut waiting, &mut model).await;
    for visit in returning {
        model.returns.push(visit.await.expect("it does not fail"));
    }
    prop_assert_eq!(metrics.waiting_visits.get(), 0);
    // With the last of its users the counter ends, and what it had begun has then been settled.
    drop(counter);
    counting.await.expect("it does not fail");
    model.check(redis.count())
}

async fn settle(waiting: &mut Vec<JoinHandle<Outcome>>, model: &mut Model) {
    for visit in waiting.drain(..) {
        // One that left has no outcome.
        if let Ok(outcome) = visit.await {
            model.outcomes.push(outcome);
        }
    }
}

#[test]
fn numbers_are_right_in_whatever_order_things_break() {
    let redis = Redis::start();
    let event_loop = process::runtime().expect("an event loop");
    let cases = Cases { cases: 48, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&(any::<bool>(), steps()), |(sessions, steps)| {
            event_loop.block_on(play(&redis, sessions, &steps))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
