//! Processes of the service end, hang, starve.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::scene::{Instance, Scene, Stage};
use super::{Fault, Seen, WITHIN_BUDGET};
use crate::support::{Process, eventually, last_for};

faults![
    killed = Fault {
        name: "a process is killed",
        how: "`kill -9` of the processes by turns, ten times; systemd holds the socket and starts \
              the next one",
        visitors_see: &[Seen::Cut],
        inject: |scene| for turn in 0..10 {
            let instance = &mut scene.instances[turn % 2];
            instance.signal(Signal::KILL);
            instance.start_again();
            scene.load.wait_for_numbers(20);
        },
        ..WITHIN_BUDGET
    },
    terminated = Fault {
        name: "a process is told to end",
        how: "`SIGTERM` to one process; systemd holds the socket and starts the next one",
        inject: |scene| scene.instances[0].restart(),
        ..WITHIN_BUDGET
    },
    restarted_in_a_loop = Fault {
        name: "processes are restarted in a loop",
        how: "`SIGTERM` to the processes by turns, twenty times",
        inject: |scene| for turn in 0..20 {
            scene.instances[turn % 2].restart();
            scene.load.wait_for_numbers(20);
        },
        ..WITHIN_BUDGET
    },
    stopped = Fault {
        name: "a process hangs for 1 s",
        how: "`SIGSTOP`, then `SIGCONT`; visits have 10 s",
        inject: |scene| {
            scene.instances[0].signal(Signal::STOP);
            last_for(Duration::from_secs(1));
            scene.instances[0].signal(Signal::CONT);
        },
        ..WITHIN_BUDGET
    },
    out_of_files = Fault {
        name: "no file descriptor is left",
        how: "`prlimit --nofile=40` and 80 more connections, until accepting fails",
        stage: Stage::patient,
        inject: |scene| {
            scene.instances.iter().for_each(|instance| instance.service.process.limit_files(40));
            let crowd: Vec<_> = (0..160).map(|turn| scene.connect(turn)).collect();
            for instance in &mut scene.instances {
                instance.service.log_line("cannot accept connections");
            }
            drop(crowd);
        },
        ..WITHIN_BUDGET
    },
    out_of_memory = Fault {
        name: "no memory is left",
        how: "`prlimit --data=64M`, `MAX_HEADER_BYTES=1048576` and half-sent heads until the process \
              aborts; systemd starts the next one",
        visitors_see: &[Seen::Cut],
        needs: &["prlimit", "--version"],
        stage: || {
            Stage::patient()
                .wrapped(&["prlimit", "--data=67108864", "--core=0"])
                .set("MAX_HEADER_BYTES", "1048576")
        },
        inject: |scene| {
            let head = format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "x".repeat(1_000_000));
            let mut crowd = Vec::new();
            // As many as wait for a process that has ended, when no process accepts them any more.
            while !scene.instances[0].service.process.has_ended() && crowd.len() < 120 {
                let mut client = scene.connect(0);
                let stream = client.stream.get_ref();
                // Nor will anybody read, and the next process is not to be burdened with them.
                let moment = Some(Duration::from_secs(1));
                stream.set_write_timeout(moment).expect("a socket");
                set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket");
                let _ = client.send(&head);
                crowd.push(client);
            }
            scene.instances[0].service.process.wait();
            drop(crowd);
            scene.instances[0].start_again();
        },
        ..WITHIN_BUDGET
    },
    starved = Fault {
        name: "there is next to no CPU for 2 s",
        how: "`SCHED_IDLE`, on one CPU with two busy processes; visits have 60 s",
        needs: &["chrt", "--version"],
        stage: || Stage::hasty().set("REDIS_TIMEOUT", "60s"),
        inject: starve,
        ..WITHIN_BUDGET
    },
    in_another_time = Fault {
        name: "the clock jumps",
        how: "libfaketime: from today to 2060, to 2001, and on from there",
        needs: &["faketime", "-f", "+0", "true"],
        stage: by_a_clock_to_set,
        inject: |scene| for year in ["2060", "2001"] {
            let clock = scene.folder.path().join("clock");
            let next = scene.folder.path().join("next");
            fs::write(&next, format!("@{year}-01-01 00:00:00")).expect("a file");
            fs::rename(next, clock).expect("a file");
            for instance in &mut scene.instances {
                let now = format!("\"timestamp\":\"{year}-");
                instance.service.log_line(&now);
            }
            scene.load.wait_for_numbers(100);
        },
        ..WITHIN_BUDGET
    },
    unread = Fault {
        name: "the log is not read",
        how: "`SIGSTOP` to the reader of its stdout, until lines are dropped",
        needs: &["bash", "-c", "true"],
        stage: piped,
        inject: |scene| {
            for instance in &scene.instances {
                reader(instance, Signal::STOP);
            }
            lines_are_dropped(scene);
            for instance in &scene.instances {
                reader(instance, Signal::CONT);
            }
        },
        ..WITHIN_BUDGET
    },
    unreadable = Fault {
        name: "stdout is closed",
        how: "`kill -9` to the reader of its stdout",
        needs: &["bash", "-c", "true"],
        stage: piped,
        inject: |scene| {
            for instance in &scene.instances {
                reader(instance, Signal::KILL);
            }
            lines_are_dropped(scene);
        },
        ..WITHIN_BUDGET
    },
    disk_full = Fault {
        name: "the disk with the log is full",
        how: "stdout is a file on a `tmpfs` of 64 KiB",
        needs: &["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        stage: || {
            let script = "mount -t tmpfs -o size=64k tmpfs /mnt && touch /mnt/log && \
                          { tail --pid=$$ -n +1 -f /mnt/log 3<&- & } && exec \"$@\" >/mnt/log";
            Stage::patient()
                .set("ACCESS_LOG", "on")
                .wrapped(&["unshare", "--mount", "bash", "-c", script, "bash"])
        },
        inject: lines_are_dropped,
        ..WITHIN_BUDGET
    },
];

/// Leaves the processes what two others on the same CPU do not want.
fn starve(scene: &mut Scene) {
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(cpu.expect("there is one"));
    let bind = |pid: Pid| sched_setaffinity(Some(pid), &one).expect("they are ours");
    for instance in &scene.instances {
        let pid = instance.service.process.pid();
        let idle = Command::new("chrt").args(["--idle", "--pid", "0", &pid.to_string()]).status();
        assert!(idle.expect("chrt is there").success());
        bind(pid);
    }
    let busy: Vec<_> =
        (0..2).map(|_| Process::spawn(Command::new("sh").args(["-c", "while :; do :; done"]))).collect();
    for process in &busy {
        bind(process.pid());
    }
    last_for(Duration::from_secs(2));
    drop(busy);
    for instance in &scene.instances {
        let pid = instance.service.process.pid();
        sched_setaffinity(Some(pid), &allowed).expect("they are ours");
    }
}

/// Processes that go by a clock which a file in the scene's folder sets. Durations stay true, as they
/// do when an administrator sets the clock of a machine.
fn by_a_clock_to_set() -> Stage {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    fs::write(&clock, "+0").expect("a file");
    let library =
        Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().expect("it is there");
    let library = String::from_utf8(library.stdout).expect("a path");
    let clock = clock.display().to_string();
    let environment = [
        ("LD_PRELOAD", library.trim_end()),
        ("FAKETIME_TIMESTAMP_FILE", clock.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let pairs = environment.map(|(name, value)| format!("{name}={value}"));
    let mut wrapper = vec!["env"];
    wrapper.extend(pairs.iter().map(String::as_str));
    Stage::patient().set("ACCESS_LOG", "on").wrapped(&wrapper).in_folder(folder)
}

/// Processes with a reader of stdout that can be stopped.
fn piped() -> Stage {
    let script = "exec \"$@\" > >(exec cat 3<&-)";
    Stage::patient().set("ACCESS_LOG", "on").wrapped(&["bash", "-c", script, "bash"])
}

fn reader(instance: &Instance, signal: Signal) {
    let pid = instance.service.process.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let reader = children.ok().and_then(|children| Pid::from_raw(children.trim().parse().ok()?));
    let reader = reader.expect("it is the only child");
    rustix::process::kill_process(reader, signal).expect("it is there");
}

fn lines_are_dropped(scene: &mut Scene) {
    for instance in &scene.instances {
        eventually("lines are dropped", || {
            let dropped = instance.service.metric("abukiks_log_lines_dropped_total");
            (dropped > 0.0).then_some(())
        });
    }
    scene.load.wait_for_numbers(100);
}
