//! The URL of Redis, in all forms that are accepted.

use std::fmt;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// Where Redis is: parsed, and able to show itself without its password.
#[derive(Debug, Clone)]
pub struct RedisUrl {
    /// Where to connect and how to log in. Where there are Sentinels, the address is that of one of
    /// them, and the rest is for the master.
    pub connection: ConnectionInfo,
    /// The Sentinels to ask for the master, when the URL names them.
    pub sentinels: Option<MasterName>,
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

/// Where Sentinels listen unless the URL names a port.
const SENTINEL_PORT: u16 = 26379;

impl RedisUrl {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.connection.addr(), redis::ConnectionAddr::TcpTls { .. })
    }

    /// One server, by a URL with no other parameters than these and those of a path.
    fn parse_server(text: &str, parameters: &[&str]) -> Option<Self> {
        let connection = text.into_connection_info().ok()?;
        // For a host, these stand before it and after, and would be ignored here.
        let of_path: &[_] = match connection.addr() {
            redis::ConnectionAddr::Unix(_) => &["db", "user", "pass"],
            _ => &[],
        };
        let mut url = redis::parse_redis_url(text)?;
        let unusable = match connection.addr() {
            // Its login is among the parameters.
            redis::ConnectionAddr::Unix(_) => !url.username().is_empty() || url.password().is_some(),
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
        Some(Self { connection, sentinels: None, redacted: url.to_string() })
    }

    /// `LOGIN@HOST,HOST/MASTER/DATABASE?PARAMETERS` after the scheme, read as one URL for each host.
    fn parse_sentinels(scheme: &str, rest: &str) -> Option<Self> {
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
        let whole = Self::parse_server(&url(first), &known)?;
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
            let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
            let node = url(&format!("{host}{port}")).into_connection_info().ok()?;
            Some(node.set_redis_settings(settings.clone()))
        });
        let nodes: Vec<_> = nodes.collect::<Option<_>>()?;

        let (_, shown) = whole.redacted.split_once("://")?;
        let (shown_authority, shown_path) = shown.split_once('/')?;
        let shown_login = shown_authority.rsplit_once('@').map_or("", |(login, _)| login);
        let at = if shown_login.is_empty() { "" } else { "@" };
        let slash = if database.is_empty() { "" } else { "/" };
        let shown_path = shown_path.trim_end_matches('?');
        let redacted = format!("{scheme}+sentinel://{shown_login}{at}{hosts}/{master}{slash}{shown_path}");
        Some(Self {
            connection: whole.connection,
            sentinels: Some(MasterName { master: master.to_owned(), nodes }),
            redacted,
        })
    }
}

impl RedisUrl {
    /// What a Redis URL looks like.
    pub(super) const ACCEPTS: &'static str = "redis://[user:password@]host[:port]/[database], rediss:// for TLS, unix:///path[?db=database&user=user&pass=password], or redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/database] (rediss+sentinel:// for TLS); percent-encode what is special in a URL";

    /// Reads a URL in one of these forms.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text.split_once("+sentinel://") {
            Some((scheme @ ("redis" | "rediss"), rest)) => Self::parse_sentinels(scheme, rest),
            _ => Self::parse_server(text, &["protocol"]),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

#[cfg(test)]
mod tests {
    use super::RedisUrl;

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
    fn a_raw_character_that_ends_the_host_early_is_refused() {
        for text in ["redis://u:12?secret@db/", "redis://u:12#secret@db/", "redis://u:12/secret@db/"] {
            assert!(RedisUrl::read(text).is_none(), "{text}");
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
