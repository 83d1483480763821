//! What the process measures of itself, as text that Prometheus and its kin read.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub(crate) use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::version::{COMMIT, VERSION};

/// The forms that metrics are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// The text format of Prometheus, version 0.0.4, which every scraper reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

/// A gauge of 1 for yes and 0 for no, with no sample while that is unknown.
type Answer = Family<Labels<0>, Gauge>;

/// Their names.
const ANSWERS: [&str; 3] = ["redis_up", "redis_durable", "redis_may_evict"];

/// Labels by name and value, so many of them.
type Labels<const COUNT: usize> = [(&'static str, &'static str); COUNT];

/// How often each limit was hit.
#[derive(Debug)]
pub(crate) struct LimitHits {
    pub(crate) headers: Counter,
    pub(crate) header_timeout: Counter,
    pub(crate) keep_alive_timeout: Counter,
    pub(crate) body_bytes: Counter,
    pub(crate) connections: Counter,
    pub(crate) waiting_visits: Counter,
}

/// What most requests are measured by, at hand: a look into a family hashes the labels.
#[derive(Debug)]
struct RouteMetrics {
    route: &'static str,
    ok: Counter,
    durations: Histogram,
}

/// The measurements of one process. Their meaning is the help text in [`Metrics::new`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    routes: Vec<RouteMetrics>,
    /// All of `requests` together.
    all_requests: Counter,
    pub(crate) limit_hits: LimitHits,
    pub(crate) start_time: Gauge,
    /// 1 while the process drains.
    pub(crate) draining: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) max_connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) accept_errors: Counter,
    /// Visits that wait for their number now.
    pub waiting_visits: Gauge,
    pub(crate) batch_visits: Histogram,
    pub(crate) new_visits: Counter,
    pub(crate) returning_visits: Counter,
    redis_up: Answer,
    /// Why Redis does not count, for `/status`; `None` while it does.
    redis_error: Mutex<Option<Arc<str>>>,
    redis_durable: Answer,
    redis_may_evict: Answer,
    pub(crate) redis_errors: Counter,
    pub(crate) redis_connection_attempts: Counter,
    pub(crate) redis_tls_errors: Counter,
    pub(crate) count_went_back: Counter,
    pub(crate) log_lines_dropped: Counter,
}

impl Metrics {
    /// Starts all measurements at zero, under the given release id. `routes` are the values that the
    /// label `route` can have.
    #[must_use]
    pub fn new(release: &str, routes: impl IntoIterator<Item = &'static str>) -> Self {
        let mut registry = Registry::with_prefix("abukiks");
        let build = Info::new([
            ("version", VERSION.to_owned()),
            ("commit", COMMIT.to_owned()),
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
        // 50 us to 1.6 s.
        let durations: fn() -> Histogram = || Histogram::new(doubling(0.000_05, 16));
        let durations = Family::<Labels<1>, _, _>::new_with_constructor(durations);
        let of_route = |route| RouteMetrics {
            route,
            ok: requests.get_or_create_owned(&RequestLabels { route, status: 200 }),
            durations: durations.get_or_create_owned(&[("route", route)]),
        };
        let routes = routes.into_iter().map(of_route).collect();
        registry.register_with_unit(
            "http_request_duration",
            "From the end of a request's headers to its answer",
            Unit::Seconds,
            durations,
        );
        let limits = Family::<Labels<1>, Counter>::default();
        let what = "Times that a limit was hit";
        add(&mut registry, "limit_hits", what, &limits);
        let limit = |limit| limits.get_or_create_owned(&[("limit", limit)]);
        let visits = Family::<Labels<1>, Counter>::default();
        let what = "Visits that got a number, by whether their visitor was new or returning";
        add(&mut registry, "visits", what, &visits);
        let batch_visits = Histogram::new(doubling(1.0, 13));
        let what = "Visits counted by one command to Redis";
        add(&mut registry, "batch_visits", what, &batch_visits);

        let mut gauge = |name, help| add(&mut registry, name, help, &Gauge::default());
        let connections = gauge("connections", "Connections open now");
        let max_connections =
            gauge("max_connections", "Connections of visitors that can be open at one time");
        let waiting_visits = gauge("waiting_visits", "Visits that wait for their number now");
        let draining = gauge("draining", "1 while the process drains, before it ends");
        let start_time = Gauge::default();
        let what = "When the process began to serve, since 1970";
        registry.register_with_unit("start_time", what, Unit::Seconds, start_time.clone());
        let mut answer = |name, help| add(&mut registry, name, help, &Answer::default());
        let redis_up =
            answer("redis_up", "1 when the last command to Redis succeeded; absent before the first");
        let redis_durable = answer(
            "redis_durable",
            "1 when Redis keeps a counted visit through a crash; absent when unknown",
        );
        let redis_may_evict =
            answer("redis_may_evict", "1 when Redis removes keys from a full memory; absent when unknown");
        let mut counter = |name, help| add(&mut registry, name, help, &Counter::default());
        Self {
            requests,
            routes,
            all_requests: Counter::default(),
            limit_hits: LimitHits {
                headers: limit("headers"),
                header_timeout: limit("header_timeout"),
                keep_alive_timeout: limit("keep_alive_timeout"),
                body_bytes: limit("body_bytes"),
                connections: limit("connections"),
                waiting_visits: limit("waiting_visits"),
            },
            start_time,
            draining,
            connections,
            max_connections,
            connections_accepted: counter("connections_accepted", "Connections accepted"),
            accept_errors: counter("accept_errors", "Failed accepts"),
            waiting_visits,
            batch_visits,
            new_visits: visits.get_or_create_owned(&[("visitor", "new")]),
            returning_visits: visits.get_or_create_owned(&[("visitor", "returning")]),
            redis_up,
            redis_error: Mutex::default(),
            redis_durable,
            redis_may_evict,
            redis_errors: counter("redis_errors", "Failed commands and connection attempts"),
            redis_connection_attempts: counter("redis_connection_attempts", "Attempts to connect to Redis"),
            redis_tls_errors: counter(
                "redis_tls_errors",
                "Attempts to connect to Redis that failed for a certificate",
            ),
            count_went_back: counter("count_went_back", "Times that the count went back without a reset"),
            log_lines_dropped: counter("log_lines_dropped", "Log lines dropped because stdout was not read"),
            registry,
        }
    }

    /// Shows a count of zero, so that the first such request is an increase to Prometheus.
    pub(crate) fn show_requests(&self, route: &'static str, status: u16) {
        drop(self.requests.get_or_create_owned(&RequestLabels { route, status }));
    }

    /// Counts one answered request.
    pub(crate) fn count_request(&self, route: &'static str, status: u16, seconds: f64) {
        let known = self.routes.iter().find(|known| known.route == route);
        match known {
            Some(known) if status == 200 => known.ok.inc(),
            _ => self.requests.get_or_create(&RequestLabels { route, status }).inc(),
        };
        if let Some(known) = known {
            known.durations.observe(seconds);
        }
        self.all_requests.inc();
    }

    /// How many requests have been answered.
    pub(crate) fn requests(&self) -> u64 {
        self.all_requests.get()
    }

    /// How many visits have got a number.
    pub(crate) fn visits(&self) -> u64 {
        self.new_visits.get() + self.returning_visits.get()
    }

    /// Sets whether Redis counts: `None`, or why it does not.
    pub(crate) fn set_redis_error(&self, error: Option<Arc<str>>) {
        set(&self.redis_up, Some(error.is_none()));
        *self.redis_error.lock() = error;
    }

    /// Why Redis does not count; `None` while it does, and before the first command.
    pub(crate) fn redis_error(&self) -> Option<Arc<str>> {
        self.redis_error.lock().clone()
    }

    /// Whether the last command to Redis succeeded; `None` before the first.
    pub(crate) fn is_redis_up(&self) -> Option<bool> {
        get(&self.redis_up)
    }

    /// Whether Redis keeps a counted visit through a crash; `None` when that is unknown.
    pub(crate) fn is_redis_durable(&self) -> Option<bool> {
        get(&self.redis_durable)
    }

    /// Whether Redis removes keys from a full memory; `None` when that is unknown.
    pub(crate) fn may_redis_evict(&self) -> Option<bool> {
        get(&self.redis_may_evict)
    }

    /// Sets whether Redis keeps a counted visit through a crash, and whether it removes keys from a full
    /// memory; `None` when that is unknown.
    pub(crate) fn set_promises(&self, durable: Option<bool>, may_evict: Option<bool>) {
        set(&self.redis_durable, durable);
        set(&self.redis_may_evict, may_evict);
    }

    /// The text that `/metrics` answers with.
    pub(crate) fn render(&self, exposition: Exposition) -> String {
        let mut rendered = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut rendered, &self.registry);
        // Families without labels have an empty set of them.
        let rendered = ANSWERS.iter().fold(rendered, |rendered, name| {
            rendered.replace(&format!("\nabukiks_{name}{{}} "), &format!("\nabukiks_{name} "))
        });
        match exposition {
            Exposition::OpenMetrics => rendered,
            Exposition::Prometheus => in_prometheus_format(&rendered),
        }
    }
}

fn get(answer: &Answer) -> Option<bool> {
    answer.get(&[]).map(|gauge| gauge.get() == 1)
}

fn set(answer: &Answer, value: Option<bool>) {
    match value {
        None => answer.clear(),
        Some(value) => {
            answer.get_or_create(&[]).set(value.into());
        }
    }
}

/// OpenMetrics text in the older format, which names counters and information by their samples, knows no unit,
/// and does not say that it ends.
fn in_prometheus_format(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: HashMap<_, _> = types.collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let Some(about) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let mut words = about.splitn(3, ' ');
        let (Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (name, rest) = match (types.get(name), what) {
            (Some(&"counter"), _) => (format!("{name}_total"), rest),
            (Some(&"info"), "TYPE") => (format!("{name}_info"), "gauge"),
            (Some(&"info"), _) => (format!("{name}_info"), rest),
            _ => (name.to_owned(), rest),
        };
        text += &format!("# {what} {name} {rest}\n");
    }
    text
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
