//! Logs reach a collector by the settings in `collectors/`, and nothing is lost while it is away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::redis_url::Tls;
use crate::support::{Client, eventually, last_for};

/// Puts a file of `collectors/` where its first line says.
fn install(machine: &Machine, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("collectors").join(name);
    let text = fs::read_to_string(&path).expect("a file");
    let place = text.strip_prefix("# ").and_then(|rest| rest.split([',', ':', '\n']).next());
    machine.write(place.expect("a first line"), &text);
}

/// Makes so many requests, and returns their ids.
fn visit(client: &mut Client, visits: usize, ids: &mut BTreeSet<String>) {
    for _ in 0..visits {
        let id = format!("visit-{}", ids.len());
        assert_eq!(client.get_with("/", &format!("X-Request-Id: {id}\r\n")).status, 200);
        ids.insert(id);
    }
}

#[test]
fn a_collector_has_the_whole_journal_of_another_machine_though_it_was_away() {
    // The test is in the network of the second one.
    let (Some(collector), Some(sender)) = (Machine::boot(), Machine::boot()) else {
        return;
    };
    sender.wire("192.0.2.10", &collector, "192.0.2.1");
    let tls = Tls::new();
    for (machine, name) in [(&collector, "collector"), (&sender, "sender")] {
        let identity = tls.identity(&format!("{name}.example"), |_| ());
        for (from, to) in [
            (tls.file("ca.pem"), "ca.pem".to_owned()),
            (identity.certificate, format!("{name}.pem")),
            (identity.key, format!("{name}.key")),
        ] {
            machine.write(&format!("/etc/ssl/journal/{to}"), &fs::read_to_string(from).expect("a file"));
        }
    }
    for name in ["journal-remote.conf", "journal-remote.service.conf"] {
        install(&collector, name);
    }
    for name in ["journal-upload.conf", "journal-upload.service.conf"] {
        install(&sender, name);
    }
    sender.write("/etc/hosts", "192.0.2.1 collector.example\n");
    let (socket, service, upload) =
        ("systemd-journal-remote.socket", "systemd-journal-remote.service", "systemd-journal-upload.service");
    let remote = ["--directory=/var/log/journal/remote", "--output-fields=REQUEST_ID", "HTTP_STATUS=200"];
    let arrived = |expected: &BTreeSet<String>| {
        let arrived = eventually("all arrive", || {
            let arrived: Vec<String> = collector.journal(&remote).lines().map(str::to_owned).collect();
            expected.iter().all(|id| arrived.contains(id)).then_some(arrived)
        });
        assert_eq!(arrived.len(), expected.len(), "none is there twice");
    };
    for machine in [&collector, &sender] {
        machine.systemctl(&["daemon-reload"]);
    }
    sender.systemctl(&["start", "abukiks@5001"]);
    let (mut client, mut ids) = (sender.connect(5001), BTreeSet::new());
    visit(&mut client, 100, &mut ids);

    // Away from the start, for longer than systemd would try by itself.
    sender.systemctl(&["start", upload]);
    last_for(Duration::from_secs(5));
    collector.systemctl(&["start", socket]);
    arrived(&ids);

    // Stopped.
    collector.systemctl(&["stop", socket, service]);
    visit(&mut client, 300, &mut ids);
    sender.logged(&["--unit", upload], "Could not connect");
    collector.systemctl(&["start", socket]);
    arrived(&ids);

    // Killed amid events.
    visit(&mut client, 300, &mut ids);
    collector.systemctl(&["kill", "--signal=KILL", service]);
    visit(&mut client, 300, &mut ids);
    arrived(&ids);
    let of_one = ["--directory=/var/log/journal/remote", "REQUEST_ID=visit-0", "--output=json"];
    let entry: Value = serde_json::from_str(collector.journal(&of_one).trim()).expect("JSON");
    assert_eq!(entry["_SYSTEMD_UNIT"], "abukiks@5001.service");
    assert_eq!(entry["MESSAGE"], "GET / 200");
}

/// Takes the place of an Elasticsearch, at its port in the network of this thread. What it holds of a
/// request is what "Bulk API" in the reference of Elasticsearch 8 asks for.
struct Elasticsearch {
    listener: Option<TcpListener>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By their ids.
    documents: BTreeMap<String, Value>,
    connections: Vec<TcpStream>,
    /// How many requests are carried out and not answered.
    loses_answers: usize,
    /// How many documents are refused for the moment.
    refuses: usize,
    /// The request whose document is refused for good.
    rejects: Option<&'static str>,
}

impl Elasticsearch {
    fn new() -> Self {
        let mut new = Self { listener: None, state: Arc::default() };
        new.start();
        new
    }

    fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", 9200)).expect("the port is free");
        let accepting = listener.try_clone().expect("a second handle");
        let state = self.state.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let second = stream.try_clone().expect("a second handle");
                state.lock().unwrap_or_else(PoisonError::into_inner).connections.push(second);
                let state = state.clone();
                std::thread::spawn(move || answer(&state, stream));
            }
        });
        self.listener = Some(listener);
    }

    fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("a listener");
        }
        for connection in self.state().connections.drain(..) {
            // Closed already is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        assert!(!self.state.is_poisoned() || std::thread::panicking(), "a request was not well formed");
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The documents with this value, once there are some.
    fn with(&self, name: &str, value: impl Into<Value>) -> Vec<Value> {
        let value = value.into();
        eventually("such documents arrive", || {
            let state = self.state();
            let found = state.documents.values().filter(|document| document[name] == value);
            Some(found.cloned().collect::<Vec<_>>()).filter(|found| !found.is_empty())
        })
    }

    /// Waits until these requests have arrived, each once.
    fn has(&self, ids: &BTreeSet<String>) {
        let arrived = || -> Vec<String> {
            let state = self.state();
            let ids = state.documents.values().filter_map(|document| document["http.request.id"].as_str());
            ids.map(str::to_owned).collect()
        };
        eventually("all arrive", || {
            let arrived: BTreeSet<_> = arrived().into_iter().collect();
            ids.is_subset(&arrived).then_some(())
        });
        let arrived = arrived().into_iter().filter(|id| ids.contains(id));
        assert_eq!(arrived.count(), ids.len(), "none is there twice");
    }
}

impl Drop for Elasticsearch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers the requests on one connection.
fn answer(state: &Mutex<State>, mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| line.split_once(": ").filter(|(known, _)| *known == name))
        };
        let length = header("Content-Length").map_or(0, |(_, length)| length.parse().expect("a number"));
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let answer = match head[0].split(' ').collect::<Vec<_>>()[..] {
            ["GET" | "HEAD", "/_cat/health", _] => json!({}),
            ["POST", "/_bulk", _] => {
                let (_, kind) = header("Content-Type").expect("a type");
                assert!(kind.starts_with("application/json"), "{kind}");
                let mut state = state.lock().ok()?;
                let answer = bulk(&mut state, &String::from_utf8(body).expect("text"));
                if state.loses_answers > 0 {
                    state.loses_answers -= 1;
                    let _ = stream.shutdown(Shutdown::Both);
                    return None;
                }
                answer
            }
            _ => panic!("{head:?}"),
        };
        let answer = answer.to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .ok()?;
    }
}

/// Carries out a bulk request.
fn bulk(state: &mut State, body: &str) -> Value {
    assert!(body.ends_with('\n'), "the last line ends, too");
    let lines: Vec<Value> =
        body.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let (pairs, rest) = lines.as_chunks::<2>();
    assert_eq!(rest.len(), 0, "each action has a document");
    let items: Vec<Value> = pairs
        .iter()
        .map(|[action, document]| {
            // Version 8 refuses a `_type`.
            let id = action["create"]["_id"].as_str().expect("an id").to_owned();
            assert!(id.len() <= 512);
            assert_eq!(*action, json!({"create": {"_index": "logs-abukiks-default", "_id": id}}));
            // A data stream refuses a document without one.
            let time = document["@timestamp"].as_str().expect("a time");
            humantime::parse_rfc3339(&time.replace("+00:00", "Z")).expect("in UTC");
            let status = if state.refuses > 0 {
                state.refuses -= 1;
                429
            } else if state.rejects.is_some_and(|id| document["http.request.id"] == id) {
                400
            } else if state.documents.contains_key(&id) {
                409
            } else {
                state.documents.insert(id.clone(), document.clone());
                201
            };
            let mut item = json!({"_index": "logs-abukiks-default", "_id": id, "status": status});
            if status > 201 {
                item["error"] = json!({"type": "an_exception", "reason": "a reason"});
            }
            json!({"create": item})
        })
        .collect();
    let errors = items.iter().any(|item| item["create"]["status"] != 201);
    json!({"took": 1, "errors": errors, "items": items})
}

/// What becomes of a request that has all fields, in the form of the Elastic Common Schema.
fn everything() -> (&'static str, Value) {
    let headers = "X-Request-Id: everything\r\nUser-Agent: a \"browser\"\r\nReferer: https://a.example/\r\n\
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let document = json!({
        "service.name": "abukiks", "service.version": "r7", "log.level": "INFO",
        "http.request.method": "GET", "url.path": "/", "http.response.status_code": 200,
        "http.response.body.bytes": 36, "abukiks.visit": 1, "abukiks.returning": false,
        "client.address": "127.0.0.1", "http.request.id": "everything",
        "trace.id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent.id": "00f067aa0ba902b7",
        "user_agent.original": "a \"browser\"", "http.request.referrer": "https://a.example/",
    });
    (headers, document)
}

/// Has rsyslog take the events of an instance at `port` to an Elasticsearch that does all that it may do.
fn each_event_arrives_once(machine: &Machine, port: u16, settings: &str) -> Elasticsearch {
    let mut elasticsearch = Elasticsearch::new();
    install(machine, "rsyslog-elasticsearch.conf");
    install(machine, settings);
    machine.systemctl(&["enable", "--now", "rsyslog"]);
    let (mut client, mut ids) = (machine.connect(port), BTreeSet::new());
    let (headers, expected) = everything();
    assert_eq!(client.get_with("/", headers).number(), 1);
    let whole = &elasticsearch.with("http.request.id", "everything")[0];
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(whole[name], *value, "{name} of {whole}");
    }
    assert!(whole["event.duration"].as_u64().is_some_and(|duration| duration > 1000), "{whole}");
    assert!(whole["host.name"].is_string() && whole["message"].is_string(), "{whole}");
    ids.insert("everything".to_owned());
    let refused = client.exchange("GET / HTTP/1.1\r\nX-Request-Id: refused\r\n\r\n").expect("an answer");
    assert_eq!(refused.status, 400);
    ids.insert("refused".to_owned());
    let refused = &elasticsearch.with("http.request.id", "refused")[0];
    assert!(refused["event.reason"].as_str().is_some_and(|reason| reason.contains("Host")), "{refused}");
    machine.systemctl(&["stop", "redis-server"]);
    assert_eq!(machine.connect(port).get_with("/", "X-Request-Id: failed\r\n").status, 503);
    assert_eq!(elasticsearch.with("http.request.id", "failed")[0]["log.level"], "WARN");
    assert!(!elasticsearch.with("log.level", "ERROR").is_empty());
    ids.insert("failed".to_owned());
    machine.systemctl(&["start", "redis-server"]);
    eventually("it counts again", || {
        (machine.connect(port).get_with("/", "X-Request-Id: again\r\n").status == 200).then_some(())
    });

    let mut client = machine.connect(port);
    elasticsearch.state().refuses = 20;
    visit(&mut client, 100, &mut ids);
    elasticsearch.has(&ids);
    elasticsearch.state().loses_answers = 2;
    visit(&mut client, 100, &mut ids);
    elasticsearch.has(&ids);
    eventually("it has refused, and lost answers", || {
        let state = elasticsearch.state();
        (state.refuses == 0 && state.loses_answers == 0).then_some(())
    });

    elasticsearch.state().rejects = Some("rejected");
    assert_eq!(client.get_with("/nowhere", "X-Request-Id: rejected\r\n").status, 404);
    eventually("it is kept aside", || {
        let kept = fs::read_to_string(machine.file("/var/log/abukiks-refused.json")).ok()?;
        kept.contains("\"http.request.id\": \"rejected\"").then_some(())
    });

    let outages = || machine.journal(&["--unit=rsyslog"]).matches("elasticsearch' suspended").count();
    let lost = |before: usize| eventually("it cannot deliver", || (outages() > before).then_some(()));
    let before = outages();
    elasticsearch.stop();
    visit(&mut client, 1000, &mut ids);
    lost(before);
    elasticsearch.start();
    elasticsearch.has(&ids);

    // What rsyslog has just tried it loses when it is stopped; docs/logs.md has it read all again.
    let before = outages();
    elasticsearch.stop();
    visit(&mut client, 100, &mut ids);
    lost(before);
    machine.systemctl(&["stop", "rsyslog"]);
    machine.run(&["sh", "-c", "rm -r /var/spool/rsyslog/*state*"]);
    elasticsearch.state().rejects = None;
    ids.insert("rejected".to_owned());
    elasticsearch.start();
    machine.systemctl(&["start", "rsyslog"]);
    elasticsearch.has(&ids);
    elasticsearch
}

#[test]
fn rsyslog_takes_each_event_of_the_journal_to_elasticsearch_once() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "RELEASE=r7\nACCESS_LOG=full\nSESSION_LIFETIME=1h\n");
    machine.systemctl(&["start", "abukiks@5001"]);
    each_event_arrives_once(&machine, 5001, "rsyslog-journal.conf");
}

#[test]
fn rsyslog_takes_each_event_of_a_container_to_elasticsearch_once() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    // As a container engine does it.
    let engine = "{ echo no event; abukiks; } | sed -u 's/^/2026-11-23T08:32:35.654056123+00:00 stdout F /' \
        >/var/log/containers/abukiks-1.log";
    let settings = [
        "PORT=5009",
        "LOG_FORMAT=json",
        "REDIS_URL=unix:///run/redis/redis-server.sock",
        "RELEASE=r7",
        "ACCESS_LOG=full",
        "SESSION_LIFETIME=1h",
    ]
    .map(|setting| format!("--setenv={setting}"));
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    machine.run(&["mkdir", "/var/log/containers"]);
    machine.run(&[&["systemd-run", "--quiet"], &settings[..], &["sh", "-c", engine]].concat());
    eventually("it listens", || TcpStream::connect(("127.0.0.1", 5009)).ok());
    let elasticsearch = each_event_arrives_once(&machine, 5009, "rsyslog-stdout.conf");
    let others = elasticsearch.with("message", "2026-11-23T08:32:35.654056123+00:00 stdout F no event");
    assert_eq!(others.len(), 1, "also what is no event arrives, once");
    assert_eq!(others[0]["log.level"], "ERROR");
}
