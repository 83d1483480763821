//! Where to listen.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that `HOST` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// One address. `::` takes IPv4 too, as it is everywhere but where `bindv6only` says otherwise.
    Address(IpAddr),
    /// The loopback addresses of both families.
    Localhost,
}

impl Host {
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "localhost" => Some(Self::Localhost),
            address => address.parse().ok().map(Self::Address),
        }
    }

    /// What to bind. Of several, one that this machine does not have may be missing.
    #[must_use]
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Address(address) => vec![address],
            Self::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }

    /// Where a client on this machine finds what listens there.
    #[must_use]
    pub fn reached_at(self) -> Vec<IpAddr> {
        match self {
            Self::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => vec![Ipv4Addr::LOCALHOST.into()],
            Self::Address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Self::Localhost.addresses(),
            other => other.addresses(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Localhost => f.write_str("localhost"),
        }
    }
}
