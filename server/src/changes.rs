//! The mutation log, as a stream of responses.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use ledger_core::{Change, Cursor};
use prost::Message as _;
use tonic::Status;

use crate::Service;
use crate::call::Call;
use crate::feed::{Follow, no_log};
use crate::messages;
use crate::service::answer;
use crate::status::{invalid, status, too_large};
use crate::tail::Responses;
use crate::v1;
use crate::v1::changes_request::From;

/// A reader of the log.
struct Reader {
    follow: Follow,
    waiting: VecDeque<Arc<Change>>,
    /// The position to be told first, for a reader that asked for what happens from now on.
    now: Option<Cursor>,
    message_bytes: usize,
}

impl Service {
    /// See `FollowService.Changes`.
    pub(crate) async fn changes(
        &self,
        call: &Call,
        request: v1::ChangesRequest,
    ) -> Result<Responses<v1::ChangesResponse>, Status> {
        let name = self.named(call)?;
        let after = match &request.from {
            Some(From::After(cursor)) => {
                let cursor = cursor.parse::<Cursor>();
                Some(cursor.map_err(|_| invalid("after", "is not a cursor of a change"))?)
            }
            _ => None,
        };
        let permit = self.admit_tail()?;
        let store = self.open(call, &name).await?;
        let log = store.log().ok_or_else(|| status(&no_log(&*store)))?;
        let mut now = None;
        let after = match (after, request.from) {
            (Some(after), _) => after,
            (None, Some(From::Now(()))) => {
                let head = answer(log.head().await)?;
                now = Some(head.clone());
                head
            }
            (None, _) => log.start(),
        };
        let reader = Reader {
            follow: answer(Follow::new(&self.feeds, &store, after).await)?,
            waiting: VecDeque::new(),
            now,
            message_bytes: self.options.limits.message_bytes,
        };
        let responses = stream::try_unfold(reader, |mut reader| async move {
            Ok(Some((reader.next().await?, reader)))
        });
        Ok(self.until_shutdown(responses.boxed(), permit))
    }
}

impl Reader {
    async fn next(&mut self) -> Result<v1::ChangesResponse, Status> {
        if let Some(now) = self.now.take() {
            return Ok(v1::ChangesResponse {
                cursor: now.to_string(),
                ..v1::ChangesResponse::default()
            });
        }
        loop {
            if let Some(change) = self.waiting.pop_front() {
                let response = messages::change(&change);
                if response.encoded_len() > self.message_bytes {
                    return Err(too_large(self.message_bytes));
                }
                return Ok(response);
            }
            self.waiting = answer(self.follow.next().await)?.into();
        }
    }
}
