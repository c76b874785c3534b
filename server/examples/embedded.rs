//! The service in a program of one's own, with a guard of one's own.
//!
//! ```sh
//! cargo run -p ledger-server --example embedded
//! ```
//!
//! Two tokens are known. `reader` may read and follow; `writer` may do everything. The program
//! serves a store in memory by gRPC, then calls itself as both.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use ledger_core::StoreName;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::v1::{AppendRequest, CountRequest, EntryInput};
use ledger_server::{
    FixedStores, Guard, Identity, Limits, PeerCertificates, Protocol, Service, ServiceOptions,
    Shutdown, grpc_router, serve,
};
use ledger_sources::sqlite::{SqliteConfig, SqliteStore, StoreOptions};
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};

/// Tells callers apart by the header `authorization`.
struct Tokens;

#[async_trait]
impl Guard for Tokens {
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        _: Option<&PeerCertificates>,
    ) -> Result<Identity, Status> {
        let token = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        match token.and_then(|token| token.strip_prefix("Bearer ")) {
            Some(subject @ ("reader" | "writer")) => Ok(Identity {
                subject: subject.to_owned(),
                ..Identity::default()
            }),
            _ => Err(Status::unauthenticated("a known token is needed")),
        }
    }

    async fn authorise(&self, identity: &Identity, _: &str, action: &str) -> Result<(), Status> {
        const READS: [&str; 6] = ["Read", "Count", "Stat", "Search", "ListStreamIDs", "Tail"];
        let method = action.rsplit('/').next().unwrap_or_default();
        if identity.subject == "writer" || READS.contains(&method) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{} may not {method}",
            identity.subject
        )))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = StoreName::new("orders")?;
    let store = SqliteStore::open(SqliteConfig::memory(), name, StoreOptions::default()).await?;
    let options = ServiceOptions {
        guard: Arc::new(Tokens),
        ..ServiceOptions::default()
    };
    let stores = FixedStores::new([Arc::new(store) as Arc<dyn ledger_core::Store>]);
    let service = Service::new(Arc::new(stores), options);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let shutdown: Shutdown = service.options().shutdown.clone();
    let serving = tokio::spawn({
        let (router, shutdown) = (grpc_router(&service), shutdown.clone());
        async move {
            let limits = Limits::default();
            serve(listener, router, Protocol::Grpc, None, &limits, shutdown).await
        }
    });

    let mut client = LedgerServiceClient::connect(address).await?;
    let append = AppendRequest {
        stream: "user-123".to_owned(),
        entries: vec![EntryInput {
            payload: r#"{"item":"book"}"#.into(),
            ..EntryInput::default()
        }],
        ..AppendRequest::default()
    };
    let refused = client.append(call("reader", append.clone())?).await;
    let refused = refused.err().ok_or("a reader must not append")?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    println!("reader: {}", refused.message());

    let ids = client
        .append(call("writer", append)?)
        .await?
        .into_inner()
        .ids;
    println!("writer: appended {}", ids.join(", "));

    let count = CountRequest {
        stream: "user-123".to_owned(),
    };
    let count = client
        .count(call("reader", count)?)
        .await?
        .into_inner()
        .count;
    println!("reader: counted {count}");
    assert_eq!(count, 1);

    shutdown.begin(Duration::from_secs(5));
    serving.await??;
    Ok(())
}

fn call<T>(token: &str, message: T) -> Result<Request<T>, Box<dyn Error>> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {token}").parse()?);
    metadata.insert("x-ledger-store", "orders".parse()?);
    Ok(request)
}
