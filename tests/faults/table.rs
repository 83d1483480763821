//! docs/faults.md: written by `make faults` from what came of each fault, and held against it by
//! every other run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{Fault, GROUPS};

/// Set by `make faults`.
const WRITE: &str = "WRITE_FAULTS";

const HEAD: &str = "| fault | how it is injected | what clients saw | what the counter was |\n\
                    |---|---|---|---|\n";

const HINT: &str = "docs/faults.md is not what came of it; `make faults` writes it";

fn path() -> impl AsRef<Path> {
    concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md")
}

fn read() -> String {
    fs::read_to_string(path()).expect("docs/faults.md is there")
}

/// The first two cells of a row.
fn start(fault: &Fault) -> String {
    format!("| {} | {} |", fault.name, fault.how)
}

/// Checks the row of a fault, or writes it.
pub(super) fn hold(fault: &Fault, seen: &str, count: &str) {
    static DOCUMENT: Mutex<()> = Mutex::new(());
    let row = format!("{} {seen} | {count} |", start(fault));
    // Another fault's test may have failed while it had the lock.
    let _turn = DOCUMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let document = read();
    if std::env::var_os(WRITE).is_some() {
        let mut rows = rows(&document);
        rows.insert(start(fault), row);
        fs::write(path(), render(&document, &rows)).expect("docs/faults.md can be written");
    } else {
        assert!(document.lines().any(|line| line == row), "{HINT}\n{row}");
    }
}

/// The rows that a document has, by their first two cells.
fn rows(document: &str) -> BTreeMap<String, String> {
    let faults = GROUPS.iter().flat_map(|(_, faults)| *faults);
    faults
        .filter_map(|fault| {
            let start = start(fault);
            let row = document.lines().find(|line| line.starts_with(&start))?;
            Some((start, row.to_owned()))
        })
        .collect()
}

/// The document with its introduction as it is and these rows, in the order of the faults.
fn render(document: &str, rows: &BTreeMap<String, String>) -> String {
    let (introduction, _) = document.split_once("\n## ").expect("a heading");
    let mut rendered = introduction.to_owned();
    for (heading, faults) in GROUPS {
        let _ = write!(rendered, "\n## {heading}\n\n{HEAD}");
        for row in faults.iter().filter_map(|fault| rows.get(&start(fault))) {
            let _ = writeln!(rendered, "{row}");
        }
    }
    rendered
}

#[test]
fn the_table_has_every_fault_and_no_other() {
    let document = read();
    let rows = rows(&document);
    let faults = GROUPS.iter().flat_map(|(_, faults)| *faults);
    if std::env::var_os(WRITE).is_none() {
        for fault in faults.clone() {
            assert!(rows.contains_key(&start(fault)), "{HINT}: {}", fault.name);
        }
        assert_eq!(document, render(&document, &rows), "{HINT}");
    }
    let mut names: Vec<_> = faults.map(|fault| fault.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands for one fault");
}
