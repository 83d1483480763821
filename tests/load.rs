//! Clients that ask without a pause until told to stop, and remember what befell them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::crowd::Visit;
use crate::support::{Client, eventually};

/// How a client treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Keeps one until the service says `Connection: close`.
    KeepAlive,
    /// Opens one for each request.
    Fresh,
}

/// What befell the clients.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Every request that was sent.
    pub(crate) visits: Vec<Visit>,
    /// Answers that gave no number.
    pub(crate) refusals: Vec<u16>,
    /// Connections that could not be made.
    pub(crate) unconnected: Vec<io::Error>,
    /// Requests that got no answer.
    pub(crate) unanswered: Vec<io::Error>,
}

impl Tally {
    /// Whether each request was answered with a number.
    pub(crate) fn is_flawless(&self) -> bool {
        self.refusals.is_empty() && self.unconnected.is_empty() && self.unanswered.is_empty()
    }

    /// The numbers that visitors were given.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.visits.iter().filter_map(|visit| visit.number).collect()
    }

    /// The longest time from a request, or from its new connection, to the answer.
    pub(crate) fn longest(&self) -> Duration {
        self.visits.iter().map(Visit::lasted).max().unwrap_or_default()
    }

    /// Whether no number was given twice.
    pub(crate) fn is_unique(&self) -> bool {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers.windows(2).all(|pair| pair[0] < pair[1])
    }

    fn add(&mut self, other: Self) {
        self.visits.extend(other.visits);
        self.refusals.extend(other.refusals);
        self.unconnected.extend(other.unconnected);
        self.unanswered.extend(other.unanswered);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answered, {} refused, {} without a connection, {} without an answer, longest wait {:?}",
            self.numbers().len(),
            self.refusals.len(),
            self.unconnected.len(),
            self.unanswered.len(),
            self.longest(),
        )
    }
}

/// Clients of our own at work, in the network of the thread that started them.
#[derive(Debug)]
pub(crate) struct Load {
    progress: Arc<Progress>,
    clients: Vec<JoinHandle<Tally>>,
}

/// How far the clients of a load have come.
#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    numbers: AtomicU64,
    refusals: AtomicU64,
}

impl Load {
    /// Sets as many clients that keep their connections to work as clients that do not.
    pub(crate) fn start(ports: &[u16], of_each_kind: usize) -> Self {
        let local = |port: &u16| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port);
        Self::at(&ports.iter().map(local).collect::<Vec<_>>(), of_each_kind)
    }

    /// The same, at any addresses.
    pub(crate) fn at(addresses: &[SocketAddr], of_each_kind: usize) -> Self {
        let progress = Arc::new(Progress::default());
        let clients = [Habit::KeepAlive, Habit::Fresh]
            .into_iter()
            .flat_map(|habit| (0..of_each_kind).map(move |index| (habit, index)))
            .map(|(habit, index)| {
                let address = addresses[index % addresses.len()];
                let progress = progress.clone();
                std::thread::spawn(move || visit(address, habit, &progress))
            })
            .collect();
        Self { progress, clients }
    }

    /// Waits for this many more answers.
    pub(crate) fn wait_for(&self, more: u64) {
        let answers = || self.progress.numbers.load(Relaxed) + self.progress.refusals.load(Relaxed);
        wait_for_more("the load is answered", more, answers);
    }

    /// Waits until this many more visits have got a number.
    pub(crate) fn wait_for_numbers(&self, more: u64) {
        let numbers = || self.progress.numbers.load(Relaxed);
        wait_for_more("visits get numbers", more, numbers);
    }

    /// Waits until this many more visits have been refused.
    pub(crate) fn wait_for_refusals(&self, more: u64) {
        let refusals = || self.progress.refusals.load(Relaxed);
        wait_for_more("visits are refused", more, refusals);
    }

    /// Ends the load; each client still awaits its last answer.
    pub(crate) fn stop(mut self) -> Tally {
        self.progress.stop.store(true, Relaxed);
        let mut sum = Tally::default();
        for client in self.clients.drain(..) {
            sum.add(client.join().expect("a client does not panic"));
        }
        sum
    }
}

/// A test that fails takes its clients along.
impl Drop for Load {
    fn drop(&mut self) {
        self.progress.stop.store(true, Relaxed);
    }
}

fn wait_for_more(what: &str, more: u64, so_far: impl Fn() -> u64) {
    let until = so_far() + more;
    eventually(what, || (so_far() >= until).then_some(()));
}

fn visit(address: SocketAddr, habit: Habit, progress: &Progress) -> Tally {
    let request = match habit {
        Habit::KeepAlive => "GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        Habit::Fresh => "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    };
    let mut tally = Tally::default();
    let mut kept = None;
    while !progress.stop.load(Relaxed) {
        let began = Instant::now();
        let mut client = match kept.take().map_or_else(|| Client::try_connect(address), Ok) {
            Ok(client) => client,
            Err(error) => {
                tally.unconnected.push(error);
                continue;
            }
        };
        let answer = client.exchange(request);
        let mut visit = Visit { began, ended: Instant::now(), number: None };
        match answer {
            Ok(answer) => {
                let seen = if answer.status == 200 {
                    visit.number = Some(answer.number());
                    &progress.numbers
                } else {
                    let retry = answer.header("retry-after");
                    assert!(answer.status != 503 || retry == Some("1"), "{answer:?}");
                    tally.refusals.push(answer.status);
                    &progress.refusals
                };
                seen.fetch_add(1, Relaxed);
                if answer.header("connection") != Some("close") {
                    kept = Some(client);
                }
            }
            Err(error) => tally.unanswered.push(error),
        }
        tally.visits.push(visit);
    }
    tally
}

/// `wrk` at work: a client that others have written.
#[derive(Debug)]
pub(crate) struct Wrk(Option<std::process::Child>);

impl Wrk {
    /// Starts it with eight connections, kept or new for each request.
    pub(crate) fn start(port: u16, keep_alive: bool) -> Self {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let wrk = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "wrk"])
            .args(["-t1", "-c8", "-d600s", "--timeout=30s", "--latency", "-H"])
            .arg(format!("Connection: {connection}"))
            .arg(format!("http://127.0.0.1:{port}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(Some(wrk.expect("wrk is there")))
    }

    /// Ends it and returns its report. There is a line about errors only when there were any.
    pub(crate) fn stop(mut self) -> String {
        let wrk = self.0.take().expect("it runs until now");
        rustix::process::kill_process(Pid::from_child(&wrk), Signal::INT).expect("it runs");
        let output = wrk.wait_with_output().expect("it is our child");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(mut wrk) = self.0.take() {
            let _ = wrk.kill();
            let _ = wrk.wait();
        }
    }
}

/// Whether `wrk` met with no error, in connecting, reading, writing or in a status.
pub(crate) fn is_flawless(report: &str) -> bool {
    report.contains("requests in") && !report.contains("Socket errors") && !report.contains("Non-2xx")
}
