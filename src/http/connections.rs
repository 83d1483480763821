//! All open connections, and the sweep that ends those that take too long.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::http::app::App;
use crate::http::connection::{self, Connection, State};
use crate::http::request::Entrance;
use crate::http::socket::Socket;

/// How often connections are looked over.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection must have been idle before it can be closed to make room. Those of busy clients idle for
/// a round trip, with the next request on the wire.
const MIN_IDLE: Duration = Duration::from_millis(250);

/// The connections that one process serves.
pub(crate) struct Connections {
    pub(crate) app: Arc<App>,
    open: RefCell<Slab<Rc<Connection>>>,
    /// A connection has opened or closed.
    changed: Notify,
    header_timeout: Duration,
    keep_alive_timeout: Duration,
}

impl Connections {
    pub(crate) fn new(config: &Config, app: Arc<App>) -> Self {
        Self {
            app,
            open: RefCell::default(),
            changed: Notify::new(),
            header_timeout: config.header_timeout,
            keep_alive_timeout: config.keep_alive_timeout,
        }
    }

    pub(crate) fn open(&self) -> RefMut<'_, Slab<Rc<Connection>>> {
        self.open.borrow_mut()
    }

    /// Serves a connection in a task of its own. It counts as open from here on.
    pub(crate) fn serve(
        self: &Rc<Self>,
        socket: Socket,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let connection = Rc::new(connection);
        let key = self.open().insert(connection.clone());
        self.app.metrics.connections_accepted.inc();
        self.app.metrics.connections.inc();
        self.changed.notify_one();
        let all = self.clone();
        spawn_local(async move {
            connection::serve(all.app.clone(), connection, socket).await;
            all.app.metrics.connections.dec();
            all.open().remove(key);
            all.changed.notify_one();
            drop(permit);
        });
    }

    /// Sweeps for as long as connections are open, and returns once none has been for `idle_exit`.
    pub(crate) async fn watch_over(&self, idle_exit: Option<Duration>) {
        loop {
            while self.open().is_empty() {
                let changed = self.changed.notified();
                match idle_exit {
                    None => changed.await,
                    Some(idle) => tokio::select! {
                        biased;
                        () = changed => {}
                        () = sleep(idle) => return,
                    },
                }
            }
            // Before the first visit after a pause, which would else be one of the minute in which the pause began.
            self.count_minutes(Instant::now());
            sleep(SWEEP_INTERVAL).await;
            self.sweep(Instant::now());
        }
    }

    /// Ends the connection by this entrance that has been idle longest, if one is.
    pub(crate) fn end_longest_idle(&self, entrance: Entrance) {
        let now = Instant::now();
        let open = self.open();
        let idle = open.iter().filter_map(|(_, connection)| {
            let (state, lasted) = connection.state(now);
            let is_idle = matches!(state, State::Opened | State::Idle) && lasted >= MIN_IDLE;
            (is_idle && connection.entrance == entrance).then_some((lasted, connection))
        });
        if let Some((_, connection)) = idle.max_by_key(|(lasted, _)| *lasted) {
            connection.end();
        }
    }

    fn count_minutes(&self, now: Instant) {
        self.app.recent.advance(now, self.app.metrics.visits());
    }

    /// Ends connections that take too long. Those that answer heed a reset by the client after a while:
    /// at once, that would cost every visit.
    pub(crate) fn sweep(&self, now: Instant) {
        self.count_minutes(now);
        let limits = &self.app.metrics.limit_hits;
        for (_, connection) in self.open().iter() {
            let (state, lasted) = connection.state(now);
            let (allowed, hits) = match state {
                State::Opened | State::Receiving => (self.header_timeout, &limits.header_timeout),
                State::Sending | State::Idle => (self.keep_alive_timeout, &limits.keep_alive_timeout),
                State::Answering => {
                    if lasted > SWEEP_INTERVAL / 2 {
                        connection.heed_reset();
                    }
                    continue;
                }
                State::Closing => continue,
            };
            if lasted > allowed {
                hits.inc();
                connection.end();
            }
        }
    }
}
