//! What a Redis server promises: whether it keeps a counted visit through a crash, and in a full memory.

use std::collections::HashMap;
use std::fmt;

use crate::store::error::StoreError;
use crate::store::redis_session::RedisSession;

/// What a Redis server reports of itself; `None` where its access rules keep this user from asking.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// Its name and version.
    pub version: Option<String>,
    /// `master` or `slave`, in the words of `INFO`.
    pub role: Option<String>,
    /// Whether it keeps an append-only file.
    pub append_only: Option<bool>,
    /// When it makes that file safe: `always`, `everysec` or `no`.
    pub append_fsync: Option<String>,
    /// How much memory it may use for its data, in bytes; 0 is all that there is.
    pub max_memory: Option<u64>,
    /// What it does when that is used up: `noeviction`, or how it chooses the keys that it removes.
    pub max_memory_policy: Option<String>,
}

impl ServerInfo {
    pub(super) async fn of(session: &mut RedisSession) -> Result<Self, StoreError> {
        let info: Option<String> = session.ask_if_allowed(&redis::cmd("INFO")).await?;
        let field = |name: &str| {
            let mut lines = info.as_deref()?.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(value.trim().to_owned())
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
            max_memory: field("maxmemory").and_then(|bytes| bytes.parse().ok()),
            max_memory_policy: field("maxmemory_policy"),
        })
    }

    /// Whether an acknowledged visit survives a crash of the server; `None` when it cannot be known.
    #[must_use]
    pub fn is_durable(&self) -> Option<bool> {
        if self.append_only? { Some(self.append_fsync.as_deref()? == "always") } else { Some(false) }
    }

    /// Whether a full memory makes it remove keys; `None` when it cannot be known. Every policy but
    /// `noeviction` can hit some: the record of a batch and the sessions of visitors have an expiry, which
    /// is what the policies `volatile-*` look for.
    #[must_use]
    pub fn may_evict(&self) -> Option<bool> {
        match (self.max_memory, self.max_memory_policy.as_deref()) {
            (Some(0), _) | (_, Some("noeviction")) => Some(false),
            (Some(_), Some(_)) => Some(true),
            _ => None,
        }
    }

    /// The commands of Redis that make it keep every counted visit, as far as they are lacking.
    #[must_use]
    pub fn lacking(&self) -> Vec<&'static str> {
        let lacks_fsync = self.append_fsync.as_deref().is_some_and(|fsync| fsync != "always");
        let commands = [
            (self.append_only == Some(false), "CONFIG SET appendonly yes"),
            (lacks_fsync, "CONFIG SET appendfsync always"),
            (self.may_evict() == Some(true), "CONFIG SET maxmemory-policy noeviction"),
        ];
        let mut lacking: Vec<_> =
            commands.into_iter().filter_map(|(lacks, command)| lacks.then_some(command)).collect();
        if !lacking.is_empty() {
            // Without it they hold until the next restart of Redis.
            lacking.push("CONFIG REWRITE");
        }
        lacking
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
        write!(f, "{version}, {role}; {durability}")?;
        match &self.max_memory_policy {
            Some(policy) if self.may_evict() == Some(true) => {
                write!(f, "; it forgets keys when its memory is full (maxmemory-policy {policy})")
            }
            _ => Ok(()),
        }
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
            let info = ServerInfo { append_only, append_fsync, ..ServerInfo::default() };
            assert_eq!(info.is_durable(), durable, "{info:?}");
        }
    }

    #[test]
    fn whatever_removes_keys_from_a_full_memory_may_evict() {
        for (max_memory, policy, may_evict) in [
            (Some(0), Some("allkeys-lru"), Some(false)),
            (Some(1), Some("noeviction"), Some(false)),
            (Some(1), Some("allkeys-lru"), Some(true)),
            (Some(1), Some("volatile-ttl"), Some(true)),
            (Some(1), None, None),
            (None, Some("allkeys-lru"), None),
        ] {
            let max_memory_policy = policy.map(str::to_owned);
            let info = ServerInfo { max_memory, max_memory_policy, ..ServerInfo::default() };
            assert_eq!(info.may_evict(), may_evict, "{info:?}");
            assert_eq!(info.to_string().contains("forgets keys"), may_evict == Some(true), "{info}");
        }
    }

    #[test]
    fn what_cannot_be_known_is_not_called_lacking() {
        assert!(ServerInfo::default().lacking().is_empty());
        let fsync = Some("everysec".to_owned());
        let info = ServerInfo { append_only: Some(true), append_fsync: fsync, ..ServerInfo::default() };
        assert_eq!(info.lacking(), ["CONFIG SET appendfsync always", "CONFIG REWRITE"]);
    }
}
