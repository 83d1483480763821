//! One connection to Redis: commands go out and replies come in (RESP, the Redis serialization
//! protocol).
//!
//! Words, values and the general parser are the redis crate's. What is left out is its asynchronous
//! connection: the task, the channel and the parser that each command passes there take as many
//! instructions as hyper does for a whole request. Here a connection belongs to whoever asks, who
//! waits for the answer before asking again, and drops the connection when it does not come.

use std::io;
use std::ops::Range;

use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, Parser, RedisConnectionInfo, RedisError,
    Value,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stream::Stream;

/// The most that is read of a reply, in bytes. The longest is that to `INFO`, of some kilobytes.
const LONGEST_REPLY: usize = 1024 * 1024;

/// What is read at first, in bytes. An answer to an increment is shorter.
const FIRST_READ: usize = 64;

/// How much is shown of a reply that is none of Redis, in bytes.
const WORDS_TO_SHOW: usize = 32;

/// What is said of a longer one.
pub(crate) const TOO_LONG: &str = "the server gave a longer answer than Redis would";

/// How an error begins about what is none.
pub(crate) const NO_REDIS: &str = "what answers is no Redis";

/// A connection on which at most one question is open.
pub(crate) struct Connection {
    /// Where it leads.
    pub(crate) address: ConnectionAddr,
    stream: Stream,
    /// What has been received of the answer to the last question.
    received: Vec<u8>,
}

/// What Redis said.
pub(crate) enum Reply<'a> {
    /// A bulk string, where it was received.
    Text(&'a [u8]),
    /// Anything else; also an error.
    Other(Value),
}

impl Connection {
    /// Logs in and chooses the database, as `server` says, to which `stream` leads.
    pub(crate) async fn open(stream: Stream, server: &ConnectionInfo) -> Result<Self, RedisError> {
        let settings = server.redis_settings();
        let mut connection = Self {
            address: server.addr().clone(),
            stream,
            received: Vec::new(),
        };
        if let Some(login) = login(settings) {
            let answer = connection.ask::<Value>(&login).await;
            answer.map_err(|error| without_password(error, settings.password()))?;
        }
        if settings.db() != 0 {
            let mut select = redis::cmd("SELECT");
            connection.ask::<()>(select.arg(settings.db())).await?;
        }
        Ok(connection)
    }

    /// Asks one thing. What Redis says against it is an error.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        self.send(&command.get_packed_command()).await?;
        let value = match self.reply().await? {
            Reply::Text(text) => Value::BulkString(text.to_owned()),
            Reply::Other(value) => value.extract_error()?,
        };
        Ok(redis::from_redis_value(value)?)
    }

    /// Sends commands, as many as are then asked for by [`Connection::reply`] or
    /// [`Connection::replies`].
    pub(crate) async fn send(&mut self, commands: &[u8]) -> Result<(), RedisError> {
        self.received.clear();
        self.stream.write_all(commands).await?;
        Ok(self.stream.flush().await?)
    }

    /// The reply to the command that was sent.
    pub(crate) async fn reply(&mut self) -> Result<Reply<'_>, RedisError> {
        loop {
            self.receive().await?;
            // What an increment gets, and so nearly every reply, needs no general parser.
            if let Some(text) = bulk_string(&self.received) {
                return Ok(Reply::Text(&self.received[text]));
            }
            if let Some(values) = parse(&self.received, 1)? {
                return Ok(Reply::Other(
                    values.into_iter().next().unwrap_or(Value::Nil),
                ));
            }
        }
    }

    /// The replies to so many commands that were sent together.
    pub(crate) async fn replies(&mut self, count: usize) -> Result<Vec<Value>, RedisError> {
        loop {
            self.receive().await?;
            if let Some(values) = parse(&self.received, count)? {
                return Ok(values);
            }
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() > LONGEST_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TOO_LONG));
        }
        self.received.reserve(self.received.len().max(FIRST_READ));
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
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
            hello
                .arg("AUTH")
                .arg(user.unwrap_or("default"))
                .arg(password);
        }
        return Some(hello);
    }
    let mut auth = redis::cmd("AUTH");
    auth.arg(user).arg(password?);
    Some(auth)
}

/// Where the text is, when what was received is one whole bulk string and nothing else.
fn bulk_string(received: &[u8]) -> Option<Range<usize>> {
    let [b'$', rest @ ..] = received else {
        return None;
    };
    let (length, rest) = number(rest)?;
    let begin = received.len() - rest.len() + 2;
    let end = received.len().checked_sub(2)?;
    let whole = begin.checked_add(usize::try_from(length).ok()?)? == end
        && received[begin - 2..begin] == *b"\r\n"
        && received[end..] == *b"\r\n";
    whole.then_some(begin..end)
}

/// The number that a text begins with, and what follows it. By hand, for a third of what the standard
/// library takes: it is done twice for each batch.
pub(crate) fn number(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (mut number, mut rest) = (0_i64, digits);
    while let [digit @ b'0'..=b'9', more @ ..] = rest {
        // There are more negative numbers than positive ones.
        number = number
            .checked_mul(10)?
            .checked_sub(i64::from(digit - b'0'))?;
        rest = more;
    }
    if rest.len() == digits.len() {
        return None;
    }
    if !negative {
        number = number.checked_neg()?;
    }
    Some((number, rest))
}

/// What answers is something else: an HTTP server, say. Its first words show what.
fn unlike_redis(received: &[u8]) -> io::Error {
    let words = &received[..received.len().min(WORDS_TO_SHOW)];
    let words = String::from_utf8_lossy(words);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{NO_REDIS}: it says {words:?}"),
    )
}

/// What was said against a command, without its words: Redis quotes those of one that it does not know,
/// and a password may be among them.
pub(crate) fn without_words(said: &str) -> &str {
    said.split_once(", with args")
        .map_or(said, |(said, _)| said)
}

/// What was said to a login, unless that holds the password, or may.
fn without_password(error: RedisError, password: Option<&str>) -> RedisError {
    let said = error.to_string();
    let said = without_words(&said);
    let password = password.filter(|password| !password.is_empty());
    if password.is_some_and(|password| said.contains(password) || said.contains(NO_REDIS)) {
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

/// Begins a command of so many words, each to be added with [`put_word`].
pub(crate) fn put_command(command: &mut Vec<u8>, words: usize) {
    put_length(command, b'*', words);
}

/// Adds a word to a command.
pub(crate) fn put_word(command: &mut Vec<u8>, word: &[u8]) {
    put_length(command, b'$', word.len());
    command.extend_from_slice(word);
    command.extend_from_slice(b"\r\n");
}

/// Adds a number to a command. It has at most 20 digits, so their number is put by hand.
pub(crate) fn put_number(command: &mut Vec<u8>, number: u64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number).as_bytes();
    match digits.len() as u8 {
        length @ ..10 => command.extend_from_slice(&[b'$', b'0' + length]),
        length => command.extend_from_slice(&[b'$', b'0' + length / 10, b'0' + length % 10]),
    }
    command.extend_from_slice(b"\r\n");
    command.extend_from_slice(digits);
    command.extend_from_slice(b"\r\n");
}

fn put_length(command: &mut Vec<u8>, kind: u8, length: usize) {
    command.push(kind);
    command.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    command.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::{Value, bulk_string, number, parse, put_number, put_word};

    #[test]
    fn a_number_is_put_as_a_word_is() {
        for number in [0, 9, 10, 4_000_000_000, 9_999_999_999, u64::MAX] {
            let (mut short, mut long) = (Vec::new(), Vec::new());
            put_number(&mut short, number);
            put_word(&mut long, number.to_string().as_bytes());
            assert_eq!(short, long);
        }
    }

    #[test]
    fn a_number_is_read_as_the_standard_library_reads_it() {
        let edges = [i64::MIN, i64::MAX].map(i128::from);
        let beside = edges.map(|edge| [edge - 1, edge, edge + 1]).concat();
        let beside = beside.iter().map(ToString::to_string);
        let others = ["0", "-0", "7", "007", "-12", "-", "", "x"].map(str::to_owned);
        for text in beside.chain(others) {
            let read = text.parse().ok();
            let followed = text.clone() + " 1";
            assert_eq!(number(text.as_bytes()), read.map(|read| (read, &b""[..])));
            assert_eq!(
                number(followed.as_bytes()),
                read.map(|read| (read, &b" 1"[..]))
            );
        }
    }

    #[test]
    fn the_short_way_reads_what_the_parser_reads_or_leaves_it_alone() {
        let replies: [&[u8]; 15] = [
            b"$4\r\n12 0\r\n",
            b"$0\r\n\r\n",
            b"$2\r\n\r\n\r\n",
            b"$-1\r\n",
            b"$-0\r\n\r\n",
            b"$\r\n\r\n",
            b"$4\r\n12 0\r",
            b"$4\r\n12 0\r\n\r\n",
            b"$3\r\n12 0\r\n",
            b"$5\r\n12 0\r\n",
            b"$99999999999999999999999\r\n\r\n",
            b"$18446744073709551615\r\n\r\n",
            b":12\r\n",
            b"-ERR no\r\n",
            b"",
        ];
        for reply in replies {
            for end in 0..=reply.len() {
                let part = &reply[..end];
                let Some(text) = bulk_string(part) else {
                    continue;
                };
                let parsed = parse(part, 1).expect("it is a reply").expect("a whole one");
                assert_eq!(parsed, [Value::BulkString(part[text].to_owned())]);
            }
        }
        assert_eq!(bulk_string(replies[0]), Some(4..8));
        assert_eq!(bulk_string(replies[1]), Some(4..4));
    }
}
