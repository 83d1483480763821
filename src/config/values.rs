//! How the text of each kind of setting is read and shown.

use std::path::PathBuf;
use std::time::Duration;

use humantime::{format_duration, parse_duration};
use hyper::header::HeaderName;
use tracing::level_filters::LevelFilter;

use crate::config::host::Host;
use crate::config::origins::Origins;
use crate::config::proxies::TrustedProxies;
use crate::config::redis_url::RedisUrl;
use crate::process::listener::AdminAddress;
use crate::telemetry::access_log::AccessDetail;
use crate::telemetry::logging::LogFormat;

/// A map of headers that grows beyond 24576 panics.
const MAX_HEADERS: usize = 10_000;

/// The longest time that makes sense for any setting.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest time that is not none.
const MS: Duration = Duration::from_millis(1);

/// Browsers keep no cookie for longer (RFC 6265bis, section 5.5).
const MAX_LIFETIME: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// More than fits on a badge, in characters.
const MAX_LABEL: usize = 40;

/// The guarantee that a batch counts once rests on this bound (see `DEDUP_TTL` in `store/link.rs`).
const MAX_REDIS_TIMEOUT: Duration = Duration::from_secs(60);

const SWITCHES: &[(&str, bool)] = &[("on", true), ("off", false)];

const ACCESS_DETAILS: &[(&str, AccessDetail)] =
    &[("on", AccessDetail::On), ("off", AccessDetail::Off), ("full", AccessDetail::Full)];

const LOG_FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("journald", LogFormat::Journald),
    ("json", LogFormat::Json),
    ("text", LogFormat::Text),
];

const LOG_LEVELS: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Declares kinds of settings, each as a module for `#[serde(with)]`: its name and type, what it accepts,
/// how it is read, and how it is shown.
macro_rules! kinds {
    ($( $name:ident: $type:ty, $accepts:expr, $read:expr, $show:expr; )+) => { $(
        pub(super) mod $name {
            use serde::de::Error as _;
            use serde::{Deserialize as _, Deserializer, Serializer};

            #[allow(clippy::allow_attributes, unused_imports, reason = "not every kind needs all")]
            use super::*;

            /// Ends the sentence "X takes ...".
            pub(crate) const ACCEPTS: &str = $accepts;

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let read: fn(&str) -> Option<$type> = $read;
                let text = String::deserialize(deserializer)?;
                read(&text).ok_or_else(|| D::Error::custom(ACCEPTS))
            }

            pub(crate) fn serialize<S: Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let show: fn(&$type) -> String = $show;
                serializer.serialize_str(&show(value))
            }
        }
    )+ };
}

kinds! {
    host: Host, "localhost or an IP address, such as 127.0.0.1 or ::", Host::read, ToString::to_string;
    port: u16, "a port number from 0 to 65535",
        |text| whole(text, 0, u16::MAX.into()).and_then(|port| port.try_into().ok()),
        ToString::to_string;
    admin_address: AdminAddress, "off, a port number from 0 to 65535 or the absolute path of a unix socket",
        |text| match text {
            "off" => Some(AdminAddress::Off),
            path if path.starts_with('/') => is_path(path).then(|| AdminAddress::Path(path.into())),
            port => whole(port, 0, u16::MAX.into()).and_then(|port| port.try_into().ok()).map(AdminAddress::Port),
        },
        ToString::to_string;
    redis_url: RedisUrl, RedisUrl::ACCEPTS, |text| RedisUrl::read(text).ok(), ToString::to_string;
    path: Option<PathBuf>, "the path of a file",
        |text| match text {
            "" => Some(None),
            path => is_path(path).then(|| Some(path.into())),
        },
        |path| path.as_ref().map_or_else(String::new, |path| path.display().to_string());
    count: usize, "a whole number from 0 to 4294967295",
        |text| whole(text, 0, MAX_WHOLE), ToString::to_string;
    positive: usize, "a whole number from 1 to 4294967295",
        |text| whole(text, 1, MAX_WHOLE), ToString::to_string;
    positive_or_auto: Option<usize>, "auto or a whole number from 1 to 4294967295",
        |text| value_or("auto", text, |text| whole(text, 1, MAX_WHOLE)),
        |number| show_or("auto", number.as_ref());
    header_bytes: usize, "a whole number from 256 to 4294967295",
        |text| whole(text, 256, MAX_WHOLE), ToString::to_string;
    header_count: usize, "a whole number from 1 to 10000",
        |text| whole(text, 1, MAX_HEADERS), ToString::to_string;
    period: Duration,
        "a time from 1ms to 24h in whole milliseconds, such as 250ms or 10s (a bare number is seconds)",
        |text| time(text, MS, DAY), |time| format_duration(*time).to_string();
    period_or_zero: Duration,
        "a time from 0s to 24h in whole milliseconds, such as 250ms or 10s (a bare number is seconds)",
        |text| time(text, Duration::ZERO, DAY), |time| format_duration(*time).to_string();
    period_or_off: Option<Duration>,
        "off or a time from 1ms to 24h in whole milliseconds, such as 30s or 5min (a bare number is seconds)",
        |text| value_or("off", text, |text| time(text, MS, DAY)),
        |time| show_or("off", time.map(format_duration).as_ref());
    lifetime_or_off: Option<Duration>,
        "off or a time from 1s to 400days in whole seconds, such as 30min or 7days (a bare number is seconds)",
        |text| value_or("off", text, |text| {
            time(text, Duration::from_secs(1), MAX_LIFETIME).filter(|time| time.subsec_nanos() == 0)
        }),
        |time| show_or("off", time.map(format_duration).as_ref());
    label: String, "printable text of at most 40 characters",
        |text| printable_text(text).filter(|text| text.chars().count() <= MAX_LABEL), Clone::clone;
    color: String, "a colour as #rgb or #rrggbb, in hexadecimal digits",
        |text| {
            let digits = text.strip_prefix('#')?;
            let valid = matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            valid.then(|| text.to_owned())
        },
        Clone::clone;
    origins: Origins,
        "none, * or a list of origins with commas between them, such as https://example.org,http://localhost:8080",
        Origins::read, ToString::to_string;
    proxies: TrustedProxies,
        "none or a list of addresses, networks and `unix` with commas between them, such as 127.0.0.1,10.0.0.0/8,unix",
        TrustedProxies::read, ToString::to_string;
    header_name: HeaderName, "the name of a header, such as X-Forwarded-For, Forwarded or X-Real-IP",
        |text| text.parse().ok(), ToString::to_string;
    access_detail: AccessDetail, "on, off or full",
        |text| named(ACCESS_DETAILS, text), |value| name_of(ACCESS_DETAILS, value);
    redis_timeout: Duration,
        "a time from 1ms to 1m in whole milliseconds, such as 250ms or 10s (a bare number is seconds)",
        |text| time(text, MS, MAX_REDIS_TIMEOUT), |time| format_duration(*time).to_string();
    printable: String, "printable text", printable_text, Clone::clone;
    printable_or_auto: Option<String>, "auto or printable text",
        |text| value_or("auto", text, printable_text), |text| show_or("auto", text.as_ref());
    switch: bool, "on or off", |text| named(SWITCHES, text), |value| name_of(SWITCHES, value);
    log_format: LogFormat, "auto, journald, json or text",
        |text| named(LOG_FORMATS, text), |value| name_of(LOG_FORMATS, value);
    log_level: LevelFilter, "error, warn, info, debug or trace",
        |text| named(LOG_LEVELS, text), |value| name_of(LOG_LEVELS, value);
}

/// The largest number of any setting.
const MAX_WHOLE: usize = u32::MAX as usize;

/// A number written in digits alone: no sign, no space.
fn whole(text: &str, min: usize, max: usize) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok())??;
    (min..=max).contains(&number).then_some(number)
}

/// A length of time in whole milliseconds. A bare number is seconds.
fn time(text: &str, min: Duration, max: Duration) -> Option<Duration> {
    let time = match whole(text, 0, MAX_WHOLE) {
        Some(seconds) => Duration::from_secs(seconds as u64),
        None => parse_duration(text).ok()?,
    };
    let is_whole = time.subsec_nanos() % 1_000_000 == 0;
    (is_whole && (min..=max).contains(&time)).then_some(time)
}

fn printable_text(text: &str) -> Option<String> {
    let printable = !text.is_empty() && !text.chars().any(char::is_control);
    printable.then(|| text.to_owned())
}

/// Whether this can be a path, and is not the content of a file in the place of its path.
pub(super) fn is_path(text: &str) -> bool {
    let is_content =
        text.chars().any(char::is_control) || text.contains("://") || text.contains("-----BEGIN");
    !is_content
}

/// A value, or `None` where the text is `word`.
fn value_or<T>(word: &str, text: &str, read: fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        text if text == word => Some(None),
        text => read(text).map(Some),
    }
}

fn show_or(word: &str, value: Option<&impl ToString>) -> String {
    value.map_or_else(|| word.to_owned(), ToString::to_string)
}

fn named<T: Copy>(words: &[(&str, T)], text: &str) -> Option<T> {
    let mut words = words.iter();
    words.find_map(|(word, value)| (*word == text).then_some(*value))
}

fn name_of<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
    let mut words = words.iter();
    let word = words.find_map(|(word, known)| (known == value).then_some(*word));
    word.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DAY, MS, is_path, time, whole};

    #[test]
    fn a_time_is_whole_milliseconds_with_or_without_a_unit() {
        let read = |text| time(text, MS, DAY);
        assert_eq!(read("10"), Some(Duration::from_secs(10)));
        assert_eq!(read("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(read("24h"), Some(DAY));
        for wrong in ["", "0", "-1s", "1.5", "24h 1ms", "soon", "1us", "1s ago", " 1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(time("0", Duration::ZERO, DAY), Some(Duration::ZERO));
    }

    #[test]
    fn a_number_is_digits_alone() {
        assert_eq!(whole("007", 1, 10), Some(7));
        for wrong in ["", "0", "11", "+1", "-1", "1 ", "0x1", "99999999999999999999"] {
            assert_eq!(whole(wrong, 1, 10), None, "{wrong}");
        }
    }

    #[test]
    fn the_content_of_a_file_is_no_path() {
        assert!(is_path("/run/redis-url") && is_path("a file"));
        for content in ["redis://db/", "-----BEGIN PRIVATE KEY-----", "a\nb"] {
            assert!(!is_path(content), "{content}");
        }
    }
}
