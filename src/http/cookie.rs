//! The cookie that holds the id of a visitor's session, and nothing else (RFC 6265).

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue};

use crate::store::SessionId;

const NAME: &str = "abukiks_session";

/// The name where the visitor uses HTTPS: browsers let no other host and no plain connection set it
/// (RFC 6265bis, section 4.1.3.2).
const SECURE_NAME: &str = "__Host-abukiks_session";

/// The session that a request names. A cookie that is malformed or there twice names none. By HTTPS, that of a
/// visitor who came without it before is known too.
pub(crate) fn named_session(headers: &HeaderMap, is_https: bool) -> Option<SessionId> {
    let secure = is_https.then(|| session_of(headers, SECURE_NAME)).flatten();
    secure.or_else(|| session_of(headers, NAME))
}

fn session_of(headers: &HeaderMap, name: &str) -> Option<SessionId> {
    let lines = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values =
        lines.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = values.next()?;
    values.next().is_none().then(|| SessionId::read(value))?
}

/// Has the browser keep the id for as long as Redis keeps the session.
pub(crate) fn keep(id: SessionId, lifetime: Duration, is_https: bool) -> HeaderValue {
    set(&id.to_string(), lifetime, is_https)
}

/// Has the browser forget the id, under each name that it may have it.
pub(crate) fn forget(is_https: bool) -> Vec<HeaderValue> {
    let secure = is_https.then(|| set("", Duration::ZERO, true));
    secure.into_iter().chain([set("", Duration::ZERO, false)]).collect()
}

fn set(value: &str, lifetime: Duration, is_https: bool) -> HeaderValue {
    let age = lifetime.as_secs();
    let (name, secure) = if is_https { (SECURE_NAME, "; Secure") } else { (NAME, "") };
    let cookie = format!("{name}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax{secure}");
    // Nothing but letters and digits has been filled in.
    HeaderValue::try_from(cookie).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::{COOKIE, HeaderValue};

    use super::{NAME, SECURE_NAME, keep, named_session};
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
            assert_eq!(named_session(&values.collect(), false), named.then_some(id), "{lines:?}");
        }
    }

    #[test]
    fn by_https_the_cookie_of_before_is_known_and_the_one_for_https_comes_first() {
        let [old, new] = [(); 2].map(|()| SessionId::draw().expect("random numbers"));
        let named = |line: String, is_https| {
            let value = HeaderValue::from_str(&line).expect("a value");
            named_session(&[(COOKIE, value)].into_iter().collect(), is_https)
        };
        let both = format!("{NAME}={old}; {SECURE_NAME}={new}");
        assert_eq!(named(both.clone(), true), Some(new));
        assert_eq!(named(both, false), Some(old));
        assert_eq!(named(format!("{NAME}={old}"), true), Some(old));
        assert_eq!(named(format!("{SECURE_NAME}={new}"), false), None);
    }

    #[test]
    fn a_cookie_is_for_this_site_and_not_for_scripts() {
        let id = SessionId::draw().expect("random numbers");
        let attributes = "Max-Age=60; Path=/; HttpOnly; SameSite=Lax";
        for (is_https, expected) in [
            (false, format!("abukiks_session={id}; {attributes}")),
            (true, format!("__Host-abukiks_session={id}; {attributes}; Secure")),
        ] {
            let cookie = keep(id, Duration::from_secs(60), is_https);
            assert_eq!(cookie.to_str().ok(), Some(&*expected));
        }
    }
}
