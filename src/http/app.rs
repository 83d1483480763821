//! The parts of a running service, put together in one place.

use std::io;
use std::sync::Arc;

use hyper::server::conn::http1;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::counter::Counter;
use crate::http::request::Route;
use crate::store::Store;
use crate::telemetry::access_log::{AccessDetail, AccessLog};
use crate::telemetry::logging;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::recent::Recent;
use crate::telemetry::stdout::Output;

/// What every request may need.
#[derive(Debug)]
pub struct App {
    /// The way to a number.
    pub(crate) counter: Counter,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Where log lines go, but for those that go to the journal.
    pub output: Arc<Output>,
    /// Where requests are logged, unless `ACCESS_LOG=off`.
    pub(crate) access_log: Option<AccessLog>,
    /// What it remembers of its own past, for `/status`.
    pub(crate) recent: Arc<Recent>,
    /// The release that answers, for `/version`.
    pub(crate) release: String,
    pub(crate) config: Config,
    /// How connections are served.
    pub(crate) http: http1::Builder,
}

impl App {
    /// Puts the parts together and starts logging and counting. The task that counts ends when the last
    /// reference to the app is dropped.
    ///
    /// # Errors
    /// When there is no stdout, or no journal though `LOG_FORMAT` asks for it.
    pub fn start(config: &Config, store: Store) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let release = config.release_id();
        let metrics = Arc::new(Metrics::new(&release, Route::NAMES.map(|(_, name)| name)));
        metrics.show_requests(Route::Root.name(), 503);
        let output = Arc::new(Output::stdout(metrics.clone())?);
        let recent = Arc::new(Recent::new(Instant::now()));
        let access_log = logging::start(config.log_format, config.log_level, &output, &recent)?;
        let (counter, counting) = Counter::start(config, store, metrics.clone());
        let app = Self {
            counter,
            metrics,
            output,
            access_log: (config.access_log != AccessDetail::Off).then_some(access_log),
            recent,
            release,
            config: config.clone(),
            http: http(config),
        };
        Ok((Arc::new(app), counting))
    }

    /// The process is about to end: no client is invited to stay.
    pub(crate) fn is_draining(&self) -> bool {
        self.metrics.draining.get() == 1
    }

    pub(crate) fn begin_draining(&self) {
        self.metrics.draining.set(1);
    }

    /// The state in a few words, for `systemctl status`.
    pub(crate) fn status(&self) -> String {
        let metrics = &self.metrics;
        format!(
            "{}: {} connections open, {} requests answered, Redis {}",
            if self.is_draining() { "draining" } else { "serving" },
            metrics.connections.get(),
            metrics.requests(),
            if metrics.is_redis_up() == Some(true) {
                "answers"
            } else {
                "does not answer or was not needed yet"
            },
        )
    }
}

fn http(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Answers are small: copied behind their headers and written whole, they cost less.
    http.writev(false);
    // A client that has sent its request and closed its side still gets the answer.
    http.half_close(true);
    http.max_header_size(config.max_header_bytes);
    // hyper refuses to buffer less than 8 KiB; max_header_size is what decides.
    http.max_buf_size(config.max_header_bytes.max(8192));
    http.max_headers(config.max_headers);
    http
}
