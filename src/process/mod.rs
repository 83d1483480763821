//! Sockets, signals and messages between the process, the operating system and its service manager.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

pub mod listener;
pub mod signals;
mod streams;
pub mod supervisor;

/// Host names that are looked up at one time, each by a thread of its own. A lookup that hangs keeps its
/// thread, also when no task waits for it any more.
const MAX_LOOKUPS: usize = 24;

/// Open files without which the process cannot serve a single connection and reach Redis.
const MIN_FILES: u64 = 20;

/// File descriptors kept for other things than connections and listeners: standard streams, epoll,
/// attempts to reach Redis, name lookups.
const RESERVED_FILES: usize = 32;

/// The system lets this process open too few files.
#[derive(Debug, thiserror::Error)]
pub enum TooFewFiles {
    /// For any connection.
    #[error(
        "LimitNOFILE={0}, the limit of open files (ulimit -n), is too low; it takes at least {MIN_FILES}"
    )]
    ForAny(u64),
    /// For as many connections as are wanted.
    #[error(
        "MAX_CONNECTIONS={wanted} is more than LimitNOFILE={limit}, the limit of open files (ulimit -n), leaves; \
         that is {left}"
    )]
    ForAll {
        /// `MAX_CONNECTIONS`
        wanted: usize,
        /// Files that can be open.
        limit: u64,
        /// Connections that can be open.
        left: usize,
    },
}

/// Checks that the limit of open files allows as many connections as are wanted. Beyond it, the connection
/// that has been idle longest would make no room, and clients would wait without an answer.
///
/// # Errors
/// When the limit is too low for that.
pub fn check_files(wanted: Option<usize>, listeners: usize) -> Result<(), TooFewFiles> {
    let Some(limit) = max_files() else {
        return Ok(());
    };
    if limit < MIN_FILES {
        return Err(TooFewFiles::ForAny(limit));
    }
    let left = connections_left(listeners);
    match wanted.filter(|wanted| *wanted > left) {
        Some(wanted) => Err(TooFewFiles::ForAll { wanted, limit, left }),
        None => Ok(()),
    }
}

/// Files that this process may have open; `None` without a limit.
fn max_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Connections that the limit of open files leaves.
pub(crate) fn connections_left(listeners: usize) -> usize {
    let files = max_files().and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    files.saturating_sub(RESERVED_FILES + listeners).max(1)
}

/// The event loop of this process. One process is one core (factor VIII), so what its tasks share needs no
/// locks. Fails without descriptors.
pub fn runtime() -> io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(MAX_LOOKUPS).build_local(LocalOptions::default())
}
