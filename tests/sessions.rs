//! A visitor who comes back is known to every process, and nothing of them is kept but in Redis.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;

use crate::proxy::{Fate, Proxy};
use crate::support::{Client, Redis, Response, Service, eventually, program};

const ON: (&str, &str) = ("SESSION_LIFETIME", "1h");

/// The cookie of an answer that must have one.
fn cookie(answer: &Response) -> String {
    answer.cookie().unwrap_or_else(|| panic!("no cookie: {answer:?}"))
}

fn get_as(address: SocketAddr, path: &str, cookie: &str) -> Response {
    Client::connect(address).get_with(path, &format!("Cookie: {cookie}\r\n"))
}

fn visit_as(service: &Service, cookie: &str) -> Response {
    get_as(service.address, "/", cookie)
}

fn sessions(redis: &Redis) -> usize {
    redis.run::<Vec<String>>(&["KEYS", "{visitorCount}:session:*"]).len()
}

#[test]
fn a_visitor_who_comes_back_has_the_same_number_at_any_instance_and_is_counted_once() {
    let redis = Redis::start();
    let instances = [(); 2].map(|()| redis.service(&[ON]));
    let first = instances[0].get("/");
    assert_eq!(first.number(), 1);
    let attributes = first.header("set-cookie").and_then(|cookie| cookie.split_once("; "));
    assert_eq!(attributes.map(|(_, rest)| rest), Some("Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"));
    let known = cookie(&first);
    for instance in instances.iter().cycle().take(10) {
        let again = visit_as(instance, &known);
        assert_eq!((again.number(), cookie(&again)), (1, known.clone()), "{again:?}");
    }
    assert_eq!(instances[1].get("/").number(), 2, "without a cookie it is another visitor");
    assert_eq!((redis.count(), sessions(&redis)), (2, 2));
    let visits = |visitor| {
        let series = format!("abukiks_visits_total{{visitor=\"{visitor}\"}}");
        instances.iter().map(|instance| instance.metric(&series)).sum::<f64>()
    };
    assert_eq!((visits("new"), visits("returning")), (2.0, 10.0));
    let [mut one, _] = instances;
    one.log_line("\"visit\":1,\"returning\":false");
    one.log_line("\"visit\":1,\"returning\":true");
}

#[test]
fn the_greeting_says_in_each_form_who_comes_back() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    let greet = |form: &str, cookie: &str| {
        service.connect().get_with("/", &format!("Accept: {form}\r\nCookie: {cookie}\r\n"))
    };
    let first = greet("application/json", "");
    assert_eq!(first.body, r#"{"message":"Welcome to Abukiks!","visitorCount":1,"returning":false}"#);
    let known = cookie(&first);
    let json = greet("application/json", &known).body;
    assert_eq!(json, r#"{"message":"Welcome to Abukiks!","visitorCount":1,"returning":true}"#);
    let page = greet("text/html", &known).body;
    assert!(page.contains("<h1>Welcome back to Abukiks!</h1>\n<p>Your number: <strong>1</strong></p>"));
    assert_eq!(greet("text/plain", &known).body, "Welcome to Abukiks! Visitor count: 1");
    let badge = get_as(service.address, "/badge.svg", &known);
    assert!(badge.body.contains("<title>visitors: 1</title>"), "{badge:?}");
    assert_eq!(redis.count(), 1);
}

#[test]
fn an_id_that_redis_does_not_know_is_never_adopted_and_an_odd_cookie_is_ignored() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    let known = cookie(&service.get("/"));
    let id = known.split_once('=').expect("a value").1;
    let chosen = format!("abukiks_session={}", "0123456789abcdef".repeat(2));
    let odd = [
        "abukiks_session=",
        "abukiks_session=../x",
        "=;=;;",
        &known[..known.len() - 1],
        &known.to_uppercase(),
    ];
    let doubled = format!("{known}; {known}");
    for (number, given) in (2..).zip(odd.into_iter().chain([&*chosen, &doubled])) {
        let answer = visit_as(&service, given);
        assert_eq!(answer.number(), number, "{given}");
        assert!(!cookie(&answer).contains("0123456789abcdef") && !cookie(&answer).contains(id), "{given}");
    }
    assert_eq!(visit_as(&service, &known).number(), 1);
}

#[test]
fn a_session_ends_by_itself_and_each_visit_puts_that_off() {
    let redis = Redis::start();
    let service = redis.service(&[("SESSION_LIFETIME", "1h")]);
    let known = cookie(&service.get("/"));
    let key: String = redis.run::<Vec<String>>(&["KEYS", "{visitorCount}:session:*"]).remove(0);
    let left = || redis.run::<i64>(&["PTTL", &key]);
    assert!((3_500_000..=3_600_000).contains(&left()));
    redis.run::<()>(&["PEXPIRE", &key, "60000"]);
    assert_eq!(visit_as(&service, &known).number(), 1);
    assert!(left() > 3_500_000, "a visit puts it off");
    redis.run::<()>(&["PEXPIRE", &key, "1"]);
    eventually("the session has ended", || (left() == -2).then_some(()));
    assert_eq!(visit_as(&service, &known).number(), 2);
}

#[test]
fn a_reset_of_the_count_ends_every_session() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    let visitors: Vec<_> = (0..3).map(|_| cookie(&service.get("/"))).collect();
    let reset = program("reset-count", &[("REDIS_URL", &*redis.url())]).output().expect("it runs");
    assert!(reset.status.success(), "{reset:?}");
    for (number, old) in (1..).zip(&visitors) {
        let shown = get_as(service.address, "/session", old);
        assert_eq!(shown.body, "{\"session\":null}");
        let greeting = visit_as(&service, old);
        assert_eq!(greeting.number(), number, "as new");
        assert_ne!(cookie(&greeting), *old);
    }
    assert_eq!(redis.count(), 3);
}

#[test]
fn a_visitor_sees_what_is_kept_and_has_it_removed() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    assert_eq!(service.get("/session").body, "{\"session\":null}");
    let known = cookie(&service.get("/"));
    let shown: Value = serde_json::from_str(&get_as(service.address, "/session", &known).body).expect("JSON");
    assert_eq!(shown["session"]["visitorCount"], 1);
    assert!(shown["session"]["endsInSeconds"].as_u64().is_some_and(|left| (3500..=3600).contains(&left)));
    let since = shown["session"]["since"].as_str().expect("a time");
    assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    let ask = |method: &str, path: &str, headers: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nCookie: {known}\r\n{headers}\r\n");
        service.connect().exchange(request).expect("an answer")
    };
    for (method, path, headers) in [
        ("POST", "/session/forget", ""),
        ("POST", "/session/forget", "Origin: null\r\n"),
        ("POST", "/session/forget", "Origin: http://b.test\r\n"),
        ("POST", "/session/forget", "Origin: http://a.test\r\nSec-Fetch-Site: cross-site\r\n"),
        ("DELETE", "/session", "Origin: https://b.test\r\n"),
    ] {
        assert_eq!(ask(method, path, headers).status, 403, "{method} {headers}");
    }
    assert_eq!(sessions(&redis), 1, "another site may not do that");
    let forgotten = ask("POST", "/session/forget", "Origin: https://a.test\r\nContent-Length: 0\r\n");
    assert_eq!((forgotten.status, forgotten.header("location")), (303, Some("/session")));
    let gone = "abukiks_session=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax";
    assert_eq!(forgotten.header("set-cookie"), Some(gone));
    assert_eq!(sessions(&redis), 0);
    assert_eq!(visit_as(&service, &known).number(), 2, "and is a new visitor");
    let other = cookie(&service.get("/"));
    let deleted =
        service.connect().exchange(format!("DELETE /session HTTP/1.1\r\nHost: a\r\nCookie: {other}\r\n\r\n"));
    let deleted = deleted.expect("an answer");
    assert_eq!((deleted.status, deleted.header("set-cookie")), (204, Some(gone)));
    assert_eq!(sessions(&redis), 1);
}

#[test]
fn without_a_lifetime_nothing_is_kept_and_every_visit_counts() {
    let redis = Redis::start();
    let known = cookie(&redis.service(&[ON]).get("/"));
    let service = Service::start(&redis);
    let answer = visit_as(&service, &known);
    assert_eq!((answer.number(), answer.header("set-cookie")), (2, None));
    assert_eq!(get_as(service.address, "/session", &known).status, 404);
    assert_eq!(sessions(&redis), 1);
}

#[test]
fn an_answer_that_was_lost_is_told_again_by_what_it_has_left_in_redis() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let service = Service::start_with(&[("REDIS_URL", &proxy.url()), ON]);
    let known = cookie(&service.get("/"));
    for number in 2..20 {
        proxy.next([Fate::CutAnswerAt(usize::try_from(number).expect("a few") % 12)]);
        assert_eq!(service.get("/").number(), number, "each new visitor is counted once");
        proxy.next([Fate::CutAnswerAt(3)]);
        assert_eq!(visit_as(&service, &known).number(), 1);
    }
    assert_eq!((redis.count(), sessions(&redis)), (19, 19));
}

#[test]
fn a_number_that_was_told_outlives_a_crash_of_redis_and_of_every_process() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let service = redis.service(&[ON]);
    let visitors: Vec<_> = (0..5).map(|_| cookie(&service.get("/"))).collect();
    redis.kill();
    service.process.signal(Signal::KILL);
    redis.resume();
    let service = redis.service(&[ON]);
    for (number, known) in (1..).zip(&visitors) {
        assert_eq!(visit_as(&service, known).number(), number);
    }
    assert_eq!(redis.count(), 5);
}

#[test]
fn a_redis_without_room_refuses_new_visitors_and_makes_no_half_session() {
    let redis = Redis::start();
    let service = redis.service(&[ON, ("REDIS_TIMEOUT", "200ms")]);
    assert_eq!(service.get("/").number(), 1);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = service.get("/");
    assert_eq!((refused.status, refused.header("set-cookie")), (503, None));
    assert_eq!((redis.count(), sessions(&redis)), (1, 1));
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("counts again", || (service.get("/").status == 200).then_some(()));
    assert_eq!(i64::try_from(sessions(&redis)), Ok(redis.count()));
}

/// A user of Redis who may not write sessions: the count is as if the visit had never been.
#[test]
fn a_session_that_cannot_be_written_takes_its_number_back() {
    let redis = Redis::start();
    redis.run::<()>(&[
        "ACL",
        "SETUSER",
        "half",
        "on",
        "nopass",
        "+@all",
        "resetkeys",
        "~visitorCount",
        "~{visitorCount}:epoch",
        "~{visitorCount}:producer:*",
    ]);
    let url = redis.url() + "?user=half";
    let service = Service::start_with(&[("REDIS_URL", &url), ON, ("REDIS_TIMEOUT", "200ms")]);
    assert_eq!(service.get("/").status, 503);
    assert_eq!((redis.count(), sessions(&redis)), (0, 0));
}

#[test]
fn a_lifetime_that_is_shorter_than_a_visit_may_wait_is_refused() {
    let settings = [("SESSION_LIFETIME", "1s"), ("REDIS_TIMEOUT", "2s")];
    let output = program("abukiks", &settings).output().expect("it runs");
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("SESSION_LIFETIME=1s is shorter than REDIS_TIMEOUT=2s"), "{said}");
}

#[test]
fn the_problem_for_another_method_names_what_a_session_takes() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    for (path, allowed) in [("/session", "GET, HEAD, DELETE, OPTIONS"), ("/session/forget", "POST, OPTIONS")]
    {
        let answer =
            service.connect().exchange(format!("PUT {path} HTTP/1.1\r\nHost: a\r\n\r\n")).expect("an answer");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{path}");
    }
}

#[test]
fn numbers_beyond_those_of_lua_are_told_and_kept_exactly() {
    let redis = Redis::start();
    let service = redis.service(&[ON]);
    for count in [99_999_999_999_998, 9_007_199_254_740_990, i64::MAX - 3] {
        redis.run::<()>(&["SET", "visitorCount", &count.to_string()]);
        let visitors: Vec<_> = (1..=3).map(|visit| (count + visit, service.get("/"))).collect();
        for (number, greeting) in &visitors {
            assert_eq!(greeting.number(), *number);
            assert_eq!(visit_as(&service, &cookie(greeting)).number(), *number);
        }
    }
    assert_eq!(service.get("/").status, 503, "there is no next number");
    assert_eq!(redis.count(), i64::MAX);
}
