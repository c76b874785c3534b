//! The HTTP client under the ClickHouse client.

use std::time::Duration;

use clickhouse::Client;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// When the system begins to probe a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Below the three seconds after which a server closes an idle connection (`keep_alive_timeout`).
const IDLE: Duration = Duration::from_secs(2);

/// A client that sends what it has at once. The default one leaves Nagle's algorithm on: the end of
/// an insert's body then waits until the server has acknowledged what came before, which a server
/// puts off for 40 ms, so that most small inserts took 47 ms in place of 7.
pub(super) fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_connect_timeout(Some(CONNECT));
    connector.enforce_http(false);
    // An application may have several providers built in; the default is this one only where it is
    // the only one.
    let provider = rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(provider)
        .unwrap_or_else(|_| HttpsConnectorBuilder::new().with_webpki_roots())
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::with_http_client(
        HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .build(connector),
    )
}
