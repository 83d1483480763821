//! The service: environment, settings, logs, socket, serve.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abukiks::config::{Config, EX_CONFIG};
use abukiks::counter::Counter;
use abukiks::event_loop;
use abukiks::lifecycle::StopSignals;
use abukiks::listener::{ListenError, Listeners};
use abukiks::metrics::Metrics;
use abukiks::output::Output;
use abukiks::routes::App;
use abukiks::server::{self, Ended};
use abukiks::store::Store;
use abukiks::{admin, telemetry};

/// `sysexits.h`: the system refused something, such as a port that is taken.
const EX_OSERR: u8 = 71;

/// `sysexits.h`: something of the system is missing, here the socket that systemd was to hand over.
const EX_OSFILE: u8 = 72;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    let socket_activated = match arguments.iter().map(|text| &**text).collect::<Vec<_>>()[..] {
        [] => false,
        ["--socket-activated"] => true,
        ["--help" | "-h"] => return admin::print(&admin::service_help()),
        ["--version" | "-V"] => return admin::print(&admin::version("abukiks")),
        ["--check-config"] => return admin::check_config(),
        ["--check-health"] => return admin::check_health(),
        _ => {
            return admin::fail(
                admin::EX_USAGE,
                format!(
                    "unknown arguments {arguments:?}; accepted is one of --help, --version, \
                     --check-config, --check-health and --socket-activated, or none"
                ),
            );
        }
    };
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return admin::fail(EX_CONFIG, error),
    };
    match serve(&config, socket_activated) {
        Ok(exit) => exit,
        Err((status, error)) => admin::fail(status, error),
    }
}

/// Runs the service; an error comes with its exit status.
fn serve(config: &Config, socket_activated: bool) -> Result<ExitCode, (u8, String)> {
    let store = Store::new(config).map_err(|error| (EX_CONFIG, error.to_string()))?;
    // Before any thread: taking sockets over changes the environment.
    let listeners = Listeners::obtain(config, socket_activated).map_err(|error| match error {
        ListenError::NoneHandedOver => (EX_OSFILE, error.to_string()),
        _ => system(error),
    })?;
    if config.idle_exit.0.is_some() && !listeners.inherited {
        return Err((
            EX_CONFIG,
            format!(
                "IDLE_EXIT={} is set, but no socket was handed over that could start this process \
                 again; without socket activation it takes off",
                config.idle_exit
            ),
        ));
    }
    let release = config.release_id();
    let metrics = Arc::new(Metrics::new(&release));
    let output = Arc::new(Output::stdout(metrics.clone()).map_err(system)?);
    let access_log = telemetry::start(config, &output).map_err(system)?;

    let runtime = event_loop::build().map_err(system)?;
    let ended = runtime.block_on(async {
        let pump = tokio::spawn(output.clone().pump()?);
        let mut signals = StopSignals::listen()?;
        let (limit, fence) = (config.max_waiting_visits.0, config.counter_fence.0);
        let (counter, counting) = Counter::start(store, limit, fence, metrics.clone())?;
        let app = Arc::new(App {
            counter,
            metrics,
            access_log,
            release,
            draining: AtomicBool::new(false),
            max_body_bytes: config.max_body_bytes.0,
        });
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
    ended.map(ExitCode::from).map_err(system)
}

fn system(error: impl std::fmt::Display) -> (u8, String) {
    (EX_OSERR, error.to_string())
}
