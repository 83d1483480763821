//! Redis Sentinel: who knows which server is the master now.
//!
//! It follows the guidelines for clients of Redis Sentinel: at each new connection one Sentinel
//! after another is asked, and the server that it names must say itself that it is a master. It
//! says so on the connection that will count, since by the next one it may be a replica.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use redis::{Cmd, ConnectionInfo, Value};

use crate::config;
use crate::resp::Connection;
use crate::store::{StoreError, ask};

/// The Sentinels of one master.
#[derive(Debug)]
pub(crate) struct Sentinels {
    master: String,
    nodes: Vec<ConnectionInfo>,
    /// Who is asked first the next time.
    next: AtomicUsize,
}

impl Sentinels {
    pub(crate) fn new(named: &config::Sentinels) -> Self {
        Self {
            master: named.master.clone(),
            nodes: named.nodes.clone(),
            next: AtomicUsize::new(0),
        }
    }

    /// All of them, beginning with another one each time.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &ConnectionInfo> {
        let first = self.next.fetch_add(1, Relaxed) % self.nodes.len().max(1);
        let (rest, from_first) = self.nodes.split_at(first);
        from_first.iter().chain(rest)
    }

    /// Asks one of them for the address of the master.
    pub(crate) async fn ask(&self, sentinel: &mut Connection) -> Result<(String, u16), StoreError> {
        let mut question = Cmd::new();
        question
            .arg("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.master);
        let answer: Option<(String, u16)> = ask(sentinel, &question).await?;
        answer.ok_or_else(|| {
            StoreError::Refused(format!("Sentinel knows no master named {}", self.master))
        })
    }
}

/// Checks that the server calls itself a master.
///
/// # Errors
/// [`StoreError::Refused`] when it does not, or when it may not be asked.
pub(crate) async fn check_is_master(connection: &mut Connection) -> Result<(), StoreError> {
    let role: Vec<Value> = ask(connection, &redis::cmd("ROLE")).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(StoreError::Refused(format!(
            "{} is not a master, though Sentinel still says so",
            connection.address
        ))),
    }
}
