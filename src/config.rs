//! Every setting of the service, in one typed place.
//!
//! Factor III: the settings come from the environment and from nothing else. Two of them may name
//! a file, because a secret does not belong in the environment: `REDIS_URL_FILE`, and the systemd
//! credential `redis-url` (systemd.exec(5), "CREDENTIALS").
//!
//! Every setting is read once, at start, into a type that cannot be wrong. All mistakes are
//! reported together, each as one line: the variable, what it held (never a secret), what it takes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// `sysexits.h`: the configuration is wrong. systemd is told not to restart on it.
pub const EX_CONFIG: u8 = 78;

/// In seconds. The guarantee that a batch counts once rests on this bound (see `MEMORY` in `store.rs`).
const LONGEST_REDIS_TIMEOUT: u64 = 60;

/// A map of headers that grows beyond 24576 panics.
const MOST_HEADERS: u32 = 10_000;

/// In seconds: the longest time that makes sense for anything here.
const DAY: u64 = 24 * 60 * 60;

/// One row of the settings table, as `abukiks --help` shows it.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when the variable is absent or empty.
    pub default: &'static str,
    /// What the setting does.
    pub meaning: &'static str,
    /// What the variable takes.
    pub accepts: &'static str,
}

/// A type that a setting can have.
trait FromSetting: Sized {
    /// What is accepted, to end the sentence "X takes ...".
    const ACCEPTS: &'static str;
    /// Reads the text of a variable, exactly as it was given.
    fn read(text: &str) -> Option<Self>;
}

/// Declares [`Config`], [`SETTINGS`] and the reading of one into the other from a single list.
macro_rules! settings {
    ($( $(#[doc = $meaning:literal])+ $name:ident $field:ident: $type:ty = $default:literal; )+) => {
        /// The effective settings of one process.
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub struct Config {
            $( $(#[doc = $meaning])+ pub $field: $type, )+
            /// Each setting as text with its origin, secrets redacted: for `--check-config`.
            effective: Vec<Effective>,
        }

        /// Every setting, in the order in which people look for them.
        pub const SETTINGS: &[Setting] = &[ $( Setting {
            name: stringify!($name),
            default: $default,
            meaning: concat!($($meaning),+),
            accepts: <$type as FromSetting>::ACCEPTS,
        }, )+ ];

        impl Config {
            /// `None` when a setting is wrong, after all of them have been looked at.
            fn read(source: &Source, problems: &mut Problems) -> Option<Self> {
                let mut effective = Vec::new();
                $( let $field: Option<$type> = read_one(
                    source, stringify!($name), problems, &mut effective,
                ); )+
                Some(Self { $($field: $field?,)+ effective })
            }
        }
    };
}

settings! {
    /// Address to listen on, unless systemd hands over a socket. `::` or `0.0.0.0` is every address.
    HOST host: IpAddr = "127.0.0.1";
    /// TCP port to listen on, unless systemd hands over a socket. 0 takes a free one and logs it.
    PORT port: u16 = "5000";
    /// The Redis that keeps the count.
    REDIS_URL redis_url: RedisUrl = "redis://127.0.0.1:6379/";
    /// File whose first line is the Redis URL, for a URL with a password. Instead of `REDIS_URL`; the systemd credential `redis-url` is a third way.
    REDIS_URL_FILE redis_url_file: Optional<PathBuf> = "";
    /// PEM file with the certificate authorities to trust for `rediss://`, instead of the system's (which `SSL_CERT_FILE` or `SSL_CERT_DIR` replaces).
    REDIS_CA_FILE redis_ca_file: Optional<PathBuf> = "";
    /// PEM file with the client certificate to show to a `rediss://` server. Needs `REDIS_KEY_FILE`.
    REDIS_CERT_FILE redis_cert_file: Optional<PathBuf> = "";
    /// PEM file with the private key of `REDIS_CERT_FILE`.
    REDIS_KEY_FILE redis_key_file: Optional<PathBuf> = "";
    /// Time budget of a visit: with no answer from Redis by then, the visitor gets 503. At most 1m.
    REDIS_TIMEOUT redis_timeout: Period<LONGEST_REDIS_TIMEOUT> = "1s";
    /// Redis key that holds the count, a plain integer.
    COUNTER_KEY counter_key: NonEmpty = "visitorCount";
    /// Refuse visits with 503 while the count stands below a number already given out (a Redis that lost data), until `reset-count` is run; raising it helps too, unless a reset was lost with it.
    COUNTER_FENCE counter_fence: Switch = "off";
    /// Replicas of Redis that must have a visit before it gets its number. With too few in time the visitor gets 503. 0 asks none of them.
    MIN_REPLICAS_ACK min_replicas_ack: Whole<0> = "0";
    /// Visits that may wait for Redis at one time. One more gets 503 at once.
    MAX_WAITING_VISITS max_waiting_visits: Whole<1> = "16384";
    /// Connections served at one time; further ones wait in the socket's backlog. `auto` is the limit of open files (`LimitNOFILE`) less what the process itself needs (34 with one socket and one thread).
    MAX_CONNECTIONS max_connections: Auto<Whole<1>> = "auto";
    /// Size of a request's line and headers together, in bytes. A larger head gets 431.
    MAX_HEADER_BYTES max_header_bytes: Whole<256> = "16384";
    /// Number of headers of a request. One more gets 431. At most 10000.
    MAX_HEADERS max_headers: Whole<1, MOST_HEADERS> = "100";
    /// Content of a request, in bytes, that is read and thrown away so that the client can read its answer. A request that announces more gets 413. No content is ever kept.
    MAX_BODY_BYTES max_body_bytes: Whole<0> = "65536";
    /// Time from the first byte of a request to the end of its headers. Later: 408. A new connection that sends nothing for so long is closed.
    HEADER_TIMEOUT header_timeout: Period = "10s";
    /// Time that a connection may idle between requests, or write an answer that nobody reads. Then it is closed.
    KEEP_ALIVE_TIMEOUT keep_alive_timeout: Period = "75s";
    /// After SIGTERM, the least time for which new connections are still accepted, so that a load balancer can see `/readyz` turn 503 first.
    DRAIN_LAME_DUCK drain_lame_duck: PeriodOrZero = "250ms";
    /// After SIGTERM, how long a connection must have been idle before it is closed.
    DRAIN_IDLE drain_idle: Period = "1s";
    /// After SIGTERM, the time after which whatever remains is cut and logged.
    DRAIN_TIMEOUT drain_timeout: Period = "30s";
    /// End the process after this long without a connection. Only for a socket that systemd holds: the next connection starts it again.
    IDLE_EXIT idle_exit: Off<Period> = "off";
    /// `journald` (native, structured), `json` lines or `text` on stdout; `auto` is `journald` when stdout or stderr is the journal, `text` on a terminal, else `json`.
    LOG_FORMAT log_format: LogFormat = "auto";
    /// Least severe level that is logged.
    LOG_LEVEL log_level: LogLevel = "info";
    /// One log event for each request.
    ACCESS_LOG access_log: Switch = "on";
    /// Release id: this build with this configuration (factor V). Shown by `/version` and in every access event; `auto` is version and commit of the build.
    RELEASE release: Auto<NonEmpty> = "auto";
    /// Threads that serve requests. One process is one core: prefer more processes (factor VIII).
    WORKER_THREADS worker_threads: Whole<1> = "1";
}

/// One effective setting, for `--check-config`.
#[derive(Debug, Clone)]
struct Effective {
    name: &'static str,
    value: String,
    origin: String,
}

/// What is wrong with which setting.
type Problems = Vec<(&'static str, String)>;

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Reads the settings from the variables of this process.
    ///
    /// # Errors
    /// Names every setting that is wrong or contradicts another.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(std::env::vars_os())
    }

    /// Reads the settings from `vars`. Tests pass a map of their own; they never touch the
    /// environment of their process.
    ///
    /// # Errors
    /// Names every setting that is wrong or contradicts another.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::new();
        let environment = Variables::environment(vars, &mut problems);
        let secret = secret_redis_url(&environment, &mut problems);
        let mut given = vec![environment];
        given.extend(secret);
        let mut config = Self::read(&Source::new(&given), &mut problems);
        if config.is_none() {
            // With its default in place of each wrong one, what contradicts what is told as well.
            for variables in &mut given {
                variables
                    .values
                    .retain(|known, _| problems.iter().all(|(wrong, _)| wrong != known));
            }
            config = Self::read(&Source::new(&given), &mut Problems::new());
        }
        if let Some(config) = &config {
            config.contradictions(&mut problems);
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError(
                problems.into_iter().map(|(_, text)| text).collect(),
            )),
        }
    }

    /// The effective settings as `NAME=value  # origin` lines, secrets redacted.
    #[must_use]
    pub fn effective(&self) -> String {
        self.effective
            .iter()
            .map(
                |Effective {
                     name,
                     value,
                     origin,
                 }| format!("{name}={value}  # {origin}\n"),
            )
            .collect()
    }

    /// The id of this release: what was built, run with what configuration.
    #[must_use]
    pub fn release_id(&self) -> String {
        match &self.release {
            Auto(Some(NonEmpty(id))) => id.clone(),
            Auto(None) => format!("{}-{}", crate::VERSION, crate::COMMIT),
        }
    }

    /// Settings that are right alone and wrong together. Where one of them is wrong by itself,
    /// that has been said, and nothing follows from it.
    fn contradictions(&self, problems: &mut Problems) {
        let known: Vec<_> = problems.iter().map(|(name, _)| *name).collect();
        let mut contradiction = |names: &[&'static str], text: String| {
            if names.iter().all(|name| !known.contains(name)) {
                problems.push((names[0], text));
            }
        };
        if self.drain_lame_duck.0 > self.drain_timeout.0 {
            contradiction(
                &["DRAIN_LAME_DUCK", "DRAIN_TIMEOUT"],
                format!(
                    "DRAIN_LAME_DUCK={} is longer than DRAIN_TIMEOUT={}; it takes at most that",
                    self.drain_lame_duck, self.drain_timeout
                ),
            );
        }
        let tls_files = [
            ("REDIS_CA_FILE", &self.redis_ca_file),
            ("REDIS_CERT_FILE", &self.redis_cert_file),
            ("REDIS_KEY_FILE", &self.redis_key_file),
        ];
        for (name, file) in tls_files {
            if let Optional(Some(path)) = file {
                if !self.redis_url.is_tls() {
                    contradiction(
                        &[name, "REDIS_URL"],
                        format!(
                            "{name}={} is set, but the Redis URL {} is not encrypted; {name} takes effect with rediss:// only",
                            path.display(),
                            self.redis_url
                        ),
                    );
                } else if let Err(error) = std::fs::File::open(path) {
                    // Not read here as well: a pipe gives what it holds but once.
                    contradiction(
                        &[name],
                        format!(
                            "{name}={} cannot be read ({error}); it takes a readable PEM file",
                            path.display()
                        ),
                    );
                }
            }
        }
        if self.redis_cert_file.0.is_some() != self.redis_key_file.0.is_some() {
            contradiction(
                &["REDIS_CERT_FILE", "REDIS_KEY_FILE"],
                "REDIS_CERT_FILE and REDIS_KEY_FILE belong together; set both or neither"
                    .to_owned(),
            );
        }
        if cfg!(not(feature = "tls")) && self.redis_url.is_tls() {
            contradiction(
                &["REDIS_URL"],
                format!(
                    "REDIS_URL={} asks for TLS, which this build leaves out; it takes redis:// or unix://",
                    self.redis_url
                ),
            );
        }
    }
}

/// Reads one setting; what is wrong goes to `problems`, what is right to `effective`.
fn read_one<T: FromSetting + fmt::Display>(
    source: &Source,
    name: &'static str,
    problems: &mut Problems,
    effective: &mut Vec<Effective>,
) -> Option<T> {
    let (text, origin) = source.text_and_origin(name);
    let Some(value) = T::read(text) else {
        // A URL can hold a password, and one that cannot be read cannot be redacted either. What is no path
        // may be what such a file holds.
        let held = if name == "REDIS_URL" || name.ends_with("_FILE") {
            format!("{name} (from {origin}; its text is withheld, it may hold a password or a key)")
        } else {
            format!("{name}={text:?} (from {origin})")
        };
        problems.push((
            name,
            format!("{held} is not valid; {name} takes {}", T::ACCEPTS),
        ));
        return None;
    };
    effective.push(Effective {
        name,
        value: value.to_string(),
        origin: origin.to_owned(),
    });
    Some(value)
}

/// The defaults with everything given on top.
struct Source {
    layers: Figment,
    /// What they come to. Asked for a single value, figment would put all of them together anew.
    merged: Dict,
}

impl Source {
    /// The last of `given` is the uppermost.
    fn new(given: &[Variables]) -> Self {
        let defaults = Variables {
            origin: "default".to_owned(),
            values: SETTINGS
                .iter()
                .map(|setting| (setting.name, setting.default.to_owned()))
                .collect(),
        };
        let layers = given
            .iter()
            .cloned()
            .fold(Figment::from(defaults), Figment::merge);
        let merged = layers.data().unwrap_or_default();
        Self {
            layers,
            merged: merged.into_values().next().unwrap_or_default(),
        }
    }

    fn text_and_origin(&self, name: &str) -> (&str, &str) {
        let value = self.merged.get(name);
        let origin = value.and_then(|value| self.layers.get_metadata(value.tag()));
        (
            value.and_then(Value::as_str).unwrap_or_default(),
            origin.map_or("", |metadata| &metadata.name),
        )
    }
}

/// Hands variables to figment as verbatim strings. figment's own `Env` guesses types (a password
/// of digits becomes a number), trims, and quotes secrets in its errors.
#[derive(Clone)]
struct Variables {
    origin: String,
    values: BTreeMap<&'static str, String>,
}

impl Variables {
    /// The settings among `vars`. An empty variable counts as absent, as `NAME=` in a file means.
    fn environment(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        problems: &mut Problems,
    ) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in vars {
            let known = SETTINGS
                .iter()
                .map(|setting| setting.name)
                .chain(["CREDENTIALS_DIRECTORY"])
                .find(|known| name == *known);
            let Some(name) = known else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    values.insert(name, value);
                }
                Err(_) => problems.push((name, format!("{name} is not UTF-8; {name} takes text"))),
            }
        }
        Self {
            origin: "environment".to_owned(),
            values,
        }
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict: Dict = self
            .values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.clone())))
            .collect();
        Ok(Profile::Default.collect(dict))
    }
}

/// How messages name the file of the systemd credential.
const CREDENTIAL: &str = "systemd credential $CREDENTIALS_DIRECTORY/redis-url";

/// The Redis URL from `REDIS_URL_FILE` or the systemd credential, if there is one.
fn secret_redis_url(environment: &Variables, problems: &mut Problems) -> Option<Variables> {
    let named = environment
        .values
        .get("REDIS_URL_FILE")
        .filter(|file| PathBuf::read(file).is_some())
        .map(|file| (PathBuf::from(file), format!("REDIS_URL_FILE {file}")));
    let credential = environment
        .values
        .get("CREDENTIALS_DIRECTORY")
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
            Some(Variables {
                origin,
                values: BTreeMap::from([("REDIS_URL", url)]),
            })
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

impl FromSetting for IpAddr {
    const ACCEPTS: &'static str = "an IP address, such as 127.0.0.1 or ::";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromSetting for u16 {
    const ACCEPTS: &'static str = "a port number from 0 to 65535";
    fn read(text: &str) -> Option<Self> {
        digits(text)?.try_into().ok()
    }
}

impl FromSetting for PathBuf {
    const ACCEPTS: &'static str = "the path of a file";
    fn read(text: &str) -> Option<Self> {
        // The content of such a file, put in the place of its path.
        let is_content = text.chars().any(char::is_control)
            || text.contains("://")
            || text.contains("-----BEGIN");
        (!is_content).then(|| Self::from(text))
    }
}

/// A number written in digits alone: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Text that is not empty.
#[derive(Debug, Clone)]
pub struct NonEmpty(pub String);

impl FromSetting for NonEmpty {
    const ACCEPTS: &'static str = "printable text";
    fn read(text: &str) -> Option<Self> {
        let printable = !text.is_empty() && !text.chars().any(char::is_control);
        printable.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for NonEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32 = { u32::MAX }>(pub usize);

impl<const MIN: u32, const MAX: u32> FromSetting for Whole<MIN, MAX> {
    const ACCEPTS: &'static str = match (MIN, MAX) {
        (0, u32::MAX) => "a whole number from 0 to 4294967295",
        (1, u32::MAX) => "a whole number from 1 to 4294967295",
        (256, u32::MAX) => "a whole number from 256 to 4294967295",
        (1, MOST_HEADERS) => "a whole number from 1 to 10000",
        _ => panic!("say what it takes"),
    };
    fn read(text: &str) -> Option<Self> {
        let number: u32 = digits(text)?.try_into().ok()?;
        (MIN..=MAX).contains(&number).then_some(())?;
        Some(Self(number.try_into().ok()?))
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A length of time of at least one millisecond and at most so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period<const LONGEST: u64 = DAY>(pub Duration);

impl<const LONGEST: u64> FromSetting for Period<LONGEST> {
    const ACCEPTS: &'static str = match LONGEST {
        DAY => {
            "a time from 1ms to 24h in whole milliseconds, such as 250ms or 10s (a bare number is seconds)"
        }
        LONGEST_REDIS_TIMEOUT => {
            "a time from 1ms to 1m in whole milliseconds, such as 250ms or 10s (a bare number is seconds)"
        }
        _ => panic!("say what it takes"),
    };
    fn read(text: &str) -> Option<Self> {
        let PeriodOrZero(time) = PeriodOrZero::read(text)?;
        let fits = !time.is_zero() && time <= Duration::from_secs(LONGEST);
        fits.then_some(Self(time))
    }
}

impl<const LONGEST: u64> fmt::Display for Period<LONGEST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A length of time of at most a day, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodOrZero(pub Duration);

impl FromSetting for PeriodOrZero {
    const ACCEPTS: &'static str = "a time from 0s to 24h in whole milliseconds, such as 250ms or 10s (a bare number is seconds)";
    fn read(text: &str) -> Option<Self> {
        let time = match digits(text) {
            Some(seconds) if !text.is_empty() => Duration::from_secs(seconds),
            _ => humantime::parse_duration(text).ok()?,
        };
        let whole = time.subsec_nanos() % 1_000_000 == 0;
        (whole && time <= Duration::from_secs(DAY)).then_some(Self(time))
    }
}

impl fmt::Display for PeriodOrZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromSetting for Switch {
    const ACCEPTS: &'static str = "on or off";
    fn read(text: &str) -> Option<Self> {
        match text {
            "on" => Some(Self(true)),
            "off" => Some(Self(false)),
            _ => None,
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

/// Declares a setting that has one word besides its values.
macro_rules! word_or_value {
    ($(#[doc = $doc:literal])+ $type:ident, $word:literal, $($inner:ty => $accepts:literal),+) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $type<T>(pub Option<T>);

        $( impl FromSetting for $type<$inner> {
            const ACCEPTS: &'static str = $accepts;
            fn read(text: &str) -> Option<Self> {
                if text == $word { Some(Self(None)) } else { Some(Self(Some(<$inner>::read(text)?))) }
            }
        } )+
    };
}

word_or_value! {
    /// A value, or `auto` for one that is found out at start.
    Auto, "auto",
    Whole<1> => "auto or a whole number from 1 to 4294967295",
    NonEmpty => "auto or printable text"
}

word_or_value! {
    /// A value, or `off`.
    Off, "off",
    Period => "off or a time from 1ms to 24h in whole milliseconds, such as 30s or 5min (a bare number is seconds)"
}

word_or_value! {
    /// A value, or nothing.
    Optional, "",
    PathBuf => "the path of a file"
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Off<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl fmt::Display for Optional<PathBuf> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|path| path.display().fmt(f))
    }
}

/// Declares a setting that is one word of a few.
macro_rules! one_of {
    ($(#[doc = $doc:literal])+ $type:ident, $accepts:literal, $($(#[doc = $what:literal])+ $variant:ident = $word:literal),+) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $( $(#[doc = $what])+ $variant ),+ }

        impl FromSetting for $type {
            const ACCEPTS: &'static str = $accepts;
            fn read(text: &str) -> Option<Self> {
                match text { $( $word => Some(Self::$variant), )+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $( Self::$variant => $word ),+ })
            }
        }
    };
}

one_of! {
    /// How log events are written.
    LogFormat, "auto, journald, json or text",
    /// The journal, a terminal or JSON lines, whichever the output is made for.
    Auto = "auto",
    /// The journal's native protocol.
    Journald = "journald",
    /// One JSON object a line, on stdout.
    Json = "json",
    /// Lines for people, on stdout.
    Text = "text"
}

one_of! {
    /// The least severe level that is logged.
    LogLevel, "error, warn, info, debug or trace",
    /// Something is broken and wants a person.
    Error = "error",
    /// Something is degraded, or a promise may not hold.
    Warn = "warn",
    /// What the service does.
    Info = "info",
    /// What is needed to find a fault.
    Debug = "debug",
    /// Everything.
    Trace = "trace"
}

/// Where Redis is: parsed, and able to show itself without its password.
#[derive(Debug, Clone)]
pub struct RedisUrl {
    /// Where to connect and how to log in. Where there are Sentinels, the address is that of one of
    /// them, and the rest is for the master.
    pub connection: ConnectionInfo,
    /// Who knows where the master is, when the URL does not say so itself.
    pub sentinels: Option<Sentinels>,
    redacted: String,
}

/// What a `redis+sentinel://` URL names.
#[derive(Debug, Clone)]
pub struct Sentinels {
    /// The name that they have for the master.
    pub master: String,
    /// How to reach each of them.
    pub nodes: Vec<ConnectionInfo>,
}

/// Where Sentinels listen when nothing else is said.
const SENTINEL_PORT: u16 = 26379;

impl RedisUrl {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.connection.addr(), redis::ConnectionAddr::TcpTls { .. })
    }

    /// One server, by a URL with no other parameters than these and those of a path.
    fn of_server(text: &str, parameters: &[&str]) -> Option<Self> {
        let connection = text.into_connection_info().ok()?;
        // For a host, these stand before it and after, and would be ignored here.
        let of_path: &[_] = match connection.addr() {
            redis::ConnectionAddr::Unix(_) => &["db", "user", "pass"],
            _ => &[],
        };
        let mut url = redis::parse_redis_url(text)?;
        let unusable = match connection.addr() {
            // Its login is among the parameters.
            redis::ConnectionAddr::Unix(_) => {
                !url.username().is_empty() || url.password().is_some()
            }
            _ => url.port() == Some(0),
        };
        if unusable || connection.redis_settings().db() < 0 {
            return None;
        }
        // A `?` or `#` that stands raw in a password ends the host before its time: what follows
        // would be shown as if it were no secret, and the connection would go somewhere else.
        let known = |name: &str| parameters.contains(&name) || of_path.contains(&name);
        if url.fragment().is_some() || url.query_pairs().any(|(name, _)| !known(&name)) {
            return None;
        }
        if url.password().is_some() {
            url.set_password(Some("***")).ok()?;
        }
        if url.query().is_some() {
            let query: Vec<(String, String)> = url
                .query_pairs()
                .map(|(name, value)| match &*name {
                    "pass" | "sentinel_pass" => (name.into_owned(), "***".to_owned()),
                    _ => (name.into_owned(), value.into_owned()),
                })
                .collect();
            url.query_pairs_mut().clear().extend_pairs(query);
        }
        Some(Self {
            connection,
            sentinels: None,
            redacted: url.to_string(),
        })
    }

    /// `LOGIN@HOST,HOST/MASTER/DATABASE?PARAMETERS` after the scheme, read as one URL for each host.
    fn behind_sentinels(scheme: &str, rest: &str) -> Option<Self> {
        let (authority, path) = rest.split_once('/')?;
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        // The letters that Sentinel takes for a name.
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        // An `@` that stands raw is one login for each host: all have the same one.
        if master.is_empty() || !master.bytes().all(letter) || login.contains(['@', ',']) {
            return None;
        }
        // As in the URL of a server, where a password has such a letter.
        if hosts.contains(['?', '#']) {
            return None;
        }
        let url = |host: &str| format!("{scheme}://{login}@{host}/{database}?{parameters}");
        let known = ["protocol", "sentinel_user", "sentinel_pass"];
        let first = hosts.split(',').next()?;
        let whole = Self::of_server(&url(first), &known)?;
        let parameters = redis::parse_redis_url(&url(first))?;
        let parameter = |name: &str| {
            let mut pairs = parameters.query_pairs();
            pairs.find_map(|(known, value)| (known == name).then(|| value.into_owned()))
        };
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = parameter("sentinel_user") {
            settings = settings.set_username(user);
        }
        if let Some(password) = parameter("sentinel_pass") {
            settings = settings.set_password(password);
        }
        let nodes = hosts.split(',').map(|host| {
            let has_port = redis::parse_redis_url(&url(host))?.port().is_some();
            let port = if has_port {
                String::new()
            } else {
                format!(":{SENTINEL_PORT}")
            };
            let node = url(&format!("{host}{port}")).into_connection_info().ok()?;
            Some(node.set_redis_settings(settings.clone()))
        });
        let nodes: Vec<_> = nodes.collect::<Option<_>>()?;

        let (_, shown) = whole.redacted.split_once("://")?;
        let (shown_authority, shown_path) = shown.split_once('/')?;
        let shown_login = shown_authority
            .rsplit_once('@')
            .map_or("", |(login, _)| login);
        let at = if shown_login.is_empty() { "" } else { "@" };
        let slash = if database.is_empty() { "" } else { "/" };
        let shown_path = shown_path.trim_end_matches('?');
        let redacted =
            format!("{scheme}+sentinel://{shown_login}{at}{hosts}/{master}{slash}{shown_path}");
        Some(Self {
            connection: whole.connection,
            sentinels: Some(Sentinels {
                master: master.to_owned(),
                nodes,
            }),
            redacted,
        })
    }
}

impl FromSetting for RedisUrl {
    const ACCEPTS: &'static str = "redis://[user:password@]host[:port]/[database], rediss:// for TLS, unix:///path[?db=database&user=user&pass=password], or redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/database] (rediss+sentinel:// for TLS); percent-encode what is special in a URL";

    fn read(text: &str) -> Option<Self> {
        match text.split_once("+sentinel://") {
            Some((scheme @ ("redis" | "rediss"), rest)) => Self::behind_sentinels(scheme, rest),
            _ => Self::of_server(text, &["protocol"]),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}
