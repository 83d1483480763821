//! Two real mail servers, `OpenSMTPD` and Exim, each in a thin layer over a root folder of Debian. Needs root and
//! mmdebstrap.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tempfile::TempDir;

use crate::root_folder;
use crate::support::{Process, eventually, own_host};

/// The user `visits` has this password.
pub(crate) const PASSWORD: &str = "verySecret";

const SUITE: &str = "trixie";

/// Which server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    OpenSmtpd,
    Exim,
}

/// Ways to reach a server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Port {
    Plain = 2525,
    /// STARTTLS, and a login is needed.
    Submission = 2587,
    /// TLS from the first byte on, and a login is needed.
    Submissions = 2465,
}

/// A server that takes mail for example.org, and stops when this is dropped.
///
/// It refuses the mailboxes `later` and `full` for now, and `over` because it is full.
#[derive(Debug)]
pub(crate) struct Smtp {
    pub(crate) kind: Kind,
    /// Its name, `localhost`, and its certificate's.
    pub(crate) host: String,
    process: Option<Process>,
    root: PathBuf,
    layer: TempDir,
}

/// Its arguments: the layer, the root folder below, the server. A set-user-ID program, as Exim is, would outlive
/// its parent: as the first process of its namespace the shell takes it along.
const START: &str = r#"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/changes,workdir=$1/work" "$1/whole"
mount --rbind /dev "$1/whole/dev"
root=$1/whole
shift 2
chroot "$root" "$@" || exit
"#;

/// Both servers; or `None`, after a line that says why, where none can be started. On CI that is a failure.
pub(crate) fn both() -> Option<[Smtp; 2]> {
    let cache = match root_folder::cache(&["mmdebstrap", "setpriv", "unshare", "openssl"]) {
        Ok(cache) => cache,
        Err(why) => {
            assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "cannot test mail here: {why}");
            println!("skipped: {why}");
            return None;
        }
    };
    Some([Kind::OpenSmtpd, Kind::Exim].map(|kind| Smtp::start(kind, &cache)))
}

impl Smtp {
    fn start(kind: Kind, cache: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let package = match kind {
            Kind::OpenSmtpd => "opensmtpd",
            Kind::Exim => "exim4-daemon-light",
        };
        let root = root_folder::make(cache, SUITE, package, None).unwrap();
        let name = format!("abukiks-{}-mail-{}-", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let layer = tempfile::Builder::new().prefix(&name).tempdir_in(cache).unwrap();
        // The mail servers drop their rights.
        fs::set_permissions(layer.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["changes/etc/ssl/certs", "changes/etc/exim4", "changes/var/mail", "work", "whole"] {
            fs::create_dir_all(layer.path().join(folder)).unwrap();
        }
        let mut server = Self { kind, host: own_host(), layer, root, process: None };
        fs::set_permissions(server.file("var/mail"), fs::Permissions::from_mode(0o777)).unwrap();
        let mut identity = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        identity.subject_alt_names.push(rcgen::SanType::IpAddress(server.host.parse().unwrap()));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = identity.self_signed(&key).unwrap().pem();
        fs::write(server.file("etc/cert.pem"), &certificate).unwrap();
        // OpenSMTPD wants authorities, for mail that it sends.
        fs::write(server.file("etc/ssl/certs/ca-certificates.crt"), &certificate).unwrap();
        fs::write(server.file("etc/key.pem"), key.serialize_pem()).unwrap();
        let mode = match kind {
            Kind::OpenSmtpd => 0o600,
            Kind::Exim => 0o644,
        };
        fs::set_permissions(server.file("etc/key.pem"), fs::Permissions::from_mode(mode)).unwrap();
        server.configure();
        server.resume();
        server
    }

    fn configure(&self) {
        let host = &self.host;
        match self.kind {
            Kind::OpenSmtpd => {
                let crypted = Command::new("openssl").args(["passwd", "-6", PASSWORD]).output().unwrap();
                let crypted = String::from_utf8(crypted.stdout).unwrap();
                fs::write(self.file("etc/users"), format!("visits:{crypted}")).unwrap();
                let settings = format!(
                    r#"pki server cert "/etc/cert.pem"
pki server key "/etc/key.pem"
table users file:/etc/users
filter "later" phase rcpt-to match rcpt-to {{ "later@example.org" }} reject "451 4.7.1 Try again later"
filter "full" phase rcpt-to match rcpt-to {{ "full@example.org" }} reject "452 4.2.2 Mailbox full"
filter "over" phase rcpt-to match rcpt-to {{ "over@example.org" }} reject "552 5.2.2 Mailbox full"
filter "all" chain {{ "later", "full", "over" }}
listen on {host} port 2525 filter "all"
listen on {host} port 2587 tls-require pki server auth <users> filter "all"
listen on {host} port 2465 smtps pki server auth <users> filter "all"
action box maildir "/var/mail/box" virtual {{ "@example.org" = mail }}
match from any for domain example.org action box
"#
                );
                fs::write(self.file("etc/smtpd.conf"), settings).unwrap();
            }
            Kind::Exim => {
                let settings = format!(
                    r#"local_interfaces = {host}
daemon_smtp_ports = 2525 : 2587 : 2465
tls_on_connect_ports = 2465
tls_advertise_hosts = ${{if eq{{$received_port}}{{2525}}{{}}{{*}}}}
tls_certificate = /etc/cert.pem
tls_privatekey = /etc/key.pem
primary_hostname = mail.example.org
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
keep_environment =
begin acl
mail:
  deny condition = ${{if !eq{{$received_port}}{{2525}}}}
       !authenticated = *
       message = 530 5.7.0 Authentication required
  accept
rcpt:
  defer local_parts = later
        message = 451 4.7.1 Try again later
  defer local_parts = full
        message = 452 4.2.2 Mailbox full
  deny local_parts = over
       message = 552 5.2.2 Mailbox full
  deny !domains = example.org
       message = Relay not permitted
  accept
begin routers
box:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = /var/mail/box
  maildir_format
  user = mail
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{visits}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
"#
                );
                fs::write(self.file("etc/exim4/exim4.conf"), settings).unwrap();
            }
        }
    }

    /// A file that the server has, or will have when it starts.
    fn file(&self, path: &str) -> PathBuf {
        self.layer.path().join("changes").join(path)
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.file("etc/cert.pem")
    }

    /// Starts it again after [`Smtp::stop`].
    pub(crate) fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let program: &[&str] = match self.kind {
            Kind::OpenSmtpd => &["smtpd", "-d"],
            Kind::Exim => &["exim4", "-bdf"],
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--propagation", "private", "sh", "-euc", START, "sh"])
            .args([self.layer.path(), &self.root])
            .args(program)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let log_file = self.log();
        let process = self.process.insert(Process::spawn(&mut command));
        eventually("the mail server listens", || {
            assert!(!process.has_ended(), "no mail server: {}", fs::read_to_string(&log_file).unwrap());
            TcpStream::connect((&*self.host, Port::Submissions as u16)).ok()
        });
    }

    pub(crate) fn stop(&mut self) {
        self.process = None;
        // Its namespace ends a moment later than the process outside.
        eventually("the mail server is gone", || {
            TcpStream::connect((&*self.host, Port::Submissions as u16)).is_err().then_some(())
        });
    }

    /// The URL for one of the ports. `user` may have a password.
    pub(crate) fn url(&self, port: Port, user: &str) -> String {
        let at = if user.is_empty() { "" } else { "@" };
        let (scheme, query) = match port {
            Port::Plain => ("smtp", "?tls=off"),
            Port::Submission => ("smtp", ""),
            Port::Submissions => ("smtps", ""),
        };
        format!("{scheme}://{user}{at}{}:{}{query}", self.host, port as u16)
    }

    fn log(&self) -> PathBuf {
        self.layer.path().join("log")
    }

    /// How many mails it has taken, delivered or not yet.
    pub(crate) fn taken(&self) -> usize {
        let (log, mark) = match self.kind {
            Kind::OpenSmtpd => (self.log(), " smtp message msgid="),
            Kind::Exim => (self.file("var/log/exim4/mainlog"), " <= "),
        };
        // Exim has none before its first line.
        fs::read_to_string(log).unwrap_or_default().matches(mark).count()
    }

    /// All mails that it has taken, each for one recipient, in an order of its own.
    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        self.delivered(self.taken())
    }

    /// Waits until so many mails have been delivered.
    pub(crate) fn delivered(&self, number: usize) -> Vec<Vec<u8>> {
        eventually("mail is delivered", || {
            let entries = fs::read_dir(self.file("var/mail/box/new")).into_iter().flatten();
            let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            (files.len() >= number).then(|| files.iter().map(|file| fs::read(file).unwrap()).collect())
        })
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
