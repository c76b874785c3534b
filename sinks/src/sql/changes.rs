//! The changes of one table within a batch, reduced to one a key.

use std::collections::HashMap;

use ledger_core::{CopyState, Result, Row, RowChange, RowOp};

use super::statements::Destination;
use super::{Engine, Param};
use crate::rejected::rejected;

/// A key as it can be looked up.
type Key = Vec<u8>;

/// What is to be written of rows, each as it is in the end: its values, or none where it is removed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    keyed: HashMap<Key, (Vec<Param>, Option<Vec<Param>>)>,
    rows: Vec<Vec<Param>>,
}

impl Changes {
    /// Forgets what is not written yet, since it is removed at once.
    pub(super) fn forget(&mut self) {
        self.keyed.clear();
        self.rows.clear();
    }

    pub(super) async fn take<E: Engine>(
        &mut self,
        engine: &mut E,
        destination: &Destination,
        places: &[Option<usize>],
        copy: Option<&CopyState>,
        change: &RowChange,
    ) -> Result<()> {
        let values = |engine: &E, row: &Row| destination.values(engine, change, places, row);
        if !destination.is_keyed() {
            return self.take_keyless(engine, destination, places, change).await;
        }
        match &change.op {
            RowOp::Insert(row) => self.write(destination, values(engine, row)?, change),
            RowOp::Delete(row) => {
                let values = values(engine, row)?;
                let key = key_of(destination, &values, change)?;
                self.keyed.insert(name(&key), (key, None));
                Ok(())
            }
            RowOp::Update { row, before } => {
                let now = values(engine, row)?;
                let new = key_of(destination, &now, change)?;
                let then = match before {
                    Some(before) => Some(values(engine, before)?),
                    None => None,
                };
                let old = match &then {
                    Some(then) => key_of(destination, then, change)?,
                    None => new.clone(),
                };
                let now = self.complete(now, then.as_deref(), &name(&old));
                if now.iter().all(Option::is_some) {
                    if old != new {
                        self.keyed.insert(name(&old), (old, None));
                    }
                    return self.write(destination, now, change);
                }
                // What is not told stays as it is.
                self.flush(engine, destination).await?;
                if old == new {
                    destination.update(engine, &now, &new).await.map(drop)
                } else {
                    rename(engine, destination, copy, change, (&old, &new), &now).await
                }
            }
            RowOp::Truncate | RowOp::Shape | RowOp::Copied(_) => Ok(()),
        }
    }

    /// Fills what a row does not tell by the row before, where that is told.
    fn complete(
        &self,
        now: Vec<Option<Param>>,
        then: Option<&[Option<Param>]>,
        old: &Key,
    ) -> Vec<Option<Param>> {
        let waiting = self.keyed.get(old).and_then(|(_, row)| row.as_ref());
        let fill = |(at, value): (usize, Option<Param>)| {
            value
                .or_else(|| then.and_then(|then| then.get(at).cloned().flatten()))
                .or_else(|| waiting.and_then(|row| row.get(at).cloned()))
        };
        now.into_iter().enumerate().map(fill).collect()
    }

    fn write(
        &mut self,
        destination: &Destination,
        values: Vec<Option<Param>>,
        change: &RowChange,
    ) -> Result<()> {
        let key = key_of(destination, &values, change)?;
        let row = whole(values, change)?;
        self.keyed.insert(name(&key), (key, Some(row)));
        Ok(())
    }

    async fn take_keyless<E: Engine>(
        &mut self,
        engine: &mut E,
        destination: &Destination,
        places: &[Option<usize>],
        change: &RowChange,
    ) -> Result<()> {
        let values = |engine: &E, row: &Row| destination.values(engine, change, places, row);
        let (removed, written) = match &change.op {
            RowOp::Insert(row) => (None, Some(values(engine, row)?)),
            RowOp::Delete(row) => (Some(values(engine, row)?), None),
            RowOp::Update { row, before } => {
                let before = before.as_ref().map(|row| values(engine, row)).transpose()?;
                let row = self.complete(values(engine, row)?, before.as_deref(), &Key::new());
                (before.or_else(|| Some(vec![None])), Some(row))
            }
            RowOp::Truncate | RowOp::Shape | RowOp::Copied(_) => return Ok(()),
        };
        if let Some(removed) = removed {
            if !destination.keyless_changes {
                let rule = "was changed in a table without a key, which only takes new rows; set \
                            REPLICA IDENTITY FULL and the table's option `keyless_changes`";
                return Err(rejected(change, "", rule));
            }
            let removed = whole(removed, change)?;
            self.flush(engine, destination).await?;
            destination.take(engine, &removed).await?;
        }
        if let Some(written) = written {
            self.rows.push(whole(written, change)?);
        }
        Ok(())
    }

    /// Writes what is there to be written.
    pub(super) async fn flush<E: Engine>(
        &mut self,
        engine: &mut E,
        destination: &Destination,
    ) -> Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        let mut removed = Vec::new();
        for (_, (key, row)) in self.keyed.drain() {
            match row {
                Some(row) => rows.push(row),
                None => removed.push(key),
            }
        }
        destination.delete(engine, &removed).await?;
        destination.upsert(engine, &rows).await
    }
}

/// Gives a row another key, and what else it tells.
async fn rename<E: Engine>(
    engine: &mut E,
    destination: &Destination,
    copy: Option<&CopyState>,
    change: &RowChange,
    (old, new): (&[Param], &[Param]),
    values: &[Option<Param>],
) -> Result<()> {
    // Copied under its new key already.
    if destination.has(engine, new).await? {
        destination.update(engine, values, new).await?;
        return destination.delete(engine, &[old.to_vec()]).await;
    }
    let copying = match copy {
        Some(CopyState::Done { through, .. }) => change.version.commit < *through,
        _ => copy.is_some(),
    };
    // What is there under the old key may be another row by now.
    if !copying && destination.update(engine, values, old).await? {
        return Ok(());
    }
    let rule = if copying {
        "has a new key and does not tell all of its values, and was changed while the table was \
         being copied; set REPLICA IDENTITY FULL, or copy the table anew"
    } else {
        "does not tell all of its values, and there is no earlier row to take them from; set \
         REPLICA IDENTITY FULL, or copy the table anew"
    };
    Err(rejected(change, "", rule))
}

fn key_of(
    destination: &Destination,
    values: &[Option<Param>],
    change: &RowChange,
) -> Result<Vec<Param>> {
    let key = destination.key(values);
    key.ok_or_else(|| rejected(change, "", "does not tell its key"))
}

fn whole(values: Vec<Option<Param>>, change: &RowChange) -> Result<Vec<Param>> {
    let row: Option<Vec<Param>> = values.into_iter().collect();
    row.ok_or_else(|| {
        let rule = "does not tell all of its values; set REPLICA IDENTITY FULL";
        rejected(change, "", rule)
    })
}

/// A key in bytes that are equal where the key is.
fn name(key: &[Param]) -> Key {
    let mut name = Vec::new();
    for param in key {
        let (tag, bytes): (u8, &[u8]) = match param {
            Param::Null => (0, &[]),
            Param::Int(value) => (1, &value.to_le_bytes()),
            Param::Real(value) => (2, &value.to_le_bytes()),
            Param::Text(text) => (3, text.as_bytes()),
            Param::Blob(bytes) => (4, bytes),
        };
        name.push(tag);
        name.extend_from_slice(&bytes.len().to_le_bytes());
        name.extend_from_slice(bytes);
    }
    name
}
