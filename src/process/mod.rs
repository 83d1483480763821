//! Sockets, signals and messages between the process, the operating system and its service manager.

use std::io;

use tokio::runtime::{Builder, Runtime};

pub mod listener;
pub mod signals;
pub mod supervisor;

/// Host names that are looked up at one time, each by a thread of its own. A lookup that hangs keeps its
/// thread, also when no task waits for it any more.
const MAX_LOOKUPS: usize = 24;

/// The event loop of this process. One process is one core (factor VIII). Fails without descriptors.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(MAX_LOOKUPS).build()
}
