//! Where settings come from: defaults, the environment, and a file or credential with the Redis URL.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use crate::config::values;

/// What is wrong with which setting.
pub(super) type Problems = Vec<(&'static str, String)>;

/// Where systemd puts the credentials of a service. No setting of ours.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Hands variables to figment as verbatim strings. figment's own `Env` guesses types (a password
/// of digits becomes a number), trims, and quotes secrets in its errors.
pub(super) struct Variables {
    origin: String,
    values: BTreeMap<&'static str, String>,
}

impl Variables {
    pub(super) fn new(origin: &str, values: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        Self { origin: origin.to_owned(), values: values.into_iter().collect() }
    }

    /// Those of `vars` that are `known`. An empty variable counts as absent, as `NAME=` in a file means.
    pub(super) fn environment(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        known: &[&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in vars {
            let mut known = known.iter().copied().chain([CREDENTIALS_DIRECTORY]);
            let Some(name) = known.find(|known| name == *known) else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    values.insert(name, value);
                }
                Err(_) => problems.push((name, format!("{name} is not UTF-8; {name} takes text"))),
            }
        }
        Self::new("environment", values)
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let values = self.values.iter();
        let dict: Dict =
            values.map(|(name, value)| ((*name).to_owned(), Value::from(value.clone()))).collect();
        Ok(Profile::Default.collect(dict))
    }
}

/// The Redis URL from `REDIS_URL_FILE` or the systemd credential, if there is one.
pub(super) fn secret_redis_url(environment: &Variables, problems: &mut Problems) -> Option<Variables> {
    let value = |name| environment.values.get(name);
    let named = value("REDIS_URL_FILE").filter(|file| values::is_path(file));
    let credential = value(CREDENTIALS_DIRECTORY)
        .map(|folder| Path::new(folder).join("redis-url"))
        // One that is there and cannot be looked at is an error, not absent.
        .filter(|file| file.try_exists().unwrap_or(true));
    let named = named.map(|file| (format!("REDIS_URL_FILE {file}"), PathBuf::from(file)));
    let credential =
        credential.map(|file| ("systemd credential $CREDENTIALS_DIRECTORY/redis-url".to_owned(), file));
    let files: Vec<_> = named.into_iter().chain(credential).collect();
    let inline = value("REDIS_URL").map(|_| "REDIS_URL");
    let origins = inline.into_iter().chain(files.iter().map(|(origin, _)| &**origin));
    let origins: Vec<&str> = origins.collect();
    let mut report = |problem| problems.push(("REDIS_URL", problem));
    if origins.len() > 1 {
        let all = origins.join(" and by ");
        report(format!("the Redis URL is given more than once, by {all}; keep one of them"));
        return None;
    }
    let (origin, file) = files.first()?;
    match std::fs::read_to_string(file) {
        Ok(text) => {
            let url = text.lines().next().unwrap_or_default().to_owned();
            Some(Variables::new(origin, [("REDIS_URL", url)]))
        }
        Err(error) => {
            report(format!("{origin} cannot be read ({error}); it takes a readable file with a Redis URL"));
            None
        }
    }
}
