//! `mail-report` against two real mail servers, told apart by URL alone, and with many hosts.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead as _, BufReader, Cursor, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

use mail_parser::{Message, MessageParser, MimeHeaders as _};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

mod output;
#[path = "../../../tests/root_folder.rs"]
mod root_folder;
mod smtp;
#[path = "../../../tests/support.rs"]
#[allow(dead_code, reason = "the servers of the service's own tests")]
mod support;

use output::said;
use smtp::{Kind, PASSWORD, Port, Smtp, both};
use support::{Process, Redis, eventually, program};

/// What comes at the end of a mail.
const END: &[u8] = b"\r\n.\r\n";

fn counted(count: i64) -> Redis {
    let redis = Redis::start();
    set(&redis, count);
    redis
}

fn set(redis: &Redis, count: i64) {
    redis.run::<()>(&["SET", "visitorCount", &count.to_string()]);
}

/// `mail-report` to `count@example.org`, with `others` over that.
fn report(redis: &Redis, others: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = program("mail-report", &[("REDIS_URL", &redis.url())]);
    command.envs([("MAIL_FROM", "Visits <visits@example.org>"), ("MAIL_TO", "count@example.org")]);
    command.envs(others.iter().copied()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(redis: &Redis, others: &[(&str, &str)], arguments: &[&str]) -> Output {
    report(redis, others, arguments).output().unwrap()
}

/// What a process that failed with this status has printed: one line, and no secret.
fn complaint(output: &Output, status: i32) -> String {
    let said = output::complaint(output, status, PASSWORD);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

fn kept(redis: &Redis) -> Value {
    serde_json::from_str(&redis.run::<String>(&["GET", "{visitorCount}:reports"])).unwrap()
}

fn parse(mail: &[u8]) -> Message<'_> {
    MessageParser::default().parse(mail).unwrap()
}

fn text(mail: &Message) -> String {
    mail.body_text(0).unwrap().replace("\r\n", "\n")
}

/// The only mail that the server has taken.
fn only_mail(server: &Smtp) -> Vec<u8> {
    assert_eq!(server.taken(), 1);
    server.mails().pop().unwrap()
}

#[test]
fn each_server_takes_a_report_by_its_url_alone_with_and_without_tls_and_login() {
    let Some(servers) = both() else { return };
    for server in servers {
        let with_password = format!("visits:{PASSWORD}");
        let mut urls = vec![
            server.url(Port::Plain, ""),
            server.url(Port::Submission, &with_password),
            server.url(Port::Submissions, &with_password),
        ];
        // OpenSMTPD takes no password without TLS.
        if let Kind::Exim = server.kind {
            urls.push(server.url(Port::Plain, &with_password));
        }
        let authority = server.certificate();
        for (index, url) in urls.iter().enumerate() {
            let redis = counted(48213);
            let settings = [("MAIL_URL", &**url), ("MAIL_CA_FILE", authority.to_str().unwrap())];
            let sent = said(&run(&redis, &settings, &[]));
            assert_eq!(sent, "the report with the count 48213 was sent to count@example.org");
            let second = said(&run(&redis, &settings, &[]));
            assert!(second.starts_with("the report of this period was sent at 20"), "{second}");
            assert_eq!(server.taken(), index + 1, "{:?}", server.kind);
        }
        for mail in server.mails() {
            let mail = parse(&mail);
            assert_eq!(mail.subject(), Some("visitorCount: 48213"));
            let (from, to) = (mail.from().unwrap().first().unwrap(), mail.to().unwrap().first().unwrap());
            assert_eq!((from.name(), from.address()), (Some("Visits"), Some("visits@example.org")));
            assert_eq!(to.address(), Some("count@example.org"));
            assert_eq!(mail.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
            assert!(mail.message_id().unwrap().ends_with("@example.org"));
            let text = text(&mail);
            assert!(text.starts_with("The count visitorCount is 48213 (20"), "{text}");
            assert!(text.contains("\nThis is the first report.\n"), "{text}");
            assert!(text.contains("check-redis:\nunix://") && text.contains("appendonly is no"), "{text}");
            assert!(text.contains("\n  CONFIG SET appendonly yes\n"), "{text}");
        }
    }
}

#[test]
fn text_html_and_picture_show_the_visits_of_the_last_reports() {
    let Some([server, _]) = both() else { return };
    let redis = counted(100);
    let settings = [("MAIL_URL", &*server.url(Port::Plain, "")), ("MAIL_TO", "a@example.org, b@example.org")];
    said(&run(&redis, &settings, &[]));
    // Three days ago.
    let mut reports = kept(&redis);
    reports["sent"][0]["time"] =
        json!(reports["sent"][0]["time"].as_u64().unwrap() - 3 * 24 * 60 * 60 * 1000);
    redis.run::<()>(&["SET", "{visitorCount}:reports", &reports.to_string()]);
    set(&redis, 142);
    let sent: Value = serde_json::from_str(&said(&run(&redis, &settings, &["--json"]))).unwrap();
    assert_eq!(sent, json!({ "key": "visitorCount", "count": 142, "visits": 42, "sent": true }));
    // A reset, a loss, and visits again.
    redis.run::<()>(&["MSET", "visitorCount", "7", "{visitorCount}:epoch", "5"]);
    said(&run(&redis, &settings, &["--again"]));
    set(&redis, 4);
    said(&run(&redis, &settings, &["--again"]));
    set(&redis, 25);
    said(&run(&redis, &settings, &["--again"]));

    assert_eq!(server.taken(), 5);
    // Each of the two that are written to has all.
    let mails = server.delivered(10);
    let texts: Vec<_> = mails.iter().map(|mail| text(&parse(mail))).collect();
    for (words, times) in [
        ("\n42 visits since the last report, 3 days ago (20", 2),
        ("\nThe count was reset since the last report, 0 hours ago (20", 2),
        ("\nThe count went back by 3, without a reset, since the last report, 0 hours ago (20", 2),
        ("Redis has lost data. It was 7 then.\n", 2),
        ("\n21 visits since", 2),
        ("Visits in the last reports:\n", 8),
    ] {
        assert_eq!(texts.iter().filter(|text| text.contains(words)).count(), times, "{words}: {texts:?}");
    }
    let newest = mails.iter().find(|mail| text(&parse(mail)).contains("\n21 visits since")).unwrap();
    let newest = parse(newest);
    assert_eq!(newest.subject(), Some("visitorCount: 25, 21 more"));
    let history: Vec<_> = text(&newest).lines().rev().take(4).map(|line| line[21..].to_owned()).collect();
    assert_eq!(history, ["21", "-3", "reset", "42"]);
    let html = newest.body_html(0).unwrap();
    assert!(html.contains("<b>The count visitorCount is 25 (20") && html.contains("<pre>unix://"), "{html}");
    let picture = newest.attachments().find(|part| part.content_id().is_some()).unwrap();
    assert!(html.contains(&format!("<img src=\"cid:{}\"", picture.content_id().unwrap())), "{html}");
    assert_eq!(
        picture.content_type().map(|kind| (kind.ctype(), kind.subtype())),
        Some(("image", Some("png")))
    );
    let reader = png::Decoder::new(Cursor::new(picture.contents())).read_info().unwrap();
    // Four bars of 16 pixels each.
    assert_eq!((reader.info().width, reader.info().height), (66, 101));
}

#[test]
fn what_a_server_refuses_is_a_sentence_and_is_sent_once_it_takes_it() {
    let Some(servers) = both() else { return };
    for server in servers {
        let redis = counted(41);
        let authority = server.certificate();
        let [plain, login, wrong, anonymous] = [
            server.url(Port::Plain, ""),
            server.url(Port::Submissions, "visits"),
            server.url(Port::Submission, "visits"),
            server.url(Port::Submission, ""),
        ];
        let base = [("MAIL_CA_FILE", authority.to_str().unwrap()), ("MAIL_TIMEOUT", "20s")];
        let with = |others: &[(&str, &str)]| run(&redis, &[&base, others].concat(), &[]);
        for (url, others, status, why) in [
            (
                &plain,
                [("MAIL_TO", "later@example.org")],
                75,
                "refuses the report for now: 451 4.7.1 Try again",
            ),
            (&plain, [("MAIL_TO", "full@example.org")], 75, "for now: 452 4.2.2 Mailbox full"),
            (&plain, [("MAIL_TO", "over@example.org")], 75, "for now: 552 5.2.2 Mailbox full"),
            (&plain, [("MAIL_TO", "count@example.org, x@example.com")], 77, "the report for good: 550"),
            (&wrong, [("MAIL_PASSWORD", "wrong")], 77, "refuses the login for good: 535"),
            (&anonymous, [("MAIL_TO", "count@example.org")], 77, "the report for good: 530"),
        ] {
            let refused = complaint(&with(&[&others[..], &[("MAIL_URL", url)]].concat()), status);
            assert!(
                refused.starts_with("the mail server (MAIL_URL) at 127.") && refused.contains(why),
                "{refused}"
            );
            assert_eq!(kept(&redis)["claim"], Value::Null);
        }
        assert_eq!(server.taken(), 0);
        // Perhaps it was sent at the first attempt, so the numbers are those of then.
        set(&redis, 50);
        let sent = said(&with(&[("MAIL_URL", &login), ("MAIL_PASSWORD", PASSWORD)]));
        assert!(sent.contains("with the count 41 "), "{sent}");
        only_mail(&server);
    }
}

#[test]
fn a_server_that_is_away_or_slow_is_a_sentence_and_then_it_is_back() {
    let Some(servers) = both() else { return };
    for mut server in servers {
        let redis = counted(41);
        let url = server.url(Port::Plain, "");
        let settings = [("MAIL_URL", &*url), ("MAIL_TIMEOUT", "1s")];
        server.stop();
        let away = complaint(&run(&redis, &settings, &[]), 69);
        assert!(away.contains("cannot be used: Connection refused"), "{away}");
        server.resume();
        let gate = Gate::start(&server, b"");
        let slow = [("MAIL_URL", &*gate.url()), ("MAIL_TIMEOUT", "1s")];
        let slow = complaint(&run(&redis, &slow, &[]), 69);
        assert!(slow.contains("it is not done within 1s (MAIL_TIMEOUT)\n"), "{slow}");
        said(&run(&redis, &[("MAIL_URL", &url)], &[]));
        only_mail(&server);
    }
}

#[test]
fn only_a_server_whose_certificate_is_trusted_gets_the_password() {
    let Some(servers) = both() else { return };
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other_file = folder.path().join("other.pem");
    fs::write(&other_file, other.cert.pem()).unwrap();
    for server in servers {
        let redis = counted(41);
        let (authority, other) = (server.certificate(), other_file.to_str().unwrap());
        for port in [Port::Submission, Port::Submissions] {
            let url = server.url(port, "visits");
            let settings = [("MAIL_URL", &*url), ("MAIL_PASSWORD", PASSWORD), ("MAIL_CA_FILE", other)];
            let refused = complaint(&run(&redis, &settings, &[]), 69);
            assert!(refused.contains("certificate") && refused.contains("MAIL_CA_FILE takes"), "{refused}");
            // Without one, those of the system hold, which vouch for no such server.
            let refused = complaint(&run(&redis, &settings[..2], &[]), 69);
            assert!(refused.contains("certificate"), "{refused}");
        }
        // STARTTLS is not forgone where a server offers none, and neither is TLS.
        let plain = server.url(Port::Plain, "visits");
        for (url, why) in [
            (plain.replace("?tls=off", ""), "it offers no STARTTLS"),
            (plain.replace("smtp:", "smtps:").replace("?tls=off", ""), "does not begin with TLS"),
        ] {
            let settings = [("MAIL_URL", &*url), ("MAIL_PASSWORD", PASSWORD)];
            let refused = complaint(&run(&redis, &settings, &[]), 69);
            assert!(refused.contains(why), "{refused}");
        }
        if let Kind::OpenSmtpd = server.kind {
            let settings = [("MAIL_URL", &*plain), ("MAIL_PASSWORD", PASSWORD)];
            let refused = complaint(&run(&redis, &settings, &[]), 69);
            assert!(refused.contains("it offers no login with a password"), "{refused}");
        }
        let url = server.url(Port::Submission, "visits");
        let authority = authority.to_str().unwrap();
        said(&run(
            &redis,
            &[("MAIL_URL", &url), ("MAIL_PASSWORD", PASSWORD), ("MAIL_CA_FILE", authority)],
            &[],
        ));
        only_mail(&server);
    }
}

/// Stands before a server, and withholds what it says once the client has said `after`; until it opens.
struct Gate {
    address: SocketAddr,
    /// Hears of each time that something is withheld.
    held: mpsc::Receiver<()>,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn start(server: &Smtp, after: &'static [u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (hold, held) = mpsc::channel();
        let server = (server.host.clone(), Port::Plain as u16);
        let is_open = open.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let said = Arc::new(AtomicBool::new(after.is_empty()));
                let (mut from_client, mut to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let has_said = said.clone();
                thread::spawn(move || {
                    let mut all = Vec::<u8>::new();
                    pass(&mut from_client, &mut to_server, |bytes| {
                        all.extend(bytes);
                        let has = all.windows(after.len().max(1)).any(|window| window == after);
                        has_said.fetch_or(has, Relaxed);
                    });
                });
                let (hold, is_open) = (hold.clone(), is_open.clone());
                thread::spawn(move || {
                    pass(&mut &server, &mut &client, |_| {
                        if said.load(Relaxed) && !is_open.load(Relaxed) {
                            // Perhaps the test asks for nothing more.
                            let _ = hold.send(());
                            eventually("the gate opens", || is_open.load(Relaxed).then_some(()));
                        }
                    });
                });
            }
        });
        Self { address, held, open }
    }

    fn url(&self) -> String {
        format!("smtp://{}?tls=off", self.address)
    }

    /// Waits until the server has said something that is withheld.
    fn wait(&self) {
        self.held.recv_timeout(support::PATIENCE).unwrap();
    }

    fn open(&self) {
        self.open.store(true, Relaxed);
    }
}

/// Hands on all bytes, after `look` has seen them.
fn pass(from: &mut impl std::io::Read, to: &mut impl std::io::Write, mut look: impl FnMut(&[u8])) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        look(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
}

/// A process that a test ends, or waits for, and what it prints.
struct Running(Process, NamedTempFile);

fn start(redis: &Redis, others: &[(&str, &str)]) -> Running {
    let said = NamedTempFile::new().unwrap();
    let mut command = report(redis, others, &[]);
    Running(Process::spawn(command.stdout(said.reopen().unwrap()).stderr(Stdio::inherit())), said)
}

impl Running {
    fn said(mut self) -> String {
        assert!(self.0.wait().success());
        fs::read_to_string(self.1.path()).unwrap()
    }
}

#[test]
fn two_hosts_that_send_at_once_send_one_report() {
    let Some(servers) = both() else { return };
    for server in servers {
        let redis = counted(41);
        let gate = Gate::start(&server, b"");
        let direct = server.url(Port::Plain, "");
        let first = start(&redis, &[("MAIL_URL", &gate.url())]);
        gate.wait();
        let others = [(); 3].map(|()| start(&redis, &[("MAIL_URL", &direct)]));
        // All of them look at what the first one does: they have read it after they came.
        eventually("the others wait", || {
            let clients: String = redis.run(&["CLIENT", "LIST"]);
            (clients.matches(" cmd=get ").count() >= 3).then_some(())
        });
        assert_eq!(server.taken(), 0);
        gate.open();
        assert_eq!(first.said(), "the report with the count 41 was sent to count@example.org\n");
        for other in others {
            let said = other.said();
            assert!(said.starts_with("the report of this period was sent at"), "{said}");
        }
        only_mail(&server);
    }
}

#[test]
fn many_hosts_at_once_send_one_report_in_each_period() {
    let Some([server, _]) = both() else { return };
    let redis = counted(41);
    let url = server.url(Port::Plain, "");
    let all: Vec<_> = (0..8).map(|_| start(&redis, &[("MAIL_URL", &url)])).collect();
    let sent = all.into_iter().map(Running::said).filter(|said| said.contains("was sent to")).count();
    assert_eq!(sent, 1);
    only_mail(&server);
}

#[test]
fn a_host_that_dies_before_it_has_sent_is_replaced_by_another() {
    let Some(servers) = both() else { return };
    for server in servers {
        let redis = counted(41);
        let gate = Gate::start(&server, b"");
        let first = start(&redis, &[("MAIL_URL", &gate.url()), ("MAIL_TIMEOUT", "1s")]);
        gate.wait();
        // Killed, it releases nothing.
        drop(first);
        assert!(kept(&redis)["claim"].is_object());
        set(&redis, 50);
        let said = start(&redis, &[("MAIL_URL", &server.url(Port::Plain, ""))]).said();
        assert!(said.starts_with("the report with the count 41 was sent"), "{said}");
        only_mail(&server);
    }
}

#[test]
fn a_report_that_other_hosts_claim_for_long_is_a_sentence() {
    let redis = counted(41);
    let claim = json!({ "by": "another", "until": u64::MAX });
    let reports = json!({ "id": "id", "claim": claim, "draft": null, "sent": [] });
    redis.run::<()>(&["SET", "{visitorCount}:reports", &reports.to_string()]);
    let settings = [("MAIL_URL", "smtp://127.0.0.1:1"), ("MAIL_TIMEOUT", "1s")];
    let said = complaint(&run(&redis, &settings, &[]), 75);
    assert!(said.contains("other processes have claimed this report"), "{said}");
    assert_eq!(kept(&redis), reports);
}

/// docs/admin.md: the one case in which a report comes twice.
#[test]
fn a_host_that_dies_after_the_server_has_taken_the_mail_leaves_a_duplicate_that_shows_as_one() {
    let Some(servers) = both() else { return };
    for server in servers {
        let redis = counted(41);
        let gate = Gate::start(&server, END);
        let first = start(&redis, &[("MAIL_URL", &gate.url()), ("MAIL_TIMEOUT", "1s")]);
        gate.wait();
        drop(first);
        assert_eq!(server.taken(), 1);
        set(&redis, 50);
        said(&run(&redis, &[("MAIL_URL", &server.url(Port::Plain, ""))], &[]));
        assert_eq!(server.taken(), 2);
        let mails = server.mails();
        let [first, second] = [&mails[0], &mails[1]].map(|mail| parse(mail));
        assert_eq!(first.message_id(), second.message_id());
        assert_eq!(first.subject(), second.subject());
        assert_eq!(first.date(), second.date());
        assert_eq!(text(&first).lines().next(), text(&second).lines().next());
    }
}

#[test]
fn a_server_that_says_nothing_after_the_mail_may_have_taken_it() {
    let Some([server, _]) = both() else { return };
    let redis = counted(41);
    let gate = Gate::start(&server, END);
    let output = run(&redis, &[("MAIL_URL", &gate.url()), ("MAIL_TIMEOUT", "1s")], &[]);
    let said = complaint(&output, 69);
    assert!(said.ends_with("(MAIL_TIMEOUT); it may have sent the report all the same\n"), "{said}");
}

#[test]
fn a_link_to_redis_that_breaks_while_a_report_is_sent_is_opened_again() {
    let Some([server, _]) = both() else { return };
    let redis = counted(41);
    let gate = Gate::start(&server, END);
    let first = start(&redis, &[("MAIL_URL", &gate.url())]);
    gate.wait();
    redis.run::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    gate.open();
    assert!(first.said().contains("was sent to"));
    let second = said(&run(&redis, &[("MAIL_URL", &server.url(Port::Plain, ""))], &[]));
    assert!(second.starts_with("the report of this period was sent at"), "{second}");
    only_mail(&server);
}

#[test]
fn a_dry_run_shows_the_mail_and_does_nothing() {
    let redis = counted(41);
    let settings = [("MAIL_URL", "smtp://127.0.0.1:1"), ("MAIL_TO", "a@example.org")];
    let mail = said(&run(&redis, &settings, &["--dry-run"]));
    let mail = parse(mail.as_bytes());
    assert_eq!(mail.subject(), Some("visitorCount: 41"));
    assert!(text(&mail).contains("This is the first report."));
    let shown: Value =
        serde_json::from_str(&said(&run(&redis, &settings, &["--dry-run", "--json"]))).unwrap();
    assert_eq!(
        (&shown["count"], &shown["visits"], &shown["sent"]),
        (&json!(41), &Value::Null, &json!(false))
    );
    assert!(shown["mail"].as_str().unwrap().contains("\nTo: a@example.org"), "{shown}");
    assert_eq!(redis.run::<i64>(&["EXISTS", "{visitorCount}:reports"]), 0);
}

#[test]
fn a_wrong_setting_is_named_and_no_secret_is_shown() {
    let redis = counted(41);
    let good = [("MAIL_URL", "smtp://user:verySecret@127.0.0.1:1")];
    for (others, status, why) in [
        (&[("MAIL_URL", "")][..], 78, "MAIL_URL is not set; it takes smtp://"),
        (&[("MAIL_URL", "verySecret")], 78, "MAIL_URL is no URL"),
        (&[("MAIL_URL", "http://host/")], 78, "MAIL_URL begins with another scheme"),
        (&[("MAIL_URL", "smtp:///")], 78, "MAIL_URL names no host"),
        (&[("MAIL_URL", "smtp://u:verySecret@host/verySecret")], 78, "MAIL_URL has a path"),
        (&[("MAIL_URL", "smtp://u:verySecret@host?tls=of")], 78, "MAIL_URL has another query"),
        (&[("MAIL_URL", "smtps://u:verySecret@host?tls=off")], 78, "MAIL_URL has another query"),
        (&[("MAIL_URL", "smtp://u:%ff@host")], 78, "the password in MAIL_URL is not UTF-8"),
        (&[("MAIL_URL", "smtp://u@host")], 78, "MAIL_URL names a user without a password"),
        (&[("MAIL_URL", "smtp://host"), ("MAIL_PASSWORD", PASSWORD)], 78, "MAIL_URL names no user"),
        (&[("MAIL_PASSWORD", PASSWORD)], 78, "the password is given twice"),
        (&[("MAIL_PASSWORD_FILE", "/missing")], 78, "MAIL_PASSWORD_FILE /missing cannot be read"),
        (&[("MAIL_FROM", "")], 78, "MAIL_FROM is not set; it takes an address"),
        (&[("MAIL_FROM", "visits")], 78, "MAIL_FROM is \"visits\""),
        (&[("MAIL_TO", "a@example.org\r\nBcc: b@example.org")], 78, "MAIL_TO is \"a@example.org\\r\\nBcc"),
        (&[("MAIL_TO", "a@example.org b@example.org")], 78, "it takes addresses with commas between them"),
        (&[("MAIL_TO", ",")], 78, "MAIL_TO is \",\""),
        (&[("MAIL_CA_FILE", "/missing")], 78, "MAIL_CA_FILE /missing:"),
        (&[("MAIL_CA_FILE", "/dev/null")], 78, "MAIL_CA_FILE /dev/null: it holds no certificate"),
        (
            &[("MAIL_TIMEOUT", "2m")],
            78,
            "MAIL_TIMEOUT is \"2m\"; it takes a time from 1s to 1m in whole seconds",
        ),
        (&[("MAIL_EVERY", "1s")], 78, "MAIL_EVERY is \"1s\"; it takes a time from 1m to 1year"),
        (&[], 69, "the mail server (MAIL_URL) at 127.0.0.1:1 cannot be used: Connection refused"),
    ] {
        let said = complaint(&run(&redis, &[&good, others].concat(), &[]), status);
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(run(&redis, &good, &["--nonsense"]).status.code(), Some(64));
    let away = complaint(&run(&redis, &[&good[..], &[("REDIS_URL", "unix:///nowhere")]].concat(), &[]), 69);
    assert!(away.contains("Redis is unreachable"), "{away}");
    redis.run::<()>(&["SET", "{visitorCount}:reports", "mine"]);
    assert!(complaint(&run(&redis, &good, &[]), 65).contains("remove the key that ends with :reports"));
    redis.run::<()>(&["DEL", "visitorCount", "{visitorCount}:reports"]);
    redis.run::<()>(&["RPUSH", "visitorCount", "a list"]);
    assert!(complaint(&run(&redis, &good, &[]), 65).contains("holds a list"));
}

#[test]
fn the_url_and_the_password_may_come_by_a_file_or_as_a_systemd_credential() {
    let Some([_, server]) = both() else { return };
    let (folder, authority) = (tempfile::tempdir().unwrap(), server.certificate());
    let [url, password] = ["mail-url", "mail-password"].map(|name| folder.path().join(name));
    fs::write(&url, server.url(Port::Submissions, "visits") + "\n").unwrap();
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let base = ("MAIL_CA_FILE", authority.to_str().unwrap());
    let credentials = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
    let files =
        [("MAIL_URL_FILE", url.to_str().unwrap()), ("MAIL_PASSWORD_FILE", password.to_str().unwrap())];
    said(&run(&counted(41), &[base, credentials], &[]));
    said(&run(&counted(41), &[&files[..], &[base]].concat(), &[]));
    let twice = complaint(&run(&counted(41), &[&files[..], &[credentials]].concat(), &[]), 78);
    assert!(twice.contains("MAIL_URL is given more than once"), "{twice}");
    assert_eq!(server.taken(), 2);
}

/// A server that repeats what it gets.
fn parrot() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        (&stream).write_all(b"220 parrot\r\n").unwrap();
        let mut lines = BufReader::new(&stream).lines();
        while let Some(Ok(line)) = lines.next() {
            let answer = match &line[..4] {
                "EHLO" => "250-parrot\r\n250 AUTH PLAIN\r\n".to_owned(),
                "AUTH" => format!("535 What is {line}?\r\n"),
                _ => "221 bye\r\n".to_owned(),
            };
            if (&stream).write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    });
    address
}

#[test]
fn a_server_that_quotes_the_password_is_not_quoted() {
    let url = format!("smtp://user:{PASSWORD}@{}?tls=off", parrot());
    let refused = complaint(&run(&counted(41), &[("MAIL_URL", &url)], &[]), 77);
    assert!(refused.contains("refuses the login for good: 535 its answer is not shown"), "{refused}");
}

/// docs/redis.md, "Access".
#[test]
fn a_user_of_redis_with_the_rights_of_two_tasks_may_report() {
    let Some([server, _]) = both() else { return };
    let redis = counted(41);
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/redis.md")).unwrap();
    let mut words = vec!["ACL", "SETUSER", "admin", "on", "nopass"];
    for task in ["reset-count ", "check-redis "] {
        let rule = manual.lines().find_map(|line| line.strip_prefix(task)).unwrap();
        words.extend(rule.split_whitespace());
    }
    redis.run::<()>(&words);
    let url = format!("{}?user=admin&pass=any", redis.url());
    let settings = [("MAIL_URL", &*server.url(Port::Plain, "")), ("REDIS_URL", &url)];
    said(&run(&redis, &settings, &[]));
    let mail = only_mail(&server);
    let text = text(&parse(&mail));
    assert!(text.contains("its durability cannot be read by this user"), "{text}");
}
