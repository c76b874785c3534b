//! The HTTP client: it looks at every address before it connects, follows no redirect, asks no proxy.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use super::target::Policy;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// When the system begins to probe a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How often an HTTP/2 connection is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// Finds the addresses of a name.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses, in the order in which to try them.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// Resolves a name once, and gives on what it found only where all of it may be connected to. The
/// connection is made to exactly these addresses: a name that changes in between changes nothing.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    resolver: Arc<dyn Resolve>,
    policy: Policy,
}

impl tower::Service<Name> for Checked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { resolver, policy } = self.clone();
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            for address in &addresses {
                policy.check(*address).map_err(|why| {
                    let what = format!("{name} is not connected to: {why}");
                    io::Error::new(io::ErrorKind::PermissionDenied, what)
                })?;
            }
            let addresses: Vec<_> = addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            Ok(addresses.into_iter())
        })
    }
}

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector<Checked>>, Full<Bytes>>;

/// A client that connects to what the policy lets it, over HTTP/1.1, or HTTP/2 where TLS agrees on
/// it.
pub(super) fn client(resolver: Arc<dyn Resolve>, policy: Policy, tls: ClientConfig) -> HttpClient {
    let mut connector = HttpConnector::new_with_resolver(Checked { resolver, policy });
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_connect_timeout(Some(CONNECT));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(PING)
        .build(connector)
}
