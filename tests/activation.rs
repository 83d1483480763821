//! The socket and the supervisor: `sd_listen_fds(3)` and `sd_notify(3)`, spoken for real.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Client, Manager, Process, Redis, Service, activated, activated_by, eventually, held_socket, program,
};

#[test]
fn ready_is_said_once_and_when_the_port_answers() {
    let redis = Redis::start();
    let manager = Manager::new();
    let mut service = redis.service(&[("NOTIFY_SOCKET", &manager.path())]);
    let first = manager.next();
    assert!(first.starts_with("READY=1\n"), "{first}");
    assert_eq!(service.get("/").number(), 1);

    assert!(service.stop().success());
    let messages = manager.rest();
    let stopping = messages.iter().filter(|message| message.contains("STOPPING=1")).count();
    assert_eq!(stopping, 1, "{messages:?}");
    assert!(messages.iter().all(|message| !message.contains("READY=1")));
}

#[test]
fn the_status_line_shows_live_figures() {
    let redis = Redis::start();
    let manager = Manager::new();
    let service = redis.service(&[("NOTIFY_SOCKET", &manager.path())]);
    service.get("/");
    let messages = manager.until("1 requests answered");
    assert!(messages.last().is_some_and(|last| last.contains("Redis answers")));
}

#[test]
fn the_watchdog_is_fed_at_half_its_period_with_redis_standing_still_and_while_draining() {
    let redis = Redis::start();
    let manager = Manager::new();
    let period = Duration::from_millis(800);
    let mut service = redis.service(&[
        ("REDIS_TIMEOUT", "30s"),
        ("NOTIFY_SOCKET", &manager.path()),
        ("WATCHDOG_USEC", &period.as_micros().to_string()),
    ]);
    service.get("/");
    redis.process().signal(Signal::STOP);
    let mut waiting = service.connect();
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();

    let fed = |times: u32| {
        manager.until("WATCHDOG=1");
        let begun = Instant::now();
        for _ in 0..times {
            manager.until("WATCHDOG=1");
        }
        // The promise is a bound: within the period each, with twice the half of it as margin.
        assert!(begun.elapsed() < period * times, "{:?}", begun.elapsed());
    };
    fed(4);
    service.process.signal(Signal::TERM);
    manager.until("STOPPING=1");
    fed(4);
    redis.process().signal(Signal::CONT);
    assert_eq!(waiting.read(false).unwrap().number(), 2);
    assert!(service.process.wait().success());
}

#[test]
fn a_drain_that_takes_long_asks_for_the_time_it_needs() {
    let redis = Redis::start();
    let manager = Manager::new();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "30s"), ("NOTIFY_SOCKET", &manager.path())]);
    service.get("/");
    redis.process().signal(Signal::STOP);
    let mut waiting = service.connect();
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    service.process.signal(Signal::TERM);
    let messages = manager.until("EXTEND_TIMEOUT_USEC=");
    assert!(messages.iter().any(|message| message.contains("STOPPING=1")));
    redis.process().signal(Signal::CONT);
    assert_eq!(waiting.read(false).unwrap().number(), 2);
    assert!(service.process.wait().success());
}

#[test]
fn every_socket_handed_over_is_served_ip_version_6_and_unix_alike() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    // A PORT that is taken: it must not even be tried.
    let taken = held_socket();
    let mut service = Service::from_command(activated(
        &[tcp.as_fd(), unix.as_fd()],
        &[("REDIS_URL", &redis.url()), ("PORT", &taken.local_addr().unwrap().port().to_string())],
    ));
    let mut client = Client::connect(tcp.local_addr().unwrap());
    assert_eq!(client.get("/").number(), 1);

    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("Visitor count: 2"), "{answer}");

    let line = service.log_line(&format!("unix:{}", path.display()));
    assert!(line.contains("\"inherited\":true"), "{line}");
    // A client on a unix socket has no address to log.
    let line = service.log_line("\"visit\":2");
    assert!(!line.contains("client"), "{line}");
}

#[test]
fn what_cannot_be_listened_on_is_refused_and_no_port_bound_instead() {
    let file = File::open("/dev/null").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let held = held_socket();
    let connected = TcpStream::connect(held.local_addr().unwrap()).unwrap();
    let (paired, _other) = UnixStream::pair().unwrap();
    let kinds: [(&str, BorrowedFd<'_>); 4] = [
        ("a file", file.as_fd()),
        ("a UDP socket", udp.as_fd()),
        ("a connection", connected.as_fd()),
        ("a unix connection", paired.as_fd()),
    ];
    for (kind, descriptor) in kinds {
        let output = activated(&[descriptor], &[("PORT", "0")]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(71), "{kind}: {said}");
        assert_eq!(said.lines().count(), 1, "{kind}: {said}");
        assert!(said.contains("LISTEN_FDS"), "{kind}: {said}");
        assert!(output.stdout.is_empty(), "{kind}");
    }
}

pub(crate) const INTERNAL: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/version", "/status"];

/// Health, metrics and version are at the second socket, and only there.
fn is_divided(visitors: SocketAddr, mut ask_admin: impl FnMut(&str) -> String) {
    for path in INTERNAL {
        assert_eq!(Client::connect(visitors).get(path).status, 404, "{path}");
        let answer = ask_admin(path);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    assert_eq!(Client::connect(visitors).get("/").status, 200);
    for path in ["/", "/count", "/badge.svg", "/session"] {
        let answer = ask_admin(path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

fn ask<S: Read + Write>(mut stream: S, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Where the service has said that monitoring finds it.
pub(crate) fn admin_address(service: &mut Service) -> SocketAddr {
    let line = service.log_line("listening for health and metrics");
    let address = line.split("\"admin\":\"http://").nth(1).and_then(|rest| rest.split('/').next());
    address.unwrap().parse().unwrap()
}

#[test]
fn health_and_metrics_have_a_socket_of_their_own_where_it_is_wanted() {
    let redis = Redis::start();
    let mut by_port = redis.service(&[("ADMIN_PORT", "0")]);
    let address = admin_address(&mut by_port);
    is_divided(by_port.address, |path| ask(TcpStream::connect(address).unwrap(), path));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // One that a process of before has left.
    drop(UnixListener::bind(&path).unwrap());
    let setting = ("ADMIN_PORT", path.to_str().unwrap());
    let by_path = redis.service(&[setting]);
    is_divided(by_path.address, |target| ask(UnixStream::connect(&path).unwrap(), target));
    let healthy = program("abukiks", &[setting]).arg("--check-health").output().unwrap();
    assert!(healthy.status.success());
    let refused = program("abukiks", &[("PORT", "0"), setting]).output().unwrap();
    assert_eq!(refused.status.code(), Some(71));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("(ADMIN_PORT)"));

    let (visitors, admin) = (held_socket(), held_socket());
    let mut handed_over = activated(
        &[admin.as_fd(), visitors.as_fd()],
        &[("REDIS_URL", &redis.url()), ("LISTEN_FDNAMES", "admin:abukiks@5000.socket")],
    );
    let _service = Process::spawn(handed_over.stdout(Stdio::null()));
    let address = admin.local_addr().unwrap();
    is_divided(visitors.local_addr().unwrap(), |path| ask(TcpStream::connect(address).unwrap(), path));
}

/// With all connections taken by clients that are busy.
#[test]
fn the_socket_for_health_answers_when_no_other_connection_can_be_had() {
    let redis = Redis::start();
    let mut service = redis.service(&[("ADMIN_PORT", "0"), ("MAX_CONNECTIONS", "1")]);
    let address = admin_address(&mut service);
    let mut busy = service.connect();
    busy.send("GET / HT").unwrap();
    let mut waiting = service.connect();
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    eventually("the connection is let in", || {
        let metrics = Client::connect(address).get("/metrics").body;
        metrics.contains("abukiks_limit_hits_total{limit=\"connections\"} 1").then_some(())
    });
    assert_eq!(Client::connect(address).get("/healthz").status, 200);
    drop(busy);
    assert_eq!(waiting.read(false).unwrap().number(), 1);
}

#[test]
fn a_wrapper_that_does_not_exec_gets_a_clear_error() {
    let held = held_socket();
    // The shell waits for it, and is the process that the socket is for.
    let mut wrapped = activated_by(&["/bin/sh", "-c", "\"$0\"; exit $?"], &[held.as_fd()], &[("PORT", "0")]);
    let output = wrapped.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.starts_with("LISTEN_PID=") && said.contains("exec"), "{said}");
    assert!(output.stdout.is_empty());
}

/// In a network of its own, where a socket of IPv6 takes no IPv4 unless it is asked to.
#[test]
fn every_address_is_both_families_whatever_the_system_says() {
    let answers = |host: &str, asked: &str| {
        let script = "echo 1 >/proc/sys/net/ipv6/bindv6only && ip link set lo up || exit 99
            PORT=5000 \"$0\" >/dev/null & service=$!
            for _ in $(seq 500); do HOST=$ASKED PORT=5000 \"$0\" --check-health 2>/dev/null && break; done
            HOST=$ASKED PORT=5000 \"$0\" --check-health; status=$?
            kill $service; wait $service; exit $status";
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_abukiks")]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("HOST", host), ("ASKED", asked), ("REDIS_URL", "unix:///nowhere")]);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(99), "{}", String::from_utf8_lossy(&output.stderr));
        output.status.success()
    };
    for (host, asked) in
        [("::", "127.0.0.1"), ("::", "::1"), ("localhost", "127.0.0.1"), ("localhost", "::1")]
    {
        assert!(answers(host, asked), "HOST={host} at {asked}");
    }
    assert!(!answers("0.0.0.0", "::1"));
}

#[test]
fn a_socket_that_was_handed_over_outlives_the_process() {
    let redis = Redis::start();
    let held = held_socket();
    let start = || {
        Service::from_command(activated(
            &[held.as_fd()],
            &[("REDIS_URL", &redis.url()), ("DRAIN_LAME_DUCK", "0")],
        ))
    };
    let mut first = start();
    assert_eq!(first.get("/").number(), 1);
    assert!(first.stop().success());

    // No process serves now, and no client is refused.
    let mut client = Client::connect(held.local_addr().unwrap());
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let _second = start();
    assert_eq!(client.read(false).unwrap().number(), 2);
}

#[test]
fn host_and_port_that_have_no_effect_are_named_where_they_are_set() {
    let held = held_socket();
    let unused = "so these settings have no effect";
    for (settings, named) in [
        (&[("HOST", "0.0.0.0"), ("PORT", "8080")][..], Some("HOST and PORT")),
        (&[("PORT", "5000")], Some("PORT")),
        (&[("HOST", "")], None),
    ] {
        let mut service = Service::from_command(activated(&[held.as_fd()], settings));
        assert!(service.stop().success());
        let log = service.whole_log();
        let line = log.iter().find(|line| line.contains(unused));
        assert_eq!(line.is_some(), named.is_some(), "{settings:?}: {log:?}");
        if let (Some(line), Some(named)) = (line, named) {
            assert!(line.contains(&format!("{unused}: {named}\"")), "{line}");
        }
    }
    let mut service = Service::start_with(&[("HOST", "127.0.0.1")]);
    assert!(service.stop().success());
    assert!(!service.whole_log().iter().any(|line| line.contains(unused)));
}

#[test]
fn port_0_takes_a_free_port_and_logs_it() {
    let redis = Redis::start();
    let mut service = redis.service(&[("PORT", "0")]);
    let line = service.log_line("listening");
    let address = format!("http://{}/", service.address);
    assert!(line.contains(&format!("\"message\":\"listening on {address}\"")), "{line}");
    assert!(line.contains(&format!("\"listening\":\"{address}\"")), "{line}");
    assert!(line.contains("\"inherited\":false"), "{line}");
    assert_ne!(service.address.port(), 0);
    assert_eq!(service.get("/").number(), 1);
}

#[test]
fn a_port_that_is_taken_gives_one_clear_line() {
    let taken = held_socket();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = program("abukiks", &[("PORT", &port)]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port} (HOST and PORT)")), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn without_a_supervisor_that_listens_the_service_serves_all_the_same() {
    let redis = Redis::start();
    let held = held_socket();
    let mut service = Service::from_command(activated(
        &[held.as_fd()],
        &[("REDIS_URL", &redis.url()), ("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "1000000")],
    ));
    assert_eq!(service.get("/").number(), 1);
    assert!(service.stop().success());
}

#[test]
fn a_supervisor_that_does_not_read_stops_nothing_and_hears_what_matters_when_it_does() {
    let redis = Redis::start();
    for manager in [Manager::new(), Manager::in_no_file_system()] {
        manager.fill();
        let mut service = redis.service(&[("REDIS_TIMEOUT", "30s"), ("NOTIFY_SOCKET", &manager.path())]);
        let before = redis.count();
        assert_eq!(service.get("/").number(), before + 1);
        assert_eq!(redis.count(), before + 1);

        manager.until("READY=1");
        manager.fill();
        redis.process().signal(Signal::STOP);
        let mut waiting = service.connect();
        waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        service.wait_for_waiting(1);
        service.process.signal(Signal::TERM);
        service.log_line("draining");
        manager.until("STOPPING=1");
        redis.process().signal(Signal::CONT);
        assert_eq!(waiting.read(false).unwrap().number(), before + 2);
        assert!(service.process.wait().success());
    }
}

#[test]
fn a_wrong_stderr_does_not_change_how_it_ends() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program("abukiks", &[("PORT", "many")]);
    let mut process = Process::spawn(command.stderr(writer).stdout(Stdio::null()));
    assert_eq!(process.wait().code(), Some(78));
}
