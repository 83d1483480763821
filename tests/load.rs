//! Clients that ask without a pause until told to stop, and remember what befell them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::support::{Client, PATIENCE, eventually};

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
    /// The numbers that visitors were given.
    pub(crate) numbers: Vec<i64>,
    /// Answers that gave no number.
    pub(crate) refusals: Vec<u16>,
    /// Connections that could not be made.
    pub(crate) unconnected: Vec<io::Error>,
    /// Requests that got no answer.
    pub(crate) unanswered: Vec<io::Error>,
    /// The longest time from a request, or from its new connection, to the answer.
    pub(crate) longest: Duration,
}

impl Tally {
    /// Whether each request was answered with a number.
    pub(crate) fn is_flawless(&self) -> bool {
        self.refusals.is_empty() && self.unconnected.is_empty() && self.unanswered.is_empty()
    }

    /// Whether no number was given twice.
    pub(crate) fn is_unique(&self) -> bool {
        let mut numbers = self.numbers.clone();
        numbers.sort_unstable();
        numbers.windows(2).all(|pair| pair[0] < pair[1])
    }

    fn add(&mut self, other: Self) {
        self.numbers.extend(other.numbers);
        self.refusals.extend(other.refusals);
        self.unconnected.extend(other.unconnected);
        self.unanswered.extend(other.unanswered);
        self.longest = self.longest.max(other.longest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answered, {} refused, {} without a connection, {} without an answer, longest wait {:?}",
            self.numbers.len(),
            self.refusals.len(),
            self.unconnected.len(),
            self.unanswered.len(),
            self.longest,
        )
    }
}

/// Clients of our own at work, in the network of the thread that started them.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Sets as many clients that keep their connections to work as clients that do not.
    pub(crate) fn start(ports: &[u16], of_each_kind: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let clients = [Habit::KeepAlive, Habit::Fresh]
            .into_iter()
            .flat_map(|habit| (0..of_each_kind).map(move |index| (habit, index)))
            .map(|(habit, index)| {
                let address =
                    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports[index % ports.len()]);
                let (stop, answered) = (stop.clone(), answered.clone());
                std::thread::spawn(move || visit(address, habit, &stop, &answered))
            })
            .collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for this many more answers.
    pub(crate) fn wait_for(&self, more: u64) {
        let until = self.answered.load(Relaxed) + more;
        eventually("the load is answered", || {
            (self.answered.load(Relaxed) >= until).then_some(())
        });
    }

    /// Ends the load; each client still awaits its last answer.
    pub(crate) fn stop(mut self) -> Tally {
        self.stop.store(true, Relaxed);
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
        self.stop.store(true, Relaxed);
    }
}

fn visit(address: SocketAddr, habit: Habit, stop: &AtomicBool, answered: &AtomicU64) -> Tally {
    let request = match habit {
        Habit::KeepAlive => "GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        Habit::Fresh => "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    };
    let mut tally = Tally::default();
    let mut kept = None;
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        let mut client = match kept.take().map_or_else(|| connect(address), Ok) {
            Ok(client) => client,
            Err(error) => {
                tally.unconnected.push(error);
                continue;
            }
        };
        match client.exchange(request) {
            Ok(answer) => {
                tally.longest = tally.longest.max(begun.elapsed());
                match answer.status {
                    200 => tally.numbers.push(answer.number()),
                    other => tally.refusals.push(other),
                }
                answered.fetch_add(1, Relaxed);
                if answer.header("connection") != Some("close") {
                    kept = Some(client);
                }
            }
            Err(error) => tally.unanswered.push(error),
        }
    }
    tally
}

fn connect(address: SocketAddr) -> io::Result<Client> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(Client {
        stream: io::BufReader::new(stream),
    })
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
    report.contains("requests in")
        && !report.contains("Socket errors")
        && !report.contains("Non-2xx")
}
