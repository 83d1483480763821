//! The environment, and the systemd credential for what is secret in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

    /// A secret: the value of `name`, the first line of the file that `name` with `_FILE` names, or the systemd
    /// credential that is called as `name` with hyphens and in lower case. `REDIS_URL` is given like this too.
    ///
    /// # Errors
    /// It is given more than once, or cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<String>, Failure> {
        let credential = name.to_lowercase().replace('_', "-");
        let file = format!("{name}_FILE");
        let mut files = Vec::new();
        if let Some(path) = self.get(&file) {
            files.push((format!("{file} {path}"), PathBuf::from(path)));
        }
        if let Some(folder) = self.get("CREDENTIALS_DIRECTORY") {
            let path = Path::new(folder).join(&credential);
            if path.try_exists().unwrap_or(true) {
                files.push((format!("the systemd credential {credential}"), path));
            }
        }
        let given = self.get(name);
        if files.len() + usize::from(given.is_some()) > 1 {
            return Err(Failure::setting(format!(
                "{name} is given more than once; it takes one of {name}, {file} and the systemd credential {credential}"
            )));
        }
        let Some((origin, path)) = files.pop() else { return Ok(given.map(str::to_owned)) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::setting(format!("{origin} cannot be read: {error}")))?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// A time, such as `30s` or `1day`, within `limits`.
    ///
    /// # Errors
    /// It is no time, or not within `limits`.
    pub fn time(
        &self,
        name: &str,
        default: &str,
        limits: RangeInclusive<Duration>,
    ) -> Result<Duration, Failure> {
        let text = self.get(name).unwrap_or(default);
        let time = humantime::parse_duration(text).ok().filter(|time| limits.contains(time));
        time.filter(|time| time.subsec_nanos() == 0).ok_or_else(|| {
            let [from, to] = [limits.start(), limits.end()].map(|limit| humantime::format_duration(*limit));
            Failure::setting(format!(
                "{name} is {text:?}; it takes a time from {from} to {to} in whole seconds"
            ))
        })
    }

    /// All whose names begin with `prefix`, with their names in lower case, as `object_store` reads them.
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
