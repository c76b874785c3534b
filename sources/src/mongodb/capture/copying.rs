//! Copying collections beside the change stream.
//!
//! The copy reads by `_id`, each page at its own moment, and hands it on before the events that come
//! after that moment: a page is therefore never older than what was handed on before. What it holds
//! that is newer than its version says is told once more by the events up to the copy's end, so the
//! content is the source's once the stream has been followed up to there.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ledger_core::pipeline::Step;
use ledger_core::{CopyState, Result, RowChange, RowOp, Version};
use ledger_layout::mongodb::failed;
use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::contents::page;
use super::events::malformed;
use super::follow::{Following, Item, OPERATION};
use super::source::{head, later_head};

/// How many documents of a copy are read at once.
const PAGE: i64 = 2_000;

/// A collection that is to be copied.
pub(super) struct Pending {
    pub(super) collection: String,
    /// From where a copy goes on that was interrupted.
    pub(super) resumed: Option<(u64, Bytes)>,
    /// The time that the copied documents have as their version, where it is noted already that the
    /// copy has begun.
    pub(super) begun: Option<u64>,
    /// What the collection holds now is not carried, only what is changed from now on.
    pub(super) left_out: bool,
}

impl Pending {
    pub(super) fn new(collection: impl Into<String>) -> Self {
        Self {
            collection: collection.into(),
            resumed: None,
            begun: None,
            left_out: false,
        }
    }
}

/// A collection that is being copied.
pub(super) struct Copying {
    pub(super) collection: String,
    pub(super) point: u64,
    after: Option<Bson>,
}

impl Following {
    /// Takes in what columns a document asks for.
    pub(super) fn take_in(&mut self, collection: &str, document: &RawDocument) -> Result<()> {
        let sink = &self.sink;
        let name = |name: &str| sink.column_name(name);
        self.shapes.take_in(collection, document, &name)
    }

    /// Tells the shape of a table where it has widened, and whether the collection is copied anew for
    /// it: where no sink would make of the values that it has what is written from now on.
    pub(super) async fn widen(&mut self, collection: &str, items: &mut Vec<Item>) -> Result<bool> {
        let version = Version::new(self.position.time, self.position.ordinal);
        let Some(news) = self.shapes.news(collection, version) else {
            return Ok(false);
        };
        if news.is_written_anew {
            tracing::info!(
                collection,
                "a column has values of several types; the collection is copied anew"
            );
            // Noted before the shape: whoever goes on from here copies it too.
            let point = self.copy_anew(collection).await?;
            let state = CopyState::Begun { point };
            items.push(Item::noted(news.before, state));
        }
        items.push(Item {
            committed_at: None,
            table: news.table,
            version: news.version,
            op: RowOp::Shape,
        });
        Ok(news.is_written_anew)
    }

    /// Has a collection copied from its beginning, and tells the time that its documents have as their
    /// version: above those of all rows before.
    async fn copy_anew(&mut self, collection: &str) -> Result<u64> {
        let point = later_head(&self.database).await?;
        self.copy.take_if(|copy| copy.collection == collection);
        self.pending
            .retain(|pending| pending.collection != collection);
        self.pending.push_front(Pending {
            begun: Some(point),
            ..Pending::new(collection)
        });
        let count = self.database.collection(collection);
        let count = count.estimated_document_count().await;
        let count = count.map_err(|error| failed(OPERATION, collection, error))?;
        self.left.fetch_add(count, Ordering::Relaxed);
        self.is_copying.store(true, Ordering::Relaxed);
        Ok(point)
    }

    fn hand_on(&mut self, item: Item, steps: &mut Vec<Step<RowChange>>) {
        self.position = self.position.next_beside();
        steps.push(item.step(self.position));
    }

    fn note(&mut self, collection: &str, state: CopyState, steps: &mut Vec<Step<RowChange>>) {
        let item = Item::noted(self.shapes.table(collection), state);
        self.hand_on(item, steps);
    }

    /// A page of a copy.
    pub(super) async fn copy(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let Some(copy) = &mut self.copy else {
            return self.begin(steps);
        };
        let (collection, point) = (copy.collection.clone(), copy.point);
        let after = copy.after.clone();
        let (documents, last) = page(&self.database, &collection, after, PAGE).await?;
        let Some(last) = last else {
            let through = head(&self.database).await?;
            self.copy = None;
            self.done(&collection, point, through, steps);
            return Ok(());
        };
        copy.after = Some(last.clone());
        for document in &documents {
            self.take_in(&collection, document)?;
        }
        let mut news = Vec::new();
        let anew = self.widen(&collection, &mut news).await?;
        for item in news {
            self.hand_on(item, steps);
        }
        if anew {
            return Ok(());
        }
        let version = Version::new(point, 0);
        let table = self.shapes.table(&collection);
        for document in &documents {
            let item = Item {
                committed_at: None,
                table: table.clone(),
                version,
                op: RowOp::Insert(self.shapes.row(&collection, document)?),
            };
            self.hand_on(item, steps);
        }
        let left = self.left.load(Ordering::Relaxed);
        let read = u64::try_from(documents.len()).unwrap_or(0);
        self.left
            .store(left.saturating_sub(read), Ordering::Relaxed);
        let after = after_bytes(last)?;
        self.note(&collection, CopyState::Upto { point, after }, steps);
        Ok(())
    }

    /// Begins with a collection, or goes on with it.
    fn begin(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let Some(pending) = self.pending.pop_front() else {
            return Ok(());
        };
        let collection = pending.collection;
        self.known.insert(collection.clone());
        if let Some((point, after)) = pending.resumed {
            let after = Some(after_of(&after)?);
            self.copy = Some(Copying {
                collection,
                point,
                after,
            });
            return Ok(());
        }
        tracing::info!(collection, "copying a collection");
        let point = pending.begun.unwrap_or(self.position.time);
        if pending.begun.is_none() {
            self.note(&collection, CopyState::Begun { point }, steps);
        }
        if pending.left_out {
            self.done(&collection, point, point, steps);
        } else {
            self.copy = Some(Copying {
                collection,
                point,
                after: None,
            });
        }
        Ok(())
    }

    fn done(
        &mut self,
        collection: &str,
        point: u64,
        through: u64,
        steps: &mut Vec<Step<RowChange>>,
    ) {
        self.note(collection, CopyState::Done { point, through }, steps);
        // Pages were read at different moments: only from here on is the copy that of one.
        if let Some(until) = &mut self.until {
            *until = (*until).max(through);
        }
        tracing::info!(collection, "collection copied");
        if self.pending.is_empty() {
            self.is_copying.store(false, Ordering::Relaxed);
        }
    }
}

/// How a copy notes the `_id` that it has come to.
fn after_bytes(id: Bson) -> Result<Bytes> {
    let bytes = mongodb::bson::serialize_to_vec(&doc! {"_id": id});
    let bytes = bytes.map_err(|error| malformed("an _id").with_source(error))?;
    Ok(bytes.into())
}

/// Reads it back.
fn after_of(bytes: &[u8]) -> Result<Bson> {
    let document: Result<Document, _> = mongodb::bson::deserialize_from_slice(bytes);
    let document = document.map_err(|error| malformed("a copy's place").with_source(error))?;
    Ok(document.get("_id").cloned().unwrap_or(Bson::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_copy_reads_back() {
        for id in [
            Bson::from("x"),
            Bson::from(5),
            Bson::Null,
            doc! {"a": 1}.into(),
        ] {
            assert_eq!(after_of(&after_bytes(id.clone()).unwrap()).unwrap(), id);
        }
        assert!(after_of(b"no BSON").is_err());
    }
}
