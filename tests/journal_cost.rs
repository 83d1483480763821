//! What logging to the journal costs. A measurement, not a promise: `make bench-journal` runs it.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::cost;
use crate::machine::Machine;

/// Ways to log, with the settings for each.
const WAYS: [(&str, &str); 4] = [
    ("native", "LOG_FORMAT=journald"),
    ("JSON lines on stdout", "LOG_FORMAT=json"),
    ("only what fails", "LOG_LEVEL=warn"),
    ("off", "ACCESS_LOG=off"),
];

/// User and system time that the main process of a unit has used, in clock ticks of 10 ms.
fn ticks(machine: &Machine, unit: &str) -> u64 {
    let pid = machine.show(unit, "MainPID");
    let stat = fs::read_to_string(machine.file(&format!("/proc/{pid}/stat"))).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<u64> =
        fields.split(' ').skip(11).take(2).map(|field| field.parse().expect("a number")).collect();
    fields.iter().sum()
}

/// Events about requests that the journal holds of the instance.
fn events(machine: &Machine) -> u64 {
    let count = "journalctl --unit=abukiks@5001 --output=cat --no-pager | grep --count 'GET / 200\\|\"message\":\"request\"' || true";
    let count = machine.run(&["sh", "-c", count]);
    count.trim().parse().expect("a number")
}

/// Blocks of 1 KiB that the journal takes.
fn journal_kib(machine: &Machine) -> u64 {
    let used = machine.run(&["du", "-sk", "/var/log/journal"]);
    let used = used.split_whitespace().next();
    used.expect("a size").parse().expect("a number")
}

#[test]
#[ignore = "a measurement of half a minute"]
fn measure_the_ways_to_log() {
    let seconds = std::env::var("BENCH_SECONDS").unwrap_or_else(|_| "5".to_owned());
    for (way, setting) in WAYS {
        let machine = Machine::boot().expect("a machine");
        machine.install(cost::release().parent().expect("a folder"));
        machine.drop_in("abukiks@.service", &format!("[Service]\nEnvironment={setting}\n"));
        machine.systemctl(&["start", "abukiks@5001"]);
        machine.connect(5001).get("/").number();
        let units = ["abukiks@5001", "systemd-journald"];
        let before = units.map(|unit| ticks(&machine, unit));
        let (count, kept, held) = (machine.count(), journal_kib(&machine), events(&machine));
        let wrk = Command::new("wrk")
            .args(["-t1", "-c32", "--latency", "http://127.0.0.1:5001/"])
            .arg(format!("-d{seconds}s"))
            .output()
            .expect("wrk is there");
        let report = String::from_utf8(wrk.stdout).expect("text");
        machine.run(&["journalctl", "--sync"]);
        let after = units.map(|unit| ticks(&machine, unit));
        let figure = json!({
            "way": way,
            "setting": setting,
            "report": report,
            "ticks": [after[0] - before[0], after[1] - before[1]],
            "visits": machine.count() - count,
            "events": events(&machine) - held,
            "kib": journal_kib(&machine).saturating_sub(kept),
        });
        println!("figure: {figure}");
    }
}
