//! Redis Sentinel, which knows the server that is the master now.
//!
//! It follows the guidelines for clients of Redis Sentinel: for each new link one Sentinel after another
//! is asked, and the server that it names must say itself that it is a master. It says so in the session
//! that will count, since by the next one it may be a replica.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use redis::{ConnectionInfo, Value};

use crate::config::MasterName;
use crate::store::error::StoreError;
use crate::store::redis_session::RedisSession;

/// The Sentinels of one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    named: MasterName,
    /// The Sentinel that is asked first the next time.
    next: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(named: &MasterName) -> Self {
        Self { named: named.clone(), next: AtomicUsize::new(0) }
    }

    /// All of them, beginning with another one each time.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &ConnectionInfo> {
        let nodes = &self.named.nodes;
        let (rest, from_first) = nodes.split_at(self.next.fetch_add(1, Relaxed) % nodes.len().max(1));
        from_first.iter().chain(rest)
    }

    /// Asks a Sentinel for the address of the master.
    pub(super) async fn master_address(
        &self,
        sentinel: &mut RedisSession,
    ) -> Result<(String, u16), StoreError> {
        let answer: Option<(String, u16)> = sentinel
            .ask_at(redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.named.master))
            .await?;
        answer.ok_or_else(|| {
            StoreError::Refused(format!("Sentinel knows no master named {}", self.named.master))
        })
    }
}

/// Checks that the server calls itself a master. It is refused when it does not, or may not be asked.
pub(super) async fn check_is_master(session: &mut RedisSession) -> Result<(), StoreError> {
    let role: Vec<Value> = session.ask_at(&redis::cmd("ROLE")).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(StoreError::Refused(format!(
            "{} is not a master, though Sentinel still says so",
            session.address
        ))),
    }
}
