//! Whether a counted visit survives a crash of Redis is told before there is one.

use tempfile::TempDir;

use crate::support::{Redis, Service, eventually, program};

fn start(redis: &Redis) -> Service {
    redis.service(&[("REDIS_TIMEOUT", "30s")])
}

fn gauge(service: &Service, name: &str) -> Option<String> {
    let metrics = service.get("/metrics").body;
    let mut lines = metrics.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(" ")?.to_owned()))
}

fn metric(service: &Service) -> Option<String> {
    gauge(service, "abukiks_redis_durable")
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
fn a_redis_that_forgets_keys_in_a_full_memory_is_warned_of() {
    for (memory, policy, evicts) in [
        ("100mb", "allkeys-lru", true),
        ("100mb", "volatile-ttl", true),
        ("100mb", "noeviction", false),
        ("0", "allkeys-lru", false),
    ] {
        let durable = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory"];
        let settings = [&durable[..], &[memory, "--maxmemory-policy", policy]].concat();
        let redis = Redis::start_with(&settings);
        let mut service = start(&redis);
        let evict = |service: &Service| gauge(service, "abukiks_redis_may_evict");
        assert_eq!(evict(&service), None, "known without a connection");
        assert_eq!(service.get("/").number(), 1);
        let line = service.log_line("\"Redis is ");
        let forgets = format!("it forgets keys when its memory is full (maxmemory-policy {policy})");
        assert_eq!((line.contains("\"WARN\""), line.contains(&forgets)), (evicts, evicts), "{line}");
        assert_eq!(evict(&service).as_deref(), Some(if evicts { "1" } else { "0" }));
        redis.run::<()>(&["ACL", "SETUSER", "default", "-info"]);
        redis.run::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(service.get("/").number(), 2);
        eventually("it is unknown", || evict(&service).is_none().then_some(()));
    }
}

/// A Redis with a file of settings, which it finds again when it starts again.
fn with_file(folder: &TempDir) -> Redis {
    let file = folder.path().join("redis.conf");
    std::fs::write(&file, "maxmemory 100mb\nmaxmemory-policy allkeys-lru\n").expect("a file");
    Redis::start_as(&["redis-server".to_owned(), file.display().to_string()], &[])
}

fn lacking(redis: &Redis) -> Vec<String> {
    let url = redis.url();
    let task = program("check-redis", &[("REDIS_URL", &url)]).arg("--json").output().expect("it runs");
    let said: serde_json::Value =
        serde_json::from_slice(&task.stdout).unwrap_or_else(|error| panic!("{error}: {task:?}"));
    assert_eq!(
        said["durable"] == true && said["mayEvict"] == false,
        said["lacking"] == serde_json::json!([])
    );
    serde_json::from_value(said["lacking"].clone()).expect("commands")
}

#[test]
fn the_commands_that_check_redis_prints_make_redis_durable_and_keep_the_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut redis = with_file(&folder);
    redis.run::<()>(&["SET", "visitorCount", "41"]);
    let commands = lacking(&redis);
    let expected = [
        "CONFIG SET appendonly yes",
        "CONFIG SET appendfsync always",
        "CONFIG SET maxmemory-policy noeviction",
        "CONFIG REWRITE",
    ];
    assert_eq!(commands, expected);
    for command in commands {
        redis.run::<()>(&command.split(' ').collect::<Vec<_>>());
    }
    assert!(lacking(&redis).is_empty());
    eventually("the append-only file is whole", || {
        let info: String = redis.run(&["INFO", "persistence"]);
        let whole = info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
        whole.then_some(())
    });
    redis.kill();
    redis.resume();
    assert!(lacking(&redis).is_empty());
    assert_eq!(redis.count(), 41);
}

/// So the manual warns of it: Redis reads the append-only file then, and there is none.
#[test]
fn a_redis_that_is_made_durable_by_its_file_alone_starts_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut redis = with_file(&folder);
    redis.run::<()>(&["SET", "visitorCount", "41"]);
    redis.run::<()>(&["SAVE"]);
    redis.kill();
    redis.resume();
    assert_eq!(redis.count(), 41);
    redis.kill();
    std::fs::write(folder.path().join("redis.conf"), "appendonly yes\n").expect("a file");
    redis.resume();
    assert_eq!(redis.count(), 0);
}

#[test]
fn a_user_is_there_after_a_restart_of_redis_once_the_settings_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut redis = with_file(&folder);
    let mut users = |commands: &[&[&str]]| {
        for command in commands {
            redis.run::<()>(command);
        }
        redis.kill();
        redis.resume();
        redis.run::<Vec<String>>(&["ACL", "USERS"])
    };
    let user = ["ACL", "SETUSER", "visitor", "on", ">secret", "~visitorCount", "+get"];
    assert_eq!(users(&[&user]), ["default"]);
    assert_eq!(users(&[&user, &["CONFIG", "REWRITE"]]), ["default", "visitor"]);
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
