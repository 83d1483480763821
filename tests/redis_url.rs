//! Any Redis can be attached by its URL alone (factor IV), whatever it asks for.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::proxy::Proxy;
use crate::sentinel::{FIRST_SENTINEL, start_sentinel};
use crate::support::{Redis, Service, own_host, program};

/// A database and a user of its own: no other user may count.
fn redis_with_user() -> Redis {
    let redis = Redis::start();
    redis.run::<()>(&["ACL", "SETUSER", "default", "-incrby"]);
    let passwords = [">123456", ">p@ss:w/rd 100%"];
    redis.run::<()>(&["ACL", "SETUSER", "visitor", "on", "~*", "+@all", passwords[0], passwords[1]]);
    redis
}

/// What stands in a database, which is emptied.
fn take_count(redis: &Redis, database: u8) -> Option<i64> {
    let (count,) = redis::pipe()
        .cmd("SELECT")
        .arg(database)
        .ignore()
        .cmd("GETDEL")
        .arg("visitorCount")
        .query(&mut redis.connect())
        .expect("Redis answers");
    count
}

#[test]
fn every_scheme_takes_a_user_a_password_and_a_database() {
    let redis = redis_with_user();
    let proxy = Proxy::to(&redis);
    let (host, path) = (proxy.address(), redis.socket().display().to_string());
    // On most machines that is two addresses, of which the proxy has one.
    let by_name = format!("localhost:{}", host.port());
    for password in ["123456", "p%40ss%3Aw%2Frd%20100%25"] {
        for url in [
            format!("redis://visitor:{password}@{host}/2"),
            format!("redis://visitor:{password}@{by_name}/2"),
            format!("redis://visitor:{password}@{host}/2?protocol=resp3"),
            format!("redis://visitor:{password}@{by_name}?db=2&family=4"),
            format!("valkey://visitor:{password}@{host}/2"),
            format!("redis+socket://{path}?db=2&user=visitor&pass={password}"),
            format!("unix://{path}?db=2&user=visitor&pass={password}"),
            format!("redis+unix://{path}?db=2&user=visitor&pass={password}&protocol=resp3"),
        ] {
            let mut service = Service::start_with(&[("REDIS_URL", &url)]);
            assert_eq!(service.get("/").number(), 1, "{url}");
            // Also what is asked about the server can be read, in either protocol.
            service.log_line("appendonly is no");
            assert_eq!(take_count(&redis, 2), Some(1), "{url}");
        }
    }
    assert_eq!(redis.count(), 0);
}

#[test]
fn a_user_without_a_password_is_one_too() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    redis.run::<()>(&["ACL", "SETUSER", "default", "-incrby"]);
    redis.run::<()>(&["ACL", "SETUSER", "visitor", "on", "nopass", "~*", "+@all"]);
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("redis://visitor@{}/2{protocol}", proxy.address());
        let service = Service::start_with(&[("REDIS_URL", &url)]);
        assert_eq!(service.get("/").number(), 1, "{url}");
        assert_eq!(take_count(&redis, 2), Some(1), "{url}");
    }
}

#[test]
fn only_addresses_of_the_family_are_tried() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let said = show_count(&format!("redis://{}?family=6", proxy.address()));
    assert!(said.contains("no IPv6 address (family=6)"), "{said}");
    let url = format!("redis://{}?family=4", proxy.address());
    let task = program("show-count", &[("REDIS_URL", &url)]).output();
    assert!(task.expect("it runs").status.success());
}

/// Many people write the password in the place of the user.
#[test]
fn a_password_in_the_place_of_the_user_is_shown_nowhere() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]);
    let proxy = Proxy::to(&redis);
    let echo = no_redis(|bytes| [b"echo: ", bytes].concat());
    let path = redis.socket().display().to_string();
    for url in [
        format!("redis://hunter2@{}/", proxy.address()),
        format!("redis://hunter2@{}/?protocol=3", proxy.address()),
        format!("redis://hunter2@{echo}/"),
        format!("redis+sentinel://{echo}/visits?sentinel_user=hunter2"),
        format!("unix://{path}?user=hunter2"),
    ] {
        let settings = [("REDIS_URL", &*url), ("LOG_LEVEL", "trace")];
        let mut said = String::new();
        for task in ["show-count", "check-redis", "reset-count"] {
            let task = program(task, &settings).output().expect("it runs");
            assert_eq!(task.status.code(), Some(69), "{task:?}");
            said += &String::from_utf8(task.stderr).expect("text");
        }
        let checked = program("abukiks", &settings).arg("--check-config").output().expect("it runs");
        assert!(checked.status.success(), "{checked:?}");
        said += &String::from_utf8(checked.stdout).expect("text");
        let mut service = Service::start_with(&settings);
        for path in ["/", "/readyz"] {
            let answer = service.get(path);
            assert_eq!(answer.status, 503);
            said += &answer.body;
        }
        service.stop();
        said += &service.whole_log().concat();
        assert!(!said.contains("hunter2"), "{url}: {said}");
    }
}

/// Redis says the words of a command that it does not know.
#[test]
fn a_redis_that_knows_no_login_does_not_spread_the_password() {
    for (command, protocol) in [("AUTH", "resp2"), ("HELLO", "resp3")] {
        let redis = Redis::start_with(&["--rename-command", command, ""]);
        let path = redis.socket().display().to_string();
        let url = format!("unix://{path}?user=visitor&pass=secret1&protocol={protocol}");
        let task = program("show-count", &[("REDIS_URL", &url)]).output();
        let task = task.expect("it runs");
        assert_eq!(task.status.code(), Some(69));
        let mut said = String::from_utf8(task.stderr).expect("text");
        assert!(said.contains(&format!("unknown command '{command}'")), "{said}");
        let mut service = Service::start_with(&[("REDIS_URL", &url), ("LOG_LEVEL", "trace")]);
        assert_eq!(service.get("/").status, 503);
        said += &service.get("/readyz").body;
        service.stop();
        said += &service.whole_log().concat();
        assert!(!said.contains("secret1"), "{said}");
    }
}

/// What listens at this address is no Redis, but says something to whatever it gets.
fn no_redis(say: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&say(&bytes[..count])).is_err() {
                    break;
                }
            }
        }
    });
    address
}

fn show_count(url: &str) -> String {
    let task = program("show-count", &[("REDIS_URL", url)]).output();
    let task = task.expect("it runs");
    assert_eq!(task.status.code(), Some(69), "{task:?}");
    String::from_utf8(task.stderr).expect("text")
}

#[test]
fn what_quotes_the_login_is_not_quoted() {
    let echo = no_redis(|bytes| [b"echo: ", bytes].concat());
    let refusal = no_redis(|bytes| {
        let words = String::from_utf8_lossy(bytes).replace("\r\n", " ");
        format!("-ERR bad request: {words}\r\n").into_bytes()
    });
    for address in [echo, refusal] {
        for login in [":secret1", "visitor:secret1"] {
            let said = show_count(&format!("redis://{login}@{address}/"));
            assert!(!said.contains("secret1"), "{said}");
            assert!(said.contains("its words may hold the password"), "{said}");
        }
    }
}

#[test]
fn what_a_server_says_is_cut_and_cannot_command_a_terminal() {
    let address = no_redis(|_| format!("-ERR \u{1b}[31m{}\r\n", "x".repeat(10_000)).into_bytes());
    let said = show_count(&format!("redis://{address}/"));
    assert!(said.len() < 500 && !said.trim_end().contains(char::is_control), "{said}");
    assert!(said.contains("ERR"), "{said}");
}

#[test]
fn a_time_that_no_clock_shows_is_not_of_redis() {
    let address = no_redis(|bytes| {
        let asks_for_time = bytes.ends_with(b"TIME\r\n");
        let time = b"*2\r\n$20\r\n18446744073709551615\r\n$1\r\n0\r\n";
        if asks_for_time { time.to_vec() } else { b"$-1\r\n".to_vec() }
    });
    let said = show_count(&format!("redis://{address}/"));
    assert!(said.contains("no Redis"), "{said}");
}

#[test]
fn a_system_without_authorities_is_named() {
    let settings = [("REDIS_URL", "rediss://127.0.0.1:1/"), ("SSL_CERT_FILE", "/nowhere")];
    let task = program("show-count", &settings).output().expect("it runs");
    assert_eq!(task.status.code(), Some(78), "{task:?}");
    let said = String::from_utf8(task.stderr).expect("text");
    assert!(said.contains("set REDIS_CA_FILE"), "{said}");
}

#[test]
fn resp3_is_spoken_when_it_is_asked_for() {
    let redis = Redis::start();
    let service = Service::start_with(&[("REDIS_URL", &format!("{}?protocol=resp3", redis.url()))]);
    assert_eq!(service.get("/").number(), 1);
    let clients: String = redis.run(&["CLIENT", "LIST"]);
    assert!(clients.contains("resp=3"), "{clients}");
}

#[test]
fn a_password_for_the_default_user_needs_no_name() {
    let redis = Redis::start_with(&["--requirepass", "007"]);
    let proxy = Proxy::to(&redis);
    for (number, url) in [
        format!("redis://:007@{}/", proxy.address()),
        format!("unix://{}?pass=007", redis.socket().display()),
    ]
    .iter()
    .enumerate()
    {
        let service = Service::start_with(&[("REDIS_URL", url)]);
        assert_eq!(service.get("/").number(), number as i64 + 1, "{url}");
    }
}

/// Certificates for one test, and a Redis that shows one of them.
#[derive(Debug)]
pub(crate) struct Tls {
    folder: TempDir,
    authority: Issuer<'static, KeyPair>,
    /// An address that no other test of this machine uses, so that its ports are free.
    pub(crate) host: String,
}

/// Where a certificate and its key are.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

const TLS_PORT: &str = "6390";

impl Tls {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(&folder.path().join("ca.pem"));
        Self { folder, authority, host: own_host() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs a certificate for `name`.
    pub(crate) fn identity(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a signature");
        self.write_identity(name, &certificate.pem(), &key)
    }

    /// A certificate that nothing else signs, as people make it for one server.
    pub(crate) fn self_signed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a signature");
        self.write_identity(name, &certificate.pem(), &key)
    }

    fn write_identity(&self, name: &str, certificate: &str, key: &KeyPair) -> Identity {
        let identity = Identity {
            certificate: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
        };
        write(&identity.certificate, certificate);
        write(&identity.key, &key.serialize_pem());
        identity
    }

    /// Starts a Redis that shows `identity`, and asks its clients for theirs if told so.
    pub(crate) fn redis(&self, identity: &Identity, ask_clients: &str) -> Redis {
        let ca = self.file("ca.pem");
        Redis::start_with(&[
            "--bind",
            &self.host,
            "--tls-port",
            TLS_PORT,
            "--tls-ca-cert-file",
            text(&ca),
            "--tls-cert-file",
            text(&identity.certificate),
            "--tls-key-file",
            text(&identity.key),
            "--tls-auth-clients",
            ask_clients,
        ])
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://{}:{TLS_PORT}/", self.host)
    }

    /// Starts a service that is attached to it.
    pub(crate) fn serve(&self, settings: &[(&str, &Path)]) -> Service {
        let url = self.url();
        let mut all = vec![("REDIS_URL", &*url)];
        all.extend(settings.iter().map(|(name, file)| (*name, text(file))));
        Service::start_with(&all)
    }
}

/// Makes a certificate authority, and writes its certificate.
fn authority(file: &Path) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let name = "an authority of this test";
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    write(file, &params.self_signed(&key).expect("a signature").pem());
    Issuer::new(params, key)
}

fn write(file: &Path, pem: &str) {
    std::fs::write(file, pem).expect("the folder is there");
}

fn text(file: &Path) -> &str {
    file.to_str().expect("UTF-8")
}

/// Checks that visits are refused, and that the log says why, and the metrics whether it is a certificate.
fn assert_refused(mut service: Service, why: &str) {
    let answer = service.get("/");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let said = service.log_line("Redis does not count");
    assert!(said.contains(why), "{said}");
    let of_certificate = ["\"the certificate of Redis", "\"Redis refuses the TLS"];
    let of_certificate = of_certificate.iter().any(|begin| said.contains(begin));
    assert_eq!(service.metric("abukiks_redis_tls_errors_total") > 0.0, of_certificate, "{said}");
}

/// A server that says the same to whatever it is asked.
fn says(words: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            while client.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
                && client.write_all(words.as_bytes()).is_ok()
            {}
        }
    });
    address
}

#[test]
fn a_url_that_leads_to_no_redis_is_named_with_what_was_found_there() {
    // Below those that the kernel gives out as free ones.
    let unused = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    for (address, found) in [
        (unused, "Connection refused"),
        (says("HTTP/1.1 400 Bad Request\r\n\r\n"), "it says \"HTTP/1.1 400 Bad Request"),
        (says("+HELLO\r\n"), "what answers is no Redis"),
    ] {
        let url = format!("redis://{address}");
        let at = format!(", at {address}");
        let task = program("show-count", &[("REDIS_URL", &url)]).output();
        let task = task.expect("it runs");
        assert_eq!(task.status.code(), Some(69));
        let said = String::from_utf8(task.stderr).expect("text");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("Redis is unreachable (REDIS_URL): "), "{said}");
        assert!(said.contains(found) && said.contains(&at), "{said}");
        let service = Service::start_with(&[("REDIS_URL", &url)]);
        assert_refused(service, &at);
    }
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named_and_only_then() {
    let tls = Tls::new();
    let redis = tls.redis(&tls.identity(&tls.host, |_| {}), "no");
    let service = tls.serve(&[("REDIS_CA_FILE", &tls.file("ca.pem"))]);
    assert_eq!(service.get("/").number(), 1);
    assert_eq!(service.get("/readyz").status, 200);

    assert_refused(tls.serve(&[]), "is signed by no authority that is trusted; REDIS_CA_FILE takes");
    let other = tls.file("other.pem");
    authority(&other);
    let service = tls.serve(&[("REDIS_CA_FILE", &other)]);
    assert_refused(service, "is signed by no authority that is trusted");
    assert_eq!(redis.count(), 1);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let tls = Tls::new();
    let _redis = tls.redis(&tls.identity("redis.example", |_| {}), "no");
    let service = tls.serve(&[("REDIS_CA_FILE", &tls.file("ca.pem"))]);
    let why = format!("is not valid for the name {}; REDIS_URL takes", tls.host);
    assert_refused(service, &why);
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_same_words_each_time() {
    for (from, to, why) in
        [(2020, 2021, "has expired; renew it"), (2090, 2091, "is not valid yet; check the clock")]
    {
        let tls = Tls::new();
        let identity = tls.identity(&tls.host, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        });
        let _redis = tls.redis(&identity, "no");
        let service = tls.serve(&[("REDIS_CA_FILE", &tls.file("ca.pem"))]);
        assert_refused(service, &format!("\"the certificate of Redis {why}"));
    }
}

#[test]
fn a_certificate_for_clients_alone_is_refused() {
    let tls = Tls::new();
    let client = tls.identity(&tls.host, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let _redis = tls.redis(&client, "no");
    assert_refused(
        tls.serve(&[("REDIS_CA_FILE", &tls.file("ca.pem"))]),
        "is made for an authority or a client, and not for a server",
    );
}

#[test]
fn a_certificate_that_signs_itself_is_trusted_where_exactly_it_is_named() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let tls = Tls::new();
        // Made for no host that it has.
        let own = tls.self_signed("redis.example", |params| params.is_ca = is_ca);
        let other = tls.self_signed("other.example", |params| params.is_ca = is_ca);
        let _redis = tls.redis(&own, "no");
        assert_eq!(tls.serve(&[("REDIS_CA_FILE", &own.certificate)]).get("/").number(), 1);
        let refused = tls.serve(&[("REDIS_CA_FILE", &other.certificate)]);
        assert_refused(refused, "REDIS_CA_FILE takes");
    }
}

/// As `openssl x509 -req` makes it of a request where nothing is said of extensions.
#[test]
fn a_certificate_of_the_first_version_is_named_and_trusted_where_exactly_it_is_named() {
    let tls = Tls::new();
    let (certificate, key, request) = (tls.file("v1.pem"), tls.file("v1.key"), tls.file("v1.csr"));
    let openssl = |words: &str| {
        let output = Command::new("openssl").args(words.split(' ')).output().expect("openssl is there");
        assert!(output.status.success(), "{output:?}");
    };
    let (pem, key_file, csr) = (text(&certificate), text(&key), text(&request));
    let identity = Identity { certificate: certificate.clone(), key: key.clone() };
    for kind in ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256", "ec -pkeyopt ec_paramgen_curve:P-384"] {
        openssl(&format!("req -new -newkey {kind} -nodes -subj /CN=redis -keyout {key_file} -out {csr}"));
        openssl(&format!("x509 -req -in {csr} -signkey {key_file} -out {pem}"));
        let redis = tls.redis(&identity, "no");
        for version in ["TLSv1.2", "TLSv1.3"] {
            redis.run::<()>(&["CONFIG", "SET", "tls-protocols", version]);
            redis.run::<()>(&["FLUSHALL"]);
            assert_eq!(
                tls.serve(&[("REDIS_CA_FILE", &certificate)]).get("/").number(),
                1,
                "{kind} {version}"
            );
            assert_eq!(tls.serve(&[("REDIS_TLS_VERIFY", Path::new("off"))]).get("/").number(), 2);
            let refused = tls.serve(&[("REDIS_CA_FILE", &tls.file("ca.pem"))]);
            assert_refused(refused, "is of X.509 version 1; make one of version 3");
        }
    }
}

#[test]
fn any_certificate_is_taken_where_it_is_not_to_be_checked_and_the_log_warns() {
    let tls = Tls::new();
    let _redis = tls.redis(&tls.self_signed("redis.example", |_| {}), "no");
    let mut service = tls.serve(&[("REDIS_TLS_VERIFY", Path::new("off"))]);
    let warning = service.log_line("REDIS_TLS_VERIFY is off");
    assert!(warning.contains("\"WARN\""), "{warning}");
    assert_eq!(service.get("/").number(), 1);
    let mut checked = tls.serve(&[]);
    checked.stop();
    assert!(!checked.whole_log().concat().contains("REDIS_TLS_VERIFY"));
}

#[test]
fn a_server_without_tls_is_named_as_one() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    for (address, why) in [
        (says("-ERR unknown command\r\n"), "what answers does not speak TLS; REDIS_URL takes the port"),
        (proxy.address(), "no answer to a connection attempt by TLS; has this port TLS?"),
    ] {
        let said = show_count(&format!("rediss://{address}/"));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_client_certificate_is_shown_when_there_is_one() {
    let tls = Tls::new();
    let _redis = tls.redis(&tls.identity(&tls.host, |_| {}), "yes");
    let client = tls.identity("abukiks", |_| {});
    let ca = tls.file("ca.pem");
    let service = tls.serve(&[
        ("REDIS_CA_FILE", &ca),
        ("REDIS_CERT_FILE", &client.certificate),
        ("REDIS_KEY_FILE", &client.key),
    ]);
    assert_eq!(service.get("/").number(), 1);
    let why =
        "Redis refuses the TLS of this client (CertificateRequired); REDIS_CERT_FILE and REDIS_KEY_FILE";
    assert_refused(tls.serve(&[("REDIS_CA_FILE", &ca)]), why);
}

#[test]
fn sentinels_and_their_master_are_reached_by_tls() {
    let tls = Tls::new();
    let identity = tls.identity(&tls.host, |_| {});
    let _redis = tls.redis(&identity, "no");
    let settings = format!(
        "tls-port 26380\ntls-replication yes\ntls-auth-clients no\n\
         tls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n\
         sentinel monitor visits {} {TLS_PORT} 1\n",
        text(&tls.file("ca.pem")),
        text(&identity.certificate),
        text(&identity.key),
        tls.host,
    );
    let folder = tls.folder.path();
    let _sentinel = start_sentinel(folder, &tls.host, FIRST_SENTINEL, &settings);
    let url = format!("rediss+sentinel://{}:26380/visits", tls.host);
    let ca = tls.file("ca.pem");
    let service = Service::start_with(&[("REDIS_URL", &url), ("REDIS_CA_FILE", text(&ca))]);
    assert_eq!(service.get("/").number(), 1);
    let untrusted = Service::start_with(&[("REDIS_URL", &url)]);
    assert_refused(untrusted, "is signed by no authority that is trusted");
}
