//! Every code, its reason, and the order in which things are checked.

use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Error, ErrorKind, ReadOnly, Result, Store, StoreName};
use ledger_server::v1::{
    AppendRequest, CountRequest, HealthRequest, ListStreamIDsRequest, ReadRequest,
    RenameStreamRequest, SearchRequest, SetAnnotationsRequest, SetTagsRequest, StatRequest,
    TrimRequest,
};
use ledger_server::{ApiKeyGuard, Identity, ServiceOptions, StoreState, StoreStatus, Stores};
use ledger_sources::sqlite::StoreOptions;
use tonic::Code;

use crate::harness::{Server, append, appending, input, refusal, store};

#[tokio::test]
async fn key_header_allow_list_and_fields_are_checked_in_this_order() {
    let server = Server::with(ServiceOptions {
        guard: Arc::new(ApiKeyGuard::new("secret")),
        allowed_stores: vec![StoreName::new("orders").unwrap()],
        ..ServiceOptions::default()
    })
    .await;
    let cases: [(&[(&'static str, &str)], Code, &str); 7] = [
        (
            &[("x-ledger-store", "no!")],
            Code::Unauthenticated,
            "x-api-key",
        ),
        (
            &[("x-api-key", "wrong")],
            Code::Unauthenticated,
            "x-api-key",
        ),
        (
            &[("x-api-key", "secret")],
            Code::InvalidArgument,
            "x-ledger-store",
        ),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "")],
            Code::InvalidArgument,
            "x-ledger-store",
        ),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "a-b")],
            Code::InvalidArgument,
            "a-b",
        ),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "others")],
            Code::PermissionDenied,
            "others",
        ),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "orders")],
            Code::InvalidArgument,
            "stream",
        ),
    ];
    for (headers, expected, named) in cases {
        let mut client = server.client_with(headers).await;
        let (code, _, status) = refusal(client.append(AppendRequest::default()).await);
        assert_eq!(code, expected, "{headers:?}");
        assert!(status.message().contains(named), "{headers:?}: {status}");
    }
    let mut client = server.client_with(&[]).await;
    let (code, _, _) = refusal(client.health(HealthRequest {}).await);
    assert_eq!(code, Code::Unauthenticated, "health asks for the key");
    let mut client = server.client_with(&[("x-api-key", "secret")]).await;
    client.health(HealthRequest {}).await.unwrap();
}

#[tokio::test]
async fn over_http_too_the_fields_are_checked_last() {
    let server = Server::with(ServiceOptions {
        guard: Arc::new(ApiKeyGuard::new("secret")),
        allowed_stores: vec![StoreName::new("orders").unwrap()],
        ..ServiceOptions::default()
    })
    .await;
    let cases: [(&[(&str, &str)], u16); 4] = [
        (&[("x-ledger-store", "others")], 401),
        (&[("x-api-key", "secret")], 400),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "others")],
            403,
        ),
        (
            &[("x-api-key", "secret"), ("x-ledger-store", "orders")],
            400,
        ),
    ];
    for (headers, expected) in cases {
        let path = "/v1/streams/s/entries";
        let answer = server
            .raw(http::Method::POST, path, headers, "{not json".into())
            .await;
        assert_eq!(answer.0.as_u16(), expected, "{headers:?}");
    }
}

#[tokio::test]
async fn the_allow_list_holds_without_a_key() {
    let server = Server::with(ServiceOptions {
        allowed_stores: vec![StoreName::new("orders").unwrap()],
        ..ServiceOptions::default()
    })
    .await;
    let mut client = server.client_with(&[("x-ledger-store", "others")]).await;
    let count = CountRequest { stream: "s".into() };
    let (code, reason, _) = refusal(client.count(count).await);
    assert_eq!(
        (code, &*reason),
        (Code::PermissionDenied, "STORE_NOT_ALLOWED")
    );
}

#[tokio::test]
async fn an_empty_field_is_named() {
    let server = Server::start().await;
    let mut c = server.client().await;
    let s = || "s".to_owned();
    let none = String::new;
    let no_stream = [
        refusal(c.append(AppendRequest::default()).await),
        refusal(c.read(ReadRequest::default()).await),
        refusal(c.count(CountRequest::default()).await),
        refusal(c.set_tags(SetTagsRequest::default()).await),
        refusal(c.set_annotations(SetAnnotationsRequest::default()).await),
        refusal(c.trim(TrimRequest::default()).await),
        refusal(c.stat(StatRequest::default()).await),
    ];
    let mut cases: Vec<_> = no_stream
        .into_iter()
        .map(|answer| ("stream", answer))
        .collect();
    let tags = SetTagsRequest {
        stream: s(),
        id: none(),
        tags: vec![],
    };
    cases.push(("id", refusal(c.set_tags(tags).await)));
    let notes = SetAnnotationsRequest {
        stream: s(),
        ..SetAnnotationsRequest::default()
    };
    cases.push(("id", refusal(c.set_annotations(notes).await)));
    let trim = TrimRequest {
        stream: s(),
        before_id: none(),
    };
    cases.push(("before_id", refusal(c.trim(trim).await)));
    cases.push(("query", refusal(c.search(SearchRequest::default()).await)));
    let rename = RenameStreamRequest {
        name: none(),
        new_name: s(),
    };
    cases.push(("name", refusal(c.rename_stream(rename).await)));
    let rename = RenameStreamRequest {
        name: s(),
        new_name: none(),
    };
    cases.push(("new_name", refusal(c.rename_stream(rename).await)));
    for (field, (code, reason, status)) in cases {
        assert_eq!((code, &*reason), (Code::InvalidArgument, "INVALID_INPUT"));
        let message = status.message();
        assert!(
            message.starts_with(&format!("{field} must not be empty")),
            "{message}"
        );
    }
    let mut entry = input("x");
    entry.schema_version = -1;
    let (code, _, status) = refusal(c.append(appending("s", vec![input("x"), entry])).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        status.message().contains("entries[1].schema_version"),
        "{status}"
    );
    let long = "x".repeat(1_025);
    let (code, _, _) = refusal(c.append(appending(&long, vec![input("x")])).await);
    assert_eq!(code, Code::InvalidArgument);
    let list = ListStreamIDsRequest {
        after: long,
        ..ListStreamIDsRequest::default()
    };
    assert_eq!(
        refusal(c.list_stream_i_ds(list).await).0,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn what_a_store_cannot_do_is_unimplemented() {
    let (store, folder) = store(StoreOptions {
        append_only: true,
        ..StoreOptions::default()
    })
    .await;
    let server = Server::over(ServiceOptions::default(), store, folder, None, None).await;
    let mut client = server.client().await;
    let id = append(&mut client, "s", &["x"]).await.remove(0);
    let tags = SetTagsRequest {
        stream: "s".into(),
        id,
        tags: vec![],
    };
    assert_eq!(refusal(client.set_tags(tags).await).0, Code::Unimplemented);
    let search = SearchRequest {
        query: "x".into(),
        full_text: true,
        ..SearchRequest::default()
    };
    assert_eq!(refusal(client.search(search).await).0, Code::Unimplemented);
}

/// Stores of which some cannot be had.
struct Broken(Arc<dyn Store>);

#[async_trait]
impl Stores for Broken {
    async fn get(&self, name: &StoreName, _: &Identity) -> Result<Arc<dyn Store>> {
        match name.as_str() {
            "down" => Err(Error::new(
                ErrorKind::Unavailable,
                "open store",
                "no answer",
            )),
            _ => Ok(Arc::clone(&self.0)),
        }
    }

    async fn list(&self) -> Vec<StoreStatus> {
        vec![StoreStatus {
            name: StoreName::new("down").unwrap(),
            state: StoreState::Unavailable,
            backend: "nowhere".into(),
            error: Some("no answer".into()),
        }]
    }
}

#[tokio::test]
async fn unreachable_closed_and_read_only_have_codes_of_their_own() {
    let (inner, folder) = store(StoreOptions::default()).await;
    let read_only: Arc<dyn Store> = Arc::new(ReadOnly::new(Arc::clone(&inner)));
    let stores: Arc<dyn Stores> = Arc::new(Broken(read_only));
    let server = Server::over(ServiceOptions::default(), inner, folder, Some(stores), None).await;
    let count = || CountRequest { stream: "s".into() };

    let mut down = server.client_with(&[("x-ledger-store", "down")]).await;
    let (code, reason, _) = refusal(down.count(count()).await);
    assert_eq!((code, &*reason), (Code::Unavailable, "BACKEND_UNAVAILABLE"));
    assert_eq!(
        down.health(HealthRequest {})
            .await
            .unwrap()
            .get_ref()
            .status,
        "degraded"
    );

    let mut client = server.client().await;
    let (code, reason, _) = refusal(client.append(appending("s", vec![input("x")])).await);
    assert_eq!((code, &*reason), (Code::FailedPrecondition, "READ_ONLY"));
    server.store.close().await;
    let (code, reason, _) = refusal(client.count(count()).await);
    assert_eq!((code, &*reason), (Code::Unavailable, "CLOSED"));
}

#[test]
fn every_kind_has_a_code_and_a_reason_of_its_own() {
    let cases = [
        (
            ErrorKind::InvalidInput,
            Code::InvalidArgument,
            "INVALID_INPUT",
        ),
        (ErrorKind::NotFound, Code::NotFound, "NOT_FOUND"),
        (
            ErrorKind::AlreadyExists,
            Code::AlreadyExists,
            "ALREADY_EXISTS",
        ),
        (ErrorKind::Conflict, Code::Aborted, "VERSION_CONFLICT"),
        (ErrorKind::Unsupported, Code::Unimplemented, "UNSUPPORTED"),
        (ErrorKind::ReadOnly, Code::FailedPrecondition, "READ_ONLY"),
        (
            ErrorKind::Unavailable,
            Code::Unavailable,
            "BACKEND_UNAVAILABLE",
        ),
        (ErrorKind::CursorExpired, Code::OutOfRange, "CURSOR_EXPIRED"),
        (
            ErrorKind::SourceDiverged,
            Code::FailedPrecondition,
            "SOURCE_DIVERGED",
        ),
        (ErrorKind::Fenced, Code::Aborted, "FENCED"),
        (ErrorKind::Rejected, Code::FailedPrecondition, "REJECTED"),
        (ErrorKind::Corrupt, Code::DataLoss, "CORRUPT"),
        (ErrorKind::Closed, Code::Unavailable, "CLOSED"),
        (ErrorKind::Internal, Code::Internal, "INTERNAL"),
    ];
    for (kind, code, reason) in cases {
        let error = Error::new(kind, "try", "it").with_source("a cause that stays here");
        let (got, why, status) = refusal::<()>(Err(ledger_server::status(&error)));
        assert_eq!((got, &*why), (code, reason), "{kind:?}");
        assert!(!status.message().contains("stays here"), "{status}");
    }
    let passing = Error::new(ErrorKind::Internal, "try", "deadlock").retryable();
    assert_eq!(ledger_server::status(&passing).code(), Code::Unavailable);
}
