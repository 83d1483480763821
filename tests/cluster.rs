//! Any node of a Redis Cluster leads to the one that counts, also after the keys have moved.

use crate::crowd::{Crowd, assert_exact};
use crate::support::{Redis, Service, eventually, own_host, program};

const SLOTS: usize = 16384;
const MASTERS: usize = 3;
const SLOTS_EACH: usize = SLOTS.div_ceil(MASTERS);

/// The node behind the masters.
const REPLICA: usize = MASTERS;

/// Masters, and a replica of the one that has the keys.
struct Cluster {
    host: String,
    nodes: Vec<Redis>,
    /// Which node has the keys, and which is another master.
    owner: usize,
    other: usize,
    slot: String,
}

fn port(node: usize) -> String {
    (7000 + node).to_string()
}

fn id(node: &Redis) -> String {
    node.run(&["CLUSTER", "MYID"])
}

/// Waits until what a node says of itself has all of these lines.
fn wait_for(node: &Redis, command: &[&str], lines: &[&str]) {
    eventually("a node says what it should", || {
        let said: String = node.run(command);
        let has = |line: &&str| said.lines().any(|said| said == *line);
        lines.iter().all(has).then_some(())
    });
}

impl Cluster {
    /// Starts one whose nodes take another one for dead after so many milliseconds.
    fn start(timeout: &str) -> Self {
        let mut cluster =
            Self { host: own_host(), nodes: Vec::new(), owner: 0, other: 0, slot: String::new() };
        for _ in 0..MASTERS {
            cluster.add_node(timeout);
        }
        let slots: Vec<String> = (0..SLOTS).map(|slot| slot.to_string()).collect();
        for (node, slots) in cluster.nodes.iter().zip(slots.chunks(SLOTS_EACH)) {
            let slots = slots.iter().map(String::as_str);
            let words: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots).collect();
            node.run::<()>(&words);
        }
        let slot: usize = cluster.nodes[0].run(&["CLUSTER", "KEYSLOT", "visitorCount"]);
        cluster.owner = slot / SLOTS_EACH;
        cluster.other = (cluster.owner + 1) % MASTERS;
        cluster.slot = slot.to_string();
        cluster.add_node(timeout);
        cluster.replicate(REPLICA, cluster.owner);
        for node in &cluster.nodes {
            let whole = ["cluster_state:ok", "cluster_known_nodes:4", "cluster_size:3"];
            wait_for(node, &["CLUSTER", "INFO"], &whole);
            // A master that takes the replica for another master does not vote for it, and what is sent
            // to a node without a link is lost.
            eventually("the node knows the replica, and has links to all", || {
                let nodes: String = node.run(&["CLUSTER", "NODES"]);
                let linked = nodes.lines().all(|line| line.contains(" connected"));
                (linked && nodes.contains("slave")).then_some(())
            });
        }
        cluster
    }

    /// Starts one more node, which joins the others.
    fn add_node(&mut self, timeout: &str) {
        let (host, port) = (&self.host, port(self.nodes.len()));
        let node = Redis::start_with(&[
            "--bind",
            host,
            "--port",
            &port,
            "--cluster-enabled",
            "yes",
            "--cluster-announce-ip",
            host,
            "--cluster-node-timeout",
            timeout,
            "--repl-diskless-sync-delay",
            "0",
        ]);
        if let Some(known) = self.nodes.get(self.other) {
            known.run::<()>(&["CLUSTER", "MEET", host, &port]);
        }
        self.nodes.push(node);
    }

    /// Makes a node a replica of another one, and waits until it has what that has.
    fn replicate(&self, replica: usize, of: usize) {
        let replicate = ["CLUSTER", "REPLICATE", &id(&self.nodes[of])];
        eventually("the node has heard of its master", || {
            let mut connection = self.nodes[replica].connect();
            redis::Cmd::new().arg(&replicate).exec(&mut connection).ok()
        });
        let follows = ["role:slave", "master_link_status:up"];
        wait_for(&self.nodes[replica], &["INFO", "replication"], &follows);
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
    let cluster = Cluster::start("15000");
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
    let mut cluster = Cluster::start("15000");
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
fn no_visit_is_lost_or_refused_when_a_replica_is_told_to_take_over() {
    let cluster = Cluster::start("15000");
    let service = Service::start_with(&[("REDIS_URL", &cluster.url(cluster.owner)), ("REDIS_TIMEOUT", "1m")]);
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(50);
    let replica = &cluster.nodes[REPLICA];
    replica.run::<()>(&["CLUSTER", "FAILOVER"]);
    wait_for(replica, &["INFO", "replication"], &["role:master"]);
    crowd.wait_for_numbers(50);
    let visits = crowd.go_home();
    assert!(visits.iter().all(|visit| visit.number.is_some()));
    assert_exact(&visits, replica.count());
}

#[test]
fn with_every_replica_acknowledging_the_death_of_a_node_costs_no_visit() {
    let mut cluster = Cluster::start("1000");
    let service =
        Service::start_with(&[("REDIS_URL", &cluster.url(cluster.other)), ("MIN_REPLICAS_ACK", "1")]);
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(50);
    let owner = cluster.owner;
    cluster.nodes[owner].kill();
    let replica = &cluster.nodes[REPLICA];
    wait_for(replica, &["INFO", "replication"], &["role:master"]);
    // The new master needs a replica of its own.
    cluster.add_node("1000");
    cluster.replicate(REPLICA + 1, REPLICA);
    crowd.wait_for_numbers(50);
    assert_exact(&crowd.go_home(), cluster.nodes[REPLICA].count());
}
