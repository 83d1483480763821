//! `mail-report`: mails the count and the visits since the last report, once in each period.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use abukiks::cli::{self, Failure};
use abukiks::store::{Check, Total};
use attached::arguments::ReportArguments;
use attached::letter::Letter;
use attached::mail::Mail;
use attached::reports::{self, Rules};
use attached::variables::Variables;
use serde_json::json;

/// What `MAIL_EVERY` takes.
const PERIODS: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(366 * 24);

fn main() -> ExitCode {
    cli::run_task(async |ReportArguments { again, dry_run, json }, config, link| {
        let key = &config.counter_key;
        let variables = Variables::new(std::env::vars_os())?;
        let mail = Mail::new(&variables)?;
        let every = variables.time("MAIL_EVERY", "1day", PERIODS)?;
        let check = Check::new(link, config, Check::VISITORS_PER_SECOND).await;
        let check =
            check.map_or_else(|error| format!("no visit can be counted: {error}"), |check| check.to_string());
        // Before the first visit there is no count and no epoch.
        let total = link.total().await?.unwrap_or(Total { count: 0, epoch: 0 });
        if dry_run {
            let series = reports::preview(link, total, every).await?;
            let letter = Letter { series: &series, key, check: &check };
            let text = letter.write(&mail.from, &mail.to)?.formatted();
            let text = String::from_utf8_lossy(&text);
            return Ok(match json {
                true => json!({
                    "key": key, "count": total.count, "visits": letter.visits(), "sent": false, "mail": text,
                })
                .to_string(),
                false => text.into_owned(),
            });
        }
        // One half is for sending, the other for keeping in Redis that it was sent.
        let rules = Rules { every, lease: mail.timeout * 2, again };
        let (series, claimed) = match reports::claim(link, total, rules).await? {
            Ok(claimed) => claimed,
            Err(sent) => {
                return Ok(match json {
                    true => {
                        json!({ "key": key, "count": sent.count, "visits": null, "sent": false }).to_string()
                    }
                    false => {
                        let time = humantime::format_rfc3339_seconds(sent.time());
                        format!("the report of this period was sent at {time}, with the count {}", sent.count)
                    }
                });
            }
        };
        let report = series.report;
        let letter = Letter { series: &series, key, check: &check };
        let taken = match mail.send(&letter.write(&mail.from, &mail.to)?).await {
            Ok(taken) => taken,
            Err(failure) => {
                // If this fails too, the claim ends with its time.
                let _ = claimed.release(link).await;
                return Err(failure);
            }
        };
        let kept = claimed.keep(link, config, report).await;
        taken.quit().await;
        kept.map_err(|failure| {
            Failure::unavailable(format!("the report was sent, and may be sent again: {failure}"))
        })?;
        Ok(match json {
            true => json!({ "key": key, "count": report.count, "visits": letter.visits(), "sent": true })
                .to_string(),
            false => format!("the report with the count {} was sent to {}", report.count, mail.to),
        })
    })
}
