//! Delivering a batch within a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ledger_core::{Batch, CopyState, Result, RowChange, RowOp, Table};
use ledger_layout::tables::TableRoutes;

use super::changes::Changes;
use super::schema::{Noted, admit, load, note};
use super::statements::Destination;
use super::{Engine, advance};

/// A table of the batch.
struct Open {
    destination: Destination,
    changes: Changes,
    /// The shape that was met last, and where the values of its rows stand.
    met: Option<(Arc<Table>, Vec<Option<usize>>)>,
}

/// Applies a batch, with the cursor and the notes, within the caller's transaction.
pub(crate) async fn deliver<E: Engine>(
    engine: &mut E,
    routes: &TableRoutes,
    batch: &Batch<RowChange>,
) -> Result<()> {
    // First: who was taken over changes nothing.
    advance(engine, &batch.pipeline, batch.fence, batch.ack.as_ref()).await?;
    if batch.items.is_empty() {
        return Ok(());
    }
    let mut tables = load(engine, &batch.pipeline).await?;
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    let mut dirty = BTreeSet::new();
    for (_, change) in &batch.items {
        let id = change.table.id;
        let met = open.get(&id).and_then(|open| open.met.as_ref());
        if !met.is_some_and(|(table, _)| Arc::ptr_eq(table, &change.table)) {
            settle(engine, &mut tables, &mut open, &mut dirty, routes, change).await?;
        }
        let (Some(opened), Some(noted)) = (open.get_mut(&id), tables.get_mut(&id)) else {
            continue;
        };
        let places = opened.met.as_ref().map_or(&[][..], |(_, places)| places);
        let destination = &opened.destination;
        let changes = &mut opened.changes;
        match &change.op {
            RowOp::Shape => {}
            RowOp::Truncate => {
                changes.forget();
                destination.clear(engine).await?;
            }
            RowOp::Copied(state) => {
                // What an earlier copy has left is written anew.
                if let CopyState::Begun { .. } = state {
                    changes.forget();
                    destination.clear(engine).await?;
                }
                noted.note.copy = Some(state.clone());
                dirty.insert(id);
            }
            _ => {
                let copy = noted.note.copy.as_ref();
                changes
                    .take(engine, destination, places, copy, change)
                    .await?;
            }
        }
    }
    for opened in open.values_mut() {
        opened.changes.flush(engine, &opened.destination).await?;
    }
    for id in dirty {
        if let Some(noted) = tables.get(&id) {
            note(engine, &batch.pipeline, id, noted).await?;
        }
    }
    Ok(())
}

/// Makes a table ready for a change that is of another shape than the one before.
async fn settle<E: Engine>(
    engine: &mut E,
    tables: &mut BTreeMap<u64, Noted>,
    open: &mut BTreeMap<u64, Open>,
    dirty: &mut BTreeSet<u64>,
    routes: &TableRoutes,
    change: &RowChange,
) -> Result<()> {
    let id = change.table.id;
    if let Some(opened) = open.get_mut(&id) {
        opened.changes.flush(engine, &opened.destination).await?;
    }
    if admit(engine, tables, routes, change).await? {
        dirty.insert(id);
    }
    if let Some(noted) = tables.get(&id) {
        let options = routes.options(&noted.note.table.name);
        let places = noted.note.places(&change.table, change.version);
        let opened = Open {
            destination: Destination::new(engine, &noted.target, &noted.note, options),
            changes: Changes::default(),
            met: Some((Arc::clone(&change.table), places)),
        };
        open.insert(id, opened);
    }
    Ok(())
}
