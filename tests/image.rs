//! In a container: a root that cannot be written, no privileges, any user, and still the service.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::podman::{IMAGE, NETWORK, Podman};
use crate::support::{Client, Redis, Service, eventually};

/// A container of the image on the network of the host, with these further options.
fn container(podman: &Podman, redis: &Redis, options: &[&str]) -> Command {
    let mut command = podman.command();
    command.args(["run", "--rm", "--network", "host", "--no-healthcheck"]);
    command.args(["--read-only", "--cap-drop", "all", "--user", "65532"]);
    command.arg("--volume");
    command.arg(format!("{}:/redis.sock", redis.socket().display()));
    command.args(["--env", "REDIS_URL=unix:///redis.sock", "--env", "PORT=0"]);
    command.args(options).arg(IMAGE);
    command
}

#[test]
fn the_image_serves_and_drains_without_a_writable_root_or_any_privilege() {
    let podman = Podman::with_the_image();
    // Whichever user the container runs as.
    let redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let mut service = Service::from_command(container(&podman, &redis, &["--name", "counter"]));

    let mut idle = service.connect();
    assert_eq!(idle.get("/").number(), 1);
    // Its log is JSON lines on stdout, for a collector.
    let event = service.log_line("http_status");
    assert!(event.starts_with('{') && event.ends_with('}'), "{event}");

    // What an engine runs to see whether it is well; here the port is one that the image cannot know.
    let test = ["image", "inspect", "--format", "{{json .HealthCheck.Test}}"];
    let command = podman.run(&[&test[..], &[IMAGE]].concat()).stdout;
    let command: Vec<String> = serde_json::from_slice(&command).expect("JSON");
    assert_eq!(command[0], "CMD", "{command:?}");
    let port = format!("PORT={}", service.address.port());
    let command: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    podman.run(&[&["exec", "--env", &port, "counter"], &command[..]].concat());

    // A one-off process of the same release.
    let mut count = container(&podman, &redis, &["--entrypoint", "/bin/show-count"]);
    assert_eq!(count.output().expect("podman runs").stdout, b"1\n");
    // There is nothing else that one could run.
    let shell = container(&podman, &redis, &["--entrypoint", "/bin/sh"]).output();
    assert!(!shell.expect("podman runs").status.success());

    // `podman stop` kills after ten seconds; what is drained has ended before, with status 0.
    podman.run(&["stop", "counter"]);
    assert!(service.process.wait().success());
    service.log_line("\"message\":\"drained\"");
    assert!(idle.is_closed());
    assert_eq!(redis.count(), 1);
}

/// A container as one starts it without a further thought, in the network of the test. Returns what its
/// log says that it listens on.
fn start_plainly(podman: &Podman, options: &[&str]) -> String {
    let run = ["run", "--detach", "--name", "plain", "--replace", "--no-healthcheck", "--network", NETWORK];
    podman.run(&[&run[..], options, &[IMAGE]].concat());
    eventually("it listens", || {
        let log = podman.said(&["logs", "plain"]);
        let (_, rest) = log.split_once("\"listening\":\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    })
}

/// Where visitors find it by this family (`IPAddress`, `GlobalIPv6Address`).
fn address(podman: &Podman, family: &str) -> SocketAddr {
    let address =
        podman.inspect("plain", &format!("(index .NetworkSettings.Networks \"{NETWORK}\").{family}"));
    SocketAddr::new(address.parse().expect("an address"), 5000)
}

#[test]
fn the_image_says_how_to_set_redis_url_when_no_redis_answers() {
    let Some(podman) = Podman::in_own_network() else { return };
    start_plainly(&podman, &[]);
    assert_eq!(Client::connect(address(&podman, "IPAddress")).get("/").status, 503);
    let log = podman.said(&["logs", "plain"]);
    let hint = "Connection refused (os error 111), at 127.0.0.1:6379; REDIS_URL is not set: set it to where Redis is";
    assert!(log.contains(hint), "{log}");
    let mut count = podman.command();
    count.args(["run", "--rm", "--network", NETWORK, "--entrypoint", "/bin/show-count", IMAGE]);
    let count = count.output().expect("podman runs");
    assert_eq!(count.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&count.stderr).contains(hint), "{count:?}");

    start_plainly(&podman, &["--env", "REDIS_URL=redis://127.0.0.1:6380/"]);
    assert_eq!(Client::connect(address(&podman, "IPAddress")).get("/").status, 503);
    let log = podman.said(&["logs", "plain"]);
    assert!(log.contains("at 127.0.0.1:6380") && !log.contains("REDIS_URL"), "{log}");
}

#[test]
fn the_image_listens_on_ipv6_too_and_without_it_on_ipv4() {
    let Some(podman) = Podman::in_own_network() else { return };
    let answers = |family: &str| Client::try_get(address(&podman, family), "/healthz").is_ok();
    assert_eq!(start_plainly(&podman, &[]), "http://[::]:5000/");
    assert!(answers("GlobalIPv6Address") && answers("IPAddress"));

    let off = ["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"];
    start_plainly(&podman, &off);
    assert!(answers("IPAddress") && !answers("GlobalIPv6Address"));

    // A kernel without IPv6, as far as the process can see: there is no such socket (EAFNOSUPPORT, 97).
    let profile = podman.file("seccomp.json");
    let no_ipv6 = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
        "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
        "args": [{ "index": 0, "value": 10, "op": "SCMP_CMP_EQ" }]
    }] }"#;
    fs::write(&profile, no_ipv6).expect("a file");
    let option = format!("seccomp={}", profile.display());
    let listening = start_plainly(&podman, &[&off[..], &["--security-opt", &option]].concat());
    assert_eq!(listening, "http://0.0.0.0:5000/");
    assert!(answers("IPAddress"));
}
