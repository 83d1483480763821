//! Any bytes as what a Redis server answers: nothing panics, a visit has its answer in time, and no
//! number but one that the server has said.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use abukiks::config::Config;
use abukiks::counter::Counter;
use abukiks::store::{Connector, Store, Stream};
use abukiks::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// Settings with which different things are asked. The first byte of an input chooses.
const SETTINGS: [&[(&str, &str)]; 4] = [
    &[],
    &[("REDIS_URL", "redis://user:password@redis/7?protocol=resp3")],
    &[("MIN_REPLICAS_ACK", "1")],
    &[("REDIS_URL", "redis+sentinel://redis,redis/master")],
];

/// Has a server asked for all that there is, whose replies on each connection are the rest of `input`,
/// with a NUL between them, and checks what comes of it.
pub(crate) fn check(input: &[u8]) {
    let Some((first, replies)) = input.split_first() else {
        return;
    };
    let settings = SETTINGS[usize::from(*first) % SETTINGS.len()];
    let settings = settings.iter().map(|(name, value)| (name.into(), value.into()));
    let config = Config::from_vars(settings).expect("settings");
    let store = || {
        let store = Store::new(&config).expect("a store");
        store.reached_by(Server(replies.into()))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let metrics = Arc::new(Metrics::new("test", []));
        let (counter, counting) = Counter::start(&config, store(), metrics);
        let arrived = Instant::now();
        let visit = counter.visit(arrived).await;
        assert!(arrived.elapsed() <= config.redis_timeout, "{visit:?}");
        if let Ok(number) = visit {
            assert!(numbers(replies).any(|said| said == number), "{number}");
        }
        drop(counter);
        counting.await.expect("it cleans up");

        let Ok(mut link) = store().connect().await else {
            return;
        };
        // Any answer will do.
        let ask = async {
            let _ = link.server().await;
            let _ = link.count().await;
            let _ = link.read().await;
            let _ = link.reset(0).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), ask).await;
    });
}

/// Says the same on each connection, whatever it is asked, and then no more.
#[derive(Debug)]
struct Server(Arc<[u8]>);

impl Connector for Server {
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>> {
        let replies = self.0.clone();
        Box::pin(async move {
            let (here, mut there) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                for reply in replies.split(|byte| *byte == 0) {
                    let asked = there.read(&mut [0; 4096]).await;
                    // The service may have left.
                    if !asked.is_ok_and(|count| count > 0) || there.write_all(reply).await.is_err() {
                        return;
                    }
                }
                let _ = there.read_to_end(&mut Vec::new()).await;
            });
            let stream: Stream = Box::pin(here);
            Ok(stream)
        })
    }
}

/// All integers in a text.
fn numbers(text: &[u8]) -> impl Iterator<Item = i64> {
    text.split(|byte| !byte.is_ascii_digit() && !b"+-".contains(byte))
        .filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok())
}
