//! Small states that several processes change: each a text with a version, every version of which is
//! written once.
//!
//! ClickHouse has no compare-and-set, but it drops an insert whose token it has seen: of two inserts
//! with one token, the first that arrives is taken, atomically. A token that names the next version
//! therefore lets one writer have it. The table remembers its last 10,000 tokens; who comes later
//! than that writes below the newest version, which counts for nothing.

use clickhouse::{Row, RowWrite};
use ledger_core::{Error, ErrorKind, Result, StoreName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Connection, Dedup, Tables};

/// How often a change that lost against another is tried again.
const ATTEMPTS: usize = 100;

/// The states of one store.
#[derive(Debug, Clone)]
pub struct States {
    connection: Connection,
    store: String,
}

/// A state as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Which version it is; 0 where there is none.
    pub version: u64,
    /// The text; empty where there is none, or none any more.
    pub text: String,
}

#[derive(Debug, Row, Serialize)]
struct StateRow<'a> {
    store: &'a str,
    kind: &'a str,
    key: &'a str,
    state: (u64, &'a str),
}

#[derive(Debug, Row, Deserialize)]
struct Found {
    version: u64,
    text: String,
    now: i64,
}

#[derive(Debug, Row, Deserialize)]
struct Listed {
    key: String,
    text: String,
    now: i64,
}

impl States {
    /// The states of a store.
    pub fn new(connection: Connection, store: &StoreName) -> Self {
        Self::of(connection, store.to_string())
    }

    pub(super) fn of(connection: Connection, store: String) -> Self {
        Self { connection, store }
    }

    /// A state, and the server's time.
    pub async fn read(
        &self,
        operation: &'static str,
        kind: &str,
        key: &str,
    ) -> Result<(Document, Timestamp)> {
        let sql = format!(
            "SELECT tupleElement(s.state, 1) AS version, tupleElement(s.state, 2) AS text, \
             toUnixTimestamp64Micro(now64(6)) AS now FROM (SELECT max(state) AS state FROM {} \
             WHERE store = ? AND kind = ? AND key = ?) AS s",
            Tables::STATES,
        );
        let query = self.connection.client().query(&sql);
        let query = query.bind(self.store.as_str()).bind(kind).bind(key);
        let mut rows: Vec<Found> = self.connection.fetch_all(operation, query).await?;
        let found = rows.pop().unwrap_or(Found {
            version: 0,
            text: String::new(),
            now: 0,
        });
        let document = Document {
            version: found.version,
            text: found.text,
        };
        Ok((document, Timestamp::from_micros(found.now)))
    }

    /// The states of a kind that are there, by their keys, and the server's time.
    pub async fn list(
        &self,
        operation: &'static str,
        kind: &str,
    ) -> Result<(Vec<(String, String)>, Timestamp)> {
        let sql = format!(
            "SELECT s.key AS key, tupleElement(s.state, 2) AS text, \
             toUnixTimestamp64Micro(now64(6)) AS now FROM (SELECT key, max(state) AS state FROM {} \
             WHERE store = ? AND kind = ? GROUP BY key) AS s WHERE text != '' ORDER BY key",
            Tables::STATES,
        );
        let query = self.connection.client().query(&sql);
        let query = query.bind(self.store.as_str()).bind(kind);
        let rows: Vec<Listed> = self.connection.fetch_all(operation, query).await?;
        let now = rows.first().map_or(0, |row| row.now);
        let pairs = rows.into_iter().map(|row| (row.key, row.text)).collect();
        Ok((pairs, Timestamp::from_micros(now)))
    }

    /// Changes a state: `change` is given what is stored, empty for none, and the server's time, and
    /// says what is to be stored, none to leave it. It is called again where another writer came in
    /// between, so it must be fine with what it asked for being there already.
    pub async fn update<T>(
        &self,
        operation: &'static str,
        kind: &str,
        key: &str,
        change: impl Fn(&str, Timestamp) -> Result<(Option<String>, T)> + Send + Sync,
    ) -> Result<T> {
        // A version whose token was taken although its row is not there: the server ended in between.
        let mut skipped = 0;
        for _ in 0..ATTEMPTS {
            let (stored, now) = self.read(operation, kind, key).await?;
            let (text, answer) = change(&stored.text, now)?;
            let Some(text) = text.filter(|text| *text != stored.text) else {
                return Ok(answer);
            };
            let version = stored.version.max(skipped) + 1;
            self.write(operation, kind, key, version, &text).await?;
            let (found, _) = self.read(operation, kind, key).await?;
            if found.version == version && found.text == text {
                return Ok(answer);
            }
            skipped = if found.version < version { version } else { 0 };
        }
        let what = format!("{kind} {key}: others change it at the same time; try again");
        Err(Error::new(ErrorKind::Unavailable, operation, what))
    }

    async fn write(
        &self,
        operation: &'static str,
        kind: &str,
        key: &str,
        version: u64,
        text: &str,
    ) -> Result<()> {
        let store = self.store.as_str();
        let state = (version, text);
        let row = StateRow {
            store,
            kind,
            key,
            state,
        };
        let token = Dedup::Token(format!("{store}/{kind}/{key}/{version}"));
        insert::<StateRow<'static>>(&self.connection, operation, Tables::STATES, row, token).await
    }
}

async fn insert<T: Row + RowWrite>(
    connection: &Connection,
    operation: &'static str,
    table: &str,
    row: T::Value<'_>,
    dedup: Dedup,
) -> Result<()>
where
    for<'a> T::Value<'a>: Send,
{
    connection
        .insert::<T, _>(operation, table, std::iter::once(row), 1, dedup)
        .await
}
