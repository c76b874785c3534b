//! TLS and mutual TLS.

use std::sync::Arc;

use ledger_server::v1::HealthRequest;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::{Limits, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::harness::Server;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

async fn health(server: &Server, tls: ClientTlsConfig) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let endpoint = endpoint.tls_config(tls.domain_name("localhost")).unwrap();
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("{error:?}"))?;
    let mut client = LedgerServiceClient::new(channel);
    let answer = client.health(HealthRequest {}).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

fn tls(authority: &Authority, clients: Option<&Authority>) -> Tls {
    let (certificate, key) = authority.issue("localhost");
    Tls {
        certificate: certificate.into_bytes(),
        key: key.into_bytes(),
        client_authorities: clients.map(|clients| clients.pem().into_bytes()),
    }
}

#[tokio::test]
async fn a_client_trusts_the_right_authority_only() {
    let (own, other) = (Authority::new(), Authority::new());
    let server = Server::with_tls(tls(&own, None)).await;
    let trusting = |authority: &Authority| {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
    };
    health(&server, trusting(&own)).await.unwrap();
    health(&server, trusting(&other)).await.unwrap_err();
    let plain = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let answer = match plain.connect().await {
        Ok(channel) => LedgerServiceClient::new(channel)
            .health(HealthRequest {})
            .await
            .map(drop),
        Err(_) => return,
    };
    answer.unwrap_err();
}

#[tokio::test]
async fn mutual_tls_asks_for_a_certificate_of_the_right_authority() {
    let (own, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let server = Server::with_tls(tls(&own, Some(&clients))).await;
    let base = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(own.pem()));
    let with = |authority: &Authority| {
        let (certificate, key) = authority.issue("client");
        base.clone().identity(Identity::from_pem(certificate, key))
    };
    health(&server, base.clone()).await.unwrap_err();
    health(&server, with(&other)).await.unwrap_err();
    health(&server, with(&clients)).await.unwrap();
}

#[test]
fn what_is_wrong_with_a_certificate_is_named() {
    let authority = Authority::new();
    let good = tls(&authority, Some(&authority));
    good.check().unwrap();
    let (_, other_key) = authority.issue("localhost");
    for (wrong, named) in [
        (
            Tls {
                certificate: b"nothing".to_vec(),
                ..good.clone()
            },
            "tls.cert",
        ),
        (
            Tls {
                key: b"nothing".to_vec(),
                ..good.clone()
            },
            "tls.key",
        ),
        (
            Tls {
                key: other_key.into_bytes(),
                ..good.clone()
            },
            "tls.cert",
        ),
        (
            Tls {
                client_authorities: Some(vec![]),
                ..good.clone()
            },
            "tls.ca",
        ),
    ] {
        let error = wrong.check().unwrap_err().to_string();
        assert!(error.starts_with(named), "{error}");
    }
    assert!(format!("{good:?}").contains("***"));
}

#[tokio::test]
async fn the_gateway_has_tls_of_its_own() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

    let own = Authority::new();
    let server = Server::start().await;
    let address = server
        .listen_http(Some(tls(&own, None)), Limits::default())
        .await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(own.pem().as_bytes()).unwrap())
        .unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // The other side may close without a farewell; what it sent counts.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{version:?}: {answer:?}"
        );
    }
}
