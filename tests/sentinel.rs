//! Where Sentinels know the master, it is found, and found again after it has been replaced.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::Value;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::crowd::{Crowd, assert_exact};
use crate::proxy::Proxy;
use crate::support::{Process, Redis, Service, eventually, own_host, program};

pub(crate) const MASTER_PORT: &str = "6379";
const REPLICA_PORT: &str = "6380";
pub(crate) const FIRST_SENTINEL: u16 = 26379;

/// A master, a replica, and Sentinels of the test's own.
struct Deployment {
    host: String,
    master: Redis,
    replica: Redis,
    sentinels: Vec<Process>,
    _folder: TempDir,
}

/// A Redis at `port` of this address.
fn redis_at(host: &str, port: &str, more: &[&str]) -> Redis {
    let base = ["--bind", host, "--port", port, "--replica-announce-ip", host];
    Redis::start_with(&[&base[..], &["--repl-diskless-sync-delay", "0"], more].concat())
}

/// A Sentinel, which keeps what it knows in a file of its own in this folder.
pub(crate) fn start_sentinel(folder: &Path, host: &str, port: u16, settings: &str) -> Process {
    let file = folder.join(format!("{port}.conf"));
    let text = format!(
        "port {port}\nbind {host}\nsentinel announce-ip {host}\ndir {}\nprotected-mode no\n{settings}",
        folder.display()
    );
    fs::write(&file, text).expect("the folder is there");
    let sentinel = Process::spawn(
        Command::new("redis-server").arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()),
    );
    // Any answer will do, also one that asks for a password.
    eventually("the Sentinel answers", || {
        let mut stream = std::net::TcpStream::connect((host, port)).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        stream.read_exact(&mut [0]).ok()
    });
    sentinel
}

/// Asks a Sentinel something.
fn ask(host: &str, port: u16, words: &[&str]) -> redis::RedisResult<Value> {
    let mut connection = redis::Client::open((host, port))?.get_connection()?;
    redis::Cmd::new().arg(words).query(&mut connection)
}

impl Deployment {
    /// Starts one whose Sentinels know of each other and of the replica.
    fn start(sentinels: u16) -> Self {
        let host = own_host();
        let master = redis_at(&host, MASTER_PORT, &[]);
        let replica = redis_at(&host, REPLICA_PORT, &["--replicaof", &host, MASTER_PORT]);
        let folder = tempfile::tempdir().expect("a folder");
        let quorum = sentinels / 2 + 1;
        let settings = format!(
            "sentinel monitor visits {host} {MASTER_PORT} {quorum}\n\
             sentinel down-after-milliseconds visits 500\n\
             sentinel failover-timeout visits 2000\n"
        );
        let ports = FIRST_SENTINEL..FIRST_SENTINEL + sentinels;
        let processes =
            ports.clone().map(|port| start_sentinel(folder.path(), &host, port, &settings)).collect();
        for port in ports {
            eventually("the Sentinels know each other and the replica", || {
                let state = ask(&host, port, &["SENTINEL", "MASTER", "visits"]).ok()?;
                let state: HashMap<String, String> = redis::from_redis_value(state).ok()?;
                let others = (sentinels - 1).to_string();
                (state["num-slaves"] == "1" && state["num-other-sentinels"] == others).then_some(())
            });
        }
        Self { host, master, replica, sentinels: processes, _folder: folder }
    }

    /// The URL that names all Sentinels.
    fn url(&self) -> String {
        let ports = (FIRST_SENTINEL..).take(self.sentinels.len());
        let nodes: Vec<_> = ports.map(|port| format!("{}:{port}", self.host)).collect();
        format!("redis+sentinel://{}/visits", nodes.join(","))
    }

    /// Waits until the replica has been made a master.
    fn wait_for_promotion(&self) {
        eventually("the replica is promoted", || {
            // Connected clients are closed at that moment.
            let info = ask(&self.host, 6380, &["INFO", "replication"]).ok()?;
            let info: String = redis::from_redis_value(info).ok()?;
            info.contains("role:master").then_some(())
        });
    }
}

fn serve(url: &str, replicas: &str) -> Service {
    Service::start_with(&[("REDIS_URL", url), ("MIN_REPLICAS_ACK", replicas), ("ACCESS_LOG", "off")])
}

#[test]
fn counting_goes_on_at_the_new_master() {
    let mut deployment = Deployment::start(3);
    let mut service = serve(&deployment.url(), "0");
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(100);
    deployment.master.kill();
    crowd.wait_for_refusals(4);
    deployment.wait_for_promotion();
    crowd.wait_for_numbers(100);
    let visits = crowd.go_home();
    let highest = visits.iter().filter_map(|visit| visit.number).max();
    assert_eq!(highest, Some(deployment.replica.count()));
    assert_eq!(service.get("/readyz").status, 200);
    service.log_line("Redis answers again");
}

#[test]
fn with_every_replica_acknowledging_a_failover_keeps_each_visit() {
    let mut deployment = Deployment::start(3);
    let service = serve(&deployment.url(), "1");
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(100);
    deployment.master.kill();
    crowd.wait_for_refusals(4);
    deployment.wait_for_promotion();
    // The new master needs a replica of its own.
    let host = &deployment.host;
    let _replica = redis_at(host, "6381", &["--replicaof", host, REPLICA_PORT]);
    crowd.wait_for_numbers(100);
    assert_exact(&crowd.go_home(), deployment.replica.count());
}

#[test]
fn a_master_that_is_replaced_while_it_lives_is_left() {
    let deployment = Deployment::start(1);
    let service = serve(&deployment.url(), "0");
    let crowd = Crowd::visit(&[service.address], 4);
    crowd.wait_for_numbers(50);
    let failover = ["SENTINEL", "FAILOVER", "visits"];
    eventually("the Sentinel finds the replica good enough", || {
        ask(&deployment.host, FIRST_SENTINEL, &failover).ok()
    });
    deployment.wait_for_promotion();
    let before = deployment.replica.count();
    eventually("visits are counted at the new master", || {
        (deployment.replica.count() > before + 50).then_some(())
    });
    crowd.go_home();
}

#[test]
fn one_sentinel_that_answers_is_enough() {
    let mut deployment = Deployment::start(4);
    let url = deployment.url();
    deployment.sentinels[0].signal(Signal::KILL);
    deployment.sentinels[0].wait();
    for hanging in &deployment.sentinels[1..3] {
        hanging.signal(Signal::STOP);
    }
    for number in 1..=3 {
        // Each begins with another Sentinel.
        let service = Service::start_with(&[("REDIS_URL", &url), ("REDIS_TIMEOUT", "5s")]);
        assert_eq!(service.get("/").number(), number);
    }
    let settings = [("REDIS_URL", &*url), ("REDIS_TIMEOUT", "5s")];
    let check = program("check-redis", &settings).output().expect("it runs");
    assert!(check.status.success(), "{check:?}");
    let said = String::from_utf8(check.stdout).expect("text");
    assert!(said.contains("visitorCount holds 3"), "{said}");
    assert!(said.contains(&url), "{said}");
}

#[test]
fn five_sentinels_far_away_are_reached_as_one_is() {
    let host = own_host();
    let _master = redis_at(&host, MASTER_PORT, &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("sentinel.sock");
    let settings = format!(
        "sentinel monitor visits {host} {MASTER_PORT} 1\n\
         unixsocket {}\n",
        socket.display()
    );
    let _sentinel = start_sentinel(folder.path(), &host, FIRST_SENTINEL, &settings);
    let far: Vec<_> = (0..5).map(|_| Proxy::to_socket(socket.clone())).collect();
    let nodes: Vec<_> = far.iter().map(|far| far.address().to_string()).collect();
    for far in &far {
        far.delay(Duration::from_millis(110));
    }
    let url = format!("redis+sentinel://{}/visits", nodes.join(","));
    let settings = [("REDIS_URL", &*url), ("REDIS_TIMEOUT", "1s")];
    let service = Service::start_with(&settings);
    assert_eq!(service.get("/").number(), 1);
    // Those that refuse at once take nothing of the time of the last one.
    let last = nodes[4].as_str();
    let url = format!("redis+sentinel://{host}:1,{host}:2,{host}:3,{host}:4,{last}/visits");
    let settings = [("REDIS_URL", &*url), ("REDIS_TIMEOUT", "1s")];
    let check = program("show-count", &settings).output().expect("it runs");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn what_sentinel_takes_for_the_master_must_be_one() {
    let host = own_host();
    let master = redis_at(&host, MASTER_PORT, &[]);
    let folder = tempfile::tempdir().expect("a folder");
    // It would not look again for a long time.
    let settings = format!(
        "sentinel monitor visits {host} {MASTER_PORT} 1\n\
         sentinel down-after-milliseconds visits 600000\n"
    );
    let _sentinel = start_sentinel(folder.path(), &host, FIRST_SENTINEL, &settings);
    let url = format!("redis+sentinel://{host}/visits");
    master.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let mut service = Service::start_with(&[("REDIS_URL", &url), ("REDIS_TIMEOUT", "4s")]);
    assert_eq!(service.get("/").status, 503);
    let said = service.log_line("is not a master");
    assert!(said.contains(&format!("{host}:{MASTER_PORT}")), "{said}");
    master.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(service.get("/").number(), 1);

    let url = format!("redis+sentinel://{host}/vists");
    let check = program("check-redis", &[("REDIS_URL", &url)]).output().expect("it runs");
    assert_eq!(check.status.code(), Some(69));
    let said = String::from_utf8(check.stderr).expect("text");
    assert!(said.contains("Sentinel knows no master named vists"), "{said}");
}

#[test]
fn sentinels_and_servers_have_passwords_of_their_own() {
    let host = own_host();
    let _master = redis_at(&host, MASTER_PORT, &["--requirepass", "of-the-server"]);
    let folder = tempfile::tempdir().expect("a folder");
    let settings = format!(
        "sentinel monitor visits {host} {MASTER_PORT} 1\n\
         sentinel auth-pass visits of-the-server\n\
         requirepass of-the-sentinel\n\
         user asker on >of-the-asker +sentinel|get-master-addr-by-name\n"
    );
    let _sentinel = start_sentinel(folder.path(), &host, FIRST_SENTINEL, &settings);
    for login in [
        "sentinel_pass=of-the-sentinel",
        "sentinel_pass=of-the-sentinel&protocol=resp3",
        "sentinel_user=asker&sentinel_pass=of-the-asker",
    ] {
        let url = format!("redis+sentinel://:of-the-server@{host}/visits/2?{login}");
        let show = program("show-count", &[("REDIS_URL", &url)]).output();
        let show = show.expect("it runs");
        assert!(show.status.success(), "{show:?}");
    }
    let url = format!("redis+sentinel://:of-the-server@{host}/visits");
    let show = program("show-count", &[("REDIS_URL", &url)]).output().expect("it runs");
    assert_eq!(show.status.code(), Some(69));
    let said = String::from_utf8(show.stderr).expect("text");
    assert!(said.contains("NOAUTH"), "{said}");
}
