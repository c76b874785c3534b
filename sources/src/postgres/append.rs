//! Appending.

use std::sync::Arc;

use ledger_core::{
    Appended, EntryId, Error, ErrorKind, ExpectedVersion, NewEntry, Result, StreamName,
    VersionConflict, is_json,
};
use ledger_layout::log;
use ledger_layout::postgres::{StoreRow, Tables, array_literal, json_object};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::PostgresTransaction;
use super::store::Inner;

const OPERATION: &str = "append";

/// The answers of the functions that append, beside that of a refusal.
const APPENDED: i32 = 0;
const PASSED: i32 = 2;

/// The SQL texts that every append uses.
pub(super) struct Statements {
    append: Arc<str>,
    append_all: Arc<str>,
}

impl Statements {
    pub(super) fn new(tables: &Tables) -> Self {
        let append =
            tables.sql("SELECT * FROM {append}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
        let append_all = tables.sql(
            "SELECT * FROM {append_all}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
             $14, $15)",
        );
        Self {
            append: append.into(),
            append_all: append_all.into(),
        }
    }
}

/// An append that has been checked, with the bodies of its log rows.
pub(super) struct Prepared {
    stream: StreamName,
    expected: ExpectedVersion,
    entries: Vec<NewEntry>,
    metadata: Vec<String>,
    tags: Vec<String>,
    bodies: Vec<Vec<u8>>,
    /// How many of the entries are in the log rows up to each.
    ends: Vec<i32>,
    bytes: usize,
}

impl Prepared {
    /// Checks the entries, by the kind of the store's log too.
    pub(super) fn new(
        stream: StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
        store: &StoreRow,
    ) -> Result<Self> {
        let checked = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| entry.checked(index));
        let entries = checked.collect::<Result<Vec<_>>>()?;
        if store.wal {
            check_sizes(&entries)?;
        }
        let (mut bodies, mut ends) = (Vec::new(), Vec::new());
        if store.log {
            let mut begin = 0;
            for end in log::split(&entries) {
                bodies.push(log::encode_entries(entries.get(begin..end).unwrap_or(&[]))?);
                ends.push(i32::try_from(end).unwrap_or(i32::MAX));
                begin = end;
            }
        }
        let metadata = entries.iter().map(|entry| json_object(&entry.metadata));
        Ok(Self {
            metadata: metadata.collect::<Result<_>>()?,
            tags: entries.iter().map(|e| array_literal(&e.tags)).collect(),
            bytes: entries.iter().map(|entry| entry.payload.len()).sum(),
            stream,
            expected,
            entries,
            bodies,
            ends,
        })
    }

    pub(super) fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes their payloads have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_keyed(&self) -> bool {
        self.entries.iter().any(|entry| !entry.dedup_key.is_empty())
    }

    fn expected_code(&self) -> i64 {
        match self.expected {
            ExpectedVersion::Any => -1,
            ExpectedVersion::Exists => -2,
            ExpectedVersion::None => 0,
            ExpectedVersion::Exactly(version) => i64::try_from(version).unwrap_or(i64::MAX),
        }
    }

    /// What the function answered.
    fn answer(&self, row: &PgRow) -> Result<Vec<Appended>> {
        if row.get::<i32, _>("status") != APPENDED {
            let actual = u64::try_from(row.get::<i64, _>("version")).unwrap_or(0);
            return Err(conflict(&self.stream, self.expected, actual));
        }
        let ids: Vec<i64> = row.get("ids");
        if ids.len() != self.entries.len() {
            return Err(Error::new(
                ErrorKind::Internal,
                OPERATION,
                format!("{} entries gave {} ids", self.entries.len(), ids.len()),
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
}

/// The most bytes of a row that its reader in the write-ahead log takes: a message of replication has
/// at most 128 MiB.
const MOST_OF_ROW: usize = 120 << 20;

fn check_sizes(entries: &[NewEntry]) -> Result<()> {
    for (index, entry) in entries.iter().enumerate() {
        // What is no JSON is told in hexadecimal digits.
        let payload = if is_json(&entry.payload) {
            entry.payload.len()
        } else {
            2 * entry.payload.len()
        };
        let pairs = entry
            .metadata
            .iter()
            .map(|(key, value)| key.len() + value.len());
        let tags = entry.tags.iter().map(String::len);
        let rest = pairs.chain(tags).sum::<usize>() + entry.order_key.len() + entry.dedup_key.len();
        // Escapes may double a text.
        if payload + 2 * rest > MOST_OF_ROW {
            return Err(Error::invalid(
                OPERATION,
                format!(
                    "entries[{index}]: {payload} bytes of payload and {rest} of the rest are more than \
                     the write-ahead log tells at once, which is {MOST_OF_ROW}; a payload that is no \
                     JSON counts twice"
                ),
            ));
        }
    }
    Ok(())
}

/// What became of an append among several.
pub(super) enum Outcome {
    /// It was accepted or refused.
    Answered(Result<Vec<Appended>>),
    /// Nothing was done: its stream does not exist, or is locked by somebody else.
    Passed,
}

/// Appends each, in this order, in one transaction: all of the accepted are committed together.
/// Those of one stream stand side by side. Without `wait` only streams are written whose locks are
/// free, so that the call never waits for others while it holds locks.
pub(super) async fn append_all(
    inner: &Inner,
    conn: &mut PgConnection,
    appends: &[Prepared],
    wait: bool,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let columns = Columns::of(appends);
    let rows = sqlx::query(AssertSqlSafe(Arc::clone(&inner.statements.append_all)))
        .bind(each(appends, |append| append.stream.as_str()))
        .bind(each(appends, Prepared::expected_code))
        .bind(each(appends, |append| count(append.entries.len())))
        .bind(each(appends, Prepared::is_keyed))
        .bind(each(appends, |append| count(append.ends.len())))
        .bind(wait)
        .bind(columns.json)
        .bind(columns.bytes)
        .bind(columns.order_keys)
        .bind(columns.dedup_keys)
        .bind(columns.schema_versions)
        .bind(columns.metadata)
        .bind(columns.tags)
        .bind(columns.ends)
        .bind(columns.bodies)
        .fetch_all(conn)
        .await?;
    if rows.len() != appends.len() {
        let what = format!("{} appends gave {} answers", appends.len(), rows.len());
        return Err(sqlx::Error::Protocol(what));
    }
    let outcome = |(append, row): (&Prepared, PgRow)| match row.get::<i32, _>("status") {
        PASSED => Outcome::Passed,
        _ => Outcome::Answered(append.answer(&row)),
    };
    Ok(appends.iter().zip(rows).map(outcome).collect())
}

fn each<'a, T>(appends: &'a [Prepared], value: impl Fn(&'a Prepared) -> T) -> Vec<T> {
    appends.iter().map(value).collect()
}

impl PostgresTransaction<'_> {
    /// As [`Store::append`](ledger_core::Store::append).
    pub async fn append(
        &mut self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.inner.check_writable(OPERATION)?;
        if entries.is_empty() {
            return self.check_expected(stream, expected).await;
        }
        let append = Prepared::new(stream.clone(), entries, expected, &self.inner.row)?;
        self.append_prepared(&append).await
    }

    pub(super) async fn append_prepared(&mut self, append: &Prepared) -> Result<Vec<Appended>> {
        let columns = Columns::of(std::slice::from_ref(append));
        let row = sqlx::query(AssertSqlSafe(Arc::clone(&self.inner.statements.append)))
            .bind(append.stream.as_str())
            .bind(append.expected_code())
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
        append.answer(&row)
    }

    /// An append of nothing creates nothing, but its expectation holds.
    pub(super) async fn check_expected(
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

/// The entries of appends as arrays, one a column, and their log rows.
struct Columns<'a> {
    json: Vec<Option<&'a str>>,
    bytes: Vec<Option<&'a [u8]>>,
    order_keys: Vec<&'a str>,
    dedup_keys: Option<Vec<&'a str>>,
    schema_versions: Vec<i32>,
    metadata: Vec<&'a str>,
    tags: Vec<&'a str>,
    ends: Vec<i32>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn of(appends: &'a [Prepared]) -> Self {
        let entries = || appends.iter().flat_map(|append| &append.entries);
        let count = entries().count();
        let keyed = appends.iter().any(Prepared::is_keyed);
        let mut columns = Self {
            json: Vec::with_capacity(count),
            bytes: Vec::with_capacity(count),
            order_keys: Vec::with_capacity(count),
            dedup_keys: keyed.then(|| entries().map(|e| e.dedup_key.as_str()).collect()),
            schema_versions: Vec::with_capacity(count),
            metadata: texts(appends, |append| &append.metadata),
            tags: texts(appends, |append| &append.tags),
            ends: appends.iter().flat_map(|a| &a.ends).copied().collect(),
            bodies: appends
                .iter()
                .flat_map(|a| &a.bodies)
                .map(Vec::as_slice)
                .collect(),
        };
        for entry in entries() {
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
        }
        columns
    }
}

fn texts<'a>(appends: &'a [Prepared], of: impl Fn(&'a Prepared) -> &'a [String]) -> Vec<&'a str> {
    appends.iter().flat_map(of).map(String::as_str).collect()
}
