//! What `check-redis` finds out about the attached Redis. `mail-report` mails it too.

use std::fmt;
use std::time::Duration;

use crate::config::Config;
use crate::store::error::StoreError;
use crate::store::link::Link;
use crate::store::server_info::ServerInfo;
use crate::store::visitor_session::SESSION_BYTES;

/// What the attached Redis can promise.
#[derive(Debug)]
pub struct Check<'a> {
    config: &'a Config,
    visitors_per_second: u32,
    /// The count; `None` before the first visit.
    pub count: Option<i64>,
    /// What Redis reports of itself.
    pub server: ServerInfo,
}

impl<'a> Check<'a> {
    /// New visitors a second, unless told otherwise.
    pub const VISITORS_PER_SECOND: u32 = 1;

    /// Finds out whether a visit could be counted, and counts none.
    ///
    /// # Errors
    /// Why a visit could not be counted.
    pub async fn new(
        link: &mut Link,
        config: &'a Config,
        visitors_per_second: u32,
    ) -> Result<Self, StoreError> {
        let count = link.count().await?;
        let server = link.server().await?;
        link.probe().await?;
        Ok(Self { config, visitors_per_second, count, server })
    }

    /// How many bytes the sessions of new visitors need: those of a day, and those of `SESSION_LIFETIME`. `None`
    /// without sessions.
    #[must_use]
    pub fn session_bytes(&self) -> Option<(u64, u64)> {
        let bytes_in = |time: Duration| u64::from(self.visitors_per_second) * time.as_secs() * SESSION_BYTES;
        let all = self.config.session_lifetime.map(bytes_in)?;
        Some((bytes_in(Duration::from_hours(24)).min(all), all))
    }
}

impl fmt::Display for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, visitors_per_second, count, server } = self;
        let count = count.map_or_else(|| "nothing yet".to_owned(), |count| count.to_string());
        write!(f, "{} answers: {server}\nkey {} holds {count}", config.redis_url, config.counter_key)?;
        if let Some((a_day, all)) = self.session_bytes() {
            let mebibytes = |bytes: u64| bytes.div_ceil(1024 * 1024);
            write!(
                f,
                "\nsessions need {} MiB for a day at {visitors_per_second} new visitors a second, {} MiB for all of SESSION_LIFETIME",
                mebibytes(a_day),
                mebibytes(all)
            )?;
        }
        let lacking = server.lacking();
        if !lacking.is_empty() {
            write!(f, "\nit keeps every visit after these commands, by redis-cli:")?;
        }
        lacking.iter().try_for_each(|command| write!(f, "\n  {command}"))
    }
}
