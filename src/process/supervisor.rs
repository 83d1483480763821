//! Tells the service manager how the process is, by the protocol of `sd_notify(3)`.
//!
//! Without a service manager nothing is sent. Neither readiness nor the watchdog looks at Redis: an
//! outage there must not restart this process.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

/// How often the status line that `systemctl status` shows is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// When a message for which the service manager had no room is sent again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Sends a message. Returns false when it may get through later, as when the service manager has not
/// read what came before.
pub(crate) fn notify(states: &[NotifyState<'_>]) -> bool {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return true;
    };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let Err(error) = send(socket, &message) else {
        return true;
    };
    tracing::debug!(%error, "the service manager cannot be notified");
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
    )
}

/// As `sd_notify::notify`, which would block the event loop and cannot reach abstract sockets.
fn send(socket: OsString, message: &str) -> io::Result<()> {
    let mut path = socket.into_vec();
    // An `@` stands for the zero byte before a name that is in no file system.
    if let Some(first @ b'@') = path.first_mut() {
        *first = 0;
    }
    let sender = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    sender.set_nonblocking(true)?;
    sender.send_to(message.as_bytes(), &SockAddr::unix(OsString::from_vec(path))?)?;
    Ok(())
}

/// Asks for `more` time until the end.
pub(crate) fn extend_stop_timeout(more: Duration) {
    let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Reports readiness once, unless `status` says that the process drains already, and then the watchdog's
/// pings and the text of `status`, for as long as the event loop turns.
///
/// The watchdog watches that loop, so this must run on the one that serves requests.
pub(crate) async fn report(status: impl Fn() -> (bool, String)) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    // Half the period, as sd_watchdog_enabled(3) recommends.
    let interval = watchdog.map_or(STATUS_INTERVAL, |period| (period / 2).min(STATUS_INTERVAL));
    let mut was_ready = false;
    let mut last_text = String::new();
    loop {
        let (draining, text) = status();
        let states: Vec<_> = [
            (!was_ready && !draining).then_some(NotifyState::Ready),
            watchdog.is_some().then_some(NotifyState::Watchdog),
            (text != last_text).then_some(NotifyState::Status(&text)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if states.is_empty() || notify(&states) {
            (was_ready, last_text) = (true, text);
            sleep(interval).await;
        } else {
            sleep(RETRY_INTERVAL.min(interval)).await;
        }
    }
}
