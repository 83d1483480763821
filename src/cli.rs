//! What all programs of this package share: arguments, exit statuses, and a link to Redis for the one-off
//! processes.
//!
//! Factor XII: an admin process is the same release, run once with the same configuration. Each is
//! one file under `admin/`, a few lines over [`run_task`].

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use socket2::Socket;

use crate::config::{Config, ConfigError, SETTINGS};
use crate::process;
use crate::process::listener::{AdminAddress, ListenError};
use crate::store::{Link, Store, StoreError};
use crate::version::{COMMIT, VERSION};

// Exit statuses, as `sysexits.h` has them.

/// The command was used in a wrong way.
const EX_USAGE: u8 = 64;
/// What stands in Redis is not what it should be.
const EX_DATAERR: u8 = 65;
/// Redis, or the service, cannot be reached.
const EX_UNAVAILABLE: u8 = 69;
/// The system refused something, such as a port that is taken.
const EX_OSERR: u8 = 71;
/// systemd handed no socket over. Its unit opens the socket anew on this status.
const EX_OSFILE: u8 = 72;
/// What there was to say could not be written.
const EX_IOERR: u8 = 74;
/// Refused for now.
const EX_TEMPFAIL: u8 = 75;
/// Refused for good.
const EX_NOPERM: u8 = 77;
/// A setting is wrong. The unit tells systemd not to restart on it.
const EX_CONFIG: u8 = 78;

/// How long a healthy service may take for each step of an answer about its health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Version and commit, as every program of this build shows them with `--version`.
pub static BUILD: LazyLock<String> = LazyLock::new(|| format!("{VERSION} ({COMMIT})"));

/// The end of each task's help.
pub const AFTER_HELP: &str = "\
Reads the same environment variables as the service; see `abukiks --help`.
Exit status: 0 done, 64 wrong usage, 65 what stands in Redis cannot be used, 69 Redis is unreachable or \
refuses, 74 stdout cannot be written to, 78 a setting is wrong.";

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// A failure that the given exit status stands for.
    fn new(status: u8, text: impl fmt::Display) -> Self {
        Self { status, text: text.to_string() }
    }

    /// The system refused something.
    pub fn system(error: impl fmt::Display) -> Self {
        Self::new(EX_OSERR, error)
    }

    /// What was found cannot be used.
    pub fn data(error: impl fmt::Display) -> Self {
        Self::new(EX_DATAERR, error)
    }

    /// An attached resource cannot be reached, or refuses.
    pub fn unavailable(error: impl fmt::Display) -> Self {
        Self::new(EX_UNAVAILABLE, error)
    }

    /// An attached resource refuses for now.
    pub fn temporary(error: impl fmt::Display) -> Self {
        Self::new(EX_TEMPFAIL, error)
    }

    /// An attached resource refuses for good.
    pub fn refused(error: impl fmt::Display) -> Self {
        Self::new(EX_NOPERM, error)
    }

    /// A setting is wrong.
    pub fn setting(error: impl fmt::Display) -> Self {
        Self::new(EX_CONFIG, error)
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::NoneHandedOver => Self::new(EX_OSFILE, error),
            ListenError::OtherProcess { .. } => Self::setting(error),
            ListenError::Bind { .. } | ListenError::BindPath { .. } | ListenError::WrongKind { .. } => {
                Self::system(error)
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Uncountable(text) => Self::new(EX_DATAERR, text),
            StoreError::Unreachable(why) => {
                Self::new(EX_UNAVAILABLE, format!("Redis is unreachable (REDIS_URL): {why}"))
            }
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

/// Counts visitors in Redis and greets each with a number.
#[derive(Debug, clap::Parser)]
#[command(name = "abukiks", version = BUILD.as_str(), after_help = settings_help())]
struct Arguments {
    /// Print the effective settings and where each came from, and end.
    #[arg(long, conflicts_with = "check_health")]
    check_config: bool,
    /// Ask the service that runs on this machine with these settings for /healthz, and end: status 0 if
    /// it is healthy, 69 if not.
    #[arg(long)]
    check_health: bool,
    /// Serve the sockets that systemd hands over, and no other: without one, end with status 72.
    #[arg(long, conflicts_with_all = ["check_config", "check_health"])]
    socket_activated: bool,
}

/// The command line of the service, for its manual and the completions of shells.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the service, or does what its arguments ask for instead.
#[must_use]
pub fn run_service(serve: impl FnOnce(&Config, Store, bool) -> Result<ExitCode, Failure>) -> ExitCode {
    let done = match parse::<Arguments>() {
        Err(exit) => return exit,
        Ok(arguments) if arguments.check_config => {
            // Whatever the service would refuse, down to the content of a certificate file.
            prepare(Config::from_env()).map(|(config, _)| {
                for warning in config.warnings() {
                    let _ = writeln!(io::stderr(), "warning: {warning}");
                }
                print(&config.effective())
            })
        }
        Ok(arguments) if arguments.check_health => check_health().map(|()| print("healthy")),
        Ok(arguments) => prepare(Config::from_env())
            .and_then(|(config, store)| serve(&config, store, arguments.socket_activated)),
    };
    done.unwrap_or_else(|failure| fail(&failure))
}

/// Runs a task: arguments from the command line, settings from the environment, a link to Redis,
/// and what the task has to say, on stdout.
#[must_use]
pub fn run_task<A: clap::Parser>(
    task: impl AsyncFnOnce(A, &Config, &mut Link) -> Result<String, Failure>,
) -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let done = prepare(Config::of_task()).and_then(|(config, store)| {
        let runtime = process::runtime().map_err(Failure::unavailable)?;
        let done = runtime.block_on(async {
            let mut link = store.connect().await?;
            task(arguments, &config, &mut link).await
        });
        // Dropping it would wait for a name lookup that hangs.
        runtime.shutdown_background();
        done
    });
    done.map_or_else(|failure| fail(&failure), |text| print(&text))
}

/// Runs a program that needs neither settings nor Redis, with its arguments from the command line.
#[must_use]
pub fn run_view<A: clap::Parser>(view: impl FnOnce(A) -> Result<ExitCode, Failure>) -> ExitCode {
    match parse() {
        Err(exit) => exit,
        Ok(arguments) => view(arguments).unwrap_or_else(|failure| fail(&failure)),
    }
}

/// The arguments of this process; or the exit status, after help, version or what is wrong was printed.
fn parse<A: clap::Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        let status = if error.use_stderr() { EX_USAGE } else { 0 };
        // The status says it too, where this cannot be written.
        let _ = error.print();
        ExitCode::from(status)
    })
}

fn prepare(config: Result<Config, ConfigError>) -> Result<(Config, Store), Failure> {
    let config = config.map_err(Failure::setting)?;
    let store = Store::new(&config).map_err(Failure::setting)?;
    Ok((config, store))
}

/// Prints `text`, and returns the exit status. A reader that has gone away is no failure.
pub fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(&Failure::new(EX_IOERR, format!("stdout cannot be written to: {error}")))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints the reason on stderr, and returns the exit status for it.
fn fail(failure: &Failure) -> ExitCode {
    // A closed stderr is no reason to end in another way.
    let _ = writeln!(io::stderr(), "{}", failure.text);
    ExitCode::from(failure.status)
}

/// Asks the service that has these settings, on this machine, for `/healthz`. Container engines that know
/// no HTTP run this inside the container.
fn check_health() -> Result<(), Failure> {
    let config = Config::from_env().map_err(Failure::setting)?;
    let port = match &config.admin_port {
        AdminAddress::Off => config.port,
        AdminAddress::Port(port) => *port,
        AdminAddress::Path(path) => {
            let answer = UnixStream::connect(path).and_then(|stream| ask_health(stream.into()));
            return judge_health(path.display(), answer).map_err(Failure::unavailable);
        }
    };
    let mut failure = String::new();
    // Where it listens on several addresses, one of them is as good as another.
    for host in config.host.reached_at() {
        let address = SocketAddr::new(host, port);
        let stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT);
        let answer = stream.and_then(|stream| ask_health(stream.into()));
        match judge_health(address, answer) {
            Ok(()) => return Ok(()),
            Err(what) => failure = what,
        }
    }
    Err(Failure::unavailable(failure))
}

/// The status line of the answer.
fn ask_health(mut stream: Socket) -> io::Result<String> {
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // Another program that listens there may say more.
    stream.take(1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

/// The error says what is wrong there.
fn judge_health(address: impl fmt::Display, answer: io::Result<String>) -> Result<(), String> {
    match answer {
        Ok(status) if status.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(status) => Err(format!("{address} says {status:?} to /healthz")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let patience = humantime::format_duration(HEALTH_TIMEOUT);
            Err(format!("{address} is not healthy: no answer to /healthz within {patience}"))
        }
        Err(error) => Err(format!("{address} is not healthy: {error}")),
    }
}

/// Every setting with its default and its meaning, and what else `--help` ends with.
fn settings_help() -> String {
    let mut help = "All settings are environment variables. An empty one counts as absent.\n".to_owned();
    for setting in SETTINGS {
        let default = match setting.default {
            "" => "none",
            default => default,
        };
        help += &format!(
            "\n  {}\n     {}\n      Takes {}. Default: {default}\n",
            setting.name, setting.meaning, setting.accepts
        );
    }
    help += "
Signals: SIGTERM and SIGINT drain the connections and end the process; a second one ends it at once.
Exit status: 0 ended as asked, 64 unknown argument, 69 not healthy, 71 the system refused (a port that \
is taken), 72 no socket was handed over, 74 stdout cannot be written to, 78 a setting is wrong, 130 \
ended at once by a second SIGINT, 143 ended at once by a second SIGTERM.";
    help
}
