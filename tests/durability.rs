//! Whether a counted visit survives a crash of Redis is told before there is one.

use crate::support::{Redis, Service, eventually};

fn start(redis: &Redis) -> Service {
    redis.service(&[("REDIS_TIMEOUT", "30s")])
}

fn metric(service: &Service) -> Option<String> {
    let metrics = service.get("/metrics").body;
    let mut lines = metrics.lines();
    lines.find_map(|line| Some(line.strip_prefix("abukiks_redis_durable{} ")?.to_owned()))
}

/// What the first connection made known: a line of the log, and the metric where there is one.
fn told(redis: &Redis) -> (String, Option<String>) {
    let mut service = start(redis);
    assert_eq!(metric(&service), None, "known without a connection");
    assert_eq!(service.get("/").number(), 1);
    let line = service.log_line("\"Redis is ");
    (line, metric(&service))
}

#[test]
fn a_redis_that_makes_each_visit_safe_is_durable() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (line, metric) = told(&redis);
    assert!(line.contains("\"INFO\"") && line.contains("appendfsync always"), "{line}");
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
    assert!(line.contains("\"INFO\"") && line.contains("cannot be read"), "{line}");
    assert_eq!(metric, None);
}

#[test]
fn what_is_known_of_redis_is_known_anew_with_each_link_and_logged_when_it_is_new() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut service = start(&redis);
    let next_link = |number| {
        redis.run::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(service.get("/").number(), number);
    };
    next_link(1);
    eventually("it is durable", || (metric(&service)? == "1").then_some(()));
    next_link(2);
    redis.run::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]);
    next_link(3);
    eventually("it is not", || (metric(&service)? == "0").then_some(()));
    redis.run::<()>(&["ACL", "SETUSER", "default", "-config|get"]);
    next_link(4);
    eventually("it is unknown", || metric(&service).is_none().then_some(()));
    service.stop();
    let log = service.whole_log();
    let told: Vec<_> = log.iter().filter(|line| line.contains("\"Redis is ")).collect();
    let [durable, not, unknown] = &told[..] else {
        panic!("{told:#?}");
    };
    assert!(durable.contains("a counted visit survives"), "{durable}");
    assert!(not.contains("appendfsync is not always"), "{not}");
    assert!(unknown.contains("cannot be read"), "{unknown}");
}

#[test]
fn what_could_not_be_asked_for_want_of_a_connection_is_asked_with_the_next_link() {
    let redis = Redis::start();
    let mut service = start(&redis);
    let mut own = redis.connect();
    let mut run = |words: &[&str]| {
        let (name, arguments) = words.split_first().expect("a name");
        let answer: String = redis::cmd(name).arg(arguments).query(&mut own).expect(name);
        answer
    };
    // This connection and the link.
    run(&["CONFIG", "SET", "maxclients", "2"]);
    assert_eq!(service.get("/").number(), 1);
    eventually("it has been refused", || {
        let stats = run(&["INFO", "stats"]);
        (!stats.contains("rejected_connections:0")).then_some(())
    });
    assert_eq!(metric(&service), None);
    run(&["CONFIG", "SET", "maxclients", "100"]);
    redis.run::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(service.get("/").number(), 2);
    service.log_line("\"Redis is ");
}
