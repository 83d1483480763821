//! Encrypted connections to Redis, for `rediss://`.
//!
//! Certificates are read once, at start, where a bad one can still be told as a setting that is wrong.
//! What every connection has in common is put together there too, so that sessions can be resumed.

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

use crate::config::{Config, Optional};
use crate::stream::tcp;

/// Whom to trust, and who this is.
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
    /// A file has no certificate or key in it, or cannot be read.
    #[error("{name}={} cannot be used ({error}); it takes a PEM file", file.display())]
    File {
        /// The setting.
        name: &'static str,
        /// The file that it names.
        file: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// Certificates that do not fit their key, and the like.
    #[error("the TLS settings of Redis cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// The URL's host is neither a name nor an address.
    #[error("REDIS_URL names a host that no certificate can be made for: {0}")]
    Host(#[from] InvalidDnsNameError),
    /// The URL wants certificates not to be checked.
    #[error("REDIS_URL ends with #insecure; it takes rediss:// with certificates that are checked")]
    Insecure,
}

impl Tls {
    /// Reads the certificates that `config` names, or else the system's.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsSetupError> {
        match config.redis_url.connection.addr() {
            ConnectionAddr::TcpTls {
                host,
                insecure: false,
                ..
            } => ServerName::try_from(host.as_str())?,
            _ => return Err(TlsSetupError::Insecure),
        };
        let mut roots = RootCertStore::empty();
        if let Some(authorities) = certificates("REDIS_CA_FILE", &config.redis_ca_file)? {
            for authority in authorities {
                roots.add(authority)?;
            }
        } else {
            // One that cannot be read is no reason to distrust the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let own = certificates("REDIS_CERT_FILE", &config.redis_cert_file)?;
        let client = match (own, &config.redis_key_file.0) {
            (Some(chain), Some(file)) => {
                let key = PrivateKeyDer::from_pem_file(file)
                    .map_err(|error| in_file("REDIS_KEY_FILE", file, error))?;
                builder.with_client_auth_cert(chain, key)?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self {
            connector: Arc::new(client).into(),
        })
    }

    /// Connects and checks whom it has reached.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = tcp(host, port).await?;
        let connecting = self.connector.connect(name, stream);
        connecting.await.map_err(lasting)
    }
}

/// The same error in words that do not change from one attempt to the next: rustls says by how many
/// seconds a certificate has expired, and what is said once in an outage would be said each second.
fn lasting(error: io::Error) -> io::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    let lasting = match reason {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {
            "invalid peer certificate: certificate expired"
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            ..
        })) => "invalid peer certificate: certificate not valid yet",
        _ => return error,
    };
    io::Error::new(error.kind(), lasting)
}

/// The certificates in the file that a setting names, at least one.
fn certificates(
    name: &'static str,
    file: &Optional<PathBuf>,
) -> Result<Option<Vec<CertificateDer<'static>>>, TlsSetupError> {
    let Some(file) = &file.0 else {
        return Ok(None);
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(name, file, error))?;
    if certificates.is_empty() {
        return Err(in_file(name, file, pem::Error::NoItemsFound));
    }
    Ok(Some(certificates))
}

fn in_file(name: &'static str, file: &Path, error: pem::Error) -> TlsSetupError {
    TlsSetupError::File {
        name,
        file: file.to_owned(),
        error,
    }
}
