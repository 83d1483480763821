//! A wire between Abukiks and a real Redis that a test can cut, at a chosen byte or for good.

use std::collections::VecDeque;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::{Redis, last_for};

/// What becomes of an increment on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// This many bytes of the request reach Redis; then both sides see the connection end.
    CutRequestAt(usize),
    /// Redis gets the request, and this many bytes of its answer come back before the end.
    CutAnswerAt(usize),
    /// Redis gets the request, and these bytes come back in the place of its answer.
    Forge(&'static [u8]),
    /// Redis gets the request, and its answer comes back byte by byte, with this pause after each.
    Trickle(Duration),
    /// The request reaches Redis only after this time.
    Late(Duration),
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
    redis: Mutex<PathBuf>,
    /// What becomes of the next increments, one each; later ones pass.
    fates: Mutex<VecDeque<Fate>>,
    connections: Mutex<Vec<Arc<Wire>>>,
    swallows: AtomicBool,
    /// How long everything is on its way, in milliseconds.
    delay: AtomicU64,
    ended: AtomicBool,
}

/// One connection.
#[derive(Debug)]
struct Wire {
    client: TcpStream,
    redis: UnixStream,
    silent: AtomicBool,
    /// What becomes of the next answer.
    next_answer: Mutex<Option<Fate>>,
}

impl Proxy {
    pub(crate) fn to(redis: &Redis) -> Self {
        Self::to_socket(redis.socket())
    }

    pub(crate) fn to_socket(redis: PathBuf) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            redis: Mutex::new(redis),
            fates: Mutex::default(),
            connections: Mutex::default(),
            swallows: AtomicBool::new(false),
            delay: AtomicU64::new(0),
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

    /// From now on everything takes this long in either direction.
    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("a short time");
        self.shared.delay.store(millis, Relaxed);
    }

    /// Leads to another Redis from now on; connections to the last one end.
    pub(crate) fn lead_to(&self, redis: &Redis) {
        *lock(&self.shared.redis) = redis.socket();
        self.cut();
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
            let Ok(redis) = UnixStream::connect(&*lock(&self.redis)) else {
                continue;
            };
            // Bytes that trickle are not to be gathered again on the way.
            let _ = client.set_nodelay(true);
            let wire = Arc::new(Wire {
                client,
                redis,
                silent: AtomicBool::new(self.swallows.load(Relaxed)),
                next_answer: Mutex::default(),
            });
            lock(&self.connections).push(wire.clone());
            let (shared, requests) = (self.clone(), wire.clone());
            thread::spawn(move || {
                copy(&requests.client, |bytes| {
                    shared.travel();
                    shared.request(&requests, bytes)
                });
                requests.end();
            });
            let shared = self.clone();
            thread::spawn(move || {
                copy(&wire.redis, |bytes| {
                    shared.travel();
                    wire.answer(bytes)
                });
                wire.end();
            });
        }
    }

    fn travel(&self) {
        let delay = self.delay.load(Relaxed);
        if delay > 0 {
            last_for(Duration::from_millis(delay));
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
                fate @ (Fate::CutAnswerAt(_) | Fate::Forge(_) | Fate::Trickle(_)) => {
                    *lock(&wire.next_answer) = Some(fate);
                }
                Fate::Late(time) => last_for(time),
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
        let mut client = &self.client;
        match lock(&self.next_answer).take() {
            Some(Fate::CutAnswerAt(count)) => {
                let _ = client.write_all(&bytes[..count.min(bytes.len())]);
                false
            }
            Some(Fate::Forge(instead)) => client.write_all(instead).is_ok(),
            Some(Fate::Trickle(pause)) => bytes.iter().all(|byte| {
                last_for(pause);
                client.write_all(std::slice::from_ref(byte)).is_ok()
            }),
            _ => client.write_all(bytes).is_ok(),
        }
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
