//! Appending in bulk.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, Stream};
use futures::{FutureExt as _, StreamExt as _};
use ledger_core::{ExpectedVersion, NewEntry, Store, StreamName};
use prost::Message as _;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::Service;
use crate::call::Call;
use crate::messages::{int, stream as named};
use crate::service::answer;
use crate::status::shutting_down;
use crate::tail::Responses;
use crate::v1;

/// The most requests that are taken together, of those that have arrived while the ones before were
/// being written. None is added to those that fill a message.
const TOGETHER: usize = 64;

type Taken = Result<Option<Result<v1::AppendStreamRequest, Status>>, Status>;

/// A request that can be carried out.
struct Ready {
    sequence: i64,
    stream: StreamName,
    entries: Vec<NewEntry>,
}

impl Service {
    /// See `FollowService.AppendStream`.
    pub(crate) async fn append_stream<R>(
        &self,
        call: &Call,
        requests: R,
    ) -> Result<Responses<v1::AppendStreamResponse>, Status>
    where
        R: Stream<Item = Result<v1::AppendStreamRequest, Status>> + Send + 'static,
    {
        let name = self.named(call)?;
        let store = self.open(call, &name).await?;
        let shutdown = self.options.shutdown.clone();
        let ended = async move {
            shutdown.begun().await;
        };
        let ending = stream::once(async { Err(shutting_down()) });
        // What was taken is carried out; nothing more is taken once the service ends.
        let requests = requests.map(Some).chain(stream::once(async { None }));
        let requests = requests.map(Ok).take_until(ended).chain(ending);
        let state = (self.clone(), call.clone(), store, requests.boxed(), false);
        let responses = stream::unfold(
            state,
            |(service, call, store, mut requests, over)| async move {
                if over {
                    return None;
                }
                let bytes = service.options.limits.message_bytes;
                let chunk = arrived(&mut requests, bytes).await?;
                let (answers, over) = service.append_together(&call, &store, chunk).await;
                Some((
                    stream::iter(answers),
                    (service, call, store, requests, over),
                ))
            },
        );
        Ok(responses.flatten().boxed())
    }

    /// Carries requests out: those of one stream in their order, those of several side by side.
    /// The answers are in the order of the requests and end with the first failure.
    async fn append_together(
        &self,
        call: &Call,
        store: &Arc<dyn Store>,
        chunk: Vec<Taken>,
    ) -> (Vec<Result<v1::AppendStreamResponse, Status>>, bool) {
        let mut streams: HashMap<StreamName, Vec<(usize, Ready)>> = HashMap::new();
        let mut end = None;
        let mut count = 0;
        for (index, request) in chunk.into_iter().enumerate() {
            let ready = match request {
                Ok(Some(Ok(request))) => self.ready(call, request),
                Ok(Some(Err(status))) | Err(status) => Err(status),
                Ok(None) => {
                    end = Some(None);
                    break;
                }
            };
            match ready {
                Ok(ready) => streams
                    .entry(ready.stream.clone())
                    .or_default()
                    .push((index, ready)),
                Err(status) => {
                    end = Some(Some(status));
                    break;
                }
            }
            count = index + 1;
        }
        let work = streams
            .into_values()
            .map(|requests| write(&**store, requests));
        let mut answers: Vec<_> = (0..count).map(|_| None).collect();
        for (index, answer) in join_all(work).await.into_iter().flatten() {
            if let Some(place) = answers.get_mut(index) {
                *place = Some(answer);
            }
        }
        let mut told = Vec::with_capacity(count + 1);
        for answer in answers {
            // A stream's requests behind a failed one have no answer; the failed one is before.
            let Some(answer) = answer else { break };
            let failed = answer.is_err();
            told.push(answer);
            if failed {
                return (told, true);
            }
        }
        let over = end.is_some();
        told.extend(end.flatten().map(Err));
        (told, over)
    }

    fn ready(&self, call: &Call, request: v1::AppendStreamRequest) -> Result<Ready, Status> {
        let sequence = request.sequence;
        let ready = named("stream", &request.stream).and_then(|stream| {
            let entries = self.new_entries(call, request.entries)?;
            Ok(Ready {
                sequence,
                stream,
                entries,
            })
        });
        ready.map_err(|status| of_sequence(sequence, &status))
    }
}

/// The next request, and with it those that have arrived too, as far as they fit into `bytes`.
async fn arrived(
    requests: &mut (impl Stream<Item = Taken> + Unpin),
    bytes: usize,
) -> Option<Vec<Taken>> {
    let size = |taken: &Taken| match taken {
        Ok(Some(Ok(request))) => request.encoded_len(),
        _ => 0,
    };
    let first = requests.next().await?;
    let mut held = size(&first);
    let mut chunk = vec![first];
    while chunk.len() < TOGETHER && held < bytes {
        let Some(Some(next)) = requests.next().now_or_never() else {
            break;
        };
        held += size(&next);
        chunk.push(next);
    }
    Some(chunk)
}

/// Writes the requests of one stream one after the other, up to the first that fails.
async fn write(
    store: &dyn Store,
    requests: Vec<(usize, Ready)>,
) -> Vec<(usize, Result<v1::AppendStreamResponse, Status>)> {
    let mut answers = Vec::with_capacity(requests.len());
    for (index, request) in requests {
        let appended = store.append(&request.stream, request.entries, ExpectedVersion::Any);
        let appended = answer(appended.await);
        let response = appended.map(|appended| {
            let duplicates = appended.iter().filter(|entry| entry.duplicate).count();
            v1::AppendStreamResponse {
                sequence: request.sequence,
                appended: int((appended.len() - duplicates) as u64),
                duplicates: int(duplicates as u64),
            }
        });
        let response = response.map_err(|status| of_sequence(request.sequence, &status));
        let failed = response.is_err();
        answers.push((index, response));
        if failed {
            break;
        }
    }
    answers
}

/// Names the request that failed, in the message and in the metadata of the `ErrorInfo`.
fn of_sequence(sequence: i64, status: &Status) -> Status {
    let mut details = status.get_error_details();
    if let Some(info) = details.error_info().cloned() {
        let mut metadata = info.metadata;
        metadata.insert("sequence".to_owned(), sequence.to_string());
        details.set_error_info(info.reason, info.domain, metadata);
    }
    let message = format!("request {sequence}: {}", status.message());
    Status::with_error_details(status.code(), message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_that_have_arrived_are_taken_together_up_to_a_messages_bytes() {
        let request = |bytes| {
            let stream = "x".repeat(bytes);
            Ok(Some(Ok(v1::AppendStreamRequest {
                stream,
                ..Default::default()
            })))
        };
        let small = std::iter::repeat_n(10, 100);
        let sizes: Vec<usize> = small.chain([1_000; 5]).collect();
        let mut requests = stream::iter(sizes.into_iter().map(request));
        let mut counts = Vec::new();
        while let Some(chunk) = arrived(&mut requests, 2_000).await {
            counts.push(chunk.len());
        }
        assert_eq!(counts, [64, 36 + 2, 2, 1]);
    }

    #[tokio::test]
    async fn nothing_is_waited_for_once_there_is_a_request() {
        let one = stream::iter([Ok(None)]).chain(stream::pending());
        let chunk = arrived(&mut one.boxed(), 1).await;
        assert_eq!(chunk.map(|chunk| chunk.len()), Some(1));
    }
}
