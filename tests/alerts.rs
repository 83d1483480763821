//! The shipped rules, in a real Prometheus that scrapes two instances while faults are made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::activation::admin_address;
use crate::monitors::Prometheus;
use crate::proxies::free_port;
use crate::support::{Client, Redis, Service, eventually, program};

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
            Some((before, (_, after))) => format!("{before}[3s]{after}\n"),
            None => format!("{line}\n"),
        }
    });
    hurried.collect()
}

/// Two instances, their Redis, and the Prometheus that watches them.
struct Watched {
    redis: Redis,
    instances: [Service; 2],
    prometheus: Prometheus,
    _folder: TempDir,
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

const SETTINGS: [(&str, &str); 3] =
    [("MAX_CONNECTIONS", "10"), ("HEADER_TIMEOUT", "1m"), ("REDIS_TIMEOUT", "200ms")];

impl Watched {
    fn start() -> Self {
        let redis = Redis::start_with(&DURABLE);
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port().port().to_string());
        let start = |port| redis.service(&[&SETTINGS[..], &[("ADMIN_PORT", port)]].concat());
        let mut instances = [start("0"), start(&port)];
        std::fs::write(folder.path().join("rules.yml"), hurried()).expect("a file");
        let targets = instances.each_mut().map(|instance| admin_address(instance).to_string());
        let settings = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: abukiks, static_configs: [{{targets: {targets:?}}}]}}]"
        );
        let prometheus = Prometheus::start(folder.path(), &settings);
        Self { redis, instances, prometheus, _folder: folder }
    }

    /// The alerts that fire now.
    fn firing(&self) -> Option<BTreeSet<String>> {
        let alerts = self.prometheus.ask("alerts")?;
        let firing = alerts["alerts"].as_array()?.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| {
                Some(alert["labels"]["alertname"].as_str()?.trim_start_matches("Abukiks").to_owned())
            })
            .collect()
    }

    /// Waits until these fire, and no others.
    fn wait_for(&self, expected: &[&str], meanwhile: impl Fn()) {
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        let mut last = None;
        let what = format!("only {expected:?} fires");
        eventually(&what, || {
            meanwhile();
            let firing = self.firing()?;
            if last.as_ref() != Some(&firing) {
                println!("firing: {firing:?}");
                last = Some(firing.clone());
            }
            (firing == expected).then_some(())
        });
    }

    fn visit(&self) {
        for instance in &self.instances {
            instance.get("/");
        }
    }

    /// What follows is without alerts of what was before.
    fn calm(&self) {
        self.wait_for(&[], || self.visit());
        assert_eq!(
            self.prometheus.ask("query?query=sum(up)").expect("an answer")["result"][0]["value"][1],
            "2"
        );
    }

    /// Ends Redis, and starts it anew on the same data with other arguments.
    fn restart_redis(&mut self, arguments: &[&str]) {
        self.redis.kill();
        self.redis.resume_with(arguments);
    }
}

#[test]
fn each_fault_fires_its_alert_which_clears_when_the_fault_is_over() {
    let mut watched = Watched::start();
    eventually("Prometheus has scraped both", || {
        watched.visit();
        let up = watched.prometheus.ask("query?query=sum(up)")?;
        (up["result"][0]["value"][1] == "2").then_some(())
    });
    watched.calm();

    // Redis is gone.
    watched.redis.kill();
    watched.wait_for(&["RedisDown", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"], || watched.visit());
    watched.redis.resume();
    watched.calm();

    // Redis acknowledges what is not on disk yet.
    watched.restart_redis(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    watched.wait_for(&["RedisNotDurable"], || watched.visit());
    // Redis removes keys when its memory is full.
    let evicting = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    watched.restart_redis(&[&DURABLE[..], &evicting].concat());
    watched.wait_for(&["RedisMayEvict"], || watched.visit());
    watched.restart_redis(&DURABLE);
    watched.calm();

    // A hand sets the count back.
    let count = watched.redis.count();
    let () = watched.redis.run(&["SET", "visitorCount", "1"]);
    watched.wait_for(&["CountWentBack"], || watched.visit());
    let mut reset = program("reset-count", &[("REDIS_URL", &watched.redis.url())]);
    assert!(reset.args(["--to", &count.to_string()]).output().expect("it runs").status.success());
    watched.calm();

    // Clients that send no more than half of a request take all connections of one instance.
    let mut clients: Vec<Client> = (0..10).map(|_| watched.instances[0].connect()).collect();
    for client in &mut clients {
        client.send("GET / HT").expect("an open connection");
    }
    watched.wait_for(&["ConnectionsNearLimit"], || {});
    drop(clients);
    watched.calm();

    // An instance is gone.
    let admin_port = admin_address(&mut watched.instances[1]).port().to_string();
    watched.instances[1].stop();
    watched.wait_for(&["InstanceDown"], || {});
    watched.instances[1] = watched.redis.service(&[&SETTINGS[..], &[("ADMIN_PORT", &admin_port)]].concat());
    watched.calm();
}
