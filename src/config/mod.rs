//! Every setting of the service, in one typed place.
//!
//! Factor III: the settings come from the environment and from nothing else. Two of them may name
//! a file, because a secret does not belong in the environment: `REDIS_URL_FILE`, and the systemd
//! credential `redis-url` (systemd.exec(5), "CREDENTIALS").
//!
//! Every setting is read once, at start, into a type that cannot be wrong. All mistakes are
//! reported together, each as one line: the variable, what it held (never a secret), what it takes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::value::Value;
use humantime::format_duration;
use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use crate::config::sources::{Problems, Variables, secret_redis_url};
use crate::process::listener::AdminAddress;
use crate::telemetry::access_log::AccessDetail;
use crate::telemetry::logging::LogFormat;
use crate::version::{COMMIT, VERSION};

mod host;
mod origins;
mod proxies;
mod redis_url;
mod sources;
mod values;

pub use host::Host;
pub use origins::Origins;
pub use proxies::TrustedProxies;
pub use redis_url::{AddressFamily, MasterName, RedisUrl};

/// Where a value comes from that was not set.
const DEFAULT: &str = "default";

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

/// Declares [`Config`] and [`SETTINGS`] from a single list. The last two words of a row name the module
/// of [`values`] that reads the variable.
macro_rules! settings {
    ($( $(#[doc = $meaning:literal])+
        $name:ident $field:ident: $type:ty = $default:literal, $with:literal $value:ident; )+) => {
        /// The effective settings of one process.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        #[non_exhaustive]
        pub struct Config {
            $( $(#[doc = $meaning])+ #[serde(with = $with)] pub $field: $type, )+
            /// Where the value of each setting comes from, in the order of [`SETTINGS`].
            #[serde(skip)]
            origins: Vec<String>,
        }

        /// Every setting, in the order in which people look for them.
        pub const SETTINGS: &[Setting] = &[ $( Setting {
            name: stringify!($name),
            default: $default,
            meaning: concat!($($meaning),+),
            accepts: values::$value::ACCEPTS,
        }, )+ ];
    };
}

settings! {
    /// Address to listen on, unless systemd hands over a socket. `::` is every address of IPv6 and IPv4, `0.0.0.0` every one of IPv4, `localhost` the loopback of both.
    HOST host: Host = "127.0.0.1", "values::host" host;
    /// TCP port to listen on, unless systemd hands over a socket. 0 takes a free one and logs it.
    PORT port: u16 = "5000", "values::port" port;
    /// TCP port, or path of a unix socket, for what is not for visitors: `/healthz`, `/readyz`, `/metrics`, `/status` and `/version` are answered there and nowhere else. Where systemd hands sockets over, it is the one named `admin`.
    ADMIN_PORT admin_port: AdminAddress = "off", "values::admin_address" admin_address;
    /// The Redis that keeps the count.
    REDIS_URL redis_url: RedisUrl = "redis://127.0.0.1:6379/", "values::redis_url" redis_url;
    /// File whose first line is the Redis URL, for a URL with a password. Instead of `REDIS_URL`; the systemd credential `redis-url` is a third way.
    REDIS_URL_FILE redis_url_file: Option<PathBuf> = "", "values::path" path;
    /// PEM file with the certificate authorities to trust for `rediss://`, instead of the system's (which `SSL_CERT_FILE` or `SSL_CERT_DIR` replaces). A server that shows exactly one of these certificates is trusted too, whatever name and dates it has.
    REDIS_CA_FILE redis_ca_file: Option<PathBuf> = "", "values::path" path;
    /// PEM file with the client certificate to show to a `rediss://` server. Needs `REDIS_KEY_FILE`.
    REDIS_CERT_FILE redis_cert_file: Option<PathBuf> = "", "values::path" path;
    /// PEM file with the private key of `REDIS_CERT_FILE`.
    REDIS_KEY_FILE redis_key_file: Option<PathBuf> = "", "values::path" path;
    /// Check the certificate of a `rediss://` server. `off` accepts any certificate, so that another server can pass for Redis and learn the password; each start logs a warning.
    REDIS_TLS_VERIFY redis_tls_verify: bool = "on", "values::switch" switch;
    /// Time budget of a visit: with no answer from Redis by then, the visitor gets 503. At most 1m.
    REDIS_TIMEOUT redis_timeout: Duration = "1s", "values::redis_timeout" redis_timeout;
    /// Redis key that holds the count, a plain integer.
    COUNTER_KEY counter_key: String = "visitorCount", "values::printable" printable;
    /// How long a visitor who comes back is known, after each visit, and not counted again; `off` counts every visit. Needs room in Redis for each visitor of that time, and cookies at the visitor.
    SESSION_LIFETIME session_lifetime: Option<Duration> = "off", "values::lifetime_or_off" lifetime_or_off;
    /// Refuse visits with 503 while the count stands below a number that this process has given out (a Redis that lost data), until `reset-count` is run; raising it helps too, unless a reset was lost with it. A restart of the process forgets the number.
    COUNTER_FENCE counter_fence: bool = "off", "values::switch" switch;
    /// Replicas of Redis that must have a visit before it gets its number. With too few in time the visitor gets 503. 0 asks none of them.
    MIN_REPLICAS_ACK min_replicas_ack: usize = "0", "values::count" count;
    /// Visits that may wait for Redis at one time. One more gets 503 at once.
    MAX_WAITING_VISITS max_waiting_visits: usize = "16384", "values::positive" positive;
    /// Connections served at one time. For a further one the connection is closed that has been idle longest; while all are busy it waits in the socket's backlog. `auto` is the limit of open files (`LimitNOFILE`) less what the process itself needs (33 with one socket); a start with more than that is refused.
    MAX_CONNECTIONS max_connections: Option<usize> = "auto", "values::positive_or_auto" positive_or_auto;
    /// Size of a request's line and headers together, in bytes. A larger head gets 431.
    MAX_HEADER_BYTES max_header_bytes: usize = "16384", "values::header_bytes" header_bytes;
    /// Number of headers of a request. One more gets 431. At most 10000.
    MAX_HEADERS max_headers: usize = "100", "values::header_count" header_count;
    /// Content of a request, in bytes, that is read and thrown away so that the client can read its answer. A request that announces more gets 413. No content is ever kept.
    MAX_BODY_BYTES max_body_bytes: usize = "65536", "values::count" count;
    /// Time from the first byte of a request to the end of its headers. Later: 408. A new connection that sends nothing for so long is closed.
    HEADER_TIMEOUT header_timeout: Duration = "10s", "values::period" period;
    /// Time that a connection may idle between requests, or wait for a client to read its answer. Then it is closed.
    KEEP_ALIVE_TIMEOUT keep_alive_timeout: Duration = "75s", "values::period" period;
    /// After SIGTERM, the least time for which new connections are still accepted, so that a load balancer can see `/readyz` turn 503 first.
    DRAIN_LAME_DUCK drain_lame_duck: Duration = "250ms", "values::period_or_zero" period_or_zero;
    /// After SIGTERM, how long a connection must have been idle before it is closed.
    DRAIN_IDLE drain_idle: Duration = "1s", "values::period" period;
    /// After SIGTERM, the time after which whatever remains is cut and logged.
    DRAIN_TIMEOUT drain_timeout: Duration = "30s", "values::period" period;
    /// Proxies whose word is taken about whose request they hand on: addresses, networks, and `unix` for whatever connects by a unix socket. The headers of others are ignored.
    TRUSTED_PROXIES trusted_proxies: TrustedProxies = "none", "values::proxies" proxies;
    /// The header in which those proxies name their client. With `Forwarded` (RFC 7239) it names the scheme too, otherwise that is in `X-Forwarded-Proto`.
    FORWARDED_HEADER forwarded_header: HeaderName = "x-forwarded-for", "values::header_name" header_name;
    /// How long browsers and proxies may keep the answer of `/count`.
    COUNT_MAX_AGE count_max_age: Duration = "0s", "values::period_or_zero" period_or_zero;
    /// What `/badge.svg` says before the number.
    BADGE_LABEL badge_label: String = "visitors", "values::label" label;
    /// The colour behind the number of `/badge.svg`.
    BADGE_COLOR badge_color: String = "#b4471c", "values::color" color;
    /// Other sites whose pages may read `/`, `/count` and `/badge.svg` by script (CORS). Cookies go with it for listed ones only.
    CORS_ORIGINS cors_origins: Origins = "none", "values::origins" origins;
    /// Ask crawlers, by `/robots.txt`, to leave alone what counts.
    ROBOTS_DISALLOW robots_disallow: bool = "off", "values::switch" switch;
    /// End the process after this long without a connection. Only for a socket that systemd holds: the next connection starts it again.
    IDLE_EXIT idle_exit: Option<Duration> = "off", "values::period_or_off" period_or_off;
    /// `journald` (native, structured), `json` lines or `text` on stdout; `auto` is `journald` when stdout or stderr is the journal, `text` on a terminal, else `json`.
    LOG_FORMAT log_format: LogFormat = "auto", "values::log_format" log_format;
    /// Least severe level that is logged.
    LOG_LEVEL log_level: LevelFilter = "info", "values::log_level" log_level;
    /// One log event for each request; `full` adds the user agent and the referrer, which may tell who the visitor is.
    ACCESS_LOG access_log: AccessDetail = "on", "values::access_detail" access_detail;
    /// Release id: this build with this configuration (factor V). Shown by `/version` and in every access event; `auto` is version and commit of the build.
    RELEASE release: Option<String> = "auto", "values::printable_or_auto" printable_or_auto;
}

/// For how long a connection must be kept at the least. The shipped settings of nginx and `HAProxy` close one that
/// has been idle for half of it.
const MIN_KEPT: Duration = Duration::from_secs(1);

/// What admin processes use, beside all that says how to reach Redis.
const USED_BY_TASKS: [&str; 3] = ["COUNTER_KEY", "MIN_REPLICAS_ACK", "SESSION_LIFETIME"];

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl Config {
    /// As [`Config::from_vars`], from the variables of this process.
    ///
    /// # Errors
    /// The same.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(std::env::vars_os())
    }

    /// The settings of an admin process: those that it has no use for keep their defaults, so that a wrong one
    /// does not keep it from its work.
    ///
    /// # Errors
    /// As those of [`Config::from_vars`].
    pub fn of_task() -> Result<Self, ConfigError> {
        let is_used = |name: &str| name.starts_with("REDIS_") || USED_BY_TASKS.contains(&name);
        Self::read(std::env::vars_os(), is_used)
    }

    /// Reads the settings from `vars`. Tests pass a map of their own; they never touch the
    /// environment of their process.
    ///
    /// # Errors
    /// Names every setting that is wrong or contradicts another.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        Self::read(vars, |_| true)
    }

    fn read(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        is_used: impl Fn(&str) -> bool,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::new();
        let names: Vec<_> =
            SETTINGS.iter().map(|setting| setting.name).filter(|name| is_used(name)).collect();
        let environment = Variables::environment(vars, &names, &mut problems);
        let secret = secret_redis_url(&environment, &mut problems);
        let defaults = SETTINGS.iter().map(|setting| (setting.name, setting.default.to_owned()));
        let mut layers = Figment::from(Variables::new(DEFAULT, defaults)).merge(environment);
        if let Some(secret) = secret {
            layers = layers.merge(secret);
        }
        let origins = SETTINGS.iter().map(|setting| origin(&layers, setting));
        let origins = origins.collect();
        // figment stops at the first value that is wrong. With its default in its place the next one is
        // found, and so is what contradicts.
        let config = loop {
            let wrong = match layers.extract::<Self>() {
                Ok(config) => break Self { origins, ..config },
                Err(error) => error.path,
            };
            let wrong =
                SETTINGS.iter().find(|setting| wrong.first().is_some_and(|name| name == setting.name));
            let Some(setting) = wrong else {
                let unknown = "the settings cannot be read".to_owned();
                return Err(ConfigError(vec![unknown]));
            };
            problems.push((setting.name, refusal(&layers, setting)));
            let default = [(setting.name, setting.default.to_owned())];
            layers = layers.merge(Variables::new(DEFAULT, default));
        };
        problems.sort_by_key(|(wrong, _)| SETTINGS.iter().position(|setting| setting.name == *wrong));
        config.add_contradictions(&mut problems);
        if problems.is_empty() {
            return Ok(config);
        }
        let problems = problems.into_iter().map(|(_, text)| text);
        Err(ConfigError(problems.collect()))
    }

    /// The effective settings as `NAME=value  # origin` lines, secrets redacted.
    #[must_use]
    pub fn effective(&self) -> String {
        let values = serde_json::to_value(self).unwrap_or_default();
        let lines = SETTINGS.iter().zip(&self.origins).map(|(setting, origin)| {
            let name = setting.name;
            let value = values[name].as_str().unwrap_or_default();
            format!("{name}={value}  # {origin}\n")
        });
        lines.collect()
    }

    /// What is allowed and may lose a request, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let kept = [("DRAIN_IDLE", self.drain_idle), ("KEEP_ALIVE_TIMEOUT", self.keep_alive_timeout)];
        let short = kept.into_iter().filter(|(_, time)| *time < MIN_KEPT);
        let warning = |(name, time)| {
            format!(
                "{name}={} is shorter than {}: a proxy that keeps connections, as the shipped settings let it, \
                 may send a request on one that is just closed",
                format_duration(time),
                format_duration(MIN_KEPT),
            )
        };
        short.map(warning).collect()
    }

    /// Whether this setting was given a value, be it that of its default.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        let place = SETTINGS.iter().position(|setting| setting.name == name);
        place.and_then(|place| self.origins.get(place)).is_some_and(|origin| origin != DEFAULT)
    }

    /// The id of this release: what was built, run with what configuration.
    #[must_use]
    pub fn release_id(&self) -> String {
        match &self.release {
            Some(id) => id.clone(),
            None => format!("{VERSION}-{COMMIT}"),
        }
    }

    /// Adds what is right alone and wrong together, unless a part of it is wrong by itself.
    fn add_contradictions(&self, problems: &mut Problems) {
        let known: Vec<_> = problems.iter().map(|(name, _)| *name).collect();
        let mut contradiction = |names: &[&'static str], text: String| {
            if names.iter().all(|name| !known.contains(name)) {
                problems.push((names[0], text));
            }
        };
        if self.drain_lame_duck > self.drain_timeout {
            let [lame_duck, timeout] = [self.drain_lame_duck, self.drain_timeout].map(format_duration);
            let text = format!(
                "DRAIN_LAME_DUCK={lame_duck} is longer than DRAIN_TIMEOUT={timeout}; it takes at most that"
            );
            contradiction(&["DRAIN_LAME_DUCK", "DRAIN_TIMEOUT"], text);
        }
        if let Some(lifetime) = self.session_lifetime
            && lifetime < self.redis_timeout
        {
            let [lifetime, timeout] = [lifetime, self.redis_timeout].map(format_duration);
            let text = format!(
                "SESSION_LIFETIME={lifetime} is shorter than REDIS_TIMEOUT={timeout}; it takes at least that"
            );
            contradiction(&["SESSION_LIFETIME", "REDIS_TIMEOUT"], text);
        }
        let url = &self.redis_url;
        let tls_files = [
            ("REDIS_CA_FILE", &self.redis_ca_file),
            ("REDIS_CERT_FILE", &self.redis_cert_file),
            ("REDIS_KEY_FILE", &self.redis_key_file),
        ];
        for (name, file) in tls_files {
            let Some(path) = file else { continue };
            let file = format!("{name}={}", path.display());
            if !url.is_tls() {
                let text = format!(
                    "{file} is set, but the Redis URL {url} is not encrypted; {name} takes effect with rediss:// only"
                );
                contradiction(&[name, "REDIS_URL"], text);
            } else if let Err(error) = std::fs::File::open(path) {
                // Only opened: a pipe gives its content once.
                let text = format!("{file} cannot be read ({error}); it takes a readable PEM file");
                contradiction(&[name], text);
            }
        }
        if self.redis_cert_file.is_some() != self.redis_key_file.is_some() {
            let text = "REDIS_CERT_FILE and REDIS_KEY_FILE belong together; set both or neither";
            contradiction(&["REDIS_CERT_FILE", "REDIS_KEY_FILE"], text.to_owned());
        }
        if !self.redis_tls_verify && !url.is_tls() {
            let text = format!(
                "REDIS_TLS_VERIFY=off is set, but the Redis URL {url} is not encrypted; off takes effect with rediss:// only"
            );
            contradiction(&["REDIS_TLS_VERIFY", "REDIS_URL"], text);
        }
    }
}

/// Where the value of a setting comes from.
fn origin(layers: &Figment, setting: &Setting) -> String {
    let metadata = layers.find_metadata(setting.name);
    metadata.map_or_else(String::new, |metadata| metadata.name.to_string())
}

/// Why the value of a setting is refused, in one line.
fn refusal(layers: &Figment, setting: &Setting) -> String {
    let Setting { name, accepts, .. } = setting;
    let origin = origin(layers, setting);
    // A URL can hold a password, and one that cannot be read cannot be redacted either. A path that
    // cannot be read may be the content of such a file.
    let value = layers.find_value(name);
    let text = value.as_ref().ok().and_then(Value::as_str).unwrap_or_default();
    let value = if *name == "REDIS_URL" || name.ends_with("_FILE") {
        format!("{name} (from {origin}; its text is withheld, it may hold a password or a key)")
    } else {
        format!("{name}={text:?} (from {origin})")
    };
    let wrong = match RedisUrl::read(text) {
        Err(error) if *name == "REDIS_URL" => format!(": {error}"),
        _ => String::new(),
    };
    format!("{value} is not valid{wrong}; {name} takes {accepts}")
}
