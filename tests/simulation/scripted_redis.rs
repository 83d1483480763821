//! What Redis answers to the commands that the service sends, for a network in which no real one
//! can run. It knows those commands and no others, and is itself checked against redis-server.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Script;

/// The time here, in Unix seconds, until it leaps: later than any at which a real Redis is asked the
/// same, so that nothing is too late there either.
const NOW: u64 = 4_000_000_000;

/// How much longer than its batch may be run a memory lasts.
pub(super) const HALF_HOUR: Duration = Duration::from_secs(30 * 60);

/// What a server with `appendfsync always` keeps when it is killed, and the scripts, which it does
/// not.
#[derive(Debug, Default)]
pub(super) struct ScriptedRedis {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Seconds by which the clock has leapt.
    leapt: i64,
    /// By the name that Redis gives them.
    scripts: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl ScriptedRedis {
    /// Forgets the scripts, as a restart and `SCRIPT FLUSH` do.
    pub(super) fn forget_scripts(&mut self) {
        self.scripts.clear();
    }

    /// Two hours pass, after which it has forgotten every producer.
    pub(super) fn stand_still(&mut self) {
        self.leapt += 2 * 60 * 60;
        self.values.retain(|key, _| !text(key).contains(":producer:"));
    }

    /// An administrator sets the clock back by three hours.
    pub(super) fn set_clock_back(&mut self) {
        self.leapt -= 3 * 60 * 60;
    }

    /// The number at `key`; zero when there is none.
    pub(super) fn number(&self, key: &[u8]) -> i64 {
        let value = self.values.get(key).map(|value| text(value).parse());
        value.map_or(0, |number| number.expect("a number"))
    }

    /// Runs a command, and returns the bytes of its answer.
    pub(super) fn run(&mut self, command: &[Vec<u8>]) -> Vec<u8> {
        let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        match words[..] {
            [b"GET", key] => bulk(self.values.get(key).map(Vec::as_slice)),
            [b"DEL", key] => format!(":{}\r\n", usize::from(self.values.remove(key).is_some())).into(),
            [b"SCRIPT", b"FLUSH"] => {
                self.forget_scripts();
                b"+OK\r\n".into()
            }
            [b"TIME"] => {
                let seconds = self.now().to_string();
                format!("*2\r\n${}\r\n{seconds}\r\n$1\r\n0\r\n", seconds.len()).into()
            }
            [b"INFO"] => bulk(Some(b"role:master\r\naof_enabled:1\r\n")),
            [b"CONFIG", b"GET", b"appendfsync"] => b"*2\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n".into(),
            [evaluate @ (b"EVAL" | b"EVALSHA"), script, keys, ref words @ ..] => {
                if evaluate == b"EVAL" {
                    let name = Script::new(text(script)).get_hash().into();
                    self.scripts.insert(name, script.into());
                } else if !self.scripts.contains_key(script) {
                    return b"-NOSCRIPT No matching script. Please use EVAL.\r\n".into();
                }
                let (keys, arguments) = words.split_at(text(keys).parse().expect("a number"));
                self.increment(keys, arguments)
            }
            _ => panic!("{}", command.join(&b' ').escape_ascii()),
        }
    }

    fn now(&self) -> u64 {
        NOW.saturating_add_signed(self.leapt)
    }

    /// What `src/store/scripts/increment.lua` does, but for what is asked of a session beside a visit.
    fn increment(&mut self, keys: &[&[u8]], arguments: &[&[u8]]) -> Vec<u8> {
        let [counter, producer, epoch, ref sessions @ ..] = *keys else { panic!("{keys:?}") };
        let [until, visits, batch, ref sessions_arguments @ ..] = *arguments else { panic!("{arguments:?}") };
        let kinds = sessions_arguments.first().copied().unwrap_or_default();
        let mut before = None;
        if let Some(last) = self.values.get(producer) {
            let (number, result) = text(last).split_once(' ').expect("a batch and its result");
            let (number, batch) = (integer(number), integer(text(batch)));
            if number == batch {
                before = Some(result.to_owned());
            } else if number > batch {
                return format!("-STALE batch {batch} came after batch {number}\r\n").into();
            }
        } else if self.now() + HALF_HOUR.as_secs() > text(until).parse().expect("a time") {
            let batch = text(batch);
            return format!("-STALE batch {batch} came when it may have been forgotten\r\n").into();
        }
        let epoch = self.values.get(epoch).map_or("0", |epoch| text(epoch)).to_owned();
        let mut given = self.number(counter) + integer(text(visits));
        // New visitors come before those whose session is not known any more.
        let new = kinds.iter().filter(|kind| **kind == b'n').count();
        let mut total = given + i64::try_from(new).expect("a few");
        let mut replies = String::new();
        let mut sessions = sessions.iter();
        for kind in kinds {
            let mut next = || *sessions.next().expect("a key");
            let named = next();
            let new = if *kind == b'v' { next() } else { named };
            let told = |key: &[u8]| {
                let session = self.values.get(key)?;
                Some(text(session).split_once(' ').expect("a number and an epoch"))
            };
            let known = if *kind == b'v' { told(named) } else { None };
            replies += &match (&before, told(new), known) {
                (Some(_), Some((number, _)), _) => format!(" {number}"),
                (Some(_), None, Some((number, _))) => format!(" ={number}"),
                (Some(_), None, None) => " -".to_owned(),
                (None, _, Some((number, of))) if of == epoch => format!(" ={number}"),
                (None, ..) => {
                    let last = if *kind == b'n' { &mut given } else { &mut total };
                    *last += 1;
                    let number = *last;
                    self.values.insert(new.into(), format!("{number} {epoch}").into());
                    format!(" {number}")
                }
            };
        }
        let result = before.unwrap_or_else(|| {
            let result = format!("{total} {epoch}");
            self.values.insert(counter.into(), total.to_string().into());
            self.values.insert(producer.into(), format!("{} {result}", text(batch)).into());
            result
        });
        bulk(Some((result + &replies).as_bytes()))
    }
}

/// Takes the first whole command, an array of bulk strings, off `received`.
pub(super) fn take_command(received: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut rest = &received[..];
    let mut command = Vec::new();
    for _ in 0..length(&mut rest, b'*')? {
        let length = length(&mut rest, b'$')?;
        command.push(rest.get(..length)?.to_owned());
        rest = rest.get(length + 2..)?;
    }
    let taken = received.len() - rest.len();
    received.drain(..taken);
    Some(command)
}

fn length(rest: &mut &[u8], kind: u8) -> Option<usize> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    assert_eq!(rest[0], kind, "{}", rest.escape_ascii());
    let length = text(&rest[1..end]).parse().expect("a length");
    *rest = &rest[end + 2..];
    Some(length)
}

fn bulk(content: Option<&[u8]>) -> Vec<u8> {
    match content {
        None => b"$-1\r\n".into(),
        Some(content) => {
            let mut answer = format!("${}\r\n", content.len()).into_bytes();
            answer.extend_from_slice(content);
            answer.extend_from_slice(b"\r\n");
            answer
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn integer(text: &str) -> i64 {
    text.parse().expect("an integer")
}
