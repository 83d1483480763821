//! One process for the people who run it: what it is, how it fares, and what it remembers of its own past.

use std::time::Duration;

use humantime::{format_duration, format_rfc3339_seconds};
use tokio::time::Instant;

use crate::http::app::App;
use crate::http::negotiation::Form;
use crate::http::page::{self, escape, quoted};
use crate::telemetry::recent::{MAX_MINUTES, Problem};
use crate::version::{COMMIT, VERSION};

/// The height of the highest bar.
const HEIGHT: u64 = 40;

/// What is shown at `/status`. Redis is not asked for it: `/readyz` does that. What Redis and the system said is quoted
/// as it was logged, without secrets. All here is `cold`, which has the compiler make it small: people ask for it.
#[cold]
pub(crate) fn page(app: &App, form: Form) -> String {
    let (metrics, now) = (&app.metrics, Instant::now());
    let (total, connections) = (metrics.visits(), metrics.connections.get());
    let uptime = (now - app.recent.started).as_secs();
    let (minutes, problems) = (app.recent.visits(now, total), app.recent.problems());
    let state = if app.is_draining() { "draining" } else { "serving" };
    let (up, error) = (metrics.is_redis_up(), metrics.redis_error());
    let (durable, may_evict) = (metrics.is_redis_durable(), metrics.may_redis_evict());
    if form == Form::Json {
        let answer = |answer| match answer {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        };
        let problem = |Problem { at, message }: &Problem| {
            format!(r#"{{"time":"{}","message":{}}}"#, format_rfc3339_seconds(*at), quoted(message))
        };
        let problems: Vec<_> = problems.iter().map(problem).collect();
        let redis = format!(
            r#"{{"up":{},"error":{},"durable":{},"mayEvict":{}}}"#,
            answer(up),
            error.map_or_else(|| "null".to_owned(), |error| quoted(&error)),
            answer(durable),
            answer(may_evict),
        );
        let (release, problems) = (quoted(&app.release), problems.join(","));
        return format!(
            "{{\"release\":{release},\"version\":\"{VERSION}\",\"commit\":\"{COMMIT}\",\"state\":\"{state}\",\
             \"uptimeSeconds\":{uptime},\"connections\":{connections},\"redis\":{redis},\"visits\":{total},\
             \"visitsPerMinute\":{minutes:?},\"problems\":[{problems}]}}"
        );
    }
    let answer = |answer| match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let redis = match (up, error) {
        (_, Some(error)) => format!("does not count: {error}"),
        (Some(_), None) => "counts".to_owned(),
        (None, None) => "was not needed yet".to_owned(),
    };
    let last_hour: u64 = minutes.iter().copied().map(u64::from).sum();
    let uptime = format_duration(Duration::from_secs(uptime));
    // As lines, which the page makes a table of.
    let facts = format!(
        "Release: {}\nVersion: {VERSION} ({COMMIT})\nState: {state}, for {uptime} since its start\n\
         Connections: {connections}\nRedis: {redis}\nDurable: {}\nMay evict: {}\n\
         Visits: {total}; {last_hour} in the last hour\n",
        app.release,
        answer(durable),
        answer(may_evict),
    );
    let problem = |Problem { at, message }: &Problem| format!("{}: {message}\n", format_rfc3339_seconds(*at));
    let mut problems: String = problems.iter().map(problem).collect();
    if problems.is_empty() {
        problems.push_str("none\n");
    }
    let note = "All of this is of this one process, and ends with it. The count is in Redis.";
    if form == Form::Text {
        return format!(
            "{facts}Visits in each minute: {minutes:?}\n\nThe last warnings and errors:\n{problems}\n{note}\n"
        );
    }
    let (facts, chart, problems) = (table(&facts), chart(&minutes), table(&problems));
    page::status(&format!(
        "<h1>Abukiks</h1>\n{facts}{chart}<p>The last warnings and errors:</p>\n{problems}<p>{note}</p>"
    ))
}

#[cold]
fn table(lines: &str) -> String {
    let lines = escape(lines);
    let rows = lines.lines().map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("<dt>{name}</dt><dd>{value}</dd>\n"),
        None => format!("<dd>{line}</dd>\n"),
    });
    format!("<dl>\n{}</dl>\n", rows.collect::<String>())
}

/// The visits of each minute as bars, with the one under way at the right.
#[cold]
fn chart(minutes: &[u32]) -> String {
    let most = minutes.iter().copied().max().unwrap_or_default();
    let (width, first) = (4 * MAX_MINUTES, MAX_MINUTES - minutes.len());
    let bars = (first..).zip(minutes).map(|(place, visits)| {
        let height = u64::from(*visits) * HEIGHT / u64::from(most.max(1));
        format!("M{} {HEIGHT}v-{height}h3v{height}z", 4 * place)
    });
    let bars: String = bars.collect();
    let label = format!("Visits in each minute of the last hour, at most {most}");
    format!(
        "<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{label}\"><path d=\"M0 {HEIGHT}h{width}\" \
         stroke=\"#b4471c\"/><path d=\"{bars}\" fill=\"#b4471c\"/></svg>\n<p>{label}</p>\n"
    )
}
