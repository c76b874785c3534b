//! Reading entries.

use std::collections::HashMap;

use clickhouse::Row;
use ledger_core::{
    Contents as _, Entry, EntryId, EntryKey, Page, Pairs, ReadOptions, Result, StreamKey,
    StreamName,
};
use ledger_layout::clickhouse::{ClickHouseContents, Connection, KEYS, Tables, literal};
use serde::Deserialize;

use super::streams::find_one;

const OPERATION: &str = "read";

/// How many bytes of payload a page may have before it is cut short.
const PAGE_BYTES: u64 = 16 << 20;

#[derive(Debug, Row, Deserialize)]
struct Place {
    stream_key: u64,
    id: u64,
    size: u64,
}

/// What is read, and by what.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) tables: &'a Tables,
    pub(super) contents: &'a ClickHouseContents,
}

impl Reading<'_> {
    /// See [`Store::page`](ledger_core::Store::page), and
    /// [`Search::search`](ledger_core::Search::search) where a condition on the payload is given;
    /// without a stream all are read.
    pub(super) async fn page(
        &self,
        stream: Option<&StreamName>,
        payload: Option<&str>,
        options: &ReadOptions,
    ) -> Result<Page> {
        if options.page_limit() == 0 || !options.can_match() {
            return Ok(Page::default());
        }
        let within = match stream {
            None => None,
            Some(name) => match find_one(self.connection, self.tables, OPERATION, name).await? {
                None => return Ok(Page::default()),
                Some(state) => Some(format!(
                    "stream_key = {} AND id > {}",
                    state.stream.key, state.trimmed_through
                )),
            },
        };
        let mut options = options.clone();
        loop {
            let (keys, more) = self.places(within.as_deref(), payload, &options).await?;
            let mut found: HashMap<EntryKey, Entry> = HashMap::with_capacity(keys.len());
            for keys in keys.chunks(KEYS) {
                let records = self.contents.entries_at(keys).await?;
                found.extend(records.into_iter().map(|record| (record.key, record.entry)));
            }
            // What was trimmed or labelled otherwise in between does not belong to the page any more.
            let kept = keys.iter().filter_map(|key| found.remove(key));
            let entries: Vec<Entry> = kept.filter(|entry| options.matches(entry)).collect();
            if entries.is_empty() && more {
                options.after = keys.last().map(|key| key.id);
                continue;
            }
            return Ok(Page { entries, more });
        }
    }

    /// The places of a page's entries, and whether there are more behind them. Read first, so that
    /// no payload is sent that the page does not hold, and only few rows are merged.
    async fn places(
        &self,
        within: Option<&str>,
        payload: Option<&str>,
        options: &ReadOptions,
    ) -> Result<(Vec<EntryKey>, bool)> {
        let sql = statement(self.tables, within, payload, options);
        let query = self.connection.client().query_raw(&sql);
        let mut rows = self
            .connection
            .timed(OPERATION, async { query.fetch::<Place>() })
            .await?;
        let (mut keys, mut bytes): (Vec<EntryKey>, u64) = (Vec::new(), 0);
        while let Some(row) = self.connection.timed(OPERATION, rows.next()).await? {
            if keys.len() == options.page_limit() || bytes > PAGE_BYTES {
                return Ok((keys, true));
            }
            bytes += row.size;
            keys.push(EntryKey {
                stream: StreamKey(row.stream_key),
                id: EntryId(row.id),
            });
        }
        Ok((keys, false))
    }
}

/// Whether `column` holds all of these pairs.
fn pairs(column: &str, pairs: &Pairs) -> impl Iterator<Item = String> {
    pairs.iter().map(move |(key, value)| {
        let (key, value) = (literal(key), literal(value));
        format!("mapContains({column}, {key}) AND {column}[{key}] = {value}")
    })
}

fn statement(
    tables: &Tables,
    within: Option<&str>,
    payload: Option<&str>,
    options: &ReadOptions,
) -> String {
    let mut fixed: Vec<String> = within.map(str::to_owned).into_iter().collect();
    if let Some(after) = options.after {
        let sign = if options.descending { '<' } else { '>' };
        fixed.push(format!("id {sign} {after}"));
    }
    if let Some(key) = &options.order_key {
        fixed.push(format!("order_key = {}", literal(key)));
    }
    fixed.extend(pairs("metadata", &options.metadata));
    let time = "toUnixTimestamp64Micro(created_at)";
    if let Some(since) = options.since {
        fixed.push(format!("{time} >= {}", since.as_micros()));
    }
    if let Some(until) = options.until {
        fixed.push(format!("{time} < {}", until.as_micros()));
    }
    fixed.extend(payload.map(str::to_owned));
    let fixed = if fixed.is_empty() {
        "1".to_owned()
    } else {
        fixed.join(" AND ")
    };

    let tags = options.tags();
    let labels = tags
        .iter()
        .map(|tag| format!("has({}, {})", Tables::TAGS, literal(tag)));
    let labels: Vec<String> = labels
        .chain(pairs(
            &format!("({})", Tables::ANNOTATIONS),
            &options.annotations,
        ))
        .collect();
    let mut sql = String::from(
        "SELECT DISTINCT e.stream_key AS stream_key, e.id AS id, e.size AS size FROM ",
    );
    // What conditions on labels need has to be the newest state; what never changes need not.
    if labels.is_empty() {
        sql.push_str(&format!(
            "(SELECT stream_key, id, length(payload) AS size FROM {} WHERE {fixed}) AS e",
            tables.entries
        ));
    } else {
        sql.push_str(&format!(
            "(SELECT stream_key, id, length(payload) AS size, label_version, tags, annotations \
             FROM {} FINAL WHERE {fixed}) AS e \
             LEFT JOIN (SELECT * FROM {} FINAL WHERE {}) AS l \
             ON l.stream_key = e.stream_key AND l.id = e.id",
            tables.entries,
            tables.labels,
            within.unwrap_or("1"),
        ));
    }
    let mut conditions = labels;
    if within.is_none() {
        sql.push_str(&format!(
            " INNER JOIN (SELECT stream_key, trimmed_through FROM {} FINAL) AS s \
             ON s.stream_key = e.stream_key",
            tables.streams
        ));
        conditions.push("e.id > s.trimmed_through".to_owned());
    }
    if !conditions.is_empty() {
        sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
    }
    let (order, direction) = (
        if within.is_some() {
            "e.stream_key, "
        } else {
            ""
        },
        if options.descending { " DESC" } else { "" },
    );
    let order = order.replace(',', &format!("{direction},"));
    let limit = u64::try_from(options.page_limit())
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    // A payload is the same in every row of an entry, so an index may leave rows out before merging.
    sql.push_str(&format!(
        " ORDER BY {order}e.id{direction} LIMIT {limit} \
         SETTINGS join_use_nulls = 0, use_skip_indexes_if_final = 1"
    ));
    sql
}
