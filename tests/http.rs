//! Each route gives the answers that it is documented to give, byte for byte where that matters.

use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, PATIENCE, Redis, Response, Service, eventually};

/// What a browser sends.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,\
                       image/webp,*/*;q=0.8";

fn json_of(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// The names of the headers, sorted, but for those that hold for every answer.
fn particular_headers(response: &Response) -> Vec<&str> {
    let common = ["cache-control", "content-length", "content-type", "date"];
    let common = [&common[..], &["x-content-type-options", "x-request-id"]].concat();
    let mut names: Vec<&str> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
    for expected in &common {
        let count = names.iter().filter(|name| *name == expected).count();
        assert_eq!(count, 1, "{expected} in {response:?}");
    }
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    names.retain(|name| !common.contains(name));
    names.sort_unstable();
    names
}

fn content_type(response: &Response) -> &str {
    response.header("content-type").expect("a content type")
}

fn get_accepting(client: &mut Client, path: &str, accept: &str) -> Response {
    client.get_with(path, &format!("Accept: {accept}\r\n"))
}

#[test]
fn a_greeting_in_text_is_exactly_this() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let greeting = service.get("/");
    assert_eq!(greeting.status, 200);
    assert_eq!(greeting.body, "Welcome to Abukiks! Visitor count: 1");
    assert_eq!(content_type(&greeting), "text/plain; charset=utf-8");
    assert_eq!(particular_headers(&greeting), ["vary"]);
    assert_eq!(greeting.header("vary"), Some("Accept, Sec-Purpose"));
}

#[test]
fn a_greeting_in_json_is_exactly_this() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let greeting = get_accepting(&mut service.connect(), "/", "application/json");
    assert_eq!(greeting.status, 200);
    assert_eq!(greeting.body, r#"{"message":"Welcome to Abukiks!","visitorCount":1}"#);
    assert_eq!(content_type(&greeting), "application/json");
    assert_eq!(particular_headers(&greeting), ["vary"]);
}

#[test]
fn a_greeting_in_html_is_a_page_that_can_do_nothing_but_be_read() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let page = get_accepting(&mut service.connect(), "/", BROWSER);
    assert_eq!(page.status, 200);
    assert_eq!(content_type(&page), "text/html; charset=utf-8");
    assert!(page.body.contains("<h1>Welcome to Abukiks!</h1>"));
    assert!(page.body.contains("<p>Visitor count: <strong>1</strong></p>"));
    assert_eq!(
        particular_headers(&page),
        ["content-security-policy", "referrer-policy", "vary", "x-frame-options"]
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
}

#[test]
fn accept_chooses_the_form_as_rfc_9110_says() {
    let (text, html, json) = ("text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json");
    let cases = [
        // What does not care, and what cannot be had, gets text.
        ("*/*", text),
        ("*/*;q=0.1", text),
        ("image/png", text),
        ("", text),
        ("garbage", text),
        ("text/html;q=0", text),
        // Ranges and exact types.
        ("text/plain", text),
        ("text/*", text),
        ("text/html", html),
        ("TEXT/HTML", html),
        ("application/*", json),
        ("application/json", json),
        ("application/problem+json", json),
        ("application/json; charset=utf-8", json),
        ("text/html;charset=UTF-8", html),
        // The greater quality wins, wherever it stands.
        (BROWSER, html),
        ("text/html;q=0.5, application/json", json),
        ("application/json;q=0.5, text/html", html),
        ("text/plain;q=0.2, text/html;q=0.3, application/json;q=0.25", html),
        ("application/json;q=0.999, text/html;q=1.000", html),
        ("image/png, application/json;q=0.001", json),
        // With the same quality, the one named first; what is named outright before what is not.
        ("application/json, text/html", json),
        ("text/html, application/json", html),
        ("*/*, application/json", json),
        ("application/json, */*;q=0.8", json),
        // The more specific range decides about a type, and 0 forbids it.
        ("text/*;q=0.9, text/plain;q=0.1", html),
        ("*/*, text/plain;q=0", html),
        ("*/*, text/*;q=0", json),
        ("text/*, text/plain;q=0", html),
        ("text/plain;q=0, text/html;q=0, application/json;q=0.2, */*;q=0.9", json),
        ("text/html;q=0.3, text/plain;q=0.2, application/json;q=0.5, */*;q=0.8", json),
        ("text/plain; charset=utf-8;q=0.1, text/html;q=0.5, */*;q=0.2", html),
        // Lists with empty members or unreadable ones, as real clients send them.
        (", text/html,, image/gif", html),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", html),
        ("text/html ; q=0.1 ,\tapplication/json ; q=0.9", json),
        // Two lines are one list.
        ("image/png\r\nAccept: application/json", json),
        ("text/html;q=0.1\r\nAccept: application/json;q=0.2", json),
    ];
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for (accept, expected) in cases {
        let greeting = get_accepting(&mut client, "/", accept);
        assert_eq!(greeting.status, 200);
        assert_eq!(content_type(&greeting), expected, "Accept: {accept}");
    }
    assert_eq!(content_type(&client.get("/")), text, "no Accept at all");
    let endless = format!("application/json{}", ", a/b".repeat(300));
    let greeting = get_accepting(&mut client, "/", &endless);
    assert_eq!(content_type(&greeting), text, "more than any client says");
}

#[test]
fn a_query_makes_no_difference() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    assert_eq!(service.get("/?utm_source=x").number(), 1);
}

#[test]
fn head_has_the_headers_of_get_and_counts_nothing() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for accept in ["text/plain", "text/html", "application/json"] {
        let request = |method| format!("{method} / HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n");
        let mut head = client.exchange(request("HEAD")).unwrap();
        assert_eq!(redis.count(), 0);
        let mut get = service.connect().exchange(request("GET")).unwrap();
        redis.run::<()>(&["SET", "visitorCount", "0"]);
        assert_eq!(head.status, 200);
        // The length would need a number, which would need a visit: so it is not told.
        assert_eq!(head.header("content-length"), None);
        for answer in [&mut head, &mut get] {
            let varies = ["content-length", "date", "x-request-id"];
            answer.headers.retain(|(name, _)| !varies.contains(&name.as_str()));
            answer.headers.sort();
        }
        assert_eq!(head.headers, get.headers);
    }
}

#[test]
fn head_of_what_never_changes_tells_the_length_of_get() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for path in ["/healthz", "/readyz", "/version", "/nothing"] {
        let head = client.exchange(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let (head, get) = (head.unwrap(), client.get(path));
        assert_eq!(head.status, get.status, "{path}");
        for header in ["content-length", "content-type"] {
            assert_eq!(head.header(header), get.header(header), "{path}");
        }
    }
}

#[test]
fn a_prefetch_counts_nothing_and_the_visit_that_follows_does() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    let mut client = service.connect();
    for purpose in ["prefetch", "prefetch;prerender", "prefetch;anonymous-client-ip"] {
        let answer = client.get_with("/", &format!("Sec-Purpose: {purpose}\r\n"));
        // Chromium takes 204 for the page, and then nothing happens at the click.
        assert_eq!(answer.status, 503, "{purpose}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for header in ["Purpose: prefetch", "Purpose: preview", "X-Purpose: preview", "X-Moz: prefetch"] {
        assert_eq!(client.get_with("/", &format!("{header}\r\n")).status, 503, "{header}");
        assert_eq!(client.get_with("/badge.svg", &format!("{header}\r\n")).status, 503, "{header}");
    }
    assert_eq!(client.get("/").number(), 1);
    assert_eq!(service.metric("abukiks_http_requests_total{route=\"prefetch\",status=\"503\"}"), 11.0);
    // It is no failure, so it is no warning.
    assert!(service.log_line("\"http_status\":503").contains("\"level\":\"INFO\""));
}

#[test]
fn what_may_be_sent_twice_or_is_a_part_of_another_page_is_no_visit() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for path in ["/", "/badge.svg"] {
        assert_eq!(client.get_with(path, "Early-Data: 1\r\n").status, 425, "{path}");
    }
    for part in ["image", "script", "style", "font", "manifest", "audio", "video", "worker", "track"] {
        let answer = client.get_with("/", &format!("Sec-Fetch-Dest: {part}\r\n"));
        assert_eq!(answer.status, 403, "{part}");
        assert!(answer.body.contains("/badge.svg"), "{answer:?}");
    }
    assert_eq!(redis.count(), 0);
    for (number, shown) in (1..).zip(["document", "iframe", "empty"]) {
        assert_eq!(client.get_with("/", &format!("Sec-Fetch-Dest: {shown}\r\n")).number(), number, "{shown}");
    }
}

#[test]
fn what_browsers_and_crawlers_ask_beside_a_page_is_there() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let icon = service.get("/favicon.ico");
    assert_eq!((icon.status, content_type(&icon)), (200, "image/svg+xml"));
    assert_eq!(icon.header("cache-control"), Some("max-age=86400"));
    assert_eq!(service.get("/robots.txt").body, "User-agent: *\nDisallow:\n");
    let shy = redis.service(&[("ROBOTS_DISALLOW", "on")]);
    let rules = shy.get("/robots.txt").body;
    assert_eq!(rules, "User-agent: *\nDisallow: /$\nDisallow: /?\nDisallow: /badge.svg\n");
    assert_eq!(redis.count(), 0);
}

#[test]
fn healthz_says_ok_with_and_without_redis() {
    let mut redis = Redis::start();
    let service = Service::start(&redis);
    let with = service.get("/healthz");
    redis.kill();
    let without = service.get("/healthz");
    for answer in [with, without] {
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
        assert_eq!(content_type(&answer), "text/plain; charset=utf-8");
        assert!(particular_headers(&answer).is_empty());
    }
}

#[test]
fn readyz_follows_redis() {
    let mut redis = Redis::start();
    let service = Service::start(&redis);
    let ready = service.get("/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    assert!(particular_headers(&ready).is_empty());
    redis.kill();
    let unready = service.get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.body.starts_with("Service Unavailable: Redis does not count: "), "{unready:?}");
    assert_eq!(particular_headers(&unready), ["retry-after", "vary"]);
    let problem = json_of(&get_accepting(&mut service.connect(), "/readyz", "application/json"));
    assert_eq!(problem["status"], 503);
    redis.resume();
    eventually("ready again", || (service.get("/readyz").status == 200).then_some(()));
    assert_eq!(redis.count(), 0, "asking whether it is ready counts nothing");
}

#[test]
fn what_stands_in_redis_is_text_on_a_page_and_not_markup() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    redis.run::<()>(&["SET", "visitorCount", "<b>&"]);
    let mut client = service.connect();
    let page = client.get_with("/readyz", "Accept: text/html\r\n");
    assert_eq!(page.status, 503);
    assert!(page.body.contains("&lt;b&gt;&amp;"), "{page:?}");
    assert!(!page.body.contains("<b>"), "{page:?}");
    // Nowhere else does it mean anything.
    assert!(client.get("/readyz").body.contains("<b>&"));
}

#[test]
fn readyz_says_that_the_process_is_draining() {
    let redis = Redis::start();
    let mut service = redis.service(&[("DRAIN_LAME_DUCK", "20s"), ("DRAIN_IDLE", "20s")]);
    let mut client = service.connect();
    assert_eq!(client.get("/readyz").status, 200);
    service.process.signal(Signal::TERM);
    service.log_line("draining");
    let unready = client.get("/readyz");
    assert_eq!(unready.status, 503);
    assert_eq!(unready.body, "Service Unavailable: draining");
    assert_eq!(unready.header("connection"), Some("close"));
    assert_eq!(unready.header("retry-after"), Some("1"));
    assert!(client.is_closed());
    // That it says so is no trouble.
    let line = service.log_line("\"http_path\":\"/readyz\",\"http_status\":503");
    assert!(line.contains("\"level\":\"INFO\""), "{line}");
}

#[test]
fn version_tells_version_commit_and_release() {
    let redis = Redis::start();
    let service = redis.service(&[("RELEASE", "v7 \"blue\"")]);
    let version = service.get("/version");
    assert_eq!(version.status, 200);
    assert_eq!(content_type(&version), "application/json");
    assert!(particular_headers(&version).is_empty());
    assert_eq!(
        json_of(&version),
        json!({
            "version": abukiks::VERSION,
            "commit": abukiks::COMMIT,
            "release": "v7 \"blue\"",
        })
    );
}

/// As Prometheus 2.42 asks.
const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

#[test]
fn metrics_are_in_the_format_of_prometheus_for_those_who_do_not_ask_for_openmetrics() {
    let redis = Redis::start();
    let mut service = redis.service(&[("RELEASE", "r1")]);
    let before = service.get("/metrics");
    for unknown in ["abukiks_redis_up ", "abukiks_redis_durable "] {
        assert!(!before.body.lines().any(|line| line.starts_with(unknown)), "{unknown} is not known yet");
    }
    service.get("/");
    service.log_line("Redis is");
    for accept in ["*/*", "text/plain;version=0.0.4", "text/html", ""] {
        let metrics = get_accepting(&mut service.connect(), "/metrics", accept);
        assert_eq!(content_type(&metrics), "text/plain; version=0.0.4; charset=utf-8");
        let has =
            |line: &str| assert!(metrics.body.contains(&format!("{line}\n")), "{line}:\n{}", metrics.body);
        has("# TYPE abukiks_build_info gauge");
        has("# TYPE abukiks_visits_total counter");
        has("# TYPE abukiks_http_request_duration_seconds histogram");
        has("abukiks_visits_total{visitor=\"new\"} 1");
        has("# TYPE abukiks_redis_up gauge\nabukiks_redis_up 1");
        assert!(
            !metrics.body.contains("# EOF")
                && !metrics.body.contains("# UNIT")
                && !metrics.body.contains(" info")
        );
        // Each sample belongs to the type that stands above it.
        let (mut name, mut kind) = ("", "");
        for line in metrics.body.lines() {
            if let Some((family, of)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                (name, kind) = (family, of);
            } else if !line.starts_with('#') {
                let suffix = line.strip_prefix(name).unwrap_or_else(|| panic!("{line} below {name}"));
                let of_histogram = ["_bucket{", "_sum", "_count"].iter().any(|part| suffix.starts_with(part));
                assert!(suffix.starts_with(['{', ' ']) || kind == "histogram" && of_histogram, "{line}");
            }
        }
    }
}

#[test]
fn metrics_are_openmetrics_with_every_family_that_is_promised() {
    let redis = Redis::start();
    let mut service = redis.service(&[("RELEASE", "r1")]);
    assert_eq!(service.get("/").number(), 1);
    // What Redis can promise is known by then.
    service.log_line("Redis is");
    let metrics = get_accepting(&mut service.connect(), "/metrics", OPENMETRICS);
    assert_eq!(metrics.status, 200);
    assert_eq!(content_type(&metrics), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(particular_headers(&metrics), ["vary"]);
    let families = [
        ("abukiks_build", "info"),
        ("abukiks_http_requests", "counter"),
        ("abukiks_http_request_duration_seconds", "histogram"),
        ("abukiks_limit_hits", "counter"),
        ("abukiks_start_time_seconds", "gauge"),
        ("abukiks_draining", "gauge"),
        ("abukiks_connections", "gauge"),
        ("abukiks_max_connections", "gauge"),
        ("abukiks_connections_accepted", "counter"),
        ("abukiks_accept_errors", "counter"),
        ("abukiks_waiting_visits", "gauge"),
        ("abukiks_visits", "counter"),
        ("abukiks_batch_visits", "histogram"),
        ("abukiks_redis_up", "gauge"),
        ("abukiks_redis_durable", "gauge"),
        ("abukiks_redis_may_evict", "gauge"),
        ("abukiks_redis_errors", "counter"),
        ("abukiks_redis_connection_attempts", "counter"),
        ("abukiks_redis_tls_errors", "counter"),
        ("abukiks_count_went_back", "counter"),
        ("abukiks_log_lines_dropped", "counter"),
    ];
    let text = &metrics.body;
    for (family, kind) in families {
        assert!(text.contains(&format!("# TYPE {family} {kind}\n")), "{family}");
        assert!(text.contains(&format!("# HELP {family} ")), "{family}");
    }
    let samples = [
        r#"abukiks_http_requests_total{route="/",status="200"} 1"#,
        r#"abukiks_http_requests_total{route="/",status="503"} 0"#,
        r#"abukiks_http_request_duration_seconds_count{route="/"} 1"#,
        r#"abukiks_visits_total{visitor="new"} 1"#,
        r#"abukiks_visits_total{visitor="returning"} 0"#,
        "abukiks_batch_visits_count 1",
        "abukiks_batch_visits_sum 1.0",
        "abukiks_redis_up 1",
        "abukiks_redis_errors_total 0",
        "abukiks_connections_accepted_total 2",
        "abukiks_accept_errors_total 0",
        r#"abukiks_limit_hits_total{limit="headers"} 0"#,
    ];
    for sample in samples {
        assert!(text.lines().any(|line| line == sample), "{sample} in:\n{text}");
    }
    assert!(service.metric("abukiks_redis_connection_attempts_total") >= 1.0);
    let seconds_ago = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
        - service.metric("abukiks_start_time_seconds");
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&seconds_ago), "{seconds_ago}");
    let build = text.lines().find(|line| line.starts_with("abukiks_build_info{"));
    assert!(build.is_some_and(|line| line.contains(r#"release="r1""#)));
    assert!(text.ends_with("\n# EOF\n"));
}

/// Each line is of the form that OpenMetrics 1.0 defines, each family stands together after its
/// type, and each sample has a suffix that its type allows.
#[test]
fn metrics_parse_as_openmetrics() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    service.get("/");
    let text = get_accepting(&mut service.connect(), "/metrics", OPENMETRICS).body;
    let mut families = Vec::new();
    let (mut family, mut kind) = ("", "");
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let words: Vec<&str> = metadata.splitn(3, ' ').collect();
            let [what, name, rest] = words[..] else { panic!("{line}") };
            if name != family {
                assert!(!families.contains(&name), "{name} is spread out");
                families.push(name);
                (family, kind) = (name, "unknown");
            }
            match what {
                "TYPE" => kind = rest,
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                "HELP" => {}
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().expect("a number");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(labels.ends_with('}'), "{line}");
        let suffix = name.strip_prefix(family).expect("a sample of the family");
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            "gauge" => &[""],
            _ => panic!("no type: {line}"),
        };
        assert!(allowed.contains(&suffix), "{line} as {kind}");
    }
}

#[test]
fn another_path_is_not_found_and_is_explained_in_the_form_asked_for() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for path in ["/nothing", "/healthz/", "//", "/Healthz", "/%2F", "/index.html"] {
        let text = client.get(path);
        assert_eq!(text.status, 404, "{path}");
        assert_eq!(text.body, "Not Found: There is nothing at this address.");
        assert_eq!(content_type(&text), "text/plain; charset=utf-8");
        assert_eq!(particular_headers(&text), ["vary"]);
    }
    let html = get_accepting(&mut client, "/unheard-of", BROWSER);
    assert_eq!(html.status, 404);
    assert_eq!(content_type(&html), "text/html; charset=utf-8");
    assert!(html.body.contains("<h1>Not Found</h1>"));
    assert!(!html.body.contains("unheard-of"), "nothing is echoed");
    let problem = get_accepting(&mut client, "/nothing", "application/json");
    assert_eq!(content_type(&problem), "application/problem+json");
    assert_eq!(
        json_of(&problem),
        json!({
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "There is nothing at this address.",
        })
    );
    assert_eq!(redis.count(), 0);
}

#[test]
fn another_method_is_refused_with_those_that_are_allowed() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let targets = ["/", "/healthz", "/readyz", "/version", "/metrics", "/status"];
    let methods = ["POST", "PUT", "DELETE", "PATCH", "TRACE"];
    for target in targets.iter().chain(&["*"]) {
        let answer = client.exchange(format!("OPTIONS {target} HTTP/1.1\r\nHost: test\r\n\r\n")).unwrap();
        assert_eq!((answer.status, answer.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
    }
    for (method, target) in targets.iter().flat_map(|target| methods.map(|method| (method, *target))) {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = client.exchange(request).unwrap();
        assert_eq!(answer.status, 405, "{method} {target}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(particular_headers(&answer), ["allow", "vary"]);
        let detail = "Only these methods are understood here: GET, HEAD, OPTIONS.";
        assert_eq!(answer.body, format!("Method Not Allowed: {detail}"));
    }
    for method in ["PURGE", "M-SEARCH", "PROPFIND"] {
        let answer = client.exchange(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n")).unwrap();
        assert_eq!(answer.status, 501, "{method}");
    }
    let json = client.exchange("PUT / HTTP/1.1\r\nHost: test\r\nAccept: application/json\r\n\r\n");
    let json = json.unwrap();
    assert_eq!(content_type(&json), "application/problem+json");
    assert_eq!(json_of(&json)["status"], 405);
    let tunnel = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n";
    let tunnel = client.exchange(tunnel).unwrap();
    assert_eq!(tunnel.status, 405);
    assert_eq!(tunnel.header("allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(redis.count(), 0);
}

#[test]
fn a_problem_without_redis_says_when_to_try_again() {
    let mut redis = Redis::start();
    redis.kill();
    let service = redis.service(&[("REDIS_TIMEOUT", "50ms")]);
    let forms = [
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("application/json", "application/problem+json"),
    ];
    for (accept, expected) in forms {
        let refused = get_accepting(&mut service.connect(), "/", accept);
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(content_type(&refused), expected);
        assert!(!refused.body.contains("redis"), "where Redis is stays inside");
    }
}

#[test]
fn a_sane_request_id_is_taken_over_and_another_is_replaced() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    let mut client = service.connect();
    let longest = "a".repeat(128);
    for sane in ["7", "a.B_c-9", "aZ09@QWERTY", "Root=1-67891233-abcdef012345", "a+/b==", &longest] {
        let answer = client.get_with("/healthz", &format!("X-Request-Id: {sane}\r\n"));
        assert_eq!(answer.header("x-request-id"), Some(sane));
        service.log_line(&format!("\"request_id\":\"{sane}\""));
    }
    let too_long = "a".repeat(129);
    let mut made = Vec::new();
    for odd in ["", "a b", "a\"b", "a\\b", "é", "<x>", &too_long] {
        let answer = client.get_with("/healthz", &format!("X-Request-Id: {odd}\r\n"));
        made.push(answer.header("x-request-id").unwrap().to_owned());
    }
    made.push(client.get("/healthz").header("x-request-id").unwrap().into());
    for id in &made {
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        service.log_line(&format!("\"request_id\":\"{id}\""));
    }
    let count = made.len();
    made.sort();
    made.dedup();
    assert_eq!(made.len(), count, "each is its own");
}

#[test]
fn a_connection_serves_many_requests() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for number in 1..=50 {
        let greeting = client.get("/");
        assert_eq!(greeting.number(), number);
        assert_eq!(greeting.header("connection"), None);
    }
    let last = client.get_with("/", "Connection: close\r\n");
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn twenty_pipelined_requests_get_twenty_answers_in_order() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let requests: String =
        (1..=20).map(|id| format!("GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n")).collect();
    client.send(requests).unwrap();
    for number in 1..=20 {
        let greeting = client.read(false).unwrap();
        assert_eq!(greeting.header("x-request-id"), Some(&*number.to_string()));
        assert_eq!(greeting.number(), number);
    }
    assert_eq!(client.get("/").number(), 21, "and it goes on");
}

#[test]
fn a_request_in_single_bytes_is_answered_like_any_other() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for byte in b"GET / HTTP/1.1\r\nHost: test\r\n\r\n" {
        client.send([*byte]).unwrap();
    }
    assert_eq!(client.read(false).unwrap().number(), 1);
}

#[test]
fn a_client_that_has_closed_its_side_still_gets_its_answers() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(3)).unwrap();
    let stream = client.stream.get_ref();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    for number in 1..=3 {
        assert_eq!(client.read(false).unwrap().number(), number);
    }
    assert!(client.is_closed());
}

#[test]
fn http_1_0_is_answered_and_closed_unless_it_asks_to_be_kept() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    let kept = client.exchange("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let kept = kept.unwrap();
    assert_eq!(kept.number(), 1);
    assert_eq!(kept.header("connection"), Some("keep-alive"));
    let closed = client.exchange("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((closed.number(), closed.header("connection")), (2, Some("close")));
    assert!(client.is_closed());
    // The version is that of the server (RFC 9110, section 2.5).
    let mut client = service.connect();
    client.send("GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[test]
fn a_target_in_absolute_form_is_the_same_resource() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let mut client = service.connect();
    for (number, target) in (1..).zip(["http://test/", "http://test", "http://[::1]:1/?a"]) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.exchange(request).unwrap().number(), number);
    }
    let request = "GET http://test/healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(client.exchange(request).unwrap().body, "ok\n");
}

#[test]
fn an_access_event_tells_what_was_sent() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    let mut client = service.connect();
    let bytes = client.get_with("/", "X-Request-Id: get\r\n").body.len();
    let head = "HEAD /healthz HTTP/1.1\r\nHost: test\r\nX-Request-Id: head\r\n\r\n";
    client.exchange(head).unwrap();
    let expectations =
        [("get", json!(["GET", "/", 200, bytes, 1])), ("head", json!(["HEAD", "/healthz", 200, 0, null]))];
    for (id, expected) in expectations {
        let line = service.log_line(&format!("\"request_id\":\"{id}\""));
        let event: Value = serde_json::from_str(&line).unwrap();
        let fields = ["http_method", "http_path", "http_status", "http_bytes", "visit"];
        assert_eq!(json!(fields.map(|field| &event[field])), expected);
    }
}
