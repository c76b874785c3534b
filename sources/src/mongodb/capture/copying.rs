//! Copying collections beside the change stream.
//!
//! The copy reads by `_id`, each page at its own moment, and hands it on before the events that come
//! after that moment: a page is therefore never older than what was handed on before. What it holds
//! that is newer than its version says is told once more by the events up to the copy's end, so the
//! content is the source's once the stream has been followed up to there.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ledger_core::pipeline::Step;
use ledger_core::{CopyState, Result, RowChange, RowOp, TableState, Version};
use ledger_layout::mongodb::failed;
use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::contents::page;
use super::events::malformed;
use super::follow::{Following, Item, OPERATION};
use super::options::Documents;
use super::position::Position;
use super::source::{head, later_head};
use super::values::is_in_columns;

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
    /// The least time that the copied documents may have as their version, where an earlier copy of
    /// them or a shape of the table has it.
    pub(super) least: u64,
    /// What the collection holds now is not carried, only what is changed from now on.
    pub(super) left_out: bool,
}

impl Pending {
    pub(super) fn new(collection: impl Into<String>) -> Self {
        Self {
            collection: collection.into(),
            resumed: None,
            begun: None,
            least: 0,
            left_out: false,
        }
    }

    /// What is to be copied of a collection that the sink has noted something of, or nothing; none
    /// where its copy is complete.
    pub(super) fn of(
        collection: &str,
        state: Option<&TableState>,
        documents: Documents,
        copy: bool,
    ) -> Option<Self> {
        let mut pending = Self {
            left_out: !copy,
            ..Self::new(collection)
        };
        let Some(state) = state else {
            return Some(pending);
        };
        let has_columns = is_in_columns(&state.table);
        match (&state.copy, documents) {
            // A document as a whole is in the rows of both forms.
            (CopyState::Done { .. }, Documents::Doc) => return None,
            (CopyState::Done { .. }, Documents::Columns) if has_columns => return None,
            // In the other form it begins anew, so that all of its rows are in one.
            (CopyState::Upto { point, after }, documents)
                if has_columns == (documents == Documents::Columns) =>
            {
                pending.left_out = false;
                pending.resumed = Some((*point, after.clone()));
            }
            (CopyState::Upto { .. }, _) => pending.left_out = false,
            _ => {}
        }
        pending.least = above(state.version.commit, state.version.ordinal);
        pending.least = pending.least.max(state.copy.point());
        Some(pending)
    }

    /// The time that the copied documents have as their version if the copy begins at `position`:
    /// above those of all rows before.
    pub(super) fn point(&self, position: Position) -> u64 {
        // Nothing is below the version of a copy that is left out but what was there before.
        if self.left_out {
            return position.time;
        }
        self.least.max(above(position.time, position.ordinal))
    }
}

/// The least time whose copied rows, which have no ordinal, are not below a place in the log.
fn above(time: u64, ordinal: u64) -> u64 {
    time.saturating_add(u64::from(ordinal > 0))
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
        let table = self.shapes.table_at(collection, state.point());
        self.hand_on(Item::noted(table, state), steps);
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
        let collection = pending.collection.clone();
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
        let point = pending.begun.unwrap_or(pending.point(self.position));
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
    use crate::mongodb::capture::shapes::Shapes;

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

    fn state(form: Documents, copy: CopyState) -> TableState {
        let table = Shapes::new("app", form, &[]).table("c");
        let version = Version::new(30, 2);
        TableState {
            table,
            version,
            copy,
        }
    }

    #[test]
    fn what_is_copied_depends_on_the_form_that_is_noted_and_not_on_the_columns() {
        use Documents::{Columns, Doc};
        let done = CopyState::Done {
            point: 10,
            through: 20,
        };
        let after = Bytes::from_static(b"x");
        let upto = CopyState::Upto { point: 10, after };
        for (noted, copy, now, pends, resumes) in [
            (Doc, &done, Doc, false, false),
            (Columns, &done, Doc, false, false),
            (Columns, &done, Columns, false, false),
            (Doc, &done, Columns, true, false),
            (Doc, &upto, Doc, true, true),
            (Columns, &upto, Columns, true, true),
            (Columns, &upto, Doc, true, false),
            (Doc, &upto, Columns, true, false),
        ] {
            let state = state(noted, copy.clone());
            let pending = Pending::of("c", Some(&state), now, true);
            assert_eq!(pending.is_some(), pends, "{noted} {copy:?} {now}");
            let resumed = pending.is_some_and(|pending| pending.resumed.is_some());
            assert_eq!(resumed, resumes, "{noted} {copy:?} {now}");
        }
        assert!(Pending::of("c", None, Columns, true).is_some());
        assert!(Pending::of("c", None, Doc, false).unwrap().left_out);
    }

    #[test]
    fn a_copy_that_begins_anew_is_above_all_that_is_there() {
        let begun = |point| state(Documents::Doc, CopyState::Begun { point });
        let at = |time, ordinal| Position {
            ordinal,
            ..Position::before(time)
        };
        let point = |noted, position| {
            let state = begun(noted);
            let pending = Pending::of("c", Some(&state), Documents::Doc, true).unwrap();
            pending.point(position)
        };
        assert_eq!(point(50, at(40, 1)), 50, "as an earlier copy has it");
        assert_eq!(point(10, at(40, 1)), 41, "above the rows of events");
        assert_eq!(point(10, at(40, 0)), 40, "none of them are told");
        assert_eq!(point(10, at(20, 1)), 31, "above the shape");
        assert_eq!(Pending::new("c").point(at(40, 1)), 41);
        let left_out = Pending::of("c", Some(&begun(50)), Documents::Doc, false).unwrap();
        assert_eq!(left_out.point(at(40, 1)), 40, "what came is not hidden");
    }

    #[test]
    fn a_table_says_its_form_though_it_has_no_column_of_a_field() {
        let any = |name: &str| Some(name.to_owned());
        let document = mongodb::bson::rawdoc! {"n": 1};
        let mut whole = Shapes::new("app", Documents::Doc, &[]).table("c");
        assert!(!is_in_columns(&whole));
        let mut shapes = Shapes::new("app", Documents::Columns, &[]);
        let table = shapes.table("c");
        assert!(is_in_columns(&table));
        assert_eq!(table.columns.len(), whole.columns.len());
        // What the sink noted of the other form goes on in this one, with its columns.
        shapes.take_in("c", &document, &any).unwrap();
        let columns = shapes.news("c", Version::default()).unwrap().table;
        let own = columns.columns.iter().skip(2).cloned();
        std::sync::Arc::make_mut(&mut whole).columns.extend(own);
        assert!(!is_in_columns(&whole));
        let state = TableState {
            table: whole,
            ..state(Documents::Doc, CopyState::Begun { point: 1 })
        };
        let mut after = Shapes::new("app", Documents::Columns, &[state]);
        // No shape is told below what the copy's beginning was noted at.
        assert_eq!(after.table_at("c", 90), columns);
        let wider = mongodb::bson::rawdoc! {"m": 1};
        after.take_in("c", &wider, &any).unwrap();
        let news = after.news("c", Version::new(80, 3)).unwrap();
        assert_eq!(news.version, Version::new(90, 0));
    }
}
