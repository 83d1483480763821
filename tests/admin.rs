//! One-off processes: the same release, the same settings, the same Redis.

use std::fs::File;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::proxy::{Fate, Proxy};
use crate::support::{Client, Redis, Service, SetAtEnd, eventually, program};

const TASKS: [&str; 3] = ["reset-count", "show-count", "check-redis"];

fn run(name: &str, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    program(name, settings).args(arguments).output().unwrap()
}

/// What a task that did its work has printed.
fn said(redis: &Redis, name: &str, arguments: &[&str]) -> String {
    let output = run(name, &[("REDIS_URL", &redis.url())], arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn reset_count_prints_what_the_count_was() {
    let redis = Redis::start();
    assert_eq!(said(&redis, "reset-count", &[]), "the count was nothing and is now 0");
    let () = redis.run(&["SET", "visitorCount", "41"]);
    assert_eq!(
        said(&redis, "reset-count", &["--to", "7", "--dry-run"]),
        "the count was 41 and would become 7"
    );
    assert_eq!(redis.count(), 41);
    assert_eq!(said(&redis, "reset-count", &["--to", "7"]), "the count was 41 and is now 7");
    assert_eq!(redis.count(), 7);
    let json: serde_json::Value =
        serde_json::from_str(&said(&redis, "reset-count", &["--json", "--to=-2"])).unwrap();
    assert_eq!(json, serde_json::json!({ "key": "visitorCount", "old": 7, "new": -2, "dryRun": false }));
    assert_eq!(redis.count(), -2);
    for (held, old) in [
        (&["DEL", "visitorCount"][..], serde_json::Value::Null),
        (&["SET", "visitorCount", "007"], "007".into()),
        (&["SET", "visitorCount", "many"], "many".into()),
    ] {
        redis.run::<()>(held);
        let json: serde_json::Value =
            serde_json::from_str(&said(&redis, "reset-count", &["--json", "--dry-run"])).unwrap();
        assert_eq!(json["old"], old);
    }
}

#[test]
fn show_count_changes_nothing() {
    let redis = Redis::start();
    assert!(said(&redis, "show-count", &[]).starts_with("0 "));
    let () = redis.run(&["SET", "visitorCount", "12"]);
    assert_eq!(said(&redis, "show-count", &[]), "12");
    assert_eq!(said(&redis, "show-count", &["--json"]), r#"{"count":12,"key":"visitorCount"}"#);
    assert_eq!(redis.count(), 12);
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert_eq!(keys, ["visitorCount"]);
}

#[test]
fn check_redis_tells_what_the_attached_redis_can_promise() {
    let redis = Redis::start();
    let text = said(&redis, "check-redis", &[]);
    assert!(text.contains("can lose visits (appendonly is no)"), "{text}");
    assert!(text.contains("visitorCount holds nothing yet"), "{text}");
    let commands = "\n  CONFIG SET appendonly yes\n  CONFIG SET appendfsync always\n  CONFIG REWRITE";
    assert!(text.ends_with(&format!("after these commands, by redis-cli:{commands}")), "{text}");
    let durable = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let json: serde_json::Value = serde_json::from_str(&said(&durable, "check-redis", &["--json"])).unwrap();
    assert_eq!(json["durable"], true);
    assert_eq!(json["mayEvict"], false);
    assert_eq!(json["role"], "master");
    let keys: Vec<String> = durable.run(&["KEYS", "*"]);
    assert_eq!(keys, ["visitorCount"], "it leaves nothing of its own");
    assert_eq!(durable.count(), 0);
}

#[test]
fn check_redis_finds_out_what_would_refuse_every_visit() {
    let redis = Redis::start();
    let check = |settings: &[(&str, &str)]| {
        let url = redis.url();
        let output = run("check-redis", &[&[("REDIS_URL", &*url)], settings].concat(), &[]);
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), said)
    };
    let refused = |said: &str| {
        let (status, text) = check(&[]);
        assert!(text.contains("answers and does not do what is asked") && text.contains(said), "{text}");
        assert_eq!(status, Some(69));
    };
    let (status, text) = check(&[("MIN_REPLICAS_ACK", "1")]);
    assert_eq!(status, Some(69));
    assert!(text.contains("MIN_REPLICAS_ACK=1, but 0 replicas"), "{text}");

    redis.run::<()>(&["SET", "visitorCount", "9223372036854775807"]);
    let (status, text) = check(&[]);
    assert_eq!(status, Some(65));
    assert!(text.contains("cannot be counted up further"), "{text}");
    let mut service = Service::start(&redis);
    assert_eq!(service.get("/readyz").status, 503);
    redis.run::<()>(&["SET", "visitorCount", "5"]);
    assert_eq!(service.get("/readyz").status, 200);
    assert!(service.stop().success());

    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    refused("OOM");
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    for right in ["eval", "evalsha", "incrby", "set"] {
        redis.run::<()>(&["ACL", "SETUSER", "default", &format!("-{right}")]);
        refused("command");
        redis.run::<()>(&["ACL", "SETUSER", "default", &format!("+{right}")]);
    }
    assert_eq!(redis.count(), 5);
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert_eq!(keys, ["visitorCount"], "it leaves nothing of its own");
}

#[test]
fn a_text_of_any_length_at_the_key_is_no_number_and_can_be_reset() {
    let redis = Redis::start();
    redis.run::<()>(&["SETRANGE", "visitorCount", "2000000", "x"]);
    let shown = run("show-count", &[("REDIS_URL", &redis.url())], &[]);
    assert_eq!(shown.status.code(), Some(65), "{shown:?}");
    let text = String::from_utf8(shown.stderr).expect("text");
    assert!(text.contains("key visitorCount does not hold a plain integer"), "{text}");
    let reset = said(&redis, "reset-count", &["--json"]);
    let reset: serde_json::Value = serde_json::from_str(&reset).expect("JSON");
    assert_eq!(reset["old"].as_str().map(str::len), Some(1003));
    assert_eq!(redis.count(), 0);
}

#[test]
fn a_replica_is_not_a_redis_to_count_in() {
    let first = Redis::start();
    // A replica without a primary: it looks for its primary and refuses writes meanwhile.
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", "1"]);
    let output = run("check-redis", &[("REDIS_URL", &replica.url())], &[]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("READONLY"));
    assert!(said(&first, "check-redis", &[]).contains("master"));
}

#[test]
fn exit_statuses_say_what_was_wrong() {
    for task in TASKS {
        let status = |settings: &[(&str, &str)], arguments: &[&str]| {
            let output = run(task, settings, arguments);
            assert!(output.stdout.is_empty(), "{task}: {output:?}");
            assert!(!output.stderr.is_empty(), "{task}");
            output.status.code()
        };
        assert_eq!(status(&[], &["--nonsense"]), Some(64), "{task}");
        assert_eq!(status(&[], &["leftover"]), Some(64), "{task}");
        assert_eq!(status(&[("REDIS_URL", "nonsense")], &[]), Some(78), "{task}");
        assert_eq!(status(&[("REDIS_URL", "unix:///nowhere/redis.sock")], &[]), Some(69), "{task}");
        let redis = Redis::start();
        let () = redis.run(&["RPUSH", "visitorCount", "a list"]);
        assert_eq!(status(&[("REDIS_URL", &redis.url())], &[]), Some(65), "{task}");
        let keys: Vec<String> = redis.run(&["KEYS", "*"]);
        assert_eq!(keys, ["visitorCount"], "{task} has changed something");
    }
    assert_eq!(run("reset-count", &[], &["--to", "many"]).status.code(), Some(64));
}

#[test]
fn help_and_version_need_no_redis_and_help_shows_where_the_settings_come_from() {
    for task in TASKS {
        let help = run(task, &[], &["--help"]);
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("same environment variables as the service"), "{help}");
        assert!(help.contains("69 Redis is unreachable"), "{help}");
        assert!(help.contains("--json"), "{help}");
        let version = run(task, &[], &["--version"]);
        assert!(version.status.success());
        let version = String::from_utf8(version.stdout).unwrap();
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
}

#[test]
fn tasks_take_secrets_as_the_service_does() {
    let redis = Redis::start_with(&["--requirepass", "12 \"quoted"]);
    let url = format!("{}?pass=12%20%22quoted", redis.url());
    let file = redis.folder().join("redis-url");
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let file = file.display().to_string();
    let folder = redis.folder().display().to_string();
    for task in TASKS {
        for setting in [("REDIS_URL", &url), ("REDIS_URL_FILE", &file), ("CREDENTIALS_DIRECTORY", &folder)] {
            let output = run(task, &[(setting.0, setting.1)], &["--json"]);
            assert!(output.status.success(), "{task} {setting:?} {output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(!said.contains("quoted"), "the password is shown: {said}");
        }
    }
}

#[test]
fn a_reset_while_instances_count_separates_the_visits_before_from_those_after() {
    let redis = Redis::start();
    let mut services: Vec<_> = (0..4).map(|_| Service::start(&redis)).collect();
    let (stop, answers) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let more = || {
        let before = answers.load(Relaxed);
        eventually("visits are counted", || (answers.load(Relaxed) > before + 200).then_some(()));
    };
    // The numbers of the three spans can be told apart: up from 1, up from a million, up from
    // minus a million.
    let (up, down) = (1_000_000, -1_000_000);
    let (was_first, was_second, mut numbers) = std::thread::scope(|scope| {
        let _also_on_failure = SetAtEnd(stop);
        let visitors: Vec<_> = services
            .iter()
            .flat_map(|service| [service.address; 4])
            .map(|address| {
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut numbers = Vec::new();
                    while !stop.load(Relaxed) {
                        numbers.push(client.get("/").number());
                        answers.fetch_add(1, Relaxed);
                    }
                    numbers
                })
            })
            .collect();
        let reset = |to: i64| -> i64 {
            more();
            let to = format!("--to={to}");
            let said = said(&redis, "reset-count", &["--json", &to]);
            let json: serde_json::Value = serde_json::from_str(&said).unwrap();
            json["old"].as_i64().unwrap()
        };
        let (was_first, was_second) = (reset(up), reset(down));
        more();
        stop.store(true, Relaxed);
        let numbers: Vec<i64> = visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect();
        (was_first, was_second, numbers)
    });
    numbers.sort_unstable();
    let expected: Vec<i64> =
        (down + 1..=redis.count()).chain(1..=was_first).chain(up + 1..=was_second).collect();
    assert!(numbers == expected, "{was_first} {was_second} {}", redis.count());
    for service in &mut services {
        assert_eq!(service.metric("abukiks_count_went_back_total"), 0.0);
        service.log_line("the count was reset");
    }
}

/// A copy that was delayed on its way, after its sender was told that Redis does not answer.
#[test]
fn a_reset_that_comes_too_late_changes_nothing() {
    let redis = Redis::start();
    let () = redis.run(&["SET", "visitorCount", "5"]);
    let proxy = Proxy::to(&redis);
    let reset = || {
        let settings = [("REDIS_URL", &*proxy.url()), ("REDIS_TIMEOUT", "1s")];
        program("reset-count", &settings).output().unwrap()
    };
    proxy.next([Fate::Late(Duration::from_millis(1300))]);
    let failed = reset();
    assert_eq!(failed.status.code(), Some(69));
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("may have been set all the same"), "{said}");
    eventually("Redis was asked", || {
        let stats: String = redis.run(&["INFO", "commandstats"]);
        stats.contains("cmdstat_eval:").then_some(())
    });
    assert_eq!(redis.count(), 5);
    assert!(!redis.run::<bool>(&["EXISTS", "{visitorCount}:epoch"]));

    proxy.next([Fate::Late(Duration::from_millis(300))]);
    assert!(reset().status.success());
    assert_eq!(redis.count(), 0);
}

#[test]
fn what_stands_in_redis_cannot_command_a_terminal() {
    let redis = Redis::start();
    let () = redis.run(&["SET", "visitorCount", "\u{1b}[31mred\u{202e}"]);
    let dry = said(&redis, "reset-count", &["--dry-run"]);
    assert_eq!(dry, "the count was \\u{1b}[31mred\\u{202e} and would become 0");
}

#[test]
fn what_could_not_be_printed_is_no_success() {
    let redis = Redis::start();
    for (sink, status) in [("/dev/full", 74), ("/dev/null", 0)] {
        let sink = File::options().write(true).open(sink).unwrap();
        let mut command = program("show-count", &[("REDIS_URL", &redis.url())]);
        let ended = command.stdout(sink).status().unwrap();
        assert_eq!(ended.code(), Some(status));
    }
}

#[test]
fn check_redis_says_how_much_room_sessions_need() {
    let redis = Redis::start();
    let said = |lifetime: &str| {
        let output = run(
            "check-redis",
            &[("REDIS_URL", &redis.url()), ("SESSION_LIFETIME", lifetime)],
            &["--visitors-per-second", "10"],
        );
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let week =
        "sessions need 174 MiB for a day at 10 new visitors a second, 1212 MiB for all of SESSION_LIFETIME";
    assert!(said("7days").contains(week), "{}", said("7days"));
    assert!(said("1h").contains("sessions need 8 MiB for a day at 10 new visitors a second, 8 MiB for all"));
    assert!(!said("off").contains("sessions"));
}
