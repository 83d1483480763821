//! What a request costs, in counts that no noise moves: system calls, instructions, memory, and the
//! size of the program. All of the release, as it is shipped. A count is what twice as many requests
//! take more than once as many, so that start and end have no part in it. `make bench` measures
//! the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, Signal};

use crate::support::{Client, Redis, Service, eventually};

// Each limit stands 15 % above what was measured.

/// System calls for a request that comes alone: six, and one for its log line where requests are so
/// slow that no other shares it.
const SYSCALLS_ALONE: f64 = 7.15;

/// System calls for each of 32 requests that come together.
const SYSCALLS_TOGETHER: f64 = 2.6;

/// System calls for a request on a connection of its own, as a proxy may have for each visit.
const SYSCALLS_ANEW: f64 = 16.7;

// What is done as time goes by, such as the sweep over the connections, adds to a count of instructions,
// on a machine that is busy with other things up to a twentieth. So the least of several counts decides.

/// User instructions for a request that comes alone, and so has a Redis command of its own. A quarter of
/// them is the buffer of 8 KiB that the parser of the redis crate clears; valgrind counts each byte.
const INSTRUCTIONS_ALONE: f64 = 33_900.0;

/// User instructions for a request on a connection of its own.
const INSTRUCTIONS_ANEW: f64 = 49_100.0;

/// User instructions for each of 32 requests that come together.
const INSTRUCTIONS_TOGETHER: f64 = 14_100.0;

/// Resident memory of a process that has answered one request, in KiB: 4,484 to 4,696 in five runs, for how much
/// of the program counts depends on how the kernel has it in memory.
const IDLE_KIB: f64 = 5230.0;

/// Resident memory for each further connection that idles after a request, in KiB.
const CONNECTION_KIB: f64 = 12.0;

/// The same when it has asked for nothing yet.
const SILENT_KIB: f64 = 11.0;

/// The service as a stripped file, in KiB.
const PROGRAM_KIB: u64 = 3328;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// The service as `make build` and `make reproduce` leave it, built if it is older than its sources.
pub(crate) fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dist = root.join("target/dist");
        let program = dist.join("abukiks");
        let changed = |file: &Path| fs::metadata(file).and_then(|file| file.modified());
        let mut sources = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
        add_files(&root.join("src"), &mut sources);
        let newest: Option<SystemTime> = sources.iter().map(|source| changed(source).expect("a file")).max();
        if changed(&program).ok() < newest {
            let mut build = Command::new(root.join("dev/build-release.sh"));
            assert!(build.arg(&dist).status().expect("a shell").success());
        }
        program
    })
}

/// Adds all files in a folder and in those below it.
fn add_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            add_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The release under a tool that counts something.
fn start_under(tool: &mut Command, redis: &Redis) -> Service {
    tool.arg(release()).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs([
        ("PORT", "0"),
        ("LOG_FORMAT", "json"),
        ("REDIS_URL", &redis.url()),
        ("DRAIN_LAME_DUCK", "0s"),
    ]);
    Service::from_command(std::mem::replace(tool, Command::new("true")))
}

/// One client, who asks for all of them one by one.
fn ask_alone(service: &Service, requests: usize) {
    let mut client = service.connect();
    for _ in 0..requests {
        client.get("/").number();
    }
}

/// One client after another, each for a single request.
fn ask_anew(service: &Service, requests: usize) {
    for _ in 0..requests {
        let mut client = service.connect();
        client.get_with("/", "Connection: close\r\n").number();
        assert_eq!(client.rest().expect("an end"), b"");
    }
}

/// 32 clients, who ask at once, again and again. The service is stopped while they do, so that it
/// finds all their requests in one turn of its event loop.
fn ask_together(service: &Service, requests: usize) {
    let mut clients: Vec<Client> = (0..32).map(|_| service.connect()).collect();
    for _ in 0..requests / clients.len() {
        service.process.signal(Signal::STOP);
        eventually("it has stopped", || {
            let stat = format!("/proc/{}/stat", service.process.pid().as_raw_nonzero());
            let stat = fs::read_to_string(stat).expect("a process");
            // proc_pid_stat(5): T is stopped, t stopped by a tracer.
            let (_, state) = stat.rsplit_once(") ")?;
            state.starts_with(['T', 't']).then_some(())
        });
        for client in &mut clients {
            client.send(REQUEST).expect("a connection");
        }
        service.process.signal(Signal::CONT);
        for client in &mut clients {
            client.read(false).expect("an answer").number();
        }
    }
}

/// Without waits that ended with a timer, which are as many as time goes by.
fn system_calls(requests: usize, ask: impl Fn(&Service, usize)) -> u64 {
    let redis = Redis::start();
    let trace = redis.folder().join("system calls");
    let mut strace = Command::new("strace");
    // The tracer runs beside the program (-D), which so remains our own child.
    strace.args(["-D", "-f", "-qq", "-o"]).arg(&trace);
    let mut service = start_under(&mut strace, &redis);
    ask(&service, requests);
    assert!(service.stop().success());
    let calls = eventually("strace has ended", || {
        let calls = fs::read_to_string(&trace).ok()?;
        calls.contains("exit_group(").then_some(calls)
    });
    let timers = |call: &str| call.contains("epoll_wait(") && call.ends_with("= 0");
    calls.lines().filter(|call| !timers(call)).count() as u64
}

fn instructions(requests: usize, ask: impl Fn(&Service, usize)) -> u64 {
    let redis = Redis::start();
    let profile = redis.folder().join("profile");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", profile.display()));
    let mut service = start_under(&mut valgrind, &redis);
    ask(&service, requests);
    assert!(service.stop().success());
    let profile = fs::read_to_string(profile).expect("a profile");
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    total.expect("a total").parse().expect("a number")
}

/// Of its pages: what `status` says may lag behind by some (`proc_pid_status(5)`).
fn resident_kib(service: &Service) -> f64 {
    let rollup = format!("/proc/{}/smaps_rollup", service.process.pid().as_raw_nonzero());
    let rollup = fs::read_to_string(rollup).expect("a process");
    let resident =
        rollup.lines().find_map(|line| line.strip_prefix("Rss:")?.strip_suffix("kB")?.trim().parse().ok());
    resident.expect("a size")
}

/// Fails when each of `requests` adds more than `limit` to a count. Of the counts of so many, and of
/// those of twice as many, the least are compared: of two at least, and more while that is too much.
fn assert_each_at_most(limit: f64, what: &str, requests: usize, count: impl Fn(usize) -> u64) {
    let (mut once, mut twice) = (u64::MAX, u64::MAX);
    let mut each = f64::MAX;
    for round in 1..=6 {
        once = once.min(count(requests));
        twice = twice.min(count(2 * requests));
        each = twice.saturating_sub(once) as f64 / requests as f64;
        if round > 1 && each <= limit {
            break;
        }
    }
    assert_at_most(limit, what, each);
}

/// Fails above `limit`, and shows with `--nocapture` how far it is.
fn assert_at_most(limit: f64, what: &str, measured: f64) {
    println!("{what}: {measured:.2} of {limit}");
    assert!(measured <= limit, "{what}: {measured:.2}, not {limit}");
}

#[test]
fn a_request_alone_takes_few_system_calls() {
    let count = |requests| system_calls(requests, ask_alone);
    assert_each_at_most(SYSCALLS_ALONE, "system calls, alone", 500, count);
}

#[test]
fn requests_that_come_together_share_system_calls() {
    let count = |requests| system_calls(requests, ask_together);
    assert_each_at_most(SYSCALLS_TOGETHER, "system calls, together", 32 * 20, count);
}

#[test]
fn a_request_alone_takes_few_instructions() {
    let count = |requests| instructions(requests, ask_alone);
    assert_each_at_most(INSTRUCTIONS_ALONE, "instructions, alone", 500, count);
}

#[test]
fn a_connection_for_a_single_request_takes_few_system_calls_and_instructions() {
    let count = |requests| system_calls(requests, ask_anew);
    assert_each_at_most(SYSCALLS_ANEW, "system calls, anew", 500, count);
    let count = |requests| instructions(requests, ask_anew);
    assert_each_at_most(INSTRUCTIONS_ANEW, "instructions, anew", 500, count);
}

#[test]
fn requests_that_come_together_share_instructions() {
    let count = |requests| instructions(requests, ask_together);
    assert_each_at_most(INSTRUCTIONS_TOGETHER, "instructions, together", 32 * 20, count);
}

#[test]
fn an_idle_process_and_an_idle_connection_take_little_memory() {
    let connections = 4000;
    // Here and, as it is handed down, in the service.
    let files = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(Resource::Nofile, all).expect("what the hard limit allows");
    let redis = Redis::start();
    // Not a tool, and so no wrapper.
    let service = start_under(&mut Command::new("env"), &redis);
    service.get("/").number();
    let idle = resident_kib(&service);
    assert_at_most(IDLE_KIB, "KiB of an idle process", idle);
    let mut clients: Vec<Client> = (0..connections).map(|_| service.connect()).collect();
    eventually("all are accepted", || {
        (service.metric("abukiks_connections") > f64::from(connections)).then_some(())
    });
    let each = (resident_kib(&service) - idle) / f64::from(connections);
    assert_at_most(SILENT_KIB, "KiB of a connection that asks nothing", each);
    for client in &mut clients {
        client.get("/").number();
    }
    let each = (resident_kib(&service) - idle) / f64::from(connections);
    assert_at_most(CONNECTION_KIB, "KiB of an idle connection", each);
}

#[test]
fn the_program_is_small() {
    let size = fs::metadata(release()).expect("a program").len() / 1024;
    assert!(size <= PROGRAM_KIB, "{size} KiB, not {PROGRAM_KIB}");
}
