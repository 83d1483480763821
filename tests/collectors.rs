//! Logs reach a collector by the settings in `collectors/`, and nothing is lost while it is away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        each_once(expected, || collector.journal(&remote).lines().map(str::to_owned).collect());
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

/// A request to an [`Endpoint`].
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| *known == name);
        found.map_or_else(|| panic!("no {name}"), |(_, value)| value)
    }
}

/// Takes the place of a collector, at a port in the network of this thread, and records what arrives.
struct Endpoint<Records> {
    port: u16,
    /// The status and the content of the answer, or nothing if that gets lost.
    answer: fn(&mut Records, &Request) -> Option<(u16, Value)>,
    listener: Option<TcpListener>,
    shared: Arc<Mutex<Shared<Records>>>,
}

struct Shared<Records> {
    records: Records,
    connections: Vec<TcpStream>,
}

impl<Records: Default + Send + 'static> Endpoint<Records> {
    fn new(port: u16, answer: fn(&mut Records, &Request) -> Option<(u16, Value)>) -> Self {
        let shared = Shared { records: Records::default(), connections: Vec::new() };
        let mut new = Self { port, answer, listener: None, shared: Arc::new(Mutex::new(shared)) };
        new.start();
        new
    }

    fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is free");
        let accepting = listener.try_clone().expect("a second handle");
        let (shared, answer) = (self.shared.clone(), self.answer);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let second = stream.try_clone().expect("a second handle");
                shared.lock().unwrap_or_else(PoisonError::into_inner).connections.push(second);
                let shared = shared.clone();
                std::thread::spawn(move || serve(&shared, answer, stream));
            }
        });
        self.listener = Some(listener);
    }
}

impl<Records> Endpoint<Records> {
    fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("a listener");
        }
        for connection in self.shared().connections.drain(..) {
            // Closed already is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared<Records>> {
        assert!(!self.shared.is_poisoned() || std::thread::panicking(), "a request was not well formed");
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records<Of>(&self, of: impl FnOnce(&mut Records) -> Of) -> Of {
        of(&mut self.shared().records)
    }
}

impl<Records> Drop for Endpoint<Records> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers the requests on one connection.
fn serve<Records>(
    shared: &Mutex<Shared<Records>>,
    answer: fn(&mut Records, &Request) -> Option<(u16, Value)>,
    mut stream: TcpStream,
) -> Option<()> {
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
        let headers: Vec<_> = head[1..].iter().filter_map(|line| line.split_once(": ")).collect();
        let length = headers.iter().find(|(name, _)| *name == "Content-Length");
        let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().expect("a number"))];
        reader.read_exact(&mut body).ok()?;
        let mut words = head[0].split(' ').map(str::to_owned);
        let request = Request {
            method: words.next().expect("a method"),
            path: words.next().expect("a path"),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: String::from_utf8(body).expect("text"),
        };
        // What has been recorded is answered before another thread may close the connection.
        let mut shared = shared.lock().ok()?;
        let Some((status, content)) = answer(&mut shared.records, &request) else {
            let _ = stream.shutdown(Shutdown::Both);
            return None;
        };
        let content = content.to_string();
        write!(
            stream,
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        )
        .ok()?;
    }
}

/// Waits until these requests have arrived, each once.
fn each_once(expected: &BTreeSet<String>, arrived: impl Fn() -> Vec<String>) {
    let arrived = eventually("all arrive", || {
        let arrived: Vec<_> = arrived().into_iter().filter(|id| expected.contains(id)).collect();
        let distinct: BTreeSet<_> = arrived.iter().collect();
        (distinct.len() == expected.len()).then_some(arrived)
    });
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = arrived.iter().filter(|id| !seen.insert(*id)).collect();
    assert!(twice.is_empty(), "none is there twice: {twice:?}");
}

/// What an Elasticsearch would have.
#[derive(Default)]
struct Documents {
    /// By their ids.
    documents: BTreeMap<String, Value>,
    /// How many requests are carried out and not answered.
    loses_answers: usize,
    /// How many documents are refused for the moment.
    refuses: usize,
    /// The request whose document is refused for good.
    rejects: Option<&'static str>,
}

/// Holds a request to what "Bulk API" in the reference of Elasticsearch 8 asks for.
fn elasticsearch(state: &mut Documents, request: &Request) -> Option<(u16, Value)> {
    match (&*request.method, &*request.path) {
        ("GET" | "HEAD", "/_cat/health") => Some((200, json!({}))),
        ("POST", "/_bulk") => {
            let kind = request.header("Content-Type");
            assert!(kind.starts_with("application/json"), "{kind}");
            let answer = bulk(state, &request.body);
            if state.loses_answers > 0 {
                state.loses_answers -= 1;
                return None;
            }
            Some((200, answer))
        }
        other => panic!("{other:?}"),
    }
}

impl Endpoint<Documents> {
    /// The documents with this value, once there are some.
    fn with(&self, name: &str, value: impl Into<Value>) -> Vec<Value> {
        let value = value.into();
        eventually("such documents arrive", || {
            let found = self.records(|state| {
                let found = state.documents.values().filter(|document| document[name] == value);
                found.cloned().collect::<Vec<_>>()
            });
            Some(found).filter(|found| !found.is_empty())
        })
    }

    /// Waits until these requests have arrived, each once.
    fn has(&self, ids: &BTreeSet<String>) {
        each_once(ids, || {
            self.records(|state| {
                let ids =
                    state.documents.values().filter_map(|document| document["http.request.id"].as_str());
                ids.map(str::to_owned).collect()
            })
        });
    }
}

/// Carries out a bulk request.
fn bulk(state: &mut Documents, body: &str) -> Value {
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

/// Makes a request that has all fields, one that is refused, and one that fails with an error of Redis.
/// Returns their ids.
fn requests_of_all_kinds(machine: &Machine, port: u16) -> BTreeSet<String> {
    let mut client = machine.connect(port);
    let everything = "X-Request-Id: everything\r\nUser-Agent: a \"browser\"\r\nReferer: https://a.example/\r\n\
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    assert_eq!(client.get_with("/", everything).number(), 1);
    let refused = client.exchange("GET / HTTP/1.1\r\nX-Request-Id: refused\r\n\r\n").expect("an answer");
    assert_eq!(refused.status, 400);
    machine.systemctl(&["stop", "redis-server"]);
    assert_eq!(machine.connect(port).get_with("/", "X-Request-Id: failed\r\n").status, 503);
    machine.systemctl(&["start", "redis-server"]);
    eventually("it counts again", || {
        (machine.connect(port).get_with("/", "X-Request-Id: again\r\n").status == 200).then_some(())
    });
    ["everything", "refused", "failed"].map(str::to_owned).into()
}

/// Asserts that an event has all of these fields.
fn assert_has(event: &Value, fields: &Value) {
    for (name, value) in fields.as_object().expect("an object") {
        assert_eq!(event[name], *value, "{name} of {event}");
    }
}

/// Has rsyslog take the events of an instance at `port` to an Elasticsearch that does all that it may do.
fn each_event_arrives_once(machine: &Machine, port: u16, settings: &str) -> Endpoint<Documents> {
    let mut elasticsearch = Endpoint::new(9200, elasticsearch);
    install(machine, "rsyslog-elasticsearch.conf");
    install(machine, settings);
    machine.systemctl(&["enable", "--now", "rsyslog"]);
    let mut ids = requests_of_all_kinds(machine, port);
    let whole = &elasticsearch.with("http.request.id", "everything")[0];
    // In the form of the Elastic Common Schema.
    let expected = json!({
        "service.name": "abukiks", "service.version": "r7", "log.level": "INFO",
        "http.request.method": "GET", "url.path": "/", "http.response.status_code": 200,
        "http.response.body.bytes": 36, "abukiks.visit": 1, "abukiks.returning": false,
        "client.address": "127.0.0.1", "http.request.id": "everything",
        "trace.id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent.id": "00f067aa0ba902b7",
        "user_agent.original": "a \"browser\"", "http.request.referrer": "https://a.example/",
    });
    assert_has(whole, &expected);
    assert!(whole["event.duration"].as_u64().is_some_and(|duration| duration > 1000), "{whole}");
    assert!(whole["host.name"].is_string() && whole["message"].is_string(), "{whole}");
    let refused = &elasticsearch.with("http.request.id", "refused")[0];
    assert!(refused["event.reason"].as_str().is_some_and(|reason| reason.contains("Host")), "{refused}");
    assert_eq!(elasticsearch.with("http.request.id", "failed")[0]["log.level"], "WARN");
    assert!(!elasticsearch.with("log.level", "ERROR").is_empty());

    let mut client = machine.connect(port);
    elasticsearch.records(|state| state.refuses = 20);
    visit(&mut client, 100, &mut ids);
    elasticsearch.has(&ids);
    elasticsearch.records(|state| state.loses_answers = 2);
    visit(&mut client, 100, &mut ids);
    elasticsearch.has(&ids);
    eventually("it has refused, and lost answers", || {
        elasticsearch.records(|state| state.refuses == 0 && state.loses_answers == 0).then_some(())
    });

    elasticsearch.records(|state| state.rejects = Some("rejected"));
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
    elasticsearch.records(|state| state.rejects = None);
    ids.insert("rejected".to_owned());
    elasticsearch.start();
    machine.systemctl(&["start", "rsyslog"]);
    elasticsearch.has(&ids);
    elasticsearch
}

/// Starts the instance 5001, all of whose fields are logged.
fn start_in_the_journal(machine: &Machine) {
    machine.write("/etc/abukiks/5001.env", "RELEASE=r7\nACCESS_LOG=full\nSESSION_LIFETIME=1h\n");
    machine.systemctl(&["start", "abukiks@5001"]);
}

/// Starts the same at port 5009, with its stdout in a file as a container engine does it.
fn start_as_a_container(machine: &Machine) {
    let engine = "{ echo no event; echo; abukiks; } | sed -u 's/^/2026-11-23T08:32:35.654056123+00:00 stdout F /' \
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
}

#[test]
fn rsyslog_takes_each_event_of_the_journal_to_elasticsearch_once() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    start_in_the_journal(&machine);
    each_event_arrives_once(&machine, 5001, "rsyslog-journal.conf");
}

#[test]
fn rsyslog_takes_each_event_of_a_container_to_elasticsearch_once() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    start_as_a_container(&machine);
    let elasticsearch = each_event_arrives_once(&machine, 5009, "rsyslog-stdout.conf");
    let others = elasticsearch.with("message", "2026-11-23T08:32:35.654056123+00:00 stdout F no event");
    assert_eq!(others.len(), 1, "also what is no event arrives, once");
    assert_eq!(others[0]["log.level"], "ERROR");
}

/// What a Splunk would have.
#[derive(Default)]
struct Events {
    /// As they arrived, with what stands beside them.
    events: Vec<Value>,
    /// How the next requests are refused: status, code and text of the answer.
    refuses: VecDeque<(u16, u8, &'static str)>,
    /// How many requests are carried out and not answered.
    loses_answers: usize,
}

/// Holds a request to what "Format events for HTTP Event Collector" and the reference of `services/collector`
/// in the manual of Splunk Enterprise ask for.
fn splunk(state: &mut Events, request: &Request) -> Option<(u16, Value)> {
    assert_eq!((&*request.method, &*request.path), ("POST", "/services/collector/event"));
    assert_eq!(request.header("Authorization"), "Splunk TOKEN");
    if let Some((status, code, text)) = state.refuses.pop_front() {
        return Some((status, json!({"text": text, "code": code})));
    }
    // One object after the other: a list of them is refused.
    let events: Vec<Value> = serde_json::Deserializer::from_str(&request.body)
        .into_iter()
        .map(|event| event.expect("JSON"))
        .collect();
    assert!(!events.is_empty(), "code 5: no data");
    for event in &events {
        for (name, value) in event.as_object().expect("code 6: invalid data format") {
            let is_right = match &**name {
                // In seconds; a fraction is allowed.
                "time" => value.is_number(),
                "host" | "source" | "sourcetype" => value.as_str().is_some_and(|text| !text.is_empty()),
                "event" => value.is_object() || value.is_string(),
                _ => false,
            };
            assert!(is_right, "{name} of {event}");
        }
        assert!(!event["event"].is_null(), "code 12: event field is required");
        assert_ne!(event["event"], "", "code 13: event field cannot be blank");
    }
    state.events.extend(events);
    if state.loses_answers > 0 {
        state.loses_answers -= 1;
        return None;
    }
    Some((200, json!({"text": "Success", "code": 0})))
}

impl Endpoint<Events> {
    /// The request ids of all events, in the order in which they arrived.
    fn ids(&self) -> Vec<String> {
        self.records(|state| {
            let ids = state.events.iter().filter_map(|event| event["event"]["request_id"].as_str());
            ids.map(str::to_owned).collect()
        })
    }

    /// Waits for what has arrived with this in the event.
    fn with(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually("such an event arrives", || {
            self.records(|state| state.events.iter().find(|event| is_it(&event["event"])).cloned())
        })
    }
}

/// Has syslog-ng take the events of an instance at `port` to a Splunk that does all that it may do.
fn each_event_arrives_at_splunk(machine: &Machine, port: u16, settings: &str) -> Endpoint<Events> {
    let mut splunk = Endpoint::new(8088, splunk);
    install(machine, "syslog-ng-splunk.conf");
    install(machine, settings);
    machine.systemctl(&["enable", "--now", "syslog-ng"]);
    let before = SystemTime::now();
    let mut ids = requests_of_all_kinds(machine, port);
    let whole = splunk.with(|event| event["request_id"] == "everything");
    // With the types of the JSON lines.
    let expected = json!({
        "level": "INFO", "release": "r7", "http_method": "GET", "http_path": "/", "http_status": 200,
        "http_bytes": 36, "visit": 1, "returning": false, "client": "127.0.0.1", "request_id": "everything",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_id": "00f067aa0ba902b7",
        "user_agent": "a \"browser\"", "referrer": "https://a.example/",
    });
    assert_has(&whole["event"], &expected);
    assert!(whole["event"]["duration_us"].is_u64() && whole["event"]["message"].is_string(), "{whole}");
    assert_has(&whole, &json!({"source": "abukiks", "sourcetype": "_json"}));
    let time = UNIX_EPOCH + Duration::from_secs_f64(whole["time"].as_f64().expect("a time"));
    assert!(before < time && time < SystemTime::now(), "{whole}");
    let refused = splunk.with(|event| event["request_id"] == "refused");
    assert!(refused["event"]["reason"].as_str().is_some_and(|reason| reason.contains("Host")), "{refused}");
    let failed = splunk.with(|event| event["request_id"] == "failed");
    assert_has(&failed["event"], &json!({"level": "WARN", "http_status": 503}));
    splunk.with(|event| event["level"] == "ERROR");

    let mut client = machine.connect(port);
    let refusals = [(503, 9, "Server is busy"), (403, 4, "Invalid token")];
    splunk.records(|state| state.refuses.extend(refusals));
    visit(&mut client, 100, &mut ids);
    each_once(&ids, || splunk.ids());
    assert!(splunk.records(|state| state.refuses.is_empty()), "it has refused");

    // Away, and meanwhile syslog-ng is killed and started again.
    splunk.stop();
    visit(&mut client, 1000, &mut ids);
    machine.logged(&["--unit=syslog-ng"], "error sending HTTP request");
    machine.systemctl(&["kill", "--signal=KILL", "syslog-ng"]);
    visit(&mut client, 100, &mut ids);
    splunk.start();
    each_once(&ids, || splunk.ids());

    // Splunk knows no ids of events. So what it has taken without saying so, it gets again.
    splunk.records(|state| state.loses_answers = 1);
    visit(&mut client, 100, &mut ids);
    eventually("all arrive", || ids.is_subset(&splunk.ids().into_iter().collect()).then_some(()));
    splunk
}

#[test]
fn syslog_ng_takes_each_event_of_the_journal_to_splunk() {
    let Some(machine) = Machine::boot_with_syslog_ng() else {
        return;
    };
    start_in_the_journal(&machine);
    each_event_arrives_at_splunk(&machine, 5001, "syslog-ng-journal.conf");
}

#[test]
fn syslog_ng_takes_each_event_of_a_container_to_splunk() {
    let Some(machine) = Machine::boot_with_syslog_ng() else {
        return;
    };
    start_as_a_container(&machine);
    let splunk = each_event_arrives_at_splunk(&machine, 5009, "syslog-ng-stdout.conf");
    let other = splunk.with(|event| *event == "no event");
    assert_eq!(other["time"], 1_795_422_755.654_056, "the time of the line");
}
