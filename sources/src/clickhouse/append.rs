//! Appending: what is known before its turn comes, and which dedup keys are taken.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use clickhouse::Row;
use ledger_core::{NewEntry, Result, StreamKey};
use ledger_layout::clickhouse::{Connection, Tables, literal};
use ledger_layout::log::{encode_entries, split};
use serde::Deserialize;

/// How many bytes of keys one statement holds; a statement may have 256 KiB, and quoting may double
/// a key.
const KEY_BYTES: usize = 48 << 10;

/// Entries in their stored form, with the bodies of their log rows.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) entries: Vec<NewEntry>,
    /// The bodies, each with the entries that it holds.
    pub(super) bodies: Vec<(Range<usize>, Bytes)>,
}

impl Prepared {
    /// Checks the entries.
    pub(super) fn new(entries: Vec<NewEntry>) -> Result<Self> {
        let checked = entries.into_iter().enumerate();
        let entries = checked
            .map(|(index, entry)| entry.checked(index))
            .collect::<Result<Vec<_>>>()?;
        let (mut bodies, mut begin) = (Vec::new(), 0);
        for end in split(&entries) {
            let body = encode_entries(entries.get(begin..end).unwrap_or_default())?;
            bodies.push((begin..end, Bytes::from(body)));
            begin = end;
        }
        Ok(Self { entries, bodies })
    }

    /// How many bytes the bodies have.
    pub(super) fn bytes(&self) -> usize {
        self.bodies.iter().map(|(_, body)| body.len()).sum()
    }
}

/// The ids that hold dedup keys, by stream and key.
pub(super) type Taken = HashMap<(StreamKey, String), u64>;

#[derive(Debug, Row, Deserialize)]
struct Holder {
    stream_key: u64,
    dedup_key: String,
    id: u64,
}

/// Which of these keys are taken. An entry that was trimmed holds its key no more: `boundaries` tells
/// through where each stream was.
pub(super) async fn taken(
    connection: &Connection,
    tables: &Tables,
    keys: &[(StreamKey, &str)],
    boundaries: &HashMap<StreamKey, u64>,
) -> Result<Taken> {
    let mut taken = Taken::new();
    let mut rest = keys;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(_, key): &&(StreamKey, &str)| {
            bytes += key.len() + 40;
            bytes <= KEY_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (these, behind) = rest.split_at(count.min(rest.len()));
        rest = behind;
        let list = |text: fn(&(StreamKey, &str)) -> String| {
            these.iter().map(text).collect::<Vec<_>>().join(",")
        };
        let (streams, texts, pairs) = (
            list(|(stream, _)| stream.to_string()),
            list(|(_, key)| literal(key)),
            list(|(stream, key)| format!("({stream},{})", literal(key))),
        );
        // Of an entry that was trimmed and one that came after it, the later holds the key.
        let sql = format!(
            "SELECT stream_key, dedup_key, max(id) AS id FROM {} WHERE stream_key IN ({streams}) \
             AND dedup_key IN ({texts}) AND (stream_key, dedup_key) IN ({pairs}) \
             GROUP BY stream_key, dedup_key",
            tables.entries,
        );
        let query = connection.client().query_raw(&sql);
        let query = query.with_setting("max_query_size", "1048576");
        let rows: Vec<Holder> = connection.fetch_all("append", query).await?;
        for row in rows {
            let stream = StreamKey(row.stream_key);
            if row.id > boundaries.get(&stream).copied().unwrap_or(0) {
                taken.insert((stream, row.dedup_key), row.id);
            }
        }
    }
    Ok(taken)
}
