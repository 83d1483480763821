//! `/status` shows one instance to the people who run it, and remembers no more than it says.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::page::Browser;
use crate::support::{Redis, Response, Service, eventually};

const FORMS: [&str; 3] = ["text/plain", "text/html", "application/json"];

fn status(service: &Service, form: &str) -> Response {
    let answer = service.connect().get_with("/status", &format!("Accept: {form}\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn json_of(service: &Service) -> Value {
    serde_json::from_str(&status(service, "application/json").body).expect("JSON")
}

#[test]
fn a_browser_gets_a_page_that_can_do_nothing_but_be_read() {
    let redis = Redis::start();
    let mut service = redis.service(&[("RELEASE", "r1 <b>&\"")]);
    for number in 1..=3 {
        assert_eq!(service.get("/").number(), number);
    }
    service.log_line("Redis is");
    let page = status(&service, "text/html");
    for part in [
        "<title>Status of Abukiks</title>",
        "<dt>Release</dt><dd>r1 &lt;b&gt;&amp;&quot;</dd>",
        "<dt>State</dt><dd>serving, for ",
        "<dt>Connections</dt><dd>",
        "<dt>Redis</dt><dd>counts</dd>",
        "<dt>Durable</dt><dd>no</dd>",
        "<dt>May evict</dt><dd>no</dd>",
        "<dt>Visits</dt><dd>3; 3 in the last hour</dd>",
        "at most 3\"",
        // The minute under way, at the right of the picture.
        "M236 40v-40h3v40z",
        // The warning that this Redis keeps nothing.
        "Redis is ",
        "All of this is of this one process, and ends with it.",
    ] {
        assert!(page.body.contains(part), "{part} in {}", page.body);
    }
    assert!(!page.body.contains("<script"));
    // With both style sheets.
    assert!(page.body.len() < 6000, "{} bytes", page.body.len());
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("vary"), Some("Accept"));
}

#[test]
fn a_browser_takes_both_style_sheets_and_a_phone_shows_it_all() {
    let redis = Redis::start();
    let nowhere = format!("unix:///{}/redis.sock", "a-long-name".repeat(8));
    for url in [&*redis.url(), &nowhere] {
        let service = Service::start_with(&[("REDIS_URL", url), ("REDIS_TIMEOUT", "200ms")]);
        service.get("/");
        let browser = Browser::start();
        browser.load("url", &json!({ "url": format!("http://{}/status", service.address) }));
        assert_eq!(browser.complaints(), json!([]));
        assert_eq!(browser.value("getComputedStyle(document.querySelector('dl')).display"), "grid");
        assert_eq!(browser.value("getComputedStyle(document.body).display"), "grid");
        assert_eq!(browser.value("document.querySelector('svg').getBoundingClientRect().height > 20"), true);
        browser.resize(320, 700);
        let hidden = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.value(hidden), 0, "{url}");
    }
}

#[test]
fn json_has_the_same_and_text_is_for_those_who_do_not_care() {
    let redis = Redis::start();
    let mut service = redis.service(&[("RELEASE", "r1")]);
    service.get("/");
    service.get("/");
    service.log_line("Redis is");
    let mut shown = json_of(&service);
    assert!(shown["uptimeSeconds"].take().is_u64());
    assert!(shown["connections"].take().as_i64().is_some_and(|connections| connections >= 1));
    // A test may begin in one minute and end in the next.
    let minutes = shown["visitsPerMinute"].take();
    let minutes = minutes.as_array().expect("a list").iter().map(|visits| visits.as_u64().expect("a number"));
    assert_eq!(minutes.sum::<u64>(), 2);
    let problem = shown["problems"].take();
    assert!(
        problem[0]["message"].as_str().is_some_and(|message| message.starts_with("Redis is ")),
        "{problem}"
    );
    assert!(problem[0]["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{problem}");
    assert_eq!(
        shown,
        json!({
            "release": "r1", "version": abukiks::VERSION, "commit": abukiks::COMMIT, "state": "serving",
            "uptimeSeconds": null, "connections": null, "visits": 2, "visitsPerMinute": null, "problems": null,
            "redis": { "up": true, "error": null, "durable": false, "mayEvict": false },
        })
    );
    let text = service.get("/status");
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    for line in ["Release: r1", "Redis: counts", "Visits: 2; 2 in the last hour"] {
        assert!(text.body.lines().any(|found| found == line), "{line} in {}", text.body);
    }
}

#[test]
fn a_redis_that_does_not_count_is_shown_with_its_reason_and_without_secrets() {
    let secret = "s3cr3t";
    let redis = Redis::start_with(&["--requirepass", "another"]);
    let wrong = format!("{}?pass={secret}", redis.url());
    for (url, reason) in
        [(&*format!("redis://:{secret}@127.0.0.1:1/"), "Connection refused"), (&wrong, "WRONGPASS")]
    {
        let service = Service::start_with(&[("REDIS_URL", url), ("REDIS_TIMEOUT", "200ms")]);
        assert_eq!(service.get("/").status, 503);
        let shown = json_of(&service);
        assert_eq!(shown["redis"]["up"], false);
        let error = shown["redis"]["error"].as_str().expect("a reason");
        assert!(error.contains(reason), "{error}");
        let problem = shown["problems"][0]["message"].as_str().expect("a problem");
        assert!(problem.starts_with("Redis does not count; visits get 503: "), "{problem}");
        for form in FORMS {
            let body = status(&service, form).body;
            assert!(body.contains(reason) && !body.contains(secret), "{body}");
        }
    }
}

#[test]
fn it_asks_nothing_of_redis() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let shown = json_of(&service);
    assert_eq!(shown["redis"], json!({ "up": null, "error": null, "durable": null, "mayEvict": null }));
    assert!(status(&service, "text/plain").body.contains("\nRedis: was not needed yet\n"));
    assert_eq!(service.metric("abukiks_redis_connection_attempts_total"), 0.0);
    assert_eq!(redis.run::<Option<i64>>(&["GET", "visitorCount"]), None);
}

#[test]
fn an_outage_that_is_over_is_no_error_of_redis_any_more() {
    let mut redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "200ms")]);
    redis.kill();
    assert_eq!(service.get("/").status, 503);
    redis.resume();
    eventually("it counts again", || (service.get("/").status == 200).then_some(()));
    let shown = json_of(&service);
    assert_eq!((&shown["redis"]["up"], &shown["redis"]["error"]), (&json!(true), &Value::Null));
    assert!(shown["problems"].to_string().contains("Redis does not count"), "it is remembered: {shown}");
}

#[test]
fn a_drain_is_shown() {
    let redis = Redis::start();
    let mut service = redis.service(&[("DRAIN_LAME_DUCK", "20s"), ("DRAIN_IDLE", "20s")]);
    let mut client = service.connect();
    assert!(client.get("/status").body.contains("State: serving, "));
    service.process.signal(Signal::TERM);
    service.log_line("draining");
    let answer = client.get("/status");
    assert!(answer.body.contains("State: draining, "), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
}
