//! Settings come from the environment, and a wrong one is told before anything starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Output;

use abukiks::config::{Config, SETTINGS};

use crate::support::{Redis, Service, program};

/// For each setting: good values as they are shown, and bad ones.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

/// Values that are shown as they were given.
macro_rules! same {
    ($($value:literal),*) => { &[$(($value, $value)),*] };
}

const PERIODS: &[(&str, &str)] = &[("1ms", "1ms"), ("10", "10s"), ("90s", "1m 30s"), ("24h", "1day")];
const NO_PERIODS: &[&str] = &["0", "0s", "-1s", "1.5", "24h 1ms", "soon", "1us", "1s ago"];
const COUNTS: &[(&str, &str)] = same!("1", "4294967295");
const NO_COUNTS: &[&str] = &["0", "-1", "+1", "1.0", "4294967296", "many", "1 ", "0x10"];

const CASES: &[Case] = &[
    (
        "HOST",
        same!("127.0.0.1", "0.0.0.0", "::", "::1", "localhost"),
        &["example.org", "1.2.3", "[::1]", "127.0.0.1 "],
    ),
    ("PORT", same!("0", "5000", "65535"), &["65536", "-1", "+80", "http", "80 ", "8e1"]),
    ("ADMIN_PORT", same!("off", "0", "9000", "/run/abukiks.sock"), &["65536", "-1", "abukiks.sock", "/a\nb"]),
    (
        "REDIS_URL",
        &[
            ("redis://db", "redis://db"),
            ("redis://db:7000/3", "redis://db:7000/3"),
            ("redis://user:secret@db/", "redis://user:***@db/"),
            ("redis://:secret@db/?protocol=resp3", "redis://:***@db/?protocol=resp3"),
            ("redis://secret@db/", "redis://***@db/"),
            ("redis://:a%24b@db/", "redis://:***@db/"),
            ("redis://db/?db=3&family=6", "redis://db/?db=3&family=6"),
            ("rediss://db", "rediss://db"),
            ("valkey://:secret@db/", "valkey://:***@db/"),
            ("valkeys://db", "valkeys://db"),
            ("redis+socket:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?db=2"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+unix:///r.sock?db=1&user=u&pass=secret", "redis+unix:///r.sock?db=1&user=u&pass=***"),
            ("redis+sentinel://a,b:7000,[::1]/visits", "redis+sentinel://a,b:7000,[::1]/visits"),
            ("redis+sentinel://user:secret@a:26379/visits/3", "redis+sentinel://user:***@a:26379/visits/3"),
            (
                "rediss+sentinel://:secret@a,b/my-master.1?protocol=resp3&sentinel_user=u&sentinel_pass=secret",
                "rediss+sentinel://:***@a,b/my-master.1?protocol=resp3&sentinel_user=u&sentinel_pass=***",
            ),
        ],
        &[
            "db",
            "http://db/",
            "redis://",
            "redis://db:secret/",
            "redis://db/secret",
            "://secret",
            // What only a path takes.
            "redis://db/?user=u&pass=secret",
            "redis://db/?password=secret",
            // Not as it was meant.
            "redis://:${SECRET_secret}@db/",
            "\"redis://:secret@db/\"",
            "\u{feff}redis://:secret@db/",
            "redis://:secret@db/?socket_timeout=5",
            // A character that ends the host before its time.
            "redis://:secret#x@db/",
            "redis://u:12?secret@db/",
            "redis://u:12#secret@db/",
            "redis://u:12/secret@db/",
            // No name of a master, or a strange one.
            "redis+sentinel://a,b",
            "redis+sentinel://a,b/",
            "redis+sentinel://:secret@a,b//3",
            "redis+sentinel://a,b/my%20master",
            "redis+sentinel://a,b/?sentinelMasterId=visits",
            // A host that is none, in any place.
            "redis+sentinel:///visits",
            "redis+sentinel://a,,b/visits",
            "redis+sentinel://a,b:secret/visits",
            "redis+sentinel://a:1,b c/visits",
            // A login for each.
            "redis+sentinel://:secret@a,:secret@b/visits",
            "redis+sentinel://:12/secret@a/visits",
            "redis+sentinel://:12?secret@a/visits",
            "redis+sentinel://a/visits/secret",
            "redis+sentinel://a/visits?password=secret",
            // At the second host.
            "redis+sentinel://a,b?sentinel_pass=secret/visits",
            "redis+sentinel://a,b#secret/visits",
            "redis+sentinel://a,:secret@b/visits",
            // Of no use.
            "unix://user:secret@localhost/run/redis.sock",
            "redis://db/-1",
            "redis://db:0/",
            // As others write it.
            "redis-sentinel://:secret@a,b/0#visits",
            "unix+sentinel://a/visits",
        ],
    ),
    ("REDIS_URL_FILE", &[], &["/nowhere/redis-url", "/a\nb", "redis://:secret@db/"]),
    ("REDIS_CA_FILE", &[], &["/nowhere/ca.pem", "/a\nb"]),
    ("REDIS_CERT_FILE", &[], &["/nowhere/cert.pem", "/a\nb"]),
    ("REDIS_KEY_FILE", &[], &["/nowhere/key.pem", "/a\nb", "-----BEGIN PRIVATE KEY-----secret"]),
    ("REDIS_TLS_VERIFY", same!("on", "off"), &["no", "none", "0", "OFF"]),
    ("REDIS_TIMEOUT", &[("1ms", "1ms"), ("2", "2s"), ("60s", "1m")], &["0", "61s", "1h", "soon", "-1"]),
    ("COUNTER_KEY", same!("visits", "42", "a key {tag} \"quoted\""), &["a\nb", "\u{1b}[31m"]),
    (
        "SESSION_LIFETIME",
        &[("off", "off"), ("60", "1m"), ("7days", "7days")],
        &["0", "999ms", "1s 1ms", "401days", "never"],
    ),
    ("COUNTER_FENCE", same!("on", "off"), &["yes", "true", "1", "ON", "on "]),
    ("MIN_REPLICAS_ACK", same!("0", "1", "4294967295"), &["-1", "all", "4294967296"]),
    ("MAX_WAITING_VISITS", COUNTS, NO_COUNTS),
    ("MAX_CONNECTIONS", same!("auto", "1", "4294967295"), &["0", "-1", "AUTO", "many"]),
    ("MAX_HEADER_BYTES", same!("256", "16384"), &["255", "0", "-1", "16k"]),
    ("MAX_HEADERS", same!("1", "10000"), &["0", "10001", "-1", "many"]),
    ("MAX_BODY_BYTES", same!("0", "65536"), &["-1", "64k"]),
    ("HEADER_TIMEOUT", PERIODS, NO_PERIODS),
    ("KEEP_ALIVE_TIMEOUT", PERIODS, NO_PERIODS),
    ("DRAIN_LAME_DUCK", &[("0", "0s"), ("0s", "0s"), ("30s", "30s")], &["31s", "-1", "soon", "1us", "25h"]),
    ("DRAIN_IDLE", PERIODS, NO_PERIODS),
    ("DRAIN_TIMEOUT", PERIODS_OF_A_DRAIN, NO_PERIODS),
    (
        "TRUSTED_PROXIES",
        &[("none", "none"), ("127.0.0.1, fd00::/8,unix", "127.0.0.1/32,fd00::/8,unix")],
        &["all", "10.0.0.0/33", "example.org", "127.0.0.1,", "none,unix"],
    ),
    (
        "FORWARDED_HEADER",
        &[("X-Forwarded-For", "x-forwarded-for"), ("Forwarded", "forwarded"), ("X-Real-IP", "x-real-ip")],
        &["X Forwarded", "X-Forwarded-For:"],
    ),
    ("COUNT_MAX_AGE", &[("0", "0s"), ("1m", "1m")], &["off", "-1", "25h"]),
    ("BADGE_LABEL", same!("visitors", "a <b>"), &["a\tb", "12345678901234567890123456789012345678901"]),
    ("BADGE_COLOR", same!("#abc", "#ABCDEF"), &["red", "#abcd", "abc", "#ggg", "#123456789"]),
    (
        "CORS_ORIGINS",
        &[
            ("none", "none"),
            ("*", "*"),
            ("https://a.test, http://b.test:81", "https://a.test,http://b.test:81"),
        ],
        &["https://a.test/", "a.test", "https://A.test", "https://a.test,", "https://a.test:443", "null"],
    ),
    ("ROBOTS_DISALLOW", same!("on", "off"), &["yes", "/"]),
    ("IDLE_EXIT", &[("off", "off"), ("10", "10s")], &["0", "OFF", "never", "25h"]),
    ("LOG_FORMAT", same!("auto", "journald", "json", "text"), &["JSON", "xml", "json "]),
    ("LOG_LEVEL", same!("error", "warn", "info", "debug", "trace"), &["warning", "INFO", "off", "3"]),
    ("ACCESS_LOG", same!("on", "off", "full"), &["yes", "0"]),
    ("RELEASE", same!("auto", "v12", "a release"), &["a\nb", "\u{7f}"]),
];

const PERIODS_OF_A_DRAIN: &[(&str, &str)] = &[("250ms", "250ms"), ("10", "10s"), ("24h", "1day")];

fn vars(settings: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    settings.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn config(settings: &[(&str, &str)]) -> Result<Config, String> {
    Config::from_vars(vars(settings)).map_err(|error| error.to_string())
}

/// The lines that settings are refused with.
fn refused(settings: &[(&str, &str)]) -> Vec<String> {
    let error = config(settings).expect_err("a wrong setting is refused");
    error.lines().map(str::to_owned).collect()
}

/// `NAME=value` and origin of every effective setting.
fn effective(config: &Config) -> BTreeMap<String, (String, String)> {
    let text = config.effective();
    text.lines()
        .map(|line| {
            let (name, rest) = line.split_once('=').unwrap();
            let (value, origin) = rest.rsplit_once("  # ").unwrap();
            (name.to_owned(), (value.to_owned(), origin.to_owned()))
        })
        .collect()
}

#[test]
fn every_setting_has_its_cases_here() {
    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    let cases: Vec<_> = CASES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(known, cases);
}

#[test]
fn every_good_value_is_taken() {
    for (name, good, _) in CASES {
        for (given, shown) in *good {
            // A certificate is only shown by a server that speaks TLS.
            let company = (*name == "REDIS_TLS_VERIFY").then_some(("REDIS_URL", "rediss://db/"));
            let settings: Vec<_> = company.into_iter().chain([(*name, *given)]).collect();
            let config = config(&settings).unwrap_or_else(|error| panic!("{error}"));
            let (value, origin) = &effective(&config)[*name];
            assert_eq!((&**value, &**origin), (*shown, "environment"), "{name}={given}");
        }
    }
}

#[test]
fn every_bad_value_is_refused_by_one_line_that_names_it_and_what_is_accepted() {
    for (name, _, bad) in CASES {
        for value in *bad {
            let mut settings = vec![(*name, *value)];
            // These need company to be looked at.
            match *name {
                "REDIS_CERT_FILE" => settings.push(("REDIS_KEY_FILE", "/dev/null")),
                "REDIS_KEY_FILE" => settings.push(("REDIS_CERT_FILE", "/dev/null")),
                _ => {}
            }
            if name.starts_with("REDIS_") && name.ends_with("_FILE") && *name != "REDIS_URL_FILE" {
                settings.push(("REDIS_URL", "rediss://db/"));
            }
            let said = refused(&settings);
            assert_eq!(said.len(), 1, "{name}={value:?}: {said:?}");
            assert!(said[0].contains(name), "{said:?}");
            assert!(said[0].contains("take"), "{said:?}");
            assert!(!said[0].contains("secret"), "{said:?}");
            assert!(!said[0].contains(char::is_control), "{said:?}");
            let no_path = name.ends_with("_FILE") && !value.starts_with("/nowhere");
            if *name == "REDIS_URL" || no_path {
                assert!(said[0].contains("withheld"), "{said:?}");
            } else {
                assert!(said[0].contains(&value.escape_debug().to_string()), "{said:?}");
            }
        }
    }
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let empty: Vec<_> = SETTINGS.iter().map(|setting| (setting.name, "")).collect();
    let (with, without) = (config(&empty).unwrap(), config(&[]).unwrap());
    assert_eq!(with.effective(), without.effective());
    for setting in SETTINGS {
        let (value, origin) = &effective(&with)[setting.name];
        assert_eq!(origin, "default");
        let given = config(&[(setting.name, setting.default)]).unwrap();
        assert_eq!(&effective(&given)[setting.name].0, value, "the default, as it is printed");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let mut given = vars(&[
        ("PORT", "many"),
        ("LOG_LEVEL", "loud"),
        ("REDIS_URL", "redis://db/"),
        ("REDIS_URL_FILE", "/nowhere"),
        ("DRAIN_LAME_DUCK", "1m"),
        ("REDIS_TIMEOUT", "2m"),
        ("REDIS_CERT_FILE", "/nowhere/cert.pem"),
        // Wrong by itself, so that nothing is said of what it would contradict.
        ("HEADER_TIMEOUT", "0"),
    ]);
    given.push(("RELEASE".into(), OsString::from_vec(vec![0xff])));
    let said = Config::from_vars(given).unwrap_err().to_string();
    let mut told: Vec<_> = said.lines().map(|line| line.split(['=', ' ']).next().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "DRAIN_LAME_DUCK",
            "HEADER_TIMEOUT",
            "LOG_LEVEL",
            "PORT",
            "REDIS_CERT_FILE",
            "REDIS_TIMEOUT",
            "RELEASE",
            "the"
        ],
        "{said}"
    );
    assert!(said.contains("given more than once, by REDIS_URL and by REDIS_URL_FILE /nowhere"), "{said}");
}

#[test]
fn what_contradicts_is_refused() {
    let said = refused(&[("DRAIN_LAME_DUCK", "10s"), ("DRAIN_TIMEOUT", "5s")]);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("DRAIN_LAME_DUCK=10s is longer than DRAIN_TIMEOUT=5s"), "{said:?}");
    for file in ["REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"] {
        let said = refused(&[(file, "/dev/null"), ("REDIS_URL", "redis://:secret@db/")]);
        assert!(said[0].contains("takes effect with rediss:// only"), "{said:?}");
        assert!(!said[0].contains("secret"), "{said:?}");
    }
    let said = refused(&[("REDIS_TLS_VERIFY", "off")]);
    assert!(said[0].contains("REDIS_TLS_VERIFY=off is set, but the Redis URL"), "{said:?}");
    let said = refused(&[("REDIS_URL", "rediss://db"), ("REDIS_CERT_FILE", "/dev/null")]);
    assert!(said[0].contains("REDIS_CERT_FILE and REDIS_KEY_FILE belong together"), "{said:?}");
    // Of two that contradict, one is wrong by itself: only that is said.
    let said = refused(&[("DRAIN_LAME_DUCK", "1m"), ("DRAIN_TIMEOUT", "x")]);
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn a_setting_that_is_not_text_is_refused() {
    for setting in SETTINGS {
        let value = OsString::from_vec(b"\xff\xfe".to_vec());
        let said = Config::from_vars([(setting.name.into(), value)]).unwrap_err().to_string();
        assert_eq!(said, format!("{0} is not UTF-8; {0} takes text", setting.name));
    }
    // What is no setting is ignored.
    let stranger = (OsString::from("OTHER"), OsString::from_vec(vec![0xff]));
    assert!(Config::from_vars([stranger]).is_ok());
}

/// URLs as they are written, and the password that they mean.
const PASSWORDS: [(&str, &str); 9] = [
    ("redis://:12345@db/", "12345"),
    ("redis://:007@db/", "007"),
    ("redis://:true@db/", "true"),
    ("redis://:a%20b%22c%27d@db/", "a b\"c'd"),
    ("redis://:%25%2F%3F%23%40@db/", "%/?#@"),
    ("redis://:a b@db/", "a b"),
    ("unix:///r.sock?pass=12345", "12345"),
    ("unix:///r.sock?pass=a%20%26b%25", "a &b%"),
    ("redis+sentinel://:a%40b%2C@s,t/master", "a@b,"),
];

#[test]
fn passwords_survive_unchanged_and_are_never_shown() {
    for (url, password) in PASSWORDS {
        let config = config(&[("REDIS_URL", url)]).unwrap();
        let settings = config.redis_url.connection.redis_settings();
        assert_eq!(settings.password(), Some(password));
        for shown in [config.effective(), format!("{config:?}"), config.redis_url.to_string()] {
            assert!(!shown.contains(&format!("{password}@")), "{shown}");
            assert!(!shown.contains(&format!("pass={password}")), "{shown}");
            assert!(!shown.contains(&format!("{password:?}")), "{shown}");
        }
    }
}

#[test]
fn a_password_reaches_redis_as_it_is() {
    for (password, encoded) in [("0123456789", "0123456789"), ("a b\"c'd%e#", "a%20b%22c%27d%25e%23")] {
        let redis = Redis::start_with(&["--requirepass", password]);
        let url = format!("{}?pass={encoded}", redis.url());
        let mut service = Service::start_with(&[("REDIS_URL", &url), ("LOG_LEVEL", "trace")]);
        assert_eq!(service.get("/").number(), 1);
        assert!(service.stop().success());
        let log = service.whole_log().join("\n");
        assert!(!log.contains(encoded), "{log}");
    }
}

#[test]
fn a_secret_may_come_as_a_file_or_as_a_credential() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redis-url");
    std::fs::write(&file, "redis://:12345@db/\r\nsecond line\n").unwrap();
    let (file, folder_path) = (file.display().to_string(), folder.path().display().to_string());
    for (setting, origin) in [
        (("REDIS_URL_FILE", &*file), format!("REDIS_URL_FILE {file}")),
        (
            ("CREDENTIALS_DIRECTORY", &*folder_path),
            "systemd credential $CREDENTIALS_DIRECTORY/redis-url".to_owned(),
        ),
    ] {
        let config = config(&[setting]).unwrap();
        assert_eq!(config.redis_url.connection.redis_settings().password(), Some("12345"));
        assert_eq!(effective(&config)["REDIS_URL"], ("redis://:***@db/".to_owned(), origin));
    }

    // A service may have other credentials than this one.
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().display().to_string();
    assert!(config(&[("CREDENTIALS_DIRECTORY", &elsewhere), ("REDIS_URL", "redis://db/")]).is_ok());

    let three =
        [("REDIS_URL", "redis://db/"), ("REDIS_URL_FILE", &*file), ("CREDENTIALS_DIRECTORY", &*folder_path)];
    for two in [&three[..2], &three[1..], &[three[0], three[2]], &three[..]] {
        let said = refused(two);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("given more than once"), "{said:?}");
    }

    std::fs::write(folder.path().join("redis-url"), "redis://:sec ret@:x\n").unwrap();
    let said = refused(&[("REDIS_URL_FILE", &file)]);
    assert!(said[0].contains("REDIS_URL") && said[0].contains("withheld"), "{said:?}");
    assert!(!said[0].contains("sec ret"), "{said:?}");
    std::fs::write(folder.path().join("redis-url"), "").unwrap();
    let said = refused(&[("REDIS_URL_FILE", &file)]);
    assert!(said[0].contains(&format!("REDIS_URL (from REDIS_URL_FILE {file};")), "{said:?}");
    assert!(said[0].contains("is not valid: it is empty; REDIS_URL takes redis://"), "{said:?}");
}

/// The parts themselves are beside the parser.
#[test]
fn a_wrong_url_is_refused_by_a_line_that_names_the_part() {
    for (url, part) in [
        ("localhost:6379", "its scheme is missing or unknown"),
        ("redis://:secret@/", "its host is missing"),
        ("redis://db:secret/", "its port is no number from 1 to 65535"),
        ("redis://:secret@db/x", "its database is no number"),
        ("redis://:secret@db/?timeout=1", "its parameter timeout cannot be used: set REDIS_TIMEOUT"),
        ("redis://:${REDIS_PASSWORD}@redis:6379", "a $ in it begins a variable that was not expanded"),
        ("\"redis://h/\"", "quotes stand around it"),
    ] {
        let said = refused(&[("REDIS_URL", url)]).concat();
        let begin = "REDIS_URL (from environment; its text is withheld, it may hold a password or a key) is not valid: ";
        assert!(said.starts_with(&format!("{begin}{part}")), "{said}");
        assert!(said.contains("; REDIS_URL takes redis://") && !said.contains("secret"), "{said}");
    }
}

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = program("abukiks", settings).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_wrong_setting_ends_the_process_with_78_before_anything_is_logged() {
    let (code, stdout, stderr) = run(&[("PORT", "many"), ("LOG_LEVEL", "loud")], &[]);
    assert_eq!((code, &*stdout), (Some(78), ""));
    assert_eq!(
        stderr,
        "PORT=\"many\" (from environment) is not valid; PORT takes a port number from 0 to 65535\n\
         LOG_LEVEL=\"loud\" (from environment) is not valid; LOG_LEVEL takes error, warn, info, debug or trace\n"
    );
    let same = run(&[("PORT", "many"), ("LOG_LEVEL", "loud")], &["--check-config"]);
    assert_eq!(same, (code, stdout, stderr));
}

#[test]
fn check_config_refuses_whatever_the_service_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
    let file = file.display().to_string();
    let settings = [("REDIS_URL", "rediss://db/"), ("REDIS_CA_FILE", &*file), ("PORT", "0")];
    for arguments in [&[][..], &["--check-config"]] {
        let (code, stdout, stderr) = run(&settings, arguments);
        assert_eq!((code, &*stdout), (Some(78), ""), "{stderr}");
        assert!(stderr.contains("REDIS_CA_FILE") && stderr.contains("PEM"), "{stderr}");
    }
}

#[test]
fn a_certificate_or_key_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        file.display().to_string()
    };
    let identity = rcgen::generate_simple_self_signed(["db".to_owned()]).unwrap();
    let good = write("good.pem", &identity.cert.pem());
    let key = write("key.pem", &identity.signing_key.serialize_pem());
    let other = rcgen::KeyPair::generate().unwrap();
    let other = write("other.pem", &other.serialize_pem());
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad = write("bad.pem", bad);
    for (authority, certificate, key, named) in [
        (&bad, &good, &key, "REDIS_CA_FILE="),
        (&good, &bad, &key, "REDIS_CERT_FILE="),
        (&good, &good, &other, "REDIS_KEY_FILE="),
    ] {
        let settings = [
            ("REDIS_URL", "rediss://db/"),
            ("REDIS_CA_FILE", authority),
            ("REDIS_CERT_FILE", certificate),
            ("REDIS_KEY_FILE", key),
        ];
        let (code, _, stderr) = run(&settings, &["--check-config"]);
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.starts_with(named), "{named} in {stderr}");
    }
}

#[test]
fn check_config_shows_every_setting_with_its_origin() {
    let (code, stdout, stderr) =
        run(&[("PORT", "5001"), ("REDIS_URL", "redis://user:12345@db/")], &["--check-config"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.contains("PORT=5001  # environment\n"), "{stdout}");
    assert!(stdout.contains("REDIS_URL=redis://user:***@db/  # environment\n"), "{stdout}");
    assert!(stdout.contains("REDIS_TIMEOUT=1s  # default\n"), "{stdout}");
    assert_eq!(stdout.lines().count(), SETTINGS.len(), "{stdout}");
}

#[test]
fn check_config_warns_of_connections_that_are_kept_too_short_for_proxies() {
    for (name, value, warns) in [
        ("DRAIN_IDLE", "999ms", true),
        ("DRAIN_IDLE", "1s", false),
        ("KEEP_ALIVE_TIMEOUT", "500ms", true),
        ("KEEP_ALIVE_TIMEOUT", "2s", false),
    ] {
        let (status, _, said) = run(&[(name, value)], &["--check-config"]);
        assert_eq!(status, Some(0));
        assert_eq!(said.starts_with(&format!("warning: {name}={value} is shorter than 1s")), warns, "{said}");
    }
}

#[test]
fn help_lists_every_setting_with_default_and_meaning() {
    let (code, help, stderr) = run(&[("PORT", "many")], &["--help"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    // As wide as a terminal.
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    let unwrapped = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = unwrapped(&help);
    for setting in SETTINGS {
        assert!(help.contains(&format!("\n  {}\n", setting.name)), "{}", setting.name);
        assert!(words.contains(&unwrapped(setting.meaning)), "{}", setting.name);
        assert!(words.contains(&unwrapped(&format!("Takes {}.", setting.accepts))), "{}", setting.name);
    }
}

#[test]
fn version_and_unknown_arguments() {
    let (code, stdout, _) = run(&[], &["--version"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with(concat!("abukiks ", env!("CARGO_PKG_VERSION"), " (")), "{stdout}");
    for wrong in [&["--port=1"][..], &["serve"], &["--check-config", "--check-health"], &[""]] {
        let (code, stdout, stderr) = run(&[], wrong);
        assert_eq!((code, &*stdout), (Some(64), ""), "{wrong:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    let not_text = OsString::from_vec(vec![0xff]);
    let output = program("abukiks", &[]).arg(not_text).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
