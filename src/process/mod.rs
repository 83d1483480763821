//! Sockets, signals and messages between the process, the operating system and its service manager.

use std::io;

use tokio::runtime::{Builder, Runtime};

pub mod listener;
pub mod signals;
pub mod supervisor;

/// Host names that are looked up at one time, each by a thread of its own. A lookup that hangs keeps its
/// thread, also when no task waits for it any more.
const MAX_LOOKUPS: usize = 24;

/// Open files without which the process cannot serve a single connection and reach Redis.
const MIN_FILES: u64 = 20;

/// The system lets this process open too few files.
#[derive(Debug, thiserror::Error)]
#[error("LimitNOFILE={0}, the limit of open files (ulimit -n), is too low; it takes at least {MIN_FILES}")]
pub struct TooFewFiles(u64);

/// Checks that connections can be served within the limit of open files.
///
/// # Errors
/// When the limit is too low for that.
pub fn check_files() -> Result<(), TooFewFiles> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.filter(|limit| *limit < MIN_FILES).map_or(Ok(()), |limit| Err(TooFewFiles(limit)))
}

/// The event loop of this process. One process is one core (factor VIII). Fails without descriptors.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(MAX_LOOKUPS).build()
}
