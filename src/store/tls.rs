//! Encrypted streams to Redis, for `rediss://`.
//!
//! Certificates are read once, at start, where a bad one can still be refused as a wrong setting. All
//! streams share the state that is made there, so that TLS sessions can be resumed. The redis crate
//! would read the system's certificates at every attempt, on the event loop (4.4 ms).

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::ConnectionAddr;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Config;
use crate::store::stream::connect_tcp;

/// The authorities to trust, and the certificate of this client.
pub(crate) struct Tls {
    connector: TlsConnector,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read, or what is in it cannot be used.
    #[error("{name}={} cannot be used ({error}); it takes a PEM file of {}", file.display(), expected(name))]
    File {
        /// The setting.
        name: &'static str,
        /// The file that it names.
        file: PathBuf,
        /// What is wrong with it.
        error: Box<dyn Error + Send + Sync>,
    },
    /// No certificate authority is known.
    #[error("this system trusts no certificate authority{0}; set REDIS_CA_FILE")]
    NoAuthorities(String),
    /// The library cannot be used as it was built.
    #[error("no TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The URL's host is neither a name nor an address.
    #[error("REDIS_URL names a host that no certificate can be made for: {0}")]
    Host(#[from] InvalidDnsNameError),
}

impl Tls {
    /// Reads the certificates that `config` names, or else the system's.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsSetupError> {
        if let ConnectionAddr::TcpTls { host, .. } = config.redis_url.connection.addr() {
            ServerName::try_from(host.as_str())?;
        }
        let mut roots = RootCertStore::empty();
        if let Some(file) = &config.redis_ca_file {
            for authority in certificates(CA_FILE, file)? {
                roots.add(authority).map_err(|error| in_file(CA_FILE, file, error))?;
            }
        } else {
            // One that cannot be read is no reason to distrust the others.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let errors = found.errors.iter().map(|error| format!(" ({error})"));
                return Err(TlsSetupError::NoAuthorities(errors.collect()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let client = match (&config.redis_cert_file, &config.redis_key_file) {
            (Some(cert_file), Some(key_file)) => {
                let chain = certificates(CERT_FILE, cert_file)?;
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .map_err(|error| in_file(KEY_FILE, key_file, error))?;
                let client = builder.with_client_auth_cert(chain, key);
                client.map_err(|error| match error {
                    rustls::Error::InvalidCertificate(_) => in_file(CERT_FILE, cert_file, error),
                    _ => in_file(KEY_FILE, key_file, error),
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self { connector: Arc::new(client).into() })
    }

    /// Connects and checks the server's certificate.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = connect_tcp(host, port).await?;
        let connecting = self.connector.connect(name, stream);
        connecting.await.map_err(stable_message)
    }
}

/// The same error in words that do not change from one attempt to the next: rustls says by how many
/// seconds a certificate has expired, so each attempt of an outage would be logged as a new reason.
fn stable_message(error: io::Error) -> io::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    let message = match reason {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {
            "invalid peer certificate: certificate expired"
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })) => {
            "invalid peer certificate: certificate not valid yet"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), message)
}

/// The certificates in the file that a setting names, at least one.
fn certificates(name: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(name, file, error))?;
    if certificates.is_empty() {
        return Err(in_file(name, file, pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

const CA_FILE: &str = "REDIS_CA_FILE";
const CERT_FILE: &str = "REDIS_CERT_FILE";
const KEY_FILE: &str = "REDIS_KEY_FILE";

fn expected(name: &str) -> &'static str {
    match name {
        CA_FILE => "the certificates to trust",
        CERT_FILE => "a certificate and those that vouch for it",
        _ => "the key that belongs to REDIS_CERT_FILE",
    }
}

fn in_file(name: &'static str, file: &Path, error: impl Into<Box<dyn Error + Send + Sync>>) -> TlsSetupError {
    TlsSetupError::File { name, file: file.to_owned(), error: error.into() }
}
