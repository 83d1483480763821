//! How the process starts, ends and shows that it lives.
//!
//! Factor IX: a process can be started or stopped at a moment's notice. It says so to whoever
//! supervises it, by the protocol of `sd_notify(3)`, which does nothing where there is no systemd.
//! Neither readiness nor the watchdog looks at Redis: an outage there must not restart this.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::event_loop::Timer;
use crate::routes::App;

/// How often the status line that `systemctl status` shows is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// When a supervisor that had no room for a message is told again.
const SAY_AGAIN: Duration = Duration::from_millis(100);

/// Tells the supervisor something. False: it did not go through, as when the supervisor has not read
/// what it was told before. It is not this service's concern whether there is one.
fn tell(states: &[NotifyState<'_>]) -> bool {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return true;
    };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let Err(error) = send(&socket, &message) else {
        return true;
    };
    tracing::debug!(%error, "the service manager cannot be told");
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
    )
}

/// What `sd_notify::notify` does, which waits for room: the event loop would stand still.
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address(socket)?)?;
    Ok(())
}

/// The address of a notification socket: a path, or `@` and a name that is in no file system.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}

/// Says that the end has begun. Returns whether that went through.
pub(crate) fn stopping() -> bool {
    tell(&[NotifyState::Stopping])
}

/// Says that the end needs `more` time.
pub(crate) fn still_stopping(more: Duration) {
    let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Says that connections are accepted, and keeps the supervisor informed for as long as the event loop
/// turns: that is what the watchdog is for, so this must run on the loop that serves requests and on
/// nothing else.
pub(crate) async fn report(app: Arc<App>, mut timer: Timer) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    // Half the period, as sd_watchdog_enabled(3) recommends.
    let every = watchdog.map_or(STATUS_EVERY, |period| (period / 2).min(STATUS_EVERY));
    let mut ready = false;
    let mut last = String::new();
    loop {
        let status = app.status();
        let states: Vec<_> = [
            (!ready && !app.draining.load(Relaxed)).then_some(NotifyState::Ready),
            watchdog.is_some().then_some(NotifyState::Watchdog),
            (status != last).then_some(NotifyState::Status(&status)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if states.is_empty() || tell(&states) {
            (ready, last) = (true, status);
            timer.sleep(every).await;
        } else {
            timer.sleep(SAY_AGAIN.min(every)).await;
        }
    }
}

/// The signals that end the process: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// Received and ignored: there is nothing to reload, and a lost terminal ends nothing.
    _hangup: Signal,
}

impl StopSignals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one and returns its name and number.
    pub async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.interrupt.recv() => ("SIGINT", 2),
        }
    }
}
