//! The backups of one counter, in the store that `BACKUP_URL` names.

use std::time::Duration;

use abukiks::cli::Failure;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, PutMode, RetryConfig,
};
use url::Url;

use crate::backup::Backup;
use crate::variables::Variables;

/// What `BACKUP_URL` takes.
const ACCEPTED: &str = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER, \
                        without user, password, query or fragment";

/// How many backups are kept where `BACKUP_KEEP` says nothing.
const KEEP: usize = 30;

/// How large an object may be that is read. A backup has some hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// How long a store may take for one request, where its own variables (`AWS_TIMEOUT`) say nothing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request is tried again for, and how often. Systemd allows the whole task five minutes.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RETRIES: usize = 3;

/// A store, with the folder of one counter.
#[derive(Debug)]
pub struct Backups {
    store: Box<dyn ObjectStore>,
    folder: Path,
    key: String,
    /// The folder as it is shown.
    url: String,
    /// `BACKUP_KEEP`.
    keep: usize,
    /// A hint that failures end with.
    note: &'static str,
}

/// Makes one of `object_store`'s clients from the variables with its prefix.
macro_rules! client {
    ($builder:ident, $key:ident, $prefix:literal, $url:expr, $variables:expr, $options:expr) => {{
        let (mut builder, mut options) = ($builder::new().with_url($url.as_str()), $options);
        for (name, value) in $variables.of($prefix) {
            match name.parse() {
                Ok($key::Client(key)) => options = options.with_config(key, value),
                Ok(key) => builder = builder.with_config(key, value),
                // A variable of other programs.
                Err(_) => {}
            }
        }
        let retry =
            RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        builder.with_client_options(options).with_retry(retry).build().map(|store| Box::new(store) as _)
    }};
}

impl Backups {
    /// The backups of the counter at `key`.
    ///
    /// # Errors
    /// A setting that is wrong.
    pub fn new(variables: &Variables, key: &str) -> Result<Self, Failure> {
        let refuse = |what: &str| Failure::setting(format!("BACKUP_URL {what}; it takes {ACCEPTED}"));
        let url = variables.get("BACKUP_URL").ok_or_else(|| refuse("is not set"))?;
        let url = Url::parse(url).map_err(|error| refuse(&format!("is no URL ({error})")))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().or(url.fragment()).is_some()
        {
            return Err(refuse("holds more than the name of a store"));
        }
        let keep = match variables.get("BACKUP_KEEP").map(str::parse) {
            None => KEEP,
            Some(Ok(keep)) if keep > 0 => keep,
            Some(_) => return Err(Failure::setting("BACKUP_KEEP takes a whole number from 1 on")),
        };
        let wrong = |error: Error| {
            Failure::setting(format!("BACKUP_URL {url}, with the variables of its store: {}", reason(&error)))
        };
        let options =
            ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(REQUEST_TIMEOUT / 2);
        // reqwest takes the provider of its TLS from here. A second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let has_bucket = url.host_str().is_some_and(|host| !host.is_empty());
        let store: Box<dyn ObjectStore> = match url.scheme() {
            "s3" if has_bucket => {
                let options = with_ca(options, variables)?;
                client!(AmazonS3Builder, AmazonS3ConfigKey, "AWS_", url, variables, options).map_err(wrong)?
            }
            "gs" if has_bucket => {
                client!(GoogleCloudStorageBuilder, GoogleConfigKey, "GOOGLE_", url, variables, options)
                    .map_err(wrong)?
            }
            "az" if has_bucket => {
                client!(MicrosoftAzureBuilder, AzureConfigKey, "AZURE_", url, variables, options)
                    .map_err(wrong)?
            }
            "file" if !has_bucket => {
                let folder = url.to_file_path().map_err(|()| refuse("is no folder"))?;
                let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| {
                    Failure::unavailable(format!(
                        "BACKUP_URL {url}: the folder cannot be used: {}",
                        reason(&error)
                    ))
                })?;
                // Else a loss of power could leave an empty file under the name of a backup.
                Box::new(store.with_fsync(true))
            }
            _ => return Err(refuse(&format!("is {url}"))),
        };
        let prefix = if has_bucket { url.path() } else { "" };
        let folder =
            Path::from_url_path(prefix).map_err(|error| refuse(&format!("has a wrong path ({error})")))?;
        // Each counter has a folder of its own, so that one does not remove the backups of another.
        let folder = folder.join(key);
        let shown = format!("{}/{}", url.as_str().trim_end_matches('/'), Path::from_iter([key]));
        // The store's error names only the metadata service of a cloud, which a machine elsewhere lacks.
        let note = match url.scheme() {
            "s3" if variables.get("AWS_ACCESS_KEY_ID").is_none() => {
                " (AWS_ACCESS_KEY_ID is not set: credentials of the machine itself were sought)"
            }
            _ => "",
        };
        Ok(Self { store, folder, key: key.to_owned(), url: shown, keep, note })
    }

    /// The names of all backups, the newest first.
    ///
    /// # Errors
    /// The store is unreachable, or refuses.
    pub async fn names(&self) -> Result<Vec<String>, Failure> {
        let found = self.store.list(Some(&self.folder)).try_collect::<Vec<_>>().await;
        let found = found.map_err(|error| self.failure(&error))?;
        let names = found.iter().filter_map(|object| {
            // Other files in the folder stay.
            let name = object.location.filename().filter(|name| is_name(name))?;
            (object.location == self.folder.clone().join(name)).then(|| name.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Reads the backup of this name; or says why it is none.
    ///
    /// # Errors
    /// The store is unreachable, or refuses.
    pub async fn read(&self, name: &str) -> Result<Result<Backup, String>, Failure> {
        let content = match self.content(name).await {
            Ok(content) => content,
            Err(Error::NotFound { .. }) => return Ok(Err("it was removed meanwhile".to_owned())),
            Err(error) => return Err(self.failure(&error)),
        };
        Ok(content.and_then(|content| {
            let backup = Backup::open(&content, &self.key)?;
            if backup.name() == name { Ok(backup) } else { Err("it was written by another name".to_owned()) }
        }))
    }

    async fn content(&self, name: &str) -> object_store::Result<Result<Vec<u8>, String>> {
        let object = self.store.get(&self.folder.clone().join(name)).await?;
        if object.meta.size > MAX_BYTES {
            return Ok(Err("it is larger than a backup".to_owned()));
        }
        Ok(Ok(object.bytes().await?.to_vec()))
    }

    /// The newest of `names` that is whole.
    ///
    /// # Errors
    /// The store is unreachable, or refuses.
    pub async fn newest(&self, names: &[String]) -> Result<Option<Backup>, Failure> {
        for name in names {
            if let Ok(backup) = self.read(name).await? {
                return Ok(Some(backup));
            }
        }
        Ok(None)
    }

    /// Writes a backup under a name that no other has. Interrupted, it is whole or absent.
    ///
    /// # Errors
    /// The store is unreachable, or refuses.
    pub async fn write(&self, backup: &Backup) -> Result<(), Failure> {
        let content = backup.seal().map_err(Failure::system)?;
        let place = self.folder.clone().join(backup.name());
        match self.store.put_opts(&place, content.clone().into(), PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            // Perhaps our own: written, though the store's answer was lost, and then tried again.
            Err(Error::AlreadyExists { .. })
                if self.content(&backup.name()).await.is_ok_and(|held| held == Ok(content.into_bytes())) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Removes the oldest of `names`, so that `BACKUP_KEEP` are left with the new one, which is not among them.
    /// Returns how many it has removed.
    ///
    /// # Errors
    /// The store is unreachable, or refuses.
    pub async fn prune(&self, names: &[String]) -> Result<usize, Failure> {
        let old = names.get(self.keep - 1..).unwrap_or_default();
        for name in old {
            match self.store.delete(&self.folder.clone().join(&**name)).await {
                // Another process was first.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let why = reason(&error);
                    let said =
                        format!("{}: the backup is written, but old ones cannot be removed: {why}", self.url);
                    return Err(Failure::unavailable(said));
                }
            }
        }
        Ok(old.len())
    }

    /// Where the backup of this name is.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Where all are.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn failure(&self, error: &Error) -> Failure {
        Failure::unavailable(format!(
            "the store of backups does not do what is asked (BACKUP_URL), at {}: {}{}",
            self.url,
            reason(error),
            self.note
        ))
    }
}

/// Trusts what `AWS_CA_BUNDLE` names instead of the system's authorities, as the programs of AWS do.
fn with_ca(options: ClientOptions, variables: &Variables) -> Result<ClientOptions, Failure> {
    let Some(file) = variables.get("AWS_CA_BUNDLE") else { return Ok(options) };
    let wrong = |why: String| Failure::setting(format!("AWS_CA_BUNDLE {file}: {why}; it takes a PEM file"));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(reason(&error)))?;
    if authorities.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    let options = options.with_no_system_certificates(true);
    Ok(authorities.into_iter().fold(options, ClientOptions::with_root_certificate))
}

/// Whether a backup could be called so: `20261129T211500.123456Z.json`.
fn is_name(name: &str) -> bool {
    let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    name.bytes().map(shape).eq(*b"00000000T000000.000000Z.json")
}

/// What the store says, or the innermost reason: the others name requests, and quote all of an answer.
fn reason(error: &Error) -> String {
    let whole = error.to_string();
    let tag = |name: &str| {
        let (_, rest) = whole.split_once(&format!("<{name}>"))?;
        rest.split_once('<').map(|(text, _)| text)
    };
    let said = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => {
            let mut inner: &dyn std::error::Error = error;
            while let Some(source) = inner.source() {
                inner = source;
            }
            inner.to_string()
        }
    };
    said.replace(char::is_control, " ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_store_says_its_code_and_message_are_shown() {
        let said = "403 Forbidden: <?xml?>\n<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between \
                    the request time and the current time is too large.</Message><Key>x</Key></Error>";
        let error = Error::Generic { store: "S3", source: said.into() };
        assert_eq!(
            reason(&error),
            "RequestTimeTooSkewed: The difference between the request time and the current time is too large."
        );
    }

    #[test]
    fn only_what_a_backup_could_be_called_is_one() {
        assert!(is_name("20261129T211500.123456Z.json"));
        for name in
            ["20261129T211500.123456Z.json#1", "2026.json", "note.txt", "20261129T211500.12345xZ.json"]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
