//! The content, for verification and repair.

use bytes::Bytes;
use ledger_core::{
    Cursor, Error, ErrorKind, HeldRow, PipelineId, Result, Row, RowChange, RowOp, Table, TableName,
    Value, Version,
};
use ledger_layout::tables::{Note, TableRoutes};

use super::schema::load;
use super::statements::Destination;
use super::{Engine, Param, quoted};

const READ: &str = "read captured tables";

/// The most keys that one statement names.
const KEYS: usize = 500;

/// A table, as it is there.
pub(crate) struct Opened {
    destination: Destination,
    note: Note,
}

impl Opened {
    /// Finds what a pipeline has noted of a table.
    pub(crate) async fn find<E: Engine>(
        engine: &mut E,
        routes: &TableRoutes,
        pipeline: &PipelineId,
        table: &TableName,
    ) -> Result<Self> {
        let noted = load(engine, pipeline).await?.into_values();
        let mut noted = noted.filter(|noted| noted.note.table.name == *table);
        let Some(noted) = noted.next() else {
            let what = format!("pipeline {pipeline} has no table {table} here");
            return Err(Error::new(ErrorKind::NotFound, READ, what));
        };
        let options = routes.options(table);
        Ok(Self {
            destination: Destination::new(engine, &noted.target, &noted.note, options),
            note: noted.note,
        })
    }

    /// How many rows there are.
    pub(crate) async fn count<E: Engine>(&self, engine: &mut E) -> Result<u64> {
        let table = quoted(&self.destination.target);
        let sql = format!("SELECT CAST(count(*) AS text) FROM {table}");
        let rows = engine.fetch_rows(&sql, Vec::new(), 1).await?;
        let count = rows.into_iter().flatten().flatten().next();
        Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Rows behind a place, in the order of the key.
    pub(crate) async fn rows<E: Engine>(
        &self,
        engine: &mut E,
        table: &Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<HeldRow>> {
        let mut params = Vec::new();
        let condition = match after {
            None => String::new(),
            Some(after) => {
                let place: Row = serde_json::from_slice(after).map_err(|error| {
                    Error::invalid(READ, "the place is none").with_source(error)
                })?;
                let place = self.keys(engine, table, &[place])?.concat();
                let condition = self.destination.behind(engine);
                params = place;
                format!(" WHERE {condition}")
            }
        };
        self.keyed()?;
        let order = self.destination.order();
        self.read(
            engine,
            table,
            &format!("{condition} ORDER BY {order} LIMIT {limit}"),
            params,
        )
        .await
    }

    /// The rows with these keys.
    pub(crate) async fn rows_at<E: Engine>(
        &self,
        engine: &mut E,
        table: &Table,
        keys: &[Row],
    ) -> Result<Vec<HeldRow>> {
        self.keyed()?;
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS) {
            let params = self.keys(engine, table, keys)?;
            let condition = self.destination.among(engine, params.len());
            let tail = format!(" WHERE {condition} ORDER BY {}", self.destination.order());
            found.extend(self.read(engine, table, &tail, params.concat()).await?);
        }
        Ok(found)
    }

    /// Removes rows by their keys, then writes others.
    pub(crate) async fn repair<E: Engine>(
        &self,
        engine: &mut E,
        table: &Table,
        delete: &[Row],
        insert: &[(Row, Version)],
    ) -> Result<()> {
        self.keyed()?;
        let places = self.note.places(table, self.note.version);
        let written: Vec<Row> = insert.iter().map(|(row, _)| row.clone()).collect();
        for rows in [delete, &written] {
            let keys = self.keys(engine, table, rows)?;
            self.destination.delete(engine, &keys).await?;
        }
        let mut rows = Vec::with_capacity(written.len());
        for row in &written {
            let change = stand_in(table, row);
            let values = self.destination.values(engine, &change, &places, row)?;
            let values: Option<Vec<Param>> = values.into_iter().collect();
            rows.push(values.ok_or_else(|| Error::invalid(READ, "a row lacks values"))?);
        }
        self.destination.upsert(engine, &rows).await
    }

    fn keyed(&self) -> Result<()> {
        if self.destination.is_keyed() {
            return Ok(());
        }
        let name = &self.note.table.name;
        let what = format!(
            "table {name} has no key; copy it anew ({})",
            ledger_layout::tables::resync(name)
        );
        Err(Error::new(ErrorKind::Unsupported, READ, what))
    }

    fn keys<E: Engine>(&self, engine: &E, table: &Table, rows: &[Row]) -> Result<Vec<Vec<Param>>> {
        let places = self.note.places(table, self.note.version);
        let key = |row: &Row| {
            let change = stand_in(table, row);
            let values = self.destination.values(engine, &change, &places, row)?;
            let key = self.destination.key(&values);
            key.ok_or_else(|| Error::invalid(READ, "a row lacks a part of its key"))
        };
        rows.iter().map(key).collect()
    }

    async fn read<E: Engine>(
        &self,
        engine: &mut E,
        table: &Table,
        tail: &str,
        params: Vec<Param>,
    ) -> Result<Vec<HeldRow>> {
        let columns = self.destination.shown(engine);
        let sql = format!(
            "SELECT {} FROM {}{tail}",
            columns.join(", "),
            quoted(&self.destination.target)
        );
        let found = engine.fetch_rows(&sql, params, columns.len()).await?;
        let places = self.note.places(table, self.note.version);
        let mut rows = Vec::with_capacity(found.len());
        for values in found {
            let mut row = vec![Value::Absent; table.columns.len()];
            for ((slot, place), text) in self.destination.slots.iter().zip(&places).zip(values) {
                if let Some(cell) = place.and_then(|place| row.get_mut(place)) {
                    *cell = slot.read(engine, text);
                }
            }
            rows.push(HeldRow {
                place: place(table, &row)?,
                version: Version::default(),
                row,
                removal: false,
            });
        }
        Ok(rows)
    }

    /// The places of a table's columns that are kept in columns of this type.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_type(&self, table: &Table, type_name: &str) -> Vec<usize> {
        let places = self.note.places(table, self.note.version);
        let slots = self.destination.slots.iter().zip(places);
        slots
            .filter(|(slot, _)| slot.type_name == type_name)
            .filter_map(|(_, place)| place)
            .collect()
    }

    /// A row of the source as it is read here.
    pub(crate) fn expected<E: Engine>(
        &self,
        engine: &E,
        table: &Table,
        rows: &[Row],
    ) -> Result<Vec<Row>> {
        let places = self.note.places(table, self.note.version);
        let expected = |row: &Row| {
            let change = stand_in(table, row);
            // Refused here as it would be when delivered.
            self.destination.values(engine, &change, &places, row)?;
            let mut back = vec![Value::Absent; table.columns.len()];
            for (slot, place) in self.destination.slots.iter().zip(&places) {
                let told = place.and_then(|place| row.get(place));
                if let (Some(cell), Some(told)) =
                    (place.and_then(|place| back.get_mut(place)), told)
                {
                    *cell = slot.expected(engine, told);
                }
            }
            Ok(back)
        };
        rows.iter().map(expected).collect()
    }
}

/// The key of a row, in a form that is read again.
fn place(table: &Table, row: &Row) -> Result<Bytes> {
    let key = row.iter().zip(&table.columns).map(|(value, column)| {
        if column.key {
            value.clone()
        } else {
            Value::Absent
        }
    });
    let key: Row = key.collect();
    let text = serde_json::to_vec(&key).map_err(|error| {
        Error::new(ErrorKind::Internal, READ, "place of a row").with_source(error)
    })?;
    Ok(text.into())
}

fn stand_in(table: &Table, row: &Row) -> RowChange {
    RowChange {
        cursor: Cursor::new(0, &[]),
        committed_at: None,
        table: table.clone().into(),
        version: Version::default(),
        op: RowOp::Insert(row.clone()),
    }
}
