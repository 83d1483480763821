//! The dashboard and the alerts in monitoring/ are in step with the metrics and with the documents.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::contract::{ROOT, check_with};
use crate::documentation::{documents, hold, read};
use crate::support::{Redis, Service};

const RULES: &str = "monitoring/abukiks.rules.yml";
const DASHBOARD: &str = "monitoring/grafana/abukiks.json";

/// What selects the instances that the dashboard shows.
const SHOWN: &str = r#"job="$job",instance=~"$instance""#;

/// The alerts that fire, which the dashboard marks in all panels.
pub(crate) const FIRING: &str = r#"ALERTS{alertname=~"Abukiks.+",alertstate="firing"}"#;

/// How a panel shows its queries.
#[derive(Clone, Copy)]
enum Form {
    /// Lines over time, in a unit of Grafana.
    Lines(&'static str),
    /// Yes (1) and no (0) over time, of which this one is as it should be.
    Answers(u8),
    /// What holds now.
    Now(&'static str),
}
use Form::{Answers, Lines, Now};

/// A quantile of the latency of visits.
macro_rules! latency {
    ($quantile:literal) => {
        concat!(
            "histogram_quantile(",
            $quantile,
            r#", sum by (le) (rate(abukiks_http_request_duration_seconds_bucket{@,route="/"}[$__rate_interval])))"#
        )
    };
}

/// The panels, two in a row: title, meaning, form, and queries with the legend of each. `@` stands for
/// [`SHOWN`].
type Panel = (&'static str, &'static str, Form, &'static [(&'static str, &'static str)]);

const PANELS: [Panel; 19] = [
    ("Instances", "Instances that answer /metrics.", Now("none"), &[("sum(up{@})", "")]),
    (
        "Releases",
        "Two for longer than a deploy: an instance was left out.",
        Now("none"),
        &[("count by (release) (abukiks_build_info{@})", "{{release}}")],
    ),
    (
        "Visits",
        "By new visitors, and by those whom a session knows.",
        Lines("reqps"),
        &[("sum by (visitor) (rate(abukiks_visits_total{@}[$__rate_interval]))", "{{visitor}}")],
    ),
    (
        "Visits refused",
        "The share of 503 at /; the error budget is 0.1 %.",
        Lines("percentunit"),
        &[(
            r#"sum(rate(abukiks_http_requests_total{@,route="/",status="503"}[$__rate_interval])) / sum(rate(abukiks_http_requests_total{@,route="/"}[$__rate_interval]))"#,
            "refused",
        )],
    ),
    (
        "Answers",
        "By status; 499: the client left first.",
        Lines("reqps"),
        &[("sum by (status) (rate(abukiks_http_requests_total{@}[$__rate_interval]))", "{{status}}")],
    ),
    (
        "Limits",
        "Times that a limit was hit.",
        Lines("reqps"),
        &[("sum by (limit) (rate(abukiks_limit_hits_total{@}[$__rate_interval]))", "{{limit}}")],
    ),
    (
        "Latency of /",
        "From the end of a request's headers to its answer.",
        Lines("s"),
        &[(latency!("0.5"), "median"), (latency!("0.9"), "90 %"), (latency!("0.99"), "99 %")],
    ),
    (
        "Waiting visits",
        "Visits that wait for their number.",
        Lines("none"),
        &[("abukiks_waiting_visits{@}", "{{instance}}")],
    ),
    (
        "Batch size",
        "Visits counted by one command. Thousands: Redis is slow.",
        Lines("none"),
        &[
            (
                "sum(rate(abukiks_batch_visits_sum{@}[$__rate_interval])) / sum(rate(abukiks_batch_visits_count{@}[$__rate_interval]))",
                "mean",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(abukiks_batch_visits_bucket{@}[$__rate_interval])))",
                "99 %",
            ),
        ],
    ),
    (
        "Batches",
        "Commands to Redis that have counted.",
        Lines("ops"),
        &[("sum by (instance) (rate(abukiks_batch_visits_count{@}[$__rate_interval]))", "{{instance}}")],
    ),
    (
        "Redis counts",
        "No: visits get 503. Nothing: it was not asked yet.",
        Answers(1),
        &[("abukiks_redis_up{@}", "{{instance}}")],
    ),
    (
        "Redis errors",
        "Failed commands and attempts to connect.",
        Lines("ops"),
        &[
            ("sum(rate(abukiks_redis_errors_total{@}[$__rate_interval]))", "errors"),
            (
                "sum(rate(abukiks_redis_connection_attempts_total{@}[$__rate_interval]))",
                "attempts to connect",
            ),
            ("sum(rate(abukiks_redis_tls_errors_total{@}[$__rate_interval]))", "refused certificates"),
        ],
    ),
    (
        "Redis is durable",
        "No: a crash of Redis can lose visits.",
        Answers(1),
        &[("abukiks_redis_durable{@}", "{{instance}}")],
    ),
    (
        "Redis may evict",
        "Yes: a full Redis can remove the count.",
        Answers(0),
        &[("abukiks_redis_may_evict{@}", "{{instance}}")],
    ),
    (
        "Connections",
        "Open now, and how many can be.",
        Lines("none"),
        &[("abukiks_connections{@}", "{{instance}}"), ("max(abukiks_max_connections{@})", "limit of one")],
    ),
    (
        "New connections",
        "Accepted, and failed for want of file descriptors.",
        Lines("ops"),
        &[
            ("sum(rate(abukiks_connections_accepted_total{@}[$__rate_interval]))", "accepted"),
            ("sum(rate(abukiks_accept_errors_total{@}[$__rate_interval]))", "failed"),
        ],
    ),
    (
        "Age",
        "Time since the start.",
        Lines("s"),
        &[("time() - abukiks_start_time_seconds{@}", "{{instance}}")],
    ),
    (
        "Drains",
        "Yes: the instance answers what has reached it, and ends. Nothing: it cannot be asked.",
        Answers(0),
        &[("abukiks_draining{@}", "{{instance}}")],
    ),
    (
        "Losses",
        "Each is one too many.",
        Lines("none"),
        &[
            ("sum(increase(abukiks_count_went_back_total{@}[$__rate_interval]))", "the count went back"),
            ("sum(increase(abukiks_log_lines_dropped_total{@}[$__rate_interval]))", "dropped log lines"),
        ],
    ),
];

/// The dashboard as Grafana imports it: its JSON model, schema version 39 (Grafana 10.4 and later).
fn dashboard() -> Value {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let panels = (0..).zip(PANELS).map(|(place, (title, description, form, queries))| {
        let targets = ('A'..).zip(queries).map(|(name, (expr, legend))| {
            json!({
                "datasource": source,
                "refId": name.to_string(),
                "expr": expr.replace('@', SHOWN),
                "legendFormat": legend,
                "instant": matches!(form, Now(_)),
            })
        });
        let (kind, defaults) = match form {
            Lines(unit) => ("timeseries", json!({ "unit": unit, "min": 0 })),
            Now(unit) => ("stat", json!({ "unit": unit })),
            Answers(good) => {
                let option = |value: u8, text| {
                    json!({ "text": text, "index": value, "color": if value == good { "green" } else { "red" } })
                };
                let options = json!({ "0": option(0, "no"), "1": option(1, "yes") });
                ("state-timeline", json!({ "mappings": [{ "type": "value", "options": options }] }))
            }
        };
        json!({
            "id": place + 1,
            "type": kind,
            "title": title,
            "description": description,
            "datasource": source,
            "gridPos": { "x": place % 2 * 12, "y": place / 2 * 8, "w": 12, "h": 8 },
            "fieldConfig": { "defaults": defaults, "overrides": [] },
            "targets": targets.collect::<Vec<_>>(),
        })
    });
    let variable = |name: &str, query: &str, many: bool| {
        json!({
            "name": name,
            "type": "query",
            "datasource": source,
            "query": { "query": query, "refId": name },
            "refresh": 2,
            "multi": many,
            "includeAll": many,
            "current": if many { json!({ "text": "All", "value": "$__all" }) } else { json!({}) },
        })
    };
    json!({
        "uid": "abukiks",
        "title": "Abukiks",
        "description": "Visits, and what keeps them from being counted.",
        "tags": ["abukiks"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus" },
            variable("job", "label_values(abukiks_build_info, job)", false),
            variable("instance", r#"label_values(abukiks_build_info{job="$job"}, instance)"#, true),
        ]},
        "annotations": { "list": [{
            "name": "Alerts",
            "datasource": source,
            "enable": true,
            "iconColor": "red",
            "expr": FIRING,
            "titleFormat": "{{alertname}}",
            "textFormat": "{{instance}}",
        }]},
        "panels": panels.collect::<Vec<_>>(),
    })
}

/// All queries of the panels, of the job `abukiks`, over such an interval.
pub(crate) fn queries(interval: &str) -> Vec<String> {
    let queries = PANELS.iter().flat_map(|(_, _, _, queries)| *queries);
    let shown = r#"job="abukiks""#;
    queries.map(|(query, _)| query.replace('@', shown).replace("$__rate_interval", interval)).collect()
}

#[test]
fn the_dashboard_is_what_its_source_makes_of_it() {
    let text = serde_json::to_string_pretty(&dashboard()).expect("JSON");
    hold(DASHBOARD, "", &format!("{text}\n"));
}

/// Its SDK is of the oldest Grafana that the dashboard is for.
#[test]
fn the_sdk_of_grafana_knows_each_part_of_the_dashboard() {
    check_with("python", &["tests/dashboard.py", DASHBOARD].map(|path| format!("{ROOT}/{path}")));
}

/// The names of all metrics and of their samples, also as OpenMetrics calls them.
fn metrics() -> BTreeSet<String> {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    assert_eq!(service.get("/").number(), 1);
    // What Redis can promise is known by then.
    service.log_line("Redis is");
    let text = service.get("/metrics").body;
    let names = text.lines().filter_map(|line| line.trim_start_matches("# TYPE ").split(['{', ' ']).next());
    let names = names.filter(|name| name.starts_with("abukiks_"));
    names.flat_map(|name| [name.to_owned(), name.trim_end_matches("_total").to_owned()]).collect()
}

/// The words of a text as Prometheus reads names.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '_' | ':')))
}

/// Whether a word names a metric: not a cookie, nor the file of a package.
fn is_metric(word: &str) -> bool {
    let rest = word.strip_prefix("abukiks_").filter(|rest| *rest != "session");
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()))
}

#[test]
fn dashboard_rules_and_documents_name_only_metrics_that_there_are() {
    let (known, rules) = (metrics(), read(RULES));
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.split_once("record: ")).map(|(_, name)| name).collect();
    assert!(!recorded.is_empty());
    let mut texts = vec![rules.clone(), read(DASHBOARD), read("monitoring/abukiks.rules.test.yml")];
    // A changelog tells of names that are gone.
    let documents = documents().into_iter().filter(|path| !path.ends_with("CHANGELOG.md"));
    texts.extend(documents.map(|path| fs::read_to_string(path).expect("a document")));
    let mut named = 0;
    for name in texts.iter().flat_map(|text| names(text)) {
        if name.starts_with("job:abukiks_") {
            assert!(recorded.contains(name), "no rule records {name}");
        } else if is_metric(name) {
            assert!(known.contains(name), "there is no metric {name}");
            named += 1;
        }
    }
    assert!(named >= 40, "{named}");
}

/// The alerts, as the rules have them.
fn alerts() -> Vec<Value> {
    let rules: Value = serde_norway::from_str(&read(RULES)).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    rules.filter(|rule| rule["alert"].is_string()).cloned().collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn each_alert_names_its_paragraph_which_says_what_to_look_at_and_what_to_do() {
    let document = read("docs/operations.md");
    let (_, chapter) = document.split_once("\n## Alerts\n").expect("a chapter");
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let mut paragraphs: Vec<(&str, &str)> =
        chapter.split("\n### ").skip(1).filter_map(|paragraph| paragraph.split_once('\n')).collect();
    for alert in alerts() {
        let (name, annotations) = (text(&alert["alert"]), &alert["annotations"]);
        let place = paragraphs.iter().position(|(heading, _)| *heading == name);
        let (_, paragraph) = paragraphs.remove(place.unwrap_or_else(|| panic!("{name} has no paragraph")));
        for part in ["Look at", "Do:"] {
            assert!(paragraph.contains(part), "{name} does not say {part:?}");
        }
        let anchor = format!("/docs/operations.md#{}", name.to_lowercase());
        assert!(text(&annotations["runbook_url"]).ends_with(&anchor), "{name}");
        for said in ["summary", "description"] {
            assert!(!text(&annotations[said]).is_empty(), "{name}: {said}");
        }
        assert!(["critical", "warning"].contains(&text(&alert["labels"]["severity"])), "{name}");
    }
    assert!(paragraphs.is_empty(), "there are no such alerts: {paragraphs:?}");
}

#[test]
fn each_alert_is_made_to_fire_by_the_tests_of_the_rules() {
    let tests = read("monitoring/abukiks.rules.test.yml");
    for alert in alerts() {
        let name = text(&alert["alert"]);
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name}");
    }
}
