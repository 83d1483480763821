//! The console blocks of the documents are run as they stand, on a booted machine.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use super::reports::{PASSWORD, Port, has_failed};
use crate::machine::{Machine, put};
use crate::redis_url::Tls;
use crate::support::{Client, Process, eventually};

/// A command, and the lines that the document shows of its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

fn read(document: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect("a document")
}

/// The part of a document from this heading to the next of its level.
fn section(document: &str, heading: &str) -> String {
    let text = read(document);
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).expect("a heading");
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The commands of all console blocks, but for a block behind `<!-- not run: WHY -->`. As root they stand
/// behind `# `, else behind `$ `.
fn steps(text: &str) -> Vec<Step> {
    let (mut steps, mut before, mut inside) = (Vec::<Step>::new(), "", false);
    for line in text.lines().map(str::trim) {
        if inside {
            match line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) {
                _ if line == "```" => inside = false,
                _ if steps.last().is_some_and(|step| step.command.ends_with('\\')) => {
                    let step = steps.last_mut().expect("it has begun");
                    step.command += &format!("\n{line}");
                }
                Some(command) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                None => steps.last_mut().expect("a command comes first").shown.push(line.to_owned()),
            }
        } else {
            inside = line == "```console" && !before.starts_with("<!-- not run: ");
        }
        before = line;
    }
    steps
}

/// Runs the steps of a text, and holds what they print against what the text shows.
fn walk(machine: &Machine, text: &str, at_least: usize) {
    let steps = steps(text);
    assert!(steps.len() >= at_least, "{} steps in {text}", steps.len());
    for Step { command, shown } in steps {
        let printed = shell(machine, &command);
        for line in shown {
            assert!(printed.lines().any(|other| other == line), "{command}: {line:?} is not in {printed}");
        }
    }
}

fn shell(machine: &Machine, command: &str) -> String {
    machine.run(&["bash", "-euo", "pipefail", "-c", command])
}

/// A Debian on which Abukiks is installed, and nothing else is done but what the test adds.
fn only_installed(and: impl FnOnce(&Path)) -> Option<Machine> {
    Machine::boot_with(|changes, _| {
        let units = changes.join("etc/systemd/system");
        fs::create_dir_all(&units).expect("a folder");
        symlink("/dev/null", units.join("valkey-server.service")).expect("a folder");
        and(changes);
    })
}

#[test]
fn every_command_of_systemd_md_works_as_it_stands() {
    let Some(machine) = only_installed(|_| ()) else {
        return;
    };
    walk(&machine, &read("docs/systemd.md"), 20);

    let table = section("docs/systemd.md", "Every day");
    let commands = table.lines().filter(|line| line.starts_with('|')).flat_map(|row| {
        let typed = row.split('|').nth(2).unwrap_or_default();
        typed.split('`').skip(1).step_by(2)
    });
    let mut count = 0;
    for command in commands {
        shell(&machine, command);
        count += 1;
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn every_command_of_redis_md_works_as_it_stands() {
    let tls = Tls::new();
    let own = tls.self_signed("a.name.of.its.own", |_| {});
    let Some(machine) = only_installed(|changes| {
        put(changes, "etc/hosts", "127.0.0.1 localhost\n127.0.0.3 host\n");
        for (name, file) in [("certificate", &own.certificate), ("key", &own.key)] {
            put(changes, &format!("srv/{name}.pem"), &fs::read_to_string(file).expect("a file"));
        }
    }) else {
        return;
    };
    // Set up as the other document says.
    let set_up = read("docs/systemd.md");
    let (set_up, _) = set_up.split_once("\n## ").expect("a heading");
    walk(&machine, set_up, 10);
    let count = || machine.redis(&["GET", "visitorCount"]);
    assert_eq!(count(), "2");
    let mut tls_redis = machine.command(&[
        "redis-server",
        "--port",
        "0",
        "--bind",
        "127.0.0.3",
        "--tls-port",
        "6379",
        "--tls-cert-file",
        "/srv/certificate.pem",
        "--tls-key-file",
        "/srv/key.pem",
        "--tls-auth-clients",
        "no",
    ]);
    let _tls_redis = Process::spawn(tls_redis.stdout(Stdio::null()));
    eventually("Redis listens", || TcpStream::connect((Ipv4Addr::new(127, 0, 0, 3), 6379)).ok());

    walk(&machine, &read("docs/redis.md"), 12);

    // The user and the settings outlive a restart of Redis, and so does the count.
    machine.systemctl(&["restart", "redis-server"]);
    assert_eq!(count(), "2");
    assert_eq!(machine.connect(5001).get("/").number(), 3);
    let report = machine.run(&["abukiks-admin", "check-redis"]);
    assert!(report.contains("a counted visit survives a crash of the server"), "{report}");
    // The file that was made is the certificate to accept.
    let settings = ["REDIS_URL=rediss://host/", "REDIS_CA_FILE=/etc/abukiks/redis.pem"];
    machine.run(&[&["env"], &settings[..], &["/usr/local/libexec/abukiks/check-redis"]].concat());
}

#[test]
fn the_answers_about_instances_and_ports_are_right() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    walk(&machine, &section("docs/operations.md", "Instances and ports"), 7);
    for port in (5001..=5007).chain([8080]) {
        assert_eq!(machine.connect(port).get("/healthz").status, 200);
        for kind in ["service", "socket"] {
            let unit = format!("abukiks@{port}.{kind}");
            assert_eq!(machine.systemctl(&["is-enabled", &unit]), "enabled\n");
        }
    }
    assert_eq!(machine.show("abukiks@5008.socket", "ActiveState"), "inactive");
    assert!(machine.show("abukiks@5001", "StatusText").contains("requests answered"));

    // A health check starts what has ended.
    machine.write("/etc/abukiks/5007.env", "IDLE_EXIT=20ms\n");
    machine.systemctl(&["restart", "abukiks@5007"]);
    eventually("it ends", || (machine.show("abukiks@5007", "ActiveState") == "inactive").then_some(()));
    assert_eq!(machine.systemctl(&["is-active", "abukiks@5007.socket"]), "active\n");
    assert_eq!(machine.show("abukiks@5007", "ActiveState"), "inactive");
    assert_eq!(machine.connect(5007).get("/healthz").status, 200);
}

/// An instance that has given out number 48213.
fn machine_at_48213() -> Option<(Machine, Client)> {
    let machine = Machine::boot()?;
    machine.systemctl(&["enable", "--now", "abukiks@5001.socket", "abukiks@5001.service"]);
    machine.redis(&["SET", "visitorCount", "48212"]);
    let mut client = machine.connect(5001);
    assert_eq!(client.get("/").number(), 48213);
    Some((machine, client))
}

#[test]
fn after_a_loss_the_steps_lead_to_the_next_number() {
    let Some((machine, mut client)) = machine_at_48213() else {
        return;
    };
    machine.redis(&["SET", "visitorCount", "47990"]);
    machine.run(&["journalctl", "--sync"]);
    walk(&machine, &section("docs/operations.md", "After a loss"), 2);
    assert_eq!(client.get("/").number(), 48214);
}

#[test]
fn after_redis_is_lost_wholly_the_count_comes_back_from_a_backup_while_instances_run() {
    let Some(machine) = super::backups::boot() else {
        return;
    };
    let backups = section("docs/admin.md", "Backups outside of Redis");
    machine.redis(&["SET", "visitorCount", "48200"]);
    machine.write("/etc/abukiks/5002.env", "COUNTER_FENCE=on\n");
    machine.systemctl(&["start", "abukiks@5001", "abukiks@5002"]);
    let (mut client, mut fenced) = (machine.connect(5001), machine.connect(5002));
    assert_eq!(client.get("/").number(), 48201);
    walk(&machine, &backups, 4);
    assert_eq!(fenced.get("/").number(), 48202);
    assert_eq!(client.get("/").number(), 48203);

    machine.systemctl(&["kill", "--signal=KILL", "redis-server"]);
    machine.systemctl(&["stop", "redis-server"]);
    machine.run(&["find", "/var/lib/redis", "-mindepth", "1", "-delete"]);
    assert_eq!([client.get("/").status, fenced.get("/").status], [503, 503]);
    machine.systemctl(&["start", "redis-server"]);
    assert_eq!(client.get("/").number(), 1);
    assert_eq!(fenced.get("/").status, 503);
    let task = "abukiks-admin@backup-count";
    assert!(!machine.try_run(&["systemctl", "start", task]).status.success(), "the timer spoils nothing");
    machine.logged(&["--unit", task], "the count is 2, below the 48201 of the newest backup");

    machine.run(&["journalctl", "--sync"]);
    walk(&machine, &section("docs/operations.md", "Losing Redis wholly"), 5);
    assert_eq!(fenced.get("/").number(), 48204);
    assert_eq!(client.get("/").number(), 48205);
    machine.systemctl(&["start", task]);
    assert!(!machine.systemctl(&["--failed", "--plain", "--no-legend"]).contains(task));
}

#[test]
fn the_report_comes_by_mail_as_admin_md_says() {
    let Some((machine, server)) = super::reports::boot() else {
        return;
    };
    let text = section("docs/admin.md", "Reports by mail");
    // All but the name of the server and its user's password, which are made for the test.
    let [url, password] = ["smtp://visits@mail.example.org", "a long secret"];
    assert!(text.contains(url) && text.contains(password), "{text}");
    let text = text.replace(url, &server.url(Port::Submission, "visits")).replace(password, PASSWORD);
    walk(&machine, &text, 7);
    assert_eq!(server.taken(), 1);
    assert!(!has_failed(&machine));
    assert_eq!(machine.systemctl(&["is-active", "abukiks-report.timer"]), "active\n");
}

#[test]
fn a_move_to_another_redis_repeats_no_number() {
    let Some((machine, client)) = machine_at_48213() else {
        return;
    };
    drop(client);
    machine.run(&[
        "systemd-run",
        "--quiet",
        "--property=User=redis",
        "--property=RuntimeDirectory=redis-new",
        "--property=Type=notify",
        "redis-server",
        "--supervised",
        "systemd",
        "--port",
        "0",
        "--unixsocket",
        "/run/redis-new/redis.sock",
        "--unixsocketperm",
        "770",
    ]);
    walk(&machine, &section("docs/operations.md", "Moving to another Redis"), 5);
    assert_eq!(machine.connect(5001).get("/").number(), 48214);
    assert_eq!(machine.count(), 48213, "in the old one");
}
