//! Pages of entries, searching, and the list of streams.

use std::ops::Bound;

use async_trait::async_trait;
use ledger_core::{Entry, Error, ErrorKind, Page, Query, ReadOptions, Result, Search, StreamName};

use super::MemoryStore;
use super::state::State;

/// The payloads of a page add up to at most about this many bytes.
const PAGE_BYTES: usize = 16 << 20;

/// A page of one stream's entries, or of all streams', that fulfil the conditions and `also`.
pub(super) fn page(
    state: &State,
    stream: Option<&StreamName>,
    options: &ReadOptions,
    also: impl Fn(&Entry) -> bool,
) -> Page {
    let mut found: Vec<&Entry> = match stream {
        Some(name) => state
            .stream(name)
            .into_iter()
            .flat_map(|s| s.entries.values())
            .collect(),
        None => state
            .streams
            .values()
            .flat_map(|stream| stream.entries.values())
            .collect(),
    };
    found.sort_unstable_by_key(|entry| entry.id);
    if options.descending {
        found.reverse();
    }
    let behind = |entry: &Entry| match options.after {
        None => true,
        Some(after) if options.descending => entry.id < after,
        Some(after) => entry.id > after,
    };
    found.retain(|entry| behind(entry) && options.matches(entry) && also(entry));
    let mut page = Page::default();
    let mut bytes = 0;
    for entry in found {
        bytes += entry.payload.len();
        let full = bytes > PAGE_BYTES && !page.entries.is_empty();
        if full || page.entries.len() >= options.page_limit() {
            page.more = true;
            break;
        }
        page.entries.push(entry.clone());
    }
    // A page of no entries must not promise more: its reader could not go on.
    page.more &= !page.entries.is_empty();
    page
}

/// The names of streams that have an entry.
pub(super) fn streams(state: &State, after: Option<&StreamName>, limit: usize) -> Vec<StreamName> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let full = |name: &StreamName| state.stream(name).is_some_and(|s| !s.entries.is_empty());
    let names = state
        .names
        .range::<StreamName, _>((after, Bound::Unbounded));
    names
        .map(|(name, _)| name.clone())
        .filter(full)
        .take(limit)
        .collect()
}

#[async_trait]
impl Search for MemoryStore {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let Query::Substring(text) = query else {
            let context = "full text needs an index that this store does not have";
            return Err(Error::new(ErrorKind::Unsupported, "search", context));
        };
        let text = text.to_lowercase();
        self.view(|state| {
            let matches = |entry: &Entry| {
                let payload = String::from_utf8_lossy(&entry.payload);
                payload.to_lowercase().contains(&text)
            };
            Ok(page(state, stream, options, matches))
        })
    }
}
