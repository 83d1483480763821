//! The mail server that `MAIL_URL` names.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use abukiks::cli::Failure;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lettre::Message;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::timeout;
use url::{Host, Url};

use crate::variables::Variables;

/// What `MAIL_URL` takes.
const ACCEPTED: &str = "smtp://[USER[:PASSWORD]@]HOST[:PORT][?tls=off] or smtps://[USER[:PASSWORD]@]HOST[:PORT], \
                        percent-encoded where needed";

/// What `MAIL_TIMEOUT` takes. Systemd allows the whole task five minutes.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);

/// How long a server that has taken the mail may take to answer `QUIT`.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much is shown of what a server says, in letters.
const MAX_SHOWN: usize = 300;

/// A mailbox that is full (RFC 5321, section 4.5.3.1.10, has clients take it as temporary).
const FULL: u16 = 552;

/// A mail server, and the addresses of a report.
pub struct Mail {
    /// `MAIL_FROM`.
    pub from: Mailbox,
    /// `MAIL_TO`.
    pub to: Mailboxes,
    /// The time for sending: `MAIL_TIMEOUT`.
    pub timeout: Duration,
    host: String,
    port: u16,
    encryption: Encryption,
    login: Option<Login>,
}

enum Encryption {
    Off,
    StartTls(TlsParameters),
    Tls(TlsParameters),
}

struct Login {
    user: String,
    password: String,
}

/// How far sending has come.
#[derive(Clone, Copy)]
enum Step {
    Connect,
    LogIn,
    Send,
}

/// A server that has taken the mail.
pub struct Taken(AsyncSmtpConnection);

impl Taken {
    /// Ends the connection. Its errors do not matter: the server has the mail.
    pub async fn quit(mut self) {
        let _ = timeout(QUIT_TIMEOUT, self.0.abort()).await;
    }
}

impl Mail {
    /// Reads the settings. Connects to nothing.
    ///
    /// # Errors
    /// A setting that is wrong.
    pub fn new(variables: &Variables) -> Result<Self, Failure> {
        let refuse = |what: &str| Failure::setting(format!("MAIL_URL {what}; it takes {ACCEPTED}"));
        let url = variables.secret("MAIL_URL")?.ok_or_else(|| refuse("is not set"))?;
        let url = Url::parse(&url).map_err(|error| refuse(&format!("is no URL ({error})")))?;
        let host = match url.host() {
            None => return Err(refuse("names no host")),
            Some(Host::Domain(host)) => host.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(refuse("has a path or a fragment"));
        }
        let tls = || tls(&host, variables.get("MAIL_CA_FILE"));
        let (encryption, port) = match (url.scheme(), url.query()) {
            ("smtp", None) => (Encryption::StartTls(tls()?), 587),
            ("smtp", Some("tls=off")) => (Encryption::Off, 25),
            ("smtps", None) => (Encryption::Tls(tls()?), 465),
            ("smtp" | "smtps", Some(_)) => return Err(refuse("has another query than ?tls=off for smtp://")),
            _ => return Err(refuse("begins with another scheme")),
        };
        Ok(Self {
            from: address(variables, "MAIL_FROM", "an address, such as Visits <visits@example.org>")?,
            to: address(variables, "MAIL_TO", "addresses with commas between them")?,
            timeout: variables.time("MAIL_TIMEOUT", "30s", TIMEOUTS)?,
            port: url.port().unwrap_or(port),
            encryption,
            login: login(&url, variables)?,
            host,
        })
    }

    /// Sends the mail, to all or none, within `MAIL_TIMEOUT`.
    ///
    /// # Errors
    /// The server is unreachable, or refuses.
    pub async fn send(&self, mail: &Message) -> Result<Taken, Failure> {
        let step = Cell::new(Step::Connect);
        let error = match timeout(self.timeout, self.deliver(mail, &step)).await {
            Ok(Ok(connection)) => return Ok(Taken(connection)),
            Ok(Err(error)) => error,
            Err(_) => {
                let time = humantime::format_duration(self.timeout);
                return Err(
                    self.unavailable(&format!("it is not done within {time} (MAIL_TIMEOUT)"), step.get())
                );
            }
        };
        Err(match error {
            Refusal::Smtp(error) => self.failure(&error, step.get()),
            Refusal::Lacks(what) => self.unavailable(what, step.get()),
        })
    }

    async fn deliver(&self, mail: &Message, step: &Cell<Step>) -> Result<AsyncSmtpConnection, Refusal> {
        let (server, name) = ((&*self.host, self.port), ClientId::default());
        let at_once = match &self.encryption {
            Encryption::Tls(tls) => Some(tls.clone()),
            Encryption::StartTls(_) | Encryption::Off => None,
        };
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, None, &name, at_once, None).await?;
        if let Encryption::StartTls(tls) = &self.encryption {
            if !connection.can_starttls() {
                let lacks = "it offers no STARTTLS; MAIL_URL takes smtps:// for TLS from the first byte on, and \
                             ?tls=off for none";
                return Err(Refusal::Lacks(lacks));
            }
            connection.starttls(tls.clone(), &name).await?;
        }
        if let Some(Login { user, password }) = &self.login {
            step.set(Step::LogIn);
            if connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
                return Err(Refusal::Lacks("it offers no login with a password (AUTH PLAIN or LOGIN)"));
            }
            let credentials = Credentials::new(user.clone(), password.clone());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await?;
        }
        step.set(Step::Send);
        connection.send(mail.envelope(), &mail.formatted()).await?;
        Ok(connection)
    }

    fn failure(&self, error: &Error, step: Step) -> Failure {
        let Some(code) = error.status() else {
            // Such as an address that this server cannot take: nothing was sent.
            let step = if error.is_client() { Step::Connect } else { step };
            return self.unavailable(&self.reason(error), step);
        };
        let refused = match step {
            Step::Connect => "this client",
            Step::LogIn => "the login",
            Step::Send => "the report",
        };
        let is_temporary = error.is_transient() || u16::from(code) == FULL;
        let (fail, how): (fn(String) -> Failure, _) = match is_temporary {
            true => (Failure::temporary, "for now"),
            false => (Failure::refused, "for good"),
        };
        fail(format!("{} refuses {refused} {how}: {code} {}", self.server(), self.reason(error)))
    }

    fn unavailable(&self, why: &str, step: Step) -> Failure {
        let sent = match step {
            Step::Send => "; it may have sent the report all the same",
            Step::Connect | Step::LogIn => "",
        };
        Failure::unavailable(format!("{} cannot be used: {why}{sent}", self.server()))
    }

    fn server(&self) -> String {
        format!("the mail server (MAIL_URL) at {}:{}", self.host, self.port)
    }

    /// What the server says, or the innermost reason, in one line and without the password.
    fn reason(&self, error: &Error) -> String {
        let mut inner: &dyn std::error::Error = error;
        let mut hint = "";
        while let Some(source) = inner.source() {
            inner = source;
            // An I/O error that holds one of TLS does not name it as its source.
            if let Some(tls) = inner.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
                inner = tls;
            }
            hint = match inner.downcast_ref() {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    "; MAIL_CA_FILE takes the certificates of the authorities to trust"
                }
                Some(rustls::Error::InvalidMessage(_)) => {
                    "; the server does not begin with TLS, which smtps:// needs"
                }
                _ => hint,
            };
        }
        let said = format!("{inner}{hint}").replace(char::is_control, " ");
        if self.login.as_ref().is_some_and(|login| login.is_in(&said)) {
            return "its answer is not shown, for it holds the password".to_owned();
        }
        said.chars().take(MAX_SHOWN).collect()
    }
}

impl Login {
    /// Whether a text holds the password, as it is or as it is sent.
    fn is_in(&self, text: &str) -> bool {
        let Self { user, password } = self;
        let sent =
            [password.clone(), format!("\0{user}\0{password}")].map(|sent| BASE64_STANDARD.encode(sent));
        [password].into_iter().chain(&sent).any(|secret| text.contains(&**secret))
    }
}

/// Why sending has failed.
enum Refusal {
    Smtp(Error),
    Lacks(&'static str),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Smtp(error)
    }
}

/// Reads a setting with an address, or with several.
fn address<T: FromStr<Err: fmt::Display>>(
    variables: &Variables,
    name: &str,
    accepted: &str,
) -> Result<T, Failure> {
    let Some(text) = variables.get(name) else {
        return Err(Failure::setting(format!("{name} is not set; it takes {accepted}")));
    };
    text.parse()
        .map_err(|error| Failure::setting(format!("{name} is {text:?} ({error}); it takes {accepted}")))
}

/// The user of the URL, with the password of the URL or of `MAIL_PASSWORD`.
fn login(url: &Url, variables: &Variables) -> Result<Option<Login>, Failure> {
    let decode = |name: &str, text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().map(Cow::into_owned);
        decoded.map_err(|_| {
            Failure::setting(format!("the {name} in MAIL_URL is not UTF-8; MAIL_URL takes {ACCEPTED}"))
        })
    };
    let user = decode("user", url.username())?;
    let in_url = url.password().map(|password| decode("password", password)).transpose()?;
    let password = match (in_url, variables.secret("MAIL_PASSWORD")?) {
        (Some(_), Some(_)) => {
            let twice = "the password is given twice, in MAIL_URL and by MAIL_PASSWORD; keep one of them";
            return Err(Failure::setting(twice));
        }
        (in_url, other) => in_url.or(other),
    };
    match (&*user, password) {
        ("", None) => Ok(None),
        ("", Some(_)) => Err(Failure::setting("MAIL_URL names no user for the password; it takes USER@HOST")),
        (_, None) => {
            Err(Failure::setting("MAIL_URL names a user without a password; MAIL_PASSWORD takes it"))
        }
        (_, Some(password)) => Ok(Some(Login { user, password })),
    }
}

/// Trusts what `MAIL_CA_FILE` names instead of the system's authorities.
fn tls(host: &str, file: Option<&str>) -> Result<TlsParameters, Failure> {
    let mut builder = TlsParameters::builder(host.to_owned());
    let wrong = |why: &dyn fmt::Display| {
        let file = file.unwrap_or_default();
        Failure::setting(format!(
            "MAIL_CA_FILE {file}: {why}; it takes a PEM file with certificates of authorities"
        ))
    };
    if let Some(file) = file {
        builder = builder.certificate_store(CertificateStore::None);
        let authorities =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let authorities = authorities.map_err(|error| wrong(&error))?;
        if authorities.is_empty() {
            return Err(wrong(&"it holds no certificate"));
        }
        for authority in authorities {
            let authority = Certificate::from_der(authority.to_vec()).map_err(|error| wrong(&error))?;
            builder = builder.add_root_certificate(authority);
        }
    }
    builder.build().map_err(|error| wrong(&error))
}
