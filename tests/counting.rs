//! Every visit gets a number of its own.

use std::net::Shutdown;

use rustix::process::Signal;

use crate::crowd::{Crowd, assert_ordered};
use crate::support::{Redis, Service, program};

/// A visit as bytes.
const VISIT: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// How often Redis has run a command.
fn calls(redis: &Redis, command: &str) -> u64 {
    let info: String = redis.run(&["INFO", "commandstats"]);
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn visitors_are_numbered_one_by_one() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let numbers: Vec<i64> = (0..3).map(|_| client.get("/").number()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(redis.count(), 3);
}

#[test]
fn numbers_are_dense_unique_and_in_order_across_processes() {
    let redis = Redis::start();
    let services: Vec<_> = (0..4).map(|_| Service::start(&redis)).collect();
    let addresses: Vec<_> = services.iter().map(|service| service.address).collect();
    let crowd = Crowd::visit(&addresses, 64);
    crowd.wait_for_numbers(10_000);
    let visits = crowd.go_home();
    assert_ordered(&visits);
    let mut numbers: Vec<_> = visits.iter().filter_map(|visit| visit.number).collect();
    assert_eq!(numbers.len(), visits.len(), "none was refused");
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=redis.count()));
}

#[test]
fn visits_that_wait_together_are_counted_together() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let crowd = Crowd::visit(&[service.address], 64);
    crowd.wait_for_numbers(5_000);
    let visits = crowd.go_home().len();
    let commands = calls(&redis, "evalsha");
    assert!(commands * 2 < visits as u64, "{commands} commands for {visits} visits");
    let batches = service.metric("abukiks_batch_visits_count");
    // The script was unknown once.
    assert_eq!(batches, (commands - 1 + calls(&redis, "eval")) as f64);
    assert_eq!(service.metric("abukiks_batch_visits_sum"), visits as f64);
}

#[test]
fn a_lone_visit_is_sent_at_once_and_alone() {
    let redis = Redis::start();
    // A budget that a visit which waited for company would use up.
    let service = redis.service(&[("REDIS_TIMEOUT", "24s")]);
    let mut client = service.connect();
    for number in 1..=20 {
        assert_eq!(client.get("/").number(), number);
    }
    assert_eq!(service.metric("abukiks_batch_visits_count"), 20.0);
    // A tick of the deadlines, the only thing it could have waited for, comes every 20 ms.
    let quick = service.metric("abukiks_http_request_duration_seconds_bucket{le=\"0.0128\",route=\"/\"}");
    assert!(quick >= 10.0, "only {quick} of 20 were quick");
}

#[test]
fn a_visit_never_gets_a_number_of_a_batch_that_was_sent_before_it_came() {
    let redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "60s")]);
    let mut early = service.connect();
    let mut late = service.connect();
    assert_eq!(early.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    early.send(VISIT).expect("it listens");
    service.wait_for_waiting(1);
    late.send(VISIT).expect("it listens");
    service.wait_for_waiting(2);
    redis.process().signal(Signal::CONT);
    assert_eq!(early.read(false).expect("an answer").number(), 2);
    assert_eq!(late.read(false).expect("an answer").number(), 3);
    assert_eq!(service.metric("abukiks_batch_visits_count"), 3.0);
}

#[test]
fn a_visitor_who_left_while_queued_is_not_counted() {
    let redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "60s")]);
    let mut patient = service.connect();
    assert_eq!(patient.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    patient.send(VISIT).expect("it listens");
    service.wait_for_waiting(1);
    let mut hasty = service.connect();
    hasty.send(VISIT).expect("it listens");
    service.wait_for_waiting(2);
    hasty.reset();
    service.wait_for_waiting(1);
    redis.process().signal(Signal::CONT);
    assert_eq!(patient.read(false).expect("an answer").number(), 2);
    assert_eq!(patient.get("/").number(), 3);
    assert_eq!(redis.count(), 3);
}

#[test]
fn a_visitor_who_only_waits_is_counted() {
    let redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "60s")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut waiting = service.connect();
    waiting.send(VISIT).expect("it listens");
    let stream = waiting.stream.get_ref();
    stream.shutdown(Shutdown::Write).expect("it is open");
    service.wait_for_waiting(1);
    redis.process().signal(Signal::CONT);
    assert_eq!(waiting.read(false).expect("an answer").number(), 2);
}

#[test]
fn an_existing_count_is_continued() {
    let redis = Redis::start();
    for (stands, numbers) in [
        ("41", [42, 43]),
        ("-2", [-1, 0]),
        // Where Lua would write 1e+14, and where a double and its integer begin to differ.
        ("99999999999998", [99_999_999_999_999, 100_000_000_000_000]),
        ("999999999999998", [999_999_999_999_999, 1_000_000_000_000_000]),
        ("9007199254740990", [9_007_199_254_740_991, 9_007_199_254_740_992]),
        ("9007199254740992", [9_007_199_254_740_993, 9_007_199_254_740_994]),
        ("-9007199254740995", [-9_007_199_254_740_994, -9_007_199_254_740_993]),
        ("9223372036854775805", [i64::MAX - 1, i64::MAX]),
        ("-9223372036854775808", [i64::MIN + 1, i64::MIN + 2]),
    ] {
        redis.run::<()>(&["SET", "visitorCount", stands]);
        let service = Service::start(&redis);
        let mut client = service.connect();
        assert_eq!(numbers, [(); 2].map(|()| client.get("/").number()));
        assert_eq!(redis.count(), numbers[1]);
    }
}

#[test]
fn the_count_is_kept_under_counter_key() {
    let redis = Redis::start();
    for key in ["visits", "{shop}:visits", "with space \u{e9}"] {
        let service = redis.service(&[("COUNTER_KEY", key)]);
        assert_eq!(service.get("/").number(), 1);
        assert_eq!(redis.run::<String>(&["GET", key]), "1");
    }
    assert_eq!(redis.count(), 0);
}

#[test]
fn what_cannot_be_counted_up_is_said_once_and_can_be_mended() {
    for (words, said) in [
        (&["RPUSH", "visitorCount", "x"][..], "holds a list"),
        (&["SET", "visitorCount", "many"], "many"),
        (&["SET", "visitorCount", "007"], "007"),
        (&["SET", "visitorCount", "12 "], "12 "),
        (
            &["SET", "visitorCount", "9223372036854775807"],
            "holds 9223372036854775807, which cannot be counted up further",
        ),
    ] {
        let redis = Redis::start();
        redis.run::<redis::Value>(words);
        let mut service = Service::start(&redis);
        let mut client = service.connect();
        for _ in 0..5 {
            let answer = client.get("/");
            assert_eq!(answer.status, 503, "{words:?}");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        service.log_line("Redis does not count");
        redis.run::<()>(&["SET", "visitorCount", "6"]);
        assert_eq!(client.get("/").number(), 7);
        assert_eq!(service.get("/readyz").status, 200);
        service.stop();
        let log = service.whole_log();
        let told: Vec<_> = log.iter().filter(|line| line.contains("Redis does not count")).collect();
        assert_eq!(told.len(), 1, "{log:#?}");
        assert!(told[0].contains(said), "{told:?}");
    }
}

#[test]
fn readiness_knows_what_cannot_be_counted_up_and_counts_nothing() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    for _ in 0..3 {
        assert_eq!(service.get("/readyz").status, 200);
    }
    assert_eq!(redis.count(), 0);
    redis.run::<()>(&["SET", "visitorCount", "007"]);
    let unready = service.get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.body.contains("007"), "{unready:?}");
}

#[test]
fn a_process_that_ended_in_order_leaves_nothing_but_the_count() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    assert_eq!(service.get("/").number(), 1);
    assert_eq!(redis.run::<Vec<String>>(&["KEYS", "*"]).len(), 2);
    assert!(service.stop().success());
    assert_eq!(redis.run::<Vec<String>>(&["KEYS", "*"]), ["visitorCount"]);
}

#[test]
fn an_epoch_that_is_no_number_is_named() {
    for (words, said) in [
        (&["SET", "{visitorCount}:epoch", "x"][..], "which is not an integer"),
        (&["RPUSH", "{visitorCount}:epoch", "x"], "does not hold a plain integer"),
    ] {
        let redis = Redis::start();
        redis.run::<redis::Value>(words);
        let names_it = |line: &str| line.contains("key {visitorCount}:epoch ") && line.contains(said);
        let mut service = Service::start(&redis);
        assert_eq!(service.get("/").status, 503);
        let line = service.log_line("Redis does not count");
        assert!(names_it(&line), "{line}");
        let mut reset = program("reset-count", &[("REDIS_URL", &redis.url())]);
        let reset = reset.output().expect("it runs");
        assert_eq!(reset.status.code(), Some(65));
        let line = String::from_utf8(reset.stderr).expect("text");
        assert!(names_it(&line), "{line}");

        redis.run::<()>(&["DEL", "{visitorCount}:epoch"]);
        assert_eq!(service.get("/").number(), 1, "those who got 503 are not counted");
    }
}
