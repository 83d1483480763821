//! Any variables as settings: nothing panics, what is wrong is said in lines that name a variable,
//! what is right shows itself in a form that is right again, and no password is in either.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use abukiks::config::{Config, SETTINGS};

/// Stands in inputs where a password can stand.
const PASSWORD: &str = "hunter2";

/// Reads settings from `input`, one `NAME=value` a line, and checks what comes of it.
pub(crate) fn check(input: &[u8]) {
    let variables: Vec<(Vec<u8>, Vec<u8>)> = input
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let equals = line.iter().position(|byte| *byte == b'=')?;
            let (name, mut value) = (line[..equals].to_owned(), line[equals + 1..].to_owned());
            if [&b"_FILE"[..], b"_DIRECTORY"].iter().any(|end| name.ends_with(end)) {
                // Nothing outside of the folder of the fuzzer is read, /dev/zero least of all.
                value.retain(|byte| *byte != b'/');
            }
            Some((name, value))
        })
        .collect();
    let shown = match read(&variables) {
        Ok(config) => {
            let shown = config.effective();
            check_effective(&shown);
            shown
        }
        Err(error) => {
            let names: Vec<_> = variables.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
            for line in error.split('\n') {
                assert!(names.iter().any(|name| line.contains(&**name)), "{line:?} names no variable");
            }
            error
        }
    };
    if holds_password(&variables) {
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
}

fn read(variables: &[(Vec<u8>, Vec<u8>)]) -> Result<Config, String> {
    let variables = variables.iter().cloned();
    let variables = variables.map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)));
    Config::from_vars(variables).map_err(|error| error.to_string())
}

/// What `--check-config` prints has a line for each setting. Given back as variables, it is the
/// same again, but for what is not shown or may come from one place only.
fn check_effective(shown: &str) {
    let lines: Vec<&str> = shown.split_terminator('\n').collect();
    assert_eq!(lines.len(), SETTINGS.len(), "{shown}");
    let values = || {
        lines.iter().zip(SETTINGS).map(|(line, setting)| {
            let (name, rest) = line.split_once('=').expect("a name and a value");
            assert_eq!(name, setting.name);
            (name, rest.rsplit_once("  # ").expect("an origin").0)
        })
    };
    let given: Vec<_> = values()
        .filter(|(name, _)| !["REDIS_URL", "REDIS_URL_FILE"].contains(name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    // These need the URL beside them.
    let needs_url = values().any(|(name, value)| {
        (name.ends_with("_FILE") && !value.is_empty()) || (name, value) == ("REDIS_TLS_VERIFY", "off")
    });
    if !needs_url {
        let again = read(&given).unwrap_or_else(|error| panic!("{error}")).effective();
        for ((line, (name, value)), setting) in again.lines().zip(values()).zip(SETTINGS) {
            if !name.starts_with("REDIS_URL") {
                assert!(line.starts_with(&format!("{}={value}  # ", setting.name)), "{line}");
            }
        }
    }
}

/// Whether a Redis URL has the password where one belongs, and it stands nowhere else.
fn holds_password(variables: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let all: Vec<_> = variables
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    let times: usize = all
        .iter()
        .map(|(name, value)| name.matches(PASSWORD).count() + value.matches(PASSWORD).count())
        .sum();
    let belongs = |url: &str| {
        let Some((scheme, rest)) = url.split_once("://") else {
            return false;
        };
        let (before, after) = rest.split_once(PASSWORD).unwrap_or((rest, ""));
        match scheme {
            "redis" | "rediss" => {
                let user = before.strip_suffix(':');
                user.is_some_and(|user| {
                    !user.contains(|char: char| {
                        ":/?#@\\[]".contains(char) || char.is_whitespace() || char.is_control()
                    })
                }) && after.starts_with('@')
            }
            "unix" | "redis+unix" => {
                let ends = after.is_empty() || after.starts_with('&');
                ["?pass=", "&pass="].iter().any(|name| before.ends_with(name))
                    && ends
                    && before.contains('?')
                    && !before.contains('#')
            }
            _ => false,
        }
    };
    times == 1 && all.iter().any(|(name, value)| name == "REDIS_URL" && belongs(value))
}
