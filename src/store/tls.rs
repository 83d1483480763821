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
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{AddressFamily, Config};
use crate::store::error::{StoreSetupError, UNTRUSTED};
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut pinned = Vec::new();
        let mut roots = RootCertStore::empty();
        if let Some(file) = &config.redis_ca_file {
            pinned = certificates(CA_FILE, file)?;
            for authority in &pinned {
                roots.add(authority.clone()).map_err(|error| in_file(CA_FILE, file, error))?;
            }
        } else if config.redis_tls_verify {
            // One that cannot be read is no reason to distrust the others.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let errors: String = found.errors.iter().map(|error| format!(" ({error})")).collect();
                let text = format!("this system trusts no certificate authority{errors}; set REDIS_CA_FILE");
                return Err(StoreSetupError(text));
            }
        }
        let no_tls = |error: &dyn fmt::Display| StoreSetupError(format!("no TLS: {error}"));
        let authorities = config.redis_tls_verify.then(|| {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.build().map_err(|error| no_tls(&error))
        });
        let verifier = Verifier { authorities: authorities.transpose()?, pinned, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| no_tls(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
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
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        family: AddressFamily,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = connect_tcp(host, port, family).await?;
        let connecting = TlsConnector::from(self.0.clone()).connect(name, stream);
        connecting.await.map_err(sentence)
    }
}

/// Whether a server is the one that is meant. That it has the key of the certificate that it shows is
/// checked in any case.
#[derive(Debug)]
struct Verifier {
    /// What vouches for a server; nothing where `REDIS_TLS_VERIFY=off`.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates of servers that need nothing to vouch for them: most that people sign themselves
    /// are an authority's, which a server may not show, or name no host.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.authorities {
            Some(authorities) if !self.pinned.contains(certificate) => {
                match authorities.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
                    // Of an authority that has the same name, and not of the server itself.
                    Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                        Err(CertificateError::UnknownIssuer.into())
                    }
                    verified => verified,
                }
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match verify_tls12_signature(message, certificate, signature, algorithms) {
            Err(rustls::Error::InvalidCertificate(defect)) if is_version_1(&defect) => {
                let key = key_of_version_1(certificate, defect)?;
                let key =
                    webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
                // TLS 1.2 names a kind of signature, and not the curve of the key.
                let is_verified = algorithms
                    .mapping
                    .iter()
                    .filter(|(scheme, _)| *scheme == signature.scheme)
                    .flat_map(|(_, algorithms)| *algorithms)
                    .any(|algorithm| {
                        key.verify_signature(*algorithm, message, signature.signature()).is_ok()
                    });
                match is_verified {
                    true => Ok(HandshakeSignatureValid::assertion()),
                    false => Err(CertificateError::BadSignature.into()),
                }
            }
            verified => verified,
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match verify_tls13_signature(message, certificate, signature, algorithms) {
            Err(rustls::Error::InvalidCertificate(defect)) if is_version_1(&defect) => {
                let key = key_of_version_1(certificate, defect)?;
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            }
            verified => verified,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The same error as a sentence that says what helps. It does not change from one attempt to the next:
/// rustls says by how many seconds a certificate has expired, so each attempt of an outage would be
/// logged as a new reason.
fn sentence(error: io::Error) -> io::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    let message = match reason {
        Some(rustls::Error::InvalidCertificate(defect)) => {
            format!("{UNTRUSTED} {}", describe(defect))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "what answers does not speak TLS; REDIS_URL takes the port for TLS, or redis://".to_owned()
        }
        _ => return error,
    };
    io::Error::new(error.kind(), message)
}

/// Whether a certificate is of X.509 version 1, as `openssl x509 -req` makes it without extensions.
fn is_version_1(defect: &CertificateError) -> bool {
    let CertificateError::Other(other) = defect else {
        return false;
    };
    other.0.downcast_ref() == Some(&webpki::Error::UnsupportedCertVersion)
}

/// The key of a certificate of X.509 version 1, or else the defect. Such a one holds no more than a trust
/// anchor does, and can be read as one.
fn key_of_version_1(
    certificate: &CertificateDer<'_>,
    defect: CertificateError,
) -> Result<SubjectPublicKeyInfoDer<'static>, CertificateError> {
    let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| defect)?;
    Ok(webpki::spki_for_anchor(&anchor))
}

/// What is wrong with a certificate, and which setting helps.
fn describe(defect: &CertificateError) -> String {
    match defect {
        CertificateError::UnknownIssuer => {
            "is signed by no authority that is trusted; REDIS_CA_FILE takes the authority's, or exactly this one"
        }
        CertificateError::NotValidForNameContext { expected, .. } => {
            return format!(
                "is not valid for the name {}; REDIS_URL takes a host that it names, or REDIS_CA_FILE exactly this one",
                expected.to_str()
            );
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired; renew it, or check the clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet; check the clock"
        }
        CertificateError::BadSignature => "was shown by a server that has not the key of it",
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "has a key or a signature of an unsupported kind; make one with RSA of 2048 bits, P-256 or P-384"
        }
        defect if is_version_1(defect) => {
            "is of X.509 version 1; make one of version 3, that names its host, or have REDIS_CA_FILE hold exactly this one"
        }
        // The last is mostly one that signs itself.
        CertificateError::InvalidPurpose
        | CertificateError::InvalidPurposeContext { .. }
        | CertificateError::Other(_) => {
            "is made for an authority or a client, and not for a server; REDIS_CA_FILE takes exactly this one all the same"
        }
        _ => "cannot be verified; renew it, or have REDIS_CA_FILE hold exactly this one",
    }
    .to_owned()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::crypto::ring::{default_provider, sign};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{CertificateError, ClientConfig, ClientConnection, OtherError, RootCertStore};
    use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::{Verifier, describe};

    #[test]
    fn what_is_wrong_with_a_certificate_is_a_sentence_and_no_debug_text() {
        let unsupported = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![1],
            public_key_algorithm_id: vec![2],
        };
        let other = std::io::Error::other("CaUsedAsEndEntity");
        let other = CertificateError::Other(OtherError(Arc::new(other)));
        for (defect, words) in [
            (CertificateError::UnknownIssuer, "REDIS_CA_FILE takes"),
            (CertificateError::BadSignature, "has not the key"),
            (CertificateError::Expired, "has expired"),
            (CertificateError::NotValidYet, "not valid yet"),
            (unsupported, "of an unsupported kind"),
            (other, "and not for a server"),
            (CertificateError::BadEncoding, "cannot be verified"),
        ] {
            let said = describe(&defect);
            assert!(said.contains(words) && !said.contains("Context"), "{said}");
            assert!(!said.contains("CaUsedAsEndEntity"), "{said}");
        }
    }

    /// As `openssl x509 -req` makes it of a key of P-256.
    const FIRST_VERSION: &[u8] = b"-----BEGIN CERTIFICATE-----\n\
        MIIBFjCBvQIUNaTRdyzf4A+IurMkVDacjPPgkZcwCgYIKoZIzj0EAwIwDTELMAkG\n\
        A1UEAwwCZGIwIBcNMjYxMTMwMTgxNzM3WhgPMjEyNjExMDYxODE3MzdaMA0xCzAJ\n\
        BgNVBAMMAmRiMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy7qNZpXwws4wFRki\n\
        0cp8qwBboi9Zj5aJT/ewCGyXYOVxTw/+lBOtah/SBvjV9bNdnj4XSJWDR3cQb5z8\n\
        D6w1TjAKBggqhkjOPQQDAgNIADBFAiAf0zxYA01hPcnvgfrLjcxeVy8JBCAWNpe8\n\
        pdeFdx3AbAIhAKTiU2B8AM0Fo5D61/+OgbHLQ+eoJHb6x/LaKZYuT9RJ\n\
        -----END CERTIFICATE-----\n";

    /// A certificate for `db` that signs itself, and its key.
    fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let identity = rcgen::generate_simple_self_signed(["db".to_owned()]).expect("a certificate");
        (identity.cert.der().clone(), identity.signing_key.into())
    }

    /// What a client says to a server that shows this certificate and has this key.
    fn shake_hands(
        version: &'static SupportedProtocolVersion,
        verifier: Verifier,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<(), rustls::Error> {
        let provider = verifier.provider.clone();
        let key = CertifiedKey::new(vec![certificate], sign::any_supported_type(key)?);
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server))?;
        let name = ServerName::try_from("other").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        while client.is_handshaking() {
            let (mut sent, mut answer) = (Vec::new(), Vec::new());
            client.write_tls(&mut sent).expect("memory");
            let mut sent = &sent[..];
            while server.read_tls(&mut sent).expect("memory") > 0 {
                server.process_new_packets()?;
            }
            while server.wants_write() {
                server.write_tls(&mut answer).expect("memory");
            }
            let mut answer = &answer[..];
            while client.read_tls(&mut answer).expect("memory") > 0 {
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    /// A verifier that trusts what is `pinned`; without it, any.
    fn verifier(pinned: Option<CertificateDer<'static>>) -> Verifier {
        let provider = Arc::new(default_provider());
        let authorities = pinned.clone().map(|pinned| {
            let mut roots = RootCertStore::empty();
            roots.add(pinned).expect("a certificate");
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.build().expect("an authority")
        });
        Verifier { authorities, pinned: pinned.into_iter().collect(), provider }
    }

    #[test]
    fn a_server_without_the_key_of_its_certificate_is_refused_in_any_case() {
        let (certificate, key) = identity();
        let (other, other_key) = identity();
        let first_version = CertificateDer::from_pem_slice(FIRST_VERSION).expect("a certificate");
        for version in [&TLS12, &TLS13] {
            for pinned in [None, Some(certificate.clone())] {
                let shown = shake_hands(version, verifier(pinned.clone()), certificate.clone(), &key);
                assert_eq!(shown, Ok(()));
                let stolen = shake_hands(version, verifier(pinned), certificate.clone(), &other_key);
                assert_eq!(stolen, Err(CertificateError::BadSignature.into()));
            }
            for pinned in [None, Some(first_version.clone())] {
                let stolen = shake_hands(version, verifier(pinned), first_version.clone(), &key);
                assert_eq!(stolen, Err(CertificateError::BadSignature.into()));
            }
            let refused = shake_hands(version, verifier(Some(other.clone())), certificate.clone(), &key);
            assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{refused:?}");
        }
    }
}
