//! The factors that show in no other promise: how the service is built, released and attached.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::support::{Redis, Service, program};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn proc(pid: Pid, entry: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{entry}", pid.as_raw_nonzero()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the crate that ends up in a program.
fn sources() -> Vec<PathBuf> {
    ["src", "admin"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Factor I: one codebase, many deploys.
#[test]
fn two_deploys_are_the_same_program_with_other_settings() {
    let redis = Redis::start();
    let deploy = |name| redis.service(&[("RELEASE", name), ("COUNTER_KEY", name)]);
    let (staging, production) = (deploy("staging"), deploy("production"));
    let programs = [&staging, &production]
        .map(|deploy| fs::read_link(proc(deploy.process.pid(), "exe")).expect("a program"));
    assert_eq!(programs[0], programs[1]);
    assert_eq!(staging.get("/").number(), 1);
    assert_eq!(production.get("/").number(), 1);
    assert!(staging.get("/version").body.contains("\"staging\""));
    assert!(production.get("/version").body.contains("\"production\""));
}

/// Factor II: dependencies are declared, each by its content.
#[test]
fn every_dependency_is_pinned_to_what_it_contains() {
    // Fails when Cargo.lock is not there or does not fit Cargo.toml.
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "all"])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let ignored = read(&root().join(".gitignore"));
    assert!(!ignored.contains(".lock"), "Cargo.lock belongs into the repository");

    let lock = read(&root().join("Cargo.lock"));
    let unpinned: Vec<_> = lock
        .split("[[package]]\n")
        .skip(1)
        .filter(|package| !package.contains("\nchecksum = \""))
        .filter_map(|package| package.lines().next())
        .collect();
    assert_eq!(unpinned, ["name = \"abukiks\""]);
}

/// Factor II: nothing is taken from the system but the C library.
#[test]
fn the_program_loads_nothing_but_the_c_library() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    service.get("/").number();
    let maps = read(&proc(service.process.pid(), "maps"));
    let loaded: BTreeSet<_> = maps
        .lines()
        .filter_map(|line| line.rsplit_once('/'))
        .map(|(_, file)| file)
        .filter(|file| file.contains(".so"))
        .collect();
    assert!(maps.contains("/abukiks\n"), "{maps}");
    let known = |file: &str| {
        ["ld-linux", "libc.so", "libm.so", "libgcc_s.so"].iter().any(|library| file.starts_with(library))
    };
    assert!(loaded.iter().all(|file| known(file)), "{loaded:?}");
}

/// Factor II: no tool is taken for granted.
#[test]
fn the_program_executes_no_other_one() {
    let redis = Redis::start();
    let trace = redis.folder().join("trace");
    let mut strace = Command::new("strace");
    strace.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    // The tracer runs beside the program (-D), which so remains our own child.
    strace
        .args(["-D", "-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_abukiks"))
        .envs([("PORT", "0"), ("LOG_FORMAT", "json"), ("REDIS_URL", &redis.url())]);
    let mut service = Service::from_command(strace);
    service.get("/").number();
    service.get("/readyz");
    service.get("/metrics");
    assert!(service.stop().success());
    let executed = read(&trace);
    assert_eq!(executed.lines().count(), 1, "{executed}");
}

/// Factor V: a release is a build with its configuration, and has an id of its own.
#[test]
fn each_release_of_a_build_is_named_wherever_it_shows() {
    let redis = Redis::start();
    for release in ["first-1", "second-2"] {
        let mut service = redis.service(&[("RELEASE", release)]);
        let version: serde_json::Value = serde_json::from_str(&service.get("/version").body).expect("JSON");
        assert_eq!(version["release"], release);
        assert_eq!(version["version"], abukiks::VERSION);
        assert_eq!(version["commit"], abukiks::COMMIT);
        let metrics = service.get("/metrics").body;
        let info = metrics.lines().find(|line| line.starts_with("abukiks_build_info{"));
        let info = info.expect("what runs here");
        assert!(info.contains(&format!("release=\"{release}\"")), "{info}");
        let line = service.log_line("\"http_path\":\"/version\"");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["release"], release);
    }
}

/// Factor V: the build stage knows nothing of the configuration.
#[test]
fn a_build_takes_only_its_version_and_its_commit_from_the_environment() {
    assert!(!root().join("build.rs").exists(), "a build script can read anything");
    let taken: BTreeSet<String> = sources()
        .iter()
        .flat_map(|path| {
            read(path)
                .split("env!(\"")
                .skip(1)
                .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
                .collect::<Vec<_>>()
        })
        .collect();
    let expected = ["ABUKIKS_COMMIT", "CARGO_PKG_VERSION"];
    assert_eq!(taken, BTreeSet::from(expected.map(str::to_owned)));
}

/// Factor X: there is one way to count, and it is Redis.
#[test]
fn without_redis_nothing_stands_in_for_it() {
    let mut redis = Redis::start();
    let service = Service::start(&redis);
    assert_eq!(service.get("/").number(), 1);
    redis.kill();
    let refused = service.get("/");
    assert_eq!(refused.status, 503, "{refused:?}");
    redis.resume();
    // It keeps nothing on disk: a number that goes on would be the service's own.
    let counted = crate::support::eventually("it counts again", || {
        let answer = service.get("/");
        (answer.status == 200).then(|| answer.number())
    });
    assert_eq!(counted, 1);
}

/// Factor XI: the log is a stream. The process manages no files, and so needs no place for them.
#[test]
fn the_service_opens_no_file_to_write_to() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    service.get("/").number();
    let open = |folder: &Path| -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(folder).expect("open files");
        entries
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.is_file())
            .collect()
    };
    // What this test was started with, such as a log on stderr, is not the service's.
    let inherited = open(Path::new("/proc/self/fd"));
    let own = open(&proc(service.process.pid(), "fd"));
    assert_eq!(own.difference(&inherited).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

/// Factor XII: admin processes are of the same release as the service.
#[test]
fn admin_processes_are_of_the_same_build() {
    for name in ["abukiks", "reset-count", "show-count", "check-redis"] {
        let output = program(name, &[]).arg("--version").output();
        let said = String::from_utf8(output.expect("a program").stdout).expect("text");
        let expected = format!("{name} {} ({})\n", abukiks::VERSION, abukiks::COMMIT);
        assert_eq!(said, expected);
    }
}
