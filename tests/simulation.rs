//! Each acknowledged visit counts exactly once, in a network that a seed decides: hosts, links and
//! time are turmoil's, everything between an accepted stream and the stream to Redis is the
//! service's own. Real processes, a real network and a real Redis have their own tests; here
//! things go wrong more often and in more ways than those can be made to.
//!
//! `SIMULATION_SEED=17` runs that seed alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant as RealInstant, SystemTime, UNIX_EPOCH};

use abukiks::config::Config;
use abukiks::http::app::App;
use abukiks::http::server;
use abukiks::store::{Connector, Store, Stream};
use fastrand::Rng;
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, copy, duplex, split,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

use crate::crowd::{Visit, assert_exact};
use crate::support::{PATIENCE, Redis};

mod scripted_redis;

use scripted_redis::{HALF_HOUR, ScriptedRedis, take_command};

const SEEDS: u64 = 200;

/// Into how many simulations the places of a connection to Redis are divided.
const PARTS: u64 = 8;

const SERVICES: &[&str] = &["service-1", "service-2"];
const VISITORS: &[&str] = &["visitors-1", "visitors-2"];
const VISITORS_EACH: usize = 3;
const HTTP: u16 = 80;
const REDIS: u16 = 6379;

/// Of a visit. Half of it goes by before a silent link to Redis is given up.
const BUDGET: Duration = Duration::from_millis(600);

/// How finely time goes by.
const TICK: Duration = Duration::from_millis(2);

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_millis(1500);

/// Where something happens to a connection to Redis, in bytes since it began, and what.
#[derive(Debug, Clone, Copy)]
struct Break {
    to_redis: usize,
    from_redis: usize,
    then: Then,
    /// Bytes of an answer arrive one by one.
    trickles: bool,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    /// Both sides see it end.
    Ends,
    /// It carries nothing more, and neither side is told.
    FallsSilent,
    /// It goes on after this long: what was given up by then is late.
    StandsStill(Duration),
    /// Redis and its clients stand still for hours, and then both sides see it end.
    HoursPass,
}

impl Break {
    const NEVER: Self =
        Self { to_redis: usize::MAX, from_redis: usize::MAX, then: Then::Ends, trickles: false };

    /// Most connections last; of the others each byte of the first commands has its chance.
    fn by_chance(rng: &mut Rng) -> Self {
        let mut place = |most| match rng.u8(..4) {
            0 => rng.usize(..most),
            _ => usize::MAX,
        };
        Self {
            to_redis: place(5000),
            from_redis: place(400),
            then: match rng.u8(..3) {
                0 => Then::Ends,
                1 => Then::FallsSilent,
                _ => Then::StandsStill(BUDGET.mul_f64(2.0 * rng.f64())),
            },
            trickles: rng.bool(),
        }
    }

    async fn happens(&mut self, world: &World) -> io::Result<()> {
        match self.then {
            Then::HoursPass => {
                world.redis.borrow_mut().stand_still();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Then::Ends => return Err(io::ErrorKind::ConnectionAborted.into()),
            Then::FallsSilent => pending().await,
            Then::StandsStill(time) => sleep(time).await,
        }
        *self = Self::NEVER;
        Ok(())
    }
}

/// A command that Redis has run, and its answer.
type Exchange = (Vec<Vec<u8>>, Vec<u8>);

/// What the hosts of one simulation share beside the network.
struct World {
    /// Visitors who come back are known.
    sessions: bool,
    services: &'static [&'static str],
    redis: RefCell<ScriptedRedis>,
    /// All that has been asked of Redis.
    exchanges: RefCell<Vec<Exchange>>,
    /// How the next connection to Redis will break.
    breaks: RefCell<Box<dyn FnMut() -> Break>>,
    visits: RefCell<Vec<Visit>>,
    /// The trouble is over.
    peace: Cell<bool>,
    /// No visitor leaves before there is an answer.
    all_stay: Cell<bool>,
    /// Visitors who have not gone for good.
    visitors: Cell<usize>,
    /// Services that have ended.
    ended: Cell<usize>,
}

impl World {
    fn new(
        sessions: bool,
        services: &'static [&'static str],
        breaks: impl FnMut() -> Break + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            sessions,
            services,
            redis: RefCell::default(),
            exchanges: RefCell::default(),
            breaks: RefCell::new(Box::new(breaks)),
            visits: RefCell::default(),
            peace: Cell::default(),
            all_stay: Cell::default(),
            visitors: Cell::default(),
            ended: Cell::default(),
        })
    }

    fn run_command(&self, command: Vec<Vec<u8>>) -> Vec<u8> {
        let answer = self.redis.borrow_mut().run(&command);
        self.exchanges.borrow_mut().push((command, answer.clone()));
        answer
    }

    fn forget_scripts(&self) {
        self.run_command(vec![b"SCRIPT".into(), b"FLUSH".into()]);
    }

    fn check(&self) {
        let count = self.redis.borrow().number(b"visitorCount");
        assert_exact(&self.visits.borrow(), count);
    }
}

/// The host of Redis. Its data outlives it, as with `appendfsync always`; its scripts do not.
async fn redis(world: Rc<World>) -> turmoil::Result {
    world.forget_scripts();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, REDIS)).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            biased;
            Some(ended) = connections.join_next() => {
                // A connection may break, but not fail a check.
                let _: io::Result<()> = ended?;
                continue;
            }
            accepted = listener.accept() => accepted?,
        };
        let breaks = if world.peace.get() { Break::NEVER } else { (world.breaks.borrow_mut())() };
        connections.spawn_local(converse(world.clone(), stream, breaks));
    }
}

/// Redis on one connection, until either side ends it.
async fn converse(world: Rc<World>, mut stream: TcpStream, mut breaks: Break) -> io::Result<()> {
    let mut commands = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let received = match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            received => &bytes[..received],
        };
        let (before, after) = received.split_at(received.len().min(breaks.to_redis));
        breaks.to_redis -= before.len();
        commands.extend_from_slice(before);
        answer_all(&world, &mut stream, &mut commands, &mut breaks).await?;
        if breaks.to_redis == 0 {
            breaks.happens(&world).await?;
            commands.extend_from_slice(after);
            answer_all(&world, &mut stream, &mut commands, &mut breaks).await?;
        }
    }
}

/// Answers the commands that have arrived whole.
async fn answer_all(
    world: &World,
    stream: &mut TcpStream,
    commands: &mut Vec<u8>,
    breaks: &mut Break,
) -> io::Result<()> {
    while let Some(command) = take_command(commands) {
        let answer = world.run_command(command);
        let (before, after) = answer.split_at(answer.len().min(breaks.from_redis));
        breaks.from_redis -= before.len();
        for part in before.chunks(if breaks.trickles { 1 } else { usize::MAX }) {
            stream.write_all(part).await?;
        }
        if breaks.from_redis == 0 {
            breaks.happens(world).await?;
            stream.write_all(after).await?;
        }
    }
    Ok(())
}

/// Leads a service to the simulated Redis.
///
/// In what order a host that is killed drops the tasks of its service depends on what else runs in
/// the process of the test, and each connection that is closed changes what comes next. So they are
/// in the hands of the host, who drops its own tasks in the order in which they began.
#[derive(Debug)]
struct Link(UnboundedSender<Asker>);

type Asker = oneshot::Sender<io::Result<DuplexStream>>;

impl Connector for Link {
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>> {
        let (asker, connected) = oneshot::channel();
        self.0.send(asker).expect("the host");
        Box::pin(async {
            let stream: Stream = Box::pin(connected.await.expect("the host")?);
            Ok(stream)
        })
    }
}

/// Makes a connection and keeps it until either side ends it.
async fn link(mut asker: Asker) {
    let connected = tokio::select! {
        biased;
        connected = TcpStream::connect(("redis", REDIS)) => connected,
        () = asker.closed() => return,
    };
    let redis = match connected {
        Ok(redis) => redis,
        Err(error) => return drop(asker.send(Err(error))),
    };
    let (service, end) = duplex(1024);
    // Who asked may have left.
    if asker.send(Ok(end)).is_ok() {
        let (mut from_service, mut to_service) = split(service);
        let (mut from_redis, mut to_redis) = split(redis);
        let _: io::Result<u64> = tokio::select! {
            biased;
            ended = copy(&mut from_service, &mut to_redis) => ended,
            ended = copy(&mut from_redis, &mut to_service) => ended,
        };
    }
}

fn settings(sessions: bool) -> Config {
    let budget = format!("{}ms", BUDGET.as_millis());
    let settings = [
        ("REDIS_TIMEOUT", &*budget),
        ("LOG_FORMAT", "json"),
        ("LOG_LEVEL", "error"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_WAITING_VISITS", "1000"),
        ("SESSION_LIFETIME", if sessions { "30days" } else { "off" }),
    ];
    Config::from_vars(settings.map(|(name, value)| (name.into(), value.into()))).expect("settings")
}

/// The host of one process of the service.
async fn service(world: Rc<World>) -> turmoil::Result {
    let config = settings(world.sessions);
    let (askers, mut asking) = unbounded_channel();
    spawn_local(async move {
        while let Some(asker) = asking.recv().await {
            spawn_local(link(asker));
        }
    });
    let store = Store::new(&config)?.reached_by(Link(askers));
    let (app, counting) = App::start(&config, store)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP)).await?;
    let mut connections = JoinSet::new();
    while world.visitors.get() > 0 {
        tokio::select! {
            biased;
            Some(ended) = connections.join_next() => ended?,
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn_local(server::serve_stream(app.clone(), stream));
            }
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    // Visitors whose leaving was lost with a link are refused by then.
    sleep(BUDGET).await;
    assert_eq!(app.metrics.waiting_visits.get(), 0, "a visit still waits");
    connections.shutdown().await;
    drop(app);
    timeout(BUDGET, counting).await??;
    world.ended.set(world.ended.get() + 1);
    Ok(())
}

/// The number that a visitor was told, and the cookie to come back with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    number: i64,
    cookie: String,
}

/// Visits once. `None` when it was not even asked for, or when it was no new visitor's: such a one is told the
/// number that they know.
async fn visit(
    connection: &mut Option<BufReader<TcpStream>>,
    service: &str,
    stay: Duration,
    known: &mut Option<Known>,
) -> Option<Visit> {
    if connection.is_none() {
        let stream = timeout(stay, TcpStream::connect((service, HTTP))).await.ok()?.ok()?;
        *connection = Some(BufReader::new(stream));
    }
    // All hosts share a thread: the real clock knows in which order things happened.
    let began = RealInstant::now();
    let cookie = known.as_ref().map(|known| &*known.cookie);
    let answer = timeout(stay, ask(connection.as_mut()?, cookie)).await;
    let ended = RealInstant::now();
    let number = match answer {
        Ok(Ok((200, content, cookie))) => {
            let number = content.strip_prefix("Welcome to Abukiks! Visitor count: ");
            let number = number.map(|number| number.parse().expect("a number"));
            let told = number.zip(cookie).map(|(number, cookie)| Known { number, cookie });
            if known.is_some() {
                assert_eq!(told, *known, "a visitor who came back was told something else");
                return None;
            }
            *known = told;
            number
        }
        Ok(Ok((503, ..))) => None,
        Ok(Ok(other)) => panic!("{other:?}"),
        // The connection broke, or the visitor has lost patience.
        Ok(Err(_)) | Err(_) => {
            *connection = None;
            None
        }
    };
    Some(Visit { began, ended, number })
}

/// Returns status, content and cookie.
async fn ask(
    connection: &mut BufReader<TcpStream>,
    cookie: Option<&str>,
) -> io::Result<(u16, String, Option<String>)> {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{cookie}\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head["HTTP/1.1 ".len()..][..3].parse().expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut content = vec![0; length.expect("a length").parse().expect("a number")];
    connection.read_exact(&mut content).await?;
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    Ok((status, String::from_utf8(content).expect("text"), cookie.map(str::to_owned)))
}

/// The host of some visitors. It ends when the services have ended after the last visitor.
async fn visitors(world: Rc<World>, mut rng: Rng) -> turmoil::Result {
    let mut visitors = JoinSet::new();
    for _ in 0..VISITORS_EACH {
        visitors.spawn_local(come_again(world.clone(), rng.fork()));
    }
    while let Some(gone) = visitors.join_next().await {
        gone?;
        world.visitors.set(world.visitors.get() - 1);
    }
    while world.ended.get() < world.services.len() {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// One visitor, who comes again and again, and once more when the trouble is over: then none is
/// refused.
async fn come_again(world: Rc<World>, mut rng: Rng) {
    let mut connection = None;
    let mut known = None;
    while !world.peace.get() {
        if rng.u8(..8) == 0 {
            known = None;
        }
        sleep(Duration::from_millis(rng.u64(..50))).await;
        // Some leave before they can have an answer.
        let stay = if rng.u8(..8) == 0 && !world.all_stay.get() {
            Duration::from_millis(rng.u64(..100))
        } else {
            2 * BUDGET
        };
        let visit = visit(&mut connection, rng.choice(world.services).expect("one"), stay, &mut known).await;
        world.visits.borrow_mut().extend(visit);
        if rng.u8(..4) == 0 {
            connection = None;
        }
    }
    for service in world.services {
        let visit = visit(&mut None, service, 2 * BUDGET, &mut None).await.expect("a connection");
        assert!(visit.number.is_some(), "{service} refuses a visit though Redis is back");
        world.visits.borrow_mut().push(visit);
    }
}

/// What goes wrong for a while.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// What is sent on a link is lost, either way. It breaks the connections on it for good: there
    /// is no repetition of what was lost.
    Partition([&'static str; 2]),
    /// The same from the first to the second host only.
    OneWay([&'static str; 2]),
    /// What is sent on a link arrives when this is over, and so after what was sent by others.
    Hold([&'static str; 2]),
    /// A host is killed, and starts anew when this is over.
    Crash(&'static str),
    /// `SCRIPT FLUSH`, which is over at once.
    ForgetScripts,
    /// The clock of Redis is set back.
    SetClockBack,
}

impl Fault {
    fn by_chance(rng: &mut Rng) -> Self {
        let service = *rng.choice(SERVICES).expect("one");
        let visitors = *rng.choice(VISITORS).expect("one");
        let mut link = match rng.u8(..3) {
            0 => [visitors, service],
            _ => ["redis", service],
        };
        rng.shuffle(&mut link);
        match rng.u8(..9) {
            0 => Self::Partition(link),
            1 | 2 => Self::OneWay(link),
            3 | 4 => Self::Hold(link),
            5 => Self::Crash("redis"),
            6 => Self::Crash(service),
            7 => Self::SetClockBack,
            _ => Self::ForgetScripts,
        }
    }

    fn begin(self, sim: &mut Sim<'_>, world: &World) {
        match self {
            Self::Partition([one, other]) => sim.partition(one, other),
            Self::OneWay([from, to]) => sim.partition_oneway(from, to),
            Self::Hold([one, other]) => sim.hold(one, other),
            Self::Crash(host) => sim.crash(host),
            Self::ForgetScripts => world.forget_scripts(),
            Self::SetClockBack => world.redis.borrow_mut().set_clock_back(),
        }
    }

    fn end(self, sim: &mut Sim<'_>) {
        match self {
            // Whatever else went wrong with the link at the same time: that is over too.
            Self::Partition([one, other]) | Self::OneWay([one, other]) | Self::Hold([one, other]) => {
                sim.release(one, other);
                sim.repair(one, other);
            }
            Self::Crash(host) => sim.bounce(host),
            Self::ForgetScripts | Self::SetClockBack => {}
        }
    }
}

/// Says on failure which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self(seed) = self;
            eprintln!("seed {seed} has failed; SIMULATION_SEED={seed} in the environment runs it alone");
        }
    }
}

/// Plays one simulation to its end and checks it. `each_tick` may interfere.
fn play(world: &Rc<World>, network: &mut Builder, rng: &mut Rng, mut each_tick: impl FnMut(&mut Sim<'_>)) {
    let mut sim = network
        .rng_seed(rng.u64(..))
        .enable_random_order()
        .tick_duration(TICK)
        .tcp_capacity(1024)
        .simulation_duration(Duration::from_secs(3600))
        .build();
    let shared = world.clone();
    sim.host("redis", move || redis(shared.clone()));
    for host in world.services {
        let shared = world.clone();
        sim.host(*host, move || service(shared.clone()));
    }
    world.visitors.set(VISITORS.len() * VISITORS_EACH);
    for host in VISITORS {
        sim.client(*host, visitors(world.clone(), rng.fork()));
    }
    while !sim.step().unwrap_or_else(|error| panic!("{error}")) {
        each_tick(&mut sim);
    }
    world.check();
}

/// Runs the simulation of one seed, and returns what was asked of Redis.
fn simulate(seed: u64) -> Vec<Exchange> {
    let _told = Seed(seed);
    let mut rng = Rng::with_seed(seed);
    let world = World::new(seed % 2 == 1, SERVICES, {
        let mut rng = rng.fork();
        move || Break::by_chance(&mut rng)
    });
    let mut turns = Vec::new();
    for _ in 0..rng.u8(1..12) {
        let begin = TROUBLE.mul_f64(rng.f64());
        let end = begin + BUDGET.mul_f64(rng.f64());
        let fault = Fault::by_chance(&mut rng);
        turns.extend([(begin, fault, true), (end.min(TROUBLE), fault, false)]);
    }
    turns.sort_by_key(|(at, ..)| *at);
    let mut turns = turns.into_iter().peekable();
    let mut network = Builder::new();
    network.max_message_latency(Duration::from_millis(rng.u64(..10)));
    play(&world, &mut network, &mut rng, |sim| {
        let now = sim.elapsed();
        while let Some((_, fault, begins)) = turns.next_if(|(at, ..)| *at <= now) {
            if begins {
                fault.begin(sim, &world);
            } else {
                fault.end(sim);
            }
        }
        // With time for those who were killed to listen again.
        world.peace.set(now >= TROUBLE + 5 * TICK);
    });
    world.exchanges.take()
}

/// The seed that the environment names.
fn one_seed() -> Option<u64> {
    let seed = std::env::var("SIMULATION_SEED").ok()?;
    Some(seed.parse().expect("SIMULATION_SEED is a number"))
}

/// Runs something for every seed, on all cores, or for the one that the environment names.
fn for_each_seed(seeds: u64, run: impl Fn(u64) + Sync) {
    if let Some(seed) = one_seed() {
        return run(seed);
    }
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Relaxed)
                    && seed < seeds
                {
                    run(seed);
                }
            });
        }
    });
}

#[test]
fn whatever_breaks_each_acknowledged_visit_counts_once_and_none_is_refused_afterwards() {
    let (late, again) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_seed(SEEDS, |seed| {
        let mut batches = HashSet::new();
        let mut untils = BTreeMap::<_, BTreeMap<u64, u64>>::new();
        for (command, answer) in simulate(seed) {
            if !command[0].starts_with(b"EVAL") {
                continue;
            }
            let number = |word: &Vec<u8>| String::from_utf8_lossy(word).parse::<u64>().expect("a number");
            let of_producer = untils.entry(command[4].clone()).or_default();
            let arguments = &command[3 + usize::try_from(number(&command[2])).expect("a few")..];
            of_producer.insert(number(&arguments[2]), number(&arguments[0]));
            if answer.starts_with(b"-STALE") {
                late.fetch_add(1, Relaxed);
            } else if answer.starts_with(b"$") && !batches.insert((command[4].clone(), arguments[2].clone()))
            {
                again.fetch_add(1, Relaxed);
            }
        }
        // No memory is to end before a copy of an earlier batch could be run.
        assert!(untils.values().all(|batches| batches.values().is_sorted()));
    });
    // The trouble has been such as the producer's memory is for.
    let (late, again) = (late.into_inner(), again.into_inner());
    println!("{again} batches were sent again after they had counted, {late} came too late");
    assert!(one_seed().is_some() || (late > 0 && again > 0));
}

/// `exchanges` with each producer and each session, whose names are random, called by a number.
fn without_names(mut exchanges: Vec<Exchange>) -> Vec<Exchange> {
    let mut producers = Vec::new();
    for word in exchanges.iter_mut().flat_map(|(command, _)| command) {
        if word.windows(10).any(|part| part == b":producer:")
            || word.windows(9).any(|part| part == b":session:")
        {
            let known = producers.iter().position(|producer| producer == word);
            let number = known.unwrap_or_else(|| {
                producers.push(word.clone());
                producers.len() - 1
            });
            *word = number.to_string().into();
        }
    }
    exchanges
}

#[test]
fn one_seed_is_one_history() {
    for_each_seed(8, |seed| {
        let [first, second] = [(); 2].map(|()| without_names(simulate(seed)));
        assert!(!first.is_empty());
        assert!(first == second, "seed {seed} had two histories");
    });
}

/// Breaks connections at each of these places, by turns with others that live longer.
fn break_at(places: Vec<Break>, seed: u64, forgetful: bool) -> Rc<World> {
    let _told = Seed(seed);
    let ended = Rc::new(Cell::new(false));
    let world = World::new(seed % 2 == 1, &SERVICES[..1], {
        let ended = ended.clone();
        let longer = Break { to_redis: 10_000, ..Break::NEVER };
        let mut breaks = places.into_iter().flat_map(move |place| [place, longer]);
        move || {
            let next = breaks.next();
            ended.set(next.is_none());
            next.unwrap_or(Break::NEVER)
        }
    });
    world.all_stay.set(true);
    let mut network = Builder::new();
    network.max_message_latency(Duration::ZERO);
    play(&world, &mut network, &mut Rng::with_seed(seed), |_| {
        if forgetful {
            world.forget_scripts();
        }
        world.peace.set(ended.get());
    });
    world
}

/// The places at which the part of `seed` breaks connections: all up to these, either way.
fn places(to_redis: usize, from_redis: usize, seed: u64) -> Vec<Break> {
    let to_redis = (0..to_redis).map(|to_redis| Break { to_redis, ..Break::NEVER });
    let from_redis = (0..from_redis).map(|from_redis| Break { from_redis, ..Break::NEVER });
    let (seed, parts) = ((seed % PARTS) as usize, PARTS as usize);
    to_redis.chain(from_redis).skip(seed).step_by(parts).collect()
}

fn packed(command: &[Vec<u8>]) -> Vec<u8> {
    redis::Cmd::new().arg(command).get_packed_command()
}

/// Nor is a visit refused: each visit gets a number, and so there is no gap.
#[test]
fn a_connection_to_redis_may_end_at_any_byte() {
    for forgetful in [false, true] {
        for_each_seed(PARTS, |seed| {
            let (to_redis, from_redis) = if forgetful { (7000, 150) } else { (1200, 90) };
            let world = break_at(places(to_redis, from_redis, seed), seed, forgetful);
            let exchanges = world.exchanges.borrow();
            let longest = |kind: &[u8]| {
                let alike = exchanges.iter().filter(|(command, _)| command[0] == kind);
                alike.map(|(command, _)| packed(command).len()).max()
            };
            let first = [longest(b"GET"), longest(b"EVALSHA"), longest(b"EVAL"), longest(b"EVALSHA")];
            let first = if forgetful { &first[..] } else { &first[..2] };
            assert!(first.iter().flatten().sum::<usize>() < to_redis, "{first:?}");
            let visits = world.visits.borrow();
            assert!(visits.iter().all(|visit| visit.number.is_some()), "a visit was refused");
            let count = world.redis.borrow().number(b"visitorCount");
            assert_eq!(usize::try_from(count), Ok(visits.len()));
        });
    }
}

/// What it carries then comes late: after the same has been sent again on another connection.
#[test]
fn a_connection_to_redis_may_stand_still_at_any_byte() {
    for_each_seed(PARTS, |seed| {
        let still = |place| Break { then: Then::StandsStill(BUDGET), ..place };
        let places = places(1200, 90, seed).into_iter().map(still);
        break_at(places.collect(), seed, false);
    });
}

/// By then Redis has forgotten what it had counted, and refuses to count it again. The visits whose
/// answer was lost are refused; a second count of them would be a gap too many.
#[test]
fn a_standstill_of_hours_after_a_batch_was_counted_does_not_count_it_again() {
    for_each_seed(PARTS, |seed| {
        let hours = |place| Break { then: Then::HoursPass, ..place };
        let places = places(0, 150, seed).into_iter().map(hours);
        let world = break_at(places.collect(), seed, false);
        let exchanges = world.exchanges.borrow();
        assert!(
            exchanges.iter().any(|(_, answer)| answer.starts_with(b"-STALE")),
            "no batch came when it may have been forgotten"
        );
    });
}

/// Plays commands to a real Redis, and compares each answer with the one that was given.
fn compare(redis: &Redis, exchanges: &[Exchange]) {
    redis.run::<()>(&["FLUSHALL"]);
    redis.run::<()>(&["SCRIPT", "FLUSH"]);
    let stream = UnixStream::connect(redis.socket()).expect("Redis answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut stream = io::BufReader::new(stream);
    for (command, expected) in exchanges {
        stream.get_mut().write_all(&packed(command)).expect("Redis reads");
        let mut answer = Vec::new();
        read_answer(&mut stream, &mut answer).expect("Redis answers");
        if command[0] == b"TIME" {
            // It has a clock of its own; the form is the same.
            let lines = |answer: &[u8]| answer.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines(&answer), lines(expected));
        } else if command[0] == b"INFO" {
            // There is more in the real one.
            let holds = |line: &[u8]| answer.split(|byte| *byte == b'\n').any(|other| other == line);
            assert!(expected.split(|byte| *byte == b'\n').skip(1).all(holds));
        } else {
            let command = command.join(&b' ');
            assert_eq!(
                answer.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{}",
                command.escape_ascii()
            );
        }
    }
}

/// Reads one answer with all that belongs to it (RESP).
fn read_answer(stream: &mut impl io::BufRead, answer: &mut Vec<u8>) -> io::Result<()> {
    let start = answer.len();
    stream.read_until(b'\n', answer)?;
    let line = std::str::from_utf8(&answer[start..]).expect("text");
    let length = || line[1..].trim_end().parse::<i64>().expect("a length");
    match line.as_bytes()[0] {
        b'$' if length() >= 0 => {
            let content = u64::try_from(length() + 2).expect("not negative");
            stream.take(content).read_to_end(answer)?;
        }
        b'*' => {
            for _ in 0..length() {
                read_answer(stream, answer)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn the_scripted_redis_answers_as_redis_does_byte_for_byte() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut script = None;
    for seed in 0..8 {
        let exchanges = simulate(seed);
        compare(&redis, &exchanges);
        let evaluated = exchanges.into_iter().find(|(command, _)| command[0] == b"EVAL");
        script = script.or(evaluated.map(|(mut command, _)| command.swap_remove(1)));
    }
    let script = script.expect("one has been sent");
    let script = std::str::from_utf8(&script).expect("text");
    let name = redis::Script::new(script);
    let by_name = ("EVALSHA", name.get_hash());
    let whole = ("EVAL", script);
    let increment_until = |(kind, script), producer, batch, visits, until| {
        vec![kind, script, "3", "count", producer, "{count}:epoch", until, visits, batch]
    };
    let increment =
        |script, producer, batch, visits| increment_until(script, producer, batch, visits, "4000003600");
    // In less than the half hour for which a memory lasts longer than its batch may be run.
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time") + HALF_HOUR / 2;
    let soon = soon.as_secs().to_string();
    let commands = [
        vec!["GET", "{count}:epoch"],
        increment(by_name, "a", "1", "3"),
        increment(whole, "a", "1", "3"),
        // The answer was lost: the same again, by its name and whole.
        increment(by_name, "a", "1", "3"),
        increment(whole, "a", "1", "3"),
        increment(by_name, "b", "1", "0"),
        increment(by_name, "b", "2", "1"),
        // One that was given up comes late.
        increment(by_name, "a", "3", "2"),
        increment(by_name, "a", "2", "5"),
        increment(whole, "a", "1", "3"),
        // As text, 9 is more than 10.
        increment(by_name, "a", "9", "1"),
        increment(by_name, "a", "10", "1"),
        increment(by_name, "a", "9", "1"),
        vec!["GET", "a"],
        vec!["GET", "count"],
        vec!["SCRIPT", "FLUSH"],
        increment(by_name, "a", "10", "1"),
        increment(whole, "a", "10", "1"),
        vec!["DEL", "a"],
        vec!["DEL", "a"],
        increment(by_name, "a", "10", "1"),
        vec!["GET", "count"],
        // Late: a producer that is remembered is answered, and no other.
        increment_until(whole, "a", "10", "1", &soon),
        increment_until(by_name, "a", "11", "1", &soon),
        increment_until(by_name, "c", "1", "1", &soon),
        vec!["GET", "count"],
        vec!["TIME"],
        vec!["CONFIG", "GET", "appendfsync"],
        vec!["INFO"],
    ];
    let mut scripted = ScriptedRedis::default();
    let exchanges: Vec<_> = commands
        .into_iter()
        .map(|words| {
            let command: Vec<Vec<u8>> = words.into_iter().map(Into::into).collect();
            let answer = scripted.run(&command);
            (command, answer)
        })
        .collect();
    compare(&redis, &exchanges);
}
