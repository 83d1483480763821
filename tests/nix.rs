//! What stands in Nix says the same as the rest of the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use abukiks::config::SETTINGS;

use crate::nixos::Tree;

fn nixos(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nixos").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(nixos(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The targets after `WantedBy=` in a unit file.
fn wanted_by(unit: &str) -> Vec<String> {
    let unit = fs::read_to_string(nixos("../systemd").join(unit)).expect("a unit");
    let line = unit.lines().find_map(|line| line.strip_prefix("WantedBy="));
    let targets = line.expect("a WantedBy= line").split(' ');
    targets.map(str::to_owned).collect()
}

#[test]
fn the_module_offers_every_setting_of_the_service() {
    let settings: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let options = text("settings.nix");
    let options: BTreeSet<&str> = options
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(" ="))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with(|letter: char| letter.is_ascii_uppercase()))
        .collect();
    assert_eq!(options, settings);
}

#[test]
fn the_module_hands_rules_and_dashboard_over_where_they_are_asked_for() {
    let (module, document) = (text("module.nix"), text("../docs/nixos.md"));
    for (option, file) in [
        ("prometheus.rules", "../monitoring/abukiks.rules.yml"),
        ("grafana.dashboard", "../monitoring/grafana"),
    ] {
        let (_, given) = module.split_once(&format!("mkIf cfg.{option} ")).expect(option);
        assert!(given.lines().take(8).any(|line| line.contains(file)), "{option}");
        assert!(nixos(file).exists(), "{file}");
        let (_, described) = document.split_once(&format!("\n#### `{option}`\n")).expect(option);
        let described = described.split("\n#").next().unwrap_or_default();
        assert!(described.contains("- Default: `false`"), "{option}");
    }
}

#[test]
fn nixos_starts_instances_by_what_the_unit_files_say() {
    let tree = Tree::golden("local");
    for kind in ["service", "socket"] {
        for target in wanted_by(&format!("abukiks@.{kind}")) {
            let target = target.trim_end_matches(".target");
            assert_eq!(tree.ports(target, kind), [5000, 5001], "{target} {kind}");
        }
    }
}

#[test]
fn drop_ins_set_only_what_the_service_reads() {
    let tree = Tree::golden("own");
    let variables = tree.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("Environment=\"")?.split_once('=')?;
        Some(name)
    });
    let known: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let set: BTreeSet<&str> = variables.collect();
    assert!(set.len() > 2 && set.is_subset(&known), "{set:?}");
}

#[test]
fn the_golden_trees_have_the_drop_in_for_tcp_as_the_package_has_it() {
    let shipped = text("../systemd/redis-tcp.conf");
    let shipped: Vec<&str> = shipped.lines().filter(|line| !line.starts_with('#')).collect();
    for host in ["files", "odd", "own", "tcp", "tls"] {
        let tree = Tree::golden(host);
        let golden: Vec<&str> = tree.text("abukiks@.service.d/10-redis-tcp.conf").lines().collect();
        assert_eq!(golden, shipped, "{host}");
    }
}

#[test]
fn a_switch_restarts_every_instance_in_one_step_and_leaves_admin_tasks_alone() {
    // Stopping first would let traffic start the old program again.
    let tree = Tree::golden("own");
    for (unit, line) in
        [("abukiks@", "X-StopIfChanged=false"), ("abukiks-admin@", "X-RestartIfChanged=false")]
    {
        let template = tree.text(&format!("{unit}.service.d/overrides.conf"));
        assert!(template.lines().any(|found| found == line), "{unit}");
    }
    let redis = tree.text("redis-abukiks.service");
    assert!(redis.contains("X-StopIfChanged=false"));
}

#[test]
fn every_test_of_a_virtual_machine_is_run() {
    let list = text("tests/default.nix");
    let listed: BTreeSet<String> = list
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'))
        .map(|name| format!("{name}.nix"))
        .collect();
    let tests: BTreeSet<String> = fs::read_dir(nixos("tests"))
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "nix"))
        .filter(|path| {
            let text = fs::read_to_string(path).expect("text");
            text.contains("testScript =")
        })
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(listed, tests);
}
