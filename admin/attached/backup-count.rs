//! `backup-count`: writes the count into the store of backups, while instances count or not.

use std::process::ExitCode;
use std::time::SystemTime;

use abukiks::cli::{self, Failure};
use attached::arguments::BackupArguments;
use attached::backup::Backup;
use attached::backups::Backups;
use attached::variables::Variables;
use serde_json::json;

fn main() -> ExitCode {
    cli::run_task(async |BackupArguments { json }, config, link| {
        let key = &config.counter_key;
        let backups = Backups::new(&Variables::new(std::env::vars_os())?, key)?;
        let older = backups.names().await?;
        let newest = backups.newest(&older).await?;
        // Last, so that the backup is as new as it can be.
        let total = link.total().await?;
        // Else the count that a loss of data has left would be the newest backup.
        if let Some(newest) = newest
            && total.is_none_or(|total| total.count < newest.count && total.epoch <= newest.epoch)
        {
            let held = total.map_or("nothing".to_owned(), |total| total.count.to_string());
            return Err(Failure::data(format!(
                "the count is {held}, below the {} of the newest backup, and there was no reset: Redis has lost \
                 data, and nothing is backed up; run restore-count, or reset-count if this count is right",
                newest.count
            )));
        }
        let Some(total) = total else {
            return Ok(match json {
                true => json!({ "key": key, "count": null, "url": null, "removed": 0 }).to_string(),
                false => "no visit has been counted yet, and nothing is backed up".to_owned(),
            });
        };
        let backup = Backup::new(total, key, SystemTime::now());
        let name = backup.name();
        // By their names the newest backup is found, and the oldest ones are removed.
        if let Some(newest) = older.first().filter(|newest| **newest >= name) {
            return Err(Failure::system(format!(
                "the clock of this machine says {}, and is behind the newest backup, {}; set the clock, or remove \
                 that backup if its time is wrong",
                backup.time,
                backups.place(newest)
            )));
        }
        backups.write(&backup).await?;
        let removed = backups.prune(&older).await?;
        let (count, place) = (backup.count, backups.place(&name));
        Ok(match json {
            true => json!({ "key": key, "count": count, "url": place, "removed": removed }).to_string(),
            false => format!("the count {count} is backed up in {place}; older backups removed: {removed}"),
        })
    })
}
