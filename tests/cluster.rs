//! Any node of a Redis Cluster leads to the one that counts, also after the keys have moved.

use std::time::{Duration, Instant};

use crate::crowd::{Crowd, assert_exact};
use crate::support::{Redis, Service, eventually, own_host, program};

const SLOTS: u16 = 16384;

/// Two masters, and a replica of the one that has the keys.
struct Cluster {
    host: String,
    nodes: Vec<Redis>,
    /// Which of them has the keys, and which does not.
    owner: usize,
    other: usize,
    slot: String,
}

const REPLICA: usize = 2;

fn port(node: usize) -> String {
    (7000 + node).to_string()
}

fn id(node: &Redis) -> String {
    node.run(&["CLUSTER", "MYID"])
}

impl Cluster {
    fn start() -> Self {
        let host = own_host();
        let start = |node| {
            let place = ["--bind", &host, "--port", &port(node)];
            let cluster = ["--cluster-enabled", "yes", "--cluster-announce-ip", &host];
            let at_once = ["--repl-diskless-sync-delay", "0"];
            Redis::start_with(&[&place[..], &cluster, &at_once].concat())
        };
        let nodes: Vec<Redis> = (0..=REPLICA).map(start).collect();
        for (node, slots) in nodes.iter().zip([0..SLOTS / 2, SLOTS / 2..SLOTS]) {
            let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
            let words = ["CLUSTER", "ADDSLOTS"].into_iter();
            let words: Vec<&str> = words.chain(slots.iter().map(String::as_str)).collect();
            node.run::<()>(&words);
        }
        for node in 1..nodes.len() {
            nodes[0].run::<()>(&["CLUSTER", "MEET", &host, &port(node)]);
        }
        let slot: u16 = nodes[0].run(&["CLUSTER", "KEYSLOT", "visitorCount"]);
        let owner = usize::from(slot >= SLOTS / 2);
        let cluster = Self {
            host,
            nodes,
            owner,
            other: 1 - owner,
            slot: slot.to_string(),
        };
        let replicate = ["CLUSTER", "REPLICATE", &id(cluster.owner())];
        eventually("the replica has heard of its master", || {
            let mut connection = cluster.nodes[REPLICA].connect();
            redis::Cmd::new().arg(&replicate).exec(&mut connection).ok()
        });
        for node in &cluster.nodes {
            eventually("the nodes agree", || {
                let info: String = node.run(&["CLUSTER", "INFO"]);
                let is_whole = info.contains("cluster_state:ok\r\n")
                    && info.contains("cluster_known_nodes:3\r\n")
                    && info.contains("cluster_size:2\r\n");
                is_whole.then_some(())
            });
        }
        eventually("the replica follows", || {
            let info: String = cluster.owner().run(&["INFO", "replication"]);
            info.contains("state=online").then_some(())
        });
        cluster
    }

    fn owner(&self) -> &Redis {
        &self.nodes[self.owner]
    }

    fn url(&self, node: usize) -> String {
        format!("redis://{}:{}/", self.host, port(node))
    }

    /// Gives the slot of the keys, and what is in it, to the other master.
    fn move_keys(&mut self) {
        let (from, to) = (self.owner(), &self.nodes[self.other]);
        let set = |at: &Redis, what: &str, node: &Redis| {
            at.run::<()>(&["CLUSTER", "SETSLOT", &self.slot, what, &id(node)]);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        let keys: Vec<String> = from.run(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]);
        let port = port(self.other);
        let migrate = ["MIGRATE", &self.host, &port, "", "0", "5000", "KEYS"];
        let keys = keys.iter().map(String::as_str);
        let migrate: Vec<&str> = migrate.into_iter().chain(keys).collect();
        from.run::<()>(&migrate);
        set(to, "NODE", to);
        set(from, "NODE", to);
        std::mem::swap(&mut self.owner, &mut self.other);
    }
}

#[test]
fn every_node_leads_to_the_one_that_counts() {
    let cluster = Cluster::start();
    for node in 0..cluster.nodes.len() {
        let url = cluster.url(node);
        let service = Service::start_with(&[("REDIS_URL", &url)]);
        assert_eq!(service.get("/").number(), 1);
        assert_eq!(service.get("/readyz").status, 200);
        assert_eq!(cluster.owner().count(), 1);
        let run = |task| {
            let output = program(task, &[("REDIS_URL", &url)]).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{task}: {output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        assert_eq!(run("show-count"), "1\n");
        assert!(run("check-redis").contains("visitorCount holds 1"));
        run("reset-count");
        assert_eq!(cluster.owner().count(), 0);
    }
}

#[test]
fn no_visit_is_lost_or_refused_while_the_keys_move_to_another_node() {
    let mut cluster = Cluster::start();
    let service = Service::start_with(&[("REDIS_URL", &cluster.url(cluster.owner))]);
    let crowd = Crowd::visit(&[service.address], 4);
    for _ in 0..2 {
        crowd.wait_for_numbers(50);
        cluster.move_keys();
    }
    crowd.wait_for_numbers(50);
    let visits = crowd.go_home();
    assert!(visits.iter().all(|visit| visit.number.is_some()));
    assert_exact(&visits, cluster.owner().count());
}

#[test]
fn no_visit_is_lost_when_a_replica_is_told_to_take_over() {
    let cluster = Cluster::start();
    let service = Service::start_with(&[
        ("REDIS_URL", &cluster.url(cluster.owner)),
        ("REDIS_TIMEOUT", "1m"),
    ]);
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(50);
    let replica = &cluster.nodes[REPLICA];
    let mut told: Option<Instant> = None;
    eventually("it is the master", || {
        // On a slow machine Redis gives it up, after five seconds.
        if told.is_none_or(|told| told.elapsed() > Duration::from_secs(6)) {
            replica.run::<()>(&["CLUSTER", "FAILOVER"]);
            told = Some(Instant::now());
        }
        let info: String = replica.run(&["INFO", "replication"]);
        info.contains("role:master").then_some(())
    });
    crowd.wait_for_numbers(50);
    let visits = crowd.go_home();
    assert!(visits.iter().all(|visit| visit.number.is_some()));
    assert_exact(&visits, replica.count());
}
