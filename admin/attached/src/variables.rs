//! The environment, and the systemd credential for what is secret in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use abukiks::cli::Failure;

/// The systemd credential (systemd.exec(5), "CREDENTIALS") with `NAME=value` lines.
const CREDENTIAL: &str = "backup-env";

/// Variables by their names. An empty one counts as absent.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those of the environment, over those of the credential if there is one.
    ///
    /// # Errors
    /// A credential that cannot be read.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Failure> {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let environment: BTreeMap<_, _> = environment.into_iter().filter_map(text).collect();
        let mut all = BTreeMap::new();
        if let Some(folder) = environment.get("CREDENTIALS_DIRECTORY") {
            let file = Path::new(folder).join(CREDENTIAL);
            // One that is there and cannot be looked at is an error, not absent.
            if file.try_exists().unwrap_or(true) {
                let lines = std::fs::read_to_string(&file).map_err(|error| {
                    Failure::setting(format!("the systemd credential {CREDENTIAL} cannot be read: {error}"))
                })?;
                all.extend(lines.lines().filter_map(line));
            }
        }
        all.extend(environment);
        all.retain(|_, value| !value.is_empty());
        Ok(Self(all))
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All whose names begin so, by their names in lower case: as `object_store` reads them.
    pub fn of<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, &'a str)> {
        let all = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        all.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

/// A line as systemd's environment files have it, quoted or not; nothing of a comment.
fn line(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=').filter(|(name, _)| !name.starts_with(['#', ';']))?;
    let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    Some((name.to_owned(), value.to_owned()))
}
