//! Any bytes on a connection, as the service serves it: nothing panics, each answer is HTTP, only
//! what is well-formed is answered otherwise than with a refusal, and how the bytes are split on
//! their way changes nothing.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use abukiks::config::Config;
use abukiks::http::app::App;
use abukiks::http::server;
use abukiks::store::{Connector, Store, Stream};
use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How a request is refused that is malformed or too large.
const REFUSALS: [u16; 4] = [400, 413, 414, 431];

/// Serves a connection on which `input` arrives, and checks what is answered.
pub(crate) fn check(input: &[u8]) {
    let answers = answers(input, &serve([input]));
    let mut heads = Heads(input);
    for (place, answer) in answers.iter().enumerate() {
        let head = heads.next().unwrap_or_default();
        if REFUSALS.contains(&answer.status) {
            assert!(answer.is_last, "a refused connection goes on");
        } else if let Err(fault) = check_head(head) {
            panic!("{answer:?} though {fault}: {}", head.escape_ascii());
        }
        assert!(!answer.is_last || place + 1 == answers.len(), "{answers:?}");
    }
    // The same bytes are always split at the same places.
    let mut places = Rng::with_seed(input.iter().map(|byte| u64::from(*byte)).sum());
    let mut later = input;
    let parts = std::iter::from_fn(|| {
        let (part, others) = later.split_at_checked(places.usize(1..8)).unwrap_or((later, &[]));
        later = others;
        (!part.is_empty()).then_some(part)
    });
    let split = self::answers(input, &serve(parts));
    // Whether hyper refuses a head of which the end never came depends on where it was split.
    let whole_heads = Heads(input).count();
    let to_whole_heads = |answers: &[Answer]| answers[..whole_heads.min(answers.len())].to_vec();
    assert_eq!(to_whole_heads(&answers), to_whole_heads(&split), "in parts");
}

/// There is no Redis.
#[derive(Debug)]
struct Nowhere;

impl Connector for Nowhere {
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

/// Serves a connection on which `parts` arrive one after the other, and returns all
/// answers. Each visit is refused, for there is no Redis.
fn serve<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| {
        let settings = [("LOG_FORMAT", "json"), ("LOG_LEVEL", "error"), ("REDIS_TIMEOUT", "1ms")];
        Config::from_vars(settings.map(|(name, value)| (name.into(), value.into()))).expect("settings")
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = Store::new(&CONFIG).expect("a store").reached_by(Nowhere);
        let (app, _) = App::start(&CONFIG, store).expect("stdout");
        let (client, stream) = tokio::io::duplex(64 * 1024);
        let (mut read, mut write) = tokio::io::split(client);
        let sending = async {
            for part in parts {
                // The service may have refused and closed before all is sent.
                if write.write_all(part).await.is_err() {
                    break;
                }
                // A part by itself: the service reads it before the next one comes.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = write.shutdown().await;
        };
        let receiving = async {
            let mut answers = Vec::new();
            read.read_to_end(&mut answers).await.expect("it ends");
            answers
        };
        let exchange = async { tokio::join!(server::serve_stream(app, stream), sending, receiving).2 };
        let exchange = tokio::time::timeout(Duration::from_secs(60), exchange).await;
        exchange.expect("the connection ends")
    })
}

/// Reads all answers to `input`.
fn answers(input: &[u8], mut bytes: &[u8]) -> Vec<Answer> {
    let mut heads = Heads(input);
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let to_head = heads.next().is_some_and(is_head);
        answers.push(Answer::take(&mut bytes, to_head));
    }
    answers
}

/// Whether this asks for headers alone. Empty lines before a request mean nothing.
fn is_head(head: &[u8]) -> bool {
    let begin = head.iter().position(|byte| !b"\r\n".contains(byte));
    begin.is_some_and(|begin| head[begin..].starts_with(b"HEAD "))
}

/// An answer, as far as it does not depend on time.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    is_last: bool,
}

impl Answer {
    /// Takes the first answer off `answers`.
    fn take(answers: &mut &[u8], to_head: bool) -> Self {
        let end = answers.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&answers[..end]).expect("a head in ASCII");
        *answers = &answers[end + 4..];
        let (first, fields) = head.split_once("\r\n").expect("headers");
        let version = ["HTTP/1.0 ", "HTTP/1.1 "].into_iter().find(|version| first.starts_with(version));
        let (status, _) = first[version.expect("a version").len()..].split_at(3);
        let status: u16 = status.parse().expect("a status");
        let fields: Vec<_> =
            fields.split("\r\n").map(|field| field.split_once(": ").expect("a field")).collect();
        let value = |wanted| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        if !to_head && status != 204 {
            let length = value("content-length").expect("a length");
            *answers =
                answers.split_at_checked(length.parse().expect("a number")).expect("all of the content").1;
        }
        Self { status, is_last: value("connection") == Some("close") }
    }
}

/// The heads of requests without content, one after the other, each with the empty line behind it.
struct Heads<'a>(&'a [u8]);

impl<'a> Iterator for Heads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut length = 0;
        let mut begun = false;
        for line in self.0.split_inclusive(|byte| *byte == b'\n') {
            length += line.len();
            let empty = matches!(line, b"\n" | b"\r\n");
            if empty && begun {
                let (head, rest) = self.0.split_at(length);
                self.0 = rest;
                return Some(head);
            }
            begun |= !empty;
        }
        None
    }
}

/// Judges a head by RFC 9112 alone, and more simply than the service does.
fn check_head(head: &[u8]) -> Result<(), &'static str> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let mut lines = Vec::new();
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").ok_or("a line has no end")?;
        // A recipient may take LF alone for the end of a line (section 2.2).
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("there is a control character");
        }
        lines.push(line);
    }
    let mut lines = lines.into_iter().filter(|line| !line.is_empty());
    let request: Vec<&[u8]> = lines.next().ok_or("it is empty")?.split(|byte| *byte == b' ').collect();
    let [method, target, version] = request[..] else {
        return Err("the request line has not three parts");
    };
    if method.is_empty() || !method.iter().all(is_token) || target.is_empty() {
        return Err("the request line is not valid");
    }
    let (mut hosts, mut lengths) = (0, Vec::new());
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a header has no colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(is_token) {
            return Err("a header's name is not valid");
        }
        match &*name.to_ascii_lowercase() {
            b"host" => {
                hosts += 1;
                if value.is_empty() || value.iter().any(|byte| b"@/?#,\\ \t".contains(byte)) {
                    return Err("the host is not valid");
                }
            }
            b"content-length" => lengths.push(value),
            b"transfer-encoding" if !value.eq_ignore_ascii_case(b"chunked") || version == b"HTTP/1.0" => {
                return Err("there is another Transfer-Encoding than chunked");
            }
            b"expect"
                if method == b"GET"
                    && version != b"HTTP/1.0"
                    && value.eq_ignore_ascii_case(b"100-continue") =>
            {
                return Err("a GET expects something");
            }
            _ => {}
        }
    }
    match (version, hosts) {
        (b"HTTP/1.1", 1) | (b"HTTP/1.0", 0 | 1) => {}
        _ => return Err("the version, or the number of hosts, is not right"),
    }
    let zero = |length: &&[u8]| !length.is_empty() && length.iter().all(|byte| *byte == b'0');
    match method {
        b"GET" | b"HEAD" if !lengths.iter().all(zero) => Err("a GET or HEAD has content"),
        _ if lengths.windows(2).any(|two| two[0] != two[1]) => Err("there are two lengths"),
        _ => Ok(()),
    }
}
