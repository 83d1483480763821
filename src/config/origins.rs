//! The origins of other sites, for CORS.

use std::fmt;
use std::net::Ipv6Addr;

/// The sites whose pages may read answers by script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// That of the service alone.
    None,
    /// Every one.
    Any,
    /// These, as browsers write them: `https://example.org`, with a port if it is not that of the scheme.
    Listed(Vec<String>),
}

impl Origins {
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "*" => Some(Self::Any),
            list => {
                let origins =
                    list.split(',').map(|origin| is_origin(origin.trim()).then(|| origin.trim().to_owned()));
                origins.collect::<Option<_>>().map(Self::Listed)
            }
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Any => f.write_str("*"),
            Self::Listed(origins) => f.write_str(&origins.join(",")),
        }
    }
}

/// Whether this is how browsers write an origin (RFC 6454, section 6.2): in lower case, without the port
/// of the scheme, and with nothing behind it.
fn is_origin(text: &str) -> bool {
    let Some((scheme @ ("http" | "https"), authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let default = if scheme == "http" { 80 } else { 443 };
    let port_fits = port.is_none_or(|port| {
        let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port != default)
    });
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let letter =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(letter)
        }
    };
    port_fits && host_fits
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn an_origin_is_as_browsers_write_it() {
        for origin in [
            "https://example.org",
            "http://a-b.c:8080",
            "http://[::1]:1",
            "https://127.0.0.1",
            "http://a:443",
        ] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "example.org",
            "https://",
            "https://a/",
            "https://A",
            "https://a:443",
            "http://a:80",
            "http://a:0",
            "http://a:080",
            "http://u@a",
            "ftp://a",
            "https://a b",
            "*",
            "null",
            "http://[x]",
            "http://a:99999",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }
}
