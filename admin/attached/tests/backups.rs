//! `backup-count` and `restore-count` against a folder and a real S3 server, told apart by URL alone.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use abukiks::store::Total;
use attached::backup::Backup;
use attached::backups::Backups;
use attached::variables::Variables;
use serde_json::{Value, json};
use tempfile::TempDir;

mod output;
mod s3;
#[path = "../../../tests/support.rs"]
#[allow(dead_code, reason = "the servers of the service's own tests")]
mod support;

use output::said;
use s3::{S3, SECRET};
use support::{Process, Redis, Service, SetAtEnd, cargo, eventually, program};

/// A store of backups: how it is named, and where its objects of this counter lie as files.
struct Store {
    settings: Vec<(String, String)>,
    objects: PathBuf,
    _folder: Option<TempDir>,
    server: Option<S3>,
}

impl Store {
    fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = vec![("BACKUP_URL".to_owned(), format!("file://{}", folder.path().display()))];
        Self { settings, objects: folder.path().join("visitorCount"), _folder: Some(folder), server: None }
    }

    fn s3() -> Self {
        let server = S3::start();
        let objects = server.folder.path().join("bucket/a/prefix/visitorCount");
        Self { settings: server.settings(), objects, _folder: None, server: Some(server) }
    }

    fn run(&self, task: &str, redis: &Redis, arguments: &[&str]) -> Output {
        run(task, redis, &self.settings, &[], arguments)
    }

    /// The backups, the oldest first.
    fn backups(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.objects) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files
    }
}

/// Runs a task with `settings`, over which `others` go.
fn run(
    task: &str,
    redis: &Redis,
    settings: &[(String, String)],
    others: &[(&str, &str)],
    arguments: &[&str],
) -> Output {
    let mut command = program(task, &[("REDIS_URL", &redis.url())]);
    command.envs(settings.iter().cloned()).envs(others.iter().copied()).args(arguments).output().unwrap()
}

/// What a task that failed with this status has printed, without the secret.
fn complaint(output: &Output, status: i32) -> String {
    output::complaint(output, status, SECRET)
}

fn epoch(redis: &Redis) -> i64 {
    redis.run::<Option<i64>>(&["GET", "{visitorCount}:epoch"]).unwrap_or(0)
}

/// A program of the service, which another workspace builds.
fn of_the_service(name: &str, redis: &Redis) -> Command {
    let built = cargo()
        .args(["build", "--locked", "--bin", name, "--message-format=json", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let messages = String::from_utf8(built.stdout).unwrap();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    let mut command = Command::new(program.expect("cargo builds it"));
    command.env_clear().stdin(Stdio::null()).env("REDIS_URL", redis.url());
    command
}

fn service(redis: &Redis, fence: &str) -> Service {
    let mut command = of_the_service("abukiks", redis);
    command.envs([("PORT", "0"), ("LOG_FORMAT", "json"), ("COUNTER_FENCE", fence)]);
    Service::from_command(command)
}

#[test]
fn a_folder_and_an_s3_server_are_told_apart_by_their_url_alone() {
    for store in [Store::folder(), Store::s3()] {
        let redis = Redis::start();
        assert!(said(&store.run("backup-count", &redis, &[])).contains("nothing is backed up"));
        assert!(complaint(&store.run("restore-count", &redis, &[]), 65).contains("no whole backup in"));

        for count in ["41", "42", "48213"] {
            redis.run::<()>(&["SET", "visitorCount", count]);
            let output = run("backup-count", &redis, &store.settings, &[("BACKUP_KEEP", "2")], &["--json"]);
            let backup: Value = serde_json::from_str(&said(&output)).unwrap();
            assert_eq!(backup["count"].to_string(), count);
            assert_eq!(backup["removed"], i32::from(count == "48213"));
            let url = backup["url"].as_str().unwrap();
            assert!(url.starts_with(&store.settings[0].1), "{url}");
        }
        let backups = store.backups();
        assert_eq!(backups.len(), 2);
        let newest: Value = serde_json::from_slice(&fs::read(&backups[1]).unwrap()).unwrap();
        assert_eq!(newest["count"], 48213);
        assert_eq!(newest["epoch"], 0);
        assert_eq!(newest["key"], "visitorCount");
        assert!(newest["release"].as_str().unwrap().starts_with("0."));
        assert!(newest["time"].as_str().unwrap().ends_with('Z'));
        assert!(newest["checksum"].as_str().unwrap().starts_with("sha256:"));

        redis.run::<()>(&["SET", "visitorCount", "7"]);
        let dry = said(&store.run("restore-count", &redis, &["--dry-run"]));
        assert!(dry.ends_with("\nthe count was 7 and would become 48213"), "{dry}");
        assert_eq!((redis.count(), epoch(&redis)), (7, 0));
        let restored = said(&store.run("restore-count", &redis, &["--json"]));
        let restored: Value = serde_json::from_str(&restored).unwrap();
        assert_eq!((&restored["old"], &restored["new"]), (&json!(7), &json!(48213)));
        assert_eq!(restored["backups"].as_array().unwrap().len(), 2);
        assert_eq!(redis.count(), 48213);
        assert!(epoch(&redis) > 0);
        let again = said(&store.run("restore-count", &redis, &[]));
        assert!(again.ends_with("\nthe count is 48213 already"), "{again}");
    }
}

#[test]
fn a_count_is_lowered_only_by_down() {
    let (store, redis) = (Store::folder(), Redis::start());
    // Too great for the numbers of Lua to tell from the next one.
    for (low, high) in [("-12", "-3"), ("-1", "2"), ("9", "10"), ("9007199254740992", "9007199254740993")] {
        redis.run::<()>(&["SET", "visitorCount", low]);
        // A reset has been meant, whatever the count was before.
        redis.run::<()>(&["INCR", "{visitorCount}:epoch"]);
        said(&store.run("backup-count", &redis, &[]));
        redis.run::<()>(&["SET", "visitorCount", high]);
        for dry in [&["--dry-run"][..], &[]] {
            let kept = complaint(&store.run("restore-count", &redis, dry), 65);
            assert!(kept.contains(&format!("the count is {high}, not below the {low} of")), "{kept}");
        }
        assert_eq!(redis.count().to_string(), high);
        let lowered = said(&store.run("restore-count", &redis, &["--down"]));
        assert!(lowered.ends_with(&format!("the count was {high} and is now {low}")), "{lowered}");

        redis.run::<()>(&["SET", "visitorCount", high]);
        said(&store.run("backup-count", &redis, &[]));
        redis.run::<()>(&["SET", "visitorCount", low]);
        let raised = said(&store.run("restore-count", &redis, &[]));
        assert!(raised.ends_with(&format!("the count was {low} and is now {high}")), "{raised}");
    }
    redis.run::<()>(&["SET", "visitorCount", "many"]);
    let kept = complaint(&store.run("restore-count", &redis, &[]), 65);
    assert!(kept.contains("which is not an integer"), "{kept}");
    said(&store.run("restore-count", &redis, &["--down"]));
    assert_eq!(redis.count(), 9_007_199_254_740_993);
}

#[test]
fn a_damaged_newest_backup_is_skipped_with_a_sentence() {
    for store in [Store::folder(), Store::s3()] {
        let redis = Redis::start();
        for count in ["41", "42"] {
            redis.run::<()>(&["SET", "visitorCount", count]);
            said(&store.run("backup-count", &redis, &[]));
        }
        redis.run::<()>(&["SET", "visitorCount", "1"]);
        let newest = store.backups().pop().unwrap();
        let whole = fs::read_to_string(&newest).unwrap();
        for (content, why) in [
            (whole.replace("42", "43"), "is skipped: its checksum is wrong"),
            (whole[..whole.len() / 2].to_owned(), "is skipped: it is no whole backup (EOF"),
            (String::new(), "is skipped: it is no whole backup (EOF"),
            (" ".repeat(1 << 20), "is skipped: it is larger than a backup"),
        ] {
            fs::write(&newest, content).unwrap();
            let shown = said(&store.run("restore-count", &redis, &["--dry-run"]));
            assert!(shown.contains(why) && shown.ends_with("would become 41"), "{shown}");
        }
        fs::write(&newest, whole).unwrap();
        assert!(said(&store.run("restore-count", &redis, &[])).ends_with("is now 42"));
    }
}

#[test]
fn a_store_that_refuses_is_away_or_slow_is_a_sentence_and_then_it_is_back() {
    let redis = Redis::start();
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let mut s3 = S3::start();
    let settings = s3.settings();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let slow = format!("http://{}", silent.local_addr().unwrap());
    let tasks = ["backup-count", "restore-count"];
    let refused = |others: &[(&str, &str)], why: &str| {
        for task in tasks {
            let said = complaint(&run(task, &redis, &settings, others, &[]), 69);
            assert!(said.contains("BACKUP_URL") && said.contains(why), "{said}");
            assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        }
    };
    refused(&[("AWS_SECRET_ACCESS_KEY", "wrong")], "SignatureDoesNotMatch");
    refused(&[("AWS_ACCESS_KEY_ID", "other")], "NotSignedUp");
    refused(&[("BACKUP_URL", "s3://missing/a")], "NoSuchBucket");
    let no_key = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    let nowhere = ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    refused(&[&no_key[..], &[nowhere]].concat(), "(AWS_ACCESS_KEY_ID is not set: credentials of");
    refused(&[("AWS_ENDPOINT_URL", &slow), ("AWS_TIMEOUT", "200ms")], "timed out");
    s3.stop();
    refused(&[], "Connection refused");
    s3.resume();
    for task in tasks {
        said(&run(task, &redis, &settings, &[], &[]));
    }
}

#[test]
fn a_certificate_is_trusted_by_aws_ca_bundle() {
    let s3 = S3::start_with_tls();
    let redis = Redis::start();
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let backup = |others: &[(&str, &str)]| run("backup-count", &redis, &s3.settings(), others, &[]);
    let refused = complaint(&backup(&[]), 69);
    assert!(refused.contains("certificate"), "{refused}");
    said(&backup(&[("AWS_CA_BUNDLE", s3.authority().to_str().unwrap())]));
}

#[test]
fn a_wrong_setting_is_named_and_no_secret_is_shown() {
    let (redis, store) = (Redis::start(), Store::folder());
    let folder = store.settings[0].1.clone();
    let missing = format!("{folder}/missing");
    for task in ["backup-count", "restore-count"] {
        for (settings, status, why) in [
            (&[][..], 78, "BACKUP_URL is not set; it takes s3://"),
            (&[("BACKUP_URL", "nonsense")], 78, "BACKUP_URL is no URL"),
            (&[("BACKUP_URL", "s3:///prefix")], 78, "BACKUP_URL is s3:///prefix; it takes"),
            (&[("BACKUP_URL", "ftp://host/")], 78, "BACKUP_URL is ftp://host/; it takes"),
            (&[("BACKUP_URL", "s3://key:verySecret@bucket/")], 78, "BACKUP_URL holds more than the name"),
            (&[("BACKUP_URL", "s3://bucket/?key=verySecret")], 78, "BACKUP_URL holds more than the name"),
            (&[("BACKUP_URL", &*missing)], 69, "the folder cannot be used"),
            (&[("BACKUP_URL", &*folder), ("BACKUP_KEEP", "0")], 78, "BACKUP_KEEP takes"),
            (&[("BACKUP_URL", "s3://bucket"), ("AWS_CA_BUNDLE", "/missing")], 78, "AWS_CA_BUNDLE /missing:"),
        ] {
            let said = complaint(&run(task, &redis, &[], settings, &[]), status);
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(store.run(task, &redis, &["--nonsense"]).status.code(), Some(64));
        let away = run(task, &redis, &store.settings, &[("REDIS_URL", "unix:///nowhere")], &[]);
        assert!(complaint(&away, 69).contains("Redis is unreachable"));
        redis.run::<()>(&["RPUSH", "visitorCount", "a list"]);
        if task == "backup-count" {
            assert!(complaint(&store.run(task, &redis, &[]), 65).contains("holds a list"));
        }
        redis.run::<()>(&["DEL", "visitorCount"]);
    }
}

#[test]
fn secrets_may_come_as_a_systemd_credential() {
    let (redis, s3) = (Redis::start(), S3::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let credentials = tempfile::tempdir().unwrap();
    let lines = format!("# of the store\nAWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=\"{SECRET}\"\n");
    fs::write(credentials.path().join("backup-env"), lines).unwrap();
    let mut settings = s3.settings();
    settings.retain(|(name, _)| !name.contains("KEY"));
    let folder = credentials.path().to_str().unwrap();
    said(&run("backup-count", &redis, &settings, &[("CREDENTIALS_DIRECTORY", folder)], &[]));
}

/// docs/redis.md, "Access".
#[test]
fn a_user_of_redis_who_may_reset_the_count_may_back_it_up_and_restore_it() {
    let (store, redis) = (Store::folder(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/redis.md")).unwrap();
    let rule = manual.lines().find_map(|line| line.strip_prefix("reset-count ")).unwrap();
    let words: Vec<_> =
        ["ACL", "SETUSER", "admin", "on", "nopass"].into_iter().chain(rule.split_whitespace()).collect();
    redis.run::<()>(&words);
    let url = format!("{}?user=admin&pass=any", redis.url());
    for task in ["backup-count", "restore-count"] {
        redis.run::<()>(&["INCR", "visitorCount"]);
        redis.run::<()>(&["INCRBY", "visitorCount", if task == "restore-count" { "-9" } else { "0" }]);
        said(&run(task, &redis, &store.settings, &[("REDIS_URL", &url)], &[]));
    }
    assert_eq!(redis.count(), 43);
}

#[test]
fn a_clock_that_is_behind_the_newest_backup_is_a_sentence() {
    let (store, redis) = (Store::folder(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    said(&store.run("backup-count", &redis, &[]));
    let backup = store.backups().pop().unwrap();
    fs::rename(&backup, backup.with_file_name("29991231T235959.000000Z.json")).unwrap();
    let refused = complaint(&store.run("backup-count", &redis, &[]), 71);
    assert!(refused.contains("the clock of this machine says") && refused.contains("29991231T"), "{refused}");
    assert_eq!(store.backups().len(), 1);
}

#[test]
fn a_clock_that_the_store_does_not_trust_is_a_sentence() {
    let (redis, s3) = (Redis::start(), S3::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let library = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
    let library = String::from_utf8(library.stdout).unwrap();
    for task in ["backup-count", "restore-count"] {
        let clock =
            [("LD_PRELOAD", library.trim()), ("FAKETIME", "-1d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        let said = complaint(&run(task, &redis, &s3.settings(), &clock, &[]), 69);
        assert!(said.contains("BACKUP_URL") && said.contains("RequestTimeTooSkewed: "), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

#[test]
fn counters_in_one_place_leave_each_others_backups_alone() {
    let (store, redis) = (Store::folder(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    redis.run::<()>(&["SET", "a/b", "7"]);
    fs::create_dir_all(&store.objects).unwrap();
    fs::write(store.objects.join("note.txt"), "mine").unwrap();
    for key in ["visitorCount", "a/b"] {
        let others = [("COUNTER_KEY", key), ("BACKUP_KEEP", "1")];
        said(&run("backup-count", &redis, &store.settings, &others, &[]));
    }
    redis.run::<()>(&["DEL", "a/b"]);
    let restored = said(&run("restore-count", &redis, &store.settings, &[("COUNTER_KEY", "a/b")], &[]));
    assert!(restored.ends_with("the count was nothing and is now 7"), "{restored}");
    assert_eq!(store.backups().len(), 1);
    assert!(store.objects.join("note.txt").exists());
}

#[test]
fn a_backup_is_never_written_over_but_found_again_where_the_answer_was_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for store in [Store::folder(), Store::s3()] {
        let settings = store.settings.iter().map(|(name, value)| (name.into(), value.into()));
        let backups = Backups::new(&Variables::new(settings).unwrap(), "visitorCount").unwrap();
        let now = SystemTime::now();
        let [first, other] =
            [41, 42].map(|count| Backup::new(Total { count, epoch: 0 }, "visitorCount", now));
        runtime.block_on(async {
            backups.write(&first).await.unwrap();
            backups.write(&first).await.unwrap();
            assert!(backups.write(&other).await.is_err());
            assert_eq!(backups.read(&other.name()).await.unwrap(), Ok(first));
        });
    }
}

#[test]
fn a_backup_that_is_killed_anywhere_is_whole_or_absent() {
    let (store, redis) = (Store::folder(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    fs::create_dir_all(&store.objects).unwrap();
    let entries = || fs::read_dir(&store.objects).unwrap().count();
    for _ in 0..20 {
        let before = entries();
        let mut command = program("backup-count", &[("REDIS_URL", &redis.url())]);
        let mut process = Process::spawn(command.envs(store.settings.iter().cloned()).stdout(Stdio::null()));
        // As soon as it has begun to write.
        eventually("it writes", || (entries() != before || process.has_ended()).then_some(()));
        drop(process);
        assert_all_whole(&store, &redis);
    }
}

/// Hands `bytes` of the first connection on to `server`, breaks it, and then refuses all others.
fn broken_after(bytes: u64, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        drop(listener);
        let server = TcpStream::connect(server).unwrap();
        let (mut to_client, mut from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut from_server, &mut to_client));
        let _ = io::copy(&mut (&client).take(bytes), &mut &server);
        for stream in [client, server] {
            // The other side may have closed it already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    address
}

#[test]
fn a_backup_whose_connection_breaks_anywhere_is_whole_or_absent() {
    let (store, redis) = (Store::s3(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let server = store.server.as_ref().unwrap().address;
    let mut broken = 0;
    for bytes in (1..).step_by(200) {
        let endpoint = format!("http://{}", broken_after(bytes, server));
        let others = [("AWS_ENDPOINT_URL", &*endpoint)];
        let output = run("backup-count", &redis, &store.settings, &others, &[]);
        assert_all_whole(&store, &redis);
        if output.status.success() {
            break;
        }
        complaint(&output, 69);
        broken += 1;
    }
    assert!(broken > 3, "{broken}");
}

fn assert_all_whole(store: &Store, redis: &Redis) {
    let shown = store.run("restore-count", redis, &["--dry-run"]);
    let said = String::from_utf8([shown.stdout, shown.stderr].concat()).unwrap();
    assert!(!said.contains("skipped"), "{said}");
    assert_eq!(shown.status.success(), !store.backups().is_empty(), "{said}");
}

/// docs/operations.md, "Losing Redis wholly".
#[test]
fn redis_is_lost_wholly_and_the_count_comes_back_while_instances_count() {
    for store in [Store::folder(), Store::s3()] {
        let mut redis = Redis::start();
        redis.run::<()>(&["SET", "visitorCount", "48200"]);
        let mut fenced = service(&redis, "on");
        let mut other = service(&redis, "off");
        assert_eq!(fenced.get("/").number(), 48201);
        said(&store.run("backup-count", &redis, &[]));
        assert_eq!(fenced.get("/").number(), 48202);
        assert_eq!(other.get("/").number(), 48203);

        // Nothing of it is on disk.
        redis.kill();
        redis.resume();
        eventually("the fence is up", || (fenced.get("/").status == 503).then_some(()));
        fenced.log_line("the count went back without a reset");
        // The timer goes on, and spoils nothing.
        let refused = complaint(&store.run("backup-count", &redis, &[]), 65);
        assert!(refused.contains("Redis has lost data"), "{refused}");

        let restored = said(&store.run("restore-count", &redis, &[]));
        assert!(restored.ends_with("is now 48201"), "{restored}");
        assert_eq!(fenced.get("/").number(), 48202);
        fenced.log_line("the count was reset");
        // The highest number that the logs show.
        let reset = of_the_service("reset-count", &redis).args(["--to", "48203"]).output().unwrap();
        assert_eq!(said(&reset), "the count was 48202 and is now 48203");
        assert_eq!(fenced.get("/").number(), 48204);
        assert_eq!(other.get("/").number(), 48205);
        said(&store.run("backup-count", &redis, &[]));
        assert!(fenced.stop().success() && other.stop().success());
    }
}

#[test]
fn a_restore_while_instances_count_separates_the_visits_before_from_those_after() {
    let (store, redis) = (Store::folder(), Redis::start());
    redis.run::<()>(&["SET", "visitorCount", "1000000"]);
    said(&store.run("backup-count", &redis, &[]));
    redis.run::<()>(&["DEL", "visitorCount"]);
    let services = [service(&redis, "on"), service(&redis, "off")];
    let (stop, answers) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let more = || {
        let before = answers.load(Relaxed);
        eventually("visits are counted", || (answers.load(Relaxed) > before + 100).then_some(()));
    };
    let (old, mut numbers) = std::thread::scope(|scope| {
        let _also_on_failure = SetAtEnd(stop);
        let visit = |service: &Service| {
            let mut client = service.connect();
            scope.spawn(move || {
                let mut numbers = Vec::new();
                while !stop.load(Relaxed) {
                    numbers.push(client.get("/").number());
                    answers.fetch_add(1, Relaxed);
                }
                numbers
            })
        };
        let visitors = services.each_ref().map(visit);
        more();
        let restored = said(&store.run("restore-count", &redis, &["--json"]));
        more();
        stop.store(true, Relaxed);
        let restored: Value = serde_json::from_str(&restored).unwrap();
        let numbers: Vec<i64> = visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect();
        (restored["old"].as_i64().unwrap(), numbers)
    });
    numbers.sort_unstable();
    let expected: Vec<i64> = (1..=old).chain(1_000_001..=redis.count()).collect();
    assert!(numbers == expected, "{old} {}", redis.count());
}

#[test]
fn the_epoch_is_later_than_that_of_the_backup_also_where_the_clock_of_redis_is_behind() {
    let (store, redis) = (Store::folder(), Redis::start());
    let ahead = 4_000_000_000_000_000_i64;
    redis.run::<()>(&["MSET", "visitorCount", "42", "{visitorCount}:epoch", &ahead.to_string()]);
    said(&store.run("backup-count", &redis, &[]));
    redis.run::<()>(&["FLUSHALL"]);
    said(&store.run("restore-count", &redis, &[]));
    assert_eq!(epoch(&redis), ahead + 1);
}
