//! A stop loses no request.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Client, PATIENCE, Redis, Response, Service, SetAtEnd, activated, eventually, held_socket,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Whether the other side has closed: known before anything is sent, so nothing is lost by it.
fn is_gone(client: &Client) -> bool {
    let stream = client.stream.get_ref();
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn invites_to_stay(response: &Response) -> bool {
    response.header("connection") != Some("close")
}

/// Visits as fast as it can, on one connection for as long as it is invited to stay. Any error
/// after a request was sent is a lost request.
fn visit_until(stop: &AtomicBool, address: SocketAddr, answers: &AtomicUsize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while !stop.load(Relaxed) {
        let mut client = Client::connect(address);
        while !stop.load(Relaxed) && !is_gone(&client) {
            let response = client.exchange(REQUEST).expect("no request is lost");
            numbers.push(response.number());
            answers.fetch_add(1, Relaxed);
            if !invites_to_stay(&response) {
                break;
            }
        }
    }
    numbers
}

/// Visits once in a while and then stays, saying nothing.
fn idle_until(stop: &AtomicBool, address: SocketAddr) -> Vec<i64> {
    let mut numbers = Vec::new();
    while !stop.load(Relaxed) {
        let mut client = Client::connect(address);
        numbers.push(client.exchange(REQUEST).expect("an answer").number());
        wait_for_the_end(&mut client, stop);
    }
    numbers
}

/// Begins a request and never ends it.
fn half_send_until(stop: &AtomicBool, address: SocketAddr) -> Vec<i64> {
    while !stop.load(Relaxed) {
        let mut client = Client::connect(address);
        client.send("GET / HTTP/1.1\r\nHo").unwrap();
        wait_for_the_end(&mut client, stop);
    }
    Vec::new()
}

/// Sends one header after the other, with a pause in between.
fn send_slowly_until(stop: &AtomicBool, address: SocketAddr) -> Vec<i64> {
    let mut numbers = Vec::new();
    while !stop.load(Relaxed) {
        let mut client = Client::connect(address);
        for line in REQUEST.split_inclusive("\r\n") {
            // Refused for being too slow, it may be closed already.
            if client.send(line).is_err() || !is_quiet_for(&mut client, Duration::from_millis(20)) {
                break;
            }
        }
        if let Ok(response) = client.read(false)
            && response.status == 200
        {
            numbers.push(response.number());
        }
    }
    numbers
}

/// Waits a little for something to read. What comes stays in the buffer.
fn is_quiet_for(client: &mut Client, pause: Duration) -> bool {
    use std::io::BufRead as _;
    client.stream.get_ref().set_read_timeout(Some(pause)).unwrap();
    let quiet = client.stream.fill_buf().is_err();
    client.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    quiet
}

fn wait_for_the_end(client: &mut Client, stop: &AtomicBool) {
    while !stop.load(Relaxed) && is_quiet_for(client, Duration::from_millis(50)) {}
}

#[test]
fn thirty_restarts_under_64_busy_clients_lose_nothing() {
    let redis = Redis::start();
    let held = held_socket();
    let address = held.local_addr().unwrap();
    let url = redis.url();
    let start = || {
        Service::from_command(activated(
            &[held.as_fd()],
            &[
                ("REDIS_URL", &url),
                ("REDIS_TIMEOUT", "30s"),
                ("DRAIN_LAME_DUCK", "20ms"),
                ("DRAIN_IDLE", "300ms"),
                ("HEADER_TIMEOUT", "300ms"),
                ("ACCESS_LOG", "off"),
            ],
        ))
    };
    let (stop, answers) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let mut numbers: Vec<i64> = std::thread::scope(|scope| {
        let _also_on_failure = SetAtEnd(stop);
        let mut clients: Vec<_> =
            (0..64).map(|_| scope.spawn(move || visit_until(stop, address, answers))).collect();
        for _ in 0..2 {
            clients.push(scope.spawn(move || idle_until(stop, address)));
            clients.push(scope.spawn(move || half_send_until(stop, address)));
            clients.push(scope.spawn(move || send_slowly_until(stop, address)));
        }
        for _ in 0..30 {
            let mut service = start();
            let before = answers.load(Relaxed);
            eventually("visitors are served", || {
                let all_ended = clients.iter().any(std::thread::ScopedJoinHandle::is_finished);
                assert!(!all_ended, "a client has failed");
                (answers.load(Relaxed) > before + 200).then_some(())
            });
            assert!(service.stop().success());
            service.log_line("\"message\":\"drained\"");
        }
        let _last = start();
        stop.store(true, Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("no request is lost")).collect()
    });
    numbers.sort_unstable();
    let expected: Vec<i64> = (1..=redis.count()).collect();
    assert!(numbers == expected, "{} of {}", numbers.len(), expected.len());
}

#[test]
fn restarts_under_a_foreign_client_give_it_no_errors() {
    let redis = Redis::start();
    let held = held_socket();
    let address = held.local_addr().unwrap();
    let url = redis.url();
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c64", "-d5s", "--timeout", "20s"])
        .arg(format!("http://{address}/"))
        .stdout(Stdio::piped());
    let mut wrk = match wrk.spawn() {
        Ok(wrk) => wrk,
        Err(error) => {
            println!("skipped: wrk: {error}");
            return;
        }
    };
    let mut report = wrk.stdout.take().unwrap();
    let mut restarts = 0;
    while wrk.try_wait().unwrap().is_none() {
        let settings = [
            ("REDIS_URL", &*url),
            ("REDIS_TIMEOUT", "20s"),
            ("DRAIN_LAME_DUCK", "20ms"),
            ("ACCESS_LOG", "off"),
        ];
        let mut service = Service::from_command(activated(&[held.as_fd()], &settings));
        let served = redis.count() + 200;
        eventually("visitors are served", || {
            (redis.count() > served || wrk.try_wait().unwrap().is_some()).then_some(())
        });
        assert!(service.stop().success());
        restarts += 1;
    }
    let mut said = String::new();
    report.read_to_string(&mut said).unwrap();
    println!("{restarts} restarts\n{said}");
    assert!(said.contains("requests in"), "{said}");
    assert!(!said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
}

/// A service with a visit in flight to a Redis that stands still.
fn with_a_visit_in_flight(redis: &Redis, settings: &[(&str, &str)]) -> (Service, Client) {
    let url = redis.url();
    let mut all = vec![("REDIS_URL", &*url), ("REDIS_TIMEOUT", "30s")];
    all.extend(settings);
    let service = Service::start_with(&all);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut client = service.connect();
    client.send(REQUEST).unwrap();
    service.wait_for_waiting(1);
    (service, client)
}

#[test]
fn a_request_in_flight_still_gets_its_answer() {
    let redis = Redis::start();
    let (mut service, mut client) = with_a_visit_in_flight(&redis, &[("DRAIN_LAME_DUCK", "0")]);
    service.process.signal(Signal::TERM);
    service.log_line("\"message\":\"draining\"");
    redis.process().signal(Signal::CONT);
    let response = client.read(false).unwrap();
    assert_eq!(response.number(), 2);
    assert!(!invites_to_stay(&response));
    assert!(service.process.wait().success());
}

#[test]
fn past_drain_timeout_what_remains_is_cut_and_named() {
    let redis = Redis::start();
    let (mut service, mut client) = with_a_visit_in_flight(
        &redis,
        &[("DRAIN_TIMEOUT", "300ms"), ("DRAIN_LAME_DUCK", "0"), ("DRAIN_IDLE", "10s")],
    );
    let mut idle = service.connect();
    idle.get("/version");
    let mut half = service.connect();
    half.send("GET / HT").unwrap();
    eventually("all are connected", || (service.metric("abukiks_connections") >= 4.0).then_some(()));
    service.process.signal(Signal::TERM);
    let line = service.log_line("connections were cut");
    for cut in [
        "\"answering\":1",
        "\"receiving\":1",
        "\"idle\":1",
        "1 answering, 1 receiving, 1 idle",
        "\"drain_timeout_ms\":300",
    ] {
        assert!(line.contains(cut), "{cut} in {line}");
    }
    assert!(service.process.wait().success());
    assert!(client.read(false).is_err());
    redis.process().signal(Signal::CONT);
}

#[test]
fn an_own_port_keeps_accepting_in_the_lame_duck_time_and_a_second_signal_ends_it() {
    let redis = Redis::start();
    for (signal, name, status) in [(Signal::TERM, "SIGTERM", 143), (Signal::INT, "SIGINT", 130)] {
        let mut service = redis.service(&[("DRAIN_LAME_DUCK", "30s")]);
        assert_eq!(service.get("/readyz").status, 200);
        assert_eq!(service.metric("abukiks_draining"), 0.0);
        service.process.signal(signal);
        let line = service.log_line("\"message\":\"draining\"");
        assert!(line.contains(name), "{line}");

        let readyz = service.get("/readyz");
        assert_eq!(readyz.status, 503);
        assert!(readyz.body.contains("draining"), "{readyz:?}");
        assert_eq!(service.metric("abukiks_draining"), 1.0);
        let response = service.get("/");
        assert_eq!(response.status, 200);
        assert!(!invites_to_stay(&response));

        service.process.signal(signal);
        assert_eq!(service.process.wait().code(), Some(status));
        let line = service.log_line("ending at once");
        assert!(line.contains(&format!("ending at once: {name} came during the drain")), "{line}");
    }
}

#[test]
fn a_request_half_sent_at_the_signal_may_be_finished() {
    let redis = Redis::start();
    let mut service = redis.service(&[("DRAIN_LAME_DUCK", "0"), ("DRAIN_IDLE", "100ms")]);
    let (head, tail) = REQUEST.split_at(20);
    let mut alone = service.connect();
    alone.send(head).unwrap();
    // Together with the end of the request before.
    let mut behind = service.connect();
    behind.send([REQUEST, head].concat()).unwrap();
    assert_eq!(behind.read(false).unwrap().number(), 1);
    let mut idle = service.connect();
    idle.get("/healthz");
    eventually("all are connected", || (service.metric("abukiks_connections") >= 4.0).then_some(()));
    service.process.signal(Signal::TERM);
    service.log_line("\"message\":\"draining\"");
    assert!(idle.is_closed(), "when it has been idle for DRAIN_IDLE");
    for (client, number) in [(&mut alone, 2), (&mut behind, 3)] {
        client.send(tail).unwrap();
        let response = client.read(false).unwrap();
        assert_eq!(response.number(), number);
        assert!(!invites_to_stay(&response));
        assert!(client.is_closed());
    }
    drop((alone, behind));
    assert!(service.process.wait().success());
}

#[test]
fn a_batch_whose_visitors_have_all_left_holds_no_process_up() {
    let redis = Redis::start();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "50s"), ("DRAIN_LAME_DUCK", "0")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut client = service.connect();
    client.send(REQUEST).unwrap();
    service.wait_for_waiting(1);
    client.reset();
    service.wait_for_waiting(0);
    let begun = Instant::now();
    assert!(service.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(40), "it waited");
    let log = service.whole_log();
    let refused = log.iter().any(|line| line.contains("visits get 503"));
    assert!(!refused, "no visit was: {log:?}");
}

#[test]
fn a_redis_that_hangs_holds_up_no_process_that_has_drained() {
    let redis = Redis::start();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "60s"), ("DRAIN_LAME_DUCK", "0")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let begun = Instant::now();
    assert!(service.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited");
}

#[test]
fn an_idle_connection_may_still_ask_until_it_has_been_idle_for_drain_idle() {
    let redis = Redis::start();
    let drain_idle = Duration::from_millis(700);
    let mut service = redis.service(&[("DRAIN_LAME_DUCK", "0"), ("DRAIN_IDLE", "700ms")]);
    let mut idle = service.connect();
    assert!(invites_to_stay(&idle.get("/")));
    let mut asks_again = service.connect();
    assert!(invites_to_stay(&asks_again.get("/")));

    let signalled = Instant::now();
    service.process.signal(Signal::TERM);
    service.log_line("\"message\":\"draining\"");
    let response = asks_again.get("/");
    assert_eq!(response.number(), 3);
    assert!(!invites_to_stay(&response));
    assert!(asks_again.is_closed());
    drop(asks_again);

    assert!(idle.is_closed());
    assert!(signalled.elapsed() >= drain_idle);
    drop(idle);
    assert!(service.process.wait().success());
}

#[test]
fn clients_in_the_backlog_of_an_own_port_are_let_in_before_it_closes() {
    let redis = Redis::start();
    // Stopped, it accepts no client: all wait in the backlog until it runs again, being told to end.
    let mut service = redis.service(&[("REDIS_TIMEOUT", "30s"), ("DRAIN_LAME_DUCK", "0")]);
    service.process.signal(Signal::STOP);
    let mut clients: Vec<_> = (0..500).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(REQUEST).unwrap();
    }
    service.process.signal(Signal::TERM);
    service.process.signal(Signal::CONT);
    let mut numbers: Vec<_> =
        clients.iter_mut().map(|client| client.read(false).expect("an answer").number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=500).collect::<Vec<_>>());
    drop(clients);
    assert!(service.process.wait().success());
}

#[test]
fn hangups_and_broken_pipes_end_nothing() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    for signal in [Signal::HUP, Signal::PIPE] {
        service.process.signal(signal);
        service.get("/");
    }
    assert_eq!(service.get("/").number(), 3);
    assert!(service.stop().success());
}

#[test]
fn an_interrupt_drains_like_a_termination() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    service.get("/");
    service.process.signal(Signal::INT);
    assert!(service.process.wait().success());
    service.log_line("\"message\":\"drained\"");
}

#[test]
fn nothing_of_the_process_is_left_in_redis_after_an_orderly_end() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    service.get("/");
    assert!(service.stop().success());
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert_eq!(keys, ["visitorCount"]);
}
