//! Logs are an event stream: complete, honest and never in the way.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::support::{
    Client, PATIENCE, Process, Redis, Service, activated, activated_by, eventually, held_socket,
};

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn is_request(event: &Value) -> bool {
    event["message"] == "request"
}

/// Ends the service and returns its log, every line of which must be JSON.
fn events(mut service: Service) -> Vec<Value> {
    service.stop();
    service.whole_log().iter().map(|line| json(line)).collect()
}

#[test]
fn each_request_is_one_event_with_all_that_is_known_of_it() {
    let redis = Redis::start();
    let service = redis.service(&[("RELEASE", "r \"7\"")]);
    let mut client = service.connect();
    let greeting = client.get_with("/", "X-Request-Id: one\r\n");
    client.get("/nowhere?secret=query");
    client.exchange("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let wrong = client.exchange("GET / HTTP/1.1\r\n\r\n").unwrap();
    let garbage = service.connect().exchange("\x01\x02 nonsense\r\n\r\n").unwrap();
    assert_eq!((wrong.status, garbage.status), (400, 400));

    let events = events(service);
    let requests: Vec<_> = events.iter().filter(|event| is_request(event)).collect();
    let field = |name: &str| -> Vec<Value> { requests.iter().map(|event| event[name].clone()).collect() };
    assert_eq!(
        field("http_method"),
        [json("\"GET\""), "GET".into(), "HEAD".into(), "GET".into(), Value::Null]
    );
    assert_eq!(field("http_path"), ["/", "/nowhere", "/", "/", "-"]);
    assert_eq!(field("http_status"), [200, 404, 200, 400, 400]);
    assert_eq!(field("visit"), [Value::from(1), Value::Null, Value::Null, Value::Null, Value::Null]);
    assert_eq!(field("client"), ["127.0.0.1"; 5]);
    assert_eq!(field("release"), ["r \"7\""; 5]);
    assert_eq!(field("level"), ["INFO"; 5]);
    assert_eq!(requests[0]["http_bytes"], greeting.body.len());
    assert_eq!(requests[0]["request_id"], "one");
    assert_eq!(requests[1]["request_id"].as_str().unwrap().len(), 32);
    assert!(requests.iter().all(|event| event["duration_us"].is_u64() && event["timestamp"].is_string()));
    assert!(!events.iter().any(|event| event.to_string().contains("secret")), "a query may hold secrets");
}

#[test]
fn a_request_whose_client_has_left_is_an_event_too() {
    let redis = Redis::start();
    let service =
        redis.service(&[("REDIS_TIMEOUT", "60s"), ("DRAIN_LAME_DUCK", "0s"), ("DRAIN_TIMEOUT", "1s")]);
    assert_eq!(service.get("/").number(), 1);
    redis.process().signal(Signal::STOP);
    let ask = |id: &str| {
        let mut client = service.connect();
        client
            .send(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n"))
            .expect("it listens");
        client
    };
    let hasty = ask("hasty");
    service.wait_for_waiting(1);
    hasty.reset();
    service.wait_for_waiting(0);
    let _patient = ask("patient");
    service.wait_for_waiting(1);
    let left = "abukiks_http_requests_total{route=\"/\",status=\"499\"}";
    assert_eq!(service.metric(left), 1.0);
    // The patient one is cut off when DRAIN_TIMEOUT has passed.
    service.process.signal(Signal::TERM);
    let events = service.whole_log();
    for id in ["hasty", "patient"] {
        let of_it = |line: &&String| line.contains(id);
        let line = events.iter().find(of_it).expect("an event");
        let event = json(line);
        assert!(is_request(&event));
        assert_eq!(event["http_status"], 499);
        assert_eq!(event["visit"], Value::Null);
    }
}

#[test]
fn every_request_that_is_cut_at_the_end_is_an_event() {
    let redis = Redis::start();
    let service =
        redis.service(&[("REDIS_TIMEOUT", "60s"), ("DRAIN_LAME_DUCK", "0s"), ("DRAIN_TIMEOUT", "1s")]);
    redis.process().signal(Signal::STOP);
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let mut client = service.connect();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
            client
        })
        .collect();
    service.wait_for_waiting(40);
    let cut = events(service).iter().filter(|event| is_request(event) && event["http_status"] == 499).count();
    assert_eq!(cut, waiting.len());
}

#[test]
fn a_start_and_a_stop_are_events_too() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    service.get("/");
    let messages: Vec<_> = events(service).iter().map(|event| event["message"].clone()).collect();
    let begins =
        |message: &Value, text: &str| message.as_str().is_some_and(|message| message.starts_with(text));
    let place = |text: &str| messages.iter().position(|message| begins(message, text));
    let places = ["listening", "ready", "Redis answers", "request", "draining", "drained"].map(place);
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{messages:?}");
}

/// What Elasticsearch and its like make of a first event decides what later ones may hold.
#[test]
fn a_field_has_the_same_type_in_all_events() {
    let mut redis = Redis::start();
    let settings =
        [("ACCESS_LOG", "full"), ("SESSION_LIFETIME", "1h"), ("REDIS_TIMEOUT", "300ms"), ("ADMIN_PORT", "0")];
    let mut service = redis.service(&settings);
    let mut client = service.connect();
    let traced = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
        User-Agent: 7\r\nReferer: 7\r\nX-Request-Id: 7\r\n";
    let cookie = client.get_with("/", traced).cookie().expect("a session");
    client.get_with("/", &format!("Cookie: {cookie}\r\n"));
    client.get("/7");
    client.exchange("GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut client = service.connect();
    // The count goes back.
    let () = redis.run(&["SET", "visitorCount", "0"]);
    client.get("/");
    service.log_line("went back");
    redis.kill();
    assert_eq!(client.get("/").status, 503);
    redis.resume();
    eventually("it counts again", || (client.get("/").status == 200).then_some(()));
    service.log_line("Redis answers again");
    let mut all = events(service);

    // The next one is cut off with a visit.
    let settings = [("REDIS_TIMEOUT", "60s"), ("DRAIN_LAME_DUCK", "0s"), ("DRAIN_TIMEOUT", "1s")];
    let service = redis.service(&settings);
    redis.process().signal(Signal::STOP);
    let mut cut = service.connect();
    cut.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
    service.wait_for_waiting(1);
    all.extend(events(service));

    // A second signal ends the last one during its drain; its settings have no effect.
    let held = held_socket();
    let (reader, writer) = io::pipe().unwrap();
    let settings = [("PORT", "1"), ("DRAIN_LAME_DUCK", "20s"), ("RELEASE", "7")];
    let mut command = activated(&[held.as_fd()], &settings);
    let mut process = Process::spawn(command.stdout(writer));
    drop(command);
    assert_eq!(Client::connect(held.local_addr().unwrap()).get("/healthz").status, 200);
    process.signal(Signal::TERM);
    for line in BufReader::new(reader).lines() {
        let event = json(&line.unwrap());
        if event["message"] == "draining" {
            process.signal(Signal::TERM);
        }
        all.push(event);
    }
    process.wait();

    let mut types = std::collections::BTreeMap::new();
    for event in &all {
        for (name, value) in event.as_object().expect("an object") {
            let is = match value {
                Value::String(_) => "text",
                Value::Bool(_) => "yes or no",
                Value::Number(number) if number.is_i64() => "a whole number",
                other => panic!("{name} is {other}"),
            };
            assert!(!name.contains('.'), "{name} would lie within another field");
            let first = types.entry(name.clone()).or_insert(is);
            assert_eq!(*first, is, "{name}: {event}");
        }
    }
    // All that docs/logs.md lists, and those of other events.
    let others = ["listening", "inherited", "unused", "signal", "connections", "drained_ms", "outage_ms"];
    let more = ["highest", "fence", "reason", "answering", "drain_timeout_ms", "admin", "max_connections"];
    let document = include_str!("../docs/logs.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let listed = rows.flat_map(|names| names.trim_end_matches('`').split("`, `"));
    for name in listed.chain(others).chain(more) {
        assert!(types.contains_key(name), "the run has no {name}: {types:?}");
    }
}

#[test]
fn a_valid_traceparent_is_logged_and_no_other() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let whole = format!("{trace}-{parent}");
    let (zero_trace, zero_parent) = ("0".repeat(32), "0".repeat(16));
    let valid = [
        format!("00-{whole}-01"),
        format!("00-{whole}-00"),
        format!("cc-{whole}-01-what-comes"),
        format!("01-{whole}-01"),
    ];
    let invalid = [
        String::new(),
        whole.clone(),
        format!("ff-{whole}-01"),
        format!("00-{whole}-01-more"),
        format!("00-{whole}-1"),
        format!("00-{whole}"),
        format!("00-{whole}-0g"),
        format!("0-{whole}-01"),
        format!("cc-{whole}-01.more"),
        format!("00_{trace}_{parent}_01"),
        format!("00-{}-01", whole.to_uppercase()),
        format!("00-{zero_trace}-{parent}-01"),
        format!("00-{trace}-{zero_parent}-01"),
        format!("00-{trace}x-{parent}-01"),
        format!("00-{whole}-01\", \"forged\": \"1"),
    ];
    for given in valid.iter().chain(&invalid) {
        client.get_with("/version", &format!("traceparent: {given}\r\n"));
    }
    let twice = format!("traceparent: {0}\r\ntraceparent: {0}\r\n", valid[0]);
    client.get_with("/version", &twice);

    let requests: Vec<_> = events(service).into_iter().filter(is_request).collect();
    assert_eq!(requests.len(), valid.len() + invalid.len() + 1);
    let (with, without) = requests.split_at(valid.len());
    for event in with {
        assert_eq!((&event["trace_id"], &event["parent_id"]), (&trace.into(), &parent.into()));
    }
    for (event, given) in without.iter().zip(&invalid) {
        assert!(event.get("trace_id").is_none() && event.get("parent_id").is_none(), "{given}");
    }
}

/// Requests that try to write more into the log than they are.
const FORGERIES: [&[u8]; 6] = [
    b"GET /\"},{\"level\":\"ERROR\" HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /a\",\"visit\":\"7 HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /%0a%0d%1b[31mred HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: a\x1b[2Jb\"\r\n\r\n",
    // U+009B starts a terminal's control sequence, U+202E turns the rest of a line around.
    b"GET /\xc2\x9b31m\xe2\x80\xae HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GE\x7fT /\x1b[31m HTTP/1.1\r\nHost: te\x1bst\r\n\r\n",
];

#[test]
fn nothing_that_a_client_sends_can_forge_a_line_or_steer_a_terminal() {
    for format in ["json", "text"] {
        let held = held_socket();
        let (reader, writer) = io::pipe().unwrap();
        let mut command = activated(&[held.as_fd()], &[("LOG_FORMAT", format), ("REDIS_TIMEOUT", "1ms")]);
        let mut process = Process::spawn(command.stdout(writer));
        drop(command);
        for forgery in FORGERIES {
            let mut client = Client::connect(held.local_addr().unwrap());
            client.exchange(forgery).expect("an answer");
        }
        process.signal(Signal::TERM);
        process.wait();
        let mut log = String::new();
        BufReader::new(reader).read_to_string(&mut log).unwrap();
        let strange = log.chars().find(|character| *character != '\n' && !(' '..='~').contains(character));
        assert_eq!(strange, None, "{log}");
        if format == "json" {
            let events: Vec<_> = log.lines().map(json).collect();
            assert_eq!(events.iter().filter(|event| is_request(event)).count(), FORGERIES.len(), "{log}");
            assert!(events.iter().all(|event| event["visit"].is_null()), "{log}");
            assert!(log.contains("/%C2%9B31m%E2%80%AE"), "{log}");
        }
    }
}

#[test]
fn a_full_access_log_has_what_the_client_says_of_itself_cleaned() {
    let redis = Redis::start();
    let service = redis.service(&[("ACCESS_LOG", "full")]);
    let mut client = service.connect();
    let long = "x".repeat(300);
    client.get_with("/", "User-Agent: curl/8.0 (a \u{9b}b)\r\nReferer: https://a.test/page\r\n");
    client.get_with("/", &format!("User-Agent: {long}\r\n"));
    client.get("/");
    let events = events(service);
    let field = |number: usize, name: &str| {
        let mut requests = events.iter().filter(|event| is_request(event));
        requests.nth(number).unwrap()[name].clone()
    };
    assert_eq!(field(0, "user_agent"), "curl/8.0 (a %C2%9Bb)");
    assert_eq!(field(0, "referrer"), "https://a.test/page");
    assert_eq!(field(1, "user_agent"), long[..256]);
    assert_eq!(field(1, "referrer"), Value::Null);
    assert_eq!(field(2, "user_agent"), Value::Null);
}

#[test]
fn log_level_and_access_log_choose_what_is_logged() {
    // The first Redis is away: its visit is a warning, and that it is away an error.
    let cases = [
        ("error", "on", &["ERROR"][..]),
        ("warn", "on", &["ERROR", "WARN"]),
        ("info", "on", &["ERROR", "INFO", "WARN"]),
        ("warn", "off", &["ERROR"]),
        ("info", "off", &["ERROR", "INFO"]),
    ];
    for format in ["json", "text"] {
        for (level, access_log, expected) in cases {
            let held = held_socket();
            let (reader, writer) = io::pipe().unwrap();
            let mut command = activated(
                &[held.as_fd()],
                &[
                    ("REDIS_URL", "unix:///nowhere/redis.sock"),
                    ("REDIS_TIMEOUT", "50ms"),
                    ("LOG_FORMAT", format),
                    ("LOG_LEVEL", level),
                    ("ACCESS_LOG", access_log),
                ],
            );
            let mut process = Process::spawn(command.stdout(writer));
            drop(command);
            let mut client = Client::connect(held.local_addr().unwrap());
            assert_eq!(client.get("/").status, 503);
            assert_eq!(client.get("/version").status, 200);
            drop(client);
            process.signal(Signal::TERM);
            assert!(process.wait().success());
            let log = io::read_to_string(reader).unwrap();
            let mut levels: Vec<_> = log
                .lines()
                .map(|line| match format {
                    "json" => json(line)["level"].as_str().unwrap().to_owned(),
                    _ => line.split_whitespace().nth(1).unwrap().to_owned(),
                })
                .collect();
            levels.sort_unstable();
            levels.dedup();
            assert_eq!(levels, expected, "{format} {level} {access_log}\n{log}");
            let requests = log.matches("duration_us").count();
            let wanted = match (access_log, level) {
                ("off", _) | (_, "error") => 0,
                (_, "warn") => 1,
                _ => 2,
            };
            assert_eq!(requests, wanted, "{format} {level} {access_log}\n{log}");
        }
    }
}

/// The process whose id is in a file. It does not outlive its test.
struct Written(std::path::PathBuf);

impl Written {
    fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(&self.0).ok();
        let pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            // Gone is as good.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What the service prints on a terminal of its own.
fn on_a_terminal(settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let pid = Written(folder.path().join("pid"));
    let script = format!("echo $$ > {}; exec {}", pid.0.display(), env!("CARGO_BIN_EXE_abukiks"));
    let mut command = Command::new("script");
    command
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh"), ("PORT", "0")])
        .envs(settings.iter().copied())
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut terminal = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready") {
        assert_ne!(terminal.read_line(&mut text).unwrap(), 0, "{text}");
    }
    pid.signal(Signal::TERM);
    terminal.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    // Another process may have its id by now.
    std::fs::remove_file(&pid.0).unwrap();
    text
}

#[test]
fn people_at_a_terminal_get_coloured_text_unless_they_want_none() {
    let coloured = on_a_terminal(&[]);
    assert!(coloured.contains("\u{1b}[32m INFO"), "{coloured}");
    assert!(coloured.contains("drained"), "{coloured}");
    let plain = on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(plain.contains(" INFO ") && !plain.contains('\u{1b}'), "{plain}");
    let json_lines = on_a_terminal(&[("LOG_FORMAT", "json")]);
    assert!(json_lines.starts_with("{\""), "{json_lines}");
}

#[test]
fn without_a_terminal_there_is_json_and_text_has_no_colour() {
    for (format, first) in [("auto", "{\"timestamp\""), ("text", "20")] {
        let held = held_socket();
        let settings = [
            ("LOG_FORMAT", format),
            // The stream of another process, as behind a shell that redirects stdout.
            ("JOURNAL_STREAM", "1:1"),
            ("IDLE_EXIT", "1ms"),
        ];
        let output = activated(&[held.as_fd()], &settings).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert!(log.lines().count() > 2, "{log}");
        assert!(log.lines().all(|line| line.starts_with(first)), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
    }
}

/// Reads the journal's native protocol: `NAME=value`, or for any bytes `NAME`, a length, a value.
fn journal_fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8(entry[..end].to_vec()).unwrap();
        entry = &entry[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.push((name.to_owned(), value.to_owned()));
        } else {
            let (length, rest) = entry.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let value = String::from_utf8(rest[..length].to_vec()).unwrap();
            entry = &rest[length + 1..];
            fields.push((line, value));
        }
    }
    fields
}

/// Runs its arguments where `/run/systemd/journal/socket` is the socket of a test, with
/// `JOURNAL_STREAM` naming stdout.
fn before_the_journal(folder: &std::path::Path) -> Option<Vec<String>> {
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
         mount --bind {} /run/systemd/journal && \
         export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1) && exec \"$@\"",
        folder.display()
    );
    let wrapper = ["unshare", "-m", "sh", "-c", &*script, "sh"];
    let allowed = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if allowed.is_ok_and(|output| output.status.success()) {
        Some(wrapper.map(str::to_owned).to_vec())
    } else {
        println!("skipped: no mount namespace can be made here");
        None
    }
}

#[test]
fn the_journal_gets_fields_and_priorities_of_its_own_kind() {
    let folder = tempfile::tempdir().unwrap();
    let journal = UnixDatagram::bind(folder.path().join("socket")).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    let Some(wrapper) = before_the_journal(folder.path()) else {
        return;
    };
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let redis = Redis::start();
    let held = held_socket();
    let settings =
        [("REDIS_URL", &*redis.url()), ("REDIS_TIMEOUT", "100ms"), ("LOG_FORMAT", "auto"), ("RELEASE", "r7")];
    let (stdout, writer) = io::pipe().unwrap();
    let mut command = activated_by(&wrapper, &[held.as_fd()], &settings);
    let mut process = Process::spawn(command.stdout(writer));
    drop(command);
    let mut client = Client::connect(held.local_addr().unwrap());
    client.get("/");
    let () = redis.run(&["DEL", "visitorCount"]);
    let () = redis.run(&["RPUSH", "visitorCount", "no number"]);
    assert_eq!(client.get_with("/", "X-Request-Id: two\r\n").status, 503);
    client.get("/with\"quotes\"");
    drop(client);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert_eq!(io::read_to_string(stdout).unwrap(), "", "nothing is logged twice");

    let mut entries: Vec<Vec<(String, String)>> = Vec::new();
    journal.set_nonblocking(true).unwrap();
    let mut datagram = [0; 65536];
    while let Ok(length) = journal.recv(&mut datagram) {
        if length > 0 {
            entries.push(journal_fields(&datagram[..length]));
        }
    }
    let field = |entry: &[(String, String)], name: &str| -> String {
        let values: Vec<_> = entry.iter().filter(|(known, _)| known == name).collect();
        assert!(values.len() <= 1, "{name} twice: {entry:?}");
        values.first().map_or_else(String::new, |(_, value)| value.clone())
    };
    for entry in &entries {
        assert_eq!(field(entry, "SYSLOG_IDENTIFIER"), "abukiks");
        assert_ne!(field(entry, "MESSAGE"), "");
    }
    let requests: Vec<_> = entries
        .iter()
        .filter(|entry| !field(entry, "HTTP_STATUS").is_empty())
        .map(|entry| {
            ["HTTP_METHOD", "HTTP_PATH", "HTTP_STATUS", "VISIT", "CLIENT", "RELEASE", "PRIORITY", "MESSAGE"]
                .map(|name| field(entry, name))
        })
        .collect();
    assert_eq!(
        requests,
        [
            ["GET", "/", "200", "1", "127.0.0.1", "r7", "6", "GET / 200"],
            ["GET", "/", "503", "", "127.0.0.1", "r7", "4", "GET / 503"],
            ["GET", "/with\"quotes\"", "404", "", "127.0.0.1", "r7", "6", "GET /with\"quotes\" 404"],
        ]
    );
    let fault = entries
        .iter()
        .find(|entry| field(entry, "MESSAGE").starts_with("Redis does not count"))
        .expect("the cause is logged");
    assert_eq!(field(fault, "PRIORITY"), "3");
    assert!(field(fault, "REASON").contains("holds a list"), "{fault:?}");
    assert!(entries.iter().any(|entry| field(entry, "REQUEST_ID") == "two"));
}

#[test]
fn a_journal_that_cannot_be_reached_is_an_error_only_when_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let Some(wrapper) = before_the_journal(folder.path()) else {
        return;
    };
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let held = held_socket();
    let run = |format| {
        let settings = [("LOG_FORMAT", format), ("IDLE_EXIT", "1ms")];
        let output = activated_by(&wrapper, &[held.as_fd()], &settings).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, stderr) = run("journald");
    assert_eq!((code, &*stdout), (Some(71), ""));
    assert!(stderr.starts_with("LOG_FORMAT=journald, but the journal cannot be reached"), "{stderr}");
    let (code, stdout, stderr) = run("auto");
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.lines().next().unwrap().contains("\"message\":\"listening on http://"), "{stdout}");
}

/// A service whose stdout is ours to read, or not to.
pub(crate) struct Unread {
    process: Process,
    pub(crate) client: Client,
    pub(crate) stdout: PipeReader,
}

impl Unread {
    fn start_by(wrapper: &[&str]) -> Self {
        Self::start_at(&held_socket(), wrapper)
    }

    /// Starts it with this socket.
    pub(crate) fn start_at(held: &TcpListener, wrapper: &[&str]) -> Self {
        let (stdout, writer) = io::pipe().unwrap();
        let mut command = activated_by(wrapper, &[held.as_fd()], &[("DRAIN_LAME_DUCK", "0")]);
        let process = Process::spawn(command.stdout(writer));
        let client = Client::connect(held.local_addr().unwrap());
        Self { process, client, stdout }
    }

    /// A request whose event is some thousand bytes long.
    pub(crate) fn log_much(&mut self) {
        assert_eq!(self.client.get(&format!("/{}", "x".repeat(8000))).status, 404);
    }

    fn dropped(&mut self) -> u64 {
        let metrics = self.client.get("/metrics").body;
        let value = metrics.lines().find_map(|line| line.strip_prefix("abukiks_log_lines_dropped_total "));
        value.expect("a metric").parse().unwrap()
    }
}

#[test]
fn a_stdout_that_is_not_read_stalls_nothing_and_what_was_dropped_is_told() {
    let mut wrappers = vec![vec![]];
    let other_user = ["setpriv", "--reuid=65534", "--clear-groups"];
    let allowed = Command::new(other_user[0])
        .args(&other_user[1..])
        .arg(env!("CARGO_BIN_EXE_abukiks"))
        .arg("--version")
        .output();
    if allowed.is_ok_and(|output| output.status.success()) {
        // Whose stdout is another user's, so that it cannot be opened anew.
        wrappers.push(other_user.to_vec());
    } else {
        println!("not with the stdout of another user: this user may not change to one");
    }
    for wrapper in wrappers {
        let mut service = Unread::start_by(&wrapper);
        eventually("lines are dropped", || {
            service.log_much();
            (service.dropped() > 0).then_some(())
        });
        let Unread { mut process, client, stdout } = service;
        drop(client);
        let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
        let told = lines.find(|line| line.contains("were dropped")).expect("it is told");
        assert!(json(&told)["dropped"].as_u64().unwrap() > 0, "{told}");
        process.signal(Signal::TERM);
        assert!(lines.any(|line| json(&line)["message"] == "drained"));
        assert!(process.wait().success());
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_lines_and_not_the_service() {
    let mut service = Unread::start_by(&[]);
    service.log_much();
    // The reader of another pipe in its place: that of the service's stdout is closed.
    (service.stdout, _) = io::pipe().unwrap();
    for _ in 0..3 {
        assert_eq!(service.client.get("/version").status, 200);
    }
    // More than is written at once, several times within the interval in which lines are written.
    for _ in 0..50 {
        service.log_much();
    }
    eventually("all lines are counted as dropped", || (service.dropped() >= 50).then_some(()));
    let Unread { mut process, client, .. } = service;
    drop(client);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
}

#[test]
fn nothing_logged_is_lost_at_the_end() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let address = service.address;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..2500 {
                    client.get("/");
                }
            });
        }
    });
    let dropped = service.metric("abukiks_log_lines_dropped_total");
    let mut visits: Vec<_> = events(service).iter().filter_map(|event| event["visit"].as_i64()).collect();
    visits.sort_unstable();
    assert_eq!((visits.len(), dropped), (10_000, 0.0));
    visits.dedup();
    assert_eq!(visits.len(), 10_000);
}

#[test]
fn nothing_logged_is_lost_to_a_slow_reader_at_the_end() {
    let mut service = Unread::start_by(&[]);
    // More than a pipe holds, less than is dropped.
    for _ in 0..100 {
        service.log_much();
    }
    assert_eq!(service.dropped(), 0);
    let Unread { mut process, client, mut stdout } = service;
    drop(client);
    process.signal(Signal::TERM);
    let mut log = Vec::new();
    let mut part = [0; 4096];
    while let count @ 1.. = stdout.read(&mut part).unwrap() {
        log.extend_from_slice(&part[..count]);
    }
    assert!(process.wait().success());
    let log = String::from_utf8(log).unwrap();
    let events: Vec<_> = log.lines().map(json).collect();
    let long = events.iter().filter(|event| event["http_status"] == 404).count();
    assert_eq!(long, 100);
    assert_eq!(events.last().unwrap()["message"], "drained");
}

/// In one turn of its event loop the service answers more than it keeps for a reader that is slow.
#[test]
fn nothing_logged_is_lost_when_many_are_answered_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let held = held_socket();
    let mut command = activated(&[held.as_fd()], &[("DRAIN_LAME_DUCK", "0")]);
    let mut process = Process::spawn(command.stdout(file.reopen().unwrap()));
    drop(command);
    let mut clients: Vec<_> = (0..300)
        .map(|_| {
            let mut client = Client::connect(held.local_addr().unwrap());
            assert_eq!(client.get("/healthz").status, 200);
            client
        })
        .collect();
    process.signal(Signal::STOP);
    let request = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(7000));
    for client in &mut clients {
        client.send(&request).unwrap();
    }
    process.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.read(false).unwrap().status, 404);
    }
    drop(clients);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let log = std::fs::read_to_string(file.path()).unwrap();
    let events: Vec<_> = log.lines().map(json).collect();
    let long = events.iter().filter(|event| event["http_status"] == 404);
    assert_eq!(long.count(), 300);
    assert!(events.iter().all(|event| event["dropped"].is_null()));
}

#[test]
fn stdout_may_be_a_socket_a_file_or_nothing() {
    let serve = |stdout: Stdio| {
        let held = held_socket();
        let mut command = activated(&[held.as_fd()], &[("DRAIN_LAME_DUCK", "0")]);
        let mut process = Process::spawn(command.stdout(stdout));
        drop(command);
        assert_eq!(Client::connect(held.local_addr().unwrap()).get("/version").status, 200);
        process.signal(Signal::TERM);
        assert!(process.wait().success());
    };
    let check = |log: &str| {
        assert!(log.lines().map(json).any(|event| event["http_path"] == "/version"), "{log}");
        assert!(log.contains("\"drained\""), "{log}");
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    serve(OwnedFd::from(theirs).into());
    check(&io::read_to_string(ours).unwrap());

    let file = tempfile::NamedTempFile::new().unwrap();
    serve(file.reopen().unwrap().into());
    check(&std::fs::read_to_string(file.path()).unwrap());

    serve(Stdio::null());
    // A disk that is full.
    serve(File::options().write(true).open("/dev/full").unwrap().into());
}

/// As a disk that is full for a while.
#[test]
fn a_line_that_was_torn_spoils_no_other() {
    const ROOM: u64 = 16 * 1024;
    let file = tempfile::NamedTempFile::new().unwrap();
    let held = held_socket();
    // Beyond the limit a write is an error and no signal.
    let ignoring = ["/bin/sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut command = activated_by(&ignoring, &[held.as_fd()], &[("DRAIN_LAME_DUCK", "0")]);
    let mut process = Process::spawn(command.stdout(file.reopen().unwrap()));
    drop(command);
    let mut client = Client::connect(held.local_addr().unwrap());
    assert_eq!(client.get("/healthz").status, 200);
    let limit = |room| {
        let limit = Rlimit { current: room, maximum: None };
        prlimit(Some(process.pid()), Resource::Fsize, limit).unwrap();
    };
    limit(Some(ROOM));
    eventually("lines are dropped", || {
        client.get("/healthz");
        let metrics = client.get("/metrics").body;
        (!metrics.contains("log_lines_dropped_total 0")).then_some(())
    });
    limit(None);
    client.get("/version");
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let log = std::fs::read_to_string(file.path()).unwrap();
    let (before, after) = log.split_at(ROOM as usize);
    let (whole, torn) = before.rsplit_once('\n').expect("lines");
    assert!(whole.lines().map(json).count() > 0);
    assert!(torn.is_empty() || after.starts_with('\n'), "{torn}{after}");
    let after: Vec<_> = after.trim_start().lines().map(json).collect();
    assert!(after.iter().any(|event| event["http_path"] == "/version"));
    assert!(after.iter().any(|event| event["dropped"].is_u64()));
}

#[test]
fn a_redis_that_goes_and_comes_is_one_line_each() {
    let mut redis = Redis::start();
    let mut service = redis.service(&[("REDIS_TIMEOUT", "300ms")]);
    let mut client = service.connect();
    client.get("/");
    redis.kill();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 503);
    }
    let outage = json(&service.log_line("Redis does not count"));
    let reason = outage["reason"].as_str().expect("a reason");
    assert_eq!(outage["message"], format!("Redis does not count; visits get 503: {reason}"));
    redis.resume();
    eventually("it counts again", || (client.get("/").status == 200).then_some(()));
    service.log_line("Redis answers again");
    drop(client);
    let events = events(service);
    let said = |text: &str| {
        events
            .iter()
            .filter(|event| event["message"].as_str().is_some_and(|message| message.starts_with(text)))
            .count()
    };
    assert_eq!(said("Redis answers again"), 1);
    // Its causes may differ: the link that broke, then a refused connection.
    assert!((1..=2).contains(&said("Redis does not count")), "{events:?}");
}
