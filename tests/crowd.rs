//! Many visitors at once, and what must hold of the numbers that they got.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{Client, eventually};

/// One visit as its visitor saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// `None` for one that was refused with 503 and `Retry-After`, or got no answer.
    pub(crate) number: Option<i64>,
}

impl Visit {
    pub(crate) fn lasted(&self) -> Duration {
        self.ended - self.began
    }
}

/// Visitors, each on a connection of its own, who come again and again until they are sent home.
#[derive(Debug)]
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    visitors: Vec<JoinHandle<Vec<Visit>>>,
}

#[derive(Debug, Default)]
struct Shared {
    home: AtomicBool,
    numbered: AtomicUsize,
    refused: AtomicUsize,
}

impl Crowd {
    /// Sends `each` visitors to each address.
    pub(crate) fn visit(addresses: &[SocketAddr], each: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let visitors = addresses
            .iter()
            .flat_map(|address| std::iter::repeat_n(*address, each))
            .map(|address| {
                let shared = shared.clone();
                thread::spawn(move || shared.visit(address))
            })
            .collect();
        Self { shared, visitors }
    }

    /// Waits until this many more visits have got a number.
    pub(crate) fn wait_for_numbers(&self, count: usize) {
        let target = self.shared.numbered.load(Relaxed) + count;
        eventually("visits get numbers", || (self.shared.numbered.load(Relaxed) >= target).then_some(()));
    }

    /// Waits until this many more visits have been refused.
    pub(crate) fn wait_for_refusals(&self, count: usize) {
        let target = self.shared.refused.load(Relaxed) + count;
        eventually("visits are refused", || (self.shared.refused.load(Relaxed) >= target).then_some(()));
    }

    /// Ends the visits, and returns all that have been made.
    pub(crate) fn go_home(self) -> Vec<Visit> {
        self.shared.home.store(true, Relaxed);
        self.visitors
            .into_iter()
            .flat_map(|visitor| visitor.join().expect("a visitor has not failed"))
            .collect()
    }
}

impl Shared {
    fn visit(&self, address: SocketAddr) -> Vec<Visit> {
        let mut client = Client::connect(address);
        let mut visits = Vec::new();
        while !self.home.load(Relaxed) {
            let began = Instant::now();
            let answer = client.get("/");
            let ended = Instant::now();
            let number = match answer.status {
                200 => Some(answer.number()),
                503 => {
                    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
                    None
                }
                _ => panic!("{answer:?}"),
            };
            let seen = number.map_or(&self.refused, |_| &self.numbered);
            seen.fetch_add(1, Relaxed);
            visits.push(Visit { began, ended, number });
        }
        visits
    }
}

/// Checks that the numbers are what `count`, which has started at zero, allows: no number twice,
/// none that was never counted, nothing counted that no visitor asked for, and in order.
pub(crate) fn assert_exact(visits: &[Visit], count: i64) {
    let numbers: Vec<i64> = visits.iter().filter_map(|visit| visit.number).collect();
    let refused = visits.len() - numbers.len();
    let unique: HashSet<i64> = numbers.iter().copied().collect();
    assert_eq!(unique.len(), numbers.len(), "a number was given twice");
    assert!(numbers.iter().all(|number| (1..=count).contains(number)));
    let gaps = usize::try_from(count).expect("it counts up") - numbers.len();
    assert!(gaps <= refused, "{gaps} gaps after {refused} refusals");
    assert_ordered(visits);
}

/// Checks that a visit which had ended before another began has the smaller number.
pub(crate) fn assert_ordered(visits: &[Visit]) {
    let mut begun: Vec<_> = visits.iter().filter_map(|visit| Some((visit.began, visit.number?))).collect();
    let mut ended: Vec<_> = visits.iter().filter_map(|visit| Some((visit.ended, visit.number?))).collect();
    begun.sort_unstable();
    ended.sort_unstable();
    let mut ended = ended.into_iter().peekable();
    let mut highest = i64::MIN;
    for (began, number) in begun {
        while let Some((_, earlier)) = ended.next_if(|(ended, _)| *ended < began) {
            highest = highest.max(earlier);
        }
        assert!(highest < number, "{number} was given to a visit that began after {highest} had been given");
    }
}
