//! `reset-count`: sets the count, while instances count or not.

use std::process::ExitCode;

use abukiks::cli;
use abukiks::store::integer;
use serde_json::Value;

/// Sets the count to 0, or to another number, and prints what it was.
///
/// Safe while instances count: a visit is counted either before the reset or on top of it.
#[derive(Debug, clap::Parser)]
#[command(name = "reset-count", version = cli::BUILD.as_str(), after_help = cli::AFTER_HELP)]
pub(crate) struct Arguments {
    /// The number to set.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    to: i64,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::run_task(async |Arguments { to, dry_run, json }, config, link| {
        let old = if dry_run { link.read().await? } else { link.reset(to).await? };
        Ok(if json {
            let key = &config.counter_key;
            // Text that is no number is shown as it stood there.
            let number = old.as_deref().and_then(|old| integer(old.as_bytes()));
            let old = number.map_or_else(|| old.into(), Value::from);
            serde_json::json!({ "key": key, "old": old, "new": to, "dryRun": dry_run }).to_string()
        } else {
            let old = old.map_or("nothing".to_owned(), |old| old.escape_debug().to_string());
            let done = if dry_run { "would become" } else { "is now" };
            format!("the count was {old} and {done} {to}")
        })
    })
}
