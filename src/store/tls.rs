//! Encrypted streams to Redis, for `rediss://`.
//!
//! Certificates are read once, at start, where a bad one can still be refused as a wrong setting. All
//! streams share the state that is made there, so that TLS sessions can be resumed. The redis crate
//! would read the system's certificates at every attempt, on the event loop (4.4 ms).

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redis::ConnectionAddr;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Config;
use crate::store::error::StoreSetupError;
use crate::store::stream::connect_tcp;

/// The authorities to trust, and the certificate of this client.
#[derive(Debug)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Reads the certificates that `config` names, or else the system's.
    pub(crate) fn new(config: &Config) -> Result<Self, StoreSetupError> {
        if let ConnectionAddr::TcpTls { host, .. } = config.redis_url.connection.addr() {
            ServerName::try_from(host.as_str()).map_err(|error| {
                let what = "REDIS_URL names a host that no certificate can be made for";
                StoreSetupError(format!("{what}: {error}"))
            })?;
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
                let errors: String = found.errors.iter().map(|error| format!(" ({error})")).collect();
                let text = format!("this system trusts no certificate authority{errors}; set REDIS_CA_FILE");
                return Err(StoreSetupError(text));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreSetupError(format!("no TLS: {error}")))?
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
        Ok(Self(Arc::new(client)))
    }

    /// Connects and checks the server's certificate.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = connect_tcp(host, port).await?;
        let connecting = TlsConnector::from(self.0.clone()).connect(name, stream);
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
fn certificates(setting: Setting, file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreSetupError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(setting, file, error))?;
    if certificates.is_empty() {
        return Err(in_file(setting, file, pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// A setting, and what its file must hold.
type Setting = (&'static str, &'static str);

const CA_FILE: Setting = ("REDIS_CA_FILE", "the certificates to trust");
const CERT_FILE: Setting = ("REDIS_CERT_FILE", "a certificate and those that vouch for it");
const KEY_FILE: Setting = ("REDIS_KEY_FILE", "the key that belongs to REDIS_CERT_FILE");

fn in_file((name, expected): Setting, file: &Path, error: impl fmt::Display) -> StoreSetupError {
    let file = file.display();
    StoreSetupError(format!("{name}={file} cannot be used ({error}); it takes a PEM file of {expected}"))
}
