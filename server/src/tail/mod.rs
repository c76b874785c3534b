//! Tails: entries as they are appended, behind what was there before.

mod many;
mod one;
mod outbox;
mod walk;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use globset::{GlobBuilder, GlobMatcher};
use ledger_core::{EntryId, ReadOptions, Timestamp};
use tonic::{Code, Status};

use crate::Service;
use crate::call::Call;
use crate::messages::{limit, stream as named, time};
use crate::service::answer;
use crate::status::{invalid, refusal, shutting_down, status};
use crate::v1;
use crate::v1::tail_request::{From, Scope};

/// Responses of a call that goes on.
pub(crate) type Responses<T> = BoxStream<'static, Result<T, Status>>;

/// The most entries that are read from the store at a time, whatever the client's limit is.
const PAGE: usize = 1_000;

/// Where a tail begins, when no cursor says so.
#[derive(Debug)]
enum Start {
    Beginning,
    Now,
    Last(u64),
    Since(Timestamp),
}

/// What the two kinds of tail share.
#[derive(Debug)]
struct Terms {
    filters: ReadOptions,
    limit: usize,
    message_bytes: usize,
}

impl Service {
    /// See `FollowService.Tail`.
    pub(crate) async fn tail(
        &self,
        call: &Call,
        request: v1::TailRequest,
    ) -> Result<Responses<v1::TailResponse>, Status> {
        let name = self.named(call)?;
        let scope = match request.scope {
            None => None,
            Some(Scope::Stream(stream)) => Some(Err(named("stream", &stream)?)),
            Some(Scope::Pattern(pattern)) => Some(Ok(glob(&pattern)?)),
        };
        let mut after = String::new();
        let start = match request.from {
            None | Some(From::Beginning(())) => Start::Beginning,
            Some(From::Now(())) => Start::Now,
            Some(From::Last(count)) => Start::Last(
                u64::try_from(count).map_err(|_| invalid("last", "must not be negative"))?,
            ),
            Some(From::Since(at)) => Start::Since(time("since", at)?),
            Some(From::After(id)) if matches!(scope, Some(Err(_))) => {
                after = id;
                Start::Beginning
            }
            Some(From::After(_)) => {
                return Err(invalid(
                    "after",
                    "needs stream; for several streams use cursor",
                ));
            }
        };
        let terms = Terms {
            filters: ReadOptions {
                order_key: Some(request.order_key).filter(|key| !key.is_empty()),
                tag: Some(request.tag).filter(|tag| !tag.is_empty()),
                all_tags: request.all_tags,
                metadata: request.metadata_filters,
                annotations: request.annotation_filters,
                since: match start {
                    Start::Since(since) => Some(since),
                    _ => None,
                },
                ..ReadOptions::all()
            },
            limit: limit(request.limit),
            message_bytes: self.options.limits.message_bytes,
        };
        let permit = self.admit_tail()?;
        let store = self.open(call, &name).await?;
        let cursor = request.cursor;
        let responses = match scope {
            Some(Err(stream)) => {
                let after = match (cursor.as_str(), after.as_str()) {
                    ("", "") => None,
                    // An id on an unknown stream is as good as none.
                    ("", id) => self.id(&*store, Some(&stream), "after", id).await?,
                    (cursor, _) => Some(cursor.parse::<EntryId>().map_err(|_| {
                        invalid(
                            "cursor",
                            "is not one that this tail gave: it is an entry's id",
                        )
                    })?),
                };
                let feed = answer(self.feeds.of(&store).await)?;
                let feed = feed.ok_or_else(|| status(&crate::feed::no_log(&*store)))?;
                let tail = one::Tail::new(store, feed, stream, terms, after, &start).await?;
                stream::try_unfold(tail, |mut tail| async move {
                    Ok(Some((tail.next().await?, tail)))
                })
                .boxed()
            }
            pattern => {
                let pattern = pattern.and_then(Result::ok);
                let tail = many::Tail::new(self, store, pattern, terms, &cursor, &start).await?;
                stream::try_unfold(tail, |mut tail| async move {
                    Ok(Some((tail.next().await?, tail)))
                })
                .boxed()
            }
        };
        Ok(self.until_shutdown(responses, permit))
    }

    /// A place among the tails that may be open at one time.
    pub(crate) fn admit_tail(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        let limit = self.options.limits.tails;
        std::sync::Arc::clone(&self.tails)
            .try_acquire_owned()
            .map_err(|_| {
                refusal(
                    Code::ResourceExhausted,
                    "TOO_MANY_TAILS",
                    format!("{limit} tails and change streams are open, which is the limit"),
                    [("limit", limit.to_string())],
                )
            })
    }

    /// A place among the watches of health, which ask for no key and so have few places of their own.
    pub(crate) fn admit_watch(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        std::sync::Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| {
                let limit = crate::service::WATCHES;
                refusal(
                    Code::ResourceExhausted,
                    "TOO_MANY_WATCHES",
                    format!("{limit} watches of health are open, which is the limit"),
                    [("limit", limit.to_string())],
                )
            })
    }

    /// Ends responses with a clear status when the service ends.
    pub(crate) fn until_shutdown<T: Send + 'static>(
        &self,
        responses: Responses<T>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Responses<T> {
        let shutdown = self.options.shutdown.clone();
        let ended = async move {
            shutdown.begun().await;
        };
        let ending = stream::once(async { Err(shutting_down()) });
        responses
            .take_until(ended)
            .chain(ending)
            .scan((false, permit), |(failed, _), response| {
                // An error is the last response.
                let response = (!*failed).then_some(response);
                *failed = matches!(response, Some(Err(_)) | None);
                std::future::ready(response)
            })
            .boxed()
    }
}

fn glob(pattern: &str) -> Result<GlobMatcher, Status> {
    if pattern.is_empty() {
        return Err(invalid("pattern", "must not be empty"));
    }
    let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| invalid("pattern", format_args!("is no pattern: {}", error.kind())))
}
