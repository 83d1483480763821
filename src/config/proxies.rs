//! Which peers may say for whom they ask.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// The proxies whose word about their client is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// Peers on a unix socket, which have no address.
    unix: bool,
}

impl TrustedProxies {
    /// Whether a peer, or a proxy that it names, is trusted; `None` is a peer on a unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            None => self.unix,
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let mut proxies = Self::default();
        if text == "none" {
            return Some(proxies);
        }
        for member in text.split(',').map(str::trim) {
            match member {
                "unix" => proxies.unix = true,
                network => {
                    let address =
                        || network.parse().ok().map(|address: IpAddr| address.to_canonical().into());
                    proxies.networks.push(network.parse().ok().or_else(address)?);
                }
            }
        }
        Some(proxies)
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.networks.iter().map(ToString::to_string);
        let members: Vec<_> = networks.chain(self.unix.then(|| "unix".to_owned())).collect();
        f.write_str(if members.is_empty() { "none" } else { "" })?;
        f.write_str(&members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::TrustedProxies;

    #[test]
    fn a_list_of_addresses_networks_and_unix_is_read() {
        let proxies = TrustedProxies::read("127.0.0.1, 10.0.0.0/8,fd00::/8,::1,unix").expect("a list");
        for trusted in ["127.0.0.1", "10.255.0.1", "fd00::1", "::1"] {
            assert!(proxies.trusts(trusted.parse().ok()), "{trusted}");
        }
        for other in ["127.0.0.2", "11.0.0.1", "fe80::1", "::2"] {
            assert!(!proxies.trusts(other.parse().ok()), "{other}");
        }
        assert!(proxies.trusts(None));
        assert_eq!(proxies.to_string(), "127.0.0.1/32,10.0.0.0/8,fd00::/8,::1/128,unix");
    }

    #[test]
    fn none_trusts_no_peer_and_nonsense_is_refused() {
        let none = TrustedProxies::read("none").expect("none");
        assert!(!none.trusts(None) && !none.trusts("127.0.0.1".parse().ok()));
        for wrong in ["", "all", "10.0.0.0/33", "10.0.0.0/", "example.org", "10.0.0.1,,::1", "none,unix"] {
            assert_eq!(TrustedProxies::read(wrong), None, "{wrong}");
        }
    }
}
