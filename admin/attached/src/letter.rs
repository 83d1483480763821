//! What a report says, as a mail: text, and HTML with a picture.

use std::fmt::Write as _;
use std::time::SystemTime;

use abukiks::cli::Failure;
use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, Mailboxes, MultiPart, SinglePart};

use crate::chart;
use crate::reports::{Report, Series, Visits};

/// The name by which the HTML shows the picture.
const CHART: &str = "chart";

/// What a report says.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The numbers.
    pub series: &'a Series,
    /// `COUNTER_KEY`.
    pub key: &'a str,
    /// What `check-redis` says.
    pub check: &'a str,
}

impl Letter<'_> {
    /// The visits since the last report; `None` where there is no number of them.
    #[must_use]
    pub fn visits(&self) -> Option<u64> {
        self.series.visits().last()?.1.number()
    }

    /// Makes the mail. Each process that sends this report gives it the same `Message-ID` and date.
    ///
    /// # Errors
    /// None that is known: the addresses have been read before.
    pub fn write(&self, from: &Mailbox, to: &Mailboxes) -> Result<Message, Failure> {
        let Report { count, .. } = self.series.report;
        let subject = match self.visits() {
            Some(visits) => format!("{}: {count}, {visits} more", self.key),
            None => format!("{}: {count}", self.key),
        };
        let mut builder = Message::builder()
            .from(from.clone())
            .date(self.series.report.time())
            .message_id(Some(format!("<abukiks.{}@{}>", self.series.name, from.email.domain())))
            // No program replies to it automatically (RFC 3834).
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .subject(subject);
        for to in to.iter() {
            builder = builder.to(to.clone());
        }
        let bars: Vec<_> = self.series.visits().map(|(_, visits)| visits.number()).collect();
        let mut parts = MultiPart::alternative().singlepart(SinglePart::plain(self.text()));
        parts = if bars.is_empty() {
            parts.singlepart(SinglePart::html(self.html()))
        } else {
            let chart = chart::draw(&bars).map_err(Failure::system)?;
            let image = ContentType::parse("image/png").map_err(Failure::system)?;
            let chart = Attachment::new_inline(CHART.to_owned()).body(chart, image);
            parts.multipart(MultiPart::related().singlepart(SinglePart::html(self.html())).singlepart(chart))
        };
        builder.multipart(parts).map_err(Failure::system)
    }

    /// The paragraphs before what `check-redis` says.
    fn summary(&self) -> [String; 2] {
        let report = &self.series.report;
        let since = match self.series.sent.last() {
            None => "This is the first report.".to_owned(),
            Some(last) => {
                let since = format!(
                    "since the last report, {} ago ({})",
                    age(report.time.saturating_sub(last.time)),
                    utc(last.time())
                );
                match report.visits_since(last) {
                    Visits::Counted(visits) => format!("{visits} visits {since}."),
                    Visits::Reset => format!("The count was reset {since}. It was {} then.", last.count),
                    Visits::Lost(visits) => format!(
                        "The count went back by {visits}, without a reset, {since}: Redis has lost data. It was {} then.",
                        last.count
                    ),
                }
            }
        };
        [format!("The count {} is {} ({}).", self.key, report.count, utc(report.time())), since]
    }

    /// One line for each of the last reports, the oldest first.
    fn history(&self) -> String {
        let mut lines = String::new();
        for (report, visits) in self.series.visits() {
            let visits = match visits {
                Visits::Counted(visits) => visits.to_string(),
                Visits::Reset => "reset".to_owned(),
                Visits::Lost(visits) => format!("-{visits}"),
            };
            // Writing into a String cannot fail.
            let _ = writeln!(lines, "{} {visits}", utc(report.time()));
        }
        lines
    }

    fn text(&self) -> String {
        let [count, since] = self.summary();
        let mut text = format!("{count}\n{since}\n\ncheck-redis:\n{}\n", self.check);
        let history = self.history();
        if !history.is_empty() {
            text += &format!("\nVisits in the last reports:\n{history}");
        }
        text
    }

    fn html(&self) -> String {
        let [count, since] = self.summary().map(|text| escape(&text));
        let history = self.history();
        let chart = match history.trim_end() {
            "" => String::new(),
            history => {
                format!(
                    "<p><img src=\"cid:{CHART}\" alt=\"Visits in the last reports:\n{}\"></p>\n",
                    escape(history)
                )
            }
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<p><b>{count}</b></p>\n<p>{since}</p>\n{chart}<p>check-redis:</p>\n\
             <pre>{}</pre>\n</html>\n",
            escape(self.check)
        )
    }
}

/// A length of time in days, or less where it is less than one.
fn age(millis: u64) -> String {
    const HOUR: u64 = 60 * 60 * 1000;
    let (number, unit) = match millis {
        // A timer is not exact: a day less a minute is a day.
        _ if millis > 23 * HOUR => (millis.saturating_add(12 * HOUR) / (24 * HOUR), "day"),
        _ => (millis.saturating_add(HOUR / 2) / HOUR, "hour"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// Such as `2026-11-29 06:00 UTC`.
fn utc(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    match text.get(..16) {
        Some(minutes) => minutes.replace('T', " ") + " UTC",
        None => text,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
