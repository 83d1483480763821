//! Redis may go away in any way: visits are refused in time meanwhile, and the count stays exact.
//! What it looks like from outside, under load, is in the fault suite; this is what takes one visit
//! at a time to see.

use std::time::Duration;

use rustix::process::Signal;

use crate::crowd::{Crowd, assert_exact};
use crate::proxy::{Fate, Proxy};
use crate::support::{Redis, Service, eventually, last_for, program};

/// Checks that a log tells of one outage in a few lines: each of the ways in which it showed itself
/// once, such as a connection that broke, then one that was refused.
pub(crate) fn assert_told_shortly(log: &[String]) {
    let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert!((1..=3).contains(&lines("Redis does not count")), "{log:#?}");
    assert!(lines("the link to Redis broke") <= 1, "{log:#?}");
    assert_eq!(lines("Redis answers again"), 1, "{log:#?}");
}

/// A service whose log holds nothing but what happens to Redis.
fn serve(url: &str) -> Service {
    Service::start_with(&[("REDIS_URL", url), ("ACCESS_LOG", "off")])
}

#[test]
fn a_service_that_starts_before_redis_counts_as_soon_as_redis_is_there() {
    let mut redis = Redis::start();
    redis.kill();
    let mut service = serve(&redis.url());
    let refused = service.get("/");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_refusals(8);
    redis.resume();
    crowd.wait_for_numbers(8);
    assert_exact(&crowd.go_home(), redis.count());
    assert_eq!(service.get("/readyz").status, 200);
    // What Redis can promise is told at the first connection, whenever that is.
    service.log_line("appendonly is no");
    service.stop();
    assert_told_shortly(&service.whole_log());
}

#[test]
fn a_visit_waits_for_redis_within_its_budget() {
    let mut redis = Redis::start();
    redis.kill();
    let service = redis.service(&[("REDIS_TIMEOUT", "30s")]);
    let mut visitor = service.connect();
    visitor.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
    service.wait_for_waiting(1);
    redis.resume();
    assert_eq!(visitor.read(false).expect("an answer").number(), 1);
}

#[test]
fn a_user_who_may_not_remember_a_batch_counts_nothing() {
    // Without SET the increment cannot be made safe to repeat, so it is taken back.
    let redis = Redis::start();
    redis.run::<()>(&["ACL", "SETUSER", "default", "-set", "-decrby"]);
    let service = Service::start(&redis);
    assert_eq!(service.get("/").status, 503);
    assert_eq!(redis.count(), 0);
    redis.run::<()>(&["ACL", "SETUSER", "default", "+@all"]);
    assert_eq!(service.get("/").number(), 1);
}

#[test]
fn a_link_that_died_without_a_word_is_replaced() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let service = Service::start_with(&[("REDIS_URL", &proxy.url()), ("REDIS_TIMEOUT", "4s")]);
    assert_eq!(service.get("/").number(), 1);
    proxy.silence();
    // Neither side has heard anything; the visit's own budget is enough to find out.
    assert_eq!(service.get("/").number(), 2);
    assert_eq!(redis.count(), 2);
}

#[test]
fn a_link_that_broke_anywhere_counts_each_visit_once() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let service = Service::start_with(&[("REDIS_URL", &proxy.url()), ("REDIS_TIMEOUT", "10s")]);
    let mut client = service.connect();
    assert_eq!(client.get("/").number(), 1);
    let fates = [
        Fate::CutRequestAt(0),
        Fate::CutRequestAt(30),
        Fate::CutAnswerAt(0),
        Fate::CutAnswerAt(3),
        Fate::Silence,
    ];
    for (fate, number) in fates.into_iter().zip(2..) {
        proxy.next([fate]);
        assert_eq!(client.get("/").number(), number, "{fate:?}");
        assert!(proxy.is_done());
        assert_eq!(redis.count(), number, "{fate:?}");
    }
    // And if it breaks again and again.
    proxy.next(fates[..4].iter().copied());
    assert_eq!(client.get("/").number(), 7);
    assert_eq!(redis.count(), 7);
}

#[test]
fn a_redis_that_closes_idle_links_is_no_outage() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let mut service = serve(&proxy.url());
    for number in 1..4 {
        assert_eq!(service.get("/").number(), number);
        proxy.cut();
    }
    service.stop();
    let log = service.whole_log();
    assert!(!log.iter().any(|line| line.contains("\"ERROR\"")), "{log:#?}");
}

#[test]
fn a_reset_between_a_lost_answer_and_its_repetition_is_no_loss_of_data() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let mut service = Service::start_with(&[
        ("REDIS_URL", &proxy.url()),
        ("REDIS_TIMEOUT", "30s"),
        ("COUNTER_FENCE", "on"),
    ]);
    redis.run::<()>(&["SET", "visitorCount", "100"]);
    let mut client = service.connect();
    assert_eq!(client.get("/").number(), 101);
    proxy.next([Fate::Silence]);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
    service.wait_for_waiting(1);
    let reset = program("reset-count", &[("REDIS_URL", &redis.url())]).output();
    assert!(reset.expect("it runs").status.success());
    // The visit that was under way, then those on top of the reset.
    let _ = client.read(false).expect("an answer").number();
    let next = client.get("/").number();
    assert_eq!(client.get("/").number(), next + 1);
    assert_eq!(redis.count(), next + 1);
    assert_eq!(service.metric("abukiks_count_went_back_total"), 0.0);
    service.stop();
}

#[test]
fn a_copy_of_a_batch_that_runs_after_the_process_has_ended_counts_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let mut service = Service::start_with(&[("REDIS_URL", &proxy.url()), ("REDIS_TIMEOUT", "30s")]);
    assert_eq!(service.get("/").number(), 1);
    proxy.next([Fate::CutAnswerAt(0)]);
    assert_eq!(service.get("/").number(), 2);
    assert!(service.stop().success());
    // Its memory is still there, to tell a late copy from a new batch.
    let keys: Vec<String> = redis.run(&["KEYS", "*:producer:*"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    let kept_for: i64 = redis.run(&["PTTL", &keys[0]]);
    assert!(kept_for > 0);
}

#[test]
fn a_copy_of_a_batch_that_runs_late_counts_nothing() {
    let redis = Redis::start();
    // Every command is noted there with its arguments.
    redis.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let service = Service::start(&redis);
    let mut client = service.connect();
    for number in 1..=3 {
        assert_eq!(client.get("/").number(), number);
    }
    type Entry = (i64, i64, i64, Vec<String>, String, String);
    let noted: Vec<Entry> = redis.run(&["SLOWLOG", "GET", "-1"]);
    let increments: Vec<Vec<&str>> = noted
        .iter()
        .map(|entry| entry.3.iter().map(String::as_str).collect())
        .filter(|words: &Vec<&str>| words[0].eq_ignore_ascii_case("EVALSHA"))
        .collect();
    // The latest first.
    let (last, earlier) = increments.split_first().expect("there were some");
    assert_eq!(redis.run::<String>(last), "3 0");
    // It is remembered until then by the clock of Redis, whenever it was run.
    let forgotten_at: u64 = redis.run(&["EXPIRETIME", last[4]]);
    assert_eq!(forgotten_at.to_string(), last[6]);
    for words in earlier {
        let late: Result<redis::Value, _> = redis::Cmd::new().arg(words).query(&mut redis.connect());
        assert!(late.is_err_and(|error| error.code() == Some("STALE")));
    }
    assert_eq!(redis.count(), 3);
}

#[test]
fn a_probe_whose_client_leaves_breaks_no_link() {
    let redis = Redis::start();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "50s")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut client = service.connect();
    client.send("GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    // A later client is answered: the probe has been read.
    service.get("/healthz");
    client.reset();
    eventually("it has left", || {
        let left = "abukiks_http_requests_total{route=\"/readyz\",status=\"499\"}";
        (service.metric(left) == 1.0).then_some(())
    });
    // Deadlines are looked at meanwhile.
    last_for(Duration::from_millis(200));
    redis.process().signal(Signal::CONT);
    assert_eq!(service.get("/").number(), 2);
    let attempts = service.metric("abukiks_redis_connection_attempts_total");
    assert_eq!(attempts, 1.0);
    assert!(service.stop().success());
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert_eq!(keys, ["visitorCount"]);
}

#[test]
fn a_client_that_asks_for_readiness_and_leaves_is_not_waited_for() {
    let redis = Redis::start();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "4s"), ("DRAIN_LAME_DUCK", "0s")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut client = service.connect();
    client.send("GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
    // Half of its time has passed without an answer.
    eventually("another connection is sought", || {
        (service.metric("abukiks_redis_connection_attempts_total") > 1.0).then_some(())
    });
    client.reset();
    service.process.signal(Signal::TERM);
    eventually("the service has ended", || service.process.has_ended().then_some(()));
}

#[test]
fn attempts_to_connect_that_hang_are_few_and_end_when_no_visit_waits() {
    let redis = Redis::start();
    redis.process().signal(Signal::STOP);
    let service = redis.service(&[("REDIS_TIMEOUT", "2s")]);
    assert_eq!(service.get("/").status, 503);
    assert!(service.metric("abukiks_redis_connection_attempts_total") <= 9.0);
    redis.process().signal(Signal::CONT);
    eventually("only the test is connected", || {
        let clients: String = redis.run(&["INFO", "clients"]);
        clients.contains("connected_clients:1\r").then_some(())
    });
}
