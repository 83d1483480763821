//! What is kept of a visitor, so that one who comes back is not counted again.
//!
//! Factor VI: a session lives in Redis and nowhere else, so that any process continues it. The visitor has
//! its id alone.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

/// What a session takes in Redis: 209 bytes for each of a million, measured with Redis 7.0.
pub const SESSION_BYTES: u64 = 210;

/// Random bytes that are taken from the system at one time.
const RANDOM_BYTES: usize = 1024;

/// Names one visitor's session: 128 random bits, which are as hard to guess as a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Draws a new id.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn draw() -> Result<Self, getrandom::Error> {
        thread_local! {
            static DRAWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        DRAWN.with_borrow_mut(|drawn| {
            if drawn.is_empty() {
                drawn.resize(RANDOM_BYTES, 0);
                if let Err(error) = getrandom::fill(drawn) {
                    drawn.clear();
                    return Err(error);
                }
            }
            let mut id = [0; 16];
            id.copy_from_slice(&drawn[drawn.len() - 16..]);
            drawn.truncate(drawn.len() - 16);
            Ok(Self(id))
        })
    }

    /// Reads an id as [`SessionId`] shows it: 32 hexadecimal digits in lower case.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut id = [0; 16];
        let fits = text.len() == 32 && !text.iter().any(u8::is_ascii_uppercase);
        (fits && const_hex::decode_to_slice(text, &mut id).is_ok()).then_some(Self(id))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(const_hex::Buffer::<16>::new().format(&self.0))
    }
}

/// An id is a secret of its visitor.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(***)")
    }
}

/// What is asked for in a batch, beside visits without a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRequest {
    /// A visitor comes, perhaps with a session; without one that is valid, `new` is made.
    Visit {
        /// The session that the visitor names.
        named: Option<SessionId>,
        /// The session that the visitor gets if that one is unknown.
        new: SessionId,
    },
    /// What is kept?
    Show(SessionId),
    /// Nothing is to be kept any more.
    Forget(SessionId),
}

/// What came of a [`SessionRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionReply {
    /// The visitor was counted and has this number.
    Counted(i64),
    /// The visitor has come back, and was given this number before.
    Returned(i64),
    /// What is kept.
    Kept(VisitorSession),
    /// There is no such session, or there is none any more.
    None,
}

/// A visitor's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisitorSession {
    /// The visitor's number.
    pub number: i64,
    /// When it was given, since 1970, by the clock of Redis.
    pub since: Duration,
    /// When the session ends unless the visitor comes back before.
    pub ends_in: Duration,
}

impl SessionReply {
    /// Reads what the script says: `12`, `=12` for one who came back, `12,SECONDS,MILLISECONDS` for what is
    /// kept, `-` for nothing.
    pub(super) fn read(text: &str, request: &SessionRequest) -> Option<Self> {
        Some(match (request, text) {
            (SessionRequest::Forget(_), _) | (_, "-") => Self::None,
            (SessionRequest::Show(_), text) => {
                let mut parts = text.split(',');
                let mut next = || parts.next()?.parse().ok();
                let (number, since, ends_in): (i64, i64, i64) = (next()?, next()?, next()?);
                Self::Kept(VisitorSession {
                    number,
                    since: Duration::from_secs(since.try_into().ok()?),
                    ends_in: Duration::from_millis(ends_in.try_into().ok()?),
                })
            }
            (SessionRequest::Visit { .. }, text) => match text.strip_prefix('=') {
                Some(number) => Self::Returned(number.parse().ok()?),
                None => Self::Counted(text.parse().ok()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SessionId, SessionReply, SessionRequest, VisitorSession};

    #[test]
    fn an_id_is_32_digits_in_lower_case_and_no_other_text() {
        let id = SessionId::draw().expect("random numbers");
        assert_ne!(id, SessionId::draw().expect("random numbers"));
        let text = id.to_string();
        assert_eq!(SessionId::read(text.as_bytes()), Some(id));
        let upper = "A".repeat(32);
        for other in [
            "",
            "0",
            &text[..31],
            &format!("{text}0"),
            &format!("0x{text}"),
            &upper,
            &text.replace(|_| true, "g"),
        ] {
            assert_eq!(SessionId::read(other.as_bytes()), None, "{other}");
        }
        assert!(!format!("{id:?}").contains(&text), "shown in a log");
    }

    #[test]
    fn a_reply_is_read_as_what_was_asked() {
        let id = SessionId::draw().expect("random numbers");
        let visit = SessionRequest::Visit { named: Some(id), new: id };
        let kept =
            VisitorSession { number: -3, since: Duration::from_secs(5), ends_in: Duration::from_millis(70) };
        for (request, text, reply) in [
            (visit, "12", Some(SessionReply::Counted(12))),
            (visit, "=-12", Some(SessionReply::Returned(-12))),
            (visit, "-", Some(SessionReply::None)),
            (SessionRequest::Show(id), "-3,5,70", Some(SessionReply::Kept(kept))),
            (SessionRequest::Show(id), "-", Some(SessionReply::None)),
            (SessionRequest::Forget(id), "1", Some(SessionReply::None)),
            (visit, "x", None),
            (SessionRequest::Show(id), "1,2", None),
            (SessionRequest::Show(id), "1,-2,3", None),
        ] {
            assert_eq!(SessionReply::read(text, &request), reply, "{text}");
        }
    }
}
