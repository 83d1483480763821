//! Strict at the edge: what is malformed, or could be read in two ways, is refused with 400, the
//! connection ends, and nothing is counted.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde_json::Value;

use crate::support::{Client, Redis, Response, Service};

/// A visit that is hidden in or behind another request.
const SMUGGLED: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Sends bytes and returns all answers to them; the connection must end by itself.
fn answers(service: &Service, bytes: &[u8]) -> Vec<Response> {
    let mut client = service.connect();
    // The service may have refused and closed before all is sent.
    let _ = client.send(bytes);
    answers_until_closed(&mut client, bytes.starts_with(b"HEAD "))
}

/// Reads answers, the first of them perhaps to a HEAD request, until the connection ends.
fn answers_until_closed(client: &mut Client, mut to_head: bool) -> Vec<Response> {
    let mut answers = Vec::new();
    loop {
        match client.read(std::mem::take(&mut to_head)) {
            Ok(answer) => answers.push(answer),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return answers,
            Err(error) => panic!("{error} after {answers:?}"),
        }
    }
}

/// Whether `bytes`, and a visit behind them, get one answer of 400 and the end of the connection.
fn is_refused(service: &Service, bytes: &[u8]) -> bool {
    let answers = answers(service, &[bytes, SMUGGLED.as_bytes()].concat());
    answers.len() == 1 && answers[0].status == 400 && answers[0].header("connection") == Some("close")
}

/// Asserts that each of the requests is refused and nothing is counted.
fn refuses_all<B: AsRef<[u8]>>(requests: impl IntoIterator<Item = B>) {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut count = 0;
    for request in requests {
        let request = request.as_ref();
        assert!(is_refused(&service, request), "{}", request.escape_ascii());
        assert_eq!(redis.count(), 0, "{}", request.escape_ascii());
        count += 1;
    }
    let refused = r#"abukiks_http_requests_total{route="malformed",status="400"}"#;
    assert_eq!(service.metric(refused), f64::from(count));
}

#[test]
fn a_request_without_one_valid_host_is_refused() {
    let hosts = [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nX: y\r\nhOST: a\r\n",
        "Host:\r\n",
        "Host: \r\n",
        "Host: user@a\r\n",
        "Host: user:password@a\r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: a,b\r\n",
        "Host: a/b\r\n",
        "Host: a?b\r\n",
        "Host: http://a\r\n",
        "Host: a:b\r\n",
        "Host: a:99999\r\n",
        "Host: :80\r\n",
        "Host: [::1\r\n",
        "Host: []\r\n",
        "Host: [x]:1\r\n",
        "Host: a\\b\r\n",
        "Host: \"a\"\r\n",
        "Host: <a>\r\n",
        "Host: \u{e4}\r\n",
    ];
    refuses_all(hosts.map(|host| format!("GET / HTTP/1.1\r\n{host}\r\n")));
}

#[test]
fn every_valid_host_is_accepted() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let hosts = [
        "a",
        "example.org",
        "example.org.",
        "EXAMPLE.org:80",
        "a:",
        "a_b",
        "127.0.0.1:5000",
        "[::1]",
        "[::1]:5000",
        "xn--bcher-kva.example",
    ];
    for (number, host) in (1..).zip(hosts) {
        let answer = client.exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(answer.number(), number);
    }
    // HTTP/1.0 knows no Host, and no expectations.
    for headers in ["", "Expect: 100-continue\r\n"] {
        let old = service.connect().exchange(format!("GET / HTTP/1.0\r\n{headers}\r\n"));
        assert_eq!(old.unwrap().status, 200, "{headers}");
    }
}

#[test]
fn content_announced_by_get_or_head_is_refused() {
    let announcements = [
        "Content-Length: 1\r\n",
        "Content-Length: 33\r\n",
        "Content-Length: 9999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Expect: 100-continue\r\n",
    ];
    let methods = ["GET", "HEAD"];
    refuses_all(announcements.iter().flat_map(|announcement| {
        methods.map(|method| format!("{method} / HTTP/1.1\r\nHost: a\r\n{announcement}\r\n"))
    }));
}

/// As a proxy passes on what came without content by HTTP/2.
#[test]
fn chunked_content_that_is_empty_is_harmless_and_ends_the_connection() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    for (number, (chunked, end)) in (1..).zip([
        ("chunked", "0\r\n\r\n"),
        ("Chunked", "0\r\n\r\n"),
        ("chunked", "0\r\nTrailer: x\r\n\r\n"),
    ]) {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {chunked}\r\n\r\n{end}");
        let answers = answers(&service, &[request.as_bytes(), SMUGGLED.as_bytes()].concat());
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!((answers[0].number(), answers[0].header("connection")), (number, Some("close")));
    }
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answers = answers(&service, &[post.as_bytes(), SMUGGLED.as_bytes()].concat());
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [405]);
    assert_eq!(redis.count(), 3);
}

/// Only `100-continue` is an expectation (RFC 9110, section 10.1.1).
#[test]
fn an_expectation_that_is_none_is_ignored() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for (number, expect) in (1..).zip(["", "a miracle"]) {
        assert_eq!(client.get_with("/", &format!("Expect: {expect}\r\n")).number(), number);
    }
}

#[test]
fn every_refusal_has_a_date_and_its_reason_is_in_the_log() {
    let redis = Redis::start();
    let mut service = redis.service(&[("HEADER_TIMEOUT", "50ms"), ("MAX_HEADER_BYTES", "256")]);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(300));
    let cases: [(&[u8], u16, &str); 11] = [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "the Host header is missing"),
        (b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the scheme of the request target"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 400, "invalid transfer-encoding"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", 400, "must not have content"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413, "MAX_BODY_BYTES"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "a TLS ClientHello"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "an HTTP/2 preface"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "the PROXY protocol",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", 400, "the PROXY protocol"),
        (b"GET / HT", 408, "HEADER_TIMEOUT"),
        (long.as_bytes(), 431, "message head is too large"),
    ];
    for (request, status, reason) in cases {
        let answers = answers(&service, request);
        assert_eq!(answers.len(), 1, "{}", request.escape_ascii());
        assert_eq!(answers[0].status, status, "{}", request.escape_ascii());
        assert!(answers[0].header("date").is_some_and(|date| date.ends_with(" GMT")), "{answers:?}");
        let line = service.log_line(reason);
        assert!(line.contains("\"reason\":\"") && line.contains("\"message\":\"request\""), "{line}");
    }
    assert_eq!(redis.count(), 0);
    let answers = answers(&service, cases[4].0);
    assert!(answers[0].body.starts_with("Content Too Large: "), "{answers:?}");
}

#[test]
fn ambiguous_or_invalid_lengths_are_refused() {
    // hyper drops the length then. The content that would follow is none that is valid.
    let of_get = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
    ];
    refuses_all(of_get.map(|head| format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n")));
    let heads = [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +0\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 0x0\r\n",
        "Content-Length: 0 0\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content_Length: 33\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer--Encoding: chunked\r\n",
        "Transfer.Encoding: chunked\r\n",
        "TransferEncoding: chunked\r\n",
    ];
    let methods = ["GET", "POST"];
    refuses_all(
        heads
            .iter()
            .flat_map(|head| methods.map(|method| format!("{method} / HTTP/1.1\r\nHost: a\r\n{head}\r\n"))),
    );
}

#[test]
fn malformed_lines_are_refused() {
    refuses_all([
        // Header lines.
        &b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa4: b\r\n\r\n",
        // Request lines.
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G=T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET_ / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        // Targets.
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        // Versions.
        b"GET /\r\n\r\n",
        b"GET / \r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1,1\r\nHost: a\r\n\r\n",
        b"GET / XTTP/1.1\r\nHost: a\r\n\r\n",
        // The preface of HTTP/2, whole and by a client that guesses.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ]);
}

#[test]
fn line_feeds_in_content_are_no_matter_of_the_frame() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{\n\"a\":\n1\n}";
    let answers = answers(&service, request.as_bytes());
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].status, 405);
}

#[test]
fn a_refusal_explains_itself_in_the_form_asked_for() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    let request = "GET / HTTP/1.1\r\nAccept: application/json\r\nX-Request-Id: odd\r\n\r\n";
    let answers = answers(&service, request.as_bytes());
    let problem: Value = serde_json::from_str(&answers[0].body).unwrap();
    assert_eq!(problem["detail"], "the Host header is missing");
    assert_eq!(answers[0].header("x-request-id"), Some("odd"));
    assert_eq!(answers[0].header("content-type"), Some("application/problem+json"));
    assert!(service.log_line("\"request_id\":\"odd\"").contains("\"http_status\":400"));
}

#[test]
fn what_hyper_cannot_read_is_logged_and_counted_too() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    answers(&service, b"\x00\r\n\r\n");
    let line = service.log_line("\"http_status\":400");
    assert!(line.contains("\"http_path\":\"-\"") && line.contains("\"client\":\"127.0.0.1\""));
    let refused = r#"abukiks_http_requests_total{route="malformed",status="400"}"#;
    assert_eq!(service.metric(refused), 1.0);
}

#[test]
fn a_visit_hidden_in_content_is_never_counted() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let length = SMUGGLED.len();
    let chunk = format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
    let requests = [
        ("POST", format!("Content-Length: {length}\r\n\r\n{SMUGGLED}")),
        // Less than what comes: the rest is not another request either.
        ("POST", format!("Content-Length: 1\r\n\r\nx{SMUGGLED}")),
        ("POST", format!("Transfer-Encoding: chunked\r\n\r\n{chunk}")),
        ("POST", format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}")),
        ("POST", format!("Expect: 100-continue\r\n\r\n{SMUGGLED}")),
        ("GET", format!("Content-Length: {length}\r\n\r\n{SMUGGLED}")),
    ];
    for (method, rest) in requests {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{rest}");
        let answers = answers(&service, request.as_bytes());
        assert_eq!(answers.len(), 1, "{request}");
        assert_eq!(answers[0].header("connection"), Some("close"));
        assert_eq!(redis.count(), 0, "{request}");
    }
}

/// A client that sends all its content before it reads would get a reset instead of the answer,
/// were the connection closed at once.
#[test]
fn a_client_that_sends_much_content_can_still_read_why_it_was_refused() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let cases = [
        ("Content-Length: 60000", 405),
        ("Content-Length: 60000\r\nConnection: close", 405),
        ("Content-Length: 65537", 413),
        ("Transfer-Encoding: chunked", 405),
    ];
    for (header, status) in cases {
        let mut client = service.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        client.send(head).unwrap();
        // The answer is on its way before the content is.
        client.stream.get_ref().peek(&mut [0]).unwrap();
        for _ in 0..10 {
            client.send([b'x'; 6_000]).expect("the service still listens");
        }
        let answers = answers_until_closed(&mut client, false);
        assert_eq!(answers.len(), 1, "{header}");
        assert_eq!(answers[0].status, status, "{header}");
    }
}

/// One case of the corpus, as bytes. Characters up to U+00FF stand for the byte of that value.
struct Case {
    name: String,
    tier: String,
    reason: String,
    method: String,
    uri: String,
    version: String,
    headers: Vec<(String, String)>,
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn corpus() -> Vec<Case> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/http_desync_guardian");
    let mut cases = Vec::new();
    for file in std::fs::read_dir(folder).expect("the corpus") {
        let path = file.expect("the corpus").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let yaml = std::fs::read_to_string(&path).expect("text");
        let file: Vec<Value> = serde_norway::from_str(&yaml).expect("YAML");
        cases.extend(file.iter().map(|case| Case {
            name: text(&case["name"]),
            tier: text(&case["expected"]["tier"]),
            reason: text(&case["expected"]["reason"]),
            method: text(&case["method"]),
            uri: text(&case["uri"]),
            version: text(&case["version"]),
            headers: case["headers"].as_array().map_or_else(Vec::new, |headers| {
                let pair = |header: &Value| (text(&header["name"]), text(&header["value"]));
                headers.iter().map(pair).collect()
            }),
        }));
    }
    cases
}

impl Case {
    /// The request, with a Host so that it is not refused for the lack of one, and a visit in the
    /// place of its content.
    fn bytes(&self, method: &str, uri: &str) -> Vec<u8> {
        let mut request = format!("{method} {uri} {}\r\n", self.version);
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            request += "Host: test\r\n";
        }
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        request += SMUGGLED;
        request
            .chars()
            .flat_map(|character| match u8::try_from(character) {
                Ok(byte) => vec![byte],
                Err(_) => character.to_string().into_bytes(),
            })
            .collect()
    }

    /// The request as it is, and as a visit, if it is the headers that make it dangerous.
    fn variants(&self) -> Vec<Vec<u8>> {
        let mut variants = vec![self.bytes(&self.method, &self.uri)];
        let by_first_line = ["Method", "Uri", "Version"].iter().any(|part| self.reason.contains(part));
        if !by_first_line {
            variants.push(self.bytes("GET", "/"));
        }
        variants
    }

    /// Whether it is beyond doubt that the visit behind the head is a request of its own.
    fn has_surely_no_content(&self) -> bool {
        let announces = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.contains("content-length") || name.contains("transfer-encoding")
        };
        let announced = self.headers.iter().any(|(name, _)| announces(name));
        self.reason == "GetHeadZeroContentLength" || self.tier == "Compliant" && !announced
    }
}

/// Every severe case, with a visit in the place of its content.
pub(crate) fn severe() -> Vec<Vec<u8>> {
    let cases = corpus();
    let severe = cases.iter().filter(|case| case.tier == "Severe");
    severe.flat_map(Case::variants).collect()
}

#[test]
fn every_severe_case_of_http_desync_guardian_is_refused() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let cases = corpus();
    let severe = cases.iter().filter(|case| case.tier == "Severe");
    assert_eq!(severe.clone().count(), 58);
    for case in severe {
        for bytes in &case.variants() {
            let answers = answers(&service, bytes);
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [400], "{}: {}", case.name, bytes.escape_ascii());
            assert_eq!(answers[0].header("connection"), Some("close"));
            assert_eq!(redis.count(), 0, "{}", case.name);
        }
    }
}

#[test]
fn no_case_of_http_desync_guardian_gets_more_greetings_than_it_has_certain_requests() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let cases = corpus();
    assert_eq!(cases.len(), 159);
    let mut answered: BTreeMap<&str, u32> = BTreeMap::new();
    for case in &cases {
        let variants = case.variants();
        for (variant, bytes) in variants.iter().enumerate() {
            let before = redis.count();
            let mut client = service.connect();
            let _ = client.send(bytes);
            // Where the connection is kept, this ends it.
            let _ = client.stream.get_ref().shutdown(std::net::Shutdown::Write);
            let answers = answers_until_closed(&mut client, bytes.starts_with(b"HEAD "));
            let greetings =
                answers.iter().filter(|answer| answer.body.starts_with("Welcome to Abukiks!")).count();
            let certain = usize::from(variant == 1) + usize::from(case.has_surely_no_content());
            assert!(greetings <= certain, "{} ({}): {}", case.name, case.tier, bytes.escape_ascii());
            assert_eq!(redis.count() - before, greetings as i64, "{}", case.name);
            *answered.entry(&case.tier).or_default() += greetings as u32;
        }
    }
    assert_eq!(answered.get("Severe"), Some(&0), "{answered:?}");
    assert_eq!(answered.get("Ambiguous"), Some(&0), "{answered:?}");
    assert!(answered["Compliant"] > 0, "the corpus is sent as it should be");
}
