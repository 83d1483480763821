//! What the process measures of itself, as OpenMetrics text, which Prometheus reads.

use std::sync::OnceLock;

use hyper::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::routes::Route;

/// Content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every status that the service answers with.
const STATUSES: [StatusCode; 10] = [
    StatusCode::OK,
    StatusCode::NO_CONTENT,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::URI_TOO_LONG,
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
        let requests = Family::default();
        let durations = Family::<[(&str, &str); 1], Histogram>::new_with_constructor(|| {
            // 50 us to 1.6 s, doubling.
            Histogram::new(exponential_buckets(0.000_05, 2.0, 16))
        });
        let limits = Family::<[(&str, &str); 1], Counter>::default();
        let metrics = Self {
            requests: requests.clone(),
            seen: Default::default(),
            durations: Route::ALL
                .iter()
                .map(|route| durations.get_or_create_owned(&[("route", route.name())]))
                .collect(),
            limits: LIMITS
                .iter()
                .map(|(_, name)| limits.get_or_create_owned(&[("limit", name)]))
                .collect(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            accept_errors: Counter::default(),
            waiting_visits: Gauge::default(),
            batch_visits: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            redis_up: Gauge::default(),
            redis_errors: Counter::default(),
            redis_connection_attempts: Counter::default(),
            counter_went_back: Counter::default(),
            log_lines_dropped: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "What runs here",
            Info::new([
                ("version", crate::VERSION.to_owned()),
                ("commit", crate::COMMIT.to_owned()),
                ("release", release.to_owned()),
            ]),
        );
        registry.register("http_requests", "Requests answered", requests);
        registry.register_with_unit(
            "http_request_duration",
            "From the end of a request's headers to its answer",
            Unit::Seconds,
            durations,
        );
        registry.register("limit_hits", "Times that a limit was hit", limits);
        registry.register(
            "connections",
            "Connections open now",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_accepted",
            "Connections accepted",
            metrics.connections_accepted.clone(),
        );
        registry.register(
            "accept_errors",
            "Failed accepts",
            metrics.accept_errors.clone(),
        );
        registry.register(
            "waiting_visits",
            "Visits that wait for their number now",
            metrics.waiting_visits.clone(),
        );
        registry.register(
            "batch_visits",
            "Visits counted by one command to Redis",
            metrics.batch_visits.clone(),
        );
        registry.register(
            "redis_up",
            "1 when the last command to Redis succeeded",
            metrics.redis_up.clone(),
        );
        registry.register(
            "redis_errors",
            "Failed commands and connection attempts",
            metrics.redis_errors.clone(),
        );
        registry.register(
            "redis_connection_attempts",
            "Attempts to connect to Redis",
            metrics.redis_connection_attempts.clone(),
        );
        registry.register(
            "counter_went_back",
            "Times that the count went back without a reset",
            metrics.counter_went_back.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because nobody read them",
            metrics.log_lines_dropped.clone(),
        );
        Self {
            registry,
            ..metrics
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
