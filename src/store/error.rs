//! Why Redis did not do what was asked.

use redis::{ConnectionAddr, ErrorKind, RedisError, ServerErrorKind};

/// The words of Redis for a number that has no next one.
pub(super) const OVERFLOW: &str = "would overflow";

/// How the error for a longer reply reads.
pub(super) const TOO_LONG: &str = "the server gave a longer answer than Redis would";

/// How the error begins for a server that is not Redis.
pub(super) const NO_REDIS: &str = "what answers is no Redis";

/// The words of rustls for what a server refuses a client with, mostly for want of a certificate.
const TLS_ALERT: &str = "received fatal alert: ";

/// How the error begins for a server that does not trust this client.
const CLIENT_REFUSED: &str = "Redis refuses the TLS of this client";

/// How the error begins for a server that this client does not trust.
pub(super) const UNTRUSTED: &str = "the certificate of Redis";

/// What to do when Redis cannot be reached at the default address.
const UNSET: &str = "REDIS_URL is not set: set it to where Redis is, such as redis://192.0.2.1:6379/";

/// How much is kept of a server's reason for a refusal, in letters.
const MAX_DETAIL: usize = 300;

/// Why Redis did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No answer: the command may have been run or not.
    #[error("{0}")]
    Unreachable(String),
    /// The keys are with another node of a Redis Cluster, or on their way there. The command was not
    /// run. No outage: the next connection leads to them.
    #[error("{0}")]
    Moved(String),
    /// An answer that says "not now", such as `LOADING`, `READONLY` or `OOM`. The command was not
    /// run. A new connection may lead to a server that says otherwise.
    #[error("{0}")]
    Refused(String),
    /// Redis does not know the script, for example after `SCRIPT FLUSH` or a restart.
    #[error("the script is not loaded")]
    UnknownScript,
    /// The key cannot be counted up. Only a person can help.
    #[error("{0}")]
    Uncountable(String),
    /// The command was run, but a failover could undo it yet. It may be sent again, to wait longer.
    #[error("{have} replicas of Redis have the visit, of {want} that must")]
    Unreplicated {
        /// How many replicas have acknowledged it in time.
        have: i64,
        /// `MIN_REPLICAS_ACK`.
        want: i64,
    },
}

/// Settings from which no client can be made, in words that name them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreSetupError(pub(super) String);

impl StoreError {
    /// Whether Redis and this client do not trust each other's certificates.
    pub(crate) fn is_of_certificate(&self) -> bool {
        let Self::Unreachable(why) = self else { return false };
        why.starts_with(UNTRUSTED) || why.starts_with(CLIENT_REFUSED)
    }

    /// Adds the address of a server that gave no answer.
    pub(super) fn at(self, address: &ConnectionAddr) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(format!("{why}, at {address}")),
            other => other,
        }
    }

    /// Adds to [`Self::Unreachable`] that `REDIS_URL` is not set.
    pub(super) fn at_default(self) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(format!("{why}; {UNSET}")),
            other => other,
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::UnknownScript,
            // From inside a script, Redis 6 wraps the reason in "ERR Error running script".
            _ if error_contains(&error, "WRONGTYPE")
                || error_contains(&error, "not an integer")
                || error_contains(&error, OVERFLOW)
                || error.to_string().contains(TOO_LONG) =>
            {
                Self::Uncountable(error.to_string())
            }
            ErrorKind::Parse => not_of_redis(),
            kind => match error.code() {
                // In the words of Redis, which are what one searches for.
                Some(code) => {
                    let detail = without_arguments(error.detail().unwrap_or_default());
                    let reason = format!("{code} {detail}").replace(char::is_control, " ");
                    let reason = reason.chars().take(MAX_DETAIL).collect();
                    match kind {
                        ErrorKind::Server(
                            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain,
                        ) => Self::Moved(reason),
                        _ => Self::Refused(reason),
                    }
                }
                None => {
                    let text = error.to_string();
                    Self::Unreachable(match text.split_once(TLS_ALERT) {
                        Some((_, alert)) => format!(
                            "{CLIENT_REFUSED} ({alert}); REDIS_CERT_FILE and REDIS_KEY_FILE take what it asks for"
                        ),
                        None => text,
                    })
                }
            },
        }
    }
}

/// An answer of a kind that Redis does not give here.
pub(super) fn not_of_redis() -> StoreError {
    StoreError::Unreachable(format!("{NO_REDIS}: it gave an answer of another kind"))
}

fn error_contains(error: &RedisError, words: &str) -> bool {
    error.code().is_some_and(|code| code == words)
        || error.detail().is_some_and(|detail| detail.contains(words))
}

/// An error's detail without the arguments that Redis quotes of a command that it does not know: a
/// password may be among them.
pub(super) fn without_arguments(detail: &str) -> &str {
    detail.split_once(", with args").map_or(detail, |(detail, _)| detail)
}

#[cfg(test)]
mod tests {
    use super::without_arguments;

    #[test]
    fn arguments_are_left_out_of_errors() {
        let detail = "unknown command 'HELLO', with args beginning with: 'secret'";
        assert_eq!(without_arguments(detail), "unknown command 'HELLO'");
    }
}
