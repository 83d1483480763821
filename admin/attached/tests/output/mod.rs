//! What a task has printed, by how it ended.

use std::process::Output;

/// What a task that did its work has printed.
pub(crate) fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

/// What a task that failed with this status has printed, without this secret.
pub(crate) fn complaint(output: &Output, status: i32, secret: &str) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!said.contains(secret), "a secret is shown: {said}");
    said
}
