//! What parts of a request take, in one process and on one thread, over the library as it is public:
//! `cargo bench`. Of a logged request and one that is not, the difference is the log line.

#![allow(clippy::expect_used, reason = "a measurement that cannot go on has failed")]

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use abukiks::config::Config;
use abukiks::counter::Counter;
use abukiks::http::app::App;
use abukiks::http::server;
use abukiks::process;
use abukiks::process::listener::Listeners;
use abukiks::process::signals::StopSignals;
use abukiks::store::Store;
use abukiks::telemetry::metrics::Metrics;
use divan::Bencher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::LocalRuntime;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::Instant;

fn main() {
    divan::main();
}

/// A redis-server on a unix socket.
struct Redis {
    process: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is there");
        Self { process, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Already ended, or ends now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn settings(redis: &Redis, access_log: &str) -> Config {
    let url = format!("unix://{}", redis.socket().display());
    let settings = [("REDIS_URL", url.as_str()), ("ACCESS_LOG", access_log), ("LOG_FORMAT", "json")];
    Config::from_vars(settings.map(|(name, value)| (name.into(), value.into()))).expect("good settings")
}

fn runtime() -> LocalRuntime {
    process::runtime().expect("an event loop")
}

/// Visits that come at one time are handed over to a batch, counted by Redis and handed their numbers.
#[divan::bench(args = [1, 32, 256])]
fn batch_hand_over(bencher: Bencher<'_, '_>, visits: usize) {
    let redis = Redis::start();
    let runtime = runtime();
    let config = settings(&redis, "off");
    let counter = runtime.block_on(async {
        let store = Store::new(&config).expect("a store");
        let metrics = Arc::new(Metrics::new("bench", []));
        Arc::new(Counter::start(&config, store, metrics).0)
    });
    let all = async |visits| {
        let mut waiting = JoinSet::new();
        for _ in 0..visits {
            let counter = counter.clone();
            waiting.spawn(async move { counter.visit(Instant::now()).await });
        }
        waiting.join_all().await
    };
    // Until Redis is there.
    while runtime.block_on(all(1))[0].is_err() {}
    bencher.bench_local(|| runtime.block_on(all(visits)));
}

/// A request that needs no Redis, from one end of a connection to the other and back.
#[divan::bench(args = ["off", "on"])]
fn answer_with_access_log(bencher: Bencher<'_, '_>, access_log: &str) {
    let redis = Redis::start();
    let config = settings(&redis, access_log);
    let runtime = runtime();
    let mut client = runtime.block_on(async {
        let store = Store::new(&config).expect("a store");
        let (app, _) = into_null(|| App::start(&config, store));
        tokio::spawn(app.output.clone().pump());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let listeners = Listeners { sockets: vec![listener.into()], admin: Vec::new(), inherited: true };
        let mut signals = StopSignals::listen().expect("signals");
        spawn_local(async move { server::run(&config, listeners, app, &mut signals).await });
        let client = TcpStream::connect(address).await.expect("it listens");
        client.set_nodelay(true).expect("a socket");
        client
    });
    let mut answer = [0; 4096];
    bencher.bench_local(|| {
        runtime.block_on(async {
            let request = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n";
            client.write_all(request).await.expect("a connection");
            let length = client.read(&mut answer).await.expect("an answer");
            assert!(answer[..length].ends_with(b"ok\n"));
        });
    });
}

/// Opens something while stdout leads nowhere; stdout itself is for the results.
fn into_null<T>(open: impl FnOnce() -> std::io::Result<T>) -> T {
    let stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned().expect("stdout"));
    let null = OpenOptions::new().write(true).open("/dev/null");
    rustix::stdio::dup2_stdout(null.expect("a sink")).expect("stdout");
    let opened = open();
    rustix::stdio::dup2_stdout(stdout).expect("stdout");
    opened.expect("a sink")
}
