//! What the process measures of itself, as OpenMetrics text, which Prometheus reads.

use std::sync::OnceLock;

use hyper::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::routes::{CLIENT_CLOSED_REQUEST, Route};

/// Content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every status that the service answers with, or accounts for a request with that it could not answer.
const STATUSES: [StatusCode; 11] = [
    StatusCode::OK,
    StatusCode::NO_CONTENT,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::URI_TOO_LONG,
    CLIENT_CLOSED_REQUEST,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// A limit that can be hit. Each has a setting of the same name.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// `MAX_HEADER_BYTES` and `MAX_HEADERS`.
    Headers,
    /// `HEADER_TIMEOUT`.
    HeaderTimeout,
    /// `KEEP_ALIVE_TIMEOUT`.
    KeepAliveTimeout,
    /// `MAX_BODY_BYTES`.
    BodyBytes,
    /// `MAX_CONNECTIONS`.
    Connections,
    /// `MAX_WAITING_VISITS`.
    WaitingVisits,
}

const LIMITS: [(Limit, &str); 6] = [
    (Limit::Headers, "headers"),
    (Limit::HeaderTimeout, "header_timeout"),
    (Limit::KeepAliveTimeout, "keep_alive_timeout"),
    (Limit::BodyBytes, "body_bytes"),
    (Limit::Connections, "connections"),
    (Limit::WaitingVisits, "waiting_visits"),
];

/// The measurements of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<[(&'static str, String); 2], Counter>,
    /// The members of `requests`, looked up once each: a request pays for an addition only.
    seen: [[OnceLock<Counter>; STATUSES.len()]; Route::ALL.len()],
    durations: Vec<Histogram>,
    limits: Vec<Counter>,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Failed accepts, such as for want of a file descriptor.
    pub accept_errors: Counter,
    /// Visits that wait for a number now.
    pub waiting_visits: Gauge,
    /// Visits for each command sent to Redis.
    pub batch_visits: Histogram,
    /// 1 when the last command to Redis succeeded.
    pub redis_up: Gauge,
    redis_durable: Family<[(&'static str, &'static str); 0], Gauge>,
    /// Failed commands and connection attempts.
    pub redis_errors: Counter,
    /// Attempts to connect.
    pub redis_connection_attempts: Counter,
    /// Times that the count went back without a reset.
    pub counter_went_back: Counter,
    /// Log lines dropped because nobody read them.
    pub log_lines_dropped: Counter,
}

impl Metrics {
    /// Starts all measurements at zero, under the given release id.
    #[must_use]
    pub fn new(release: &str) -> Self {
        let mut registry = Registry::with_prefix("abukiks");
        let build = Info::new([
            ("version", crate::VERSION.to_owned()),
            ("commit", crate::COMMIT.to_owned()),
            ("release", release.to_owned()),
        ]);
        registry.register("build", "What runs here", build);
        let requests = Family::default();
        add(
            &mut registry,
            "http_requests",
            "Requests, by what they were answered with; 499 where the client had left",
            &requests,
        );
        let durations = Family::<[(&str, &str); 1], Histogram>::new_with_constructor(|| {
            // 50 us to 1.6 s, doubling.
            Histogram::new(doubling(0.000_05, 16))
        });
        registry.register_with_unit(
            "http_request_duration",
            "From the end of a request's headers to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let limits = Family::<[(&str, &str); 1], Counter>::default();
        add(
            &mut registry,
            "limit_hits",
            "Times that a limit was hit",
            &limits,
        );
        let batch_visits = Histogram::new(doubling(1.0, 13));
        let what = "Visits counted by one command to Redis";
        add(&mut registry, "batch_visits", what, &batch_visits);

        let mut gauge = |name, help| add(&mut registry, name, help, &Gauge::default());
        let connections = gauge("connections", "Connections open now");
        let waiting_visits = gauge("waiting_visits", "Visits that wait for their number now");
        let redis_up = gauge("redis_up", "1 when the last command to Redis succeeded");
        let redis_durable = Family::default();
        let what = "1 when Redis keeps a counted visit through a crash; absent when unknown";
        add(&mut registry, "redis_durable", what, &redis_durable);
        let mut counter = |name, help| add(&mut registry, name, help, &Counter::default());
        Self {
            requests,
            seen: Default::default(),
            durations: Route::ALL
                .iter()
                .map(|route| durations.get_or_create_owned(&[("route", route.name())]))
                .collect(),
            limits: LIMITS
                .iter()
                .map(|(_, name)| limits.get_or_create_owned(&[("limit", name)]))
                .collect(),
            connections,
            connections_accepted: counter("connections_accepted", "Connections accepted"),
            accept_errors: counter("accept_errors", "Failed accepts"),
            waiting_visits,
            batch_visits,
            redis_up,
            redis_durable,
            redis_errors: counter("redis_errors", "Failed commands and connection attempts"),
            redis_connection_attempts: counter(
                "redis_connection_attempts",
                "Attempts to connect to Redis",
            ),
            counter_went_back: counter(
                "counter_went_back",
                "Times that the count went back without a reset",
            ),
            log_lines_dropped: counter(
                "log_lines_dropped",
                "Log lines dropped because nobody read them",
            ),
            registry,
        }
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, seconds: f64) {
        if let Some(column) = STATUSES.iter().position(|known| *known == status) {
            let counter = self.seen[route as usize][column].get_or_init(|| {
                let labels = [
                    ("route", route.name().to_owned()),
                    ("status", status.as_str().to_owned()),
                ];
                self.requests.get_or_create_owned(&labels)
            });
            counter.inc();
        }
        self.durations[route as usize].observe(seconds);
    }

    /// Counts one hit of a limit.
    pub(crate) fn hit(&self, limit: Limit) {
        self.limits[limit as usize].inc();
    }

    /// Tells whether Redis keeps a counted visit through a crash, where that is known.
    pub(crate) fn tell_durable(&self, durable: Option<bool>) {
        match durable {
            None => self.redis_durable.clear(),
            Some(durable) => {
                let gauge = self.redis_durable.get_or_create(&[]);
                gauge.set(i64::from(durable));
            }
        }
    }

    /// How many requests have been answered.
    pub(crate) fn requests(&self) -> u64 {
        self.seen
            .iter()
            .flatten()
            .filter_map(OnceLock::get)
            .map(Counter::get)
            .sum()
    }

    /// The text that `/metrics` answers with.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// So many bounds of buckets, each twice the one before.
fn doubling(first: f64, count: usize) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first), |bound| Some(2.0 * bound)).take(count)
}

/// Registers a metric, and returns it to be kept.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: &M) -> M {
    registry.register(name, help, metric.clone());
    metric.clone()
}
