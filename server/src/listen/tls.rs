//! TLS, with and without certificates of clients.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::Protocol;

/// A listener's certificate, and whose certificates its clients need. TLS 1.2 and newer.
#[derive(Clone)]
pub struct Tls {
    /// The certificate and what leads to its authority, in PEM.
    pub certificate: Vec<u8>,
    /// Its private key, in PEM.
    pub key: Vec<u8>,
    /// The authorities whose certificates clients must show, in PEM; none: clients need none.
    pub client_authorities: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("key", &"***")
            .field("mutual", &self.client_authorities.is_some())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Checks that certificate, key and authorities are what they should be and fit together;
    /// the error names which is not.
    pub fn check(&self) -> io::Result<()> {
        self.config(Protocol::Http).map(drop)
    }

    pub(super) fn acceptor(&self, protocol: Protocol) -> io::Result<TlsAcceptor> {
        Ok(TlsAcceptor::from(Arc::new(self.config(protocol)?)))
    }

    fn config(&self, protocol: Protocol) -> io::Result<ServerConfig> {
        let invalid = |what: &str, error: &dyn fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("tls.{what}: {error}"))
        };
        let chain = certificates(&self.certificate).map_err(|error| invalid("cert", &error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|error| invalid("key", &error))?;
        // Named, since a program may hold several.
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("cert", &error))?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem).map_err(|error| invalid("ca", &error))? {
                    roots
                        .add(authority)
                        .map_err(|error| invalid("ca", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = verifier.build().map_err(|error| invalid("ca", &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| invalid("cert", &error))?;
        config.alpn_protocols = match protocol {
            Protocol::Grpc => vec![b"h2".to_vec()],
            Protocol::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

/// The certificates with which a client opened its connection, its own first, each in DER. They
/// were verified. Stands in the extensions of each request of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

impl PeerCertificates {
    pub(super) fn of(connection: &ServerConnection) -> Option<Self> {
        let certificates = connection.peer_certificates()?;
        Some(Self(
            certificates
                .iter()
                .cloned()
                .map(CertificateDer::into_owned)
                .collect(),
        ))
    }
}
