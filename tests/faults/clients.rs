//! Clients are slow, many, gone, wrong or wicked, and the other visitors do not notice.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::scene::{Scene, Stage};
use super::{Fault, Seen, WITHIN_BUDGET};
use crate::framing;
use crate::support::{PATIENCE, eventually, last_for};

const VISIT: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Idle connections to each of the two processes.
const IDLE: usize = 5_000;

faults![
    slow_to_ask = Fault {
        name: "clients are slow to ask",
        how: "40 clients send a byte every 10 ms and then none; `HEADER_TIMEOUT=500ms`",
        faulty_see: &[Seen::Status(408)],
        stage: || Stage::patient().set("HEADER_TIMEOUT", "500ms"),
        inject: |scene| {
            let mut slow: Vec<_> = (0..40).map(|turn| scene.connect(turn)).collect();
            for byte in VISIT.bytes().take(20) {
                for client in &mut slow {
                    let _ = client.send([byte]);
                }
                last_for(Duration::from_millis(10));
            }
            for mut client in slow {
                // Until the answer is there, it says nothing, not even that it has no more to say.
                let _ = client.stream.get_mut().peek(&mut [0]);
                scene.heard_all(client);
            }
        },
        ..WITHIN_BUDGET
    },
    slow_to_read = Fault {
        name: "clients are slow to read",
        how: "10 clients ask for a number and for `/metrics` 100 times at \
              once, and read an answer every 2 ms",
        faulty_see: &[Seen::Number, Seen::Status(200)],
        inject: |scene| {
            let mut slow: Vec<_> = (0..10).map(|turn| scene.connect(turn)).collect();
            for client in &mut slow {
                let both = format!("{VISIT}GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
                client.send(both.repeat(100)).expect("it listens");
            }
            for _ in 0..200 {
                for client in &mut slow {
                    let answer = client.read(false).expect("an answer");
                    scene.heard(&answer);
                }
                last_for(Duration::from_millis(2));
            }
        },
        ..WITHIN_BUDGET
    },
    never_to_read = Fault {
        name: "clients never read",
        how: "10 clients ask for `/metrics` until nothing goes any more; `KEEP_ALIVE_TIMEOUT=1s`",
        stage: || Stage::patient().set("KEEP_ALIVE_TIMEOUT", "1s"),
        inject: |scene| {
            let asks = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
            let deaf: Vec<_> = (0..10).map(|turn| scene.connect(turn)).collect();
            std::thread::scope(|scope| {
                for mut client in deaf {
                    let asks = &asks;
                    scope.spawn(move || {
                        let stream = client.stream.get_ref();
                        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
                        while client.send(asks).is_ok() {}
                    });
                }
            });
            for instance in &scene.instances {
                let series = "abukiks_limit_hits_total{limit=\"keep_alive_timeout\"}";
                assert!(instance.service.metric(series) >= 5.0);
            }
        },
        ..WITHIN_BUDGET
    },
    gone_with_a_visit = Fault {
        name: "clients abort their requests",
        how: "400 clients ask and reset the connection at once; each visit may be counted",
        inject: |scene| for turn in 0..400 {
            let mut client = scene.connect(turn);
            client.send(VISIT).expect("it listens");
            client.reset();
            scene.gone();
        },
        ..WITHIN_BUDGET
    },
    gone_within_a_head = Fault {
        name: "clients abort in the middle of the head",
        how: "400 clients send half of it and reset the connection",
        inject: |scene| for turn in 0..400 {
            let mut client = scene.connect(turn);
            client.send(&VISIT[..turn % VISIT.len()]).expect("it listens");
            client.reset();
        },
        ..WITHIN_BUDGET
    },
    idle = Fault {
        name: "10 000 connections idle",
        how: "made and left alone; later each asks for `/healthz`",
        faulty_see: &[Seen::Status(200)],
        needs: &["sh", "-c", "test \"$(ulimit -Hn)\" -ge 16384"],
        stage: || {
            // For this process, which holds the other ends, and for those that it starts.
            let files = getrlimit(Resource::Nofile);
            let enough = Rlimit { current: files.current.max(Some(16_384)), ..files };
            setrlimit(Resource::Nofile, enough).expect("below the hard limit");
            Stage::patient().set("HEADER_TIMEOUT", "60s")
        },
        inject: |scene| {
            let mut idle: Vec<_> = (0..2 * IDLE).map(|turn| scene.connect(turn)).collect();
            for instance in &scene.instances {
                eventually("all are accepted", || {
                    let open = instance.service.metric("abukiks_connections");
                    (open >= IDLE as f64).then_some(())
                });
            }
            scene.load.wait_for_numbers(100);
            let healthz = idle.iter_mut().map(|client| client.get("/healthz").status);
            scene.saw(healthz.map(Seen::Status).collect::<Vec<_>>());
        },
        ..WITHIN_BUDGET
    },
    flood = Fault {
        name: "connections flood in",
        how: "4 000, each closed as soon as it is there",
        inject: |scene| for turn in 0..4_000 {
            drop(scene.connect(turn));
        },
        ..WITHIN_BUDGET
    },
    more_than_allowed = Fault {
        name: "there are more connections than `MAX_CONNECTIONS`",
        how: "400 that say nothing, where 32 are allowed; `HEADER_TIMEOUT=100ms`",
        faulty_see: &[Seen::Cut],
        stage: || { Stage::patient().set("MAX_CONNECTIONS", "32").set("HEADER_TIMEOUT", "100ms") },
        inject: |scene| {
            let silent: Vec<_> = (0..400).map(|turn| scene.connect(turn)).collect();
            for mut client in silent {
                let closed = client.is_closed();
                scene.saw([if closed { Seen::Cut } else { Seen::Silence }]);
            }
        },
        ..WITHIN_BUDGET
    },
    oversized = Fault {
        name: "requests are oversized",
        how: "too long a line, too large a head, too many headers, too much content, 20 times each",
        faulty_see: &[Seen::Status(413), Seen::Status(431)],
        inject: |scene| {
            let visit_with = |headers: &str| format!("GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
            let requests = [
                format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(16_384)),
                visit_with(&format!("X: {}\r\n", "x".repeat(16_384))),
                visit_with(&"X: y\r\n".repeat(200)),
                "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000\r\n\r\n".to_owned(),
            ];
            send_all(scene, &requests, 20);
        },
        ..WITHIN_BUDGET
    },
    malformed = Fault {
        name: "requests are malformed",
        how: "no Host or two, no version, spaces and NUL where none may be, 20 times each",
        faulty_see: &[Seen::Status(400)],
        inject: |scene| send_all(scene, MALFORMED, 20),
        ..WITHIN_BUDGET
    },
    smuggling = Fault {
        name: "requests are smuggled",
        how: "every severe case of http_desync_guardian's corpus, with a visit hidden in it",
        faulty_see: &[Seen::Status(400)],
        inject: |scene| send_all(scene, &framing::severe(), 1),
        ..WITHIN_BUDGET
    },
    port_scan = Fault {
        name: "ports are scanned",
        how: "the first bytes of TLS, HTTP/2, SSH, SMB, RDP, SOCKS, Redis, SIP and more",
        faulty_see: &[Seen::Status(400), Seen::Cut],
        stage: || Stage::patient().set("HEADER_TIMEOUT", "500ms"),
        inject: |scene| send_all(scene, SCANS, 5),
        ..WITHIN_BUDGET
    },
];

const MALFORMED: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: test\r\n X: folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: test\r\nX: \0\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: test\r\n\r\n",
    b"GET /\r\nHost: test\r\n\r\n",
    b"G\xcbT / HTTP/1.1\r\nHost: test\r\n\r\n",
];

const SCANS: &[&[u8]] = &[
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\0\0\0\xa4\xffSMB\x72\0\0\0\0\x08\x01\x40",
    b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    b"\x05\x01\x00",
    b"*1\r\n$4\r\nPING\r\n",
    b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n",
    b"HELP\r\n",
    b"\r\n\r\n",
    b"\0\0\0\0",
];

fn send_all<B: AsRef<[u8]>>(scene: &mut Scene, requests: &[B], times: usize) {
    for turn in 0..times {
        for (index, request) in requests.iter().enumerate() {
            scene.send(turn + index, request);
        }
    }
}
