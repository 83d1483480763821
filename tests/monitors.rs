//! What Prometheus scrapes, it understands, in each of the two formats.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::proxies::{free_port, nginx_with};
use crate::support::{Client, Process, Redis, Service, eventually};

/// A Prometheus of the test's own.
#[derive(Debug)]
pub(crate) struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one whose settings, and whose data, are in `folder`.
    pub(crate) fn start(folder: &Path, settings: &str) -> Self {
        let (file, address) = (folder.join("prometheus.yml"), free_port());
        std::fs::write(&file, settings).expect("a file");
        let process = Process::spawn(
            Command::new("prometheus")
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
                .arg(format!("--web.listen-address={address}"))
                .stdin(Stdio::null())
                .stderr(Stdio::null()),
        );
        Self { _process: process, address }
    }

    /// The data of an answer of its API, if it answers yet.
    pub(crate) fn ask(&self, path: &str) -> Option<Value> {
        std::net::TcpStream::connect(self.address).ok()?;
        let mut client = Client::connect(self.address);
        client.send(format!("GET /api/v1/{path} HTTP/1.0\r\nHost: test\r\n\r\n")).ok()?;
        let answer = String::from_utf8(client.rest().ok()?).ok()?;
        let mut answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(answer["data"].take())
    }
}

/// A service of which all metrics have a value.
fn known(redis: &Redis) -> Service {
    let mut service = Service::start(redis);
    assert_eq!(service.get("/").number(), 1);
    service.log_line("Redis is");
    service
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let redis = Redis::start();
    let metrics = known(&redis).get("/metrics").body;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), metrics).expect("a file");
    let input = std::fs::File::open(file.path()).expect("a file");
    let check = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().expect("promtool");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn a_real_prometheus_scrapes_both_formats() {
    let redis = Redis::start();
    let service = known(&redis);
    // Prometheus itself asks for OpenMetrics.
    let (folder, own) = (tempfile::tempdir().expect("a folder"), free_port());
    let site = format!(
        "server {{ listen {own}; location / {{
            proxy_pass http://{}; proxy_set_header Accept 'text/plain;version=0.0.4'; }} }}",
        service.address
    );
    let (_nginx, plain) = nginx_with(&folder, &site, own);
    let job = |name, address| {
        format!(
            "- job_name: {name}\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  static_configs: [{{targets: ['{address}']}}]\n"
        )
    };
    let jobs = job("openmetrics", service.address) + &job("text", plain);
    let prometheus = Prometheus::start(folder.path(), &format!("scrape_configs:\n{jobs}"));
    for (name, query) in [
        ("openmetrics", "abukiks_visits_total%7Bjob=%22openmetrics%22,visitor=%22new%22%7D"),
        ("text", "abukiks_visits_total%7Bjob=%22text%22,visitor=%22new%22%7D"),
        ("openmetrics", "abukiks_redis_up%7Bjob=%22openmetrics%22%7D"),
        ("text", "abukiks_redis_up%7Bjob=%22text%22%7D"),
    ] {
        eventually(name, || {
            let found = prometheus.ask(&format!("query?query={query}"))?;
            (found["result"][0]["value"][1] == "1").then_some(())
        });
    }
}
