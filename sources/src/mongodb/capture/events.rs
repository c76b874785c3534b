//! What the events of a change stream come to.

use std::sync::atomic::Ordering;

use ledger_core::{CopyState, Error, ErrorKind, Result, RowOp, Timestamp, Version};
use ledger_layout::mongodb::text;
use mongodb::bson::{RawBsonRef, RawDocument};

use super::copying::Pending;
use super::feed::Feed;
use super::follow::{Following, Item};
use super::position::Position;
use super::values;

impl Following {
    /// What an event comes to, in order.
    pub(super) async fn apply(&mut self, event: &RawDocument) -> Result<Vec<Item>> {
        let kind = text(event, "operationType")?;
        if kind == "invalidate" {
            // The database was dropped, and the stream ends. What is made in it from now on is new.
            let from = self.position.time.saturating_add(1);
            self.position = Position::before(from);
            self.feed = Feed::open(&self.database, from).await?;
            return Ok(Vec::new());
        }
        let name = |field: &str| match event.get_document(field) {
            Ok(namespace) => text(namespace, "coll").map(str::to_owned),
            Err(_) => Ok(String::new()),
        };
        let collection = name("ns")?;
        let known = self.known.contains(&collection);
        let mut items = Vec::new();
        match kind {
            "insert" | "replace" | "update" if self.selected.holds(&collection) => {
                // Without a document it has been removed since, which its own event tells.
                let Ok(document) = event.get_document("fullDocument") else {
                    return Ok(items);
                };
                self.make_known(&collection, &mut items);
                self.take_in(&collection, document)?;
                self.widen(&collection, &mut items).await?;
                let row = self.shapes.row(&collection, document)?;
                let op = if kind == "insert" {
                    RowOp::Insert(row)
                } else {
                    RowOp::Update { row, before: None }
                };
                items.push(self.item(event, &collection, op));
            }
            "delete" if known => {
                self.make_known(&collection, &mut items);
                let key = event
                    .get_document("documentKey")
                    .map_err(|_| malformed("a delete names no document"))?;
                let columns = self.shapes.table(&collection).columns.len();
                let op = RowOp::Delete(values::key_row(key, columns)?);
                items.push(self.item(event, &collection, op));
            }
            "drop" if known => self.empty(event, &collection, &mut items),
            "rename" => {
                if known {
                    self.empty(event, &collection, &mut items);
                }
                let to = name("to")?;
                if self.selected.holds(&to) {
                    if self.known.contains(&to) {
                        self.empty(event, &to, &mut items);
                    }
                    // Behind the removal of what was there. Noted with the event, so that the copy is
                    // made whatever happens before it begins.
                    let point = self.position.time.saturating_add(1);
                    items.push(self.noted(&to, CopyState::Begun { point }));
                    self.pending.push_back(Pending {
                        begun: Some(point),
                        ..Pending::new(to)
                    });
                    self.is_copying.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        Ok(items)
    }

    /// Every document of a collection is gone.
    fn empty(&mut self, event: &RawDocument, collection: &str, items: &mut Vec<Item>) {
        let pending = self.pending.len();
        self.pending
            .retain(|pending| pending.collection != collection);
        let copied = self
            .copy
            .take_if(|copy| copy.collection == collection)
            .map(|copy| copy.point);
        items.push(self.item(event, collection, RowOp::Truncate));
        // There is nothing left to be copied.
        if copied.is_some() || self.pending.len() < pending {
            let through = self.position.time;
            let point = copied.unwrap_or(through);
            items.push(self.noted(collection, CopyState::Done { point, through }));
        }
    }

    fn item(&mut self, event: &RawDocument, collection: &str, op: RowOp) -> Item {
        let committed_at = match event.get("wallTime") {
            Ok(Some(RawBsonRef::DateTime(at))) => Some(Timestamp::from_micros(
                at.timestamp_millis().saturating_mul(1_000),
            )),
            _ => None,
        };
        Item {
            committed_at,
            table: self.shapes.table(collection),
            version: Version::new(self.position.time, self.position.ordinal),
            op,
        }
    }

    fn noted(&mut self, collection: &str, state: CopyState) -> Item {
        let table = self.shapes.table_at(collection, state.point());
        Item::noted(table, state)
    }

    /// Makes the table of a collection that the sink has none of, before there are rows of it, and
    /// notes that it is to be copied where it waits for that: a change of it tells the table as it is
    /// now, with which what is noted of an earlier copy would say that it is complete.
    fn make_known(&mut self, collection: &str, items: &mut Vec<Item>) {
        let mut waiting = self.pending.iter_mut();
        let waiting = waiting.find(|pending| pending.collection == collection);
        let is_new = self.known.insert(collection.to_owned());
        if let Some(pending) = waiting {
            if pending.begun.is_none() && pending.resumed.is_none() {
                // Its copy begins with this.
                let point = pending.point(self.position);
                pending.begun = Some(point);
                items.push(self.noted(collection, CopyState::Begun { point }));
            }
            return;
        }
        if !is_new {
            return;
        }
        let position = self.position.time;
        // It did not exist when the stream began.
        let point = position.saturating_sub(1);
        items.push(self.noted(collection, CopyState::Begun { point }));
        let through = point;
        items.push(self.noted(collection, CopyState::Done { point, through }));
    }
}

pub(super) fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read change event", what)
}
