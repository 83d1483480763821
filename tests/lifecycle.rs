//! A process comes and goes at a moment's notice, and keeps nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use rustix::process::Signal;

use crate::packages::NAMES;
use crate::support::{
    Client, Manager, Process, Redis, Service, activated, activated_by, eventually, held_socket, program,
};

#[test]
fn an_idle_process_ends_and_the_next_visitor_starts_another() {
    let redis = Redis::start();
    let held = held_socket();
    let settings = [("REDIS_URL", &*redis.url()), ("IDLE_EXIT", "300ms")];
    let start = || Service::from_command(activated(&[held.as_fd()], &settings));
    let mut first = start();
    assert_eq!(Client::connect(first.address).get("/").number(), 1);
    assert!(first.process.wait().success());
    first.log_line("no connection for as long as IDLE_EXIT says");

    let mut client = Client::connect(held.local_addr().unwrap());
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let _second = start();
    assert_eq!(client.read(false).unwrap().number(), 2);
}

#[test]
fn no_visitor_is_lost_who_comes_just_when_an_idle_process_ends() {
    let redis = Redis::start();
    let held = held_socket();
    let address = held.local_addr().unwrap();
    let url = redis.url();
    let settings = [("REDIS_URL", &*url), ("IDLE_EXIT", "1ms")];
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitor = scope.spawn(move || {
            for number in 1..=300 {
                assert_eq!(Client::connect(address).get("/").number(), number);
            }
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) && !visitor.is_finished() {
            let mut command = activated(&[held.as_fd()], &settings);
            let mut process = Process::spawn(command.stdout(Stdio::null()));
            assert!(process.wait().success());
        }
    });
    assert_eq!(redis.count(), 300);
}

#[test]
fn idle_exit_without_a_socket_that_starts_it_again_is_refused() {
    let output = program("abukiks", &[("IDLE_EXIT", "1m"), ("PORT", "0")]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("IDLE_EXIT=1m"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn ready_comes_soon_after_exec() {
    let manager = Manager::new();
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let mut command = program("abukiks", &[("PORT", "0"), ("NOTIFY_SOCKET", &manager.path())]);
            let begun = Instant::now();
            let _process = Process::spawn(command.stdout(Stdio::null()));
            manager.until("READY=1");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    // Measured, never asserted: it says more about the machine than about the service.
    println!("exec to READY=1: median {:?} of {times:?}", times[2]);
}

#[test]
fn nothing_is_connected_before_the_first_visitor_wants_it() {
    let backing = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", backing.local_addr().unwrap());
    let mut service = Service::start_with(&[("REDIS_URL", &url), ("REDIS_TIMEOUT", "100ms")]);
    assert_eq!(service.get("/healthz").status, 200);
    backing.set_nonblocking(true).unwrap();
    assert!(backing.accept().is_err(), "connected without need");
    assert_eq!(service.get("/").status, 503);
    assert!(backing.accept().is_ok());
    assert!(service.stop().success());
}

#[test]
fn a_redis_whose_name_cannot_be_resolved_delays_no_start() {
    let mut service =
        Service::start_with(&[("REDIS_URL", "redis://nowhere.invalid/"), ("REDIS_TIMEOUT", "200ms")]);
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(service.get("/").status, 503);
    assert!(service.stop().success());
}

#[test]
fn name_lookups_that_hang_are_few_and_do_not_hold_up_the_end() {
    // In a network of its own where the name server swallows every question.
    let folder = tempfile::tempdir().unwrap();
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 192.0.2.1\noptions timeout:30 attempts:5\n").unwrap();
    let script = format!(
        "ip link set lo up && ip route add 192.0.2.1 dev lo && \
         mount --bind {} /etc/resolv.conf && exec \"$@\"",
        resolver.display()
    );
    let wrapper = ["unshare", "-mn", "sh", "-c", &*script, "sh"];
    let allowed = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: no network namespace can be made here");
        return;
    }
    let held = held_socket();
    let mut service = Service::from_command(activated_by(
        &wrapper,
        &[held.as_fd()],
        &[("REDIS_URL", "redis://redis.example/"), ("REDIS_TIMEOUT", "200ms")],
    ));
    for _ in 0..20 {
        assert_eq!(service.get("/").status, 503);
    }
    let attempts = service.metric("abukiks_redis_connection_attempts_total");
    let tasks = format!("/proc/{}/task", service.process.pid().as_raw_nonzero());
    let threads = std::fs::read_dir(tasks).unwrap().count();
    assert!(attempts > 25.0 && threads <= 25, "{attempts}: {threads}");
    // The lookup would take 150 seconds; the test has less patience.
    assert!(service.stop().success());
}

#[test]
fn a_process_keeps_no_state_so_any_may_answer() {
    let redis = Redis::start();
    let (one, mut other) = (Service::start(&redis), Service::start(&redis));
    let numbers = [one.get("/"), other.get("/"), one.get("/")].map(|answer| answer.number());
    assert_eq!(numbers, [1, 2, 3]);
    other.process.signal(Signal::KILL);
    eventually("it is gone", || other.process.has_ended().then_some(()));
    assert_eq!(one.get("/").number(), 4);
    assert_eq!(Service::start(&redis).get("/").number(), 5);
}

#[test]
fn check_health_tells_a_service_that_serves_from_one_that_hangs_and_from_none() {
    // That Redis is away is no fault of the process: a new one would not do better.
    let everywhere = ("HOST", "0.0.0.0");
    let mut service = Service::start_with(&[("REDIS_URL", "unix:///nowhere"), everywhere]);
    let port = service.address.port().to_string();
    let check = || {
        let mut command = program("abukiks", &[everywhere, ("PORT", &port)]);
        let output = command.arg("--check-health").output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    assert_eq!(check(), (Some(0), "healthy\n".to_owned()));

    service.process.signal(Signal::STOP);
    assert_eq!(check().0, Some(69));
    service.process.signal(Signal::CONT);
    assert_eq!(check().0, Some(0));

    assert!(service.stop().success());
    let (status, text) = check();
    assert_eq!(status, Some(69));
    assert!(text.contains("refused"), "{text}");

    let other = TcpListener::bind(service.address).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
    });
    let (status, text) = check();
    assert_eq!(status, Some(69));
    assert!(text.contains("404"), "{text}");
}

/// Rust's runtime would abort before `main`, without a word.
#[test]
fn a_closed_stream_that_dev_null_cannot_replace_is_said_by_every_program() {
    for name in NAMES {
        let path = program(name, &[]).get_program().display().to_string();
        let run = |streams: &str| {
            let script = format!("mount -t tmpfs none /dev && exec {path} --version {streams}");
            let words = ["--map-root-user", "--mount", "sh", "-c", &script];
            Command::new("unshare").args(words).output().expect("unshare is there")
        };
        for (streams, closed) in [("<&-", "stdin"), (">&-", "stdout"), ("<&- >&-", "stdin")] {
            let output = run(streams);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(
                said.starts_with(&format!("{closed} is closed, and /dev/null cannot be opened")),
                "{said}"
            );
            assert_eq!(output.status.code(), Some(71), "{name} {streams}");
        }
        assert_eq!(run("2>&-").status.code(), Some(71), "{name}");
        assert!(run("").status.success(), "{name}");
    }
}
