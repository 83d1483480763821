//! Starts real servers for a test and speaks to them. Each is the test's own, on a socket in a
//! folder of its own, and is gone when the test ends. Waiting is always for an event.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tempfile::TempDir;

/// Longer than anything here takes on a slow machine; reaching it is a failure, not a measurement. A
/// Sentinel that has been held up for two seconds does nothing for the next thirty (its TILT mode).
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "never happened: {what}");
        pause();
    }
}

/// Lets others run between two looks at something that cannot be waited for.
#[expect(clippy::disallowed_methods, reason = "between two looks at a condition, not instead of one")]
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Lets something that a test does last: how long is part of what is done, and no wait for what may
/// come of it.
#[expect(
    clippy::disallowed_methods,
    reason = "a fault that lasts a second is another one than a fault that lasts ten"
)]
pub(crate) fn last_for(duration: Duration) {
    std::thread::sleep(duration);
}

/// A child process that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Leaves it so many open files, from now on.
    pub(crate) fn limit_files(&self, files: u64) {
        let limit = Rlimit { current: Some(files), maximum: Some(files) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("the process is there");
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.0.try_wait().expect("it is our child"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address that no other test of this machine uses, so that all its ports are free.
pub(crate) fn own_host() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{low}.{}", high | 0x40, COUNT.fetch_add(1, Relaxed))
}

/// A redis-server of the test's own, on a unix socket.
#[derive(Debug)]
pub(crate) struct Redis {
    process: Option<Process>,
    folder: TempDir,
    program: Vec<String>,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more command-line arguments, such as `--requirepass`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(&["redis-server".to_owned()], arguments)
    }

    /// Starts another program than the `redis-server` of this machine.
    pub(crate) fn start_as(program: &[String], arguments: &[&str]) -> Self {
        let mut redis = Self {
            process: None,
            folder: tempfile::tempdir().expect("a folder"),
            program: program.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        redis.resume();
        redis
    }

    /// Starts the server again after [`Redis::kill`], with the same data folder, and waits until it has loaded what
    /// is there.
    pub(crate) fn resume(&mut self) {
        self.resume_until(|answer| !answer.starts_with(b"-LOADING"));
    }

    /// The same, but waits for a first answer to `PING` that is `enough`.
    pub(crate) fn resume_until(&mut self, enough: impl Fn(&[u8]) -> bool) {
        let log = File::create(self.folder.path().join("log")).expect("a log");
        self.process = Some(Process::spawn(
            Command::new(&self.program[0])
                .args(&self.program[1..])
                .args(["--port", "0", "--save", "", "--unixsocket"])
                .arg(self.socket())
                .arg("--dir")
                .arg(self.folder.path())
                .args(&self.arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log),
        ));
        // It may be one that asks for a password.
        eventually("redis-server answers", || {
            let mut stream = std::os::unix::net::UnixStream::connect(self.socket()).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            let mut answer = [0; 64];
            let count @ 1.. = stream.read(&mut answer).ok()? else { return None };
            enough(&answer[..count]).then_some(())
        });
    }

    /// The same, with other arguments.
    pub(crate) fn resume_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.resume();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("redis-server runs")
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a service that counts here, with these settings, and waits until it is ready.
    pub(crate) fn service(&self, settings: &[(&str, &str)]) -> Service {
        Service::start_with(&[&[("REDIS_URL", &*self.url())], settings].concat())
    }

    /// A connection of the test's own.
    pub(crate) fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("Redis answers")
    }

    /// Runs a command and returns its answer.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query(&mut self.connect()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The count as it stands in Redis.
    pub(crate) fn count(&self) -> i64 {
        self.run::<Option<i64>>(&["GET", "visitorCount"]).unwrap_or(0)
    }
}

/// A running `abukiks`, with its log.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    log: mpsc::Receiver<String>,
    lines: Vec<String>,
}

/// Where a program under test is. The crate below admin/ has these tests' servers too, and other programs.
fn path_of(name: &str) -> &'static str {
    let path = match name {
        "abukiks" => option_env!("CARGO_BIN_EXE_abukiks"),
        "reset-count" => option_env!("CARGO_BIN_EXE_reset-count"),
        "show-count" => option_env!("CARGO_BIN_EXE_show-count"),
        "check-redis" => option_env!("CARGO_BIN_EXE_check-redis"),
        "top" => option_env!("CARGO_BIN_EXE_top"),
        "backup-count" => option_env!("CARGO_BIN_EXE_backup-count"),
        "mail-report" => option_env!("CARGO_BIN_EXE_mail-report"),
        "restore-count" => option_env!("CARGO_BIN_EXE_restore-count"),
        _ => None,
    };
    path.unwrap_or_else(|| panic!("there is no program {name}"))
}

/// The program under test, with an environment that holds nothing but `settings`.
pub(crate) fn program(name: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(path_of(name));
    command.env_clear().envs(settings.iter().copied()).stdin(Stdio::null());
    command
}

/// Cargo, without what it has told this test of its crate: some build scripts would run again for that, and all
/// that needs them would be built anew.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    let told = |name: &str| name == "CARGO_MANIFEST_DIR" || name.starts_with("CARGO_PKG_");
    for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
        command.env_remove(name);
    }
    command
}

impl Service {
    /// Starts one on a free port, attached to `redis`, and waits until it is ready.
    pub(crate) fn start(redis: &Redis) -> Self {
        redis.service(&[])
    }

    /// Starts one on a free port with these settings, and waits until it is ready.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut command = program("abukiks", &[("PORT", "0"), ("LOG_FORMAT", "json")]);
        command.envs(settings.iter().copied());
        Self::from_command(command)
    }

    /// Starts one by a command whose stdout is its log in JSON.
    pub(crate) fn from_command(mut command: Command) -> Self {
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let log = follow(process.0.stdout.take().expect("stdout is piped"));
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let mut service = Self { process, address, log, lines: Vec::new() };
        let listening = service.log_line("listening");
        if let Some((_, rest)) = listening.split_once("\"listening\":\"http://") {
            let (address, _) = rest.split_once('/').expect("a URL ends with a slash");
            service.address = address.parse().expect("an address");
        }
        service.log_line("\"message\":\"ready\"");
        service
    }

    /// The first line of the log, from the start on, that contains `text`. Waits for it.
    pub(crate) fn log_line(&mut self, text: &str) -> String {
        if let Some(line) = self.lines.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.recv_timeout(left) else {
                panic!("never logged: {text}; log so far:\n{}", self.lines.join("\n"));
            };
            self.lines.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// All that has been logged by the time the process has ended.
    pub(crate) fn whole_log(mut self) -> Vec<String> {
        self.process.wait();
        self.lines.extend(self.log.iter());
        self.lines
    }

    /// A connection of the test's own.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Asks for `path` on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// The value of a metric, by its full name and labels as they are printed.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let metrics = self.get("/metrics").body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until this many visits wait for their number.
    pub(crate) fn wait_for_waiting(&self, visits: u32) {
        eventually("visits wait", || {
            (self.metric("abukiks_waiting_visits") == f64::from(visits)).then_some(())
        });
    }

    /// SIGTERM, then waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }
}

fn follow(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (lines, log) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    log
}

/// An HTTP/1.1 client that hides nothing: it writes bytes and reads answers.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What a browser keeps of the answer: its cookie, without the attributes.
    pub(crate) fn cookie(&self) -> Option<String> {
        self.header("set-cookie")?.split(';').next().map(str::to_owned)
    }

    /// The visitor's number in a greeting as text.
    pub(crate) fn number(&self) -> i64 {
        let number = self.body.strip_prefix("Welcome to Abukiks! Visitor count: ");
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no greeting: {self:?}"))
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the service listens")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks on a connection of its own, where perhaps nothing listens, or not for long.
    pub(crate) fn try_get(address: SocketAddr, path: &str) -> io::Result<Response> {
        Self::try_connect(address)?.exchange(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one answer; `to_head` when it answers a HEAD request and has no content.
    pub(crate) fn read(&mut self, to_head: bool) -> io::Result<Response> {
        let mut line = String::new();
        let mut next = |stream: &mut BufReader<TcpStream>| {
            line.clear();
            match stream.read_line(&mut line)? {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let status = next(&mut self.stream)?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("not a status line"))?;
        let mut headers = Vec::new();
        loop {
            let header = next(&mut self.stream)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').ok_or_else(|| io::Error::other("not a header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: String::new() };
        if !to_head && let Some(length) = response.header("content-length") {
            let mut body = vec![0; length.parse().map_err(io::Error::other)?];
            self.stream.read_exact(&mut body)?;
            response.body = String::from_utf8(body).map_err(io::Error::other)?;
        }
        Ok(response)
    }

    /// Sends bytes and reads the answer to them.
    pub(crate) fn exchange(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        let to_head = request.as_ref().starts_with(b"HEAD ");
        self.send(request)?;
        self.read(to_head)
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.get_with(path, "")
    }

    /// GET with more header lines, each ended by `\r\n`.
    pub(crate) fn get_with(&mut self, path: &str, headers: &str) -> Response {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).expect("an answer")
    }

    /// Whatever else comes until the other side closes.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }

    /// Leaves as a browser that is closed does.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_inner();
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        self.rest().is_ok_and(|rest| rest.is_empty())
    }
}

/// A listening socket for a service that takes it over as fd 3, as systemd would.
pub(crate) fn held_socket() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

/// The service with `sockets` (one or two) handed over by the protocol of `sd_listen_fds(3)`. The
/// second one takes the place of stderr on its way.
pub(crate) fn activated(sockets: &[BorrowedFd<'_>], settings: &[(&str, &str)]) -> Command {
    activated_by(&[], sockets, settings)
}

/// The same, started by way of a `wrapper` that executes its arguments.
pub(crate) fn activated_by(
    wrapper: &[&str],
    sockets: &[BorrowedFd<'_>],
    settings: &[(&str, &str)],
) -> Command {
    let redirections = match sockets {
        [_] => "3<&0 0</dev/null",
        [_, _] => "3<&0 4<&2 0</dev/null 2>/dev/null",
        _ => panic!("one or two sockets"),
    };
    let script = format!("export LISTEN_FDS={} LISTEN_PID=$$; exec \"$@\" {redirections}", sockets.len());
    let mut command = Command::new("/bin/sh");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LOG_FORMAT", "json")
        .envs(settings.iter().copied())
        .args(["-c", &script, "sh"])
        .args(wrapper)
        .arg(path_of("abukiks"));
    let carrier = |socket: &BorrowedFd<'_>| socket.try_clone_to_owned().expect("a descriptor");
    command.stdin(carrier(&sockets[0]));
    if let Some(second) = sockets.get(1) {
        command.stderr(carrier(second));
    }
    command
}

/// The service manager's end of `sd_notify(3)`.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: String,
    _folder: TempDir,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self::with(socket, path.display().to_string(), folder)
    }

    /// One whose socket is in no file system.
    pub(crate) fn in_no_file_system() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("notify").display().to_string();
        let address = UnixAddress::from_abstract_name(&name).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self::with(socket, format!("@{name}"), folder)
    }

    fn with(socket: UnixDatagram, address: String, folder: TempDir) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, address, _folder: folder }
    }

    /// What `NOTIFY_SOCKET` says.
    pub(crate) fn path(&self) -> String {
        self.address.clone()
    }

    /// Fills the socket until there is no room for a message.
    pub(crate) fn fill(&self) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a socket");
        let address = self.socket.local_addr().expect("an address");
        while sender.send_to_addr(b"FILLED=1", &address).is_ok() {}
    }

    /// The next message. Waits for it.
    pub(crate) fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// All messages up to the first that contains `text`, and that one. Waits for it.
    pub(crate) fn until(&self, text: &str) -> Vec<String> {
        let mut messages = vec![self.next()];
        while !messages.last().is_some_and(|last| last.contains(text)) {
            messages.push(self.next());
        }
        messages
    }

    /// Whatever else has been sent already.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut message = [0; 4096];
        let mut messages = Vec::new();
        while let Ok(length) = self.socket.recv(&mut message) {
            messages.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
        messages
    }
}

/// Tells the threads of a test to end when the test does, also by failing.
#[derive(Debug)]
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
