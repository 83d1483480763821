//! What the one-off processes share: the settings of the service, a link to its Redis, exit codes.
//!
//! Factor XII: an admin process is the same release, run once with the same configuration. Each is
//! one file under `admin/`, a few lines over this.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use crate::config::{Config, EX_CONFIG, SETTINGS};
use crate::event_loop;
use crate::store::{Link, Store, StoreError};

/// `sysexits.h`: what there was to say could not be written.
const EX_IOERR: u8 = 74;

/// `sysexits.h`: the command was used in a wrong way.
pub const EX_USAGE: u8 = 64;
/// `sysexits.h`: what stands in Redis is not what it should be.
const EX_DATAERR: u8 = 65;
/// `sysexits.h`: Redis, or the service, cannot be reached.
const EX_UNAVAILABLE: u8 = 69;

/// The end of each task's help.
pub const AFTER_HELP: &str = "\
Reads the same environment variables as the service; see `abukiks --help`.
Exit status: 0 done, 64 wrong usage, 65 what stands in Redis cannot be used, 69 Redis is unreachable or
refuses, 74 stdout cannot be written to, 78 a setting is wrong.";

/// Why a task failed.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// A failure that the given exit status stands for.
    fn new(status: u8, text: impl fmt::Display) -> Self {
        Self {
            status,
            text: text.to_string(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Uncountable(text) => Self::new(EX_DATAERR, text),
            StoreError::Unreachable(why) => Self::new(
                EX_UNAVAILABLE,
                format!("Redis is unreachable (REDIS_URL): {why}"),
            ),
            StoreError::Unreplicated { have, want } => Self::new(
                EX_UNAVAILABLE,
                format!("MIN_REPLICAS_ACK={want}, but {have} replicas of Redis answered in time"),
            ),
            refusal => Self::new(
                EX_UNAVAILABLE,
                format!("Redis answers and does not do what is asked (REDIS_URL): {refusal}"),
            ),
        }
    }
}

/// Runs a task: arguments from the command line, settings from the environment, a link to Redis,
/// and what the task has to say, on stdout.
#[must_use]
pub fn run<A: clap::Parser>(
    task: impl AsyncFnOnce(A, &Config, &mut Link) -> Result<String, Failure>,
) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nobody to tell: the status still says it.
            let _ = error.print();
            return ExitCode::from(if wrong { EX_USAGE } else { 0 });
        }
    };
    let done = prepare().and_then(|(config, store)| {
        let runtime = event_loop::build().map_err(|error| Failure::new(EX_UNAVAILABLE, error))?;
        let done = runtime.block_on(async {
            let mut link = store.connect().await?;
            task(arguments, &config, &mut link).await
        });
        // Dropping it would wait for a name lookup that hangs.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(text) => print(&text),
        Err(Failure { status, text }) => fail(status, text),
    }
}

fn prepare() -> Result<(Config, Store), Failure> {
    let config = Config::from_env().map_err(|error| Failure::new(EX_CONFIG, error))?;
    let store = Store::new(&config).map_err(|error| Failure::new(EX_CONFIG, error))?;
    Ok((config, store))
}

/// Prints `text`; a reader that has gone away is no failure.
#[must_use]
pub fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(EX_IOERR, format!("stdout cannot be written to: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints why there is nothing more to do, on stderr, and returns the exit status for it. That
/// nobody reads stderr is no reason to end in another way.
#[must_use]
pub fn fail(status: u8, text: impl fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(status)
}

/// `abukiks --check-config`: the effective settings, or all that is wrong with them.
#[must_use]
pub fn check_config() -> ExitCode {
    // Whatever the service would refuse, down to the content of a certificate file.
    match prepare() {
        Ok((config, _)) => print(&config.effective()),
        Err(Failure { status, text }) => fail(status, text),
    }
}

/// How long a service that is well may take for each step of an answer about its health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// `abukiks --check-health`: asks the service that has these settings, on this machine, for `/healthz`.
/// Container engines that know no HTTP run it inside the container.
#[must_use]
pub fn check_health() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(EX_CONFIG, error),
    };
    // Where it listens on all addresses, one of them is as good as another.
    let host = match config.host {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        own => own,
    };
    let address = SocketAddr::new(host, config.port);
    match ask_health(address) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => print("healthy"),
        Ok(answer) => fail(
            EX_UNAVAILABLE,
            format!(
                "{address} says {:?} to /healthz",
                answer.lines().next().unwrap_or_default()
            ),
        ),
        Err(error) => fail(EX_UNAVAILABLE, format!("{address} is not healthy: {error}")),
    }
}

fn ask_health(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // Whoever else listens there may say more.
    stream.take(1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Version and commit, as every program of this build shows them with `--version`.
pub static BUILD: LazyLock<String> =
    LazyLock::new(|| format!("{} ({})", crate::VERSION, crate::COMMIT));

/// `--version`: which program of which build this is.
#[must_use]
pub fn version(program: &str) -> String {
    format!("{program} {}", *BUILD)
}

/// `abukiks --help`: every setting with its default and its meaning.
#[must_use]
pub fn service_help() -> String {
    let mut help = "\
Counts visitors in Redis and greets each with a number.

Usage: abukiks [--help | --version | --check-config | --check-health | --socket-activated]

  --check-config  Print the effective settings and where each came from, and end.
  --check-health  Ask the service that runs on this machine with these settings for /healthz, and end:
                  status 0 if it is healthy, 69 if not.
  --socket-activated  Serve the sockets that systemd hands over; without one, end with status 72.

All settings are environment variables. An empty one counts as absent.
"
    .to_owned();
    for setting in SETTINGS {
        let default = if setting.default.is_empty() {
            "none"
        } else {
            setting.default
        };
        help += &format!(
            "\n  {}\n     {}\n      Takes {}. Default: {default}\n",
            setting.name, setting.meaning, setting.accepts
        );
    }
    help += "
Signals: SIGTERM and SIGINT drain the connections and end the process; a second one ends it at once.
Exit status: 0 ended as asked, 64 unknown argument, 71 the system refused (a port that is taken),
72 no socket was handed over, 78 a setting is wrong, 130 or 143 ended at once by a second signal.
";
    help
}
