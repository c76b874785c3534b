//! The state of streams, by their names.

use std::collections::{BTreeSet, HashMap};

use clickhouse::Row;
use ledger_core::EntryId;
use ledger_core::{Error, ErrorKind, Result, Stat, StreamKey, StreamName, StreamRef, StreamState};
use ledger_layout::clickhouse::{Connection, KEYS, Tables, literal, these_streams};
use serde::Deserialize;

/// How many bytes of names one statement holds; a statement may have 256 KiB, and quoting may double
/// a name.
const NAME_BYTES: usize = 64 << 10;

#[derive(Debug, Row, Deserialize)]
struct Found {
    stream_key: u64,
    name_version: u64,
    name: String,
    version: u64,
    trimmed_through: u64,
}

#[derive(Debug, Row, Deserialize)]
struct Counted {
    count: u64,
    first: u64,
    last: u64,
}

/// The streams that have these names now.
pub(super) async fn find(
    connection: &Connection,
    tables: &Tables,
    operation: &'static str,
    names: &[&StreamName],
) -> Result<HashMap<StreamName, StreamState>> {
    let mut found: HashMap<StreamName, StreamState> = HashMap::with_capacity(names.len());
    let mut rest = names;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |name: &&StreamName| {
            bytes += name.as_str().len() + 4;
            bytes <= NAME_BYTES
        };
        let count = rest.iter().copied().take_while(fits).count().max(1);
        let (names, behind) = rest.split_at(count.min(rest.len()));
        rest = behind;
        let list: Vec<String> = names.iter().map(|name| literal(name.as_str())).collect();
        let list = list.join(",");
        // The index knows every name that a stream ever had; which it has now, FINAL tells.
        let sql = format!(
            "SELECT s.stream_key AS stream_key, tupleElement(s.name, 1) AS name_version, \
             tupleElement(s.name, 2) AS name, s.version AS version, \
             s.trimmed_through AS trimmed_through FROM (SELECT * FROM {streams} FINAL WHERE \
             stream_key IN (SELECT stream_key FROM {streams} WHERE tupleElement(name, 2) IN ({list}))\
             ) AS s WHERE tupleElement(s.name, 2) IN ({list}) ORDER BY stream_key",
            streams = tables.streams,
        );
        let query = connection.client().query_raw(&sql);
        let rows: Vec<Found> = connection.fetch_all(operation, query).await?;
        for row in rows {
            let name = StreamName::new(&row.name).map_err(|error| {
                let what = format!("name of stream {}", row.stream_key);
                Error::new(ErrorKind::Corrupt, operation, what).with_source(error)
            })?;
            // A replica may have two streams of one name for a moment; the younger has it in the end.
            found.insert(
                name.clone(),
                StreamState {
                    stream: StreamRef {
                        key: StreamKey(row.stream_key),
                        name,
                        name_version: row.name_version,
                    },
                    version: row.version,
                    trimmed_through: row.trimmed_through,
                },
            );
        }
    }
    Ok(found)
}

/// The stream that has this name now.
pub(super) async fn find_one(
    connection: &Connection,
    tables: &Tables,
    operation: &'static str,
    name: &StreamName,
) -> Result<Option<StreamState>> {
    let mut found = find(connection, tables, operation, &[name]).await?;
    Ok(found.remove(name))
}

/// See [`Store::stat`](ledger_core::Store::stat).
pub(super) async fn stat(
    connection: &Connection,
    tables: &Tables,
    name: &StreamName,
) -> Result<Stat> {
    const OPERATION: &str = "stat";
    let Some(state) = find_one(connection, tables, OPERATION, name).await? else {
        return Ok(Stat::default());
    };
    let counted = count(connection, tables, OPERATION, &state, u64::MAX).await?;
    let id = |id| (counted.0 > 0).then_some(EntryId(id));
    Ok(Stat {
        count: counted.0,
        first_id: id(counted.1),
        last_id: id(counted.2),
        version: state.version,
    })
}

/// How many entries a stream has up to an id, and the lowest and the highest of them.
pub(super) async fn count(
    connection: &Connection,
    tables: &Tables,
    operation: &'static str,
    state: &StreamState,
    through: u64,
) -> Result<(u64, u64, u64)> {
    // FINAL, so that an entry that was written twice counts once: it merges as it reads, where a set
    // of all ids would have to be held.
    let sql = format!(
        "SELECT count() AS count, min(id) AS first, max(id) AS last FROM {} FINAL \
         WHERE stream_key = {} AND id > {} AND id <= {through}",
        tables.entries, state.stream.key, state.trimmed_through,
    );
    let query = connection.client().query_raw(&sql);
    let rows: Vec<Counted> = connection.fetch_all(operation, query).await?;
    Ok(rows
        .first()
        .map_or((0, 0, 0), |row| (row.count, row.first, row.last)))
}

/// See [`Store::streams`](ledger_core::Store::streams).
pub(super) async fn list(
    connection: &Connection,
    tables: &Tables,
    after: Option<&StreamName>,
    limit: usize,
) -> Result<Vec<StreamName>> {
    const OPERATION: &str = "list streams";
    let mut names: BTreeSet<StreamName> = BTreeSet::new();
    let mut after = after.map_or(String::new(), |after| after.as_str().to_owned());
    while names.len() < limit {
        let wanted = (limit - names.len()).clamp(100, KEYS);
        let sql = format!(
            "SELECT s.stream_key AS stream_key, tupleElement(s.name, 2) AS name, \
             s.trimmed_through AS trimmed_through FROM (SELECT * FROM {} FINAL) AS s \
             WHERE name > {} ORDER BY name LIMIT {wanted} WITH TIES",
            tables.streams,
            literal(&after),
        );
        let query = connection.client().query_raw(&sql);
        let rows: Vec<(u64, String, u64)> = connection.fetch_all(OPERATION, query).await?;
        let Some((_, last, _)) = rows.last() else {
            break;
        };
        after.clone_from(last);
        let keys = these_streams(rows.iter().map(|row| StreamKey(row.0)));
        let sql = format!(
            "SELECT stream_key, max(id) AS last FROM {} WHERE {keys} GROUP BY stream_key",
            tables.entries,
        );
        let query = connection.client().query_raw(&sql);
        let last: Vec<(u64, u64)> = connection.fetch_all(OPERATION, query).await?;
        let last: HashMap<u64, u64> = last.into_iter().collect();
        for (key, name, trimmed_through) in rows {
            if last.get(&key).is_some_and(|last| *last > trimmed_through) {
                names.insert(StreamName::new(name)?);
            }
        }
    }
    Ok(names.into_iter().take(limit).collect())
}
