//! The shipped rules, in a real Prometheus that scrapes two instances while faults are made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::date_time_ymd;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::activation::admin_address;
use crate::dashboard;
use crate::logs::Unread;
use crate::monitors::Prometheus;
use crate::proxies::free_port;
use crate::redis_url::Tls;
use crate::support::{Client, Redis, Service, eventually, held_socket, program};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(name)
}

fn promtool(arguments: &[&str]) {
    let promtool = Command::new("promtool").args(arguments).current_dir(shipped("")).output();
    let output = promtool.expect("promtool");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules_and_the_example() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "abukiks.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn each_alert_fires_and_clears_when_it_should() {
    promtool(&["test", "rules", "abukiks.rules.test.yml"]);
}

/// The shipped rules with shorter times, and nothing else changed.
fn hurried() -> String {
    let rules = std::fs::read_to_string(shipped("abukiks.rules.yml")).expect("rules");
    let hurried = rules.lines().map(|line| {
        if let Some((before, _)) = line.split_once("for: ") {
            return format!("{before}for: 400ms\n");
        }
        match line.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once(']')?))) {
            Some((before, (_, after))) => format!("{before}[6s]{after}\n"),
            None => format!("{line}\n"),
        }
    });
    hurried.collect()
}

/// A Prometheus with the rules, and the alerts that it tells of.
#[derive(Debug)]
struct Alerts {
    prometheus: Prometheus,
    instances: String,
    _folder: TempDir,
}

impl Alerts {
    /// Has these instances scraped at their `ADMIN_PORT`, and waits until nothing is wrong with them.
    fn of(instances: &mut [Service]) -> Self {
        Self::at(&instances.iter_mut().map(admin_address).collect::<Vec<_>>())
    }

    /// Has the instances scraped at these addresses.
    fn at(addresses: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("rules.yml"), hurried()).expect("a file");
        let targets: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let settings = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: abukiks, static_configs: [{{targets: {targets:?}}}]}}]"
        );
        let prometheus = Prometheus::start(folder.path(), &settings);
        Self { prometheus, instances: targets.len().to_string(), _folder: folder }
    }

    /// Waits until these fire, and no others.
    fn wait_for(&self, expected: &[&str], mut meanwhile: impl FnMut()) {
        let expected: BTreeSet<String> = expected.iter().map(|name| format!("Abukiks{name}")).collect();
        eventually(&format!("{expected:?} fires alone"), || {
            meanwhile();
            (self.firing()? == expected).then_some(())
        });
    }

    /// What a query finds.
    fn find(&self, query: &str) -> Option<Vec<Value>> {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let mut found = self.prometheus.ask(&format!("query?query={encoded}"))?;
        serde_json::from_value(found["result"].take()).ok()
    }

    fn firing(&self) -> Option<BTreeSet<String>> {
        let firing = self.find(dashboard::FIRING)?;
        firing.iter().map(|alert| alert["metric"]["alertname"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until all instances are scraped again, and nothing fires.
    fn clear(&self, mut meanwhile: impl FnMut()) {
        eventually("all instances are scraped", || {
            meanwhile();
            let up = self.find("sum(up)")?;
            (up.first()?["value"][1] == *self.instances).then_some(())
        });
        self.wait_for(&[], meanwhile);
    }
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// An instance that gives up soon, and that ten clients can fill.
fn start(redis: &Redis, admin_port: u16) -> Service {
    redis.service(&[
        ("ADMIN_PORT", &admin_port.to_string()),
        ("MAX_CONNECTIONS", "10"),
        ("HEADER_TIMEOUT", "1m"),
        ("REDIS_TIMEOUT", "200ms"),
    ])
}

#[test]
fn each_query_of_the_dashboard_finds_something() {
    let redis = Redis::start();
    let mut instance = [start(&redis, 0)];
    let alerts = Alerts::of(&mut instance);
    for query in dashboard::queries("6s") {
        eventually(&query, || {
            instance[0].get("/");
            (!alerts.find(&query)?.is_empty()).then_some(())
        });
    }
}

#[test]
fn each_fault_fires_its_alert_which_clears_when_the_fault_is_over() {
    let mut redis = Redis::start_with(&DURABLE);
    let admin_port = free_port().port();
    let mut instances = [start(&redis, 0), start(&redis, admin_port)];
    let alerts = Alerts::of(&mut instances);
    let visit = |instances: &[Service]| {
        for instance in instances {
            instance.get("/");
        }
    };
    alerts.clear(|| visit(&instances));

    // Redis is gone.
    redis.kill();
    let expected = ["RedisDown", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"];
    alerts.wait_for(&expected, || visit(&instances));
    redis.resume();
    alerts.clear(|| visit(&instances));

    // Redis acknowledges what is not on disk yet.
    redis.kill();
    redis.resume_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    alerts.wait_for(&["RedisNotDurable"], || visit(&instances));
    // Redis removes keys when its memory is full.
    redis.kill();
    redis.resume_with(
        &[&DURABLE[..], &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]].concat(),
    );
    alerts.wait_for(&["RedisMayEvict"], || visit(&instances));
    redis.kill();
    redis.resume_with(&DURABLE);
    alerts.clear(|| visit(&instances));

    // The count is set back by hand.
    let count = redis.count();
    let () = redis.run(&["SET", "visitorCount", "1"]);
    alerts.wait_for(&["CountWentBack"], || visit(&instances));
    let mut reset = program("reset-count", &[("REDIS_URL", &redis.url())]);
    assert!(reset.args(["--to", &count.to_string()]).output().expect("it runs").status.success());
    alerts.clear(|| visit(&instances));

    // Clients that send no more than half of a request take all connections of one instance.
    let mut clients: Vec<Client> = (0..10).map(|_| instances[0].connect()).collect();
    for client in &mut clients {
        client.send("GET / HT").expect("an open connection");
    }
    alerts.wait_for(&["ConnectionsNearLimit"], || {});
    drop(clients);
    alerts.clear(|| visit(&instances));

    // An instance is gone.
    instances[1].stop();
    alerts.wait_for(&["InstanceDown"], || visit(&instances[..1]));
    instances[1] = start(&redis, admin_port);
    alerts.clear(|| visit(&instances));

    // An instance is killed and started again and again.
    let mut started = Instant::now();
    alerts.wait_for(&["InstanceFlaps"], || {
        // The start is known to the second.
        if started.elapsed() > Duration::from_secs(1) {
            started = Instant::now();
            instances[1].process.signal(Signal::KILL);
            instances[1].process.wait();
            instances[1] = start(&redis, admin_port);
        }
    });
    alerts.clear(|| visit(&instances));
}

#[test]
fn log_lines_that_are_dropped_fire_their_alert_which_clears_when_stdout_is_read() {
    let held = held_socket();
    let mut instance = Unread::start_at(&held, &[]);
    let alerts = Alerts::at(&[held.local_addr().expect("an address")]);
    alerts.clear(|| {});
    alerts.wait_for(&["LogLinesDropped"], || instance.log_much());
    let Unread { mut stdout, mut client, .. } = instance;
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    alerts.wait_for(&[], || {
        client.get("/nowhere");
    });
}

#[test]
fn a_certificate_that_has_expired_fires_its_alert_which_clears_when_it_is_renewed() {
    let tls = Tls::new();
    let identity = |year| tls.identity(&tls.host, |params| params.not_after = date_time_ymd(year, 1, 1));
    let expired = tls.redis(&identity(2021), "no");
    let settings = [("REDIS_CA_FILE", tls.file("ca.pem")), ("ADMIN_PORT", "0".into())];
    let mut instance = [tls.serve(&settings.each_ref().map(|(name, value)| (*name, value.as_path())))];
    let alerts = Alerts::of(&mut instance);
    let visit = || drop(instance[0].get("/"));
    let expected = ["RedisCertificate", "RedisDown", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"];
    alerts.wait_for(&expected, visit);
    drop(expired);
    let _renewed = tls.redis(&identity(2090), "no");
    // Without an append-only file it is not durable.
    alerts.wait_for(&["RedisNotDurable"], visit);
}
