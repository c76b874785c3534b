//! Comparing the tables of a sink with those of their source, while both may move.
//!
//! A chunk of one side is read, then the other side's rows with the same keys; this goes both ways,
//! since each side has an order of its own. What differs is looked at again once the sink has come
//! past the log's head, and reported only where the source's row is still the same.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use ledger_core::{
    Cursor, Error, ErrorKind, PipelineId, Progress, Result, Row, RowChange, Source, Table,
    TableContents, TableSink, Value, Version,
};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::lease::under_lease;

/// How many rows are compared at a time.
const CHUNK: usize = 2_000;
/// How many differing rows are kept and named.
const NAMED: usize = 1_000;
/// How often it is looked whether the sink has moved.
const LOOK: Duration = Duration::from_millis(100);
/// How often rows that keep changing are looked at again.
const AGAIN: u32 = 20;

/// What both sides of a comparison of tables are.
pub struct TableEnds<'a> {
    /// Where the log is.
    pub source: &'a dyn Source<RowChange>,
    /// What the source holds.
    pub from: &'a dyn TableContents,
    /// What keeps the copies.
    pub sink: &'a dyn TableSink,
    /// The bridge between them.
    pub pipeline: &'a PipelineId,
    /// How long a running bridge may stand still before it counts as stopped.
    pub patience: Duration,
}

/// What came of a comparison.
#[derive(Debug, Clone, Default)]
pub struct TableReport {
    /// The rows that were compared.
    pub rows: u64,
    /// The tables.
    pub tables: u64,
    /// What differs, at most 1,000 of a table.
    pub differences: Vec<RowDifference>,
    /// How many of these were mended.
    pub repaired: u64,
}

impl TableReport {
    /// Whether nothing differs, or everything was mended.
    pub fn is_equal(&self) -> bool {
        self.differences.len() as u64 == self.repaired
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// The table.
    pub table: String,
    /// The row's key; how many rows there are, for a table without one.
    pub key: String,
    /// `missing`, `surplus` or `different`.
    pub kind: &'static str,
    /// The columns that differ.
    pub columns: Vec<String>,
}

impl fmt::Display for RowDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.table, self.key, self.kind)?;
        if !self.columns.is_empty() {
            write!(f, " in {}", self.columns.join(", "))?;
        }
        Ok(())
    }
}

/// Compares tables, each as its source describes it now; `repair` writes what differs anew, for which
/// no bridge may run. `Unavailable` where the sink is behind and does not move.
pub async fn verify_tables(
    ends: &TableEnds<'_>,
    tables: &[std::sync::Arc<Table>],
    repair: bool,
    mut compared: impl FnMut(u64) + Send,
) -> Result<TableReport> {
    let mut report = TableReport::default();
    for table in tables {
        report.tables += 1;
        if !table.is_keyed() {
            report.rows += whole(ends, table, &mut report.differences).await?;
            compared(report.rows);
            continue;
        }
        let suspects = suspects(ends, table, |rows| {
            report.rows += rows;
            compared(report.rows);
        })
        .await?;
        let rows = settled(ends, table, suspects).await?;
        let found = rows.iter().map(|(_, pair)| difference(table, pair));
        report.differences.extend(found.flatten());
        if repair && !rows.is_empty() {
            let work = mend(ends, table, &rows);
            let consumers = ends.source.consumers();
            report.repaired += under_lease(consumers, ends.pipeline, "repair", work).await?;
        }
    }
    Ok(report)
}

/// The key's values, by which the rows of two sides meet.
type Key = Vec<Value>;

/// What the two sides have under one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Pair {
    source: Option<Row>,
    /// The source's row as the sink should hold it.
    expected: Option<Row>,
    sink: Option<Row>,
}

fn key(table: &Table, row: &Row) -> Key {
    let columns = table.key();
    columns
        .filter_map(|index| row.get(index).cloned())
        .collect()
}

/// Waits until the sink has everything up to the present head of the log.
async fn reach(ends: &TableEnds<'_>) -> Result<Cursor> {
    let head = ends.source.head().await?;
    let cursors = ends.sink.cursors().ok_or_else(|| {
        let what = format!("{} keeps no cursors", ends.sink);
        Error::new(ErrorKind::Unsupported, "verify", what)
    })?;
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        let stored = cursors.stored(ends.pipeline).await?;
        if let Some(stored) = &stored
            && let Progress::Follow(cursor) = Progress::from_cursor(stored)?
            && cursor >= head
        {
            return Ok(head);
        }
        if stored != last {
            (last, moved) = (stored, Instant::now());
        }
        if moved.elapsed() > ends.patience {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "verify",
                format!(
                    "the bridge {} is behind the log and does not move; run it, or let it catch up \
                     with `ledger bridge run --once`",
                    ends.pipeline
                ),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The keys under which the two sides differ at first sight, as rows of the source or, of what only
/// the sink has, of the sink.
async fn suspects(
    ends: &TableEnds<'_>,
    table: &Table,
    mut compared: impl FnMut(u64) + Send,
) -> Result<Vec<Row>> {
    let sink = ends.sink.content();
    let mut suspects = BTreeMap::new();
    let mut suspect = |row: Row| {
        if suspects.len() < NAMED {
            suspects.entry(bytes(&key(table, &row))).or_insert(row);
        }
    };
    let (mut after, mut rows) = (None, 0);
    loop {
        let chunk = ends.from.rows(table, after.as_ref(), CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = Some(last.clone());
        rows += chunk.len() as u64;
        // A bridge that cannot be compared with is told at once, and not after all of it is read. What
        // has not arrived yet is looked at again.
        if rows == chunk.len() as u64 {
            reach(ends).await?;
        }
        compared(chunk.len() as u64);
        let expected = sink.expected(ends.pipeline, table, &chunk).await?;
        let held = held(ends, table, &chunk).await?;
        for (row, expected) in chunk.into_iter().zip(expected) {
            if held.get(&bytes(&key(table, &expected))) != Some(&expected) {
                suspect(row);
            }
        }
    }
    // Where there are as many rows as were found, there are no others.
    if sink.count(ends.pipeline, &table.name).await? == rows {
        return Ok(suspects.into_values().collect());
    }
    let mut after: Option<bytes::Bytes> = None;
    loop {
        let after_place = after.as_deref();
        let chunk = sink.rows(ends.pipeline, table, after_place, CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = Some(last.place.clone());
        let chunk: Vec<Row> = chunk.into_iter().map(|held| held.row).collect();
        let found = ends.from.rows_at(table, &chunk).await?;
        let found = sink.expected(ends.pipeline, table, &found).await?;
        let found = by_key(table, found);
        for row in chunk {
            if !found.contains_key(&bytes(&key(table, &row))) {
                suspect(row);
            }
        }
    }
    Ok(suspects.into_values().collect())
}

/// The sink's rows with these keys, by their keys.
async fn held(ends: &TableEnds<'_>, table: &Table, keys: &[Row]) -> Result<BTreeMap<Vec<u8>, Row>> {
    let held = ends.sink.content().rows_at(ends.pipeline, table, keys);
    let rows = held.await?.into_iter().map(|held| held.row);
    Ok(by_key(table, rows.collect()))
}

/// A key as something that can be sorted.
fn bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in key {
        if let Value::Text(text) = value {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text);
        } else {
            bytes.push(0xff);
        }
    }
    bytes
}

/// Those of the suspects that differ although the source's row stands still, with the position from
/// which on the log tells what becomes of them.
async fn settled(
    ends: &TableEnds<'_>,
    table: &Table,
    mut suspects: Vec<Row>,
) -> Result<Vec<(Cursor, Pair)>> {
    let mut settled = Vec::new();
    for _ in 0..AGAIN {
        if suspects.is_empty() {
            return Ok(settled);
        }
        let before = by_key(table, ends.from.rows_at(table, &suspects).await?);
        let head = reach(ends).await?;
        let sink = held(ends, table, &suspects).await?;
        let after = by_key(table, ends.from.rows_at(table, &suspects).await?);
        let mut moving = Vec::new();
        for row in suspects {
            let by = bytes(&key(table, &row));
            let source = after.get(&by).cloned();
            if before.get(&by) != source.as_ref() {
                moving.push(row);
                continue;
            }
            let expected = match &source {
                Some(row) => {
                    let one = std::slice::from_ref(row);
                    let expected = ends.sink.content().expected(ends.pipeline, table, one);
                    expected.await?.pop()
                }
                None => None,
            };
            let by = expected.as_ref().map_or(by, |row| bytes(&key(table, row)));
            let sink = sink.get(&by).cloned();
            if expected != sink {
                let pair = Pair {
                    source,
                    expected,
                    sink,
                };
                settled.push((head.clone(), pair));
            }
        }
        suspects = moving;
    }
    // Rows that never stand still long enough cannot be compared while they do not.
    tracing::warn!(table = %table.name, rows = suspects.len(), "rows that keep changing");
    Ok(settled)
}

fn by_key(table: &Table, rows: Vec<Row>) -> BTreeMap<Vec<u8>, Row> {
    let keyed = rows.into_iter().map(|row| (bytes(&key(table, &row)), row));
    keyed.collect()
}

fn difference(table: &Table, pair: &Pair) -> Option<RowDifference> {
    let (kind, columns) = match (&pair.expected, &pair.sink) {
        (Some(_), None) => ("missing", Vec::new()),
        (None, Some(_)) => ("surplus", Vec::new()),
        (Some(source), Some(sink)) => {
            let columns = table.columns.iter().zip(source.iter().zip(sink));
            let differing = columns.filter(|(_, (source, sink))| source != sink);
            let names = differing.map(|(column, _)| column.name.clone());
            ("different", names.collect())
        }
        (None, None) => return None,
    };
    let row = pair.source.as_ref().or(pair.sink.as_ref())?;
    let shown = table.key().filter_map(|index| {
        let value = match row.get(index)? {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Null | Value::Absent => "NULL".to_owned(),
        };
        Some(format!("{}={value}", table.columns.get(index)?.name))
    });
    Some(RowDifference {
        table: table.name.to_string(),
        key: shown.collect::<Vec<_>>().join(", "),
        kind,
        columns,
    })
}

/// Compares a table whose rows have no key by their number and the sum of their digests.
async fn whole(
    ends: &TableEnds<'_>,
    table: &std::sync::Arc<Table>,
    differences: &mut Vec<RowDifference>,
) -> Result<u64> {
    let mut last = (Digest::default(), Digest::default());
    for _ in 0..AGAIN {
        let before = of_source(ends, table).await?;
        reach(ends).await?;
        let sink = of_sink(ends, table).await?;
        if before == sink {
            return Ok(sink.rows);
        }
        let after = of_source(ends, table).await?;
        if after == sink {
            return Ok(sink.rows);
        }
        last = (after, sink);
        if before == after {
            differences.push(RowDifference {
                table: table.name.to_string(),
                key: format!(
                    "{} rows at the source, {} at the sink",
                    after.rows, sink.rows
                ),
                kind: "different",
                columns: Vec::new(),
            });
            return Ok(sink.rows);
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "verify",
        format!(
            "{} has no key and is written all the while ({} rows, {} at the sink); compare it when \
             it is not",
            table.name, last.0.rows, last.1.rows
        ),
    ))
}

/// How many rows there are, and the wrapping sum of their digests, which does not depend on their
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Digest {
    rows: u64,
    sum: u64,
}

impl Digest {
    fn add(&mut self, row: &Row, removal: bool) {
        let mut hash = Xxh3::new();
        for value in row {
            match value {
                Value::Null => hash.update(&[0]),
                Value::Absent => hash.update(&[1]),
                Value::Text(text) => {
                    hash.update(&[2]);
                    hash.update(&text.len().to_le_bytes());
                    hash.update(text);
                }
            }
        }
        let digest = hash.digest();
        if removal {
            self.rows = self.rows.wrapping_sub(1);
            self.sum = self.sum.wrapping_sub(digest);
        } else {
            self.rows = self.rows.wrapping_add(1);
            self.sum = self.sum.wrapping_add(digest);
        }
    }
}

async fn of_source(ends: &TableEnds<'_>, table: &std::sync::Arc<Table>) -> Result<Digest> {
    let mut digest = Digest::default();
    let mut all = ends.from.all(std::sync::Arc::clone(table));
    while let Some(rows) = all.next().await {
        let rows = rows?;
        let expected = ends.sink.content().expected(ends.pipeline, table, &rows);
        for row in expected.await? {
            digest.add(&row, false);
        }
    }
    Ok(digest)
}

async fn of_sink(ends: &TableEnds<'_>, table: &Table) -> Result<Digest> {
    let mut digest = Digest::default();
    let mut after: Option<bytes::Bytes> = None;
    loop {
        let rows = ends
            .sink
            .content()
            .rows(ends.pipeline, table, after.as_deref(), CHUNK);
        let rows = rows.await?;
        let Some(last) = rows.last() else {
            return Ok(digest);
        };
        after = Some(last.place.clone());
        for held in &rows {
            digest.add(&held.row, held.removal);
        }
    }
}

/// Writes rows anew as the source has them, with the log's head as their version: what the log tells
/// of them later is newer.
async fn mend(ends: &TableEnds<'_>, table: &Table, rows: &[(Cursor, Pair)]) -> Result<u64> {
    let (mut delete, mut insert) = (Vec::new(), Vec::new());
    for (head, pair) in rows {
        match (&pair.source, &pair.sink) {
            (Some(row), _) => {
                let version = Version::new(ends.source.version_at(head)?, 0);
                insert.push((row.clone(), version));
            }
            (None, Some(row)) => delete.push(row.clone()),
            (None, None) => return Err(nothing()),
        }
    }
    ends.sink
        .content()
        .repair(ends.pipeline, table, &delete, &insert)
        .await?;
    Ok(rows.len() as u64)
}

fn nothing() -> Error {
    Error::new(ErrorKind::Internal, "repair", "a row that neither side has")
}
