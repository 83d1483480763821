//! The tree is a template: one command makes another service of a copy, which has no trace of the old
//! name and passes its own `make check`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The name of a template. In two parts, so that a renamed tree, which is none any more, still knows it.
fn first_name() -> String {
    ["abu", "kiks"].concat()
}

fn is_template() -> bool {
    env!("CARGO_PKG_NAME") == first_name()
}

/// A command in a folder, which gets nothing of what cargo and make tell this test.
fn command(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_clear();
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "test").env(format!("GIT_{role}_EMAIL"), "test@localhost");
    }
    command
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    let output = command(folder, program, arguments).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What it prints, if it succeeds.
fn output_of(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run(folder, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Commits all tracked files of this tree in a new repository.
fn copy_to(folder: &Path) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = run(tree, "git", &["ls-files", "-z"]);
    assert!(listed.status.success(), "{listed:?}");
    for file in listed.stdout.split(|byte| *byte == 0).map(OsStr::from_bytes) {
        // The last one is empty, and one may be about to be deleted.
        if tree.join(file).is_file() {
            let copy = folder.join(file);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            fs::copy(tree.join(file), copy).expect("a copy");
        }
    }
    for arguments in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message=Copy"]] {
        output_of(folder, "git", arguments);
    }
}

#[test]
fn a_renamed_copy_has_no_trace_of_the_old_name_and_passes_its_own_check() {
    if !is_template() {
        return;
    }
    // At the same place each time, so that cargo builds over what it has built before.
    let temporary = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let copy = temporary.join("renamed");
    if copy.exists() {
        fs::remove_dir_all(&copy).expect("the copy of a test before");
    }
    copy_to(&copy);
    output_of(&copy, "dev/rename.sh", &["page-views"]);

    output_of(&copy, "git", &["add", "."]);
    let names = output_of(&copy, "git", &["ls-files"]).to_lowercase();
    assert!(!names.contains(&first_name()), "{names}");
    assert!(names.contains("systemd/page-views@.service"), "{names}");
    let old = first_name();
    let found = output_of(&copy, "git", &["grep", "--ignore-case", "--text", "--name-only", &old]);
    assert_eq!(found, "CHANGELOG.md\nLICENSE\n");
    output_of(&copy, "git", &["commit", "--quiet", "--message=Rename"]);

    let check = command(&copy, "make", &["check"])
        .env("CARGO_TARGET_DIR", temporary.with_file_name("renamed"))
        .output()
        .expect("make");
    let said = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(check.status.success(), "{said}");
    assert!(said.contains("test counting::"), "{said}");
    assert!(!said.contains("test rename::"), "no copy of the copy: {said}");
    let program = temporary.with_file_name("renamed").join("debug/page-views");
    assert!(output_of(&copy, program.to_str().expect("text"), &["--version"]).starts_with("page-views "));
}

/// A copy without history.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy_to(folder.path());
    folder
}

/// What `dev/rename.sh` says, and its status.
fn rename(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(folder, "dev/rename.sh", arguments);
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn a_name_that_cannot_be_used_everywhere_is_refused_with_what_is_accepted() {
    if !is_template() {
        return;
    }
    let copy = copy();
    let (letters, more) = ("a".repeat(30), "a".repeat(31));
    for name in ["", "Visits", "1st", "-a", "a-", "my_counter", "é", "a b", "a/b", "a\nb", &more] {
        let (status, said) = rename(copy.path(), &[name]);
        assert_eq!(status, Some(64), "{name}: {said}");
        assert!(said.contains("letters, digits and inner hyphens"), "{name}: {said}");
    }
    for name in ["match", "test", "redis", "show-count", "runc", "root"] {
        let (status, said) = rename(copy.path(), &[name]);
        assert_eq!(status, Some(64), "{name}: {said}");
        assert!(said.contains(&format!("my-{name}")), "{name}: {said}");
    }
    assert_eq!(rename(copy.path(), &[]).0, Some(64));
    assert_eq!(output_of(copy.path(), "git", &["status", "--porcelain"]), "");
    assert_eq!(rename(copy.path(), &[&letters]), (Some(0), String::new()));
}

#[test]
fn uncommitted_changes_are_not_mixed_with_the_new_name_and_a_renamed_tree_is_left_as_it_is() {
    if !is_template() {
        return;
    }
    let copy = copy();
    fs::write(copy.path().join("note"), "mine").expect("a file");
    let (status, said) = rename(copy.path(), &["visits"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("uncommitted changes"), "{said}");
    assert_eq!(output_of(copy.path(), "git", &["status", "--porcelain"]), "?? note\n");
    assert_eq!(rename(copy.path(), &["--force", "visits"]), (Some(0), String::new()));

    let (status, said) = rename(copy.path(), &["--force", "calls"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("another name already"), "{said}");
}
