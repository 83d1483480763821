//! Further threads that serve requests, for `WORKER_THREADS`.
//!
//! Each is an event loop of its own, like another process: it accepts connections, keeps them to their
//! end and shares none of them.

use std::io;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::event_loop;

/// Threads that run until this is dropped.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Workers {
    /// Starts so many.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count).map(|_| {
            let runtime = event_loop::build()?;
            let (running, dropped) = oneshot::channel();
            let worker = Worker {
                runtime: runtime.handle().clone(),
                _running: running,
            };
            thread::Builder::new()
                .name("worker".to_owned())
                .spawn(move || drop(runtime.block_on(dropped)))?;
            Ok(worker)
        });
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// The event loops, beginning with the one that asks.
    pub(crate) fn event_loops(&self) -> impl Iterator<Item = Handle> {
        let own = std::iter::once(Handle::current());
        own.chain(self.0.iter().map(|worker| worker.runtime.clone()))
    }
}
