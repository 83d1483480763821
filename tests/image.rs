//! In a container: a root that cannot be written, no privileges, any user, and still the service.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::{Redis, Service};

pub(crate) const IMAGE: &str = "localhost/abukiks:test";

/// The image, in a storage of the test's own.
#[derive(Debug)]
pub(crate) struct Podman {
    folder: TempDir,
}

impl Podman {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn with_the_image() -> Self {
        let podman = Self::new();
        let image = podman.folder.path().join("image.tar");
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dev/image-for-test.sh");
        let made = Command::new(script).arg(&image).output().expect("the script runs");
        assert!(made.status.success(), "{made:?}");
        podman.run(&["load", "--quiet", "--input", &image.display().to_string()]);
        podman
    }

    pub(crate) fn command(&self) -> Command {
        let mut podman = Command::new("podman");
        for (option, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman.arg(option).arg(self.folder.path().join(name));
        }
        // What works also where the system lends a container engine little.
        podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        podman.args(["--runtime", "runc", "--events-backend", "file"]);
        podman.stdin(Stdio::null());
        podman
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command().args(arguments).output().expect("podman runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    /// A container of the image on the network of the host, with these further options.
    fn container(&self, redis: &Redis, options: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--rm", "--network", "host", "--no-healthcheck"]);
        command.args(["--read-only", "--cap-drop", "all", "--user", "65532"]);
        command.args(["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]);
        command.arg("--volume");
        command.arg(format!("{}:/redis.sock", redis.socket().display()));
        command.args(["--env", "REDIS_URL=unix:///redis.sock", "--env", "PORT=0"]);
        command.args(options).arg(IMAGE);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A test that failed may have left its container.
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
    }
}

#[test]
fn the_image_serves_and_drains_without_a_writable_root_or_any_privilege() {
    let podman = Podman::with_the_image();
    // Whichever user the container runs as.
    let redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let mut service = Service::from_command(podman.container(&redis, &["--name", "counter"]));

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
    let mut count = podman.container(&redis, &["--entrypoint", "/bin/show-count"]);
    assert_eq!(count.output().expect("podman runs").stdout, b"1\n");
    // There is nothing else that one could run.
    let shell = podman.container(&redis, &["--entrypoint", "/bin/sh"]).output();
    assert!(!shell.expect("podman runs").status.success());

    // `podman stop` kills after ten seconds; what is drained has ended before, with status 0.
    podman.run(&["stop", "counter"]);
    assert!(service.process.wait().success());
    service.log_line("\"message\":\"drained\"");
    assert!(idle.is_closed());
    assert_eq!(redis.count(), 1);
}
