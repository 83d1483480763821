//! What the documents say of the code is so.

use std::fs;
use std::path::{Path, PathBuf};

use abukiks::config::SETTINGS;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of the first table after a line that starts with `heading`, without their head.
fn table(document: &str, heading: &str) -> String {
    document
        .lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn dot_env_example_shows_every_setting_with_its_default_and_nothing_else() {
    let settings: String = SETTINGS
        .iter()
        .map(|setting| {
            let (name, default) = (setting.name, setting.default);
            format!("\n# {}\n# {name}={default}\n", setting.meaning.trim())
        })
        .collect();
    let example = read(".env.example");
    let (_introduction, listed) = example.split_once("\n\n").expect("an introduction");
    assert_same(".env.example", &format!("\n{listed}"), &settings);
}

#[test]
fn readme_lists_every_setting_with_its_default_and_nothing_else() {
    let settings: String = SETTINGS
        .iter()
        .map(|setting| {
            let default = match setting.default {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
            let (name, meaning) = (setting.name, setting.meaning.trim());
            format!("| `{name}` | {default} | {meaning} |\n")
        })
        .collect();
    let listed = table(&read("README.md"), "## Settings");
    assert_same("README.md", &listed, &settings);
}

/// Says which lines differ, so that they can be copied into the document.
fn assert_same(document: &str, listed: &str, settings: &str) {
    let without = |these: &str, those: &str| -> String {
        let unlike = |line: &&str| !those.lines().any(|other| other == *line);
        these.lines().filter(unlike).map(|line| format!("{line}\n")).collect()
    };
    assert!(
        listed == settings,
        "{document} lacks or has out of order:\n{}and has too much:\n{}",
        without(settings, listed),
        without(listed, settings),
    );
}

#[test]
fn readme_names_for_each_factor_a_file_and_a_test_that_are_there() {
    let numerals = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];
    let factors = table(&read("README.md"), "## The twelve factors");
    let rows: Vec<Vec<_>> =
        factors.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let numbered: Vec<_> = rows.iter().filter_map(|row| row[0].split(' ').next()).collect();
    assert_eq!(numbered, numerals);
    for row in rows {
        let [factor, _how, kept_by, proved_by] = row[..] else {
            panic!("four columns: {row:?}");
        };
        let files = quoted(kept_by);
        assert!(!files.is_empty(), "{factor} names no file");
        for path in files {
            assert!(file(&path).exists(), "{factor}: there is no {path}");
        }
        let tests = quoted(proved_by);
        assert!(!tests.is_empty(), "{factor} names no test");
        for test in tests {
            assert_is_a_test(factor, &test);
        }
    }
}

/// What stands in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `run::a_test` is the function `a_test` in tests/run.rs, and one of the program of all tests.
fn assert_is_a_test(factor: &str, test: &str) {
    let (module, name) =
        test.split_once("::").unwrap_or_else(|| panic!("{factor}: {test} does not read file::test"));
    let source = read(&format!("tests/{module}.rs"));
    assert!(
        source.contains(&format!("#[test]\nfn {name}()")),
        "{factor}: there is no test {name} in tests/{module}.rs"
    );
    let promises = read("tests/promises.rs");
    assert!(
        promises.lines().any(|line| line == format!("mod {module};")),
        "{factor}: tests/{module}.rs is never run"
    );
}

#[test]
fn changelog_knows_the_version_of_the_crate() {
    let changelog = read("CHANGELOG.md");
    let latest = changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## [")?.split(']').next())
        .find(|version| *version != "Unreleased");
    assert_eq!(latest, Some(abukiks::VERSION));
}

#[test]
fn no_document_links_to_a_file_that_is_not_there() {
    for (document, target) in documents().iter().flat_map(|document| links(document)) {
        let path = target.split('#').next().unwrap_or_default();
        let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
        let folder = document.parent().expect("a folder");
        assert!(elsewhere || folder.join(path).exists(), "{} links to {target}", document.display());
    }
}

/// README and its like, and everything in docs/.
fn documents() -> Vec<PathBuf> {
    let listed = [file(""), file("docs")]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .map(|entry| entry.expect("an entry").path());
    let documents: Vec<_> =
        listed.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    assert!(documents.len() >= 2, "README and CHANGELOG at least");
    documents
}

/// The targets of `[text](target)`, `![text](target)`, `[text]: target`, `src="target"`.
fn links(document: &Path) -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string(document).expect("a document");
    let inline =
        [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')].into_iter().flat_map(|(before, after)| {
            text.split(before).skip(1).filter_map(move |rest| rest.split(after).next())
        });
    let references = text
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: ").map(|(_, target)| target));
    inline.chain(references).map(|target| (document.to_owned(), target.trim().to_owned())).collect()
}
