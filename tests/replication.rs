//! With `MIN_REPLICAS_ACK`, a visit that got a number is on so many replicas, so that it survives
//! the promotion of one of them.

use rustix::process::Signal;

use crate::crowd::{Crowd, assert_exact};
use crate::proxy::{Fate, Proxy};
use crate::support::{Redis, Service, eventually};

/// A master, and a replica that a test can cut off.
pub(crate) struct Pair {
    master: Redis,
    replica: Redis,
    /// From the replica to the master.
    link: Proxy,
}

impl Pair {
    fn start() -> Self {
        Self::start_as(&["redis-server".to_owned()])
    }

    pub(crate) fn start_as(program: &[String]) -> Self {
        let master = Redis::start_as(program, &["--repl-diskless-sync-delay", "0"]);
        let link = Proxy::to(&master);
        let port = link.address().port().to_string();
        let replica = Redis::start_as(program, &["--replicaof", "127.0.0.1", &port]);
        eventually("the replica follows", || {
            let info: String = master.run(&["INFO", "replication"]);
            info.contains("state=online").then_some(())
        });
        Self { master, replica, link }
    }

    /// Stops the replica, and waits until it stands.
    fn freeze_replica(&self) {
        self.replica.process().signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.replica.process().pid());
        eventually("the replica stands still", || {
            let stat = std::fs::read_to_string(&stat).expect("the replica is there");
            stat.contains(") T ").then_some(())
        });
    }

    fn thaw_replica(&self) {
        self.replica.process().signal(Signal::CONT);
    }
}

/// A service that gives no number before one replica has it.
fn careful(url: &str, budget: &str) -> Service {
    Service::start_with(&[
        ("REDIS_URL", url),
        ("REDIS_TIMEOUT", budget),
        ("MIN_REPLICAS_ACK", "1"),
        ("ACCESS_LOG", "off"),
    ])
}

#[test]
fn a_visit_that_got_a_number_is_on_the_replica() {
    let pair = Pair::start();
    let service = careful(&pair.master.url(), "30s");
    let mut client = service.connect();
    for number in 1..=50 {
        assert_eq!(client.get("/").number(), number);
        assert_eq!(pair.replica.count(), number);
    }
}

#[test]
fn without_a_replica_that_has_it_no_visit_gets_a_number() {
    let pair = Pair::start();
    let mut service = careful(&pair.master.url(), "1s");
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(50);
    pair.freeze_replica();
    crowd.wait_for_refusals(8);
    let why = "0 replicas of Redis have the visit, of 1 that must";
    let not_ready = service.get("/readyz");
    assert_eq!(not_ready.status, 503);
    service.log_line(why);
    // A visit gets no number while it stands still, however long it does.
    let stopped = Crowd::visit(&[service.address], 4);
    stopped.wait_for_refusals(8);
    let all = stopped.go_home();
    assert!(all.iter().all(|visit| visit.number.is_none()), "{all:?}");

    pair.thaw_replica();
    crowd.wait_for_numbers(50);
    assert_eq!(service.get("/readyz").status, 200);
    let mut visits = crowd.go_home();
    visits.extend(all);
    assert_exact(&visits, pair.master.count());
}

#[test]
fn a_repetition_on_a_new_connection_waits_for_the_replica_too() {
    a_repetition_waits(&Pair::start());
}

pub(crate) fn a_repetition_waits(pair: &Pair) {
    let wire = Proxy::to(&pair.master);
    let service = careful(&wire.url(), "4s");
    let mut client = service.connect();
    assert_eq!(client.get("/").number(), 1);
    pair.freeze_replica();
    // The master has counted it when the connection ends, so its repetition counts nothing.
    wire.next([Fate::CutAnswerAt(0)]);
    assert_eq!(client.get("/").status, 503);
    assert!(wire.is_done());
    assert_eq!(pair.master.count(), 2);
    pair.thaw_replica();
    assert_eq!(client.get("/").number(), 3);
}

#[test]
fn a_visit_waits_for_a_replica_within_its_budget() {
    let pair = Pair::start();
    let service = careful(&pair.master.url(), "30s");
    let mut client = service.connect();
    assert_eq!(client.get("/").number(), 1);
    pair.freeze_replica();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it listens");
    eventually("the master has counted it", || (pair.master.count() == 2).then_some(()));
    assert_eq!(service.metric("abukiks_waiting_visits"), 1.0);
    pair.thaw_replica();
    assert_eq!(client.read(false).expect("an answer").number(), 2);
    assert_eq!(pair.master.count(), 2);
}

#[test]
fn visits_that_got_numbers_survive_the_promotion_of_the_replica() {
    let mut pair = Pair::start();
    let service = careful(&pair.master.url(), "1s");
    let crowd = Crowd::visit(&[service.address], 8);
    crowd.wait_for_numbers(200);
    // What the master sends from now on is lost.
    pair.link.silence();
    crowd.wait_for_refusals(8);
    pair.master.kill();
    pair.replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let visits = crowd.go_home();
    assert_exact(&visits, pair.replica.count());
}

#[test]
fn a_user_who_may_not_wait_gets_no_number() {
    let pair = Pair::start();
    pair.master.run::<()>(&["ACL", "SETUSER", "default", "-wait"]);
    let mut service = careful(&pair.master.url(), "4s");
    assert_eq!(service.get("/").status, 503);
    service.log_line("NOPERM");
    pair.master.run::<()>(&["ACL", "SETUSER", "default", "+wait"]);
    let number = service.get("/").number();
    assert_eq!(pair.replica.count(), number);
}
