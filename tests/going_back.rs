//! A count that goes back without a reset is noticed, and with a fence refused.

use crate::support::{Redis, Service, eventually, program};

const WENT_BACK: &str = "the count went back without a reset";

#[test]
fn a_count_that_goes_back_is_an_error_in_the_log_and_in_a_metric() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    for number in 1..=5 {
        assert_eq!(service.get("/").number(), number);
    }
    let () = redis.run(&["SET", "visitorCount", "2"]);
    // Without a fence the visitor is served all the same.
    assert_eq!(service.get("/").number(), 3);
    let line = service.log_line(WENT_BACK);
    for said in [
        "\"level\":\"ERROR\"",
        "\"visit\":3",
        "\"highest\":5",
        "\"fence\":false",
        "visit 3 would follow 5",
        "numbers may repeat",
    ] {
        assert!(line.contains(said), "{said} in {line}");
    }
    assert_eq!(service.metric("abukiks_count_went_back_total"), 1.0);
    // Known now, it is not said again for every number that follows.
    assert_eq!(service.get("/").number(), 4);
    assert_eq!(service.metric("abukiks_count_went_back_total"), 1.0);
}

fn reset(redis: &Redis, to: &str) {
    let mut reset = program("reset-count", &[("REDIS_URL", &redis.url())]);
    assert!(reset.args(["--to", to]).status().expect("it runs").success());
}

/// A service behind a fence whose count has just gone back from 1000 to 2.
fn fenced(redis: &Redis) -> Service {
    let mut service = redis.service(&[("COUNTER_FENCE", "on")]);
    let () = redis.run(&["SET", "visitorCount", "999"]);
    assert_eq!(service.get("/").number(), 1000);
    let () = redis.run(&["SET", "visitorCount", "2"]);
    for _ in 0..3 {
        let refused = service.get("/");
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(service.get("/readyz").status, 503, "it knows what a visit would get");
    let line = service.log_line(WENT_BACK);
    assert!(line.contains("\"fence\":true") && line.contains("visits get 503 until reset-count"), "{line}");
    assert_eq!(service.metric("abukiks_count_went_back_total"), 1.0);
    service
}

#[test]
fn a_fence_refuses_visits_until_reset_count() {
    let redis = Redis::start();
    let mut service = fenced(&redis);
    reset(&redis, "0");
    assert_eq!(service.get("/").number(), 1);
    assert_eq!(service.get("/readyz").status, 200);
    service.log_line("the count was reset");
    assert!(service.stop().success());
    let errors = service.whole_log();
    let errors = errors.iter().filter(|line| line.contains(WENT_BACK)).count();
    assert_eq!(errors, 1, "said once, not for every visit");
}

#[test]
fn a_fence_refuses_visits_until_the_count_is_raised() {
    let redis = Redis::start();
    let service = fenced(&redis);
    let () = redis.run(&["SET", "visitorCount", "1000"]);
    eventually("visits are counted", || {
        let answer = service.get("/");
        (answer.status == 200).then(|| assert_eq!(answer.number(), 1001))
    });
}

#[test]
fn a_loss_that_takes_a_reset_with_it_is_noticed_though_the_numbers_are_higher() {
    let redis = Redis::start();
    let settings = [("REDIS_URL", &*redis.url()), ("COUNTER_FENCE", "on")];
    let mut service = Service::start_with(&settings);
    for number in 1..=5 {
        assert_eq!(service.get("/").number(), number);
    }
    reset(&redis, "0");
    assert_eq!(service.get("/").number(), 1);
    // As it was before the reset: number 6 would be the sixth one of another epoch.
    let () = redis.run(&["SET", "visitorCount", "5"]);
    let () = redis.run(&["DEL", "{visitorCount}:epoch"]);
    for _ in 0..2 {
        assert_eq!(service.get("/").status, 503);
    }
    service.log_line(WENT_BACK);
    assert_eq!(service.metric("abukiks_count_went_back_total"), 1.0);
    reset(&redis, "7");
    assert_eq!(service.get("/").number(), 8);
}

#[test]
fn a_reset_after_a_loss_is_known_as_one() {
    let redis = Redis::start();
    let settings = [("REDIS_URL", &*redis.url()), ("COUNTER_FENCE", "on")];
    let mut service = Service::start_with(&settings);
    reset(&redis, "0");
    for number in 1..=4 {
        assert_eq!(service.get("/").number(), number);
    }
    let () = redis.run(&["FLUSHALL"]);
    reset(&redis, "2");
    assert_eq!(service.get("/").number(), 3);
    service.log_line("the count was reset");
    assert_eq!(service.metric("abukiks_count_went_back_total"), 0.0);
}
