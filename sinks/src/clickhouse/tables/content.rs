//! The content, for verification and repair.

use async_trait::async_trait;
use bytes::Bytes;
use ledger_core::{
    Error, ErrorKind, HeldRow, PipelineId, Result, Row, RowChange, RowOp, Table, TableName,
    TableReplica, Value, Version,
};
use ledger_layout::clickhouse::{Dedup, Noted, identifier};
use ledger_layout::tables::Note;

use super::ClickHouseTables;
use super::decode::Reader;
use super::destination::Destination;
use super::rows::{Mark, Target};
use super::work::Places;

const READ: &str = "read ClickHouse tables";
const REPAIR: &str = "repair ClickHouse tables";

/// The most keys that one statement names.
const KEYS: usize = 1_000;

/// The bytes at which a chunk is cut short.
const CHUNK_BYTES: u64 = 16 << 20;

/// A table, as it is there.
struct Opened {
    destination: Destination,
    note: Note,
    boundary: u128,
}

impl Opened {
    fn places(&self, table: &Table) -> Places {
        self.note.places(table, self.note.version).into()
    }

    /// The condition that a reader sees a row, in words of the server.
    fn shown(&self) -> String {
        let boundary = format!("`_version` >= toUInt128('{}')", self.boundary);
        if self.destination.multiset {
            boundary
        } else {
            format!("`_deleted` = 0 AND {boundary}")
        }
    }
}

impl ClickHouseTables {
    async fn opened(&self, pipeline: &PipelineId, table: &TableName) -> Result<Opened> {
        let noted = self.captured.load(READ, pipeline).await?;
        let named = |noted: &Noted| {
            let note = noted.note.as_ref();
            note.is_some_and(|note| note.table.name == *table)
        };
        let noted = noted.into_iter().find(named);
        let Some(Noted {
            note: Some(note),
            target,
            boundary,
            ..
        }) = noted
        else {
            return Err(Error::new(
                ErrorKind::NotFound,
                READ,
                format!("pipeline {pipeline} has no table {table} here"),
            ));
        };
        let options = self.routes.options(table);
        let owner = pipeline.as_str();
        Ok(Opened {
            destination: Destination::new(&target, &note, options, &self.routes.cluster, owner)?,
            note,
            boundary,
        })
    }

    /// The visible rows that fulfil a condition, in the order of their places.
    async fn held(&self, opened: &Opened, table: &Table, condition: &str) -> Result<Vec<HeldRow>> {
        let Opened { destination, .. } = opened;
        let order = destination.place_names();
        let slots = destination
            .slots
            .iter()
            .flat_map(super::destination::Slot::names);
        let mut columns = order.clone();
        columns.extend(["`_version`".to_owned(), "`_deleted`".to_owned()]);
        columns.extend(slots.map(|name| identifier(&name)));
        let sql = format!(
            "SELECT {} FROM {} FINAL WHERE {} AND {condition} ORDER BY {}",
            columns.join(", "),
            identifier(&destination.target),
            opened.shown(),
            order.join(", "),
        );
        let answer = self.fetch(&sql).await?;
        let places = opened.places(table);
        let mut reader = Reader::new(&answer);
        let mut rows = Vec::new();
        while !reader.is_empty() {
            let place = place(destination, &answer, &mut reader)?;
            let version = reader.u128()?;
            let removal = reader.byte()? != 0;
            let mut row = vec![Value::Absent; table.columns.len()];
            for (slot, place) in destination.slots.iter().zip(places.iter()) {
                let value = slot.read(&mut reader)?;
                if let Some(cell) = place.and_then(|place| row.get_mut(place)) {
                    *cell = value;
                }
            }
            rows.push(HeldRow {
                place,
                version: of_u128(version),
                row,
                removal,
            });
        }
        Ok(rows)
    }

    async fn fetch(&self, sql: &str) -> Result<Bytes> {
        let query = self.connection.client().query_raw(sql);
        let query = query.with_setting("max_query_size", "1000000000");
        self.connection.fetch_bytes(READ, query, "RowBinary").await
    }

    /// The end of a chunk: the last place of up to `limit` rows that are not too large together, and
    /// whether anything is behind it.
    async fn chunk_end(
        &self,
        destination: &Destination,
        behind: &str,
        limit: usize,
    ) -> Result<Option<(Bytes, bool)>> {
        let order = destination.place_names().join(", ");
        let names = destination
            .slots
            .iter()
            .flat_map(super::destination::Slot::names);
        let sizes: Vec<String> = names
            .map(|name| format!("byteSize({})", identifier(&name)))
            .collect();
        // Without FINAL: rows that merging would replace only make the chunk smaller.
        let sql = format!(
            "SELECT {order}, toUInt64({}) FROM {} WHERE {behind} ORDER BY {order} LIMIT {limit}",
            sizes.join(" + "),
            identifier(&destination.target),
        );
        let answer = self.fetch(&sql).await?;
        let mut reader = Reader::new(&answer);
        let (mut count, mut bytes) = (0, 0);
        let mut end: Option<Bytes> = None;
        while !reader.is_empty() {
            let place = place(destination, &answer, &mut reader)?;
            bytes += reader.u64()?;
            if bytes > CHUNK_BYTES && end.as_ref().is_some_and(|end| *end != place) {
                return Ok(end.map(|end| (end, true)));
            }
            end = Some(place);
            count += 1;
        }
        Ok(end.map(|end| (end, count >= limit)))
    }

    /// The keys of rows, as the destination writes them.
    fn keys(opened: &Opened, table: &Table, rows: &[Row]) -> Result<Vec<Vec<u8>>> {
        let places = opened.places(table);
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            let change = stand_in(table, row, Version::default());
            let mut key = Vec::new();
            target(opened, &places, &change).encode_key(row, &mut key)?;
            keys.push(key);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

fn place(destination: &Destination, answer: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes> {
    let begun = answer.len() - reader.left();
    destination.skip_place(reader)?;
    // A copy, which does not keep the whole answer in memory.
    let place = answer.slice(begun..answer.len() - reader.left());
    Ok(Bytes::copy_from_slice(&place))
}

fn of_u128(version: u128) -> Version {
    let part = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    Version::new(part(version >> 64), part(version))
}

fn target<'a>(
    opened: &'a Opened,
    places: &'a [Option<usize>],
    change: &'a RowChange,
) -> Target<'a> {
    Target {
        destination: &opened.destination,
        places,
        change,
    }
}

/// A row as a change, so that what refuses it can name it.
fn stand_in(table: &Table, row: &Row, version: Version) -> RowChange {
    RowChange {
        cursor: ledger_core::Cursor::new(0, &[]),
        committed_at: None,
        table: table.clone().into(),
        version,
        op: RowOp::Insert(row.clone()),
    }
}

#[async_trait]
impl TableReplica for ClickHouseTables {
    async fn expected(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        rows: &[Row],
    ) -> Result<Vec<Row>> {
        let opened = self.opened(pipeline, &table.name).await?;
        let places = opened.places(table);
        let mut expected = Vec::with_capacity(rows.len());
        let mut bytes = Vec::new();
        for row in rows {
            let change = stand_in(table, row, Version::default());
            let mark = Mark {
                version: Version::default(),
                deleted: false,
                row: 0,
            };
            bytes.clear();
            target(&opened, &places, &change).encode(row, &[], mark, &mut bytes)?;
            let mut reader = Reader::new(&bytes);
            let mut back = vec![Value::Absent; table.columns.len()];
            for (slot, place) in opened.destination.slots.iter().zip(places.iter()) {
                let value = slot.read(&mut reader)?;
                if let Some(cell) = place.and_then(|place| back.get_mut(place)) {
                    *cell = value;
                }
            }
            expected.push(back);
        }
        Ok(expected)
    }

    async fn count(&self, pipeline: &PipelineId, table: &TableName) -> Result<u64> {
        let opened = self.opened(pipeline, table).await?;
        let sql = format!(
            "SELECT count() FROM {}{}",
            identifier(&opened.destination.view()),
            if opened.destination.soft_delete {
                " WHERE `_deleted` = 0"
            } else {
                ""
            }
        );
        let answer = self.fetch(&sql).await?;
        Reader::new(&answer).u64()
    }

    async fn rows(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<HeldRow>> {
        let opened = self.opened(pipeline, &table.name).await?;
        let destination = &opened.destination;
        let mut after = after.map(Bytes::copy_from_slice);
        if limit == 0 {
            return Ok(Vec::new());
        }
        loop {
            let behind = after
                .as_ref()
                .map_or("1".to_owned(), |after| destination.beside(after, true));
            let Some((end, more)) = self.chunk_end(destination, &behind, limit).await? else {
                return Ok(Vec::new());
            };
            let within = format!("{behind} AND {}", destination.beside(&end, false));
            let rows = self.held(&opened, table, &within).await?;
            // A chunk may hold removed rows only; the next one is looked at then.
            if !rows.is_empty() || !more {
                return Ok(rows);
            }
            after = Some(end);
        }
    }

    async fn rows_at(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        keys: &[Row],
    ) -> Result<Vec<HeldRow>> {
        let opened = self.opened(pipeline, &table.name).await?;
        keyed(&opened, READ)?;
        let keys = Self::keys(&opened, table, keys)?;
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS) {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let among = opened.destination.among(&keys);
            rows.extend(self.held(&opened, table, &among).await?);
        }
        Ok(rows)
    }

    async fn repair(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        delete: &[Row],
        insert: &[(Row, Version)],
    ) -> Result<()> {
        let opened = self.opened(pipeline, &table.name).await?;
        let destination = &opened.destination;
        keyed(&opened, REPAIR)?;
        let places = opened.places(table);
        let mut bytes = Vec::new();
        for (row, version) in insert {
            let change = stand_in(table, row, *version);
            let mark = Mark {
                version: *version,
                deleted: false,
                row: 0,
            };
            target(&opened, &places, &change).encode(row, &[], mark, &mut bytes)?;
        }
        let rows: Vec<Row> = delete
            .iter()
            .chain(insert.iter().map(|(row, _)| row))
            .cloned()
            .collect();
        for keys in Self::keys(&opened, table, &rows)?.chunks(KEYS) {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let sql = format!(
                "DELETE FROM {} WHERE {}",
                identifier(&destination.target),
                destination.among(&keys)
            );
            let query = self.connection.client().query_raw(&sql);
            // Wait until the rows are gone, on every replica.
            let query = query
                .with_setting("lightweight_deletes_sync", "2")
                .with_setting("max_query_size", "1000000000");
            self.connection.timed(REPAIR, query.execute()).await?;
        }
        if insert.is_empty() {
            return Ok(());
        }
        let sql = destination.insert();
        let (bytes, count) = (Bytes::from(bytes), insert.len());
        let started = self
            .connection
            .start_rows(REPAIR, sql, bytes, count, Dedup::Off);
        started.await?.finish().await
    }
}

fn keyed(opened: &Opened, operation: &'static str) -> Result<()> {
    if opened.destination.is_keyed() {
        return Ok(());
    }
    let name = &opened.note.table.name;
    Err(Error::new(
        ErrorKind::Unsupported,
        operation,
        format!(
            "table {name} has no key; copy it anew ({})",
            ledger_layout::tables::resync(name)
        ),
    ))
}
