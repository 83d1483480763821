//! Behind a proxy that is trusted, the visitor is whom it names; the word of others is not taken.

use crate::support::{Client, Redis, Service};

/// A service that trusts its peers, unless told otherwise.
fn service(redis: &Redis, settings: &[(&str, &str)]) -> Service {
    redis.service(&[&[("TRUSTED_PROXIES", "127.0.0.0/8")], settings].concat())
}

fn logged_client(service: &mut Service, id: &str) -> String {
    let line = service.log_line(&format!("\"request_id\":\"{id}\""));
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    event["client"].as_str().expect("a client").to_owned()
}

#[test]
fn the_log_names_the_visitor_that_a_trusted_proxy_names() {
    let redis = Redis::start();
    let forwarded = "Forwarded: for=198.51.100.7\r\n";
    let listed = "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-For: 127.0.0.9\r\n";
    let headers = format!("{forwarded}{listed}X-Real-IP: 203.0.113.5\r\n");
    for (settings, expected) in [
        (&[][..], "192.0.2.1"),
        (&[("FORWARDED_HEADER", "Forwarded")], "198.51.100.7"),
        (&[("FORWARDED_HEADER", "X-Real-IP")], "203.0.113.5"),
        (&[("FORWARDED_HEADER", "CF-Connecting-IP")], "127.0.0.1"),
        (&[("TRUSTED_PROXIES", "none")], "127.0.0.1"),
        (&[("TRUSTED_PROXIES", "10.0.0.0/8,unix")], "127.0.0.1"),
    ] {
        let mut service = service(&redis, settings);
        service.connect().get_with("/", &format!("{headers}X-Request-Id: one\r\n"));
        assert_eq!(logged_client(&mut service, "one"), expected, "{settings:?}");
    }
}

#[test]
fn eight_kibibytes_of_nonsense_name_no_visitor() {
    let redis = Redis::start();
    for header in ["X-Forwarded-For", "Forwarded"] {
        let mut service = service(&redis, &[("FORWARDED_HEADER", header)]);
        for (id, nonsense) in [
            ("quotes", "\"".repeat(8191)),
            ("commas", ",".repeat(8192)),
            ("pairs", "for=;".repeat(1638)),
            ("brackets", "[,]:".repeat(2048)),
            ("addresses", "127.0.0.1, ".repeat(744)),
        ] {
            let headers = format!("{header}: {nonsense}\r\nX-Request-Id: {id}\r\n");
            assert_eq!(service.connect().get_with("/healthz", &headers).status, 200, "{id}");
            assert_eq!(logged_client(&mut service, id), "127.0.0.1", "{header} {id}");
        }
    }
}

#[test]
fn by_https_the_cookie_is_for_https_alone() {
    let redis = Redis::start();
    let sessions = ("SESSION_LIFETIME", "1h");
    let cookie_of = |service: &Service, headers: &str| {
        let answer = service.connect().get_with("/", headers);
        (answer.number(), answer.header("set-cookie").expect("a cookie").to_owned())
    };
    let trusting = service(&redis, &[sessions]);
    let https = "X-Forwarded-Proto: https\r\n";
    let (number, cookie) = cookie_of(&trusting, https);
    assert!(cookie.starts_with("__Host-abukiks_session=") && cookie.ends_with("; Secure"), "{cookie}");
    let known = cookie.split(';').next().expect("a pair");
    assert_eq!(cookie_of(&trusting, &format!("{https}Cookie: {known}\r\n")).0, number);

    // A visitor of before, who came without HTTPS, is known and gets the better cookie.
    let (number, plain) = cookie_of(&trusting, "");
    assert!(plain.starts_with("abukiks_session=") && !plain.contains("Secure"), "{plain}");
    let plain = plain.split(';').next().expect("a pair");
    let (again, cookie) = cookie_of(&trusting, &format!("{https}Cookie: {plain}\r\n"));
    assert_eq!(again, number);
    assert!(cookie.starts_with("__Host-"), "{cookie}");
    let forget = format!("DELETE /session HTTP/1.1\r\nHost: a\r\n{https}Cookie: {known}\r\n\r\n");
    let forgotten = trusting.connect().exchange(forget).expect("an answer");
    let cookies = forgotten.headers.iter().filter(|(name, _)| name == "set-cookie");
    let names: Vec<_> = cookies.map(|(_, cookie)| cookie.split('=').next().expect("a name")).collect();
    assert_eq!(names, ["__Host-abukiks_session", "abukiks_session"]);

    let distrusting = service(&redis, &[sessions, ("TRUSTED_PROXIES", "none")]);
    assert!(cookie_of(&distrusting, https).1.starts_with("abukiks_session="));
}

#[test]
fn an_https_target_is_for_a_proxy_that_is_trusted_to_have_used_https() {
    let redis = Redis::start();
    let ask = |service: &Service, headers: &str| {
        let request = format!("GET https://a/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        Client::connect(service.address).exchange(request).expect("an answer").status
    };
    let https = "X-Forwarded-Proto: https\r\n";
    let trusting = service(&redis, &[]);
    assert_eq!((ask(&trusting, https), ask(&trusting, "")), (200, 400));
    assert_eq!(ask(&service(&redis, &[("TRUSTED_PROXIES", "none")]), https), 400);
    assert_eq!(redis.count(), 1);
}
