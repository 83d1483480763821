//! A browser shows the greeting to everybody, and the page asks for nothing but itself.
//!
//! The browser is Chromium without a window, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>),
//! which is HTTP and JSON, and over the DevTools protocol, to which chromedriver passes commands on.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Process, Redis, Service, eventually};

/// The longest number that Redis can count to.
const LONGEST: i64 = i64::MAX;

/// One browser at a time is load enough for a small machine.
static BROWSERS: Mutex<()> = Mutex::new(());

/// Chromium with a profile of its own, which is gone when the test ends.
pub(crate) struct Browser {
    session: String,
    driver: SocketAddr,
    _process: Process,
    _folder: TempDir,
    _only_one: MutexGuard<'static, ()>,
}

/// The program of this name, as a shell would find it.
fn installed(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; install Debian's package {package}"))
}

impl Browser {
    pub(crate) fn start() -> Self {
        let only_one = BROWSERS.lock().unwrap_or_else(PoisonError::into_inner);
        let chromium = installed("chromium", "chromium");
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let program = installed("chromedriver", "chromium-driver");
        // It takes a port that is free for IPv4, and ends when IPv6 has that one in use.
        let (process, port) = eventually("chromedriver finds a port", || {
            let mut process = Process::spawn(
                Command::new(&program)
                    .arg("--port=0")
                    // What they write to a home goes away with the rest.
                    .env("HOME", folder.path())
                    .stdin(Stdio::null())
                    .stdout(File::create(&log).expect("a log"))
                    .stderr(Stdio::null()),
            );
            let port = eventually("chromedriver listens, or has ended", || {
                let ended = process.has_ended();
                let log = std::fs::read_to_string(&log).expect("a log");
                let port = log.split_once("successfully on port ");
                let port = port.and_then(|(_, rest)| rest.split_once('.')?.0.parse().ok());
                (port.is_some() || ended).then_some(port)
            });
            Some((process, port?))
        });
        let mut browser = Self {
            session: String::new(),
            driver: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            _process: process,
            _folder: folder,
            _only_one: only_one,
        };
        let profile = browser._folder.path().join("profile");
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": chromium, "args": [
                format!("--user-data-dir={}", profile.display()),
                // Only this service is visited, and test machines often allow no sandbox.
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                // The browser's own errands stay undone.
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--disable-quic", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ] },
        } } });
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = text(&session["sessionId"]).to_owned();
        browser
    }

    /// One WebDriver command.
    fn ask(&self, method: &str, path: &str, parameters: &Value) -> Value {
        let content = parameters.to_string();
        let response = Client::connect(self.driver)
            .exchange(format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{content}",
                self.driver,
                content.len(),
            ))
            .expect("chromedriver answers");
        let answer: Value = serde_json::from_str(&response.body).expect("JSON");
        assert_eq!(response.status, 200, "{method} {path}: {answer}");
        answer["value"].clone()
    }

    pub(crate) fn run(&self, command: &str, parameters: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{command}", self.session), parameters)
    }

    /// One command of the DevTools protocol.
    pub(crate) fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let command = json!({ "cmd": command, "params": parameters });
        self.run("goog/cdp/execute", &command)
    }

    /// Goes to a page and waits until it is loaded.
    pub(crate) fn open(&self, service: &Service) {
        let url = format!("http://{}/", service.address);
        self.load("url", &json!({ "url": url }));
    }

    pub(crate) fn reload(&self) {
        self.load("refresh", &json!({}));
    }

    /// One command that loads a page. On a busy machine chromedriver may return from it while the
    /// page before is still there.
    pub(crate) fn load(&self, command: &str, parameters: &Value) {
        let before = self.value("performance.timeOrigin");
        self.run(command, parameters);
        let loaded = format!("performance.timeOrigin !== {before} && document.readyState === 'complete'");
        eventually("the page is loaded", || (self.value(&loaded) == true).then_some(()));
    }

    /// The value of a JavaScript expression in the page.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        self.run("execute/sync", &script)
    }

    /// What the browser had to complain about.
    pub(crate) fn complaints(&self) -> Value {
        self.run("se/log", &json!({ "type": "browser" }))
    }

    fn prefer(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// The page as a screen reader has it: (role, words) in reading order. No script is needed.
    fn read_aloud(&self) -> Vec<(String, String)> {
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes");
        let mut said = Vec::new();
        // The root comes first in the list, and each node names its children in order.
        let mut next = vec![&nodes[0]];
        while let Some(node) = next.pop() {
            let (role, words) = (text(&node["role"]["value"]), text(&node["name"]["value"]));
            if matches!(role, "RootWebArea" | "heading" | "StaticText") {
                said.push((role.to_owned(), words.trim().to_owned()));
            }
            let children = node["childIds"].as_array().into_iter().flatten().rev();
            next.extend(children.filter_map(|id| nodes.iter().find(|node| node["nodeId"] == *id)));
        }
        said
    }

    pub(crate) fn assert_reads(&self, title: &str, words: &[&str]) {
        let page = [("RootWebArea", title), ("heading", title), ("StaticText", title)];
        let words = words.iter().map(|words| ("StaticText", *words));
        let expected: Vec<_> = page.into_iter().chain(words).collect();
        let read = self.read_aloud();
        let read: Vec<_> = read.iter().map(|(role, words)| (role.as_str(), words.as_str())).collect();
        assert_eq!(read, expected);
    }
}

impl Drop for Browser {
    /// Ends Chromium; chromedriver alone would leave it behind.
    fn drop(&mut self) {
        if let Ok(mut driver) = std::net::TcpStream::connect(self.driver) {
            use std::io::{Read as _, Write as _};
            let end = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.driver
            );
            // Whatever fails here, the test has had its result.
            let _ = driver.write_all(end.as_bytes());
            let _ = driver.read(&mut [0; 256]);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How well one colour is read on another (WCAG 2.2, "contrast ratio").
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let digits = colour.trim().strip_prefix('#').expect("a colour in digits");
        let channel = |range| {
            let value = u8::from_str_radix(&digits[range], 16).expect("hexadecimal digits");
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0..2) + 0.7152 * channel(2..4) + 0.0722 * channel(4..6)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn the_page_shows_the_number_that_was_counted_and_asks_for_nothing_else() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    let browser = Browser::start();
    redis.run::<()>(&["SET", "visitorCount", "48212"]);
    browser.open(&service);
    browser.assert_reads("Welcome to Abukiks!", &["Visitor count:", "48213"]);
    assert_eq!(browser.value("document.title"), "Welcome to Abukiks!");
    assert_eq!(browser.value("document.documentElement.lang"), "en");
    assert_eq!(browser.value("document.compatMode"), "CSS1Compat");
    let said = browser.value("document.body.textContent.replace(/\\s+/g, ' ').trim()");
    assert_eq!(said, "Welcome to Abukiks! Visitor count: 48213");
    assert_eq!(browser.value("document.styleSheets.length"), 1);
    let icon = browser.value("new URL(document.querySelector('link[rel=icon]').href).protocol");
    assert_eq!(icon, "data:", "the icon would be a request of its own");
    assert_eq!(browser.complaints(), json!([]));
    assert_eq!(redis.count(), 48213);
    // The browser is gone before the service counts up what it was asked for.
    drop(browser);
    service.stop();
    let log = service.whole_log();
    let requests: Vec<_> = log.iter().filter(|line| line.contains("http_path")).collect();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert!(requests[0].contains("\"http_path\":\"/\""), "{requests:#?}");
    assert!(requests[0].contains("\"visit\":48213"), "{requests:#?}");
}

#[test]
fn a_reload_counts_again_also_where_scripts_are_off() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let browser = Browser::start();
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    browser.open(&service);
    browser.assert_reads("Welcome to Abukiks!", &["Visitor count:", "1"]);
    browser.reload();
    browser.assert_reads("Welcome to Abukiks!", &["Visitor count:", "2"]);
    assert_eq!(redis.count(), 2);
}

#[test]
fn the_page_is_light_or_dark_as_the_visitor_likes_and_readable_in_both() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let browser = Browser::start();
    browser.open(&service);
    let backgrounds = ["light", "dark"].map(|scheme| {
        browser.prefer("prefers-color-scheme", scheme);
        let colour = |name: &str| {
            let style = "getComputedStyle(document.documentElement)";
            let colour = browser.value(&format!("{style}.getPropertyValue('--{name}')"));
            text(&colour).to_owned()
        };
        for (ink, paper) in [("ink", "paper"), ("soft", "paper"), ("digit", "upper"), ("digit", "lower")] {
            let ratio = contrast(&colour(ink), &colour(paper));
            assert!(ratio >= 4.5, "{ink} on {paper}, {scheme}: {ratio:.2}");
        }
        browser.value("getComputedStyle(document.body).backgroundColor")
    });
    assert_ne!(backgrounds[0], backgrounds[1]);
    // Where the visitor's own colours rule, no flap is painted over or cut.
    browser.prefer("forced-colors", "active");
    let painted = "(style => [style.backgroundImage, style.clipPath])(getComputedStyle(document.querySelector('strong')))";
    assert_eq!(browser.value(painted), json!(["none", "none"]));
}

#[test]
fn numbers_of_every_length_fit_every_width() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let browser = Browser::start();
    let tens = std::iter::successors(Some(1_i64), |ten| ten.checked_mul(10));
    for number in tens.step_by(6).chain([LONGEST]) {
        redis.run::<()>(&["SET", "visitorCount", &(number - 1).to_string()]);
        browser.open(&service);
        let shown = browser.value("document.querySelector('strong').textContent");
        assert_eq!(shown, number.to_string());
        for width in [320, 768, 1920] {
            browser.resize(width, 600);
            // Nothing to scroll to at the side, and all digits inside the counter, which cuts off what is not.
            let fits = browser.value(
                "(() => {
                    const page = document.documentElement, counter = document.querySelector('strong');
                    const digits = document.createRange();
                    digits.selectNodeContents(counter);
                    const outer = counter.getBoundingClientRect();
                    return page.scrollWidth <= innerWidth && [...digits.getClientRects()].every(inner =>
                        inner.left >= outer.left && inner.right <= outer.right + 1 && inner.bottom <= outer.bottom + 1);
                })()",
            );
            assert_eq!(fits, true, "{number} at {width} pixels");
        }
    }
}

#[test]
fn without_redis_the_browser_shows_that_no_visit_can_be_counted() {
    let mut redis = Redis::start();
    let service = redis.service(&[("REDIS_TIMEOUT", "100ms")]);
    redis.kill();
    let browser = Browser::start();
    browser.open(&service);
    browser.assert_reads(
        "Service Unavailable",
        &["Visitors cannot be counted right now. Please try again in a second.", "503"],
    );
    assert_eq!(browser.value("document.styleSheets.length"), 1);
    // That the page could not be had is the one thing to complain about.
    let complaints = browser.complaints();
    let complaints = complaints.as_array().expect("a list");
    assert!(complaints.iter().all(|entry| entry["source"] == "network"), "{complaints:?}");
}
