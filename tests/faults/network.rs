//! What lies between the service and Redis cuts, delays, garbles and loses.

use std::process::Command;
use std::time::Duration;

use super::scene::{Scene, Stage};
use super::{Fault, OUTAGE, WITHIN_BUDGET};
use crate::proxy::Fate;
use crate::support::{eventually, last_for};

/// Succeeds where networks can be made and broken.
const NETWORKS: &[&str] = &["unshare", "--net", "sh", "-c", "PATH=$PATH:/usr/sbin iptables -L"];

faults![
    cut_before_the_request = Fault {
        name: "the link is cut before the request is read",
        how: "the test's proxy ends the connection, for every third batch",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::CutRequestAt(0)),
        ..WITHIN_BUDGET
    },
    cut_within_the_request = Fault {
        name: "the link is cut in the middle of the request",
        how: "the same, after 30 bytes of it",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::CutRequestAt(30)),
        ..WITHIN_BUDGET
    },
    cut_before_the_answer = Fault {
        name: "the link is cut after the request is applied, before the answer",
        how: "the same, when Redis has answered",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::CutAnswerAt(0)),
        ..WITHIN_BUDGET
    },
    cut_within_the_answer = Fault {
        name: "the link is cut in the middle of the answer",
        how: "the same, after 3 bytes of the answer",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::CutAnswerAt(3)),
        ..WITHIN_BUDGET
    },
    cut_all_at_once = Fault {
        name: "all links are cut",
        how: "by the proxy, fifty times",
        stage: through_proxy,
        inject: |scene| for _ in 0..50 {
            scene.proxy().cut();
            scene.load.wait_for_numbers(10);
        },
        ..WITHIN_BUDGET
    },
    trickling = Fault {
        name: "answers trickle",
        how: "byte by byte, 20 ms each, for every third batch",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::Trickle(Duration::from_millis(20))),
        ..WITHIN_BUDGET
    },
    garbled = Fault {
        name: "answers are garbage",
        how: "bytes that are no RESP in their place, for every third batch",
        stage: through_proxy,
        inject: |scene| strike(scene, Fate::Forge(b"\xff\0 HTTP/1.1 200 OK\r\n\r\n")),
        ..WITHIN_BUDGET
    },
    mistaken = Fault {
        name: "answers belong to another question",
        how: "`+OK`, `:1`, nil and an empty text in their place, for every third batch",
        stage: through_proxy,
        inject: |scene| for instead in ["+OK\r\n", ":1\r\n", "$-1\r\n", "$0\r\n\r\n"] {
            strike(scene, Fate::Forge(instead.as_bytes()));
        },
        ..WITHIN_BUDGET
    },
    half_open = Fault {
        name: "links are half-open",
        how: "they carry nothing more and neither end is told; new ones do; visits have 6 s",
        stage: || through_proxy().set("REDIS_TIMEOUT", "6s"),
        inject: |scene| scene.proxy().silence(),
        ..WITHIN_BUDGET
    },
    swallowed = Fault {
        name: "everything is swallowed",
        how: "connections are made, and carry nothing",
        stage: || Stage::hasty().through_proxy(),
        inject: |scene| {
            scene.outage(
                |scene| {
                    scene.proxy().swallow(true);
                    scene.proxy().silence();
                },
                |scene| scene.proxy().swallow(false),
            );
        },
        ..OUTAGE
    },
    delayed = Fault {
        name: "everything takes 100 ms longer",
        how: "each way, by the proxy",
        stage: through_proxy,
        inject: |scene| {
            scene.proxy().delay(Duration::from_millis(100));
            scene.load.wait_for_numbers(50);
            scene.proxy().delay(Duration::ZERO);
        },
        ..WITHIN_BUDGET
    },
    lossy = Fault {
        name: "every fifth packet is lost",
        how: "`iptables -m statistic --probability 0.2 -j DROP`, both ways; visits have 60 s",
        needs: NETWORKS,
        stage: || Stage::own_network().set("REDIS_TIMEOUT", "60s"),
        inject: |scene| {
            let lossy = "-m statistic --mode random --probability 0.2 -j DROP";
            firewall(scene, "-A", "--dport", lossy);
            firewall(scene, "-A", "--sport", lossy);
            scene.load.wait_for_numbers(100);
            firewall(scene, "-D", "--dport", lossy);
            firewall(scene, "-D", "--sport", lossy);
        },
        ..WITHIN_BUDGET
    },
    unplugged = Fault {
        name: "every packet is lost",
        how: "`iptables -j DROP`",
        needs: NETWORKS,
        stage: Stage::own_network,
        inject: |scene| {
            scene.outage(
                |scene| firewall(scene, "-A", "--dport", "-j DROP"),
                |scene| firewall(scene, "-D", "--dport", "-j DROP"),
            );
        },
        ..OUTAGE
    },
    one_way = Fault {
        name: "every answer is lost for 1 s",
        how: "`iptables -j DROP` for one way: requests arrive; visits have 30 s",
        needs: NETWORKS,
        stage: || Stage::own_network().set("REDIS_TIMEOUT", "30s"),
        inject: |scene| {
            firewall(scene, "-A", "--sport", "-j DROP");
            last_for(Duration::from_secs(1));
            firewall(scene, "-D", "--sport", "-j DROP");
        },
        ..WITHIN_BUDGET
    },
    rejected = Fault {
        name: "connections are reset and refused",
        how: "`iptables -j REJECT --reject-with tcp-reset`",
        logs: &["Connection refused"],
        needs: NETWORKS,
        stage: Stage::own_network,
        inject: |scene| {
            let reject = "-j REJECT --reject-with tcp-reset";
            scene.outage(
                |scene| firewall(scene, "-A", "--dport", reject),
                |scene| firewall(scene, "-D", "--dport", reject),
            );
        },
        ..OUTAGE
    },
];

fn through_proxy() -> Stage {
    Stage::patient().through_proxy()
}

/// Lets ten batches meet this fate, with two in between that pass.
fn strike(scene: &Scene, fate: Fate) {
    let proxy = scene.proxy();
    proxy.next([fate, Fate::Pass, Fate::Pass].repeat(10));
    eventually("all of them are through", || proxy.is_done().then_some(()));
}

/// A rule for what goes to the proxy (`--dport`) or comes from it (`--sport`).
fn firewall(scene: &Scene, action: &str, port: &str, rule: &str) {
    let number = scene.proxy().address().port();
    let script = format!("PATH=$PATH:/usr/sbin iptables --wait {action} INPUT -p tcp {port} {number} {rule}");
    let status = Command::new("sh").args(["-c", &script]).status();
    assert!(status.expect("a shell").success(), "{script}");
}
