//! Appending.

use std::sync::Arc;

use ledger_core::{
    Appended, EntryId, Error, ErrorKind, ExpectedVersion, NewEntry, Result, StreamName,
    VersionConflict, is_json,
};
use ledger_layout::log;
use ledger_layout::postgres::{Tables, array_literal, json_object};
use sqlx::{AssertSqlSafe, Row as _};

use super::PostgresTransaction;

/// The SQL texts that every append uses.
pub(super) struct Statements {
    append: Arc<str>,
}

impl Statements {
    pub(super) fn new(tables: &Tables) -> Self {
        let append =
            tables.sql("SELECT * FROM {append}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
        Self {
            append: append.into(),
        }
    }
}

impl PostgresTransaction<'_> {
    /// As [`Store::append`](ledger_core::Store::append).
    pub async fn append(
        &mut self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        const OPERATION: &str = "append";
        self.inner.check_writable(OPERATION)?;
        if entries.is_empty() {
            return self.check_expected(stream, expected).await;
        }
        let entries = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| entry.checked(index))
            .collect::<Result<Vec<_>>>()?;
        let columns = Columns::of(&entries, self.inner.row.log)?;
        let expected_code = match expected {
            ExpectedVersion::Any => -1,
            ExpectedVersion::Exists => -2,
            ExpectedVersion::None => 0,
            ExpectedVersion::Exactly(version) => i64::try_from(version).unwrap_or(i64::MAX),
        };
        let row = sqlx::query(AssertSqlSafe(Arc::clone(&self.inner.statements.append)))
            .bind(stream.as_str())
            .bind(expected_code)
            .bind(columns.json)
            .bind(columns.bytes)
            .bind(columns.order_keys)
            .bind(columns.dedup_keys)
            .bind(columns.schema_versions)
            .bind(columns.metadata)
            .bind(columns.tags)
            .bind(columns.ends)
            .bind(columns.bodies)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed(OPERATION, error))?;
        if row.get::<i32, _>("status") != 0 {
            let actual = u64::try_from(row.get::<i64, _>("version")).unwrap_or(0);
            return Err(conflict(stream, expected, actual));
        }
        let ids: Vec<i64> = row.get("ids");
        if ids.len() != entries.len() {
            return Err(Error::new(
                ErrorKind::Internal,
                OPERATION,
                format!("{} entries gave {} ids", entries.len(), ids.len()),
            ));
        }
        Ok(ids
            .into_iter()
            .map(|id| Appended {
                id: EntryId(id.unsigned_abs()),
                duplicate: id < 0,
            })
            .collect())
    }

    /// An append of nothing creates nothing, but its expectation holds.
    async fn check_expected(
        &mut self,
        stream: &StreamName,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        if expected == ExpectedVersion::Any {
            return Ok(Vec::new());
        }
        let actual = self.stat(stream).await?.version;
        if expected.accepts(actual) {
            return Ok(Vec::new());
        }
        Err(conflict(stream, expected, actual))
    }
}

fn conflict(stream: &StreamName, expected: ExpectedVersion, actual: u64) -> Error {
    Error::conflict(
        format!("stream {stream:?}"),
        VersionConflict { expected, actual },
    )
}

/// The entries as arrays, one a column.
struct Columns<'a> {
    json: Vec<Option<&'a str>>,
    bytes: Vec<Option<&'a [u8]>>,
    order_keys: Vec<&'a str>,
    dedup_keys: Option<Vec<&'a str>>,
    schema_versions: Vec<i32>,
    metadata: Vec<String>,
    tags: Vec<String>,
    ends: Vec<i32>,
    bodies: Vec<Vec<u8>>,
}

impl<'a> Columns<'a> {
    fn of(entries: &'a [NewEntry], log: bool) -> Result<Self> {
        let keyed = entries.iter().any(|entry| !entry.dedup_key.is_empty());
        let mut columns = Self {
            json: Vec::with_capacity(entries.len()),
            bytes: Vec::with_capacity(entries.len()),
            order_keys: Vec::with_capacity(entries.len()),
            dedup_keys: keyed.then(|| entries.iter().map(|e| e.dedup_key.as_str()).collect()),
            schema_versions: Vec::with_capacity(entries.len()),
            metadata: Vec::with_capacity(entries.len()),
            tags: Vec::with_capacity(entries.len()),
            ends: Vec::new(),
            bodies: Vec::new(),
        };
        for entry in entries {
            let json = is_json(&entry.payload).then(|| std::str::from_utf8(&entry.payload).ok());
            let json = json.flatten();
            columns.bytes.push(if json.is_some() {
                None
            } else {
                Some(&entry.payload)
            });
            columns.json.push(json);
            columns.order_keys.push(&entry.order_key);
            columns
                .schema_versions
                .push(i32::try_from(entry.schema_version).unwrap_or(i32::MAX));
            columns.metadata.push(json_object(&entry.metadata)?);
            columns.tags.push(array_literal(&entry.tags));
        }
        if log {
            let mut begin = 0;
            for end in log::split(entries) {
                columns
                    .bodies
                    .push(log::encode_entries(entries.get(begin..end).unwrap_or(&[]))?);
                columns.ends.push(i32::try_from(end).unwrap_or(i32::MAX));
                begin = end;
            }
        }
        Ok(columns)
    }
}
