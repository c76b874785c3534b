//! The present labels of entries, for changing them.

use std::collections::HashMap;

use clickhouse::Row;
use ledger_core::{EntryId, EntryKey, Pairs, Result, StreamKey};
use ledger_layout::clickhouse::{Connection, KEYS, Tables, these_entries};
use serde::Deserialize;

/// The labels of an entry, as far as a change needs them.
#[derive(Debug, Clone, Default)]
pub(super) struct Labelled {
    pub(super) version: u64,
    pub(super) annotations: Pairs,
}

#[derive(Debug, Row, Deserialize)]
struct Found {
    stream_key: u64,
    id: u64,
    version: u64,
    annotations: Vec<(String, String)>,
}

/// The labels of those of these entries that were ever appended.
pub(super) async fn labelled(
    connection: &Connection,
    tables: &Tables,
    keys: &[EntryKey],
) -> Result<HashMap<EntryKey, Labelled>> {
    let mut labelled = HashMap::with_capacity(keys.len());
    for keys in keys.chunks(KEYS) {
        let these = these_entries(keys);
        let sql = format!(
            "SELECT e.stream_key AS stream_key, e.id AS id, greatest(e.label_version, \
             tupleElement(l.tags, 1), tupleElement(l.annotations, 1)) AS version, \
             {} AS annotations FROM (SELECT stream_key, id, label_version, annotations FROM {} FINAL \
             WHERE {these}) AS e LEFT JOIN (SELECT * FROM {} FINAL WHERE {these}) AS l \
             ON l.stream_key = e.stream_key AND l.id = e.id SETTINGS join_use_nulls = 0",
            Tables::ANNOTATIONS,
            tables.entries,
            tables.labels,
        );
        let query = connection.client().query_raw(&sql);
        let rows: Vec<Found> = connection.fetch_all("read labels", query).await?;
        labelled.extend(rows.into_iter().map(|row| {
            let key = EntryKey {
                stream: StreamKey(row.stream_key),
                id: EntryId(row.id),
            };
            let annotations = row.annotations.into_iter().collect();
            let version = row.version;
            (
                key,
                Labelled {
                    version,
                    annotations,
                },
            )
        }));
    }
    Ok(labelled)
}
