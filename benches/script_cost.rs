//! What the idempotent increment costs, against the plain `INCRBY` that could count a visit twice:
//! `cargo bench --bench script_cost`.
//!
//! Callers ask one after another for the next number, each again as soon as it has one, over one
//! connection to a Redis of the benchmark's own. The ways take turns; each figure is the median of
//! its rounds.

#![allow(clippy::expect_used, reason = "a measurement that cannot go on has failed")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use abukiks::config::Config;
use abukiks::counter::Counter;
use abukiks::store::Store;
use abukiks::telemetry::metrics::Metrics;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Value};
use tempfile::TempDir;
use tokio::task::JoinSet;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(500);
const CALLERS: [usize; 3] = [1, 32, 256];

/// How a visit is counted.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `INCRBY` for each.
    Plain,
    /// The script for each.
    Script,
    /// The script for all who wait, as the service does it.
    Batched,
}

const WAYS: [(Way, &str); 3] = [
    (Way::Plain, "INCRBY for each visit"),
    (Way::Script, "the script for each visit"),
    (Way::Batched, "the script for each batch"),
];

/// What one round has shown.
#[derive(Debug, Clone, Copy)]
struct Round {
    visits_per_second: f64,
    /// The median of its visits.
    latency_us: f64,
    /// For each visit.
    redis_cpu_us: f64,
}

/// A redis-server that keeps nothing, on a unix socket.
struct Redis {
    process: Child,
    folder: TempDir,
}

impl Redis {
    async fn start() -> Self {
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
        let redis = Self { process, folder };
        while redis.try_connect().await.is_err() {
            tokio::task::yield_now().await;
        }
        redis
    }

    fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        // As the service does: without the crate's own time limits.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The CPU time that it has used.
    async fn cpu_us(&self, connection: &mut MultiplexedConnection) -> f64 {
        let info: String =
            redis::cmd("INFO").arg("cpu").query_async(connection).await.expect("Redis answers");
        let field = |name: &str| -> f64 {
            let mut lines = info.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.parse().ok()).expect("seconds")
        };
        (field("used_cpu_user") + field("used_cpu_sys")) * 1e6
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It ends with the benchmark, in whatever way that ends.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What callers count with.
#[derive(Clone)]
struct Means {
    connection: MultiplexedConnection,
    counter: Arc<Counter>,
    /// The name that Redis has for the script.
    script: Arc<str>,
}

impl Means {
    /// Counts one visit. Each caller is a producer of its own, and numbers its batches.
    async fn count(&mut self, way: Way, producer: &str, batch: usize) {
        match way {
            Way::Plain => {
                let command = Cmd::incr("count", 1);
                let answer = self.connection.send_packed_command(&command).await;
                assert!(matches!(answer, Ok(Value::Int(_))), "{answer:?}");
            }
            Way::Script => {
                let mut command = Cmd::new();
                command
                    .arg("EVALSHA")
                    .arg(&*self.script)
                    .arg(3)
                    .arg("count")
                    .arg(producer)
                    .arg("{count}:epoch")
                    .arg(u32::MAX)
                    .arg(1)
                    .arg(batch);
                let answer = self.connection.send_packed_command(&command).await;
                assert!(matches!(answer, Ok(Value::BulkString(_))), "{answer:?}");
            }
            Way::Batched => {
                let number = self.counter.visit(Instant::now().into()).await;
                number.expect("a number");
            }
        }
    }
}

/// Lets so many callers count for one round.
async fn round(redis: &Redis, means: &Means, way: Way, callers: usize, name: usize) -> Round {
    let mut connection = means.connection.clone();
    let before = redis.cpu_us(&mut connection).await;
    let began = Instant::now();
    let mut calling = JoinSet::new();
    for caller in 0..callers {
        let mut means = means.clone();
        let producer = format!("{{count}}:producer:{callers:08x}{name:08x}{caller:016x}");
        calling.spawn(async move {
            let mut taken = Vec::new();
            while began.elapsed() < ROUND {
                let asked = Instant::now();
                means.count(way, &producer, taken.len() + 1).await;
                taken.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            taken
        });
    }
    let taken = calling.join_all().await.concat();
    let seconds = began.elapsed().as_secs_f64();
    let visits = taken.len() as f64;
    Round {
        visits_per_second: visits / seconds,
        latency_us: median(taken),
        redis_cpu_us: (redis.cpu_us(&mut connection).await - before) / visits,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let redis = Redis::start().await;
    let mut connection = redis.try_connect().await.expect("it answers");
    let settings = [("REDIS_URL", redis.url())].map(|(name, value)| (name.into(), value.into()));
    let config = Config::from_vars(settings).expect("settings");
    let store = Store::new(&config).expect("a store");
    let metrics = Arc::new(Metrics::new("benchmark", []));
    let (counter, _) = Counter::start(&config, store, metrics);
    let script = redis::cmd("SCRIPT")
        .arg("LOAD")
        .arg(include_str!("../src/store/scripts/increment.lua"))
        .query_async::<String>(&mut connection)
        .await
        .expect("it is a script");
    let means = Means { connection, counter: Arc::new(counter), script: script.into() };
    println!("| callers | counted by | visits/s | latency | Redis CPU a visit |");
    println!("|---|---|---|---|---|");
    for callers in CALLERS {
        let mut rounds = WAYS.map(|_| Vec::new());
        for name in 0..ROUNDS {
            for ((way, _), rounds) in WAYS.iter().zip(&mut rounds) {
                rounds.push(round(&redis, &means, *way, callers, name).await);
            }
        }
        for ((_, way), rounds) in WAYS.iter().zip(&rounds) {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
            println!(
                "| {callers} | {way} | {:.0} | {:.0} µs | {:.2} µs |",
                of(|round| round.visits_per_second),
                of(|round| round.latency_us),
                of(|round| round.redis_cpu_us),
            );
        }
    }
}
