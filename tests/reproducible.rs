//! The same source gives the same bytes, on each machine and for each user. `make reproduce` shows it
//! for the release; here it is shown that a leak would be noticed, on crates of a few lines.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// What `dev/reproduce.sh` says about a crate with this `main.rs` and this build script.
fn reproduce(main: &str, build: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    fs::create_dir(folder.path().join("src")).expect("a folder");
    write("Cargo.toml", "[package]\nname = \"planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
    write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"planted\"\nversion = \"0.0.0\"\n");
    write("src/main.rs", main);
    write("build.rs", build);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/reproduce.sh");
    Command::new(script).arg(folder.path()).env_remove("ABUKIKS_COMMIT").output().expect("the script runs")
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
