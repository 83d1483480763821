//! Whether a counted visit survives a crash of Redis is told before there is one.

use crate::support::{Redis, Service};

/// What the first connection made known: a line of the log, and the metric where there is one.
fn told(redis: &Redis) -> (String, Option<String>) {
    let settings = [("REDIS_URL", &*redis.url()), ("REDIS_TIMEOUT", "30s")];
    let mut service = Service::start_with(&settings);
    let metric = |service: &Service| {
        let metrics = service.get("/metrics").body;
        let mut lines = metrics.lines();
        lines.find_map(|line| Some(line.strip_prefix("abukiks_redis_durable{} ")?.to_owned()))
    };
    assert_eq!(metric(&service), None, "known without a connection");
    assert_eq!(service.get("/").number(), 1);
    let line = service.log_line("\"Redis is ");
    (line, metric(&service))
}

#[test]
fn a_redis_that_makes_each_visit_safe_is_durable() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (line, metric) = told(&redis);
    assert!(
        line.contains("\"INFO\"") && line.contains("appendfsync always"),
        "{line}"
    );
    assert_eq!(metric.as_deref(), Some("1"));
}

#[test]
fn a_redis_that_can_lose_visits_is_warned_of() {
    for (settings, said) in [
        (&["--appendonly", "no"][..], "appendonly is no"),
        (&["--appendonly", "yes"], "appendfsync is not always"),
    ] {
        let (line, metric) = told(&Redis::start_with(settings));
        assert!(line.contains("\"WARN\"") && line.contains(said), "{line}");
        assert_eq!(metric.as_deref(), Some("0"));
    }
}

#[test]
fn what_may_not_be_asked_is_said_to_be_unknown() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    redis.run::<()>(&["ACL", "SETUSER", "default", "-config|get"]);
    let (line, metric) = told(&redis);
    assert!(
        line.contains("\"INFO\"") && line.contains("cannot be read"),
        "{line}"
    );
    assert_eq!(metric, None);
}
