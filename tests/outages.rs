//! Redis may go away in any way: visits are refused in time meanwhile, and the count stays exact.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::crowd::{Crowd, Visit, assert_exact};
use crate::proxy::{Fate, Proxy};
use crate::support::{Redis, Service, eventually, program};

/// `REDIS_TIMEOUT` as it comes.
const BUDGET: Duration = Duration::from_secs(1);

/// How much later than promised something may come on a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(2);

/// Visitors who keep coming. Few, so that visits which are refused at once do not fill the machine.
const VISITORS: usize = 8;

/// Ends every connection to Redis but the one that says so.
const SHOW_OUT: &[&str] = &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

/// Redis goes away, stays away until visits have been refused for a while, and comes back.
/// Returns when it had come back and what the visitors saw.
fn endure(service: &mut Service, away: impl FnOnce(), back: impl FnOnce()) -> Vec<Visit> {
    let crowd = Crowd::visit(&[service.address], VISITORS);
    crowd.wait_for_numbers(100);
    away();
    crowd.wait_for_refusals(1);
    eventually("/readyz says so", || {
        (service.get("/readyz").status == 503).then_some(())
    });

    let (since, before) = (Instant::now(), attempts(service));
    crowd.wait_for_refusals(2 * VISITORS);
    let attempted = attempts(service) - before;
    let allowed = since.elapsed().as_secs_f64() * 10.0 + 2.0;
    assert!(attempted <= allowed, "{attempted} attempts of {allowed}");

    back();
    let returned = Instant::now();
    crowd.wait_for_numbers(100);
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.metric("abukiks_redis_up"), 1.0);
    let visits = crowd.go_home();
    assert_eq!(service.metric("abukiks_waiting_visits"), 0.0);
    assert!(!service.process.has_ended());

    for visit in &visits {
        assert!(visit.lasted() < BUDGET + MARGIN, "{visit:?}");
    }
    let recovered = visits
        .iter()
        .filter(|visit| visit.number.is_some() && visit.ended > returned)
        .map(|visit| visit.ended - returned)
        .min();
    let recovered = recovered.expect("visits got numbers after the return");
    println!("recovered in {recovered:?}; {attempted} attempts of {allowed:.1}");
    assert!(recovered < MARGIN, "recovered only after {recovered:?}");
    visits
}

fn attempts(service: &Service) -> f64 {
    service.metric("abukiks_redis_connection_attempts_total")
}

/// Ends the service, and checks that its log told of one outage in a few lines: each of the ways in
/// which it showed itself once, such as a connection that broke, then one that was refused.
fn assert_log_is_short(mut service: Service) -> Vec<String> {
    service.stop();
    let log = service.whole_log();
    let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert!((1..=3).contains(&lines("Redis does not count")), "{log:#?}");
    assert!(lines("the link to Redis broke") <= 1, "{log:#?}");
    assert_eq!(lines("Redis answers again"), 1, "{log:#?}");
    assert_eq!(lines("went back"), 0, "{log:#?}");
    log
}

/// A service whose log holds nothing but what happens to Redis.
fn serve(url: &str) -> Service {
    Service::start_with(&[("REDIS_URL", url), ("ACCESS_LOG", "off")])
}

/// Runs a command on a connection that was made before the outage.
fn run(connection: &mut redis::Connection, words: &[&str]) {
    let answer: redis::Value = redis::Cmd::new()
        .arg(words)
        .query(connection)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    drop(answer);
}

/// An outage that Redis itself makes, while it goes on running, by commands such as `CONFIG SET`.
fn endure_commands(away: &[&[&str]], back: &[&[&str]]) -> Vec<String> {
    let redis = Redis::start();
    let mut service = serve(&redis.url());
    let admin = RefCell::new(redis.connect());
    let run_all = |commands: &[&[&str]]| {
        for words in commands {
            run(&mut admin.borrow_mut(), words);
        }
    };
    let before = connections_received(&redis);
    let since = Instant::now();
    let visits = endure(&mut service, || run_all(away), || run_all(back));
    let received = connections_received(&redis) - before;
    let allowed = since.elapsed().as_secs_f64() * 10.0 + 3.0;
    assert!(received <= allowed, "{received} connections of {allowed}");
    assert_exact(&visits, redis.count());
    assert_log_is_short(service)
}

/// How many connections Redis has ever accepted.
fn connections_received(redis: &Redis) -> f64 {
    let info: String = redis.run(&["INFO", "stats"]);
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    total
        .and_then(|total| total.parse().ok())
        .expect("a number")
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
    redis.resume();
    assert_eq!(service.get("/").number(), 1);
    assert_eq!(service.get("/readyz").status, 200);
    // What Redis can promise is told at the first connection, whenever that is.
    service.log_line("appendonly is no");
    assert_log_is_short(service);
}

#[test]
fn a_visit_waits_for_redis_within_its_budget() {
    let mut redis = Redis::start();
    redis.kill();
    let service = Service::start_with(&[("REDIS_URL", &redis.url()), ("REDIS_TIMEOUT", "30s")]);
    let mut visitor = service.connect();
    visitor
        .send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        .expect("it listens");
    eventually("the visit waits", || {
        (service.metric("abukiks_waiting_visits") == 1.0).then_some(())
    });
    redis.resume();
    assert_eq!(visitor.read(false).expect("an answer").number(), 1);
}

#[test]
fn a_restart_of_redis_is_survived() {
    let redis = RefCell::new(Redis::start_with(&["--appendonly", "yes"]));
    let mut service = serve(&redis.borrow().url());
    let visits = endure(
        &mut service,
        || {
            // It ends without an answer.
            let _ = redis::cmd("SHUTDOWN").exec(&mut redis.borrow().connect());
            redis.borrow_mut().kill();
        },
        || redis.borrow_mut().resume(),
    );
    assert_exact(&visits, redis.borrow().count());
    assert_log_is_short(service);
}

#[test]
fn a_crash_of_a_durable_redis_loses_and_doubles_nothing() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let redis = RefCell::new(Redis::start_with(&durable));
    let mut service = serve(&redis.borrow().url());
    let visits = endure(
        &mut service,
        || redis.borrow_mut().kill(),
        || redis.borrow_mut().resume(),
    );
    assert_exact(&visits, redis.borrow().count());
    assert_log_is_short(service);
}

#[test]
fn a_redis_that_hangs_is_survived() {
    let redis = Redis::start();
    let mut service = serve(&redis.url());
    let visits = endure(
        &mut service,
        || redis.process().signal(Signal::STOP),
        || redis.process().signal(Signal::CONT),
    );
    assert_exact(&visits, redis.count());
    assert_log_is_short(service);
}

#[test]
fn a_redis_that_loads_its_data_is_waited_for() {
    // So many keys that loading ends when it is told to hurry, and a look at the clients after each.
    let slow = ["--enable-debug-command", "yes", "--key-load-delay", "40000"];
    let watchful = ["--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::start_with(&[&slow[..], &watchful[..]].concat());
    redis.run::<String>(&["DEBUG", "POPULATE", "2000", "key", "2048"]);
    let redis = RefCell::new(redis);
    let mut service = serve(&redis.borrow().url());
    let visits = endure(
        &mut service,
        || {
            let _ = redis::cmd("SHUTDOWN")
                .arg("SAVE")
                .exec(&mut redis.borrow().connect());
            redis.borrow_mut().kill();
            redis.borrow_mut().resume();
        },
        || {
            redis
                .borrow()
                .run::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
            eventually("Redis has loaded", || {
                let pong = redis::cmd("GET")
                    .arg("key:1")
                    .exec(&mut redis.borrow().connect());
                pong.ok()
            });
        },
    );
    assert_exact(&visits, redis.borrow().count());
    let log = assert_log_is_short(service);
    assert!(
        log.iter().any(|line| line.contains("loading the dataset")),
        "{log:#?}"
    );
}

#[test]
fn a_replica_is_not_counted_on_until_it_is_promoted() {
    let log = endure_commands(
        &[&["REPLICAOF", "127.0.0.1", "1"]],
        &[&["REPLICAOF", "NO", "ONE"]],
    );
    assert!(log.iter().any(|line| line.contains("READONLY")), "{log:#?}");
}

#[test]
fn a_replica_without_its_master_is_not_counted_on() {
    let log = endure_commands(
        &[
            &["CONFIG", "SET", "replica-serve-stale-data", "no"],
            &["REPLICAOF", "127.0.0.1", "1"],
        ],
        &[&["REPLICAOF", "NO", "ONE"]],
    );
    assert!(
        log.iter().any(|line| line.contains("MASTERDOWN")),
        "{log:#?}"
    );
}

#[test]
fn a_redis_out_of_memory_is_survived() {
    let log = endure_commands(
        &[&["CONFIG", "SET", "maxmemory", "1"]],
        &[&["CONFIG", "SET", "maxmemory", "0"]],
    );
    assert!(log.iter().any(|line| line.contains("OOM")), "{log:#?}");
}

#[test]
fn a_user_who_may_not_count_is_told_so_until_it_may() {
    let log = endure_commands(
        &[&["ACL", "SETUSER", "default", "-incrby"]],
        &[&["ACL", "SETUSER", "default", "+@all"]],
    );
    assert!(
        log.iter()
            .any(|line| line.contains("can't run this command")),
        "{log:#?}"
    );
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
fn a_redis_without_room_for_another_client_is_survived() {
    let log = endure_commands(
        &[&["CONFIG", "SET", "maxclients", "1"], SHOW_OUT],
        &[&["CONFIG", "SET", "maxclients", "1000"]],
    );
    // Redis says so and hangs up; whether its words or the hang-up are noticed first is chance.
    assert!(
        log.iter()
            .any(|line| line.contains("max number of clients") || line.contains("Broken pipe")),
        "{log:#?}"
    );
}

#[test]
fn a_wrong_password_is_survived_until_it_is_right() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let url = format!("{}?pass=secret", redis.url());
    let mut service = serve(&url);
    let connection = redis::Client::open(url).and_then(|client| client.get_connection());
    let admin = RefCell::new(connection.expect("the password is right"));
    let visits = endure(
        &mut service,
        || {
            run(
                &mut admin.borrow_mut(),
                &["CONFIG", "SET", "requirepass", "changed"],
            );
            // Whoever is in stays in, unless shown out.
            run(&mut admin.borrow_mut(), SHOW_OUT);
        },
        || {
            run(
                &mut admin.borrow_mut(),
                &["CONFIG", "SET", "requirepass", "secret"],
            );
        },
    );
    let count = redis::cmd("GET")
        .arg("visitorCount")
        .query(&mut admin.borrow_mut());
    assert_exact(&visits, count.expect("the count"));
    let log = assert_log_is_short(service);
    assert!(
        log.iter()
            .any(|line| line.contains("authentication failed")),
        "{log:#?}"
    );
    assert!(!log.iter().any(|line| line.contains("secret")), "{log:#?}");
}

#[test]
fn a_redis_that_is_busy_with_a_script_is_survived() {
    let redis = Redis::start_with(&["--busy-reply-threshold", "20"]);
    let mut service = serve(&redis.url());
    let mut busy = redis.connect();
    let mut killer = redis.connect();
    let (visits, script) = std::thread::scope(|scope| {
        let mut script = None;
        let visits = endure(
            &mut service,
            || {
                script = Some(scope.spawn(move || {
                    redis::cmd("EVAL")
                        .arg("while true do end")
                        .arg(0)
                        .exec(&mut busy)
                }));
            },
            || run(&mut killer, &["SCRIPT", "KILL"]),
        );
        (visits, script.expect("it was started").join())
    });
    assert!(script.is_ok_and(|ended| ended.is_err()));
    assert_exact(&visits, redis.count());
    let log = assert_log_is_short(service);
    assert!(log.iter().any(|line| line.contains("BUSY")), "{log:#?}");
}

#[test]
fn a_network_that_swallows_everything_is_survived() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let mut service = serve(&proxy.url());
    let visits = endure(
        &mut service,
        || {
            proxy.swallow(true);
            proxy.silence();
        },
        || proxy.swallow(false),
    );
    assert_exact(&visits, redis.count());
    assert_log_is_short(service);
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
    assert!(
        !log.iter().any(|line| line.contains("\"ERROR\"")),
        "{log:#?}"
    );
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
    client
        .send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        .expect("it listens");
    eventually("the visit waits", || {
        (service.metric("abukiks_waiting_visits") == 1.0).then_some(())
    });
    let reset = program("reset-count", &[("REDIS_URL", &redis.url())]).output();
    assert!(reset.expect("it runs").status.success());
    // The visit that was under way, then those on top of the reset.
    let _ = client.read(false).expect("an answer").number();
    let next = client.get("/").number();
    assert_eq!(client.get("/").number(), next + 1);
    assert_eq!(redis.count(), next + 1);
    assert_eq!(service.metric("abukiks_counter_went_back_total"), 0.0);
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
    for words in earlier {
        let late: Result<redis::Value, _> =
            redis::Cmd::new().arg(words).query(&mut redis.connect());
        assert!(late.is_err_and(|error| error.code() == Some("STALE")));
    }
    assert_eq!(redis.count(), 3);
}
