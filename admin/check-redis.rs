//! `check-redis`: tells, before the first visitor does, what the attached Redis can promise.

use std::process::ExitCode;

use abukiks::cli;

/// Checks that the attached Redis can be reached and counted in, and how durable it is.
///
/// Run it after a change of `REDIS_URL`, before the instances are restarted: it uses the same settings
/// and the same code as they do. It counts no visit, but tries as `/readyz` does: where there is no count
/// yet, it is 0 then.
#[derive(Debug, clap::Parser)]
#[command(name = env!("CARGO_BIN_NAME"), version = cli::BUILD.as_str(), after_help = cli::AFTER_HELP)]
struct Arguments {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::run_task(async |Arguments { json }, config, link| {
        let count = link.count().await?;
        let server = link.server().await?;
        link.probe().await?;
        Ok(if json {
            serde_json::json!({
                "url": config.redis_url.to_string(),
                "key": config.counter_key,
                "count": count,
                "version": server.version,
                "role": server.role,
                "appendOnly": server.append_only,
                "appendFsync": server.append_fsync,
                "durable": server.is_durable(),
            })
            .to_string()
        } else {
            let count = count.map_or_else(|| "nothing yet".to_owned(), |count| count.to_string());
            format!("{} answers: {server}\nkey {} holds {count}", config.redis_url, config.counter_key)
        })
    })
}
