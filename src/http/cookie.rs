//! The cookie that holds the id of a visitor's session, and nothing else (RFC 6265).

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue};

use crate::store::SessionId;

const NAME: &str = "abukiks_session";

/// The session that a request names. A cookie that is malformed or there twice names none.
pub(crate) fn named_session(headers: &HeaderMap) -> Option<SessionId> {
    let lines = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values =
        lines.filter_map(|pair| pair.trim_ascii().strip_prefix(NAME.as_bytes())?.strip_prefix(b"="));
    let value = values.next()?;
    values.next().is_none().then(|| SessionId::read(value))?
}

/// Has the browser keep the id for as long as Redis keeps the session.
pub(crate) fn keep(id: SessionId, lifetime: Duration) -> HeaderValue {
    set(&id.to_string(), lifetime)
}

/// Has the browser forget the id.
pub(crate) fn forget() -> HeaderValue {
    set("", Duration::ZERO)
}

fn set(value: &str, lifetime: Duration) -> HeaderValue {
    let age = lifetime.as_secs();
    let cookie = format!("{NAME}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax");
    // Nothing but letters and digits has been filled in.
    HeaderValue::try_from(cookie).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::{COOKIE, HeaderValue};

    use super::{NAME, keep, named_session};
    use crate::store::SessionId;

    #[test]
    fn a_cookie_names_a_session_when_it_is_there_once_and_whole() {
        let id = SessionId::draw().expect("random numbers");
        let pair = format!("{NAME}={id}");
        for (lines, named) in [
            (vec![pair.clone()], true),
            (vec![format!("theme=dark; {pair};x=y")], true),
            (vec!["theme=dark".to_owned(), pair.clone()], true),
            (vec![], false),
            (vec![format!("{pair}; {pair}")], false),
            (vec![pair.clone(), pair.clone()], false),
            (vec![format!("{pair}0")], false),
            (vec![format!("x{pair}")], false),
            (vec![format!("{NAME}=\"{id}\"")], false),
            (vec![format!("{NAME}=")], false),
            (vec![format!("{NAME}")], false),
        ] {
            let values = lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).expect("a value")));
            assert_eq!(named_session(&values.collect()), named.then_some(id), "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_is_for_this_site_and_not_for_scripts() {
        let id = SessionId::draw().expect("random numbers");
        let cookie = keep(id, Duration::from_secs(60));
        let expected = format!("{NAME}={id}; Max-Age=60; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(cookie.to_str().ok(), Some(&*expected));
    }
}
