//! `check-redis`: tells, before the first visitor does, what the attached Redis can promise.

use std::process::ExitCode;

use abukiks::cli;
use abukiks::store::Check;

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
    #[arg(long, value_name = "N", default_value_t = Check::VISITORS_PER_SECOND)]
    visitors_per_second: u32,
}

fn main() -> ExitCode {
    cli::run_task(async |Arguments { json, visitors_per_second }, config, link| {
        let check = Check::new(link, config, visitors_per_second).await?;
        if !json {
            return Ok(check.to_string());
        }
        let (server, sessions) = (&check.server, check.session_bytes());
        Ok(serde_json::json!({
            "url": config.redis_url.to_string(),
            "key": config.counter_key,
            "count": check.count,
            "version": server.version,
            "role": server.role,
            "appendOnly": server.append_only,
            "appendFsync": server.append_fsync,
            "durable": server.is_durable(),
            "maxMemory": server.max_memory,
            "maxMemoryPolicy": server.max_memory_policy,
            "mayEvict": server.may_evict(),
            "lacking": server.lacking(),
            "sessionBytesADay": sessions.map(|(a_day, _)| a_day),
            "sessionBytes": sessions.map(|(_, all)| all),
        })
        .to_string())
    })
}
