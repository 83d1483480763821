//! `restore-count`: shows the backups and sets the count to the newest, while instances count or not.

use std::fmt::Write as _;
use std::process::ExitCode;

use abukiks::cli::{self, Failure};
use abukiks::store::integer;
use attached::arguments::RestoreArguments;
use attached::backups::Backups;
use attached::variables::Variables;
use serde_json::json;

fn main() -> ExitCode {
    cli::run_task(async |RestoreArguments { down, dry_run, json }, config, link| {
        let key = &config.counter_key;
        let backups = Backups::new(&Variables::new(std::env::vars_os())?, key)?;
        let (mut newest, mut shown, mut listed) = (None, String::new(), Vec::new());
        for name in backups.names().await? {
            let place = backups.place(&name);
            match backups.read(&name).await? {
                Ok(backup) => {
                    let release = backup.release.escape_debug();
                    let _ = writeln!(shown, "{place} holds {} of release {release}", backup.count);
                    listed.push(json!({ "url": place, "count": backup.count, "release": backup.release }));
                    newest.get_or_insert((place, backup));
                }
                Err(why) => {
                    let _ = writeln!(shown, "{place} is skipped: {why}");
                    listed.push(json!({ "url": place, "skipped": why }));
                }
            }
        }
        let Some((place, backup)) = newest else {
            return Err(Failure::data(format!("{shown}there is no whole backup in {}", backups.url())));
        };
        let new = backup.count;
        // What is no number cannot be compared: that is an error, unless it is to be replaced in any case.
        let held = if down { link.read().await? } else { link.count().await?.map(|count| count.to_string()) };
        let number = |held: &Option<String>| held.as_deref().and_then(|held| integer(held.as_bytes()));
        let (changes, held) = match dry_run {
            true => (down || number(&held).is_none_or(|held| held < new), held),
            false => link.restore(backup.total(), down).await?,
        };
        let old = number(&held);
        if !changes && old != Some(new) {
            let held = held.unwrap_or_default().escape_debug().to_string();
            return Err(Failure::data(format!(
                "{shown}the count is {held}, not below the {new} of the newest whole backup, and stays; --down sets \
                 it all the same"
            )));
        }
        if json {
            let old = old.map_or_else(|| held.into(), serde_json::Value::from);
            return Ok(json!({
                "key": key, "old": old, "new": new, "url": place, "dryRun": dry_run, "backups": listed,
            })
            .to_string());
        }
        let held = held.map_or("nothing".to_owned(), |held| held.escape_debug().to_string());
        Ok(match (changes, dry_run) {
            (false, _) => format!("{shown}the count is {held} already"),
            (true, true) => format!("{shown}the count was {held} and would become {new}"),
            (true, false) => format!("{shown}the count was {held} and is now {new}"),
        })
    })
}
