//! What was sent, and whose turn it is to send: one JSON text in Redis, beside the count.
//!
//! A period has one report, and its numbers are fixed when it is first claimed. A *claim* is one process's right to
//! send it, for a time by the clock of Redis. It ends when the report is kept as sent, when sending has failed, or
//! with that time, where the process has died. Then another process claims the same *draft*, with the same numbers.

use std::time::{Duration, SystemTime};

use abukiks::cli::Failure;
use abukiks::config::Config;
use abukiks::store::{Link, Store, StoreError, Total};
use ring::rand::{SystemRandom, generate};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

/// How many reports the picture shows.
const MAX_SHOWN: usize = 30;

/// Between two looks at a claim of another process, and between two attempts to keep what was sent.
const INTERVAL: Duration = Duration::from_millis(500);

/// The numbers of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When they held, in milliseconds since 1970 by the clock of Redis.
    pub time: u64,
    /// The number of the last visit.
    pub count: i64,
    /// Later after each reset.
    pub epoch: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    /// A random number of the process.
    by: String,
    /// Until when, in milliseconds since 1970 by the clock of Redis.
    until: u64,
}

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// A random number of this counter. It differs from that of another counter of the same key.
    id: String,
    claim: Option<Claim>,
    draft: Option<Report>,
    /// The oldest first.
    sent: Vec<Report>,
}

/// The visits between two reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visits {
    /// So many.
    Counted(u64),
    /// There was a reset in between, and their number is not known.
    Reset,
    /// The count went back by so many, without a reset: Redis has lost data.
    Lost(u64),
}

/// A report with those before it.
#[derive(Debug)]
pub struct Series {
    /// The newest, which is not sent yet.
    pub report: Report,
    /// Those that were sent before, the oldest first.
    pub sent: Vec<Report>,
    /// Names the period of the report, and this counter.
    pub name: String,
}

/// What a process may do.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing: this one was sent in this period.
    Sent(Report),
    /// Wait: another process sends.
    Other,
    /// Send this one, once these are kept.
    Own(Reports, Report),
}

/// A claim that holds.
#[derive(Debug)]
pub struct Claimed {
    by: String,
    /// Until when, by the clock of this process.
    until: Instant,
}

/// When a process may send.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The period: `MAIL_EVERY`.
    pub every: Duration,
    /// How long a claim holds.
    pub lease: Duration,
    /// Whether to send in a period that has had a report.
    pub again: bool,
}

impl Report {
    /// When its numbers held.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.time)
    }

    /// The visits since `before`.
    #[must_use]
    pub fn visits_since(&self, before: &Self) -> Visits {
        if self.epoch != before.epoch {
            return Visits::Reset;
        }
        let visits = self.count.abs_diff(before.count);
        if self.count < before.count { Visits::Lost(visits) } else { Visits::Counted(visits) }
    }

    fn period(&self, every: Duration) -> u64 {
        self.time / millis(every)
    }
}

impl Visits {
    /// Their number, where it is known.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Counted(visits) => Some(visits),
            Self::Reset | Self::Lost(_) => None,
        }
    }
}

impl Series {
    /// Each report but the first one, with the visits since the one before.
    pub fn visits(&self) -> impl Iterator<Item = (Report, Visits)> {
        let all = self.sent.iter().chain([&self.report]);
        all.clone().zip(all.skip(1)).map(|(before, report)| (*report, report.visits_since(before)))
    }
}

impl Reports {
    /// Reads what [`Link::reports`] has.
    fn read(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self { id: random()?, claim: None, draft: None, sent: Vec::new() });
        }
        serde_json::from_str(text).map_err(|error| {
            let what = "what mail-report keeps beside the count is not its own";
            Failure::data(format!("{what} ({error}); remove the key that ends with :reports"))
        })
    }

    fn write(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(Failure::system)
    }

    /// What the process `by` may do at `now`.
    fn turn(&self, now: u64, total: Total, by: &str, rules: Rules) -> Turn {
        let last = self.sent.last();
        let period = now / millis(rules.every);
        let sent = last.filter(|last| last.period(rules.every) >= period);
        if let Some(sent) = sent.filter(|_| !rules.again) {
            return Turn::Sent(*sent);
        }
        if self.claim.as_ref().is_some_and(|claim| claim.by != by && claim.until > now) {
            return Turn::Other;
        }
        let draft = self.draft.filter(|draft| draft.period(rules.every) == period);
        let report = draft.unwrap_or_else(|| {
            // Later than the last one, also where the clock has gone back.
            let time = last.map_or(now, |last| now.max(last.time + 1));
            Report { time, count: total.count, epoch: total.epoch }
        });
        let claim = Claim { by: by.to_owned(), until: now + millis(rules.lease) };
        Turn::Own(Self { claim: Some(claim), draft: Some(report), ..self.clone() }, report)
    }

    /// The report with those before it.
    fn series(&self, report: Report, every: Duration) -> Series {
        let sent = self.sent.clone();
        let period = report.period(every);
        // The same for all that may send this report. A further one of the period is named by its own time.
        let time = match sent.last().is_some_and(|last| last.period(every) >= period) {
            true => report.time,
            false => period * millis(every),
        };
        Series { report, sent, name: format!("{time}.{}", self.id) }
    }

    /// Notes that the report was sent. A second call changes nothing.
    fn keep(&mut self, report: Report) {
        if self.sent.last().is_none_or(|last| last.time < report.time) {
            self.sent.push(report);
            // With the next report there is one more, and the visits are shown between them.
            let old = self.sent.len().saturating_sub(MAX_SHOWN);
            self.sent.drain(..old);
        }
        if self.draft == Some(report) {
            (self.claim, self.draft) = (None, None);
        }
    }

    /// Ends the claim of `by`. The draft stays: perhaps it was sent.
    fn release(&mut self, by: &str) {
        self.claim.take_if(|claim| claim.by == by);
    }
}

/// The report as it would be sent now.
///
/// # Errors
/// What Redis holds cannot be used.
pub async fn preview(link: &mut Link, total: Total, every: Duration) -> Result<Series, Failure> {
    let reports = Reports::read(&link.reports().await?)?;
    let report = Report { time: millis(link.now()), count: total.count, epoch: total.epoch };
    Ok(reports.series(report, every))
}

/// Waits for the right to send the report of this period; or returns the report that was sent.
///
/// # Errors
/// Other processes have claimed it for too long, or what Redis holds cannot be used.
pub async fn claim(
    link: &mut Link,
    total: Total,
    rules: Rules,
) -> Result<Result<(Series, Claimed), Report>, Failure> {
    let by = random()?;
    let begun = Instant::now();
    loop {
        let text = link.reports().await?;
        let reports = Reports::read(&text)?;
        // Taken before the claim begins, so that the claim ends later than this process assumes.
        let until = Instant::now() + rules.lease;
        match reports.turn(millis(link.now()), total, &by, rules) {
            Turn::Sent(report) => return Ok(Err(report)),
            Turn::Own(new, report) => {
                if link.replace_reports(&text, &new.write()?).await? {
                    return Ok(Ok((new.series(report, rules.every), Claimed { by, until })));
                }
            }
            Turn::Other if begun.elapsed() > rules.lease => {
                return Err(Failure::temporary(
                    "other processes have claimed this report, and have not sent it yet",
                ));
            }
            Turn::Other => sleep(INTERVAL).await,
        }
    }
}

impl Claimed {
    /// Keeps the report as sent. Where Redis gives no answer, tries until the claim ends.
    ///
    /// # Errors
    /// Redis was not reached until then.
    pub async fn keep(&self, link: &mut Link, config: &Config, report: Report) -> Result<(), Failure> {
        let mut done = change(link, |reports| reports.keep(report)).await;
        while let Err(Change::Store(StoreError::Unreachable(_))) = done
            && Instant::now() < self.until
        {
            sleep(INTERVAL).await;
            let store = Store::new(config).map_err(Failure::setting)?;
            done = match store.connect().await {
                Ok(mut link) => change(&mut link, |reports| reports.keep(report)).await,
                Err(error) => Err(Change::Store(error)),
            };
        }
        Ok(done?)
    }

    /// Lets another process send the report.
    ///
    /// # Errors
    /// Redis cannot be used. Then the claim ends with its time.
    pub async fn release(&self, link: &mut Link) -> Result<(), Failure> {
        Ok(change(link, |reports| reports.release(&self.by)).await?)
    }
}

/// Why a change was not made.
enum Change {
    Store(StoreError),
    Other(Failure),
}

impl From<StoreError> for Change {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Change {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Change> for Failure {
    fn from(change: Change) -> Self {
        match change {
            Change::Store(error) => error.into(),
            Change::Other(failure) => failure,
        }
    }
}

/// Changes what is kept, however many processes do so at one time.
async fn change(link: &mut Link, change: impl Fn(&mut Reports)) -> Result<(), Change> {
    loop {
        let text = link.reports().await?;
        let mut reports = Reports::read(&text)?;
        change(&mut reports);
        if link.replace_reports(&text, &reports.write()?).await? {
            return Ok(());
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn random() -> Result<String, Failure> {
    let drawn = generate::<[u8; 8]>(&SystemRandom::new());
    let drawn = drawn.map_err(|_| Failure::system("the system gives no random numbers"))?;
    Ok(const_hex::encode(drawn.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60 * 1000;
    /// In the middle of a day.
    const NOON: u64 = 20_000 * DAY + DAY / 2;
    const RULES: Rules =
        Rules { every: Duration::from_millis(DAY), lease: Duration::from_secs(60), again: false };

    fn total(count: i64) -> Total {
        Total { count, epoch: 7 }
    }

    fn none() -> Reports {
        Reports { id: "id".to_owned(), claim: None, draft: None, sent: Vec::new() }
    }

    fn own(reports: &Reports, now: u64, count: i64, by: &str, rules: Rules) -> (Reports, Report) {
        match reports.turn(now, total(count), by, rules) {
            Turn::Own(new, report) => (new, report),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_period_has_one_report_and_the_next_one_another() {
        let (mut kept, report) = own(&none(), NOON, 41, "a", RULES);
        kept.keep(report);
        kept.keep(report);
        assert_eq!((kept.sent.as_slice(), &kept.claim, kept.draft), (&[report][..], &None, None));
        assert_eq!(kept.turn(NOON + DAY / 2 - 1, total(50), "b", RULES), Turn::Sent(report));
        // The clock of another Redis, or a shorter period than before.
        assert_eq!(kept.turn(NOON - DAY, total(50), "b", RULES), Turn::Sent(report));
        let hourly = Rules { every: Duration::from_hours(1), ..RULES };
        assert_eq!(kept.turn(NOON + DAY / 24 - 1, total(50), "b", hourly), Turn::Sent(report));
        for (now, rules) in [(NOON + DAY / 2, RULES), (NOON + DAY / 24, hourly)] {
            let (next, report) = own(&kept, now, 50, "b", rules);
            let series = next.series(report, rules.every);
            assert_eq!(series.visits().collect::<Vec<_>>(), [(report, Visits::Counted(9))]);
        }
    }

    #[test]
    fn a_process_that_takes_a_claim_over_sends_the_same_report() {
        let (held, report) = own(&none(), NOON, 41, "a", RULES);
        let until = NOON + 60_000;
        assert_eq!(held.turn(until - 1, total(50), "b", RULES), Turn::Other);
        let mut released = held.clone();
        released.release("b");
        assert_eq!(released, held);
        released.release("a");
        let name = held.series(report, RULES.every).name;
        for (kept, now) in [(&held, until), (&released, NOON)] {
            let (taken, same) = own(kept, now, 50, "b", RULES);
            assert_eq!((same, taken.series(same, RULES.every).name), (report, name.clone()));
        }
        // The first one was not dead, and has sent it, too.
        let (mut taken, _) = own(&held, until, 50, "b", RULES);
        taken.keep(report);
        taken.keep(report);
        assert_eq!((taken.sent.len(), taken.claim), (1, None));
    }

    #[test]
    fn a_report_that_was_never_sent_is_none_of_the_next_period() {
        let (held, report) = own(&none(), NOON, 41, "a", RULES);
        let (next, other) = own(&held, NOON + DAY, 50, "b", RULES);
        assert_eq!((other.count, other.time), (50, NOON + DAY));
        assert_ne!(held.series(report, RULES.every).name, next.series(other, RULES.every).name);
        // The first one comes late, and is before the other.
        let mut late = next;
        late.keep(report);
        assert_eq!((late.sent.as_slice(), late.draft), (&[report][..], Some(other)));
        late.keep(other);
        late.keep(report);
        assert_eq!(late.sent, [report, other]);
    }

    #[test]
    fn a_further_report_of_a_period_has_a_name_of_its_own() {
        let (mut kept, first) = own(&none(), NOON, 41, "a", RULES);
        let name = kept.series(first, RULES.every).name;
        kept.keep(first);
        let again = Rules { again: true, ..RULES };
        let (held, second) = own(&kept, NOON, 41, "a", again);
        assert!(second.time > first.time);
        assert_ne!(held.series(second, RULES.every).name, name);
        let (taken, same) = own(&held, NOON + 60_000, 50, "b", again);
        assert_eq!(same, second);
        assert_eq!(taken.series(same, RULES.every).name, held.series(second, RULES.every).name);
    }

    #[test]
    fn no_more_is_kept_than_is_shown() {
        let mut kept = none();
        for day in 0..100 {
            let (held, report) = own(&kept, NOON + day * DAY, day as i64, "a", RULES);
            kept = held;
            assert!(kept.series(report, RULES.every).visits().count() <= MAX_SHOWN);
            kept.keep(report);
        }
        assert_eq!(kept.sent.len(), MAX_SHOWN);
        assert_eq!(Reports::read(&kept.write().unwrap()).unwrap(), kept);
    }

    #[test]
    fn visits_between_two_reports_are_known_where_there_was_no_reset() {
        let report = |count, epoch| Report { time: 0, count, epoch };
        assert_eq!(report(50, 7).visits_since(&report(41, 7)), Visits::Counted(9));
        assert_eq!(report(i64::MAX, 7).visits_since(&report(i64::MIN, 7)), Visits::Counted(u64::MAX));
        assert_eq!(report(50, 8).visits_since(&report(41, 7)), Visits::Reset);
        assert_eq!(report(40, 7).visits_since(&report(41, 7)), Visits::Lost(1));
    }
}
