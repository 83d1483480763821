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
    pub(super) fn new(
        origin: &str,
        values: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        Self {
            origin: origin.to_owned(),
            values: values.into_iter().collect(),
        }
    }

    /// Those of `vars` that are `known`. An empty variable counts as absent, as `NAME=` in a file means.
    pub(super) fn environment(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        known: &[&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in vars {
            let known = known.iter().copied().chain([CREDENTIALS_DIRECTORY]);
            let Some(name) = known.into_iter().find(|known| name == *known) else {
                continue;
            };
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
        let dict: Dict = values
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.clone())))
            .collect();
        Ok(Profile::Default.collect(dict))
    }
}

/// How messages name the file of the systemd credential.
const CREDENTIAL: &str = "systemd credential $CREDENTIALS_DIRECTORY/redis-url";

/// The Redis URL from `REDIS_URL_FILE` or the systemd credential, if there is one.
pub(super) fn secret_redis_url(
    environment: &Variables,
    problems: &mut Problems,
) -> Option<Variables> {
    let named = environment
        .values
        .get("REDIS_URL_FILE")
        .filter(|file| values::is_path(file))
        .map(|file| (PathBuf::from(file), format!("REDIS_URL_FILE {file}")));
    let credential = environment
        .values
        .get(CREDENTIALS_DIRECTORY)
        .map(|folder| Path::new(folder).join("redis-url"))
        // One that is there and cannot be looked at is an error, not absent.
        .filter(|file| file.try_exists().unwrap_or(true))
        .map(|file| (file, CREDENTIAL.to_owned()));

    let inline = environment
        .values
        .contains_key("REDIS_URL")
        .then(|| "REDIS_URL".to_owned());
    let given: Vec<String> = inline
        .into_iter()
        .chain(
            [&named, &credential]
                .into_iter()
                .flatten()
                .map(|(_, origin)| origin.clone()),
        )
        .collect();
    if given.len() > 1 {
        problems.push((
            "REDIS_URL",
            format!(
                "the Redis URL is given more than once, by {}; keep one of them",
                given.join(" and by ")
            ),
        ));
        return None;
    }
    let (file, origin) = named.or(credential)?;
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let url = text.lines().next().unwrap_or_default().to_owned();
            Some(Variables::new(&origin, [("REDIS_URL", url)]))
        }
        Err(error) => {
            problems.push((
                "REDIS_URL",
                format!(
                    "{origin} cannot be read ({error}); it takes a readable file with a Redis URL"
                ),
            ));
            None
        }
    }
}
