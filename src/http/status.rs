//! One process for the people who run it: what it is, how it fares, and what it remembers of its own past.

use std::time::Duration;

use crate::http::app::App;
use crate::http::negotiation::Form;
use crate::http::page::{self, escape};
use crate::telemetry::recent::MAX_MINUTES;
use crate::version::{COMMIT, VERSION};

/// What the page says of itself.
const NOTE: &str = "All of this is of this one process, and ends with it. The count is in Redis.";

/// The height of the highest bar.
const HEIGHT: u64 = 40;

/// What is shown at `/status`. Redis is not asked for it: `/readyz` does that. What Redis and the system said is quoted
/// as it was logged, without secrets.
pub(crate) fn page(app: &App, form: Form) -> String {
    let metrics = &app.metrics;
    let (uptime, total) = (app.started.elapsed().as_secs(), metrics.visits());
    let (minutes, connections) = (app.recent.visits(total), metrics.connections.get());
    let state = if app.is_draining() { "draining" } else { "serving" };
    let error = metrics.redis_error();
    let (is_up, durable, may_evict) =
        (metrics.is_redis_up(), metrics.is_redis_durable(), metrics.may_redis_evict());
    let problems = app
        .recent
        .problems()
        .into_iter()
        .map(|problem| (humantime::format_rfc3339_seconds(problem.at).to_string(), problem.message));
    let problems: Vec<_> = problems.collect();
    if form == Form::Json {
        let problems: Vec<_> = problems
            .into_iter()
            .map(|(time, message)| serde_json::json!({ "time": time, "message": message }))
            .collect();
        return serde_json::json!({
            "release": app.release,
            "version": VERSION,
            "commit": COMMIT,
            "state": state,
            "uptimeSeconds": uptime,
            "connections": connections,
            "redis": { "up": is_up, "error": error.as_deref(), "durable": durable, "mayEvict": may_evict },
            "visits": total,
            "visitsPerMinute": minutes,
            "problems": problems,
        })
        .to_string();
    }
    let redis = match (is_up, error) {
        (_, Some(error)) => format!("does not count: {error}"),
        (Some(true), None) => "counts".to_owned(),
        _ => "was not needed yet".to_owned(),
    };
    let answer = |answer| match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let last_hour: u64 = minutes.iter().copied().map(u64::from).sum();
    let facts = [
        ("Release", app.release.clone()),
        ("Version", format!("{VERSION} ({COMMIT})")),
        (
            "State",
            format!(
                "{state}, for {} since its start",
                humantime::format_duration(Duration::from_secs(uptime))
            ),
        ),
        ("Connections", connections.to_string()),
        ("Redis", redis),
        ("Keeps visits through a crash", answer(durable).to_owned()),
        ("May evict the count", answer(may_evict).to_owned()),
        ("Visits", format!("{total}; {last_hour} in the last hour")),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    let (facts, problems) = (table(form, &facts), table(form, &problems));
    if form == Form::Text {
        let minutes: Vec<_> = minutes.iter().map(u32::to_string).collect();
        return format!(
            "{facts}Visits in each minute: {}\nThe last warnings and errors:\n{problems}{NOTE}\n",
            minutes.join(" ")
        );
    }
    let chart = chart(&minutes);
    page::status(&format!(
        "<h1>Abukiks</h1>\n{facts}{chart}<p>The last warnings and errors:</p>\n{problems}<p>{NOTE}</p>"
    ))
}

fn table(form: Form, rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| match form {
        Form::Html => format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)),
        _ => format!("{name}: {value}\n"),
    };
    let rows: String = rows.iter().map(row).collect();
    match (form, &*rows) {
        (Form::Html, "") => "<p>none</p>\n".to_owned(),
        (Form::Html, _) => format!("<dl>\n{rows}</dl>\n"),
        (_, "") => "none\n".to_owned(),
        _ => rows,
    }
}

/// The visits of each minute as bars, with the one under way at the right.
fn chart(minutes: &[u32]) -> String {
    let most = minutes.iter().copied().max().unwrap_or_default();
    let first = MAX_MINUTES - minutes.len();
    let bars = (first..).zip(minutes).map(|(place, visits)| {
        let height = u64::from(*visits) * HEIGHT / u64::from(most.max(1));
        format!("M{} {HEIGHT}v-{height}h3v{height}z", 4 * place)
    });
    let (width, bars) = (4 * MAX_MINUTES, bars.collect::<String>());
    let label = format!("Visits in each minute of the last hour, at most {most}");
    format!(
        "<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{label}\"><path d=\"M0 {HEIGHT}h{width}\" \
         stroke=\"#b4471c\"/><path d=\"{bars}\" fill=\"#b4471c\"/></svg>\n<p>{label}</p>\n"
    )
}
