//! Imports go down only, from floor to floor, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The floors of the house, from the top down. Those of one row do not import each other.
const FLOORS: [&[&str]; 7] = [
    &["lib", "main"],
    &["cli", "http"],
    &["counter"],
    &["store"],
    &["config"],
    &["telemetry", "process"],
    &["version"],
];

/// Source files by their names below `src`, such as `http/routes.rs`.
type Files = BTreeMap<String, String>;

/// The files that each file imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn floor(file: &str) -> usize {
    let room = room(file);
    let floor = FLOORS.iter().position(|rooms| rooms.contains(&room));
    floor.unwrap_or_else(|| panic!("{file} is on no floor"))
}

fn room(file: &str) -> &str {
    let room = file.split('/').next().unwrap_or_default();
    room.strip_suffix(".rs").unwrap_or(room)
}

/// The file in which a module is, or the one of those above it, that exists.
fn file_of(files: &Files, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    while !parts.is_empty() {
        let stem = parts.join("/");
        let names = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
        if let Some(name) = names.into_iter().find(|name| files.contains_key(name)) {
            return Some(name);
        }
        parts.pop();
    }
    None
}

/// The paths behind each `prefix` in a text, without it. A group in braces is several paths.
fn paths(text: &str, prefix: &str) -> Vec<String> {
    let is_path = |char: char| char.is_alphanumeric() || "_:".contains(char);
    text.split(prefix)
        .skip(1)
        .flat_map(|rest| {
            let end = rest.find(|char| !is_path(char)).unwrap_or(rest.len());
            let (path, rest) = rest.split_at(end);
            let Some(group) = rest.strip_prefix('{').filter(|_| path.ends_with("::")) else {
                return vec![path.to_owned()];
            };
            let group = group.split('}').next().unwrap_or_default();
            let names = group.split(',').map(str::trim);
            names.map(|name| format!("{path}{name}")).collect()
        })
        .collect()
}

fn imports(files: &Files) -> Imports {
    let of_file = |(name, text): (&String, &String)| {
        // Tests, at the end of a file, may import what they like.
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut imported = paths(&code, "crate::");
        // A module that shows a name of one below it: `pub use link::Link`.
        if let Some(folder) = name.strip_suffix("mod.rs") {
            let folder = folder.replace('/', "::");
            let below = paths(&code, "pub use ").into_iter();
            imported.extend(below.map(|path| folder.clone() + &path));
        }
        let imported = imported.iter().filter_map(|path| file_of(files, path));
        let imported = imported.filter(|other| other != name);
        (name.clone(), imported.collect())
    };
    files.iter().map(of_file).collect()
}

/// What imports from a higher floor, or from another room of its own.
fn upward(imports: &Imports) -> Vec<String> {
    let pairs = imports.iter().flat_map(|(file, imported)| imported.iter().map(move |other| (file, other)));
    pairs
        .filter(|(file, other)| room(file) != room(other) && floor(file) >= floor(other) && floor(file) > 0)
        .map(|(file, other)| format!("{file} imports {other}"))
        .collect()
}

/// The files in circles, and between them: what is left when files that import none of the others, or
/// that none of the others imports, are taken away.
fn circles(imports: &Imports) -> Vec<String> {
    let mut left = imports.clone();
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let imported: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, imports| imported.contains(name) && !imports.is_disjoint(&names));
        if left.len() == names.len() {
            return names.into_iter().collect();
        }
    }
}

fn source_files() -> Files {
    let mut files = Files::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("it is below");
                let text = fs::read_to_string(&path).expect("text");
                files.insert(name.display().to_string(), text);
            }
        }
    }
    files
}

#[test]
fn imports_go_down_and_never_in_a_circle() {
    let files = source_files();
    assert!(files.len() > 30, "{:?}", files.keys());
    let imports = imports(&files);
    let routes = &imports["http/routes.rs"];
    assert!(routes.contains("counter/mod.rs") && routes.contains("http/app.rs"));
    assert_eq!(upward(&imports), Vec::<String>::new());
    assert_eq!(circles(&imports), Vec::<String>::new());
}

#[test]
fn an_import_that_goes_up_and_a_circle_are_found() {
    let files = [
        ("config/mod.rs", "mod url;\npub use url::Url;\n"),
        ("config/url.rs", "use crate::store::{Link, Store};\n"),
        ("store/mod.rs", "pub use link::Link;\n"),
        ("store/link.rs", "// crate::http\nfn f(at: crate::store::Store) {}\n"),
        ("telemetry/mod.rs", "use crate::process::listener;\n"),
        ("process/listener.rs", "\n#[cfg(test)]\nmod tests { use crate::http; }\n"),
        ("http/mod.rs", "use crate::{store::Link, config};\n"),
    ];
    let files: Files = files.map(|(name, text)| (name.into(), text.into())).into();
    let imports = imports(&files);
    assert_eq!(
        upward(&imports),
        ["config/url.rs imports store/mod.rs", "telemetry/mod.rs imports process/listener.rs"]
    );
    let circles = circles(&imports);
    assert!(circles.contains(&"store/link.rs".to_owned()), "{circles:?}");
    assert!(!circles.contains(&"telemetry/mod.rs".to_owned()), "{circles:?}");
}
