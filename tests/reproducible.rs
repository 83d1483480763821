//! The same source gives the same bytes, on each machine and for each user. `make reproduce` shows it
//! for the release; here it is shown that a leak would be noticed, on crates of a few lines.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// What `dev/reproduce.sh` says about a crate with this `main.rs` and this build script.
fn reproduce(main: &str, build: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    command(folder.path(), main, build).output().expect("the script runs")
}

/// Asks `dev/reproduce.sh` about a crate in this folder.
fn command(folder: &Path, main: &str, build: &str) -> Command {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
    fs::create_dir(folder.join("src")).expect("a folder");
    write("Cargo.toml", "[package]\nname = \"planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
    write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"planted\"\nversion = \"0.0.0\"\n");
    write("src/main.rs", main);
    write("build.rs", build);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/reproduce.sh");
    let mut command = Command::new(script);
    command.arg(folder).env_remove("ABUKIKS_COMMIT");
    command
}

const NO_BUILD_SCRIPT: &str = "fn main() {}";

#[test]
fn a_path_in_the_message_of_a_panic_does_not_tell_where_it_was_built() {
    // Code that is generated at build time lies under an absolute path.
    let output = reproduce(
        "fn main() { include!(concat!(env!(\"OUT_DIR\"), \"/generated.rs\")) }",
        "fn main() { std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/generated.rs\",
             \"drop(std::env::args().nth(1).unwrap())\").unwrap() }",
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("planted: identical"), "{said}");
}

#[test]
fn a_planted_build_path_is_caught() {
    let output = reproduce("fn main() { println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\")) }", NO_BUILD_SCRIPT);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("planted differs"), "{said}");
    assert!(said.contains("/another/and-longer/folder"), "{said}");
}

#[test]
fn a_planted_build_time_is_caught() {
    let output = reproduce(
        "fn main() { println!(\"{}\", env!(\"BUILT_AT\")) }",
        "fn main() { println!(\"cargo::rustc-env=BUILT_AT={:?}\", std::time::SystemTime::now()) }",
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("planted differs"), "{said}");
}

/// For `cargo audit bin`, long after a release. The list is compressed, in a section of its own.
#[test]
fn programs_for_elsewhere_carry_the_list_of_their_crates_and_are_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = command(folder.path(), "fn main() {}", NO_BUILD_SCRIPT);
    let output = command.arg(&kept).env("TARGET", target).output().expect("the script runs");
    assert!(output.status.success(), "{output:?}");
    let sections = Command::new("readelf").args(["--sections", "--wide"]).arg(kept.join("planted")).output();
    let sections = sections.expect("readelf is there").stdout;
    assert!(
        String::from_utf8_lossy(&sections).contains(" .dep-v0 "),
        "{}",
        String::from_utf8_lossy(&sections)
    );
}
