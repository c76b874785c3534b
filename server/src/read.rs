//! Reading and searching.

use ledger_core::{EntryId, Page, Query, ReadOptions, Search, Store, StreamName};
use prost::Message as _;
use tonic::Status;

use crate::Service;
use crate::call::Call;
use crate::messages::{self, limit, not_empty, stream, time};
use crate::service::answer;
use crate::status::{too_large, unsupported};
use crate::{page_token, v1};

/// The most entries that are asked of a store at a time.
const PAGE: usize = 1_000;

/// What is read: a stream, or what a search finds.
enum Source<'a> {
    Stream(&'a dyn Store, &'a StreamName),
    Search(&'a dyn Search, Option<&'a StreamName>, &'a Query),
}

impl Source<'_> {
    async fn page(&self, options: &ReadOptions) -> Result<Page, Status> {
        answer(match self {
            Self::Stream(store, stream) => store.page(stream, options).await,
            Self::Search(search, stream, query) => search.search(*stream, query, options).await,
        })
    }
}

/// The conditions of a request; the ids among them as they were sent.
struct Conditions {
    options: ReadOptions,
    limit: usize,
    after: String,
    token: String,
}

impl Conditions {
    fn new(options: Option<v1::ReadOptions>) -> Result<Self, Status> {
        let options = options.unwrap_or_default();
        let time_of = |field: &str, at: Option<prost_types::Timestamp>| {
            at.map(|at| time(field, at)).transpose()
        };
        Ok(Self {
            options: ReadOptions {
                after: None,
                limit: None,
                descending: options.desc,
                order_key: Some(options.order_key).filter(|key| !key.is_empty()),
                tag: Some(options.tag).filter(|tag| !tag.is_empty()),
                all_tags: options.all_tags,
                metadata: options.metadata_filters,
                annotations: options.annotation_filters,
                since: time_of("options.since", options.since)?,
                until: time_of("options.until", options.until)?,
            },
            limit: limit(options.limit),
            after: options.after,
            token: options.page_token,
        })
    }
}

impl Service {
    /// See `LedgerService.Read`.
    pub(crate) async fn read(
        &self,
        call: &Call,
        request: v1::ReadRequest,
    ) -> Result<v1::ReadResponse, Status> {
        let name = self.named(call)?;
        let stream = stream("stream", &request.stream)?;
        let mut conditions = Conditions::new(request.options)?;
        let scope = format!("read {stream}");
        let token = token_id(&scope, &conditions)?;
        let store = self.open(call, &name).await?;
        let known = self.begin(&*store, Some(&stream), token, &mut conditions);
        if !known.await? {
            return Ok(v1::ReadResponse::default());
        }
        let source = Source::Stream(&*store, &stream);
        let (entries, next_page_token) = self.gather(&source, &scope, conditions).await?;
        Ok(v1::ReadResponse {
            entries,
            next_page_token,
        })
    }

    /// See `LedgerService.Search`.
    pub(crate) async fn search(
        &self,
        call: &Call,
        request: v1::SearchRequest,
    ) -> Result<v1::SearchResponse, Status> {
        let name = self.named(call)?;
        let stream = match request.stream.as_str() {
            "" => None,
            name => Some(stream("stream", name)?),
        };
        not_empty("query", &request.query)?;
        let mut conditions = Conditions::new(request.options)?;
        let scope = format!("search {stream:?} {} {}", request.full_text, request.query);
        let token = token_id(&scope, &conditions)?;
        let store = self.open(call, &name).await?;
        let Some(search) = store.search() else {
            return Err(unsupported(&*store, "searching"));
        };
        let known = self.begin(&*store, stream.as_ref(), token, &mut conditions);
        if !known.await? {
            return Ok(v1::SearchResponse::default());
        }
        let query = if request.full_text {
            Query::FullText(request.query)
        } else {
            Query::Substring(request.query)
        };
        let source = Source::Search(search, stream.as_ref(), &query);
        let (entries, next_page_token) = self.gather(&source, &scope, conditions).await?;
        Ok(v1::SearchResponse {
            entries,
            next_page_token,
        })
    }

    /// Sets where to begin; whether there is anything to read at all.
    async fn begin(
        &self,
        store: &dyn Store,
        stream: Option<&StreamName>,
        token: Option<EntryId>,
        conditions: &mut Conditions,
    ) -> Result<bool, Status> {
        conditions.options.after = token;
        if token.is_some() || conditions.after.is_empty() {
            return Ok(true);
        }
        let after = &conditions.after;
        conditions.options.after = self.id(store, stream, "options.after", after).await?;
        Ok(conditions.options.after.is_some())
    }

    /// Reads as many entries as were asked for, and tells where to go on.
    async fn gather(
        &self,
        source: &Source<'_>,
        scope: &str,
        conditions: Conditions,
    ) -> Result<(Vec<v1::Entry>, String), Status> {
        let limits = &self.options.limits;
        let mut options = conditions.options;
        let mut left = conditions.limit;
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            options.limit = Some(left.min(PAGE));
            let page = source.page(&options).await?;
            let last = page.entries.last().map(|entry| entry.id);
            left = left.saturating_sub(page.entries.len());
            for entry in page.entries {
                let entry = messages::entry(entry);
                let size = entry.encoded_len();
                // The field's key, and the length before the entry.
                bytes += 1 + prost::length_delimiter_len(size) + size;
                if !limits.allows(bytes) {
                    return Err(too_large(limits.message_bytes));
                }
                entries.push(entry);
            }
            let Some(last) = last.filter(|_| page.more) else {
                return Ok((entries, String::new()));
            };
            if left == 0 {
                let token = page_token::of_entry(scope, &options, last);
                if !limits.allows(bytes + token.len() + 2) {
                    return Err(too_large(limits.message_bytes));
                }
                return Ok((entries, token));
            }
            options.after = Some(last);
        }
    }
}

fn token_id(scope: &str, conditions: &Conditions) -> Result<Option<EntryId>, Status> {
    if conditions.token.is_empty() {
        return Ok(None);
    }
    page_token::entry(scope, &conditions.options, &conditions.token).map(Some)
}
