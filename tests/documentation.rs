//! What the documents say of the code is so.

use std::fs;
use std::path::{Path, PathBuf};

use abukiks::config::{SETTINGS, Setting};
use serde_json::Value;

pub(crate) mod manual;

use crate::support::{Redis, Service};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn read(path: &str) -> String {
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

/// Set, it has generated files written from the code: docs/settings.md, .env.example, man/, completions/ and the
/// dashboard.
const WRITE: &str = "WRITE_DOCS";

/// Holds the part of a document behind `mark` against what the code says, or writes it.
pub(crate) fn hold(path: &str, mark: &str, generated: &str) {
    let document = read(path);
    let (introduction, listed) =
        document.split_once(mark).unwrap_or_else(|| panic!("{path} has no {mark:?}"));
    if std::env::var_os(WRITE).is_some() {
        fs::write(file(path), format!("{introduction}{mark}{generated}")).expect("a document can be written");
    } else {
        assert_same(path, listed, generated);
    }
}

/// Holds a whole file against what the code says, or writes it. dev/rename.sh keeps hyphens where the
/// generators escape them or write underscores, which readers of the files take as well.
fn hold_file(path: &str, generated: &str) {
    if std::env::var_os(WRITE).is_some() {
        fs::write(file(path), generated).expect("a document can be written");
        return;
    }
    let plain = |text: &str| {
        ["__subcmd__", "__", "_", "\\-"]
            .into_iter()
            .fold(text.to_owned(), |text, mark| text.replace(mark, "-"))
    };
    assert_same(path, &plain(&read(path)), &plain(generated));
}

fn default(setting: &Setting) -> String {
    match setting.default {
        "" => "none".to_owned(),
        default => format!("`{default}`"),
    }
}

#[test]
fn dot_env_example_shows_every_setting_with_its_default_and_nothing_else() {
    let settings: Vec<String> = SETTINGS
        .iter()
        .map(|setting| {
            let (name, default) = (setting.name, setting.default);
            format!("# {}\n# {name}={default}\n", setting.meaning.trim())
        })
        .collect();
    hold(".env.example", "\n\n", &settings.join("\n"));
}

#[test]
fn settings_md_lists_every_setting_as_the_code_has_it() {
    let rows = SETTINGS.iter().map(|setting| {
        let Setting { name, accepts, .. } = setting;
        format!("| `{name}` | {} | {accepts} | {} |\n", default(setting), setting.meaning.trim())
    });
    hold("docs/settings.md", "|---|---|---|---|\n", &rows.collect::<String>());
}

#[test]
fn readme_lists_some_settings_as_the_code_has_them() {
    let all: Vec<String> = SETTINGS
        .iter()
        .map(|setting| format!("| `{}` | {} | {} |", setting.name, default(setting), setting.meaning.trim()))
        .collect();
    let listed = table(&read("README.md"), "## Settings");
    assert!(listed.lines().count() >= 3, "README shows a few settings");
    for row in listed.lines() {
        assert!(all.iter().any(|other| other == row), "the code says otherwise: {row}");
    }
}

/// The events of these levels in the source: their fields, and the message, which is their last text.
fn events(folder: &Path, levels: &[&str]) -> Vec<(String, String)> {
    let mut events = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            events.extend(self::events(&path, levels));
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source file");
        for level in levels {
            for rest in source.split(&format!("tracing::{level}!(")).skip(1) {
                let arguments = rest.split(");").next().unwrap_or_default();
                let mut parts = arguments.rsplitn(3, '"').skip(1).map(str::to_owned);
                let message = parts.next().unwrap_or_default();
                events.push((parts.next().unwrap_or_default(), message));
            }
        }
    }
    events
}

#[test]
fn operations_md_explains_every_message() {
    let document = read("docs/operations.md");
    let events = events(&file("src"), &["error", "warn", "info", "debug"]);
    assert!(events.len() >= 15, "{events:?}");
    // As far as they are fixed.
    let fixed = events.iter().map(|(_, text)| text.split(['{', ':']).next().unwrap_or_default().trim());
    for message in fixed.filter(|message| !message.is_empty()) {
        assert!(document.contains(&format!("| `{message}")), "docs/operations.md lacks {message:?}");
    }
}

/// Without this `journalctl` would show that something is wrong, and not what.
#[test]
fn the_message_of_a_warning_or_error_holds_its_reason() {
    let events = events(&file("src"), &["error", "warn"]);
    let mut reasons = 0;
    for (fields, message) in &events {
        for field in fields.split(',').filter_map(|field| field.trim().strip_prefix('%')) {
            reasons += 1;
            assert!(message.contains(&format!("{{{field}}}")), "{field} is missing in {message:?}");
        }
    }
    assert!(reasons >= 2, "{events:?}");
}

#[test]
fn operations_md_explains_every_metric_and_no_other() {
    let redis = Redis::start();
    let mut service = Service::start(&redis);
    assert_eq!(service.get("/").number(), 1);
    // What Redis can promise is known by then.
    service.log_line("Redis is");
    let metrics = service.get("/metrics").body;
    let families = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut names: Vec<String> = families.map(|(name, _)| name.to_owned()).collect();
    let explained = table(&read("docs/operations.md"), "## Metrics");
    let mut listed: Vec<String> =
        explained.lines().filter_map(|row| quoted(row).into_iter().next()).collect();
    names.sort();
    listed.sort();
    assert_eq!(listed, names);
}

/// The fields of an event by docs/logs.md: in a JSON line, in the journal, and in the Elastic Common Schema.
fn logged_fields() -> [Vec<String>; 3] {
    let rows = table(&read("docs/logs.md"), "## One event for each request");
    [1, 2, 3].map(|column| {
        rows.lines().flat_map(|row| quoted(row.split('|').nth(column).expect("a column"))).collect()
    })
}

#[test]
fn the_collectors_map_each_field_that_logs_md_lists() {
    let [fields, journal, ecs] = logged_fields();
    assert_eq!((fields.len(), journal.len(), ecs.len()), (15, 15, 15));
    for (path, names) in [
        ("collectors/rsyslog-journal.conf", journal.clone()),
        ("collectors/syslog-ng-journal.conf", journal),
        ("collectors/syslog-ng-journal.conf", fields.clone()),
        ("collectors/rsyslog-stdout.conf", fields.clone()),
        ("collectors/rsyslog-journal.conf", ecs.clone()),
        ("collectors/rsyslog-stdout.conf", ecs),
        ("collectors/fluent-bit.yaml", fields.clone()),
        ("collectors/vector.yaml", fields),
    ] {
        let text = read(path);
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        for name in names {
            // As a word of its own.
            let mut places = text.match_indices(&name);
            let alone = |(place, _): (usize, &str)| {
                !text[..place].ends_with(is_part) && !text[place + name.len()..].starts_with(is_part)
            };
            assert!(places.any(alone), "{path} does not map {name}");
        }
    }
}

#[test]
fn the_collectors_read_no_field_that_is_not_logged() {
    let yaml = |name: &str| -> Value { serde_norway::from_str(&read(name)).expect("YAML") };
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    // The names that stand after any of these.
    let after = |text: &str, marks: &[&str]| -> Vec<String> {
        let rests = marks.iter().flat_map(|mark| text.split(mark).skip(1));
        let is_end = |character: char| !character.is_alphanumeric() && character != '_';
        let names = rests.filter_map(|rest| rest.split(is_end).next());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let fluent_bit = yaml("collectors/fluent-bit.yaml");
    let renamed = fluent_bit["pipeline"]["filters"][1]["rename"].as_array().expect("a list");
    let mut renamed: Vec<_> = renamed.iter().map(|pair| format!(" {}", text(pair))).collect();
    renamed.push(format!(" {}", text(&fluent_bit["parsers"][0]["time_key"])));
    let vector = text(&yaml("collectors/vector.yaml")["transforms"]["abukiks"]["source"]);
    let alloy = read("collectors/alloy.config");
    let (_, taken) = alloy.split_once("expressions = {").expect("a stage");
    let (taken, _) = taken.split_once('}').expect("an end");

    let [mut fields, mut journal, _] = logged_fields();
    fields.extend(["timestamp", "level", "message"].map(str::to_owned));
    // Those with an underscore in front are the journal's own.
    journal.extend(["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"].map(str::to_owned));
    for (path, known, read) in [
        (
            "fluent-bit.yaml",
            &fields,
            renamed.iter().flat_map(|pair| after(pair, &[" "]).into_iter().next()).collect(),
        ),
        ("vector.yaml", &fields, after(&vector, &[" event.", "(event."])),
        ("alloy.config", &fields, after(&format!(" {taken}"), &[" "])),
        (
            "rsyslog-stdout.conf",
            &fields,
            after(&read("collectors/rsyslog-stdout.conf").replace("$!metadata!", ""), &["$!"]),
        ),
        ("rsyslog-journal.conf", &journal, after(&read("collectors/rsyslog-journal.conf"), &["$!"])),
        (
            "syslog-ng-journal.conf",
            &journal,
            after(&read("collectors/syslog-ng-journal.conf"), &["${.journald."]),
        ),
        ("syslog-ng-stdout.conf", &fields, after(&read("collectors/syslog-ng-stdout.conf"), &["${.line."])),
    ] {
        let read: Vec<String> = read;
        assert!(!read.is_empty(), "{path}");
        for name in read {
            assert!(
                name.starts_with('_') || known.contains(&name),
                "{path} reads {name}, which is not logged"
            );
        }
    }
}

/// Elasticsearch takes a dot for an object within, and a field is one or the other.
#[test]
fn no_field_of_the_elastic_common_schema_lies_within_another() {
    let [fields, _, mut ecs] = logged_fields();
    ecs.extend(["@timestamp", "log.level", "message", "service.name", "host.name"].map(str::to_owned));
    for name in &ecs {
        let within = ecs
            .iter()
            .find(|other| other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')));
        assert_eq!(within, None, "{name} would be an object");
    }
    assert!(fields.iter().all(|name| !name.contains('.')));
}

#[test]
fn documents_name_targets_that_make_has() {
    let makefile = read("Makefile");
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        // In a sentence `make run`, in a block the beginning of a line.
        let named = ["`make ", "\n$ make ", "\n# make ", "\nmake "]
            .into_iter()
            .flat_map(|before| text.split(before).skip(1));
        for rest in named {
            let end = rest.find(|char: char| !(char.is_ascii_lowercase() || char == '-'));
            let target = &rest[..end.unwrap_or(rest.len())];
            assert!(
                makefile.lines().any(|line| line.starts_with(&format!("{target}:"))),
                "{}: make has no target {target:?}",
                document.display()
            );
        }
    }
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
/// `attached::run::a_test` is the one in admin/attached/tests/run.rs, which is a program of its own.
fn assert_is_a_test(factor: &str, test: &str) {
    let attached = test.strip_prefix("attached::");
    let folder = if attached.is_some() { "admin/attached/tests" } else { "tests" };
    let (module, name) = attached
        .unwrap_or(test)
        .split_once("::")
        .unwrap_or_else(|| panic!("{factor}: {test} does not read file::test"));
    let source = read(&format!("{folder}/{module}.rs"));
    assert!(
        source.contains(&format!("#[test]\nfn {name}()")),
        "{factor}: there is no test {name} in {folder}/{module}.rs"
    );
    let promises = read("tests/promises.rs");
    assert!(
        attached.is_some() || promises.lines().any(|line| line == format!("mod {module};")),
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
pub(crate) fn documents() -> Vec<PathBuf> {
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
