//! Every limit has its setting, its metric and its behaviour, and a request that hits one is
//! logged and counted like any other.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Client, PATIENCE, Redis, Service, activated, eventually, held_socket, program};

/// The value of a series in the text of `/metrics`.
fn sample(metrics: &str, series: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

fn hits(service: &Service, limit: &str) -> f64 {
    service.metric(&format!(r#"abukiks_limit_hits_total{{limit="{limit}"}}"#))
}

fn malformed(service: &Service, status: u16) -> f64 {
    service.metric(&format!(r#"abukiks_http_requests_total{{route="malformed",status="{status}"}}"#))
}

/// A request of exactly `size` bytes.
fn request_of(size: usize) -> String {
    let (before, after) = ("GET / HTTP/1.1\r\nHost: test\r\nX: ", "\r\n\r\n");
    format!("{before}{}{after}", "x".repeat(size - before.len() - after.len()))
}

/// A request with exactly `count` headers.
fn request_with_headers(count: usize) -> String {
    let more = "X: y\r\n".repeat(count - 1);
    format!("GET / HTTP/1.1\r\nHost: test\r\n{more}\r\n")
}

#[test]
fn a_head_larger_than_max_header_bytes_gets_431() {
    let redis = Redis::start();
    for limit in [256, 8192, 16384, 100_000] {
        let mut service = redis.service(&[("MAX_HEADER_BYTES", &limit.to_string())]);
        let mut client = service.connect();
        for _ in 0..2 {
            let just = client.exchange(request_of(limit)).unwrap();
            assert_eq!(just.status, 200, "{limit}");
        }
        let too_large = client.exchange(request_of(limit + 1)).unwrap();
        assert_eq!(too_large.status, 431, "{limit}");
        assert_eq!(too_large.header("connection"), Some("close"));
        assert!(client.is_closed());
        assert_eq!(hits(&service, "headers"), 1.0);
        assert_eq!(malformed(&service, 431), 1.0);
        service.log_line("\"http_status\":431");
    }
    assert_eq!(redis.count(), 8);
}

#[test]
fn a_head_without_end_gets_431_long_before_it_fills_the_memory() {
    let redis = Redis::start();
    let service = redis.service(&[]);
    let mut client = service.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX: ").unwrap();
    let mut sent = 0;
    while sent < 1 << 24 && client.send([b'x'; 4096]).is_ok() {
        sent += 4096;
    }
    // The rest of what could be sent is in the buffers of the two sockets.
    assert!(sent < 1 << 24, "it was never stopped");
    assert_eq!(hits(&service, "headers"), 1.0);
}

#[test]
fn more_headers_than_max_headers_get_431() {
    let redis = Redis::start();
    for limit in [1, 2, 100, 101, 2000] {
        let settings = [("MAX_HEADERS", &*limit.to_string()), ("MAX_HEADER_BYTES", "65536")];
        let mut service = redis.service(&settings);
        let mut client = service.connect();
        let just = client.exchange(request_with_headers(limit)).unwrap();
        assert_eq!(just.status, 200, "{limit}");
        let too_many = client.exchange(request_with_headers(limit + 1)).unwrap();
        assert_eq!(too_many.status, 431, "{limit}");
        assert!(client.is_closed());
        assert_eq!(hits(&service, "headers"), 1.0);
        assert_eq!(malformed(&service, 431), 1.0);
        service.log_line("\"http_status\":431");
    }
}

/// Beyond a certain number the map of headers would panic, and any client could end the process.
#[test]
fn as_many_headers_as_can_be_set_are_survived() {
    let redis = Redis::start();
    let settings = [("MAX_HEADERS", "10000"), ("MAX_HEADER_BYTES", "4294967295")];
    let service = redis.service(&settings);
    let most = service.connect().exchange(request_with_headers(10_000));
    assert_eq!(most.unwrap().status, 200);
    let mut refused = program("abukiks", &[("MAX_HEADERS", "10001")]);
    let refused = refused.output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.starts_with("MAX_HEADERS=\"10001\" ") && said.contains("from 1 to 10000"), "{said}");
}

#[test]
fn a_target_that_is_too_long_gets_431_or_414() {
    let redis = Redis::start();
    let target = |length: usize| format!("GET /?{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(length));
    let usual = redis.service(&[]);
    let answer = usual.connect().exchange(target(20_000)).unwrap();
    assert_eq!(answer.status, 431);
    let mut generous = redis.service(&[("MAX_HEADER_BYTES", "200000")]);
    let answer = generous.connect().exchange(target(60_000)).unwrap();
    assert_eq!(answer.status, 200);
    let answer = generous.connect().exchange(target(70_000)).unwrap();
    assert_eq!(answer.status, 414);
    generous.log_line("\"http_status\":414");
    assert_eq!(hits(&generous, "headers"), 1.0);
    assert_eq!(malformed(&generous, 414), 1.0);
}

#[test]
fn slow_headers_get_408_after_header_timeout() {
    let redis = Redis::start();
    let mut service = redis.service(&[("HEADER_TIMEOUT", "1s")]);
    let whole = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    let part = "GET / HTTP/1.1\r\nHost: te";
    // On a fresh connection, on one that has been used before, and together with the request before.
    let mut told = Vec::new();
    for parts in [&[part][..], &[whole, part], &[&[whole, part].concat()]] {
        let mut client = service.connect();
        let begun = Instant::now();
        for part in parts {
            client.send(part).unwrap();
            if part.starts_with(whole) {
                assert_eq!(client.read(false).unwrap().status, 200);
            }
        }
        let late = client.read(false).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(990));
        assert_eq!(late.status, 408);
        assert_eq!(late.header("connection"), Some("close"));
        assert!(client.is_closed());
        told.push(client);
    }
    service.log_line("\"http_status\":408");
    // Those that are told once are not counted again while their clients hold them open.
    assert_eq!(hits(&service, "header_timeout"), 3.0);
    assert_eq!(malformed(&service, 408), 3.0);
    assert_eq!(redis.count(), 0);
}

/// The time runs from the first byte, so that a byte now and then keeps nothing open.
#[test]
fn headers_that_trickle_get_408_all_the_same() {
    let redis = Redis::start();
    let service = redis.service(&[("HEADER_TIMEOUT", "1s")]);
    let mut client = service.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX: ").unwrap();
    let mut reading =
        Client { stream: std::io::BufReader::new(client.stream.get_ref().try_clone().unwrap()) };
    let (stop, stopped) = mpsc::channel::<()>();
    let trickle = std::thread::spawn(move || {
        let now_and_then = Duration::from_millis(5);
        while stopped.recv_timeout(now_and_then) == Err(RecvTimeoutError::Timeout) {
            // The last of them may meet a closed connection.
            let _ = client.send("x");
        }
    });
    assert_eq!(reading.read(false).unwrap().status, 408);
    drop(stop);
    trickle.join().unwrap();
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive_timeout() {
    let redis = Redis::start();
    let settings = [("KEEP_ALIVE_TIMEOUT", "1s"), ("HEADER_TIMEOUT", "20s")];
    let service = redis.service(&settings);
    let begun = Instant::now();
    let mut used = service.connect();
    used.get("/");
    assert!(used.is_closed(), "closed without a word");
    assert!(begun.elapsed() >= Duration::from_millis(990));
    assert_eq!(hits(&service, "keep_alive_timeout"), 1.0);
    assert_eq!(malformed(&service, 408), 0.0, "nothing was begun");
}

#[test]
fn a_connection_that_never_asks_is_closed_after_header_timeout() {
    let redis = Redis::start();
    let service = redis.service(&[("HEADER_TIMEOUT", "1s")]);
    assert!(service.connect().is_closed(), "closed without a word");
    assert_eq!(hits(&service, "header_timeout"), 1.0);
    assert_eq!(malformed(&service, 408), 0.0, "nothing was begun");
}

#[test]
fn a_client_that_never_reads_is_closed() {
    let redis = Redis::start();
    let settings = [("KEEP_ALIVE_TIMEOUT", "1s"), ("HEADER_TIMEOUT", "1s")];
    let service = redis.service(&settings);
    let mut client = service.connect();
    let stream = client.stream.get_ref();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // All buffers between the two fill, then nothing goes, then the service gives up.
    let requests = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
    while client.send(&requests).is_ok() {}
    eventually("only the asking connection is left", || {
        (service.metric("abukiks_connections") == 1.0).then_some(())
    });
    assert_eq!(hits(&service, "keep_alive_timeout"), 1.0);
    assert_eq!(hits(&service, "header_timeout"), 0.0, "it was not slow to ask");
}

#[test]
fn a_client_that_keeps_its_side_open_after_the_last_answer_is_let_go() {
    let redis = Redis::start();
    let settings = [("KEEP_ALIVE_TIMEOUT", "60s"), ("HEADER_TIMEOUT", "60s")];
    let mut service = redis.service(&settings);
    // Content is refused, and what comes of it until the client leaves is thrown away.
    let refused = |service: &Service| {
        let mut client = service.connect();
        let request = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nx";
        assert_eq!(client.exchange(request).unwrap().status, 405);
        assert_eq!(client.rest().unwrap(), b"");
        client
    };
    let _open = refused(&service);
    eventually("only the asking connection is left", || {
        (service.metric("abukiks_connections") == 1.0).then_some(())
    });
    assert_eq!(hits(&service, "keep_alive_timeout"), 0.0, "it did not idle");
    // Nor does it hold up the end.
    let _open = refused(&service);
    assert!(service.stop().success());
    service.log_line("\"message\":\"drained\"");
}

#[test]
fn a_client_that_calls_its_request_the_last_is_not_waited_for() {
    let redis = Redis::start();
    let service = redis.service(&[]);
    let mut client = service.connect();
    client.get_with("/", "Connection: close\r\n").number();
    assert_eq!(client.rest().unwrap(), b"");
    // It still has its side open.
    assert_eq!(service.metric("abukiks_connections"), 1.0);
}

#[test]
fn content_beyond_max_body_bytes_gets_413() {
    let redis = Redis::start();
    let mut service = redis.service(&[("MAX_BODY_BYTES", "10")]);
    let request = |length: usize| {
        let content = "x".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{content}")
    };
    for (length, status) in [(10, 405), (11, 413)] {
        let mut client = service.connect();
        let answer = client.exchange(request(length)).unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(hits(&service, "body_bytes"), f64::from(status == 413));
    }
    service.log_line("\"http_status\":413");
    let refused = r#"abukiks_http_requests_total{route="/",status="413"}"#;
    assert_eq!(service.metric(refused), 1.0);
}

#[test]
fn a_client_that_expects_to_be_told_to_continue_is_told_the_answer() {
    let redis = Redis::start();
    let service = redis.service(&[]);
    let mut client = service.connect();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n";
    let large = client.exchange(format!("{head}Content-Length: 99999999\r\n\r\n"));
    assert_eq!(large.unwrap().status, 413);
}

#[test]
fn the_connection_beyond_max_connections_waits_while_all_are_busy() {
    let redis = Redis::start();
    let service = redis.service(&[("MAX_CONNECTIONS", "2"), ("REDIS_TIMEOUT", "1m")]);
    let (mut first, mut second) = (service.connect(), service.connect());
    assert_eq!(first.get("/").number(), 1);
    second.send("GET / HT").unwrap();
    // The limit is felt when the loop wants to accept again, which it does after the second.
    eventually("both are let in", || {
        (sample(&first.get("/metrics").body, "abukiks_connections_accepted_total") == 2.0).then_some(())
    });
    let series = r#"abukiks_limit_hits_total{limit="connections"}"#;
    assert_eq!(sample(&first.get("/metrics").body, series), 1.0);
    redis.process().signal(Signal::STOP);
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut third = service.connect();
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    redis.process().signal(Signal::CONT);
    assert_eq!(first.read(false).unwrap().number(), 2);
    // Now the first is idle, and makes room; the half-sent request of the second is left alone.
    assert_eq!(third.read(false).unwrap().number(), 3);
    assert!(first.is_closed());
    second.send("TP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!(second.read(false).unwrap().number(), 4);
}

#[test]
fn in_a_full_house_the_connection_that_was_idle_longest_makes_room() {
    let redis = Redis::start();
    let service = redis.service(&[("MAX_CONNECTIONS", "3")]);
    let mut clients: Vec<_> = (0..3).map(|_| service.connect()).collect();
    for (number, client) in (1..).zip(&mut clients) {
        assert_eq!(client.get("/").number(), number);
    }
    assert_eq!(clients[0].get("/").number(), 4);
    let mut new = service.connect();
    assert_eq!(new.get("/healthz").body, "ok\n");
    assert!(clients[1].is_closed(), "the second has been idle longest");
    for client in [0, 2] {
        assert_eq!(clients[client].get("/healthz").body, "ok\n");
    }
    // One that has never asked for anything makes room, too.
    drop(clients);
    let silent: Vec<_> = (0..2).map(|_| service.connect()).collect();
    let first = new.get("/metrics").body;
    assert_eq!(sample(&first, r#"abukiks_limit_hits_total{limit="keep_alive_timeout"}"#), 0.0);
    for _ in 0..3 {
        assert_eq!(service.get("/healthz").body, "ok\n");
    }
    drop(silent);
}

#[test]
fn a_health_check_says_what_did_not_answer_within_which_time() {
    let silent = held_socket();
    let port = silent.local_addr().unwrap().port().to_string();
    let output = program("abukiks", &[("PORT", &*port)]).arg("--check-health").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    let expected = format!("127.0.0.1:{port} is not healthy: no answer to /healthz within 3s\n");
    assert_eq!(said, expected);
}

/// No permit is held for a socket at which no client is.
#[test]
fn the_only_permit_goes_to_whichever_socket_a_client_comes_to() {
    let redis = Redis::start();
    let sockets = [held_socket(), held_socket()];
    let service = Service::from_command(activated(
        &sockets.each_ref().map(AsFd::as_fd),
        &[("REDIS_URL", &redis.url()), ("MAX_CONNECTIONS", "1")],
    ));
    for turn in 0..3 {
        for socket in sockets.iter().rev() {
            let mut client = Client::connect(socket.local_addr().unwrap());
            assert_eq!(client.get("/healthz").status, 200, "in turn {turn}");
        }
    }
    drop(service);
}

#[test]
fn the_visit_beyond_max_waiting_visits_gets_503_at_once() {
    let redis = Redis::start();
    let settings = [("MAX_WAITING_VISITS", "2"), ("REDIS_TIMEOUT", "60s")];
    let mut service = redis.service(&settings);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let mut waiting: Vec<Client> = (0..2).map(|_| service.connect()).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    }
    service.wait_for_waiting(2);
    let begun = Instant::now();
    let refused = service.get("/");
    assert!(begun.elapsed() < Duration::from_secs(20), "it has waited too");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(hits(&service, "waiting_visits"), 1.0);
    service.log_line("\"http_status\":503");
    redis.process().signal(Signal::CONT);
    let mut numbers: Vec<i64> =
        waiting.iter_mut().map(|client| client.read(false).unwrap().number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(service.get("/").number(), 4);
}

/// A service that may open no more than `files` files.
fn start_with_files(redis: &Redis, files: u32, settings: &[(&str, &str)]) -> Service {
    Service::from_command(with_files(redis, files, settings))
}

fn with_files(redis: &Redis, files: u32, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {files} && exec \"$0\""))
        .arg(env!("CARGO_BIN_EXE_abukiks"))
        .env_clear()
        .envs([("PORT", "0"), ("LOG_FORMAT", "json")])
        .env("REDIS_URL", redis.url())
        .envs(settings.iter().copied());
    command
}

#[test]
fn max_connections_follows_the_limit_of_open_files() {
    let redis = Redis::start();
    let max_connections = |mut service: Service| {
        let ready = service.log_line("\"message\":\"ready\"");
        let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
        let max_connections = ready["max_connections"].as_u64().unwrap();
        assert_eq!(service.metric("abukiks_max_connections"), max_connections as f64);
        max_connections
    };
    for (files, expected) in [(1024, 991), (200, 167), (20, 1)] {
        let service = start_with_files(&redis, files, &[]);
        assert_eq!(max_connections(service), expected);
    }
    let service = start_with_files(&redis, 1024, &[("MAX_CONNECTIONS", "5")]);
    assert_eq!(max_connections(service), 5);
}

#[test]
fn a_limit_of_open_files_that_lets_no_client_in_is_refused() {
    let redis = Redis::start();
    for files in [9, 19] {
        let output = with_files(&redis, files, &[]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.starts_with(&format!("LimitNOFILE={files}, the limit of open files")), "{said}");
        assert!(said.ends_with("it takes at least 20\n"), "{said}");
    }
}

#[test]
fn more_connections_than_the_limit_of_open_files_leaves_are_refused() {
    let redis = Redis::start();
    let output = with_files(&redis, 64, &[("MAX_CONNECTIONS", "32")]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.starts_with("MAX_CONNECTIONS=32 is more than LimitNOFILE=64"), "{said}");
    assert!(said.ends_with("leaves; that is 31\n"), "{said}");
    let service = start_with_files(&redis, 64, &[("MAX_CONNECTIONS", "31")]);
    assert_eq!(service.get("/").number(), 1);
}

/// The reserve is enough: with every connection in use, Redis can still be reached.
#[test]
fn as_many_connections_as_the_limit_of_open_files_leaves_are_all_served() {
    let redis = Redis::start();
    let service = start_with_files(&redis, 64, &[]);
    let mut clients: Vec<Client> = (0..31).map(|_| service.connect()).collect();
    for (number, client) in (1..).zip(&mut clients) {
        assert_eq!(client.get("/").number(), number);
    }
    let metrics = clients[0].get("/metrics").body;
    assert_eq!(sample(&metrics, "abukiks_accept_errors_total"), 0.0);
    assert_eq!(sample(&metrics, "abukiks_connections"), 31.0);
}

#[test]
fn without_files_left_the_service_backs_off_says_so_and_recovers() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    service.process.limit_files(40);
    let mut clients = vec![service.connect()];
    assert_eq!(clients[0].get("/").number(), 1);
    let begun = Instant::now();
    clients.extend((0..60).map(|_| service.connect()));
    let line = service.log_line("cannot accept");
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("os error 24"), "{line}");
    // Those who are in are served, though no further file can be opened.
    assert_eq!(clients[0].get("/").number(), 2);
    let metrics = clients[0].get("/metrics").body;
    let errors = sample(&metrics, "abukiks_accept_errors_total");
    let elapsed = begun.elapsed();
    assert!(errors >= 1.0);
    assert!(errors <= elapsed.as_secs_f64() * 10.0 + 1.0, "{errors} attempts within {elapsed:?}");
    let mut waiting = clients.pop().unwrap();
    waiting.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    drop(clients);
    assert_eq!(waiting.read(false).unwrap().number(), 3);
    assert_eq!(service.get("/").number(), 4);
}
