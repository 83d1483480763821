//! The forge runs only commands that work on any machine. Dependencies are locked, checked and kept up to
//! date.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_norway::Value;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: impl AsRef<Path>) -> Value {
    serde_norway::from_str(&read(path)).expect("YAML")
}

/// Each workflow by its file.
fn workflows() -> Vec<(PathBuf, Value)> {
    let files = fs::read_dir(".github/workflows").expect("a folder").flatten();
    files.map(|file| (file.path(), yaml(file.path()))).collect()
}

/// Each job of a workflow by its name.
fn jobs(workflow: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let jobs = workflow["jobs"].as_mapping().expect("jobs");
    jobs.iter().map(|(name, job)| (name.as_str().expect("a name"), job))
}

/// All values of a key, at any depth.
fn values<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    match value {
        Value::Mapping(mapping) => {
            let own = mapping.get(key).and_then(Value::as_str);
            own.into_iter().chain(mapping.values().flat_map(|value| values(value, key))).collect()
        }
        Value::Sequence(list) => list.iter().flat_map(|value| values(value, key)).collect(),
        _ => Vec::new(),
    }
}

/// Commands without a target: those that publish at the forge or ask it, and those of Nix.
const OTHERS: [&str; 6] = [
    "diff SHA256SUMS ",
    "gh attestation verify ",
    "gh release ",
    "nix build ",
    "nix flake check",
    "nix run ",
];

/// Copies an image to a registry.
const PUBLISHES: &str = "skopeo copy ";

/// What the tests of the machine that runs them need: root, and Rust where its user has it.
const AS_ROOT: &str = r#"sudo env CI=true HOME="$HOME" PATH="$PATH" "#;

#[test]
fn a_workflow_runs_nothing_that_make_does_not_do() {
    let makefile = read("Makefile");
    let is_target = |word: &str| {
        makefile.lines().any(|line| line.starts_with(&format!("{word}: ")) || line == format!("{word}:"))
    };
    assert!(read(".ci/run").ends_with("\nexec make test\n"), "it is the command that README names");
    for (path, workflow) in workflows() {
        for command in values(&workflow["jobs"], "run") {
            let command = command.trim_end();
            let known = command.strip_prefix(AS_ROOT) == Some(".ci/run")
                || OTHERS.iter().chain([&PUBLISHES]).any(|other| command.starts_with(other))
                || command.strip_prefix("make ").is_some_and(|words| {
                    words.split(' ').take_while(|word| !word.contains('=')).all(is_target)
                });
            let is_one =
                !command.contains('\n') && !["&&", "||", ";", "|"].iter().any(|mark| command.contains(mark));
            assert!(known && is_one, "{}: {command}", path.display());
        }
    }
}

#[test]
fn workflows_name_each_action_by_its_commit() {
    for (path, workflow) in workflows() {
        for action in values(&workflow["jobs"], "uses") {
            // One of this tree has this commit.
            if action.starts_with("./") {
                assert!(Path::new(action).exists(), "{}: {action}", path.display());
                continue;
            }
            let (_, commit) = action.split_once('@').expect("a version");
            let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_commit, "{}: {action}", path.display());
        }
    }
}

#[test]
fn no_job_may_do_more_than_it_needs_or_run_without_end() {
    for (path, workflow) in workflows() {
        let path = path.display();
        assert!(workflow.get("permissions").is_some(), "{path} says what its jobs may do");
        for (name, job) in jobs(&workflow) {
            let calls_another = job.get("uses").is_some();
            assert!(calls_another || job.get("timeout-minutes").is_some(), "{path}: {name} ends");
        }
    }
}

#[test]
fn production_gets_the_files_that_staging_has_passed() {
    let workflow = yaml(".github/workflows/deploy.yml");
    let [staging, production] = ["staging", "production"].map(|name| &workflow["jobs"][name]);
    assert_eq!(production["needs"], "staging");
    assert_eq!(production["steps"], staging["steps"], "what was tried is what is done");
    assert_eq!(production["environment"], "production");
    assert!(values(staging, "run").iter().all(|command| !command.contains("build")), "nothing is built anew");
}

/// All lock files of crates in the tree, by their folders.
fn locked() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "--", "*Cargo.lock"]).output().expect("git");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let folders = listed.lines().map(|path| path.trim_end_matches("Cargo.lock").trim_end_matches('/'));
    folders.map(|folder| if folder.is_empty() { "." } else { folder }.to_owned()).collect()
}

#[test]
fn all_that_is_locked_is_audited_and_updated() {
    let locked = locked();
    assert!(locked.len() >= 4, "{locked:?}");
    for script in ["dev/audit.sh", "dev/update.sh"] {
        let text = read(script);
        let words = text.split([' ', ';', '"', '\n']).map(|word| word.trim_end_matches("/Cargo.toml"));
        let words: BTreeSet<_> = words.collect();
        for folder in &locked {
            assert!(words.contains(&**folder), "{script} leaves {folder} out");
        }
    }
}

#[test]
fn the_oldest_rust_is_one_number() {
    let of = |crate_: &str| {
        let manifest: String = read(Path::new(crate_).join("Cargo.toml"));
        let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
        line.map(|version| version.trim_matches('"').to_owned())
    };
    let oldest = of(".").expect("it is stated");
    assert_eq!(oldest, env!("CARGO_PKG_RUST_VERSION"));
    assert_eq!(of("admin/attached").as_ref(), Some(&oldest), "it is installed beside the service");
    let contributing = read("CONTRIBUTING.md");
    assert!(contributing.contains(&format!("Rust {oldest} or later")), "CONTRIBUTING.md says Rust {oldest}");
}
