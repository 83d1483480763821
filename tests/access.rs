//! Redis need allow no more than docs/redis.md lists, and what it lists is enough.

use std::collections::{BTreeSet, HashMap};

use redis::Value;
use tempfile::TempDir;

use crate::sentinel::{FIRST_SENTINEL, MASTER_PORT, start_sentinel};
use crate::support::{Process, Redis, Service, own_host, program};

/// The manual.
fn manual() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md");
    std::fs::read_to_string(path).expect("docs/redis.md is there")
}

/// The user of the tests, who may do nothing until told otherwise.
const USER: [&str; 5] = ["ACL", "SETUSER", "visitor", "reset", "on"];

/// What is asked for, and not missed where it is forbidden. Redis 6.2 names no subcommands.
const WELCOME: [&str; 3] = ["config|get", "config", "info"];

/// Words of `ACL SETUSER`, by who or what needs them.
type Rules = HashMap<String, Vec<String>>;

/// The rules as they are documented.
fn documented() -> Rules {
    let manual = manual();
    let rules = manual.split("```text rules\n").nth(1);
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
        let task = program(task, &[("REDIS_URL", url)]).args(arguments).output();
        task.expect("it runs")
    };
    match what {
        "the service" | "MIN_REPLICAS_ACK" | "SESSION_LIFETIME" | "a Sentinel URL" => {
            // There are none: it is refused for that, if not for want of the right to wait.
            let replicas = if what == "MIN_REPLICAS_ACK" { "1" } else { "0" };
            let mut service = Service::start_with(&[
                ("REDIS_URL", url),
                ("MIN_REPLICAS_ACK", replicas),
                ("SESSION_LIFETIME", if what == "SESSION_LIFETIME" { "1h" } else { "off" }),
                ("REDIS_TIMEOUT", "200ms"),
                ("DRAIN_LAME_DUCK", "0s"),
                ("DRAIN_IDLE", "1ms"),
            ]);
            let greeting = service.get("/");
            if greeting.status == 200 {
                service.log_line("Redis is");
            }
            if let Some(cookie) = greeting.header("set-cookie") {
                let unknown = format!("abukiks_session={}", "0".repeat(32));
                for (path, cookie) in [("/", cookie), ("/session", cookie), ("/", &unknown)] {
                    service.connect().get_with(path, &format!("Cookie: {cookie}\r\n"));
                }
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

/// A Redis, and a Sentinel that names it the master.
struct Watched {
    redis: Redis,
    host: String,
    _sentinel: Process,
    _folder: TempDir,
}

impl Watched {
    fn start_as(program: &[String]) -> Self {
        let host = own_host();
        let redis = Redis::start_as(program, &["--bind", &host, "--port", MASTER_PORT]);
        let folder = tempfile::tempdir().expect("a folder");
        let settings = format!("sentinel monitor visits {host} {MASTER_PORT} 1\n");
        Self {
            redis,
            _sentinel: start_sentinel(folder.path(), &host, FIRST_SENTINEL, &settings),
            host,
            _folder: folder,
        }
    }

    /// What was refused to a user with this rule, who did all that there is to do.
    fn refused(&self, what: &str, rule: &[&str], database: u8) -> BTreeSet<String> {
        let redis = &self.redis;
        redis.run::<()>(&["FLUSHALL"]);
        redis.run::<()>(&["SCRIPT", "FLUSH"]);
        redis.run::<()>(&[&USER[..], &[">secret"], rule].concat());
        redis.run::<()>(&["ACL", "LOG", "RESET"]);
        let url = if what == "a Sentinel URL" {
            let host = &self.host;
            format!("redis+sentinel://visitor:secret@{host}/visits/{database}")
        } else {
            format!("{}?user=visitor&pass=secret&db={database}", redis.url())
        };
        exercise(what, redis, &url);
        let log: Vec<HashMap<String, Value>> = redis.run(&["ACL", "LOG"]);
        log.iter().map(|entry| redis::from_redis_value_ref(&entry["object"]).expect("text")).collect()
    }
}

/// What there is to exercise, and the rules for it.
const PARTS: [(&str, &[&str]); 7] = [
    ("the service", &["the service"]),
    ("MIN_REPLICAS_ACK", &["the service", "MIN_REPLICAS_ACK"]),
    ("SESSION_LIFETIME", &["the service", "SESSION_LIFETIME"]),
    ("a Sentinel URL", &["the service", "a Sentinel URL"]),
    ("show-count", &["show-count"]),
    ("reset-count", &["reset-count"]),
    ("check-redis", &["check-redis"]),
];

/// The words of a rule.
fn words<'a>(documented: &'a Rules, name: &str) -> impl Iterator<Item = &'a str> {
    documented[name].iter().map(String::as_str)
}

/// The words of several rules.
fn rule<'a>(documented: &'a Rules, names: &[&str]) -> Vec<&'a str> {
    let rules = names.iter();
    rules.flat_map(|name| words(documented, name)).collect()
}

#[test]
fn what_the_manual_lists_is_enough() {
    what_is_listed_is_enough(&["redis-server".to_owned()]);
}

pub(crate) fn what_is_listed_is_enough(program: &[String]) {
    let watched = Watched::start_as(program);
    let documented = documented();
    for (part, rules) in PARTS {
        let mut rule = rule(&documented, rules);
        let mut surplus = watched.refused(part, &rule, 0);
        surplus.retain(|word| !WELCOME.contains(&word.as_str()));
        assert!(surplus.is_empty(), "{part} was refused {surplus:?}");

        rule.extend(words(&documented, "durability"));
        assert_eq!(watched.refused(part, &rule, 0), BTreeSet::new(), "{part}");

        rule.extend(words(&documented, "a database but 0"));
        assert_eq!(watched.refused(part, &rule, 2), BTreeSet::new(), "{part}");
    }
}

#[test]
fn nothing_that_the_manual_lists_can_be_left_out() {
    let watched = Watched::start_as(&["redis-server".to_owned()]);
    let documented = documented();
    for (part, rules) in PARTS {
        let mut whole = rule(&documented, rules);
        whole.extend(words(&documented, "a database but 0"));
        if !["show-count", "reset-count"].contains(&part) {
            whole.extend(words(&documented, "durability"));
        }
        // What the service needs in every case is left out in its own turn.
        let own = match rules {
            [_] => whole.clone(),
            _ => words(&documented, part).collect(),
        };
        for left_out in &own {
            let mut rest = whole.clone();
            rest.retain(|word| word != left_out);
            // On a machine that is busy it may not come so far in its time.
            let refused = (0..5).any(|_| !watched.refused(part, &rest, 2).is_empty());
            assert!(refused, "{part} does without {left_out}");
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
fn the_example_allows_all_of_it_and_no_more() {
    let documented = documented();
    let mut names = PARTS.map(|(_, rules)| rules).concat();
    names.extend(["durability", "a wrong key"]);
    let all: BTreeSet<_> = rule(&documented, &names).into_iter().collect();
    let manual = manual();
    let example = manual.split("redis-cli ACL SETUSER").nth(1);
    let example = example.and_then(|rest| rest.split('$').next());
    let allowed: BTreeSet<_> = example
        .expect("docs/redis.md has an example")
        .split_whitespace()
        .map(|word| word.trim_matches('\''))
        .filter(|word| word.starts_with(['+', '~']))
        .collect();
    assert_eq!(allowed, all);

    // And no rule is left that no test knows.
    names.push("a database but 0");
    let tested: BTreeSet<_> = names.into_iter().collect();
    assert_eq!(documented.keys().map(String::as_str).collect::<BTreeSet<_>>(), tested);
}
