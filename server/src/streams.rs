//! Streams: counting, trimming, listing, renaming.

use ledger_core::{Stat, StreamName};
use tonic::Status;

use crate::Service;
use crate::call::Call;
use crate::messages::{int, limit, not_empty, stream};
use crate::service::answer;
use crate::status::too_large;
use crate::v1;

/// The most names that are asked of a store at a time.
const PAGE: usize = 1_000;

impl Service {
    /// See `LedgerService.Count`.
    pub(crate) async fn count(
        &self,
        call: &Call,
        request: v1::CountRequest,
    ) -> Result<v1::CountResponse, Status> {
        let stat = self.stat_of(call, &request.stream).await?;
        Ok(v1::CountResponse {
            count: int(stat.count),
        })
    }

    /// See `LedgerService.Stat`.
    pub(crate) async fn stat(
        &self,
        call: &Call,
        request: v1::StatRequest,
    ) -> Result<v1::StatResponse, Status> {
        let stat = self.stat_of(call, &request.stream).await?;
        Ok(v1::StatResponse {
            stream: request.stream,
            count: int(stat.count),
            first_id: stat.first_id.map(|id| id.to_string()).unwrap_or_default(),
            last_id: stat.last_id.map(|id| id.to_string()).unwrap_or_default(),
            version: int(stat.version),
        })
    }

    async fn stat_of(&self, call: &Call, name: &str) -> Result<Stat, Status> {
        let store = self.named(call)?;
        let stream = stream("stream", name)?;
        let store = self.open(call, &store).await?;
        answer(store.stat(&stream).await)
    }

    /// See `LedgerService.Trim`.
    pub(crate) async fn trim(
        &self,
        call: &Call,
        request: v1::TrimRequest,
    ) -> Result<v1::TrimResponse, Status> {
        let name = self.named(call)?;
        let stream = stream("stream", &request.stream)?;
        not_empty("before_id", &request.before_id)?;
        let store = self.open(call, &name).await?;
        let id = self.id(&*store, Some(&stream), "before_id", &request.before_id);
        let deleted = match id.await? {
            Some(id) => answer(store.trim(&stream, id).await)?,
            None => 0,
        };
        Ok(v1::TrimResponse {
            deleted: int(deleted),
        })
    }

    /// See `LedgerService.ListStreamIDs`.
    pub(crate) async fn list(
        &self,
        call: &Call,
        request: v1::ListStreamIDsRequest,
    ) -> Result<v1::ListStreamIDsResponse, Status> {
        let name = self.named(call)?;
        // The last name of a page is as good a token as any; nothing else needs to be in it.
        let (field, after) = if request.page_token.is_empty() {
            ("after", &request.after)
        } else {
            ("page_token", &request.page_token)
        };
        let mut after = match after.as_str() {
            "" => None,
            name => Some(stream(field, name)?),
        };
        let limits = &self.options.limits;
        let limit = limit(request.limit);
        let store = self.open(call, &name).await?;
        let mut stream_ids: Vec<String> = Vec::new();
        let mut bytes = 0;
        loop {
            // One more than asked for tells whether there are more.
            let wanted = limit.saturating_sub(stream_ids.len()).saturating_add(1);
            let wanted = wanted.min(PAGE);
            let names = answer(store.streams(after.as_ref(), wanted).await)?;
            let end = names.len() < wanted;
            after = names.last().cloned().or(after);
            for name in names {
                if stream_ids.len() == limit {
                    let next_page_token = stream_ids.last().cloned().unwrap_or_default();
                    return Ok(v1::ListStreamIDsResponse {
                        stream_ids,
                        next_page_token,
                    });
                }
                // The token at the end is one of the names.
                bytes += size(&name);
                if !limits.allows(bytes + size(&name)) {
                    return Err(too_large(limits.message_bytes));
                }
                stream_ids.push(name.into());
            }
            if end {
                return Ok(v1::ListStreamIDsResponse {
                    stream_ids,
                    next_page_token: String::new(),
                });
            }
        }
    }

    /// See `LedgerService.RenameStream`.
    pub(crate) async fn rename(
        &self,
        call: &Call,
        request: v1::RenameStreamRequest,
    ) -> Result<v1::RenameStreamResponse, Status> {
        let store = self.named(call)?;
        let from = stream("name", &request.name)?;
        let to = stream("new_name", &request.new_name)?;
        let store = self.open(call, &store).await?;
        answer(store.rename(&from, &to).await)?;
        Ok(v1::RenameStreamResponse {})
    }
}

fn size(name: &StreamName) -> usize {
    let bytes = name.as_str().len();
    1 + prost::length_delimiter_len(bytes) + bytes
}
