//! `nixos-rebuild switch` from every state to every other, with visitors all the while: on a booted
//! systemd, the units change as NixOS's program switch-to-configuration-ng has them change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::load::Load;
use crate::machine::Machine;
use crate::nixos::{self, Entry, Tree};
use crate::support::{Client, eventually};
use crate::systemd::next_release;

/// A NixOS host that switches between generations.
struct Host {
    machine: Machine,
    /// The folder that `/etc/systemd/system` leads to, as it is seen from outside.
    units: PathBuf,
    generations: u32,
}

/// The sections of a unit: the values of each key, in the order given.
type Definition = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// What a switch does to the units that are active.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Before the new units are there.
    stop: BTreeSet<String>,
    restart: BTreeSet<String>,
    /// Last. Every active target is among them, and pulls in what it wants.
    start: BTreeSet<String>,
}

impl Host {
    fn boot(tree: &Tree) -> Option<Self> {
        let machine = nixos::boot(tree, &[])?;
        let units = machine.file("/nix/store/units");
        Some(Self { machine, units, generations: 0 })
    }

    /// Lays a generation out: the units of `tree`, with the package whose units are in `package`.
    fn build(&mut self, tree: &Tree, package: &str) -> (String, PathBuf) {
        self.generations += 1;
        let folder = format!("/nix/store/units-{}", self.generations);
        tree.lay_out(
            &self.machine.file("/"),
            &folder,
            &self.machine.file(&format!("{package}/lib/systemd/system")),
        );
        let units = self.machine.file(&folder);
        (folder, units)
    }

    /// Switches; an error is what went wrong with units, as the program would report it.
    fn switch(&mut self, tree: &Tree, package: &str) -> Result<(), String> {
        let (folder, new) = self.build(tree, package);
        let plan = self.plan(&new);
        // One call queues the jobs of all its units before it waits, as the program does.
        let systemctl = |verb: &str, units: &BTreeSet<String>| -> Result<(), String> {
            let words = ["systemctl", verb].into_iter().chain(units.iter().map(String::as_str));
            let words: Vec<_> = words.collect();
            if units.is_empty() {
                return Ok(());
            }
            let output = self.machine.try_run(&words);
            let said = String::from_utf8_lossy(&output.stderr);
            output.status.success().then_some(()).ok_or(format!("{words:?}: {said}"))
        };
        let stopped = systemctl("stop", &plan.stop);
        let link = ["ln", "-sfn", &folder, "/etc/systemd/system"];
        self.machine.run(&link);
        self.machine.systemctl(&["reset-failed"]);
        self.machine.systemctl(&["daemon-reload"]);
        let restarted = systemctl("restart", &plan.restart);
        let started = systemctl("start", &plan.start);
        self.units = new;
        stopped.and(restarted).and(started)
    }

    /// Decides what a switch to the units in `new` does.
    fn plan(&self, new: &Path) -> Plan {
        let list = ["list-units", "--plain", "--no-legend", "--state=active,activating"];
        let active = self.machine.systemctl(&list);
        let mut plan = Plan::default();
        plan.start.extend(["multi-user.target", "sockets.target"].map(str::to_owned));
        for unit in active.lines().filter_map(|line| line.split_whitespace().next()) {
            let Some((name, kind)) = unit.rsplit_once('.') else {
                continue;
            };
            let base = match name.split_once('@') {
                Some((template, _)) => format!("{template}@.{kind}"),
                None => unit.to_owned(),
            };
            // The others are units of the system below, which no generation changes.
            if !self.units.join(&base).exists() {
                continue;
            }
            let has_own = |units: &Path| !drop_ins(units, unit).is_empty();
            let taken_out = base != unit && has_own(&self.units) && !has_own(new);
            let was = read(&self.units, &base, unit);
            if taken_out || !new.join(&base).exists() {
                if value(&was, "Unit", "X-StopOnRemoval") != Some("false") {
                    plan.stop.insert(unit.to_owned());
                }
                continue;
            }
            let is = read(new, &base, unit);
            let flag = |key| value(&is, "Service", key);
            match kind {
                "target" => _ = plan.start.insert(unit.to_owned()),
                // A socket that is open stays as it is, whatever has changed.
                "service" if was != is && flag("X-RestartIfChanged") != Some("false") => {
                    // By default a service stops before the new units are there. None of ours does.
                    if flag("X-StopIfChanged") == Some("false") {
                        plan.restart.insert(unit.to_owned());
                    } else {
                        plan.stop.insert(unit.to_owned());
                        plan.start.insert(unit.to_owned());
                    }
                }
                _ => {}
            }
        }
        plan
    }
}

fn drop_ins(units: &Path, unit: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(units.join(format!("{unit}.d")));
    let mut files: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// A unit with its drop-ins, then those of the instance. Unlike systemd, NixOS's program reads both of
/// two that have one name.
fn read(units: &Path, base: &str, unit: &str) -> Definition {
    let mut files = vec![units.join(base)];
    files.extend(drop_ins(units, base));
    if base != unit {
        files.extend(drop_ins(units, unit));
    }
    let mut definition = Definition::new();
    let mut section = String::new();
    for file in files {
        for line in fs::read_to_string(&file).expect("a unit").lines() {
            if let Some(name) = line.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut section);
            } else if let Some((key, value)) = line.split_once('=') {
                let of_no_matter = section == "Install"
                    || line.starts_with('#')
                    || section == "Unit" && ["Description", "Documentation"].contains(&key);
                if of_no_matter {
                    continue;
                }
                let keys = definition.entry(section.clone()).or_default();
                let values = keys.entry(key.to_owned()).or_default();
                // An empty value forgets those before it.
                if value.is_empty() {
                    values.clear();
                } else {
                    values.push(value.to_owned());
                }
            }
        }
    }
    definition
}

fn value<'a>(unit: &'a Definition, section: &str, key: &str) -> Option<&'a str> {
    unit.get(section)?.get(key)?.last().map(String::as_str)
}

/// The package of the release that the machine was installed with, and of another.
const PACKAGES: [&str; 2] = ["/usr/local", "/opt/next"];

/// The version that an instance tells.
fn version(address: SocketAddr) -> String {
    let version = Client::connect(address).get("/version").body;
    let version: serde_json::Value = serde_json::from_str(&version).expect("JSON");
    version["version"].as_str().expect("text").to_owned()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

#[test]
fn a_switch_from_every_host_and_release_to_every_other_keeps_its_promises() {
    let hosts = ["local", "more", "on-demand", "loopback"].map(|host| (host, Tree::golden(host)));
    let Some(mut host) = Host::boot(&hosts[0].1) else {
        return;
    };
    let next = next_release(host.machine.programs());
    host.machine.install_below(PACKAGES[1], next.path());
    let versions = PACKAGES.map(|package| {
        let program = format!("{package}/bin/abukiks");
        let said = host.machine.run(&[&program, "--version"]);
        said.split_whitespace().nth(1).expect("a version").to_owned()
    });
    assert_ne!(versions[0], versions[1]);
    host.machine.systemctl(&["start", "abukiks@5009"]);

    // Each host is left for each other one, every second time with another release.
    let mut steps = Vec::new();
    for from in 0..hosts.len() {
        for to in from + 1..hosts.len() {
            steps.extend([to, from]);
        }
        steps.push(from + 1);
    }
    steps.pop();
    let (mut current, mut release) = (0, 0);
    let mut numbers = Vec::new();
    for (index, to) in steps.into_iter().enumerate() {
        release ^= index % 2;
        let (name, tree) = &hosts[to];
        let step = format!("{} to {name}, release {}", hosts[current].0, versions[release]);
        let moves = (hosts[current].0 == "loopback") != (*name == "loopback");

        let load = Load::start(&[5000, 5001], 2);
        load.wait_for(20);
        assert_eq!(host.switch(tree, PACKAGES[release]), Ok(()), "{step}");
        load.wait_for(20);
        let tally = load.stop();
        // To open another address systemd closes the port first.
        assert!(tally.is_flawless() || moves, "{step}: {tally}");
        assert!(tally.refusals.is_empty(), "{step}: {tally}");
        numbers.extend(tally.numbers());

        let declared = tree.ports("sockets", "socket");
        for port in declared.iter().copied().chain([5009]) {
            assert_eq!(version(local(port)), versions[release], "{step}: {port}");
            let other = SocketAddr::from(([127, 0, 0, 2], port));
            let is_open = TcpStream::connect(other).is_ok();
            assert_eq!(is_open, *name != "loopback", "{step}: {port}");
        }
        let is_open = TcpStream::connect(local(5002)).is_ok();
        assert_eq!(is_open, declared.contains(&5002), "{step}");
        current = to;
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "a number was given twice");
}

#[test]
fn a_port_that_waits_for_its_first_visitor_moves_with_the_address() {
    let (idle, moved) = (Tree::golden("on-demand"), Tree::golden("loopback"));
    let Some(mut host) = Host::boot(&idle) else {
        return;
    };
    host.machine.systemctl(&["start", "abukiks@5009.socket"]);
    for (tree, open_to_all) in [(&moved, false), (&idle, true)] {
        host.machine.systemctl(&["stop", "abukiks@5001.service", "abukiks@5009.service"]);
        host.switch(tree, PACKAGES[0]).expect("a switch");
        for port in [5000, 5001, 5009] {
            let other = SocketAddr::from(([127, 0, 0, 2], port));
            assert_eq!(TcpStream::connect(other).is_ok(), open_to_all, "{port}");
            assert_eq!(host.machine.connect(port).get("/").status, 200, "{port}");
        }
    }
}

#[test]
fn ports_for_monitoring_open_and_close_with_a_switch() {
    let (without, with) = (Tree::golden("local"), Tree::golden("monitor"));
    let Some(mut host) = Host::boot(&without) else {
        return;
    };
    host.machine.systemctl(&["start", "abukiks@5009"]);
    for (tree, is_on) in [(&with, true), (&without, false), (&with, true)] {
        host.switch(tree, PACKAGES[0]).expect("a switch");
        for port in [5000, 5001] {
            let there = TcpStream::connect(with.monitor(port));
            assert_eq!(there.is_ok(), is_on, "{port}");
            assert_eq!(Client::connect(tree.monitor(port)).get("/readyz").status, 200, "{port}");
            let shown = if is_on { 404 } else { 200 };
            assert_eq!(host.machine.connect(port).get("/readyz").status, shown, "{port}");
            assert_eq!(host.machine.connect(port).get("/").status, 200, "{port}");
        }
    }
    // One that was started by hand has what all have.
    assert_eq!(Client::connect(with.monitor(5009)).get("/readyz").status, 200);
}

#[test]
fn a_host_that_was_set_up_before_addresses_could_change_learns_to() {
    let [local, loopback] = ["local", "loopback"].map(Tree::golden);
    let mut old = local.clone();
    old.0.retain(|path, _| !path.starts_with("abukiks-listen"));
    for entry in old.0.values_mut() {
        if let Entry::Text(text) = entry {
            let lines = text.lines().filter(|line| !line.ends_with("=abukiks-listen@%i.service"));
            let kept: String = lines.map(|line| format!("{line}\n")).collect();
            let wants = |port| format!(" abukiks-listen@{port}.service");
            *text = kept.replace(&wants(5000), "").replace(&wants(5001), "");
        }
    }
    let Some(mut host) = Host::boot(&old) else {
        return;
    };
    let open_to_all = || TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), 5000)).is_ok();
    host.switch(&local, PACKAGES[0]).expect("a switch");
    assert!(open_to_all());
    host.switch(&loopback, PACKAGES[0]).expect("a switch");
    assert!(!open_to_all());
    assert_eq!(host.machine.connect(5000).get("/").status, 200);
}

#[test]
fn a_switch_restarts_only_the_instances_that_it_changes() {
    let (local, more) = (Tree::golden("local"), Tree::golden("more"));
    let Some(mut host) = Host::boot(&local) else {
        return;
    };
    let pids = |host: &Host| [5000, 5001].map(|port| host.machine.main_pid(port));
    let before = pids(&host);
    // What `nixos-rebuild dry-activate` shows, and it changes nothing.
    let (_, new) = host.build(&more, PACKAGES[0]);
    let plan = host.plan(&new);
    assert_eq!(plan.restart, BTreeSet::from(["abukiks@5001.service".to_owned()]));
    assert!(plan.stop.is_empty());
    assert_eq!(pids(&host), before);

    host.switch(&more, PACKAGES[0]).expect("a switch");
    let after = pids(&host);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    // Nothing changes: an environment file is read when an instance starts, and not before.
    host.machine.write("/etc/abukiks/5000.env", "RELEASE=from-the-file\n");
    host.switch(&more, PACKAGES[0]).expect("a switch");
    assert_eq!(pids(&host), after);
    host.machine.systemctl(&["restart", "abukiks@5000"]);
    let version = host.machine.connect(5000).get("/version").body;
    assert!(version.contains("from-the-file"), "{version}");
}

#[test]
fn a_switch_that_changes_the_local_redis_and_systemd_itself_fails_no_request() {
    let old = Tree::golden("local");
    let mut new = old.clone();
    let Some(Entry::Text(redis)) = new.0.get_mut("redis-abukiks.service") else {
        panic!("Redis is part of this host");
    };
    *redis = redis.replace("LimitNOFILE=10032", "LimitNOFILE=10064");
    let Some(mut host) = Host::boot(&old) else {
        return;
    };
    let redis = host.machine.show("redis-abukiks", "MainPID");
    let load = Load::start(&[5000, 5001], 2);
    load.wait_for(20);
    host.switch(&new, PACKAGES[0]).expect("a switch");
    load.wait_for(20);
    host.machine.systemctl(&["daemon-reexec"]);
    load.wait_for(20);
    let tally = load.stop();
    assert_ne!(host.machine.show("redis-abukiks", "MainPID"), redis);
    assert!(tally.is_flawless(), "{tally}");
    assert!(tally.is_unique());
}

#[test]
fn an_admin_task_outlives_a_switch() {
    let tree = Tree::golden("local");
    let Some(mut host) = Host::boot(&tree) else {
        return;
    };
    let next = next_release(host.machine.programs());
    host.machine.install_below(PACKAGES[1], next.path());
    let script = "/usr/local/libexec/abukiks/stay";
    host.machine.write(script, "#!/bin/sh\nexec sleep infinity\n");
    host.machine.run(&["chmod", "755", script]);
    host.machine.systemctl(&["start", "--no-block", "abukiks-admin@stay"]);
    let run = || {
        let state = host.machine.show("abukiks-admin@stay", "SubState");
        let id = host.machine.show("abukiks-admin@stay", "InvocationID");
        (state == "start").then_some(id)
    };
    let before = eventually("the task runs", run);
    host.switch(&tree, PACKAGES[1]).expect("a switch");
    assert_eq!(version(local(5000)), crate::systemd::NEXT);
    assert_eq!(host.machine.show("abukiks-admin@stay", "InvocationID"), before);
    assert_eq!(host.machine.show("abukiks-admin@stay", "SubState"), "start");
}

#[test]
fn a_service_that_is_disabled_closes_its_ports_and_comes_back() {
    let tree = Tree::golden("local");
    let Some(mut host) = Host::boot(&tree) else {
        return;
    };
    host.machine.systemctl(&["start", "abukiks@5009"]);
    assert_eq!(host.machine.connect(5009).get("/").number(), 1);
    let none = Tree(BTreeMap::from([(
        "multi-user.target.wants/nothing.service".to_owned(),
        Entry::Link("../nothing.service".to_owned()),
    )]));
    host.machine.run(&["mkdir", "--parents", "/opt/none/lib/systemd/system"]);
    host.switch(&none, "/opt/none").expect("a switch");
    for port in [5000, 5001, 5009] {
        assert!(TcpStream::connect(local(port)).is_err(), "{port}");
    }
    host.switch(&tree, PACKAGES[0]).expect("a switch");
    assert_eq!([5000, 5001].map(|port| host.machine.connect(port).get("/").number()), [2, 3]);
}

#[test]
fn a_release_that_does_not_start_is_switched_back_from() {
    let tree = Tree::golden("local");
    let Some(mut host) = Host::boot(&tree) else {
        return;
    };
    for (status, port_is_kept) in [(1, true), (78, false)] {
        let broken = tempfile::tempdir().expect("a folder");
        for program in fs::read_dir(host.machine.programs()).expect("programs").flatten() {
            fs::copy(program.path(), broken.path().join(program.file_name())).expect("a program");
        }
        fs::write(broken.path().join("abukiks"), format!("#!/bin/sh\nexit {status}\n")).expect("a program");
        let package = format!("/opt/exits-with-{status}");
        host.machine.install_below(&package, broken.path());

        host.switch(&tree, &package).expect_err("units fail");
        let waiting = (status == 1).then(|| {
            let mut client = host.machine.connect(5000);
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("the port is open");
            client
        });
        if !port_is_kept {
            eventually("the port is given up", || TcpStream::connect(local(5000)).is_err().then_some(()));
        }
        host.switch(&tree, PACKAGES[0]).expect("a switch");
        if let Some(mut client) = waiting {
            assert_eq!(client.read(false).expect("an answer").status, 200);
        }
        for port in [5000, 5001] {
            assert_eq!(host.machine.connect(port).get("/").status, 200, "{status}: {port}");
        }
    }
}
