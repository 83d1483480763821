//! What a Redis server promises: whether it keeps a counted visit through a crash.

use std::collections::HashMap;
use std::fmt;

use crate::store::error::StoreError;
use crate::store::redis_session::RedisSession;

/// What a Redis server reports of itself; `None` where its access rules keep this user from asking.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Its name and version.
    pub version: Option<String>,
    /// `master` or `slave`, in the words of `INFO`.
    pub role: Option<String>,
    /// Whether it keeps an append-only file.
    pub append_only: Option<bool>,
    /// When it makes that file safe: `always`, `everysec` or `no`.
    pub append_fsync: Option<String>,
}

impl ServerInfo {
    pub(super) async fn of(session: &mut RedisSession) -> Result<Self, StoreError> {
        let info: Option<String> = session.ask_if_allowed(&redis::cmd("INFO")).await?;
        let field = |name: &str| {
            let line = info.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix(':')?.trim().to_owned())
        };
        let fsync: Option<HashMap<String, String>> =
            session.ask_if_allowed(redis::cmd("CONFIG").arg("GET").arg("appendfsync")).await?;
        Ok(Self {
            version: field("valkey_version")
                .map(|version| format!("Valkey {version}"))
                .or_else(|| field("redis_version").map(|version| format!("Redis {version}"))),
            role: field("role"),
            append_only: field("aof_enabled").map(|enabled| enabled == "1"),
            append_fsync: fsync.and_then(|pair| pair.into_values().next()),
        })
    }

    /// Whether an acknowledged visit survives a crash of the server; `None` when it cannot be known.
    #[must_use]
    pub fn is_durable(&self) -> Option<bool> {
        if self.append_only? { Some(self.append_fsync.as_deref()? == "always") } else { Some(false) }
    }
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("a server of unknown version");
        let role = self.role.as_deref().unwrap_or("of unknown role");
        let durability = match (self.is_durable(), self.append_only) {
            (Some(true), _) => "a counted visit survives a crash of the server (appendfsync always)",
            (Some(false), Some(true)) => {
                "a crash of the server can lose the last visits (appendfsync is not always)"
            }
            (Some(false), _) => "a crash of the server can lose visits (appendonly is no)",
            (None, _) => "its durability cannot be read by this user (INFO and CONFIG GET)",
        };
        write!(f, "{version}, {role}; {durability}")
    }
}

#[cfg(test)]
mod tests {
    use super::ServerInfo;

    #[test]
    fn only_an_append_only_file_that_is_always_synced_is_durable() {
        for (append_only, fsync, durable) in [
            (Some(true), Some("always"), Some(true)),
            (Some(true), Some("everysec"), Some(false)),
            (Some(true), None, None),
            (Some(false), None, Some(false)),
            (None, Some("always"), None),
        ] {
            let append_fsync = fsync.map(str::to_owned);
            let info = ServerInfo { version: None, role: None, append_only, append_fsync };
            assert_eq!(info.is_durable(), durable, "{info:?}");
        }
    }
}
