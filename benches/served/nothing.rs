//! A tonic service that does nothing: it answers an append with an id, a read with entries that it
//! made when it began, and hands every append on to all tails.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use ledger_server::v1::follow_service_server::{FollowService, FollowServiceServer};
use ledger_server::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use ledger_server::v1::{
    AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse, ChangesRequest,
    ChangesResponse, CountRequest, CountResponse, Entry, HealthRequest, HealthResponse,
    ListStreamIDsRequest, ListStreamIDsResponse, ReadRequest, ReadResponse, RenameStreamRequest,
    RenameStreamResponse, SearchRequest, SearchResponse, SetAnnotationsRequest,
    SetAnnotationsResponse, SetTagsRequest, SetTagsResponse, StatRequest, StatResponse,
    TailRequest, TailResponse, TrimRequest, TrimResponse,
};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status, Streaming};

use super::clients;
use crate::measure::Outcome;

/// How many appends a tail may be behind.
const BEHIND: usize = 1_024;

#[derive(Clone)]
struct Nothing {
    page: Arc<ReadResponse>,
    appended: broadcast::Sender<Entry>,
}

/// Serves it, for ever.
pub(crate) async fn serve(address: &str) -> Outcome {
    let page = ReadResponse {
        entries: (0..100).map(|number| entry(&number.to_string())).collect(),
        ..ReadResponse::default()
    };
    let nothing = Nothing {
        page: Arc::new(page),
        appended: broadcast::channel(BEHIND).0,
    };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(LedgerServiceServer::new(nothing.clone()))
        .add_service(FollowServiceServer::new(nothing))
        .serve(address.parse()?)
        .await?;
    Ok(())
}

fn entry(id: &str) -> Entry {
    let appended = clients::append("read", 7, 280);
    let input = appended.entries.into_iter().next().unwrap_or_default();
    Entry {
        id: id.to_owned(),
        stream: appended.stream,
        payload: input.payload,
        order_key: input.order_key,
        schema_version: 1,
        metadata: input.metadata,
        tags: input.tags,
        ..Entry::default()
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("the floor does not do that"))
}

#[tonic::async_trait]
impl LedgerService for Nothing {
    async fn append(&self, request: Request<AppendRequest>) -> Answer<AppendResponse> {
        let request = request.into_inner();
        if self.appended.receiver_count() > 0 {
            for input in request.entries {
                // A tail that has gone in the meantime is none to tell.
                let _ = self.appended.send(Entry {
                    id: "1".to_owned(),
                    stream: request.stream.clone(),
                    payload: input.payload,
                    ..Entry::default()
                });
            }
        }
        let ids = vec!["1".to_owned()];
        Ok(Response::new(AppendResponse { ids }))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Answer<ReadResponse> {
        Ok(Response::new(ReadResponse::clone(&self.page)))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Answer<HealthResponse> {
        Ok(Response::new(HealthResponse::default()))
    }

    async fn count(&self, _: Request<CountRequest>) -> Answer<CountResponse> {
        not_here()
    }

    async fn set_tags(&self, _: Request<SetTagsRequest>) -> Answer<SetTagsResponse> {
        not_here()
    }

    async fn set_annotations(
        &self,
        _: Request<SetAnnotationsRequest>,
    ) -> Answer<SetAnnotationsResponse> {
        not_here()
    }

    async fn trim(&self, _: Request<TrimRequest>) -> Answer<TrimResponse> {
        not_here()
    }

    async fn list_stream_i_ds(
        &self,
        _: Request<ListStreamIDsRequest>,
    ) -> Answer<ListStreamIDsResponse> {
        not_here()
    }

    async fn rename_stream(&self, _: Request<RenameStreamRequest>) -> Answer<RenameStreamResponse> {
        not_here()
    }

    async fn stat(&self, _: Request<StatRequest>) -> Answer<StatResponse> {
        not_here()
    }

    async fn search(&self, _: Request<SearchRequest>) -> Answer<SearchResponse> {
        not_here()
    }
}

type Pushed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FollowService for Nothing {
    type TailStream = Pushed<TailResponse>;
    type ChangesStream = Pushed<ChangesResponse>;
    type AppendStreamStream = Pushed<AppendStreamResponse>;

    async fn tail(&self, _: Request<TailRequest>) -> Answer<Self::TailStream> {
        let receiver = self.appended.subscribe();
        let caught_up = TailResponse {
            caught_up: true,
            ..TailResponse::default()
        };
        let followed = stream::unfold(receiver, |mut receiver| async move {
            let entry = receiver.recv().await.ok()?;
            let response = TailResponse {
                entries: vec![entry],
                ..TailResponse::default()
            };
            Some((Ok(response), receiver))
        });
        let pushed = stream::iter([Ok(caught_up)]).chain(followed);
        Ok(Response::new(pushed.boxed()))
    }

    async fn changes(&self, _: Request<ChangesRequest>) -> Answer<Self::ChangesStream> {
        not_here()
    }

    async fn append_stream(
        &self,
        _: Request<Streaming<AppendStreamRequest>>,
    ) -> Answer<Self::AppendStreamStream> {
        not_here()
    }
}
