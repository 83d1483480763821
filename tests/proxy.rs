//! A wire between Abukiks and a real Redis that a test can cut, at a chosen byte or for good.

use std::collections::VecDeque;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::support::Redis;

/// What becomes of an increment on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// This many bytes of the request reach Redis; then both sides see the connection end.
    CutRequestAt(usize),
    /// Redis gets the request, and this many bytes of its answer come back before the end.
    CutAnswerAt(usize),
    /// From here on the connection carries nothing more, and neither side is told.
    Silence,
}

/// A TCP port that leads to a Redis on a unix socket.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: PathBuf,
    /// What becomes of the next increments, one each; later ones pass.
    fates: Mutex<VecDeque<Fate>>,
    connections: Mutex<Vec<Arc<Wire>>>,
    swallows: AtomicBool,
    ended: AtomicBool,
}

/// One connection.
#[derive(Debug)]
struct Wire {
    client: TcpStream,
    redis: UnixStream,
    silent: AtomicBool,
    /// Bytes of the next answer to let through before the end.
    cut_answer_at: Mutex<Option<usize>>,
}

impl Proxy {
    pub(crate) fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            redis: redis.socket(),
            fates: Mutex::default(),
            connections: Mutex::default(),
            swallows: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Decides about the next increments.
    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.shared.fates).extend(fates);
    }

    /// Whether every decision has been carried out.
    pub(crate) fn is_done(&self) -> bool {
        lock(&self.shared.fates).is_empty()
    }

    /// Every connection there is goes silent; new ones are not affected.
    pub(crate) fn silence(&self) {
        for wire in lock(&self.shared.connections).iter() {
            wire.silent.store(true, Relaxed);
        }
    }

    /// Whether new connections are silent from the start.
    pub(crate) fn swallow(&self, everything: bool) {
        self.shared.swallows.store(everything, Relaxed);
    }

    /// Ends every connection there is.
    pub(crate) fn cut(&self) {
        for wire in lock(&self.shared.connections).drain(..) {
            wire.end();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.ended.load(Relaxed) {
                return;
            }
            let Ok(client) = client else { continue };
            // Redis is away: so is what leads to it.
            let Ok(redis) = UnixStream::connect(&self.redis) else {
                continue;
            };
            let wire = Arc::new(Wire {
                client,
                redis,
                silent: AtomicBool::new(self.swallows.load(Relaxed)),
                cut_answer_at: Mutex::default(),
            });
            lock(&self.connections).push(wire.clone());
            let (shared, requests) = (self.clone(), wire.clone());
            thread::spawn(move || {
                copy(&requests.client, |bytes| shared.request(&requests, bytes));
                requests.end();
            });
            thread::spawn(move || {
                copy(&wire.redis, |bytes| wire.answer(bytes));
                wire.end();
            });
        }
    }

    /// Carries a request on as its fate says. Returns whether the connection lives on.
    fn request(&self, wire: &Wire, bytes: &[u8]) -> bool {
        if bytes.windows(4).any(|word| word == b"EVAL") {
            match lock(&self.fates).pop_front().unwrap_or(Fate::Pass) {
                Fate::Pass => {}
                Fate::CutRequestAt(count) => {
                    let _ = (&wire.redis).write_all(&bytes[..count.min(bytes.len())]);
                    return false;
                }
                Fate::CutAnswerAt(count) => *lock(&wire.cut_answer_at) = Some(count),
                Fate::Silence => wire.silent.store(true, Relaxed),
            }
        }
        wire.silent.load(Relaxed) || (&wire.redis).write_all(bytes).is_ok()
    }
}

impl Wire {
    fn answer(&self, bytes: &[u8]) -> bool {
        if self.silent.load(Relaxed) {
            return true;
        }
        if let Some(count) = lock(&self.cut_answer_at).take() {
            let _ = (&self.client).write_all(&bytes[..count.min(bytes.len())]);
            return false;
        }
        (&self.client).write_all(bytes).is_ok()
    }

    fn end(&self) {
        // It may have ended already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.redis.shutdown(Shutdown::Both);
    }
}

fn copy(mut from: impl Read, mut carry: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !carry(&bytes[..count]) {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
