//! `top`: shows how the instances of this host fare.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use abukiks::cli::{self, Failure};
use serde_json::Value;

/// How long an instance may be silent.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at the instances. A rate is what was counted in between.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most that is read of an answer, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;

/// Moves to the upper left corner of a terminal and clears it (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Shows all instances of this host on one screen, each second anew, and what each has logged last.
///
/// They are asked for `/status` and `/metrics`, and Redis is not asked. Errors are answers from 500 on to
/// visitors. Where stdout is no terminal, it prints once what there is to see. `abukiks-admin top` finds the
/// instances.
#[derive(Debug, clap::Parser)]
#[command(name = "top", version = cli::BUILD.as_str())]
pub(crate) struct Arguments {
    /// Print one table, and end.
    #[arg(long)]
    once: bool,
    /// Leave alone those that do not run, by what systemd says of `abukiks@NAME.service`: to ask them would start
    /// them.
    #[arg(long)]
    systemd: bool,
    /// Where an instance is asked, and by which name it is shown: `5001=127.0.0.1:5001`, or the path of a unix
    /// socket.
    #[arg(value_name = "[NAME=]ADDRESS")]
    instances: Vec<String>,
}

/// What an instance tells of itself.
struct Sample {
    status: Value,
    errors: u64,
    taken: Instant,
}

#[expect(clippy::disallowed_methods, reason = "a rate is what was counted over that time")]
fn main() -> ExitCode {
    cli::run_view(|Arguments { once, systemd, instances }| {
        if instances.is_empty() {
            return Err(Failure::unavailable("there are no instances to show"));
        }
        let instances = instances.iter().map(|instance| match instance.split_once('=') {
            Some((name, address)) => (name, address),
            None => (&**instance, &**instance),
        });
        let instances: Vec<_> = instances.collect();
        let mut before = look(&instances, systemd);
        loop {
            thread::sleep(INTERVAL);
            let now = look(&instances, systemd);
            let table = table(&instances, &before, &now);
            if once || !io::stdout().is_terminal() {
                return Ok(cli::print(&table));
            }
            let mut stdout = io::stdout().lock();
            write!(stdout, "{CLEAR}{table}").and_then(|()| stdout.flush()).map_err(Failure::system)?;
            before = now;
        }
    })
}

/// What an instance tells, or what there is to say in place of it.
type Look = Result<Sample, String>;

/// Looks at all of them at one time: one that is silent holds up no other.
fn look(instances: &[(&str, &str)], ask_systemd: bool) -> Vec<Look> {
    let look_at = |name: &str, address: &str| {
        if ask_systemd && let Some(state) = at_rest(name) {
            return Err(state);
        }
        sample(address).map_err(|error| format!("no answer: {error}"))
    };
    thread::scope(|scope| {
        let looks = instances.iter().map(|(name, address)| scope.spawn(|| look_at(name, address)));
        let looks: Vec<_> = looks.collect();
        let failed = || Err("the look has failed".to_owned());
        looks.into_iter().map(|look| look.join().unwrap_or_else(|_| failed())).collect()
    })
}

/// The state of an instance that is not to be asked. systemd holds its socket, so a connection would start it; or
/// start it again, if it came while the instance drains.
fn at_rest(name: &str) -> Option<String> {
    let unit = format!("abukiks@{name}.service");
    let output = Command::new("systemctl").args(["is-active", &unit]).output().ok()?;
    match output.stdout.trim_ascii() {
        b"inactive" | b"failed" => Some("not running".to_owned()),
        b"deactivating" => Some("draining".to_owned()),
        _ => None,
    }
}

fn sample(address: &str) -> io::Result<Sample> {
    let metrics = get(address, "/metrics")?;
    let errors = metrics.lines().filter_map(|line| {
        let (series, value) = line.strip_prefix("abukiks_http_requests_total{")?.rsplit_once(' ')?;
        let is_for_visitors = ["\"/\"", "\"/count\"", "\"/badge.svg\"", "\"/session\""]
            .iter()
            .any(|route| series.contains(&format!("route={route}")));
        (is_for_visitors && series.contains("status=\"5")).then(|| value.parse::<u64>().unwrap_or_default())
    });
    let errors = errors.sum();
    let status = serde_json::from_str(&get(address, "/status")?)?;
    Ok(Sample { status, errors, taken: Instant::now() })
}

/// The content of the answer.
fn get(address: &str, path: &str) -> io::Result<String> {
    let answer = if address.starts_with('/') {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        ask(stream, path)
    } else {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        ask(stream, path)
    };
    answer.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

fn ask(mut stream: impl Read + io::Write, path: &str) -> io::Result<String> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, content)) if head.starts_with("HTTP/1.1 200 ") => Ok(content.to_owned()),
        _ => {
            let status = answer.lines().next().unwrap_or_default();
            Err(io::Error::other(format!("it says {status:?} to {path}")))
        }
    }
}

/// One row for each instance, and below them what they have logged last.
fn table(instances: &[(&str, &str)], before: &[Look], now: &[Look]) -> String {
    let header =
        ["INSTANCE", "STATE", "REDIS", "VISITS/S", "VISITS", "ERRORS/S", "ERRORS", "CONNECTIONS", "RELEASE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut logged = String::new();
    for (((name, _), before), now) in instances.iter().zip(before).zip(now) {
        let mut row = vec![(*name).to_owned()];
        match now {
            Err(what) => row.push(what.clone()),
            Ok(sample) => {
                row.extend(columns(sample, before.as_ref().ok()));
                if let Some(problem) = sample.status["problems"].as_array().and_then(|all| all.last()) {
                    // Writing into a String cannot fail.
                    let _ =
                        writeln!(logged, "{name} {} {}", text(&problem["time"]), text(&problem["message"]));
                }
            }
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..header.len())
        .map(|place| {
            let cells =
                rows.iter().filter(|row| row.len() == header.len()).map(|row| row[place].chars().count());
            cells.max().unwrap_or_default()
        })
        .collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    });
    let lines: String = lines.collect();
    if logged.is_empty() { lines } else { format!("{lines}\n{logged}") }
}

fn columns(now: &Sample, before: Option<&Sample>) -> [String; 8] {
    let status = &now.status;
    let visits = |sample: &Sample| sample.status["visits"].as_u64().unwrap_or_default();
    let rate = |count: &dyn Fn(&Sample) -> u64| match before {
        None => "?".to_owned(),
        Some(before) => {
            // An instance that was started anew counts from zero.
            let counted = count(now).saturating_sub(count(before));
            format!("{:.1}", counted as f64 / (now.taken - before.taken).as_secs_f64())
        }
    };
    let redis = &status["redis"];
    let redis = match (redis["up"].as_bool(), redis["durable"].as_bool(), redis["mayEvict"].as_bool()) {
        (None, ..) => "not needed yet",
        (Some(false), ..) => "does not count",
        (_, _, Some(true)) => "counts, may evict",
        (_, Some(false), _) => "counts, not durable",
        _ => "counts",
    };
    [
        text(&status["state"]).to_owned(),
        redis.to_owned(),
        rate(&visits),
        visits(now).to_string(),
        rate(&|sample| sample.errors),
        now.errors.to_string(),
        status["connections"].to_string(),
        text(&status["release"]).to_owned(),
    ]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
