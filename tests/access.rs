//! Redis need allow no more than docs/redis.md lists, and what it lists is enough.

use std::collections::{BTreeSet, HashMap};

use redis::Value;

use crate::support::{Redis, Service, program};

const DOCUMENT: &str = include_str!("../docs/redis.md");

/// The user of the tests, who may do nothing until told otherwise.
const USER: [&str; 5] = ["ACL", "SETUSER", "visitor", "reset", "on"];

/// What is asked for, and not missed where it is forbidden.
const WELCOME: [&str; 2] = ["config|get", "info"];

/// The rules as they are documented: who or what needs them, and the words of `ACL SETUSER`.
fn documented() -> HashMap<String, Vec<String>> {
    let rules = DOCUMENT.split("```text rules\n").nth(1);
    let rules = rules.and_then(|rest| rest.split("```").next());
    rules
        .expect("docs/redis.md has a block of rules")
        .lines()
        .map(|line| {
            let (what, rule) = line.split_once("  ").expect("two columns");
            let words = rule.split_whitespace().map(str::to_owned).collect();
            (what.to_owned(), words)
        })
        .collect()
}

/// Does all that this part of Abukiks does with Redis.
fn exercise(what: &str, redis: &Redis, url: &str) {
    let admin = |task: &str, arguments: &[&str]| {
        let task = program(task, &[("REDIS_URL", url)])
            .args(arguments)
            .output();
        task.expect("it runs")
    };
    match what {
        "the service" => {
            let mut service = Service::start_with(&[
                ("REDIS_URL", url),
                ("REDIS_TIMEOUT", "200ms"),
                ("DRAIN_LAME_DUCK", "0s"),
                ("DRAIN_IDLE", "1ms"),
            ]);
            if service.get("/").status == 200 {
                service.log_line("Redis is");
            }
            redis.run::<()>(&["SCRIPT", "FLUSH"]);
            service.get("/");
            assert!(service.stop().success());
        }
        "show-count" | "check-redis" => drop(admin(what, &[])),
        "reset-count" => {
            admin(what, &["--dry-run"]);
            admin(what, &[]);
        }
        other => panic!("docs/redis.md lists a rule that is not tested: {other}"),
    }
}

/// What was refused to a user with this rule, who did all that there is to do.
fn refused(what: &str, redis: &Redis, rule: &[&str], database: u8) -> BTreeSet<String> {
    redis.run::<()>(&["FLUSHALL"]);
    redis.run::<()>(&["SCRIPT", "FLUSH"]);
    redis.run::<()>(&[&USER[..], &[">secret"], rule].concat());
    redis.run::<()>(&["ACL", "LOG", "RESET"]);
    let url = format!("{}?user=visitor&pass=secret&db={database}", redis.url());
    exercise(what, redis, &url);
    let log: Vec<HashMap<String, Value>> = redis.run(&["ACL", "LOG"]);
    log.iter()
        .map(|entry| redis::from_redis_value_ref(&entry["object"]).expect("text"))
        .collect()
}

const PARTS: [&str; 4] = ["the service", "show-count", "reset-count", "check-redis"];

/// The words of several rules.
fn rule<'a>(documented: &'a HashMap<String, Vec<String>>, parts: &[&str]) -> Vec<&'a str> {
    let words = parts.iter().flat_map(|part| &documented[*part]);
    words.map(String::as_str).collect()
}

#[test]
fn what_the_manual_lists_is_enough() {
    let redis = Redis::start();
    let documented = documented();
    for part in PARTS {
        let least = refused(part, &redis, &rule(&documented, &[part]), 0);
        let surplus: Vec<_> = least
            .iter()
            .filter(|it| !WELCOME.contains(&&***it))
            .collect();
        assert!(surplus.is_empty(), "{part} was refused {surplus:?}");

        let durable = rule(&documented, &[part, "durability"]);
        assert_eq!(
            refused(part, &redis, &durable, 0),
            BTreeSet::new(),
            "{part}"
        );

        let database = rule(&documented, &[part, "durability", "a database but 0"]);
        assert_eq!(
            refused(part, &redis, &database, 2),
            BTreeSet::new(),
            "{part}"
        );
    }
}

#[test]
fn nothing_that_the_manual_lists_can_be_left_out() {
    let redis = Redis::start();
    let documented = documented();
    for part in PARTS {
        let mut whole = rule(&documented, &[part, "a database but 0"]);
        if ["the service", "check-redis"].contains(&part) {
            whole.extend(rule(&documented, &["durability"]));
        }
        for left_out in &whole {
            let rest: Vec<_> = whole
                .iter()
                .copied()
                .filter(|word| word != left_out)
                .collect();
            let refused = refused(part, &redis, &rest, 2);
            assert!(!refused.is_empty(), "{part} does without {left_out}");
        }
    }
}

#[test]
fn what_stands_at_the_key_is_told_where_it_may_be_looked_at() {
    let redis = Redis::start();
    let documented = documented();
    let said = |rule: &[&str]| {
        redis.run::<()>(&[&USER[..], &["nopass"], rule].concat());
        let url = format!("{}?user=visitor&pass=any", redis.url());
        let output = program("show-count", &[("REDIS_URL", &url)]).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(65));
        String::from_utf8(output.stderr).expect("text")
    };
    redis.run::<()>(&["SET", "visitorCount", "many"]);
    let least = said(&rule(&documented, &["show-count"]));
    assert!(least.contains("does not hold a plain integer"), "{least}");
    let curious = said(&rule(&documented, &["show-count", "a wrong key"]));
    assert!(curious.contains("holds \"many\""), "{curious}");
}

#[test]
fn the_example_for_the_admin_processes_allows_all_of_it_and_no_more() {
    let documented = documented();
    let mut parts = [&PARTS[..], &["durability", "a wrong key"]].concat();
    let all: BTreeSet<_> = rule(&documented, &parts).into_iter().collect();
    let example = DOCUMENT.split("redis-cli ACL SETUSER").nth(1);
    let example = example.and_then(|rest| rest.split('$').next());
    let allowed: BTreeSet<_> = example
        .expect("docs/redis.md has an example")
        .split_whitespace()
        .map(|word| word.trim_matches('\''))
        .filter(|word| word.starts_with(['+', '~']))
        .collect();
    assert_eq!(allowed, all);

    // And no rule is left that no test knows.
    parts.push("a database but 0");
    let tested: BTreeSet<_> = parts.into_iter().collect();
    assert_eq!(
        documented
            .keys()
            .map(String::as_str)
            .collect::<BTreeSet<_>>(),
        tested
    );
}
