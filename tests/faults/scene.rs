//! What faults strike: a Redis, two processes of the service on one counter, and visitors who come
//! without a pause.

use std::collections::BTreeSet;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Loss, Outcome, Seen};
use crate::crowd::Visit;
use crate::load::Load;
use crate::machine::OwnNetwork;
use crate::outages::assert_told_shortly;
use crate::proxy::Proxy;
use crate::redis_url::Tls;
use crate::support::{Client, Redis, Response, Service, activated_by, eventually, held_socket};

/// Visitors of a scene: half of them keep their connections, half make a new one for each visit.
const VISITORS: usize = 8;

/// How much later than promised something may come on a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(2);

/// `REDIS_TIMEOUT` as it comes.
const BUDGET: Duration = Duration::from_secs(1);

/// Ends every connection to Redis but the one that says so.
pub(super) const SHOW_OUT: &[&str] = &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

/// What a scene is made of.
pub(super) struct Stage {
    redis: Redis,
    proxy: Option<Proxy>,
    tls: Option<Tls>,
    network: Option<OwnNetwork>,
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
    wrapper: Vec<String>,
}

impl Stage {
    /// One whose visits have the time budget that they have by default.
    pub(super) fn hasty() -> Self {
        Self::with(Redis::start())
    }

    /// One whose visits have so much time that a busy machine is no reason to refuse one.
    pub(super) fn patient() -> Self {
        Self::hasty().set("REDIS_TIMEOUT", "10s")
    }

    pub(super) fn with(redis: Redis) -> Self {
        let url = redis.url();
        let stage = Self {
            redis,
            proxy: None,
            tls: None,
            network: None,
            folder: tempfile::tempdir().expect("a folder"),
            settings: Vec::new(),
            wrapper: Vec::new(),
        };
        stage
            .set("REDIS_URL", url)
            .set("ACCESS_LOG", "off")
            .set("DRAIN_LAME_DUCK", "20ms")
            .set("DRAIN_IDLE", "300ms")
    }

    /// With another setting; the last one of a name counts.
    pub(super) fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// With the test's own proxy on the way to Redis.
    pub(super) fn through_proxy(mut self) -> Self {
        let proxy = Proxy::to(&self.redis);
        let url = proxy.url();
        self.proxy = Some(proxy);
        self.set("REDIS_URL", url)
    }

    /// With the way to Redis by the proxy in a network of its own, where all sockets of the scene
    /// are. Must come first.
    pub(super) fn own_network() -> Self {
        let network = OwnNetwork::enter();
        let mut stage = Self::hasty().through_proxy();
        stage.network = Some(network);
        stage
    }

    pub(super) fn tls(tls: Tls, redis: Redis) -> Self {
        let url = tls.url();
        let authority = tls.file("ca.pem").display().to_string();
        let mut stage = Self::with(redis).set("REDIS_URL", url).set("REDIS_CA_FILE", authority);
        stage.tls = Some(tls);
        stage
    }

    /// With processes that are started by way of a program that executes its arguments.
    pub(super) fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(super) fn in_folder(mut self, folder: TempDir) -> Self {
        self.folder = folder;
        self
    }
}

/// One process after the other on a socket that stays, as systemd would hold it.
pub(super) struct Instance {
    socket: TcpListener,
    pub(super) service: Service,
    settings: Vec<(&'static str, String)>,
    wrapper: Vec<String>,
}

impl Instance {
    fn new(stage: &Stage) -> Self {
        let socket = held_socket();
        let (settings, wrapper) = (stage.settings.clone(), stage.wrapper.clone());
        Self { service: start(&socket, &settings, &wrapper), socket, settings, wrapper }
    }

    /// Starts the next process, when the last one has ended.
    pub(super) fn start_again(&mut self) {
        self.service.process.wait();
        self.service = start(&self.socket, &self.settings, &self.wrapper);
    }

    pub(super) fn restart(&mut self) {
        assert!(self.service.stop().success());
        self.start_again();
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.service.process.signal(signal);
    }

    fn attempts(&self) -> f64 {
        self.service.metric("abukiks_redis_connection_attempts_total")
    }

    fn has_readiness(&self, status: u16) {
        eventually("/readyz says so", || (self.service.get("/readyz").status == status).then_some(()));
    }
}

fn start(socket: &TcpListener, settings: &[(&'static str, String)], wrapper: &[String]) -> Service {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    Service::from_command(activated_by(&wrapper, &[socket.as_fd()], &settings))
}

/// A stage with visitors on it.
pub(super) struct Scene {
    opened: Instant,
    pub(super) load: Load,
    pub(super) instances: [Instance; 2],
    proxy: Option<Proxy>,
    pub(super) redis: Redis,
    /// A connection of before the fault.
    admin: redis::Connection,
    /// What Redis has lost.
    pub(super) losses: Vec<Loss>,
    pub(super) tls: Option<Tls>,
    pub(super) folder: TempDir,
    /// There was an outage, which each process has to tell.
    outage: bool,
    faulty: Faulty,
    /// Visitors with sessions, where there are some, who come before the fault and come back after it.
    regulars: Vec<Regular>,
    _network: Option<OwnNetwork>,
}

/// What a visitor was told, and the cookie to come back with.
struct Regular {
    number: i64,
    cookie: String,
}

/// What befell the clients that are the fault.
#[derive(Default)]
struct Faulty {
    saw: BTreeSet<Seen>,
    /// Their requests that may have been counted.
    visits: Vec<Visit>,
}

impl Scene {
    /// Returns when visitors get numbers.
    pub(super) fn open(stage: Stage) -> Self {
        let opened = Instant::now();
        let instances = [Instance::new(&stage), Instance::new(&stage)];
        let ports = instances.each_ref().map(|instance| {
            let address = instance.socket.local_addr().expect("it is bound");
            address.port()
        });
        let admin = stage.redis.connect();
        let load = Load::start(&ports, VISITORS / 2);
        load.wait_for_numbers(50);
        let (mut regulars, mut faulty) = (Vec::new(), Faulty::default());
        for greeting in instances.each_ref().map(|instance| instance.service.get("/")) {
            let number = greeting.number();
            faulty.visits.push(Visit { began: opened, ended: Instant::now(), number: Some(number) });
            regulars.extend(greeting.cookie().map(|cookie| Regular { number, cookie }));
        }
        Self {
            opened,
            load,
            instances,
            proxy: stage.proxy,
            redis: stage.redis,
            admin,
            losses: Vec::new(),
            tls: stage.tls,
            folder: stage.folder,
            outage: false,
            faulty,
            regulars,
            _network: stage.network,
        }
    }

    pub(super) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a stage with a proxy")
    }

    /// Runs a command on a connection that was made before the fault.
    pub(super) fn command<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::Cmd::new()
            .arg(words)
            .query(&mut self.admin)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub(super) fn commands(&mut self, commands: &[&[&str]]) {
        for words in commands {
            let _: redis::Value = self.command(words);
        }
    }

    /// Redis goes away, stays away until visits have been refused for a while, and comes back:
    /// every process says that it is not ready, seeks Redis ten times a second and no more often,
    /// and counts again as soon as it can.
    pub(super) fn outage(&mut self, away: impl FnOnce(&mut Self), back: impl FnOnce(&mut Self)) {
        self.outage = true;
        away(self);
        self.load.wait_for_refusals(1);
        for instance in &self.instances {
            instance.has_readiness(503);
        }
        let since = Instant::now();
        let before = self.instances.each_ref().map(Instance::attempts);
        self.load.wait_for_refusals(2 * VISITORS as u64);
        for (instance, before) in self.instances.iter().zip(before) {
            let attempted = instance.attempts() - before;
            let allowed = since.elapsed().as_secs_f64() * 10.0 + 2.0;
            assert!(attempted <= allowed, "{attempted} attempts of {allowed}");
        }
        back(self);
        let returned = Instant::now();
        self.load.wait_for_numbers(1);
        let recovered = returned.elapsed();
        assert!(recovered < MARGIN, "recovered only after {recovered:?}");
    }

    /// An outage that Redis itself makes, while it goes on running.
    pub(super) fn outage_by(&mut self, away: &[&[&str]], back: &[&[&str]]) {
        let (since, before) = (Instant::now(), self.connections_received());
        self.outage(|scene| scene.commands(away), |scene| scene.commands(back));
        let received = self.connections_received() - before;
        let allowed = 2.0 * (since.elapsed().as_secs_f64() * 10.0 + 3.0);
        assert!(received <= allowed, "{received} connections of {allowed}");
    }

    /// How many connections Redis has ever accepted.
    fn connections_received(&mut self) -> f64 {
        let info: String = self.command(&["INFO", "stats"]);
        let total = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        total.and_then(|total| total.parse().ok()).expect("a number")
    }

    /// Lifts the count so far up, for as long as Redis does not forget it, that each process is sure
    /// to notice when it does.
    pub(super) fn raise(&mut self) {
        const HIGH: i64 = 1_000_000;
        let high = HIGH.to_string();
        let _: i64 = self.command(&["INCRBY", "visitorCount", &high]);
        // None of it was counted.
        self.losses.push(Loss { from: 0, to: HIGH });
        for instance in &self.instances {
            let number = instance.service.get("/").number();
            self.faulty.visits.push(self.visit(Some(number)));
        }
    }

    /// A visit of a client that is not among the load, ended just now.
    fn visit(&self, number: Option<i64>) -> Visit {
        Visit { began: self.opened, ended: Instant::now(), number }
    }

    /// A faulty client's connection, to either process by turns.
    pub(super) fn connect(&self, turn: usize) -> Client {
        self.instances[turn % 2].service.connect()
    }

    /// Notes an answer that a faulty client got.
    pub(super) fn heard(&mut self, answer: &Response) {
        let seen = match answer.status {
            200 if answer.body.starts_with("Welcome") => {
                let visit = self.visit(Some(answer.number()));
                self.faulty.visits.push(visit);
                Seen::Number
            }
            503 => Seen::Unavailable,
            status => Seen::Status(status),
        };
        self.faulty.saw.insert(seen);
    }

    /// Notes all that a faulty client can still read, up to the end of its connection.
    pub(super) fn heard_all(&mut self, mut client: Client) {
        // It has nothing more to say; this alone makes the service end a connection in good order.
        let _ = client.stream.get_ref().shutdown(Shutdown::Write);
        let mut answers = 0;
        let end = loop {
            match client.read(false) {
                Ok(answer) => self.heard(&answer),
                Err(error) => break Seen::of(&error),
            }
            answers += 1;
        };
        if answers == 0 || end != Seen::Cut {
            self.faulty.saw.insert(end);
        }
    }

    /// A faulty client sends this, and reads whatever it gets.
    pub(super) fn send(&mut self, turn: usize, bytes: impl AsRef<[u8]>) {
        let mut client = self.connect(turn);
        // Refused already, it may be closed.
        let _ = client.send(bytes);
        self.heard_all(client);
    }

    /// Notes what faulty clients saw.
    pub(super) fn saw(&mut self, seen: impl IntoIterator<Item = Seen>) {
        self.faulty.saw.extend(seen);
    }

    /// A faulty client has gone away without reading; its visit may be counted.
    pub(super) fn gone(&mut self) {
        self.faulty.visits.push(self.visit(None));
    }

    /// Waits until all is well again, sends the visitors home, ends the processes in order, and
    /// returns what came of it all. Each process has told an outage in one of the words of `told`.
    pub(super) fn close(self, told: &[&str]) -> Outcome {
        self.load.wait_for_numbers(50);
        for instance in &self.instances {
            instance.has_readiness(200);
            assert_eq!(instance.service.metric("abukiks_redis_up"), 1.0);
            // With the count, Redis has lost them too.
            for Regular { number, cookie } in self.regulars.iter().filter(|_| self.losses.is_empty()) {
                let back = instance.service.connect().get_with("/", &format!("Cookie: {cookie}\r\n"));
                assert_eq!(back.number(), *number, "one who came back has another number");
            }
        }
        let tally = self.load.stop();
        assert!(!self.outage || tally.longest() < BUDGET + MARGIN, "{tally}");
        for mut instance in self.instances {
            let service = &mut instance.service;
            assert_eq!(service.metric("abukiks_waiting_visits"), 0.0);
            assert!(service.stop().success());
            let log = instance.service.whole_log();
            let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
            if self.outage {
                assert_told_shortly(&log);
                let says_why = told.is_empty() || told.iter().any(|words| lines(words) > 0);
                assert!(says_why, "none of {told:?} in {log:#?}");
            }
            assert_eq!(lines("secret"), 0, "{log:#?}");
            let expected = usize::from(!self.losses.is_empty());
            assert_eq!(lines("went back"), expected, "{log:#?}");
        }
        let mut visitors_saw = BTreeSet::from([Seen::Number]);
        visitors_saw.extend(tally.refusals.iter().map(|status| match status {
            503 => Seen::Unavailable,
            other => Seen::Status(*other),
        }));
        visitors_saw.extend(tally.unanswered.iter().map(Seen::of));
        visitors_saw.extend(tally.unconnected.iter().map(|_| Seen::Unconnected));
        Outcome {
            visitors_saw,
            faulty_saw: self.faulty.saw,
            visits: [tally.visits, self.faulty.visits].concat(),
            count: self.redis.count(),
            losses: self.losses,
        }
    }
}
