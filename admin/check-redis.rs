//! `check-redis`: tells, before the first visitor does, what the attached Redis can promise.

use std::process::ExitCode;
use std::time::Duration;

use abukiks::cli;
use abukiks::store::SESSION_BYTES;

/// Checks that the attached Redis can be reached and counted in, and how durable it is.
///
/// Run it after a change of `REDIS_URL`, before the instances are restarted: it uses the same settings
/// and the same code as they do. It counts no visit, but tries as `/readyz` does: where there is no count
/// yet, it is 0 then.
#[derive(Debug, clap::Parser)]
#[command(name = "check-redis", version = cli::BUILD.as_str(), after_help = cli::AFTER_HELP)]
pub(crate) struct Arguments {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// New visitors a second, for which to say how much room their sessions need (`SESSION_LIFETIME`).
    #[arg(long, value_name = "N", default_value_t = 1)]
    visitors_per_second: u32,
}

fn main() -> ExitCode {
    cli::run_task(async |Arguments { json, visitors_per_second }, config, link| {
        let count = link.count().await?;
        let server = link.server().await?;
        link.probe().await?;
        let bytes_in = |time: Duration| u64::from(visitors_per_second) * time.as_secs() * SESSION_BYTES;
        let (a_day, all) = (bytes_in(Duration::from_hours(24)), config.session_lifetime.map(bytes_in));
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
                "maxMemory": server.max_memory,
                "maxMemoryPolicy": server.max_memory_policy,
                "mayEvict": server.may_evict(),
                "lacking": server.lacking(),
                "sessionBytesADay": all.map(|all| a_day.min(all)),
                "sessionBytes": all,
            })
            .to_string()
        } else {
            let count = count.map_or_else(|| "nothing yet".to_owned(), |count| count.to_string());
            let sessions = all.map_or_else(String::new, |all| {
                let mebibytes = |bytes: u64| bytes.div_ceil(1024 * 1024);
                format!(
                    "\nsessions need {} MiB for a day at {visitors_per_second} new visitors a second, {} MiB for all of SESSION_LIFETIME",
                    mebibytes(a_day.min(all)),
                    mebibytes(all)
                )
            });
            let lacking: String = server.lacking().iter().map(|command| format!("\n  {command}")).collect();
            let lacking = match &*lacking {
                "" => lacking,
                _ => format!("\nit keeps every visit after these commands, by redis-cli:{lacking}"),
            };
            format!(
                "{} answers: {server}\nkey {} holds {count}{sessions}{lacking}",
                config.redis_url, config.counter_key
            )
        })
    })
}
