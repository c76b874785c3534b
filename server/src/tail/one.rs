//! The tail of one stream. Its position is an entry's id, since within a stream the order of ids is
//! that of the log.

use std::sync::Arc;

use ledger_core::{EntryId, Mutation, ReadOptions, Store, StreamName};
use tonic::Status;

use super::outbox::Outbox;
use super::{PAGE, Start, Terms};
use crate::feed::{Feed, Place, Taken};
use crate::service::answer;
use crate::v1;

/// A tail of one stream: reads what is there, then takes from the feed. It follows the name: what
/// another stream of this name gets after a rename is part of it.
pub(super) struct Tail {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    stream: StreamName,
    terms: Terms,
    /// The last entry that was told, or passed over.
    last: EntryId,
    /// Where it is in the feed; none while it reads from the store.
    place: Option<Place>,
    outbox: Outbox,
    caught_up: CaughtUp,
}

#[derive(Debug, PartialEq, Eq)]
enum CaughtUp {
    No,
    /// With what is in the outbox.
    Next,
    Told,
}

impl Tail {
    pub(super) async fn new(
        store: Arc<dyn Store>,
        feed: Arc<Feed>,
        stream: StreamName,
        terms: Terms,
        after: Option<EntryId>,
        start: &Start,
    ) -> Result<Self, Status> {
        let last = match (after, start) {
            (Some(after), _) => after,
            (None, Start::Beginning | Start::Since(_)) => EntryId(0),
            (None, Start::Now) => {
                let stat = answer(store.stat(&stream).await)?;
                stat.last_id.unwrap_or_default()
            }
            (None, Start::Last(count)) => last(&*store, &stream, &terms.filters, *count).await?,
        };
        Ok(Self {
            store,
            feed,
            stream,
            terms,
            last,
            place: None,
            outbox: Outbox::default(),
            caught_up: CaughtUp::No,
        })
    }

    pub(super) async fn next(&mut self) -> Result<v1::TailResponse, Status> {
        loop {
            if let Some(mut response) = self.outbox.response(&self.terms)? {
                response.caught_up = self.outbox.is_empty() && self.tell();
                return Ok(response);
            }
            if self.tell() {
                return Ok(v1::TailResponse {
                    entries: Vec::new(),
                    cursor: self.last.to_string(),
                    caught_up: true,
                });
            }
            match self.place.take() {
                Some(place) => self.follow(place).await,
                None => self.read().await?,
            }
        }
    }

    /// Whether this is the response that tells that the tail has caught up.
    fn tell(&mut self) -> bool {
        let now = self.caught_up == CaughtUp::Next;
        if now {
            self.caught_up = CaughtUp::Told;
        }
        now
    }

    /// Reads a page, and goes over to the feed with the last one.
    async fn read(&mut self) -> Result<(), Status> {
        // Taken before the page is read: what the page does not show comes behind this place, and
        // what it shows of that is known by its id.
        let place = self.feed.end();
        let options = ReadOptions {
            after: Some(self.last),
            limit: Some(self.terms.limit.min(PAGE)),
            ..self.terms.filters.clone()
        };
        let page = answer(self.store.page(&self.stream, &options).await)?;
        for entry in page.entries {
            self.last = entry.id;
            let cursor = entry.id.to_string();
            self.outbox.push(entry, cursor);
        }
        if !page.more {
            self.place = Some(place);
            if self.caught_up == CaughtUp::No {
                self.caught_up = CaughtUp::Next;
            }
        }
        Ok(())
    }

    async fn follow(&mut self, mut place: Place) {
        let changes = match self.feed.take(&mut place) {
            Taken::Changes(changes) if changes.is_empty() => {
                self.feed.wait(&place).await;
                self.place = Some(place);
                return;
            }
            Taken::Changes(changes) => changes,
            // The place stays empty, so that the store is read from the last entry on.
            Taken::Lagged => return,
        };
        for change in changes {
            if change.stream.name != self.stream {
                continue;
            }
            match &change.mutation {
                Mutation::Append { entry, .. } if entry.id > self.last => {
                    self.last = entry.id;
                    if self.terms.filters.matches(entry) {
                        self.outbox.push((**entry).clone(), entry.id.to_string());
                    }
                }
                // The name now stands for a stream whose entries the feed has told by another name.
                Mutation::Rename => return,
                _ => {}
            }
        }
        self.place = Some(place);
    }
}

/// The id behind which the last `count` entries of a stream are. Entries are counted page by page,
/// so that any count is found in constant memory.
async fn last(
    store: &dyn Store,
    stream: &StreamName,
    filters: &ReadOptions,
    count: u64,
) -> Result<EntryId, Status> {
    let mut left = usize::try_from(count).unwrap_or(usize::MAX);
    if left == 0 {
        let stat = answer(store.stat(stream).await)?;
        return Ok(stat.last_id.unwrap_or_default());
    }
    let mut options = ReadOptions {
        descending: true,
        ..filters.clone()
    };
    loop {
        options.limit = Some(left.min(PAGE));
        let page = answer(store.page(stream, &options).await)?;
        left = left.saturating_sub(page.entries.len());
        let lowest = page.entries.last().map(|entry| entry.id);
        let Some(lowest) = lowest.filter(|_| page.more && left > 0) else {
            let before = lowest
                .or(options.after)
                .map_or(0, |id| id.0.saturating_sub(1));
            return Ok(EntryId(before));
        };
        options.after = Some(lowest);
    }
}
