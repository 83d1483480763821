//! Redis ends, hangs, refuses, forgets.

use std::time::Duration;

use rcgen::{CertificateParams, date_time_ymd};
use rustix::process::Signal;

use super::scene::{SHOW_OUT, Scene, Stage};
use super::{Fault, Loss, OUTAGE, WITHIN_BUDGET};
use crate::proxy::Proxy;
use crate::redis_url::{Identity, Tls};
use crate::support::{Redis, eventually, last_for};

faults![
    killed = Fault {
        name: "Redis is killed, with `appendfsync always`",
        how: "`kill -9`; later it starts again with the same append-only file",
        stage: durable,
        inject: |scene| scene.outage(|scene| scene.redis.kill(), |scene| scene.redis.resume()),
        ..OUTAGE
    },
    killed_for_a_moment = Fault {
        name: "Redis is killed for a moment, with `appendfsync always`",
        how: "`kill -9` and a new start at once, five times",
        stage: || durable().set("REDIS_TIMEOUT", "30s"),
        inject: |scene| for _ in 0..5 {
            scene.redis.kill();
            scene.redis.resume();
            scene.load.wait_for_numbers(50);
        },
        ..WITHIN_BUDGET
    },
    shut_down = Fault {
        name: "Redis is shut down, with `appendonly yes`",
        how: "`SHUTDOWN NOSAVE`; later it starts again with the same append-only file",
        stage: || Stage::with(Redis::start_with(&["--appendonly", "yes"])),
        inject: |scene| scene.outage(shut_down_now, |scene| scene.redis.resume()),
        ..OUTAGE
    },
    shut_down_without_a_copy = Fault {
        name: "Redis is shut down, with nothing on disk",
        how: "`SHUTDOWN NOSAVE`; later it starts again, empty",
        inject: |scene| {
            scene.raise();
            scene.outage(
                |scene| {
                    // What is counted after this is lost.
                    scene.commands(&[&["CLIENT", "PAUSE", "60000", "WRITE"]]);
                    let from = scene.redis.count();
                    scene.losses.push(Loss { from, to: 0 });
                    shut_down_now(scene);
                },
                |scene| scene.redis.resume(),
            );
        },
        ..OUTAGE
    },
    stopped_for_a_tenth_of_a_second = Fault {
        name: "Redis hangs for 0.1 s",
        how: "`SIGSTOP`, then `SIGCONT`, ten times",
        inject: |scene| for _ in 0..10 {
            stop_for(scene, Duration::from_millis(100));
            scene.load.wait_for_numbers(20);
        },
        ..WITHIN_BUDGET
    },
    stopped_for_a_second = Fault {
        name: "Redis hangs for 1 s",
        how: "`SIGSTOP`, then `SIGCONT`; visits have 10 s",
        inject: |scene| stop_for(scene, Duration::from_secs(1)),
        ..WITHIN_BUDGET
    },
    stopped_for_ten_seconds = Fault {
        name: "Redis hangs for 10 s",
        how: "`SIGSTOP`, then `SIGCONT`; visits have 1 s",
        inject: |scene| {
            scene.outage(
                |scene| scene.redis.process().signal(Signal::STOP),
                |scene| {
                    last_for(Duration::from_secs(10));
                    scene.redis.process().signal(Signal::CONT);
                },
            );
        },
        ..OUTAGE
    },
    loses_its_clients = Fault {
        name: "Redis ends its connections again and again",
        how: "`CLIENT KILL TYPE normal`, fifty times",
        inject: |scene| for _ in 0..50 {
            scene.commands(&[SHOW_OUT]);
            scene.load.wait_for_numbers(10);
        },
        ..WITHIN_BUDGET
    },
    paused = Fault {
        name: "Redis answers no client for 0.5 s",
        how: "`CLIENT PAUSE 500 ALL`",
        inject: |scene| scene.commands(&[&["CLIENT", "PAUSE", "500", "ALL"]]),
        ..WITHIN_BUDGET
    },
    asleep = Fault {
        name: "Redis is busy with something else for 1 s",
        how: "`DEBUG SLEEP 1`",
        stage: || {
            let debug = ["--enable-debug-command", "yes"];
            Stage::with(Redis::start_with(&debug)).set("REDIS_TIMEOUT", "10s")
        },
        inject: |scene| scene.commands(&[&["DEBUG", "SLEEP", "1"]]),
        ..WITHIN_BUDGET
    },
    busy = Fault {
        name: "Redis is busy with a script that does not end",
        how: "`EVAL \"while true do end\" 0`; later `SCRIPT KILL`",
        logs: &["BUSY"],
        stage: || Stage::with(Redis::start_with(&["--busy-reply-threshold", "20"])),
        inject: |scene| {
            let mut other = scene.redis.connect();
            let script = std::cell::Cell::new(None);
            scene.outage(
                |_| {
                    script.set(Some(std::thread::spawn(move || {
                        ::redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut other)
                    })));
                },
                |scene| scene.commands(&[&["SCRIPT", "KILL"]]),
            );
            let ended = script.take().expect("it was started").join();
            assert!(ended.is_ok_and(|ended| ended.is_err()));
        },
        ..OUTAGE
    },
    loading = Fault {
        name: "Redis loads its data",
        how: "`SHUTDOWN SAVE`, and a start with `key-load-delay`",
        logs: &["loading the dataset"],
        stage: || {
            // So many keys that loading ends when it is told to hurry, and a look at the clients
            // after each.
            let slow = ["--enable-debug-command", "yes", "--key-load-delay", "40000"];
            let watchful = ["--loading-process-events-interval-bytes", "1024"];
            let redis = Redis::start_with(&[&slow[..], &watchful[..]].concat());
            redis.run::<String>(&["DEBUG", "POPULATE", "2000", "key", "2048"]);
            Stage::with(redis)
        },
        inject: |scene| {
            scene.outage(
                |scene| {
                    let _ = ::redis::cmd("SHUTDOWN").arg("SAVE").exec(&mut scene.redis.connect());
                    scene.redis.kill();
                    scene.redis.resume_until(|_| true);
                },
                |scene| {
                    scene.redis.run::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
                    eventually("Redis has loaded", || {
                        let pong = ::redis::cmd("GET").arg("key:1").exec(&mut scene.redis.connect());
                        pong.ok()
                    });
                },
            );
        },
        ..OUTAGE
    },
    of_another_type = Fault {
        name: "Redis holds something else under the counter's key",
        how: "`RENAME` and `RPUSH` in one script; later it is put right in the same way",
        logs: &["holds a list"],
        inject: |scene| {
            scene.outage_by(&[&["EVAL", MISPLACE, "0"]], &[&["EVAL", PUT_BACK, "0"]]);
        },
        ..OUTAGE
    },
    read_only = Fault {
        name: "Redis is a replica",
        how: "`REPLICAOF` a master that is not there; later `REPLICAOF NO ONE`",
        logs: &["READONLY"],
        inject: |scene| {
            scene.outage_by(&[&["REPLICAOF", "127.0.0.1", "1"]], &[&["REPLICAOF", "NO", "ONE"]]);
        },
        ..OUTAGE
    },
    without_its_master = Fault {
        name: "Redis is a replica that has lost its master",
        how: "the same, with `replica-serve-stale-data no`",
        logs: &["MASTERDOWN"],
        inject: |scene| {
            scene.outage_by(
                &[&["CONFIG", "SET", "replica-serve-stale-data", "no"], &["REPLICAOF", "127.0.0.1", "1"]],
                &[&["REPLICAOF", "NO", "ONE"]],
            );
        },
        ..OUTAGE
    },
    out_of_memory = Fault {
        name: "Redis is out of memory",
        how: "`CONFIG SET maxmemory 1`, `noeviction`; later 0",
        logs: &["OOM"],
        inject: |scene| {
            scene.outage_by(&[&["CONFIG", "SET", "maxmemory", "1"]], &[&["CONFIG", "SET", "maxmemory", "0"]]);
        },
        ..OUTAGE
    },
    without_a_password = Fault {
        name: "Redis wants a password that the service does not have",
        how: "`CONFIG SET requirepass`, and `CLIENT KILL`; later there is none again",
        logs: &["NOAUTH"],
        inject: |scene| {
            scene.outage_by(
                &[&["CONFIG", "SET", "requirepass", "secret"], SHOW_OUT],
                &[&["CONFIG", "SET", "requirepass", ""]],
            );
        },
        ..OUTAGE
    },
    with_another_password = Fault {
        name: "Redis has another password, then the right one",
        how: "`ACL SETUSER`, and `CLIENT KILL`; later the password is as before",
        logs: &["WRONGPASS"],
        stage: || {
            let redis = Redis::start();
            let user = ["ACL", "SETUSER", "visitor", "on", "~*", "+@all", ">secret"];
            redis.run::<()>(&user);
            let url = format!("{}?user=visitor&pass=secret", redis.url());
            Stage::with(redis).set("REDIS_URL", url)
        },
        inject: |scene| {
            scene.outage_by(
                &[&["ACL", "SETUSER", "visitor", "resetpass", ">changed"], SHOW_OUT],
                &[&["ACL", "SETUSER", "visitor", "resetpass", ">secret"]],
            );
        },
        ..OUTAGE
    },
    forbidden = Fault {
        name: "Redis forbids the service to count",
        how: "`ACL SETUSER default -incrby`; later `+@all`",
        logs: &["can't run this command"],
        inject: |scene| {
            scene.outage_by(
                &[&["ACL", "SETUSER", "default", "-incrby"]],
                &[&["ACL", "SETUSER", "default", "+@all"]],
            );
        },
        ..OUTAGE
    },
    full = Fault {
        name: "Redis has no room for another client",
        how: "`CONFIG SET maxclients 1`, and `CLIENT KILL`; later 1000",
        // Redis says so and hangs up; whether its words or the hang-up are noticed first is chance.
        logs: &["max number of clients", "Broken pipe"],
        inject: |scene| {
            scene.outage_by(
                &[&["CONFIG", "SET", "maxclients", "1"], SHOW_OUT],
                &[&["CONFIG", "SET", "maxclients", "1000"]],
            );
        },
        ..OUTAGE
    },
    forgets_the_script = Fault {
        name: "Redis forgets the script",
        how: "`SCRIPT FLUSH`, fifty times",
        inject: |scene| for _ in 0..50 {
            scene.commands(&[&["SCRIPT", "FLUSH"]]);
            scene.load.wait_for_numbers(10);
        },
        ..WITHIN_BUDGET
    },
    forgets_the_batches = Fault {
        name: "Redis forgets which batches it has applied",
        how: "the keys that remember them are deleted, fifty times, as when its clock jumps by a day",
        inject: |scene| for _ in 0..50 {
            scene.commands(&[&["EVAL", FORGET_BATCHES, "0"]]);
            scene.load.wait_for_numbers(10);
        },
        ..WITHIN_BUDGET
    },
    forgets_everything = Fault {
        name: "Redis forgets everything",
        how: "`FLUSHALL`",
        inject: |scene| {
            scene.raise();
            let from = scene.command(&["EVAL", FORGET, "0"]);
            scene.losses.push(Loss { from, to: 0 });
        },
        ..WITHIN_BUDGET
    },
    failed_over = Fault {
        name: "Redis fails over to a replica that has everything",
        how: "writes are paused until the replica has caught up; then `REPLICAOF NO ONE`, and its \
              address is the replica's",
        stage: to_follow,
        inject: |scene| {
            let replica = Redis::start();
            let link = attach(&replica, &scene.redis);
            scene.commands(&[&["CLIENT", "PAUSE", "60000", "WRITE"]]);
            eventually("the replica has caught up", || {
                (replica.count() == scene.redis.count()).then_some(())
            });
            promote(scene, replica);
            drop(link);
        },
        ..WITHIN_BUDGET
    },
    failed_over_too_early = Fault {
        name: "Redis fails over to a replica that lags behind",
        how: "the link to the replica falls silent, 200 visits later the master is killed; then \
              `REPLICAOF NO ONE`, and its address is the replica's",
        stage: to_follow,
        inject: |scene| {
            let replica = Redis::start();
            let link = attach(&replica, &scene.redis);
            link.silence();
            scene.raise();
            scene.load.wait_for_numbers(200);
            scene.commands(&[&["CLIENT", "PAUSE", "60000", "WRITE"]]);
            let from = scene.redis.count();
            scene.redis.kill();
            let to = replica.count();
            scene.losses.push(Loss { from, to });
            promote(scene, replica);
        },
        ..WITHIN_BUDGET
    },
    with_an_expired_certificate = Fault {
        name: "Redis shows a certificate that has expired",
        how: "`CONFIG SET tls-cert-file`, and `CLIENT KILL`; later the one of before",
        logs: &["the certificate of Redis has expired"],
        stage: tls,
        inject: |scene| {
            let expired = identity(scene, "expired", |params| {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            });
            shows(scene, &expired);
        },
        ..OUTAGE
    },
    with_another_name = Fault {
        name: "Redis shows a certificate for another name",
        how: "`CONFIG SET tls-cert-file`, and `CLIENT KILL`; later the one of before",
        logs: &["the certificate of Redis is not valid for the name"],
        stage: tls,
        inject: |scene| {
            let other = identity(scene, "other", |params| {
                let named = CertificateParams::new(["redis.example".to_owned()]);
                params.subject_alt_names = named.expect("a name").subject_alt_names;
            });
            shows(scene, &other);
        },
        ..OUTAGE
    },
];

const MISPLACE: &str = "redis.call('RENAME', 'visitorCount', 'misplaced')
    return redis.call('RPUSH', 'visitorCount', 'x')";

const PUT_BACK: &str = "redis.call('DEL', 'visitorCount')
    return redis.call('RENAME', 'misplaced', 'visitorCount')";

const FORGET_BATCHES: &str = "return redis.call('DEL', unpack(redis.call('KEYS', '*:producer:*')))";

const FORGET: &str = "local count = redis.call('GET', 'visitorCount')
    redis.call('FLUSHALL')
    return tonumber(count)";

fn durable() -> Stage {
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    Stage::with(Redis::start_with(&always))
}

/// One that a replica can follow at once; by default it waits 5 s for more of them.
fn to_follow() -> Stage {
    let at_once = ["--repl-diskless-sync-delay", "0"];
    let redis = Redis::start_with(&at_once);
    Stage::with(redis).set("REDIS_TIMEOUT", "10s").through_proxy()
}

fn shut_down_now(scene: &mut Scene) {
    // It ends without an answer.
    let _ = ::redis::cmd("SHUTDOWN").arg("NOSAVE").exec(&mut scene.redis.connect());
    scene.redis.kill();
}

fn stop_for(scene: &Scene, duration: Duration) {
    scene.redis.process().signal(Signal::STOP);
    last_for(duration);
    scene.redis.process().signal(Signal::CONT);
}

/// Makes one Redis the replica of another, by a link that can be silenced.
fn attach(replica: &Redis, master: &Redis) -> Proxy {
    let link = Proxy::to(master);
    let port = link.address().port().to_string();
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    eventually("the replica is in step", || {
        let info: String = replica.run(&["INFO", "replication"]);
        (info.contains("master_link_status:up") && replica.count() > 0).then_some(())
    });
    link
}

fn promote(scene: &mut Scene, replica: Redis) {
    replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    scene.proxy().lead_to(&replica);
    scene.redis = replica;
}

fn tls() -> Stage {
    let tls = Tls::new();
    let redis = tls.redis(&tls.identity(&tls.host, |_| {}), "no");
    Stage::tls(tls, redis)
}

/// A certificate for the address of this Redis, with something wrong about it.
fn identity(scene: &Scene, name: &str, spoil: impl FnOnce(&mut CertificateParams)) -> Identity {
    let tls = scene.tls.as_ref().expect("a stage with TLS");
    tls.identity(name, |params| {
        let named = CertificateParams::new([tls.host.clone()]).expect("a name");
        params.subject_alt_names = named.subject_alt_names;
        spoil(params);
    })
}

/// An outage for as long as Redis shows this certificate.
fn shows(scene: &mut Scene, bad: &Identity) {
    let host = &scene.tls.as_ref().expect("a stage with TLS").host;
    let folder = bad.key.parent().expect("a folder");
    let good =
        Identity { certificate: folder.join(format!("{host}.pem")), key: folder.join(format!("{host}.key")) };
    let set = |identity: &Identity| {
        let file = |path: &std::path::Path| path.display().to_string();
        [
            "CONFIG".to_owned(),
            "SET".to_owned(),
            "tls-cert-file".to_owned(),
            file(&identity.certificate),
            "tls-key-file".to_owned(),
            file(&identity.key),
        ]
    };
    let (bad, good) = (set(bad), set(&good));
    scene
        .outage_by(&[&bad.each_ref().map(String::as_str), SHOW_OUT], &[&good.each_ref().map(String::as_str)]);
}
