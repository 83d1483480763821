//! One backup as it is written, and what makes it whole.

use std::time::SystemTime;

use abukiks::store::Total;
use serde::{Deserialize, Serialize};

/// A count and where it comes from, in the order in which it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The number of the last visit.
    pub count: i64,
    /// The epoch of the count: later after each reset.
    pub epoch: i64,
    /// `COUNTER_KEY`.
    pub key: String,
    /// The version and commit that wrote it.
    pub release: String,
    /// When it was written, in UTC.
    pub time: String,
}

/// A backup with the checksum of all the rest.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    backup: Backup,
    checksum: String,
}

impl Backup {
    /// A backup of `total`, taken `now`.
    #[must_use]
    pub fn new(total: Total, key: &str, now: SystemTime) -> Self {
        Self {
            count: total.count,
            epoch: total.epoch,
            key: key.to_owned(),
            release: abukiks::cli::BUILD.clone(),
            time: humantime::format_rfc3339_micros(now).to_string(),
        }
    }

    /// The count and its epoch.
    #[must_use]
    pub fn total(&self) -> Total {
        Total { count: self.count, epoch: self.epoch }
    }

    /// The name of its object. Names sort by time.
    #[must_use]
    pub fn name(&self) -> String {
        self.time.replace(['-', ':'], "") + ".json"
    }

    /// The object's content.
    ///
    /// # Errors
    /// None that is known: it is plain text and numbers.
    pub fn seal(&self) -> serde_json::Result<String> {
        let sealed = Sealed { backup: self.clone(), checksum: self.checksum()? };
        serde_json::to_string_pretty(&sealed).map(|text| text + "\n")
    }

    /// Reads what [`Backup::seal`] wrote for this key.
    ///
    /// # Errors
    /// Why that is no whole backup.
    pub fn open(content: &[u8], key: &str) -> Result<Self, String> {
        let Sealed { backup, checksum } =
            serde_json::from_slice(content).map_err(|error| format!("it is no whole backup ({error})"))?;
        if !backup.checksum().is_ok_and(|expected| expected == checksum) {
            return Err("its checksum is wrong".to_owned());
        }
        if backup.key != key {
            return Err(format!("it is of the key {:?}", backup.key));
        }
        Ok(backup)
    }

    fn checksum(&self) -> serde_json::Result<String> {
        let digest = ring::digest::digest(&ring::digest::SHA256, &serde_json::to_vec(self)?);
        Ok(format!("sha256:{}", const_hex::encode(digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_byte_that_says_something_is_noticed() {
        let total = Total { count: 48213, epoch: 1_700_000_000_000_000 };
        let backup = Backup::new(total, "visitorCount", SystemTime::UNIX_EPOCH);
        assert_eq!(backup.name(), "19700101T000000.000000Z.json");
        let content = backup.seal().unwrap().into_bytes();
        assert_eq!(Backup::open(&content, "visitorCount").as_ref(), Ok(&backup));
        assert_eq!(Backup::open(&content, "other").unwrap_err(), "it is of the key \"visitorCount\"");
        for index in 0..content.len() {
            let mut damaged = content.clone();
            damaged[index] ^= 1;
            let opened = Backup::open(&damaged, "visitorCount");
            // White space says nothing.
            assert!(opened.is_err() || opened.as_ref() == Ok(&backup), "{index}: {opened:?}");
            assert!(Backup::open(&content[..index], "visitorCount").is_err() || index + 1 == content.len());
        }
    }
}
