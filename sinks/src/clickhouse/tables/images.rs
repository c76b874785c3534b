//! The values that an updated row does not tell: those that are stored apart and were not changed.
//!
//! Such a value is the one that the row had before: as the source told it earlier in the batch, or
//! as the destination holds it. It is never a default.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use ledger_core::{Result, Row, RowChange, RowOp, Value};
use ledger_layout::clickhouse::identifier;

use super::decode::Reader;
use super::destination::{Destination, Slot};
use super::rows::Fill;
use super::walk::Walk;
use super::work::Entry;
use super::{ClickHouseTables, DELIVER};

/// How many rows with such values are written at once, as long as nothing is known of their size.
pub(super) const LOOKUPS: usize = 1_000;
const FEWEST: usize = 16;

/// How many bytes of such values are to be in memory at once.
const BYTES: usize = 16 << 20;

/// The most keys that one query asks for.
const KEYS: usize = 1_000;

/// What was found for the changes of one table, by their places in the batch.
#[derive(Debug, Default)]
pub(super) struct Fills {
    pub(super) by_item: HashMap<usize, Vec<(usize, Fill)>>,
    /// Rows that are not written: newer ones hide them, or they are gone before the copy that lacks
    /// them ends.
    pub(super) skipped: HashSet<usize>,
    /// Those of them that have to wait until the copy shows what they lack.
    pub(super) deferred: Vec<Waiting>,
}

/// A change that has to wait, by its place in the batch.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) item: usize,
    /// All that it does not tell, where the destination holds something of its key.
    pub(super) held: Option<Vec<(usize, Fill)>>,
}

impl Fills {
    pub(super) fn of(&self, item: usize) -> &[(usize, Fill)] {
        self.by_item.get(&item).map_or(&[], Vec::as_slice)
    }

    pub(super) fn deferred(&self) -> &[Waiting] {
        &self.deferred
    }

    pub(super) fn skips(&self, item: usize) -> bool {
        self.skipped.contains(&item)
    }
}

/// A row of the destination.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) version: u128,
    pub(super) deleted: bool,
    /// The bytes of the asked slots.
    pub(super) values: HashMap<usize, bytes::Bytes>,
}

/// The places of the values that have to be found.
pub(super) fn wanted(change: &RowChange, soft_delete: bool) -> Vec<usize> {
    let absent = |row: &Row| {
        let values = row.iter().enumerate();
        let absent = values.filter(|(_, value)| **value == Value::Absent);
        absent.map(|(place, _)| place).collect::<Vec<_>>()
    };
    match &change.op {
        RowOp::Update { row, .. } => absent(row),
        // Which a reader would see.
        RowOp::Delete(row) if soft_delete => absent(row),
        _ => Vec::new(),
    }
}

impl ClickHouseTables {
    /// Finds what the changes `items` of one table do not tell.
    pub(super) async fn fills(
        &self,
        entry: &mut Entry,
        destination: &Destination,
        items: &[(usize, &RowChange)],
    ) -> Result<Fills> {
        let soft = destination.soft_delete;
        if !items
            .iter()
            .any(|(_, change)| !wanted(change, soft).is_empty())
        {
            return Ok(Fills::default());
        }
        let mut places = Vec::with_capacity(items.len());
        for (_, change) in items {
            places.push(entry.places(change)?);
        }
        let mut walk = Walk {
            destination,
            items,
            places: &places,
            keys: Vec::new(),
        };
        if destination.is_keyed() {
            walk.keys()?;
        }
        let (keys, slots) = walk.unknown();
        let images = self.images(destination, &keys, &slots).await?;
        let copy = entry.note()?.copy.clone();
        walk.fill(&images, copy.as_ref(), entry.noted.boundary)
    }

    /// The newest rows of these keys.
    async fn images(
        &self,
        destination: &Destination,
        keys: &[&[u8]],
        slots: &[usize],
    ) -> Result<HashMap<Vec<u8>, Image>> {
        let mut images = HashMap::with_capacity(keys.len());
        let mut bytes = 0;
        for keys in keys.chunks(KEYS) {
            let asked = slots.iter().filter_map(|at| destination.slots.get(*at));
            let asked: Vec<String> = asked.flat_map(Slot::names).collect();
            let mut columns = destination.order_names();
            columns.extend(["`_version`".to_owned(), "`_deleted`".to_owned()]);
            columns.extend(asked.iter().map(|name| identifier(name)));
            let sql = format!(
                "SELECT {} FROM {} FINAL WHERE {}",
                columns.join(", "),
                identifier(&destination.target),
                destination.among(keys),
            );
            let query = self.connection.client().query_raw(&sql);
            let query = query.with_setting("max_query_size", "1000000000");
            let answer = self
                .connection
                .fetch_bytes(DELIVER, query, "RowBinary")
                .await?;
            bytes += answer.len();
            let mut reader = Reader::new(&answer);
            while !reader.is_empty() {
                let begun = answer.len() - reader.left();
                destination.skip_place(&mut reader)?;
                let key = answer.slice(begun..answer.len() - reader.left()).to_vec();
                let (version, deleted) = (reader.u128()?, reader.byte()? != 0);
                let mut values = HashMap::with_capacity(slots.len());
                for at in slots {
                    let Some(slot) = destination.slots.get(*at) else {
                        continue;
                    };
                    let begun = answer.len() - reader.left();
                    slot.skip(&mut reader)?;
                    values.insert(*at, answer.slice(begun..answer.len() - reader.left()));
                }
                images.insert(
                    key,
                    Image {
                        version,
                        deleted,
                        values,
                    },
                );
            }
        }
        if let Some(size) = bytes.checked_div(images.len()) {
            // As many at once as fit, of rows like these.
            let fitting = (BYTES / size.max(1)).clamp(FEWEST, 20 * LOOKUPS);
            self.lookups.store(fitting, Ordering::Relaxed);
        }
        Ok(images)
    }
}
