//! Listening: connections, TLS, and patience with clients.

mod patience;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use patience::Patient;
pub use tls::{PeerCertificates, Tls};

use crate::{Limits, Shutdown};

/// Which protocols a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 only, as gRPC needs it.
    Grpc,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

/// Serves a router on a listener until the shutdown is over: every request is answered, or the
/// grace has passed and what is left was cut off.
///
/// A connection that cannot be accepted, or whose handshake fails, is logged and harms no other.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    protocol: Protocol,
    tls: Option<Tls>,
    limits: &Limits,
    shutdown: Shutdown,
) -> io::Result<()> {
    let tls = tls.map(|tls| tls.acceptor(protocol)).transpose()?;
    let shared = Arc::new(Shared {
        builder: builder(protocol, limits),
        protocol,
        router,
        limits: limits.clone(),
        tls,
    });
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    let deadline = loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            at = shutdown.begun() => break at,
            accepted = accepted => accepted,
            // Keeps the set from growing with connections that have ended.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
                connections.spawn(async move {
                    // Held until the connection has ended.
                    let _place = place;
                    shared.connection(stream, &shutdown).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of file descriptors, most likely: the next attempt would fail as fast.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, all).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "connections were cut off at the shutdown's deadline"
        );
        connections.shutdown().await;
    }
    Ok(())
}

struct Shared {
    builder: auto::Builder<TokioExecutor>,
    protocol: Protocol,
    router: Router,
    limits: Limits,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Shared {
    async fn connection(&self, stream: TcpStream, shutdown: &Shutdown) {
        // Small answers must not wait for more to be sent with them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let Some(tls) = &self.tls else {
            return self.http(stream, None, shutdown).await;
        };
        let handshake = tokio::time::timeout(self.limits.handshake_time, tls.accept(stream));
        match handshake.await {
            Ok(Ok(stream)) => {
                let certificates = PeerCertificates::of(stream.get_ref().1);
                self.http(stream, certificates, shutdown).await;
            }
            Ok(Err(error)) => tracing::info!(%error, "a TLS handshake failed"),
            Err(_) => tracing::info!("a TLS handshake took too long"),
        }
    }

    async fn http<I>(&self, io: I, certificates: Option<PeerCertificates>, shutdown: &Shutdown)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(certificates) = &certificates {
                request.extensions_mut().insert(certificates.clone());
            }
            router.clone().oneshot(request)
        });
        let io = Patient::new(io, self.protocol, &self.limits);
        let service = TowerToHyperService::new(service);
        let connection = self.builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %*error, "a connection ended early");
        }
    }
}

fn builder(protocol: Protocol, limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The gate tells who is over the limit in clear words; far beyond it, the connection is broken.
    let header_bytes = limits.header_bytes.saturating_mul(2);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_time)
        .max_headers(limits.headers.saturating_mul(2))
        .max_buf_size(
            usize::try_from(header_bytes)
                .unwrap_or(usize::MAX)
                .max(8 << 10),
        );
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .adaptive_window(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(256 << 10);
    match protocol {
        Protocol::Grpc => builder.http2_only(),
        Protocol::Http => builder,
    }
}
