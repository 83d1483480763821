//! `top` shows all instances of a host on one screen.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::process::Signal;

use crate::support::{Client, Redis, Service, SetAtEnd, held_socket, program};

fn run(arguments: &[&str]) -> Output {
    program("top", &[]).args(arguments).output().expect("it runs")
}

fn shown(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The cells of the row of this name.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let row = table.lines().find(|line| line.split(' ').next() == Some(name));
    let row = row.unwrap_or_else(|| panic!("{name} is missing in {table}"));
    row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn each_instance_is_a_row_whatever_it_does() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let path = socket.to_str().expect("text");
    let mut first = redis.service(&[("RELEASE", "r1")]);
    let second = redis.service(&[("RELEASE", "r2"), ("ADMIN_PORT", path)]);
    first.get("/");
    first.log_line("Redis is");
    let away = Service::start_with(&[
        ("REDIS_URL", "unix:///nowhere"),
        ("REDIS_TIMEOUT", "50ms"),
        ("RELEASE", "r3"),
    ]);
    assert_eq!(away.get("/").status, 503);
    assert_eq!(away.get("/badge.svg").status, 503);
    assert_eq!(away.get("/readyz").status, 503);
    let mut draining = redis.service(&[("DRAIN_LAME_DUCK", "20s"), ("DRAIN_IDLE", "20s"), ("RELEASE", "r4")]);
    draining.process.signal(Signal::TERM);
    draining.log_line("draining");
    // It lets in and does not answer.
    let silent = held_socket();
    let refusing = held_socket().local_addr().expect("an address").to_string();

    let arguments = [
        first.address.to_string(),
        format!("second={path}"),
        format!("third={}", away.address),
        format!("fourth={}", draining.address),
        format!("silent={}", silent.local_addr().expect("an address")),
        format!("refusing={refusing}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Its stdout is no terminal here.
    let table = shown(&arguments);
    assert!(!table.contains('\x1b'), "{table}");
    let header = "INSTANCE STATE REDIS VISITS/S VISITS ERRORS/S ERRORS CONNECTIONS RELEASE";
    assert_eq!(row(&table, "INSTANCE").join(" "), header);
    let name = first.address.to_string();
    assert_eq!(
        row(&table, &name),
        [&*name, "serving", "counts, not durable", "0.0", "1", "0.0", "0", "1", "r1"]
    );
    assert_eq!(row(&table, "second")[..5], ["second", "serving", "not needed yet", "0.0", "0"]);
    assert_eq!(row(&table, "second").last(), Some(&"r2"));
    // What asks whether it is ready is no visitor.
    assert_eq!(
        row(&table, "third"),
        ["third", "serving", "does not count", "0.0", "0", "0.0", "2", "1", "r3"]
    );
    assert_eq!(row(&table, "fourth")[..2], ["fourth", "draining"]);
    assert_eq!(row(&table, "silent"), ["silent", "no answer: timed out"]);
    assert_eq!(row(&table, "refusing")[1].split('(').next(), Some("no answer: Connection refused "));
    let problem = table.lines().find(|line| line.contains("Redis does not count; visits get 503: "));
    assert!(problem.is_some_and(|line| line.starts_with("third 20")), "{table}");
    drop(second);
}

#[test]
fn rates_are_those_of_a_second() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let (address, over) = (service.address, AtomicBool::new(false));
    let table = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                Client::connect(address).get("/");
            }
        });
        let _at_end = SetAtEnd(&over);
        shown(&["--once", &format!("a={address}")])
    });
    let rate = row(&table, "a")[3].parse::<f64>().expect("a number");
    assert!(rate > 0.0, "{table}");
}

#[test]
fn on_a_terminal_each_table_takes_the_place_of_the_one_before() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let view = format!("{} a={}", env!("CARGO_BIN_EXE_top"), service.address);
    // script(1) is a terminal to the program that it starts.
    let mut script = Command::new("script")
        .args(["--quiet", "--command", &view, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    let screen = script.stdout.take().expect("stdout is piped");
    let tables = BufReader::new(screen).lines().map(|line| line.expect("text"));
    let tables: Vec<_> = tables.filter(|line| line.starts_with("\x1b[H\x1b[JINSTANCE")).take(2).collect();
    script.kill().and_then(|()| script.wait()).expect("script ends");
    assert_eq!(tables.len(), 2);
}

#[test]
fn wrong_usage_and_nothing_to_show_have_their_status() {
    assert_eq!(run(&["--nonsense"]).status.code(), Some(64));
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(69));
    assert_eq!(nothing.stderr, b"there are no instances to show\n");
}
