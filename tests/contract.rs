//! Every answer is as docs/openapi.yaml says, whatever is asked.
//!
//! schemathesis makes requests from the description, right and wrong ones, and holds the answers against it.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Redis, Service};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");

/// Runs a program that `make test` installs by tests/requirements.txt.
pub(crate) fn run_tool(tool: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
    let path = Path::new(ROOT).join(".run/tools/bin").join(tool);
    assert!(path.exists(), "{} is missing; run `make test`, which installs it", path.display());
    let folder = tempfile::tempdir().expect("a folder");
    Command::new(path)
        .args(arguments)
        // schemathesis takes proxies from the environment, and keeps notes where it is and at home.
        .env_clear()
        .env("HOME", folder.path())
        .current_dir(folder.path())
        .output()
        .expect("the tool starts")
}

/// Runs one that has to be content.
pub(crate) fn check_with(tool: &str, arguments: &[impl AsRef<OsStr> + Debug]) {
    let output = run_tool(tool, arguments);
    assert!(
        output.status.success(),
        "{tool} {arguments:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Holds the service against its description, as a client that wants answers in this form.
fn hold_to_the_contract(service: &Service, form: &str, but: Option<&str>) {
    let url = format!("http://{}", service.address);
    let accept = format!("Accept: {form}");
    let mut arguments = vec!["run", DESCRIPTION, "--url", &url, "--header", &accept];
    // The same requests each time: what fails, fails for everybody.
    arguments.extend(["--generation-deterministic", "--max-examples", "20"]);
    arguments.extend(["--phases", "examples,coverage,fuzzing", "--warnings", "off", "--no-color"]);
    arguments.extend(but.iter().flat_map(|check| ["--exclude-checks", check]));
    check_with("schemathesis", &arguments);
}

fn answered(service: &Service, route: &str, status: u16) -> bool {
    let series = format!("abukiks_http_requests_total{{route=\"{route}\",status=\"{status}\"}}");
    service.metric(&series) > 0.0
}

#[test]
fn the_description_of_the_service_is_valid() {
    check_with("openapi-spec-validator", &[DESCRIPTION]);
}

#[test]
fn every_answer_is_as_described() {
    let redis = Redis::start();
    let service = redis.service(&[("SESSION_LIFETIME", "1h")]);
    for form in ["text/plain", "text/html", "application/json"] {
        hold_to_the_contract(&service, form, None);
    }
    hold_to_the_contract(&Service::start(&redis), "application/json", None);
    for route in [
        "/",
        "/count",
        "/badge.svg",
        "/session",
        "/healthz",
        "/readyz",
        "/metrics",
        "/version",
        "/status",
        "/robots.txt",
    ] {
        assert!(answered(&service, route, 200), "{route} was not asked for");
    }
    assert!(answered(&service, "/", 403), "no visit was turned away");
    assert!(answered(&service, "unknown", 404), "no path was unknown");
}

#[test]
fn every_refusal_is_as_described() {
    let redis = Redis::start();
    let service = redis.service(&[
        ("HEADER_TIMEOUT", "1s"),
        // As much as a target that is too long needs.
        ("MAX_HEADER_BYTES", "80000"),
    ]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract.py");
    let (host, port) = (service.address.ip().to_string(), service.address.port().to_string());
    check_with("python", &[script, DESCRIPTION, &host, &port]);
    assert_eq!(redis.count(), 0, "a refused request was counted");
}

#[test]
fn every_answer_is_as_described_while_redis_is_away() {
    let mut redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "10ms")]);
    redis.kill();
    for form in ["text/plain", "application/json"] {
        // 503 is what is wanted here.
        hold_to_the_contract(&service, form, Some("not_a_server_error"));
    }
    for route in ["/", "/readyz"] {
        assert!(answered(&service, route, 503), "{route} was never refused");
        assert!(!answered(&service, route, 500), "{route} failed");
    }
}
