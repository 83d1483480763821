//! The promise holds with every Redis that is said to do, and with Valkey.

use std::path::Path;
use std::process::Command;

use crate::access::what_is_listed_is_enough;
use crate::crowd::{Crowd, assert_exact};
use crate::machine;
use crate::proxy::Proxy;
use crate::replication::{Pair, a_repetition_waits};
use crate::support::{Redis, Service, program};

/// Counts, with this server, through cut connections and forgotten scripts.
fn keep_the_promise(server: &[String], version: &str) {
    let redis = Redis::start_as(server, &[]);
    let proxy = Proxy::to(&redis);
    for protocol in ["resp2", "resp3"] {
        redis.run::<()>(&["FLUSHALL"]);
        let url = format!("{}?protocol={protocol}", proxy.url());
        let mut service = Service::start_with(&[("REDIS_URL", &url), ("REDIS_TIMEOUT", "10s")]);
        let crowd = Crowd::visit(&[service.address], 4);
        for _ in 0..3 {
            crowd.wait_for_numbers(25);
            proxy.cut();
            crowd.wait_for_numbers(25);
            redis.run::<()>(&["SCRIPT", "FLUSH"]);
        }
        crowd.wait_for_numbers(25);
        let visits = crowd.go_home();
        assert!(visits.iter().all(|visit| visit.number.is_some()), "{protocol}");
        assert_exact(&visits, redis.count());
        service.log_line(&format!("Redis is {version}"));

        redis.run::<()>(&["DEL", "visitorCount"]);
        redis.run::<()>(&["RPUSH", "visitorCount", "a list"]);
        assert_eq!(service.get("/").status, 503);
        service.log_line("holds a list, not a plain integer");
        redis.run::<()>(&["SET", "visitorCount", "9223372036854775806"]);
        assert_eq!(service.get("/").number(), i64::MAX);
        assert_eq!(service.get("/").status, 503);
        service.log_line("cannot be counted up further");

        let reset = program("reset-count", &[("REDIS_URL", &url)]).output();
        assert!(reset.expect("it runs").status.success());
        assert_eq!(service.get("/").number(), 1, "{protocol}");
        service.log_line("the count was reset");
    }
    a_repetition_waits(&Pair::start_as(server));
    what_is_listed_is_enough(server);
}

#[test]
fn the_redis_of_this_machine_keeps_the_promise() {
    keep_the_promise(&["redis-server".to_owned()], "Redis ");
}

/// As `make test` installs it, where there is one: tests/requirements.txt says for which machines.
#[test]
fn redis_6_2_keeps_the_promise() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".run/tools");
    let server = tools.join("bin/redis-server");
    if server.exists() {
        keep_the_promise(&[server.display().to_string()], "Redis 6.2.");
        return;
    }
    let version = Command::new(tools.join("bin/python"))
        .args(["-c", "import sys; sys.exit(sys.version_info < (3, 13))"])
        .status();
    let too_new = version.is_ok_and(|status| status.success());
    let on_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!on_ci || too_new || !cfg!(target_arch = "x86_64"), "{} is missing", server.display());
    eprintln!("skipped: there is no Redis 6.2 for this machine");
}

#[test]
fn redis_8_keeps_the_promise() {
    if let Some(server) = machine::server("redis-server") {
        keep_the_promise(&server, "Redis 8.");
    }
}

#[test]
fn valkey_8_keeps_the_promise() {
    if let Some(server) = machine::server("valkey-server") {
        keep_the_promise(&server, "Valkey 8.");
    }
}
