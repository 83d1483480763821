//! One Redis session: commands go out to a Redis server and replies come in (RESP).
//!
//! Packing and parsing are the redis crate's; its asynchronous connection is left out. Measured in this
//! place, it took 11 thousand more instructions for a lone visit, and it bounds no reply. Here a Redis session
//! has one owner, who waits for a reply before the next command, and drops the session on any doubt.

use std::io;

use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, Parser, RedisConnectionInfo, RedisError, Value,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::store::error::{NO_REDIS, StoreError, TOO_LONG, without_arguments};
use crate::store::stream::Stream;

/// The most that is read of a reply, in bytes. The longest is that to `INFO`, of some kilobytes.
const MAX_REPLY: usize = 1024 * 1024;

/// How much is shown of a reply that Redis does not give, in bytes.
const MAX_SHOWN: usize = 32;

/// A stream on which this process has logged in, with at most one question open.
pub(super) struct RedisSession {
    /// Where it leads.
    pub(super) address: ConnectionAddr,
    stream: Stream,
    /// The last commands as they were sent.
    packed: Vec<u8>,
    /// What has been received of the replies to the last commands.
    received: Vec<u8>,
}

impl RedisSession {
    /// Logs in and chooses the database, as `server` says, to which `stream` leads.
    pub(super) async fn open(stream: Stream, server: &ConnectionInfo) -> Result<Self, RedisError> {
        let settings = server.redis_settings();
        let mut session =
            Self { address: server.addr().clone(), stream, packed: Vec::new(), received: Vec::new() };
        if let Some(login) = login(settings) {
            let answer = session.ask::<Value>(&login).await;
            answer.map_err(|error| without_secret(error, settings))?;
        }
        if settings.db() != 0 {
            let mut select = redis::cmd("SELECT");
            session.ask::<()>(select.arg(settings.db())).await?;
        }
        Ok(session)
    }

    /// Sends one command and returns its reply. A reply that refuses the command is an error.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        let replies = self.ask_all(&[command]).await?;
        let reply = replies.into_iter().next().unwrap_or(Value::Nil);
        Ok(redis::from_redis_value(reply.extract_error()?)?)
    }

    /// As [`RedisSession::ask`]; where the server gives no answer, the error says where it is.
    pub(super) async fn ask_at<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.ask(command).await;
        answer.map_err(|error| StoreError::from(error).at(&self.address))
    }

    /// As [`RedisSession::ask`], for what the server's access rules may forbid: then `None`.
    pub(super) async fn ask_if_allowed<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
    ) -> Result<Option<T>, StoreError> {
        match self.ask(command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_io_error() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Sends commands together and returns one reply for each, errors among them.
    pub(super) async fn ask_all(&mut self, commands: &[&Cmd]) -> Result<Vec<Value>, RedisError> {
        self.packed.clear();
        for command in commands {
            command.write_packed_command(&mut self.packed);
        }
        self.stream.write_all(&self.packed).await?;
        self.stream.flush().await?;
        self.received.clear();
        loop {
            self.receive().await?;
            if let Some(values) = parse(&self.received, commands.len())? {
                return Ok(values);
            }
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() > MAX_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TOO_LONG));
        }
        // One byte more than is read tells a longer reply.
        let room = (MAX_REPLY + 1 - self.received.len()) as u64;
        match (&mut self.stream).take(room).read_buf(&mut self.received).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }
}

/// The command that logs in, and says which version of the protocol is to be spoken.
fn login(settings: &RedisConnectionInfo) -> Option<Cmd> {
    let user = settings.username();
    // A user that needs no password takes any.
    let password = settings.password().or(user.map(|_| ""));
    if settings.protocol().supports_resp3() {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if let Some(password) = password {
            hello.arg("AUTH").arg(user.unwrap_or("default")).arg(password);
        }
        return Some(hello);
    }
    let mut auth = redis::cmd("AUTH");
    auth.arg(user).arg(password?);
    Some(auth)
}

/// The error for a server of another kind, such as HTTP. Its first bytes show which.
fn unlike_redis(received: &[u8]) -> io::Error {
    let words = &received[..received.len().min(MAX_SHOWN)];
    let words = String::from_utf8_lossy(words);
    io::Error::new(io::ErrorKind::InvalidData, format!("{NO_REDIS}: it says {words:?}"))
}

/// The error for a login, replaced when it holds the password, or may. A user without a password is often
/// the password, in the wrong place.
fn without_secret(error: RedisError, settings: &RedisConnectionInfo) -> RedisError {
    let text = error.to_string();
    let text = without_arguments(&text);
    let password = settings.password().filter(|password| !password.is_empty());
    let secret = password.or(settings.username());
    if secret.is_some_and(|secret| text.contains(secret) || text.contains(NO_REDIS)) {
        return io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{NO_REDIS}, or refuses the login: its words may hold the password"),
        )
        .into();
    }
    error
}

/// The first `count` values, once they have been received.
fn parse(received: &[u8], count: usize) -> Result<Option<Vec<Value>>, RedisError> {
    let mut parser = Parser::new();
    let mut rest = received;
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        match parser.parse_value(&mut rest) {
            Ok(value) => values.push(value),
            // The end of what there is.
            Err(error) if error.is_io_error() => return Ok(None),
            Err(_) => return Err(unlike_redis(received).into()),
        }
    }
    Ok(Some(values))
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::parse;

    #[test]
    fn replies_are_parsed_once_they_are_whole() {
        let replies = b"$4\r\n12 0\r\n:3\r\n";
        for end in 0..replies.len() {
            assert_eq!(parse(&replies[..end], 2).expect("a part"), None);
        }
        let expected = vec![Value::BulkString(b"12 0".into()), Value::Int(3)];
        assert_eq!(parse(replies, 2).expect("both"), Some(expected));
    }

    #[test]
    fn what_is_not_redis_is_quoted() {
        let error = parse(b"HTTP/1.1 400 Bad Request\r\n", 1).expect_err("not Redis");
        assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
    }
}
