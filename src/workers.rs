//! Further threads that serve requests, for `WORKER_THREADS`.
//!
//! Each is an event loop of its own, like another process: it accepts connections, keeps them to their
//! end and shares none of them.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::event_loop;

/// Threads that run until this is dropped, which waits for their end: what they serve is cut by then,
/// and has said so in the log.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    thread: JoinHandle<()>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Workers {
    /// Starts so many.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count).map(|_| {
            let runtime = event_loop::build()?;
            let (running, dropped) = oneshot::channel();
            Ok(Worker {
                runtime: runtime.handle().clone(),
                thread: thread::Builder::new()
                    .name("worker".to_owned())
                    .spawn(move || drop(runtime.block_on(dropped)))?,
                _running: running,
            })
        });
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// The event loops, beginning with the one that asks.
    pub(crate) fn event_loops(&self) -> impl Iterator<Item = Handle> {
        let own = std::iter::once(Handle::current());
        own.chain(self.0.iter().map(|worker| worker.runtime.clone()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // All are told to end before the first is waited for.
        let threads: Vec<_> = self.0.drain(..).map(|worker| worker.thread).collect();
        for thread in threads {
            // It cannot have panicked: that ends the process.
            let _ = thread.join();
        }
    }
}
