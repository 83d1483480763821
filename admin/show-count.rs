//! `show-count`: prints the count without changing it.

use std::process::ExitCode;

use abukiks::cli;

/// Prints the count without changing it.
#[derive(Debug, clap::Parser)]
#[command(name = "show-count", version = cli::BUILD.as_str(), after_help = cli::AFTER_HELP)]
pub(crate) struct Arguments {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::run_task(async |Arguments { json }, config, link| {
        let count = link.count().await?;
        Ok(if json {
            serde_json::json!({ "key": config.counter_key, "count": count }).to_string()
        } else {
            match count {
                Some(count) => count.to_string(),
                None => "0 (no visit has been counted yet)".to_owned(),
            }
        })
    })
}
