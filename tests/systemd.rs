//! What systemd makes of the unit files, on a real one that has booted.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::documentation::manual;
use crate::load::{self, Load, Wrk};
use crate::machine::Machine;
use crate::support::{Client, Process, eventually};

pub(crate) mod backups;
mod reports;
mod walk;

/// A fact that a person may want to know of a test that passes.
pub(crate) fn report(fact: &str) {
    let _ = writeln!(io::stderr(), "systemd: {fact}");
}

#[test]
fn an_instance_starts_by_its_name_alone_and_shares_the_count() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.show("abukiks@5001.socket", "SubState"), "running");
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    machine.systemctl(&["start", "abukiks@5002"]);
    assert_eq!(machine.connect(5002).get("/").number(), 2);
    assert_eq!(machine.connect(5001).get("/").number(), 3);
    assert_eq!(machine.count(), 3);
}

#[test]
fn a_name_that_is_no_port_is_refused_with_the_reason() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    for name in ["abc", "0", "70000"] {
        let started = machine.try_run(&["systemctl", "start", &format!("abukiks@{name}")]);
        assert!(!started.status.success(), "{name}");
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        let socket = format!("abukiks@{name}.socket");
        assert!(said.contains(&format!("Unit {socket} has a bad unit file setting")), "{said}");
        let journal = machine.journal(&["--identifier=systemd"]);
        assert!(journal.contains(&format!("Failed to parse address value in '{name}'")), "{journal}");
        assert!(journal.contains(&format!("{socket}: Unit has no Listen setting")));
    }
}

#[test]
fn the_first_connection_starts_the_instance_and_is_answered() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["enable", "--now", "abukiks@5001.socket"]);
    assert_eq!(machine.show("abukiks@5001", "ActiveState"), "inactive");
    let connecting = Instant::now();
    let answer = machine.connect(5001).get("/");
    let waited = connecting.elapsed();
    assert_eq!(answer.number(), 1);
    assert_eq!(machine.show("abukiks@5001", "ActiveState"), "active");
    report(&format!("{waited:?} from the first connection to its answer"));
}

#[test]
fn twenty_restarts_under_load_fail_no_request() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    let load = Load::start(&[5001], 4);
    let foreign = [true, false].map(|keep_alive| Wrk::start(5001, keep_alive));
    let mut processes = vec![machine.main_pid(5001)];
    for _ in 0..20 {
        load.wait_for(50);
        machine.systemctl(&["restart", "abukiks@5001"]);
        processes.push(machine.main_pid(5001));
    }
    load.wait_for(50);
    let foreign = foreign.map(Wrk::stop);
    let tally = load.stop();
    report(&format!("20 restarts: {tally}"));
    assert!(tally.is_flawless(), "{tally} {:?} {:?}", tally.unconnected, tally.unanswered);
    assert!(tally.is_unique());
    for wrk in &foreign {
        assert!(load::is_flawless(wrk), "{wrk}");
    }
    processes.dedup();
    assert_eq!(processes.len(), 21, "each restart is another process");
    assert_eq!(machine.show("abukiks@5001.socket", "SubState"), "running");
}

#[test]
fn the_units_verify_in_silence_and_expose_little() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let units = [
        "abukiks@5001.socket",
        "abukiks@5001.service",
        "abukiks-admin@reset-count.service",
        "abukiks.target",
        "system-abukiks.slice",
    ];
    let verify = ["systemd-analyze", "verify"];
    // In the machine, and by whichever systemd is outside of it.
    let inside = machine.command(&[&verify[..], &units].concat()).output();
    let prefix = tempfile::tempdir().expect("a folder");
    let install = Command::new("systemd/install.sh")
        .arg("install")
        .envs([("DESTDIR", "/"), ("PREFIX", &prefix.path().display().to_string())])
        .env("BUILD", machine.programs())
        .status();
    assert!(install.expect("a shell").success());
    let path = format!("{}/lib/systemd/system:", prefix.path().display());
    let outside = Command::new(verify[0]).arg(verify[1]).args(units).env("SYSTEMD_UNIT_PATH", path).output();
    for verified in [inside, outside] {
        let verified = verified.expect("systemd-analyze is there");
        assert!(verified.status.success(), "{verified:?}");
        assert!(verified.stderr.is_empty() && verified.stdout.is_empty(), "{verified:?}");
    }

    let service = "abukiks@5001.service";
    assert!(machine.exposure(service) <= 0.3);
    machine.systemctl(&["start", service]);
    open_for_redis_by_tcp(&machine);
    assert!(machine.exposure(service) <= 1.1);
}

/// Puts the drop-in that is shipped into force.
fn open_for_redis_by_tcp(machine: &Machine) {
    let place = "/etc/systemd/system/abukiks@.service.d/10-redis-tcp.conf";
    let shipped = "/usr/local/share/abukiks/redis-tcp.conf";
    machine.run(&["ln", "-s", shipped, place]);
    machine.systemctl(&["daemon-reload"]);
}

#[test]
fn a_redis_by_tcp_is_reached_with_the_drop_in_that_is_shipped_and_only_then() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let url = "REDIS_URL=redis://127.0.0.1:6379/\n";
    machine.write("/etc/abukiks/abukiks.env", url);
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").status, 503);
    open_for_redis_by_tcp(&machine);
    machine.systemctl(&["restart", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "1\n");

    // A drop-in of the administrator is read later: it adds networks, or puts others in their place.
    // Whether a kernel filters by them is its own business; an admin process gets what the unit says.
    let own = "/etc/systemd/system/abukiks@.service.d/addresses.conf";
    for (lines, private, reached) in [
        ("IPAddressAllow=localhost 203.0.113.7\n", true, &[0][..]),
        ("IPAddressAllow=\nIPAddressAllow=203.0.113.7\n", false, &[0, 69]),
    ] {
        machine.write(own, &format!("[Service]\n{lines}"));
        machine.systemctl(&["daemon-reload"]);
        let allowed = machine.show("abukiks@5001", "IPAddressAllow");
        assert!(allowed.contains("203.0.113.7"), "{allowed}");
        assert_eq!(allowed.contains("10.0.0.0/8"), private, "{allowed}");
        let shown = machine.try_run(&["abukiks-admin", "show-count"]).status;
        assert!(reached.contains(&shown.code().expect("a status")), "{lines}: {shown}");
    }
}

#[test]
fn a_changed_address_takes_effect_when_the_instance_restarts() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001", "abukiks@5002"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    // Another address of this machine: without its socket the instance must not bind HOST and PORT.
    machine.drop_in("abukiks@5001.socket", "[Socket]\nListenStream=\nListenStream=127.0.0.2:%i\n");
    assert_eq!(machine.connect(5001).get("/").number(), 2);
    machine.systemctl(&["restart", "abukiks@5001"]);
    let moved = SocketAddr::from(([127, 0, 0, 2], 5001));
    eventually("the new address answers", || TcpStream::connect(moved).ok());
    assert_eq!(Client::connect(moved).get("/").number(), 3);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, 5001)).is_err());
    assert_eq!(machine.show("abukiks@5001", "ActiveState"), "active");
    machine.logged(
        &["--unit=abukiks@5001", "--identifier=abukiks"],
        "no socket was handed over (LISTEN_FDS), and --socket-activated forbids to bind",
    );
    assert_eq!(machine.connect(5002).get("/").number(), 4);
}

#[test]
fn monitoring_has_a_port_of_its_own_which_goes_with_that_of_the_instance() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["enable", "abukiks-monitor@5001.socket"]);
    machine.systemctl(&["start", "abukiks@5001.socket"]);
    assert_eq!(machine.connect(15001).get("/healthz").status, 200);
    for path in ["/healthz", "/readyz", "/metrics", "/version", "/status"] {
        assert_eq!(machine.connect(5001).get(path).status, 404, "{path}");
    }
    for number in 1..=2 {
        assert_eq!(machine.connect(5001).get("/").number(), number);
        let metrics = machine.connect(15001).get("/metrics").body;
        assert!(metrics.contains("abukiks_visits_total{visitor=\"new\"} 1\n"), "{metrics}");
        machine.systemctl(&["restart", "abukiks@5001"]);
    }
    // What asks for metrics does not bring an instance back that was stopped.
    machine.systemctl(&["stop", "abukiks@5001.socket"]);
    let monitor = TcpStream::connect((Ipv4Addr::LOCALHOST, 15001));
    assert!(monitor.is_err(), "the port of monitoring is open");
    machine.systemctl(&["start", "abukiks@5001.socket"]);
    assert_eq!(machine.connect(15001).get("/readyz").body, "ready\n");
}

#[test]
fn top_shows_the_instances_of_the_host_and_starts_none() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["enable", "abukiks-monitor@5001.socket"]);
    machine.systemctl(&["start", "abukiks@5001.socket", "abukiks@5002.socket", "abukiks@5003.socket"]);
    for port in [5001, 5002] {
        machine.connect(port).get("/");
    }
    // Its stdout is no terminal here.
    let table = machine.run(&["abukiks-admin", "top"]);
    for (instance, shown) in
        [("5001  ", "  serving  "), ("5002  ", "  serving  "), ("5003  ", "  not running")]
    {
        let row = table.lines().find(|line| line.starts_with(instance));
        assert!(row.is_some_and(|row| row.contains(shown)), "{instance} in {table}");
    }
    assert_eq!(machine.show("abukiks@5003.service", "ActiveState"), "inactive");
    assert!(machine.run(&["abukiks-admin", "top", "--help"]).contains("--once"));
    // On a terminal, which script(1) is to its command: an instance that is stopped meanwhile stays down.
    let watching = Process::spawn(
        machine
            .command(&["script", "--quiet", "--flush", "--command", "abukiks-admin top", "/root/screen"])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    );
    let screen = machine.file("/root/screen");
    let tables = |shown: &str| {
        let screen = fs::read(&screen).unwrap_or_default();
        let screen = String::from_utf8_lossy(&screen).into_owned();
        screen.split("\x1b[H\x1b[J").filter(|table| table.contains(shown)).count()
    };
    let down = format!("5002{}not running", " ".repeat(6));
    eventually("it is shown", || (tables("5002") >= 1).then_some(()));
    machine.systemctl(&["stop", "abukiks@5002.service"]);
    eventually("it is shown as stopped, twice", || (tables(&down) >= 2).then_some(()));
    assert_eq!(machine.show("abukiks@5002.service", "ActiveState"), "inactive");
    drop(watching);
    machine.systemctl(&["stop", "abukiks.target"]);
    assert_eq!(machine.try_run(&["abukiks-admin", "top"]).status.code(), Some(69));
}

#[test]
fn uninstall_leaves_nothing_of_what_install_has_put_there() {
    let destination = tempfile::tempdir().expect("a folder");
    let programs = Path::new(env!("CARGO_BIN_EXE_abukiks")).parent();
    let run = |action: &str| {
        let status = Command::new("systemd/install.sh")
            .arg(action)
            .env("DESTDIR", destination.path())
            .env("BUILD", programs.expect("a folder"))
            .status();
        assert!(status.expect("a shell").success());
        let found = Command::new("find").arg(destination.path()).args(["-type", "f"]).output();
        String::from_utf8(found.expect("find").stdout).expect("text")
    };
    let installed = run("install");
    for file in [
        "bin/abukiks",
        "abukiks@.service",
        "man/man1/abukiks.1",
        "man/man8/abukiks-admin.8",
        "bash-completion/completions/abukiks-admin",
        "zsh/site-functions/_abukiks",
        "fish/vendor_completions.d/abukiks.fish",
    ] {
        assert!(installed.contains(file), "{installed}");
    }
    assert_eq!(run("uninstall"), "");
}

#[test]
fn programs_for_other_attached_resources_are_installed_where_they_are_built() {
    let (destination, build) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let built = build.path();
    let run = |action: &str| {
        let mut script = Command::new("systemd/install.sh");
        script.arg(action).env("DESTDIR", destination.path()).env("BUILD", built);
        assert!(script.status().expect("a shell").success());
    };
    for program in ["abukiks", "reset-count", "show-count", "check-redis", "top"] {
        fs::write(built.join(program), program).expect("a file");
    }
    let found = || {
        let found = Command::new("find").arg(destination.path()).args(["!", "-type", "d"]).output();
        String::from_utf8(found.expect("find").stdout).expect("text")
    };
    run("install");
    let service = found();
    assert!(!service.contains("backup") && !service.contains("report"), "{service}");
    for program in ["backup-count", "restore-count"] {
        fs::write(built.join(program), program).expect("a file");
    }
    run("install");
    let both = found();
    for file in [
        "libexec/abukiks/backup-count",
        "libexec/abukiks/restore-count",
        "system/abukiks-backup.timer",
        "system/abukiks@backup.service.d/10-backup.conf",
        "system/abukiks@backup.socket",
    ] {
        assert!(both.contains(file), "{both}");
    }
    assert!(!both.contains("report"), "{both}");
    fs::write(built.join("mail-report"), "mail-report").expect("a file");
    run("install");
    let all = found();
    for file in [
        "libexec/abukiks/mail-report",
        "system/abukiks-report.timer",
        "system/abukiks@report.service.d/10-report.conf",
        "system/abukiks@report.socket",
    ] {
        assert!(all.contains(file), "{all}");
    }
    run("uninstall");
    assert_eq!(found(), "");
    let folders = Command::new("find").arg(destination.path()).args(["-name", "abukiks@*"]).output();
    assert_eq!(folders.expect("find").stdout, b"");
}

#[test]
fn install_refuses_a_path_that_a_unit_cannot_name() {
    let destination = tempfile::tempdir().expect("a folder");
    for (name, path) in [
        ("PREFIX", "/opt/a b"),
        ("PREFIX", "/opt/a&b"),
        ("PREFIX", "opt"),
        ("UNITDIR", "/etc/100%"),
        ("UNITDIR", "system"),
        ("BUILD", "target/a|b"),
    ] {
        let output = Command::new("systemd/install.sh")
            .arg("install")
            .env("DESTDIR", destination.path())
            .env(name, path)
            .output()
            .expect("a shell");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(64), "{said}");
        let named = format!("systemd/install.sh: {name}={path}: accepted is ");
        assert!(said.starts_with(&named), "{said}");
        let mut installed = fs::read_dir(destination.path()).expect("a folder");
        assert!(installed.next().is_none(), "{name}={path}");
    }
}

#[test]
fn fifty_crashes_under_load_fail_only_what_was_in_flight() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    let (clients, crashes) = (8, 50);
    let load = Load::start(&[5001], clients / 2);
    for _ in 0..crashes {
        load.wait_for(20);
        machine.systemctl(&["kill", "--signal=KILL", "abukiks@5001"]);
    }
    load.wait_for(20);
    let tally = load.stop();
    report(&format!("{crashes} crashes: {tally}"));
    assert!(tally.unconnected.is_empty(), "the port never refuses: {tally}");
    assert!(tally.refusals.is_empty(), "{tally}");
    assert!(tally.unanswered.len() <= clients * crashes, "{tally}");
    assert!(tally.is_unique());
    let (least, count) = (tally.numbers().len(), machine.count());
    let most = least + tally.unanswered.len();
    assert!((least as i64..=most as i64).contains(&count), "{count}: {tally}");
    assert_eq!(machine.show("abukiks@5001", "NRestarts"), crashes.to_string());
    assert_eq!(machine.show("abukiks@5001.socket", "SubState"), "running");
}

/// Sends a visit that Redis keeps waiting for this long, and returns once it is on its way.
fn visit_in_flight(machine: &Machine, port: u16, pause_ms: u32) -> Client {
    machine.redis(&["CLIENT", "PAUSE", &pause_ms.to_string()]);
    let mut client = machine.connect(port);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("the service listens");
    eventually("the visit waits", || {
        let metrics = machine.connect(port).get("/metrics").body;
        metrics.contains("\nabukiks_waiting_visits 1\n").then_some(())
    });
    client
}

#[test]
fn stop_lets_a_slow_request_finish_even_past_the_time_that_systemd_gives() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "REDIS_TIMEOUT=30s\n");
    // The drain asks for more, second by second.
    machine.drop_in("abukiks@5001.service", "[Service]\nTimeoutStopSec=2s\n");
    machine.systemctl(&["start", "abukiks@5001"]);
    let mut client = visit_in_flight(&machine, 5001, 4000);
    machine.systemctl(&["stop", "abukiks@5001"]);
    let answer = client.read(false).expect("an answer");
    assert_eq!(answer.number(), 1);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(machine.show("abukiks@5001", "Result"), "success");
    machine.logged(&["--unit=abukiks@5001"], "drained");
}

#[test]
fn past_drain_timeout_what_remains_is_cut_and_logged() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "REDIS_TIMEOUT=1min\nDRAIN_TIMEOUT=1s\n");
    machine.systemctl(&["start", "abukiks@5001"]);
    let pause_ms = 60_000;
    let mut client = visit_in_flight(&machine, 5001, pause_ms);
    let stopping = Instant::now();
    machine.systemctl(&["stop", "abukiks@5001"]);
    assert!(stopping.elapsed().as_millis() < u128::from(pause_ms) / 2, "it did not wait for Redis");
    assert!(client.read(false).is_err(), "it was cut");
    assert_eq!(machine.show("abukiks@5001", "Result"), "success");
    machine.logged(&["ANSWERING=1", "PRIORITY=4"], "DRAIN_TIMEOUT has passed");
}

#[test]
fn settings_come_from_the_files_and_the_credential() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    // The instance's file has the last word, and what it does not say holds.
    machine.write(
        "/etc/abukiks/abukiks.env",
        "REDIS_URL=unix:///run/redis/redis-server.sock\nCOUNTER_KEY=all\nRELEASE=all\n",
    );
    machine.write("/etc/abukiks/5002.env", "COUNTER_KEY=own\n");
    for (port, key) in [(5001, "all"), (5002, "own")] {
        machine.systemctl(&["start", &format!("abukiks@{port}")]);
        assert_eq!(machine.connect(port).get("/").number(), 1);
        assert_eq!(machine.redis(&["GET", key]), "1");
        let version = machine.connect(port).get("/version").body;
        assert!(version.contains(r#""release":"all""#), "{version}");
    }
    // No file at all, and the URL as a secret.
    machine.run(&["rm", "-r", "/etc/abukiks"]);
    machine.write("/etc/credstore/abukiks.redis-url", "unix:///run/redis/redis-server.sock\n");
    machine.systemctl(&["restart", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    assert_eq!(machine.count(), 1, "in the default key");
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "1\n");
}

/// Waits until the instance at port 5001 has given it up.
fn wait_for_given_up(machine: &Machine) {
    eventually("the port is given up", || {
        (machine.show("abukiks@5001.socket", "ActiveState") == "inactive").then_some(())
    });
}

#[test]
fn a_wrong_setting_fails_the_unit_once_with_one_line() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "REDIS_TIMEOUT=soon\n");
    let started = machine.try_run(&["systemctl", "start", "abukiks@5001"]);
    assert!(!started.status.success());
    for (property, value) in
        [("ActiveState", "failed"), ("Result", "exit-code"), ("ExecMainStatus", "78"), ("NRestarts", "0")]
    {
        assert_eq!(machine.show("abukiks@5001", property), value, "{property}");
    }
    let said = machine.journal(&["--unit=abukiks@5001", "--identifier=abukiks"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("REDIS_TIMEOUT=\"soon\""), "{said}");

    // A client that waits would have it tried again for ever. The port is given up instead.
    machine.systemctl(&["start", "abukiks@5001.socket"]);
    let mut client = machine.connect(5001);
    assert!(client.exchange("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_err());
    wait_for_given_up(&machine);
    assert_eq!(machine.show("abukiks@5001", "ActiveState"), "failed");
    let said = machine.journal(&["--unit=abukiks@5001", "--identifier=abukiks"]);
    assert_eq!(said.lines().count(), 2, "one more start, one more line: {said}");
    // Once it is put right, starting it is all it takes.
    machine.write("/etc/abukiks/5001.env", "");
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
}

#[test]
fn the_journal_holds_every_request_with_fields_to_ask_for() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let ports = [5001, 5002];
    for port in ports {
        machine.systemctl(&["start", &format!("abukiks@{port}")]);
    }
    // Far more than this journal lets pass in 30 s from a unit that does not ask for more.
    let each = 5000;
    let clients: Vec<_> = [ports, ports]
        .concat()
        .into_iter()
        .map(|port| {
            let mut client = machine.connect(port);
            std::thread::spawn(move || {
                for _ in 0..each {
                    assert_eq!(client.get("/healthz").status, 200);
                }
            })
        })
        .collect();
    let burst = 4 * each;
    for client in clients {
        client.join().expect("each is answered");
    }
    machine.run(&["journalctl", "--sync"]);
    let all = ["--unit=abukiks@*", "--output=json"];
    let entries: Vec<Value> = machine
        .journal(&[&all[..], &["HTTP_PATH=/healthz"]].concat())
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(entries.len(), burst);
    for port in ports {
        let unit = format!("abukiks@{port}.service");
        let of_one = entries.iter().filter(|entry| entry["_SYSTEMD_UNIT"] == unit.as_str());
        assert_eq!(of_one.count(), burst / 2);
    }
    let entry = &entries[0];
    for (field, value) in [
        ("HTTP_METHOD", "GET"),
        ("HTTP_STATUS", "200"),
        ("CLIENT", "127.0.0.1"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "abukiks"),
        ("MESSAGE", "GET /healthz 200"),
    ] {
        assert_eq!(entry[field], value, "{entry}");
    }

    // What went wrong, by status and by severity.
    machine.systemctl(&["stop", "redis-server"]);
    assert_eq!(machine.connect(5001).get("/").status, 503);
    let refused = machine.logged(&["--unit=abukiks@*", "HTTP_STATUS=503"], "GET / 503");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    machine.logged(&["--unit=abukiks@*", "--priority=err"], "Redis does not count; visits get 503: ");
}

#[test]
fn the_sandbox_leaves_nothing_to_break_out_with() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    // Runs where the service runs, as it runs, right before it. A stranger's process to look for
    // is there: Redis.
    machine.write("/probe", PROBE);
    machine.drop_in("abukiks@5001.service", "[Service]\nExecStartPre=/bin/sh /probe\n");
    machine.systemctl(&["start", "abukiks@5001"]);
    let found = machine.logged(&["--unit=abukiks@5001", "--identifier=sh"], "probed");
    let breaches: Vec<_> = found.lines().filter(|line| line.starts_with("BREACH")).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
    // And the service itself is where the probe was.
    let status = fs::read_to_string(machine.file(&format!("/proc/{}/status", machine.main_pid(5001))));
    let status = status.expect("it runs");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

/// Tries what the sandbox is to prevent; each success is a line that begins with BREACH.
const PROBE: &str = r#"
for folder in / /etc /etc/abukiks /home /opt /proc /root /run /srv /sys /tmp /usr /var /var/lib \
    /var/log /var/tmp /dev /dev/shm /dev/mqueue /run/redis /sys/fs/cgroup /usr/local/bin; do
    if [ -d "$folder" ] && touch "$folder/probe" 2>/dev/null; then echo "BREACH wrote to $folder"; fi
done
for process in /proc/[0-9]*; do
    case $(cat "$process/comm" 2>/dev/null) in
    redis-server | systemd | systemd-journal | dbus-daemon) echo "BREACH sees $process" ;;
    esac
done
[ -r /etc/shadow ] && echo 'BREACH reads /etc/shadow'
[ -e /proc/sys/kernel/hostname ] && echo 'BREACH sees kernel settings'
[ "$(id -u)" = 0 ] && echo 'BREACH is root'
grep -q '^CapEff:.*[1-9a-f]$' /proc/self/status && echo 'BREACH has a capability'
# A program that is root by its mode gains nothing by it.
mount -t tmpfs none /mnt 2>/dev/null && echo 'BREACH mounts'
unshare --user true 2>/dev/null && echo 'BREACH makes a namespace'
chmod u+s /tmp/probe 2>/dev/null && echo 'BREACH makes a set-uid file'
date -s @0 2>/dev/null && echo 'BREACH sets the clock'
hostname breach 2>/dev/null && echo 'BREACH names the host'
perl -MSocket -e 'exit !socket(my $s, AF_INET, SOCK_STREAM, 0)' && echo 'BREACH has an IPv4 socket'
perl -MSocket -e 'exit !socket(my $s, AF_INET6, SOCK_DGRAM, 0)' && echo 'BREACH has an IPv6 socket'
perl -e 'exit !socket(my $s, 16, 3, 0)' && echo 'BREACH has a netlink socket'
perl -e 'exit !socket(my $s, 17, 3, 0)' && echo 'BREACH has a packet socket'
[ "$(grep -c : /proc/self/net/dev)" = 1 ] || echo 'BREACH has a network interface'
echo probed
"#;

#[test]
fn a_stalled_event_loop_is_ended_by_the_watchdog_and_replaced() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    let stalled = machine.main_pid(5001);
    machine.systemctl(&["kill", "--signal=STOP", "abukiks@5001"]);
    let stopping = Instant::now();
    // This is not read before there is another process.
    let answer = machine.connect(5001).get("/");
    report(&format!("{:?} without an answer while the event loop stalled", stopping.elapsed()));
    assert_eq!(answer.number(), 1);
    assert_ne!(machine.main_pid(5001), stalled);
    assert_eq!(machine.show("abukiks@5001", "NRestarts"), "1");
    machine.logged(&["--unit=abukiks@5001"], "Watchdog timeout");
}

#[test]
fn a_redis_outage_of_a_minute_restarts_nothing() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    let process = machine.main_pid(5001);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    machine.redis(&["SAVE"]);
    machine.systemctl(&["stop", "redis-server"]);
    let (since, outage) = (Instant::now(), Duration::from_secs(60));
    let (mut client, mut refused) = (machine.connect(5001), 0);
    while since.elapsed() < outage {
        assert_eq!(client.get("/").status, 503);
        assert_eq!(client.get("/healthz").status, 200);
        refused += 1;
        machine.run(&["sleep", "0.2"]);
    }
    assert!(refused > 10, "{refused}");
    machine.systemctl(&["start", "redis-server"]);
    let answer =
        eventually("visits count again", || Some(client.get("/")).filter(|answer| answer.status == 200));
    assert_eq!(answer.number(), 2);
    assert_eq!(machine.main_pid(5001), process);
    assert_eq!(machine.show("abukiks@5001", "NRestarts"), "0");
}

#[test]
fn an_idle_instance_goes_and_comes_back_a_hundred_times_without_losing_a_request() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "IDLE_EXIT=20ms\n");
    machine.systemctl(&["start", "abukiks@5001.socket"]);
    for number in 1..=100 {
        assert_eq!(machine.connect(5001).get("/").number(), number);
        // The next visitor comes as early as possible: while it ends, or right after.
        if number % 2 == 0 {
            eventually("the instance is gone", || {
                let state = machine.show("abukiks@5001", "ActiveState");
                (state != "active" && state != "activating").then_some(())
            });
        }
    }
    let starts = machine.journal(&["--unit=abukiks@5001", "--identifier=systemd"]);
    let starts = starts.lines().filter(|line| line.starts_with("Started ")).count();
    assert!(starts >= 50, "{starts}");
    assert_eq!(machine.show("abukiks@5001.socket", "Result"), "success");
}

#[test]
fn an_admin_process_runs_while_instances_count_under_load() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    for port in ["abukiks@5001", "abukiks@5002"] {
        machine.systemctl(&["start", port]);
    }
    let load = Load::start(&[5001, 5002], 2);
    for _ in 0..5 {
        load.wait_for(100);
        machine.systemctl(&["start", "abukiks-admin@reset-count"]);
        machine.logged(&["--unit=abukiks-admin@reset-count"], "and is now 0");
    }
    let tally = load.stop();
    assert!(tally.is_flawless(), "{tally}");
    let count = machine.count();
    assert!(count < tally.numbers().len() as i64, "{count} after five resets: {tally}");

    let failed = machine.try_run(&["systemctl", "start", "abukiks-admin@no-such-task"]);
    assert!(!failed.status.success());
    assert_eq!(machine.show("abukiks-admin@no-such-task", "ExecMainStatus"), "64");
}

#[test]
fn the_admin_wrapper_passes_arguments_input_and_status_through() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let admin = |words: &[&str]| {
        let output = machine.try_run(&[&["abukiks-admin"], words].concat());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, said, _) = admin(&["reset-count", "--to", "41", "--json"]);
    assert_eq!(status, Some(0));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["new"], 41);
    assert_eq!(machine.count(), 41);
    // A status that is the task's own, and one for each way to be wrong.
    assert_eq!(admin(&["reset-count", "--to", "many"]).0, Some(64));
    machine.redis(&["SET", "visitorCount", "many"]);
    assert_eq!(admin(&["show-count"]).0, Some(65));
    machine.write("/etc/abukiks/5001.env", "REDIS_TIMEOUT=soon\n");
    assert_eq!(admin(&["--instance", "5001", "show-count"]).0, Some(78));
    for wrong in [&[][..], &["no-such-task"], &["../abukiks"], &["--instance", "x", "show-count"]] {
        assert_eq!(admin(wrong).0, Some(64), "{wrong:?}");
    }
    // Nothing is expanded, split or swallowed on the way.
    machine.write("/usr/local/libexec/abukiks/echo", "#!/bin/sh\nprintf '[%s]' \"$@\"\n");
    machine.run(&["chmod", "755", "/usr/local/libexec/abukiks/echo"]);
    let strange = ["a b", "$HOME", "${HOME}", "%n", "*", "", "--help", "'\"\\"];
    let expected: String = strange.iter().map(|word| format!("[{word}]")).collect();
    let (_, said, _) = admin(&[&["echo"], &strange[..]].concat());
    assert_eq!(said, expected);
}

#[test]
fn a_drop_in_means_the_same_to_an_admin_process_as_to_the_service() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.run(&["rm", "-r", "/etc/abukiks"]);
    machine.write("/etc/redis-url", "unix:///run/redis/redis-server.sock\n");
    let drop_in = "/etc/systemd/system/abukiks@.service.d/own.conf";
    machine.write(
        drop_in,
        "[Service]\n  MemoryMax = 256M \n  CPUQuota=150%\n\
         Environment = \"COUNTER_KEY=100 %%i\" \\\n    REDIS_URL_FILE=%d/own\n\
         LoadCredential=own:%E/redis-url\n\
         Environment=RELEASE=%i\n",
    );
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    assert_eq!(machine.redis(&["GET", "100 %i"]), "1");
    for options in [&[][..], &["--instance", "5001"]] {
        let admin = [&["abukiks-admin"], options].concat();
        machine.run(&[&admin[..], &["reset-count", "--to", "41"]].concat());
        assert_eq!(machine.connect(5001).get("/").number(), 42);
        let count = machine.run(&[&admin[..], &["show-count"]].concat());
        assert_eq!(count, "42\n");
    }
    // What it cannot know is said, and not left out.
    machine.write(drop_in, "[Service]\nEnvironment=COUNTER_KEY=%b\n");
    machine.systemctl(&["daemon-reload"]);
    let refused = machine.try_run(&["abukiks-admin", "reset-count"]);
    let said = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert_eq!(said, "abukiks-admin: it cannot expand %b in the line Environment=COUNTER_KEY=%b\n");
    assert_eq!(machine.redis(&["GET", "100 %i"]), "42");
}

#[test]
fn an_admin_process_is_confined_like_the_service() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    // A task that stays until it is looked at.
    machine.write("/usr/local/libexec/abukiks/stay", "#!/bin/sh\nexec sleep infinity\n");
    machine.run(&["chmod", "755", "/usr/local/libexec/abukiks/stay"]);
    let _task = Process::spawn(&mut machine.command(&["abukiks-admin", "--instance", "5001", "stay"]));
    let list =
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=running", "abukiks-admin-stay-*"];
    let unit = eventually("the task runs", || Some(machine.run(&list).split_whitespace().next()?.to_owned()));
    let properties = |unit: &str| -> Vec<String> {
        let all = machine.systemctl(&["show", unit, "--all"]);
        let mut found: Vec<_> = all
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| CONFINEMENT.contains(name))
            .map(|(name, value)| match name {
                // systemd keeps networks as a set, and shows it in an order that is chance.
                "IPAddressAllow" | "IPAddressDeny" => {
                    let mut networks: Vec<_> = value.split(' ').collect();
                    networks.sort_unstable();
                    format!("{name}={}", networks.join(" "))
                }
                _ => format!("{name}={value}"),
            })
            .collect();
        found.sort();
        found
    };
    let service = properties("abukiks@5001.service");
    assert!(service.len() > 40, "{service:#?}");
    assert_eq!(properties(&unit), service);
    machine.systemctl(&["stop", &unit]);
}

/// The properties that confine a process and give it its settings.
const CONFINEMENT: [&str; 49] = [
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "DevicePolicy",
    "DynamicUser",
    "EnvironmentFiles",
    "Group",
    "IPAddressAllow",
    "IPAddressDeny",
    "InaccessiblePaths",
    "KeyringMode",
    "LimitNOFILE",
    "LoadCredential",
    "LockPersonality",
    "LogRateLimitIntervalUSec",
    "MemoryDenyWriteExecute",
    "MemoryMax",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RemoveIPC",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "Slice",
    "SocketBindAllow",
    "SocketBindDeny",
    "SupplementaryGroups",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "TasksMax",
    "UMask",
    "User",
    "WorkingDirectory",
];

#[test]
fn an_upgrade_and_a_rollback_under_load_fail_no_request() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5001"]);
    let version = || -> Value {
        let answer = machine.connect(5001).get("/version");
        serde_json::from_str(&answer.body).expect("JSON")
    };
    let old = env!("CARGO_PKG_VERSION");
    let next = next_release(machine.programs());
    assert_eq!(version()["version"], old);
    let load = Load::start(&[5001], 4);
    let foreign = [true, false].map(|keep_alive| Wrk::start(5001, keep_alive));
    for (programs, expected) in [(next.path(), NEXT), (machine.programs(), old)] {
        load.wait_for(100);
        machine.install(programs);
        machine.systemctl(&["daemon-reload"]);
        assert_ne!(version()["version"], expected, "what runs is left alone");
        machine.systemctl(&["restart", "abukiks@5001"]);
        assert_eq!(version()["version"], expected);
    }
    load.wait_for(100);
    let foreign = foreign.map(Wrk::stop);
    let tally = load.stop();
    report(&format!("upgrade and rollback: {tally}"));
    assert!(tally.is_flawless(), "{tally}");
    assert!(tally.is_unique());
    for wrk in &foreign {
        assert!(load::is_flawless(wrk), "{wrk}");
    }
}

/// The version of a release that is still to come, as long as this one's.
pub(crate) const NEXT: &str = "9.9.9";

/// The programs of the next release: these, but for the version that they tell.
pub(crate) fn next_release(programs: &Path) -> TempDir {
    let next = tempfile::tempdir().expect("a folder");
    let old = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(old.len(), NEXT.len());
    for program in fs::read_dir(programs).expect("programs") {
        let program = program.expect("a program");
        let mut bytes = fs::read(program.path()).expect("a program");
        let places: Vec<_> =
            (0..bytes.len() - old.len()).filter(|&place| bytes[place..].starts_with(old)).collect();
        for place in places {
            bytes[place..place + old.len()].copy_from_slice(NEXT.as_bytes());
        }
        fs::write(next.path().join(program.file_name()), bytes).expect("a program");
    }
    next
}

#[test]
fn all_instances_start_restart_and_stop_as_one() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    for port in [5001, 5002] {
        machine.systemctl(&["enable", &format!("abukiks@{port}.socket"), &format!("abukiks@{port}.service")]);
    }
    machine.systemctl(&["start", "abukiks.target"]);
    let load = Load::start(&[5001, 5002], 2);
    load.wait_for(50);
    let before = [5001, 5002].map(|port| machine.main_pid(port));
    machine.systemctl(&["restart", "abukiks@*.service"]);
    load.wait_for(50);
    let tally = load.stop();
    assert!(tally.is_flawless(), "{tally}");
    for (port, before) in [5001, 5002].into_iter().zip(before) {
        assert_ne!(machine.main_pid(port), before);
    }
    machine.systemctl(&["stop", "abukiks.target"]);
    for unit in ["abukiks@5001.service", "abukiks@5001.socket", "abukiks@5002.service", "abukiks@5002.socket"]
    {
        eventually("it stops", || (machine.show(unit, "ActiveState") == "inactive").then_some(()));
    }
}

#[test]
fn a_stop_of_the_target_returns_when_every_instance_has_drained() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(
        "/etc/abukiks/abukiks.env",
        "REDIS_URL=unix:///run/redis/redis-server.sock\nREDIS_TIMEOUT=30s\n",
    );
    // The target is started with the instances that are enabled, and not with one that is started by name.
    for enabled in [false, true] {
        if enabled {
            machine.systemctl(&["enable", "abukiks@5001.socket", "abukiks@5001.service"]);
            machine.systemctl(&["start", "abukiks.target"]);
            assert_eq!(machine.show("abukiks@5001.socket", "ActiveState"), "active");
        } else {
            machine.systemctl(&["start", "abukiks@5001"]);
        }
        let before = machine.count();
        let mut client = visit_in_flight(&machine, 5001, 2000);
        machine.systemctl(&["stop", "abukiks.target"]);
        assert_eq!(machine.show("abukiks@5001", "ActiveState"), "inactive", "enabled: {enabled}");
        assert_eq!(machine.count(), before + 1);
        assert_eq!(client.read(false).expect("an answer").number(), before + 1);
        eventually("the port closes", || {
            (machine.show("abukiks@5001.socket", "ActiveState") == "inactive").then_some(())
        });
    }
}

/// What `systemctl status` says of a unit.
fn status(machine: &Machine, unit: &str) -> String {
    let output = machine.try_run(&["systemctl", "status", "--no-pager", "--full", unit]);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_wrong_setting_may_be_tried_as_often_as_one_likes() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "REDIS_TIMEOUT=soon\n");
    for _ in 0..8 {
        assert!(!machine.try_run(&["systemctl", "start", "abukiks@5001"]).status.success());
        wait_for_given_up(&machine);
    }
    machine.write("/etc/abukiks/5001.env", "");
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
}

#[test]
fn what_the_system_refuses_keeps_no_visitor_waiting_and_status_says_why() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5001)).expect("a free port");
    for unit in ["abukiks@5001.socket", "abukiks@5001.service"] {
        assert!(!machine.try_run(&["systemctl", "start", unit]).status.success(), "{unit}");
        let said = status(&machine, "abukiks@5001.socket");
        assert!(said.contains("Address already in use"), "{said}");
    }
    drop(taken);
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    machine.systemctl(&["stop", "abukiks@5001.socket"]);

    for (drop_in, why) in [
        ("LimitNOFILE=12\n", "LimitNOFILE=12, the limit of open files"),
        ("Environment=MAX_CONNECTIONS=100000\n", "MAX_CONNECTIONS=100000 is more than LimitNOFILE=16384"),
        (
            "Environment=LOG_FORMAT=journald\nInaccessiblePaths=/run/systemd/journal/socket\n",
            "the journal cannot be reached",
        ),
    ] {
        machine.drop_in("abukiks@5001.service", &format!("[Service]\n{drop_in}"));
        machine.systemctl(&["start", "abukiks@5001.socket"]);
        let mut client = machine.connect(5001);
        assert!(client.exchange("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_err());
        wait_for_given_up(&machine);
        assert_eq!(machine.show("abukiks@5001", "ActiveState"), "failed");
        let said = status(&machine, "abukiks@5001");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn settings_shows_what_an_instance_runs_with_and_root_is_asked_for() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write("/etc/abukiks/5001.env", "LOG_LEVEL=warn\n");
    for words in [["settings", "--instance", "5001"], ["--instance", "5001", "settings"]] {
        let said = machine.run(&[&["abukiks-admin"], &words[..]].concat());
        for line in [
            "REDIS_URL=unix:///run/redis/redis-server.sock  # environment",
            "LOG_LEVEL=warn  # environment",
            "REDIS_TIMEOUT=1s  # default",
        ] {
            assert!(said.lines().any(|other| other == line), "{said}");
        }
    }
    assert!(machine.run(&["abukiks-admin", "settings"]).contains("LOG_LEVEL=info  # default\n"));

    let user = ["setpriv", "--reuid=65534", "--clear-groups", "abukiks-admin"];
    let refused = machine.try_run(&[&user[..], &["show-count"]].concat());
    assert_eq!(refused.status.code(), Some(77));
    let said = String::from_utf8(refused.stderr).expect("text");
    assert!(said.starts_with("abukiks-admin: it needs root") && said.lines().count() == 1, "{said}");
    let help = machine.run(&[&user[..], &["--help"]].concat());
    // Those of admin/attached are not installed here.
    let is_attached = |task: &str| ["backup-count", "restore-count", "mail-report"].contains(&task);
    for task in manual::wrapper().get_subcommands().filter(|task| !is_attached(task.get_name())) {
        assert!(help.contains(task.get_name()), "{help}");
    }
}

#[test]
fn uninstall_ends_all_instances_and_says_what_is_left() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["systemd", "man", "completions"] {
        let copied = Command::new("cp")
            .arg("--recursive")
            .arg("--parents")
            .arg(folder)
            .arg(machine.file("/opt"))
            .current_dir(tree)
            .status();
        assert!(copied.expect("cp").success());
    }
    machine.systemctl(&["enable", "--now", "abukiks@5001.socket", "abukiks@5002.service", "abukiks.target"]);
    machine.systemctl(&["start", "abukiks@5003"]);
    for _ in 0..2 {
        let said = machine.run(&["/opt/systemd/install.sh", "uninstall"]);
        for left in [
            "left: /etc/abukiks\n",
            "left: /etc/systemd/system/abukiks@.service.d\n",
            "left: the count, in Redis\n",
        ] {
            assert!(said.contains(left), "{said}");
        }
    }
    let units = machine.systemctl(&["list-units", "--plain", "--no-legend", "--state=active", "abukiks*"]);
    assert_eq!(units, "");
    let links = machine.run(&["find", "/etc/systemd/system", "-type", "l", "-name", "abukiks*"]);
    assert_eq!(links, "");
    for port in [5001, 5002, 5003] {
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "{port}");
    }
}

#[test]
fn install_before_build_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("systemd/install.sh")
        .arg("install")
        .env("DESTDIR", folder.path())
        .env("BUILD", "target/not-built")
        .output()
        .expect("a shell");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(66), "{said}");
    let expected = "systemd/install.sh: there is no program target/not-built/abukiks: run make build first\n";
    assert_eq!(said, expected);
    assert!(fs::read_dir(folder.path()).expect("a folder").next().is_none());
}
