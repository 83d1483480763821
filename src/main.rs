//! The service: settings, sockets, logs, serve.

use std::process::ExitCode;

use abukiks::cli::{self, Failure};
use abukiks::config::Config;
use abukiks::http::app::App;
use abukiks::http::server::{self, Ended};
use abukiks::process;
use abukiks::process::listener::{Addresses, Listeners};
use abukiks::process::signals::StopSignals;
use abukiks::store::Store;

fn main() -> ExitCode {
    cli::run_service(serve)
}

/// Runs the service.
fn serve(config: &Config, store: Store, socket_activated: bool) -> Result<ExitCode, Failure> {
    // Before any thread: taking sockets over changes the environment.
    let own =
        Addresses { hosts: config.host.addresses(), port: config.port, admin: config.admin_port.clone() };
    let listeners = Listeners::obtain((!socket_activated).then_some(&own))?;
    if let Some(idle) = config.idle_exit
        && !listeners.inherited
    {
        return Err(Failure::setting(format!(
            "IDLE_EXIT={} is set, but no socket was handed over that could start this process \
             again; without socket activation it must be `off`",
            humantime::format_duration(idle)
        )));
    }
    let sockets = listeners.sockets.len() + listeners.admin.len();
    process::check_files(config.max_connections, sockets).map_err(Failure::setting)?;
    let runtime = process::runtime().map_err(Failure::system)?;
    let (app, counting) = {
        let _spawns_on = runtime.enter();
        App::start(config, store).map_err(Failure::system)?
    };
    let output = app.output.clone();
    let ended = runtime.block_on(async {
        let pump = tokio::spawn(output.clone().pump());
        let mut signals = StopSignals::listen()?;
        let mut ended = server::run(config, listeners, app, &mut signals).await;
        if let Ok(Ended::Drained) = ended {
            // All visits are answered; what is left is to tidy up in Redis.
            tokio::select! {
                _ = counting => {}
                (_, number) = signals.next() => ended = Ok(Ended::AtOnce(number)),
            }
        }
        pump.abort();
        ended
    });
    // Dropping it would wait for a name lookup that hangs.
    runtime.shutdown_background();
    output.finish();
    ended.map(ExitCode::from).map_err(Failure::system)
}
