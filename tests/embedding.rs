//! Pages of other sites link to the counter, show it, and read it, as docs/embedding.md says, in a real browser.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;

use serde_json::json;

use crate::page::Browser;
use crate::proxies::{free_port, nginx_with};
use crate::support::{Client, Redis, Service, eventually, held_socket};

/// Another site: pages by their paths, which the test may not change any more.
fn site(pages: BTreeMap<&'static str, String>) -> SocketAddr {
    let listener = held_socket();
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, page) = pages.get(path).map_or(("404 Not Found", ""), |page| ("200 OK", page));
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
            // A browser may change its mind.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn go_to(browser: &Browser, url: &str) {
    browser.load("url", &json!({ "url": url }));
}

/// Clicks as a person does, with a pointer that comes near first.
fn click(browser: &Browser, selector: &str) {
    let found = browser.run("element", &json!({ "using": "css selector", "value": selector }));
    let id = found.as_object().and_then(|found| found.values().next()).and_then(|id| id.as_str());
    browser.run(&format!("element/{}/click", id.expect("an element")), &json!({}));
}

#[test]
fn a_page_that_is_fetched_ahead_opens_at_the_first_click_and_counts_once() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let url = format!("http://{}/", service.address);
    let rules = |kind: &str, eagerness: &str| {
        let rules = json!({ kind: [{ "source": "list", "urls": [url], "eagerness": eagerness }] });
        format!("<script type=speculationrules>{rules}</script>")
    };
    let mut ahead = vec![
        String::new(),
        format!("<link rel=prefetch href=\"{url}\">"),
        format!("<link rel=prerender href=\"{url}\">"),
    ];
    for kind in ["prefetch", "prerender"] {
        ahead.extend(
            ["immediate", "eager", "moderate", "conservative"].map(|eagerness| rules(kind, eagerness)),
        );
    }
    const PATHS: [&str; 11] = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10"];
    let page =
        |ahead: &String| format!("<!doctype html><title>a link</title>{ahead}<a href=\"{url}\">count me</a>");
    let pages = PATHS.into_iter().zip(ahead.iter().map(page)).collect();
    let other = site(pages);
    let browser = Browser::start();
    for (path, (number, ahead)) in PATHS.into_iter().zip((1..).zip(&ahead)) {
        go_to(&browser, &format!("http://{other}{path}"));
        let asked = || service.metric("abukiks_http_requests_total{route=\"prefetch\",status=\"503\"}");
        if ahead.contains("rel=prefetch") || ahead.contains("immediate") && ahead.contains("prefetch") {
            let before = f64::from(u8::from(ahead.contains("immediate")));
            eventually("the browser asks ahead", || (asked() > before).then_some(()));
        }
        assert_eq!(redis.count(), number - 1, "counted ahead: {ahead}");
        click(&browser, "a");
        let opened = "document.title === 'Welcome to Abukiks!' && document.readyState === 'complete'";
        eventually(&format!("the page opens: {ahead}"), || (browser.value(opened) == true).then_some(()));
        assert_eq!(
            browser.value("document.querySelector('strong').textContent"),
            number.to_string(),
            "{ahead}"
        );
        assert_eq!(redis.count(), number, "{ahead}");
    }
}

#[test]
fn ten_reloads_are_one_visitor_who_can_have_it_forgotten() {
    let redis = Redis::start();
    let service = redis.service(&[("SESSION_LIFETIME", "1h")]);
    let browser = Browser::start();
    browser.open(&service);
    browser.assert_reads("Welcome to Abukiks!", &["Visitor count:", "1"]);
    for _ in 0..10 {
        browser.reload();
        browser.assert_reads("Welcome back to Abukiks!", &["Your number:", "1"]);
    }
    assert_eq!(redis.count(), 1);
    go_to(&browser, &format!("http://{}/session", service.address));
    assert_eq!(browser.value("document.querySelector('strong').textContent"), "1");
    click(&browser, "button");
    let gone = "document.querySelector('h1').textContent === 'Nothing is kept of you'";
    eventually("it is forgotten", || (browser.value(gone) == true).then_some(()));
    browser.open(&service);
    browser.assert_reads("Welcome to Abukiks!", &["Visitor count:", "2"]);
    assert_eq!(browser.complaints(), json!([]));
}

#[test]
fn another_site_shows_the_badge_and_reads_the_count_where_it_is_allowed() {
    let redis = Redis::start();
    let listener = held_socket();
    let own = listener.local_addr().expect("an address");
    drop(listener);
    let service = redis.service(&[("PORT", &own.port().to_string())]);
    let script = |path: &str| {
        format!(
            "<!doctype html><title>another site</title><p>Visitors: <span id=visitors>?</span></p>\n<script type=module>\n\
             const answer = await fetch(\"http://{own}{path}\", {{ headers: {{ Accept: \"application/json\" }} }})\n\
             document.getElementById(\"visitors\").textContent = (await answer.json()).visitorCount\n</script>"
        )
    };
    let picture = format!(
        "<!doctype html><title>another site</title><img src=\"http://{own}/badge.svg\" alt=\"visitors\">"
    );
    let page =
        format!("<!doctype html><title>another site</title><img src=\"http://{own}/\" alt=\"visitors\">");
    let other = site(BTreeMap::from([
        ("/picture", picture),
        ("/page-as-picture", page),
        ("/count", script("/count")),
        ("/visit", script("/")),
    ]));
    let browser = Browser::start();
    go_to(&browser, &format!("http://{other}/picture"));
    let width = "(image => image.complete && image.naturalWidth)(document.querySelector('img'))";
    assert!(browser.value(width).as_u64().is_some_and(|width| width > 60), "no picture");
    assert_eq!(redis.count(), 1);
    go_to(&browser, &format!("http://{other}/page-as-picture"));
    assert_eq!(browser.value(width), 0);
    assert_eq!(redis.count(), 1, "the page as a picture is no visit");
    let shown = "document.getElementById('visitors').textContent";
    go_to(&browser, &format!("http://{other}/count"));
    let complains = |browser: &Browser| browser.complaints().to_string().contains("CORS policy");
    eventually("the browser refuses the script", || complains(&browser).then_some(()));
    assert_eq!(browser.value(shown), "?");
    drop(service);
    let _service =
        redis.service(&[("PORT", &own.port().to_string()), ("CORS_ORIGINS", &format!("http://{other}"))]);
    for (path, number) in [("/count", "1"), ("/visit", "2"), ("/count", "2")] {
        go_to(&browser, &format!("http://{other}{path}"));
        eventually("the script shows the count", || (browser.value(shown) == number).then_some(()));
    }
}

#[test]
fn a_static_site_behind_the_same_proxy_shows_the_count() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    service.get("/");
    let folder = tempfile::tempdir().expect("a folder");
    let page = "<!doctype html><title>a site</title><span id=visitors>?</span>\n<script type=module>\n\
        const answer = await fetch(\"/visitors\", { headers: { Accept: \"application/json\" } })\n\
        document.getElementById(\"visitors\").textContent = (await answer.json()).visitorCount\n</script>";
    std::fs::write(folder.path().join("page.html"), page).expect("a file");
    let own = free_port();
    let site = format!(
        "server {{ listen {own}; root {}; types {{ text/html html; }}\n\
         location = /visitors {{ proxy_pass http://{}/count; include {}/proxies/proxy.conf; }} }}\n",
        folder.path().display(),
        service.address,
        env!("CARGO_MANIFEST_DIR"),
    );
    let (_nginx, own) = nginx_with(&folder, &site, own);
    let browser = Browser::start();
    go_to(&browser, &format!("http://{own}/page.html"));
    let shown = "document.getElementById('visitors').textContent";
    eventually("the script shows the count", || (browser.value(shown) == "1").then_some(()));
}

fn with_origin(service: &Service, path: &str, headers: &str) -> BTreeMap<String, Vec<String>> {
    let answer = Client::connect(service.address).get_with(path, headers);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in answer.headers {
        if name.starts_with("access-control-") || name == "vary" {
            found.entry(name).or_default().push(value);
        }
    }
    found
}

#[test]
fn only_listed_origins_are_let_in_and_only_they_with_cookies() {
    let redis = Redis::start();
    let session = ("SESSION_LIFETIME", "1h");
    let listed = redis.service(&[session, ("CORS_ORIGINS", "https://a.test,http://b.test:81")]);
    let all = redis.service(&[session, ("CORS_ORIGINS", "*")]);
    let none = redis.service(&[session]);
    for path in ["/", "/count", "/badge.svg"] {
        for origin in ["https://a.test", "http://b.test:81"] {
            let found = with_origin(&listed, path, &format!("Origin: {origin}\r\n"));
            assert_eq!(found["access-control-allow-origin"], [origin], "{path}");
            assert_eq!(found["access-control-allow-credentials"], ["true"]);
            assert!(found["vary"].iter().any(|vary| vary == "Origin"));
        }
        for origin in ["Origin: https://a.test.evil\r\n", "Origin: null\r\n", "Origin: http://a.test\r\n", ""]
        {
            let found = with_origin(&listed, path, origin);
            assert!(found["vary"].iter().any(|vary| vary == "Origin"), "{found:?}");
            assert_eq!(found.len(), 1, "{path} {origin}: {found:?}");
        }
        let found = with_origin(&all, path, "Origin: https://a.test\r\n");
        assert_eq!(found["access-control-allow-origin"], ["*"]);
        assert!(!found.contains_key("access-control-allow-credentials"), "{found:?}");
        let found = with_origin(&none, path, "Origin: https://a.test\r\n");
        assert!(found.keys().all(|name| name == "vary"), "{found:?}");
        let preflight = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: GET\r\n\r\n"
        );
        let answer = listed.connect().exchange(preflight).expect("an answer");
        assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("GET, HEAD")));
    }
    let found = with_origin(&listed, "/session", "Origin: https://a.test\r\n");
    assert!(!found.contains_key("access-control-allow-origin"), "what is kept of a visitor is for them");
}

#[test]
fn the_count_is_told_without_a_visit() {
    let redis = Redis::start();
    let service = redis.service(&[("COUNT_MAX_AGE", "30s")]);
    let get = |accept: &str| service.connect().get_with("/count", accept);
    assert_eq!(get("").body, "{\"visitorCount\":0}");
    redis.run::<()>(&["SET", "visitorCount", "48212"]);
    assert_eq!(get("").body, "{\"visitorCount\":48212}");
    assert_eq!(get("Accept: text/plain\r\n").body, "48212\n");
    assert!(get("Accept: text/html\r\n").body.contains("<strong>48212</strong>"));
    assert_eq!(get("").header("cache-control"), Some("max-age=30"));
    assert_eq!(get("").header("vary"), Some("Accept"));
    assert_eq!(redis.count(), 48212);
    let fresh = Service::start(&redis);
    assert_eq!(fresh.get("/count").header("cache-control"), Some("no-store"));
}

#[test]
fn the_badge_counts_unless_it_is_asked_not_to_and_draws_nothing_of_the_client() {
    let redis = Redis::start();
    let service = redis.service(&[("BADGE_LABEL", "a <b> & \"c\""), ("BADGE_COLOR", "#fff")]);
    let badge = service.get("/badge.svg?label=evil&color=red");
    assert_eq!((badge.status, badge.header("content-type")), (200, Some("image/svg+xml")));
    let title = "<title>a &lt;b&gt; &amp; &quot;c&quot;: 1</title>";
    assert!(badge.body.contains(title) && badge.body.contains("fill=\"#fff\""), "{badge:?}");
    assert!(!badge.body.contains("evil") && !badge.body.contains("red"), "{badge:?}");
    let caching = "max-age=0, no-cache, no-store, must-revalidate";
    assert_eq!(badge.header("cache-control"), Some(caching));
    assert_eq!(badge.header("cross-origin-resource-policy"), Some("cross-origin"));
    for shows_only in ["/badge.svg?count=no", "/badge.svg?x=y&count=no"] {
        assert!(service.get(shows_only).body.contains(": 1</title>"), "{shows_only}");
    }
    assert_eq!(redis.count(), 1);
    assert!(service.get("/badge.svg?count=yes").body.contains(": 2</title>"));
    let head = service.connect().exchange("HEAD /badge.svg HTTP/1.1\r\nHost: a\r\n\r\n").expect("an answer");
    assert_eq!((head.status, redis.count()), (200, 2));
}
