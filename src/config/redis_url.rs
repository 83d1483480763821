//! The URL of Redis, in all forms that are accepted.

use std::fmt;
use std::net::SocketAddr;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use url::{ParseError, Url};

/// Where Redis is: parsed, and able to show itself without its password.
#[derive(Clone)]
pub struct RedisUrl {
    /// Where to connect and how to log in. Where there are Sentinels, the address is that of one of
    /// them, and the rest is for the master.
    pub connection: ConnectionInfo,
    /// The Sentinels to ask for the master, when the URL names them.
    pub sentinels: Option<MasterName>,
    /// Which addresses of a host are tried.
    pub family: AddressFamily,
    redacted: String,
}

/// What a `redis+sentinel://` URL names.
#[derive(Debug, Clone)]
pub struct MasterName {
    /// The name that the Sentinels have for the master.
    pub master: String,
    /// How to reach each Sentinel.
    pub nodes: Vec<ConnectionInfo>,
}

/// The parameter `family` of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// 0: every address.
    Any,
    /// 4: IPv4 alone.
    V4,
    /// 6: IPv6 alone.
    V6,
}

impl AddressFamily {
    /// Whether this address is one of the family.
    pub(crate) fn has(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Which part of a URL is wrong. Nothing of the URL is shown but the names of parameters: any other text may
/// be of a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    #[error("it is empty")]
    Empty,
    #[error("a byte order mark stands before it")]
    ByteOrderMark,
    #[error("quotes stand around it")]
    Quotes,
    #[error("it holds a control character")]
    Control,
    #[error("a $ in it begins a variable that was not expanded; %24 is the letter itself")]
    Variable,
    #[error("its scheme is missing or unknown")]
    Scheme,
    #[error("its host is missing; in a password, / is %2F")]
    NoHost,
    #[error("its host is none that can be connected to")]
    Host,
    #[error("it names more than one host, which redis+sentinel:// alone does; in a password, @ is %40")]
    Hosts,
    #[error("its port is no number from 1 to 65535; in a password, : is %3A")]
    Port,
    #[error("its path is not that of a socket, which begins behind two slashes with a third")]
    Path,
    #[error("its database is no number from 0 on; in a password, / is %2F")]
    Database,
    #[error("its login stands before a path; behind it, it is user= and pass=")]
    LoginBeforePath,
    #[error("its login is given more than once; it stands before the first host, and in it @ is %40")]
    Logins,
    #[error("its user or password is not UTF-8")]
    NotUtf8,
    #[error("it has a #; in a password that is %23")]
    Fragment,
    #[error("its parameter {0} cannot be used: {1}")]
    Parameter(&'static str, &'static str),
    #[error("its parameter {0} is unknown")]
    UnknownParameter(String),
    #[error("it has an unknown parameter; in a password, ? is %3F")]
    NoParameter,
    #[error("the name of its master is missing, or has other characters than a-z, A-Z, 0-9, ., - and _")]
    Master,
    #[error("it asks for TLS, which this build leaves out")]
    NoTls,
}

/// Where Sentinels listen unless the URL names a port.
const SENTINEL_PORT: u16 = 26379;

/// What takes the place of parameters that other programs have.
const FOREIGN: &[(&str, &[&str])] = &[
    (
        "set REDIS_TIMEOUT in its place",
        &[
            "timeout",
            "socket_timeout",
            "socket_connect_timeout",
            "connect_timeout",
            "connection_timeout",
            "command_timeout",
            "dial_timeout",
            "read_timeout",
            "write_timeout",
        ],
    ),
    (
        "set REDIS_TLS_VERIFY in its place",
        &["ssl_cert_reqs", "ssl_check_hostname", "skip_verify", "verify", "insecure"],
    ),
    ("set REDIS_CA_FILE in its place", &["ssl_ca_certs"]),
    ("set REDIS_CERT_FILE in its place", &["ssl_certfile"]),
    ("set REDIS_KEY_FILE in its place", &["ssl_keyfile"]),
    ("write rediss:// in its place", &["ssl", "tls"]),
    ("write db= in its place", &["database", "virtual_host"]),
    (
        "a login stands before the host as user:password@, and behind a path as user= and pass=",
        &["user", "username", "pass", "password"],
    ),
    (
        "write redis+sentinel://host/master in its place",
        &["master", "master_name", "sentinelMasterId", "sentinel_user", "sentinel_pass"],
    ),
    (
        "it has no effect here; leave it out",
        &[
            "client_name",
            "decode_responses",
            "family",
            "health_check_interval",
            "max_connections",
            "max_retries",
            "pool_size",
            "retry_on_timeout",
            "socket_keepalive",
        ],
    ),
];

/// The parameters that are taken.
const KNOWN: [&str; 7] = ["db", "family", "pass", "protocol", "sentinel_pass", "sentinel_user", "user"];

/// The error for a parameter of `query` that is not taken.
fn foreign(query: &str, name: &str, value: &str) -> UrlError {
    let known = FOREIGN.iter().find_map(|(advice, names)| {
        let known = names.iter().find(|known| **known == name)?;
        Some(UrlError::Parameter(known, advice))
    });
    // A raw `?` in a password begins the query too early: it then holds the rest of the password, `@` and the host.
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphabetic() || b"-_".contains(&byte));
    let is_shown = is_name && !value.trim_matches('=').is_empty() && !query.contains('@');
    known.unwrap_or(if is_shown {
        UrlError::UnknownParameter(name.to_owned())
    } else {
        UrlError::NoParameter
    })
}

/// Parses the URL of one server, and tells whether it leads to a path.
fn parse(text: &str) -> Result<(Url, bool), UrlError> {
    let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let is_path = match &*scheme {
        "rediss" | "valkeys" if cfg!(not(feature = "tls")) => return Err(UrlError::NoTls),
        "redis" | "rediss" | "valkey" | "valkeys" => false,
        "unix" | "redis+unix" | "redis+socket" | "valkey+unix" => true,
        _ => return Err(UrlError::Scheme),
    };
    let (_, rest) = text.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    // With a login for each host, all hosts but the last are read as a part of the login.
    if !is_path && (host.contains(',') || login.contains('@') && login.contains(',')) {
        return Err(UrlError::Hosts);
    }
    let url = Url::parse(text).map_err(|error| match error {
        ParseError::EmptyHost if is_path => UrlError::LoginBeforePath,
        ParseError::EmptyHost => UrlError::NoHost,
        ParseError::InvalidPort => UrlError::Port,
        ParseError::RelativeUrlWithoutBase => UrlError::Scheme,
        _ => UrlError::Host,
    })?;
    Ok((url, is_path))
}

fn database(text: &str) -> Result<i64, UrlError> {
    text.parse::<u32>().map(i64::from).map_err(|_| UrlError::Database)
}

/// Makes the URL one that can be shown.
fn redact(url: &mut Url) -> Result<(), UrlError> {
    // A user without a password is often the password, in the wrong place.
    let redacted = match url.password() {
        Some(password) if !password.is_empty() => url.set_password(Some("***")),
        _ if url.username().is_empty() => Ok(()),
        _ => url.set_username("***"),
    };
    redacted.map_err(|()| UrlError::NoHost)?;
    if url.query().is_some() {
        let has = |name: &str| url.query_pairs().any(|(known, value)| known == name && !value.is_empty());
        let is_secret = |name: &str| match name {
            "pass" | "sentinel_pass" => true,
            "user" => !has("pass"),
            "sentinel_user" => !has("sentinel_pass"),
            _ => false,
        };
        let query: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| match is_secret(&name) {
                true => (name.into_owned(), "***".to_owned()),
                false => (name.into_owned(), value.into_owned()),
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(query);
    }
    Ok(())
}

impl RedisUrl {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.connection.addr(), redis::ConnectionAddr::TcpTls { .. })
    }

    /// One server, or one of the Sentinels.
    fn parse_server(text: &str, is_sentinel: bool) -> Result<Self, UrlError> {
        let (mut url, is_path) = parse(text)?;
        let path = if is_path { "" } else { url.path().trim_matches('/') };
        if is_path && !(url.username().is_empty() && url.password().is_none()) {
            return Err(UrlError::LoginBeforePath);
        }
        match url.host_str() {
            None | Some("") if !is_path => return Err(UrlError::NoHost),
            Some("0.0.0.0" | "[::]") => return Err(UrlError::Host),
            _ if url.port() == Some(0) => return Err(UrlError::Port),
            _ => {}
        }
        // A `?` or `#` that stands raw in a password ends the host before its time: what follows
        // would be shown as if it were no secret, and the connection would go somewhere else.
        match url.fragment() {
            None => {}
            Some("insecure") => {
                return Err(UrlError::Parameter("#insecure", "set REDIS_TLS_VERIFY in its place"));
            }
            Some(_) => return Err(UrlError::Fragment),
        }
        let mut family = AddressFamily::Any;
        let mut db = if path.is_empty() { 0 } else { database(path)? };
        let times = |name: &str| url.query_pairs().filter(|(other, _)| other == name).count();
        if let Some(name) = KNOWN.into_iter().find(|name| times(name) > 1) {
            return Err(UrlError::Parameter(name, "it is given more than once"));
        }
        for (name, value) in url.query_pairs() {
            match &*name {
                "protocol" if ["2", "3", "resp2", "resp3"].contains(&&*value) => {}
                "protocol" => return Err(UrlError::Parameter("protocol", "it takes resp2 or resp3")),
                "family" if !is_path => {
                    family = match &*value {
                        "0" => AddressFamily::Any,
                        "4" => AddressFamily::V4,
                        "6" => AddressFamily::V6,
                        _ => return Err(UrlError::Parameter("family", "it takes 0, 4 or 6")),
                    }
                }
                "db" if !path.is_empty() => {
                    return Err(UrlError::Parameter("db", "the path names a database, too"));
                }
                "db" => db = database(&value)?,
                "user" | "pass" if is_path => {}
                "sentinel_user" | "sentinel_pass" if is_sentinel => {}
                name => return Err(foreign(url.query().unwrap_or_default(), name, &value)),
            }
        }
        let mut server = url.clone();
        if is_path {
            server.set_scheme("unix").map_err(|()| UrlError::Scheme)?;
        }
        let unlike = if is_path { UrlError::Path } else { UrlError::NotUtf8 };
        let connection = server.into_connection_info().map_err(|_| unlike)?;
        let settings = connection.redis_settings().clone().set_db(db);
        let connection = connection.set_redis_settings(settings);
        redact(&mut url)?;
        Ok(Self { connection, sentinels: None, family, redacted: url.to_string() })
    }

    /// `LOGIN@HOST,HOST/MASTER/DATABASE?PARAMETERS` after the scheme, read as one URL for each host.
    fn parse_sentinels(scheme: &str, rest: &str) -> Result<Self, UrlError> {
        let (authority, path) = rest.split_once('/').ok_or(UrlError::Master)?;
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        // An `@` that stands raw is one login for each host: all have the same one.
        if login.contains(['@', ',']) {
            return Err(UrlError::Logins);
        }
        // As in the URL of a server, where a password has such a letter.
        if hosts.contains(['?', '#']) {
            return Err(UrlError::Host);
        }
        // The letters that Sentinel takes for a name.
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if master.is_empty() || !master.bytes().all(letter) {
            return Err(UrlError::Master);
        }
        let url = |host: &str| format!("{scheme}://{login}@{host}/{database}?{parameters}");
        let first = hosts.split(',').next().unwrap_or_default();
        let whole = Self::parse_server(&url(first), true)?;
        let (parameters, _) = parse(&url(first))?;
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
            let (node, _) = parse(&url(host))?;
            let port = if node.port().is_some() { String::new() } else { format!(":{SENTINEL_PORT}") };
            let node = Self::parse_server(&url(&format!("{host}{port}")), true)?;
            Ok(node.connection.set_redis_settings(settings.clone()))
        });
        let nodes: Vec<_> = nodes.collect::<Result<_, UrlError>>()?;

        let (_, shown) = whole.redacted.split_once("://").ok_or(UrlError::Scheme)?;
        let (shown_authority, shown_path) = shown.split_once('/').ok_or(UrlError::Master)?;
        let shown_login = shown_authority.rsplit_once('@').map_or("", |(login, _)| login);
        let at = if shown_login.is_empty() { "" } else { "@" };
        let slash = if database.is_empty() { "" } else { "/" };
        let shown_path = shown_path.trim_end_matches('?');
        let redacted = format!("{scheme}+sentinel://{shown_login}{at}{hosts}/{master}{slash}{shown_path}");
        Ok(Self { sentinels: Some(MasterName { master: master.to_owned(), nodes }), redacted, ..whole })
    }
}

impl RedisUrl {
    /// What a Redis URL looks like.
    pub(super) const ACCEPTS: &'static str = "redis://[user:password@]host[:port]/[database], rediss:// for TLS, unix:///path[?db=database&user=user&pass=password], or redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/database] (rediss+sentinel:// for TLS); valkey as redis, redis+socket and redis+unix as unix; for hosts also ?family=4 or 6; percent-encode what is special in a URL";

    /// Reads a URL in one of these forms.
    pub(super) fn read(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let is_variable = |rest: &str| {
            rest.starts_with(|first: char| first.is_ascii_alphabetic() || ['_', '{', '('].contains(&first))
        };
        if text.is_empty() {
            return Err(UrlError::Empty);
        } else if text.starts_with('\u{feff}') {
            return Err(UrlError::ByteOrderMark);
        } else if text.starts_with(['"', '\'']) {
            return Err(UrlError::Quotes);
        } else if text.contains(char::is_control) {
            return Err(UrlError::Control);
        } else if text.split('$').skip(1).any(is_variable) {
            return Err(UrlError::Variable);
        }
        match text.split_once("+sentinel://") {
            Some((scheme @ ("redis" | "rediss" | "valkey" | "valkeys"), rest)) => {
                Self::parse_sentinels(scheme, rest)
            }
            _ => Self::parse_server(text, false),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

/// A user without a password may be a secret too.
impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressFamily, RedisUrl, UrlError};

    #[test]
    fn a_password_is_kept_and_not_shown() {
        for text in ["redis://:a%40b@db/", "unix:///r.sock?pass=a%40b", "redis+sentinel://:a%40b@s,t/master"]
        {
            let url = RedisUrl::read(text).expect("a URL");
            assert_eq!(url.connection.redis_settings().password(), Some("a@b"));
            assert_eq!(url.to_string(), text.replace("a%40b", "***"));
        }
    }

    #[test]
    fn a_user_without_a_password_is_not_shown_either() {
        for (text, shown) in [
            ("redis://secret@db/2", "redis://***@db/2"),
            ("redis://secret:@db/", "redis://***@db/"),
            ("redis://visitor:secret@db/", "redis://visitor:***@db/"),
            ("unix:///r.sock?user=secret", "unix:///r.sock?user=***"),
            ("unix:///r.sock?user=secret&pass=", "unix:///r.sock?user=***&pass=***"),
            (
                "redis+sentinel://secret@s,t/m?sentinel_user=secret",
                "redis+sentinel://***@s,t/m?sentinel_user=***",
            ),
        ] {
            let url = RedisUrl::read(text).expect("a URL");
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("secret"), "{url:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_the_part_that_is_named() {
        for (text, part) in [
            ("", UrlError::Empty),
            (" ", UrlError::Empty),
            ("\u{feff}redis://db/", UrlError::ByteOrderMark),
            ("\"redis://db/\"", UrlError::Quotes),
            ("'redis://db/'", UrlError::Quotes),
            ("redis://:se\tcret@db/", UrlError::Control),
            ("redis://:${SECRET}@db/", UrlError::Variable),
            ("redis://:$SECRET@db/", UrlError::Variable),
            ("redis://$(host)/", UrlError::Variable),
            ("db", UrlError::Scheme),
            ("db:6379", UrlError::Scheme),
            ("127.0.0.1:6379", UrlError::Scheme),
            ("http://db/", UrlError::Scheme),
            ("redis+tls://db/", UrlError::Scheme),
            ("http+sentinel://db/m", UrlError::Scheme),
            ("redis", UrlError::Scheme),
            ("redis://", UrlError::NoHost),
            ("redis:db", UrlError::NoHost),
            ("redis:///2", UrlError::NoHost),
            ("redis://:secret@/", UrlError::NoHost),
            ("redis://:6379/", UrlError::NoHost),
            ("redis://:sec/ret@db/", UrlError::NoHost),
            ("redis+sentinel://a,,b/m", UrlError::NoHost),
            ("redis://d b/", UrlError::Host),
            ("redis://0.0.0.0/", UrlError::Host),
            ("redis://[::]/", UrlError::Host),
            ("redis://[1/", UrlError::Host),
            ("redis+sentinel://a?b/m", UrlError::Host),
            ("redis://db:secret/", UrlError::Port),
            ("redis://db:0/", UrlError::Port),
            ("redis://db:65536/", UrlError::Port),
            ("redis+sentinel://a,b:secret/m", UrlError::Port),
            ("redis://db/secret", UrlError::Database),
            ("redis://db/-1", UrlError::Database),
            ("redis://db?db=many", UrlError::Database),
            ("redis://u:12/secret@db/", UrlError::Database),
            ("unix://run/redis.sock", UrlError::Path),
            ("unix://:secret@/r.sock", UrlError::LoginBeforePath),
            ("unix://u:secret@localhost/r.sock", UrlError::LoginBeforePath),
            ("redis://:%ff@db/", UrlError::NotUtf8),
            ("redis://u:12#secret@db/", UrlError::Fragment),
            ("redis://a,b/", UrlError::Hosts),
            ("redis://:secret@a:6379,b:6379/", UrlError::Hosts),
            ("redis://u:secret@a:6379,u:secret@b:6379/", UrlError::Hosts),
            ("redis://u:12?secret@db/", UrlError::NoParameter),
            ("redis://u:12?sec=ret@db/", UrlError::NoParameter),
            ("redis://db/?secret", UrlError::NoParameter),
            ("redis://db/?secret==", UrlError::NoParameter),
            ("redis://db/?s3cret=5", UrlError::NoParameter),
            ("redis://db/?sni=secret", UrlError::UnknownParameter("sni".to_owned())),
            ("redis+sentinel://a", UrlError::Master),
            ("redis+sentinel://a/", UrlError::Master),
            ("redis+sentinel://a/m%20n", UrlError::Master),
            ("redis+sentinel://:a@b,:secret@c/m", UrlError::Logins),
        ] {
            assert_eq!(RedisUrl::read(text).err(), Some(part), "{text}");
        }
    }

    #[test]
    fn a_parameter_that_is_known_elsewhere_is_named_with_what_takes_its_place() {
        for (text, name, advice) in [
            ("redis://db/?timeout=5", "timeout", "REDIS_TIMEOUT"),
            ("redis://db/?socket_timeout=5", "socket_timeout", "REDIS_TIMEOUT"),
            ("redis://db/?ssl_cert_reqs=none", "ssl_cert_reqs", "REDIS_TLS_VERIFY"),
            ("redis://db/#insecure", "#insecure", "REDIS_TLS_VERIFY"),
            ("redis://db/?password=secret", "password", "user:password@"),
            ("unix:///r.sock?password=secret", "password", "pass="),
            ("redis://db/3?db=4", "db", "the path names a database"),
            ("redis://db/?db=1&db=2", "db", "more than once"),
            ("unix:///r.sock?pass=secret&pass=secret", "pass", "more than once"),
            ("redis://db/?protocol=4", "protocol", "resp2 or resp3"),
            ("redis://db/?family=5", "family", "0, 4 or 6"),
            ("unix:///r.sock?family=4", "family", "no effect"),
            ("redis+socket:///r.sock?virtual_host=1", "virtual_host", "db="),
            ("redis://db/?sentinel_pass=secret", "sentinel_pass", "redis+sentinel://"),
        ] {
            let error = RedisUrl::read(text).expect_err(text).to_string();
            assert!(error.contains(&format!("parameter {name} ")) && error.contains(advice), "{error}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_build_without_tls_says_so() {
        for text in ["rediss://db/", "valkeys+sentinel://db/m"] {
            assert_eq!(RedisUrl::read(text).err(), Some(UrlError::NoTls));
        }
    }

    #[test]
    fn a_dollar_that_begins_no_variable_is_one() {
        for password in ["a$", "$1", "a%24b", "$$"] {
            RedisUrl::read(&format!("redis://:{password}@db/")).expect(password);
        }
    }

    #[test]
    fn a_parameter_says_the_database_and_the_addresses() {
        for (text, db, family) in [
            ("redis://db/3", 3, AddressFamily::Any),
            ("valkey://db?db=3&family=4", 3, AddressFamily::V4),
            ("redis+sentinel://a/m?db=3&family=6", 3, AddressFamily::V6),
            ("redis+socket:///r.sock?db=3", 3, AddressFamily::Any),
            ("redis://db?family=0", 0, AddressFamily::Any),
        ] {
            let url = RedisUrl::read(text).expect(text);
            assert_eq!((url.connection.redis_settings().db(), url.family), (db, family), "{text}");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn each_sentinel_has_a_port_and_its_own_login() {
        let text = "redis+sentinel://:m@s,t:7/master/3?sentinel_pass=s";
        let url = RedisUrl::read(text).expect("a URL");
        assert_eq!(url.connection.redis_settings().db(), 3);
        let sentinels = url.sentinels.expect("two Sentinels");
        let nodes: Vec<_> = sentinels.nodes.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!(nodes, ["s:26379", "t:7"]);
        let passwords = sentinels.nodes.iter().map(|node| node.redis_settings().password());
        assert!(passwords.eq([Some("s"), Some("s")]));
    }
}
