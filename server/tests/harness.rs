//! A service on a store of its own, with clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use ledger_core::{Store, StoreName};
use ledger_server::v1::admin_service_client::AdminServiceClient;
use ledger_server::v1::follow_service_client::FollowServiceClient;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::v1::{AppendRequest, EntryInput};
use ledger_server::{
    FixedStores, Limits, Protocol, Service, ServiceOptions, Shutdown, Stores, Tls, grpc_router,
    http_router, serve,
};
use ledger_sources::sqlite::{SqliteConfig, SqliteStore, StoreOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Adds headers to every call.
#[derive(Clone, Default)]
pub(crate) struct Headers(Vec<(&'static str, String)>);

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        Ok(request)
    }
}

pub(crate) type Wire = InterceptedService<Channel, Headers>;
pub(crate) type Client = LedgerServiceClient<Wire>;

pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) address: SocketAddr,
    pub(crate) http: Router,
    pub(crate) shutdown: Shutdown,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(ServiceOptions::default()).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        Self::with(ServiceOptions {
            limits,
            ..ServiceOptions::default()
        })
        .await
    }

    pub(crate) async fn with(options: ServiceOptions) -> Self {
        let (store, folder) = store(StoreOptions::default()).await;
        Self::over(options, store, folder, None, None).await
    }

    pub(crate) async fn with_tls(tls: Tls) -> Self {
        let (store, folder) = store(StoreOptions::default()).await;
        Self::over(ServiceOptions::default(), store, folder, None, Some(tls)).await
    }

    pub(crate) async fn over(
        options: ServiceOptions,
        store: Arc<dyn Store>,
        folder: tempfile::TempDir,
        stores: Option<Arc<dyn Stores>>,
        tls: Option<Tls>,
    ) -> Self {
        let stores = stores.unwrap_or_else(|| {
            let stores: Arc<dyn Stores> = Arc::new(FixedStores::new([Arc::clone(&store)]));
            stores
        });
        let shutdown = options.shutdown.clone();
        let limits = options.limits.clone();
        let service = Service::new(stores, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn({
            let (router, shutdown) = (grpc_router(&service), shutdown.clone());
            async move { serve(listener, router, Protocol::Grpc, tls, &limits, shutdown).await }
        });
        Self {
            http: http_router(&service, Some(Arc::new(|| "ledger_up 1\n".to_owned()))),
            store,
            address,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// Serves the gateway on a listener of its own.
    pub(crate) async fn listen_http(&self, tls: Option<Tls>, limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, shutdown) = (self.http.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            serve(listener, router, Protocol::Http, tls, &limits, shutdown).await
        });
        address
    }

    async fn wire(&self, headers: &[(&'static str, &str)]) -> Wire {
        let headers = headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        InterceptedService::new(self.channel().await, Headers(headers))
    }

    /// A client whose calls carry just these headers.
    pub(crate) async fn client_with(&self, headers: &[(&'static str, &str)]) -> Client {
        LedgerServiceClient::new(self.wire(headers).await)
    }

    /// A client of the store.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(&[("x-ledger-store", "orders")]).await
    }

    pub(crate) async fn follower(&self) -> FollowServiceClient<Wire> {
        FollowServiceClient::new(self.wire(&[("x-ledger-store", "orders")]).await)
    }

    pub(crate) async fn admin(&self) -> AdminServiceClient<Wire> {
        AdminServiceClient::new(self.wire(&[]).await)
    }

    /// A request to the gateway, of the store.
    pub(crate) async fn http(
        &self,
        method: Method,
        path: &str,
        body: impl Into<String>,
    ) -> (StatusCode, Value) {
        let headers = [("x-ledger-store", "orders")];
        let (status, _, body) = self.raw(method, path, &headers, body.into()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// A request to the gateway with just these headers.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        let response = self.response(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        (parts.status, parts.headers, body)
    }

    pub(crate) async fn response(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        self.http.clone().oneshot(request).await.unwrap()
    }
}

pub(crate) async fn store(options: StoreOptions) -> (Arc<dyn Store>, tempfile::TempDir) {
    let (store, folder) = sqlite(options).await;
    (Arc::new(store), folder)
}

pub(crate) async fn sqlite(options: StoreOptions) -> (SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig::file(folder.path().join("ledger.db"));
    let name = StoreName::new("orders").unwrap();
    let store = SqliteStore::open(config, name, options).await.unwrap();
    (store, folder)
}

pub(crate) fn input(payload: impl Into<bytes::Bytes>) -> EntryInput {
    EntryInput {
        payload: payload.into(),
        ..EntryInput::default()
    }
}

pub(crate) fn appending(stream: &str, entries: Vec<EntryInput>) -> AppendRequest {
    AppendRequest {
        stream: stream.to_owned(),
        entries,
        ..AppendRequest::default()
    }
}

/// Appends one entry for each payload; their ids.
pub(crate) async fn append(client: &mut Client, stream: &str, payloads: &[&str]) -> Vec<String> {
    let entries = payloads.iter().map(|payload| input((*payload).to_owned()));
    let request = appending(stream, entries.collect());
    client.append(request).await.unwrap().into_inner().ids
}

/// The code and the stable reason of a failure.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, Status) {
    let status = answer.unwrap_err();
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "ledger");
    (status.code(), info.reason, status)
}

/// Waits for something that has to come.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future)
        .await
        .expect("it took too long")
}
