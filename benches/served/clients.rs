//! Clients of `ledger.v1`.

use ledger_server::v1::follow_service_client::FollowServiceClient;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::v1::{AppendRequest, EntryInput};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::STORE;
use crate::measure::{Outcome, entry};

/// A client on a connection of its own.
pub(crate) type Client = LedgerServiceClient<Channel>;

/// Connections of their own.
pub(crate) async fn connect(url: &str, count: usize) -> Outcome<Vec<Channel>> {
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// Clients that append and read, each on a connection of its own.
pub(crate) async fn callers(url: &str, count: usize) -> Outcome<Vec<Client>> {
    let channels = connect(url, count).await?;
    Ok(channels.into_iter().map(Client::new).collect())
}

/// A client that tails.
pub(crate) fn follower(channel: &Channel) -> FollowServiceClient<Channel> {
    FollowServiceClient::new(channel.clone())
}

/// A request to the store of this benchmark.
pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let store = tonic::metadata::MetadataValue::from_static(STORE);
    request.metadata_mut().insert("x-ledger-store", store);
    request
}

/// An append of one entry.
pub(crate) fn append(stream: &str, number: u64, bytes: usize) -> AppendRequest {
    let entry = entry(number, bytes);
    AppendRequest {
        stream: stream.to_owned(),
        entries: vec![EntryInput {
            payload: entry.payload,
            order_key: entry.order_key,
            metadata: entry.metadata.into_iter().collect(),
            tags: entry.tags,
            ..EntryInput::default()
        }],
        expected_version: None,
    }
}
