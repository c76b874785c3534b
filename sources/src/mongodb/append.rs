//! Appending.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use ledger_core::{
    Appended, EntryId, Error, ExpectedVersion, NewEntry, Result, StreamKey, StreamName, StreamRef,
    VersionConflict,
};
use ledger_layout::log::{APPEND, LogRow, encode_entries, split};
use ledger_layout::mongodb::{
    Collections, EntryRow, Locked, Rows, Tx, int_in, integer, lock, log_document, text,
};
use mongodb::bson::{Bson, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::log::{StreamRow, new_keys, stream_rows};

pub(super) const OPERATION: &str = "append";

/// The most bytes of an entry: MongoDB's 16 MiB for a document, less what stands around it in the
/// log.
const MAX_ENTRY: usize = (16 << 20) - (64 << 10);

/// One append, with the bodies of its log rows made before the lock is taken.
pub(super) struct Asked {
    pub(super) stream: StreamName,
    entries: Vec<NewEntry>,
    rows: Vec<(Range<usize>, bytes::Bytes)>,
    expected: ExpectedVersion,
}

impl Asked {
    /// Checks the entries; `log` tells whether log rows are expected to be needed.
    pub(super) fn new(
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
        log: bool,
    ) -> Result<Self> {
        let checked = entries.into_iter().enumerate().map(|(index, entry)| {
            let entry = entry.checked(index)?;
            check_size(&entry, index)?;
            Ok(entry)
        });
        let entries = checked.collect::<Result<Vec<_>>>()?;
        let rows = if log {
            log_bodies(&entries)?
        } else {
            Vec::new()
        };
        Ok(Self {
            stream: stream.clone(),
            entries,
            rows,
            expected,
        })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes their payloads have.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.payload.len()).sum()
    }
}

fn check_size(entry: &NewEntry, index: usize) -> Result<()> {
    // Each pair and tag has a frame around it.
    let pairs = entry
        .metadata
        .iter()
        .map(|(key, value)| key.len() + value.len() + 40);
    let tags = entry.tags.iter().map(|tag| tag.len() + 20);
    let keys = entry.order_key.len() + entry.dedup_key.len();
    let size = entry.payload.len() + keys + pairs.sum::<usize>() + tags.sum::<usize>();
    if size > MAX_ENTRY {
        return Err(Error::invalid(
            OPERATION,
            format!(
                "entries[{index}].payload: the entry has {size} bytes, and one of a MongoDB store at \
                 most {MAX_ENTRY}"
            ),
        ));
    }
    Ok(())
}

fn log_bodies(entries: &[NewEntry]) -> Result<Vec<(Range<usize>, bytes::Bytes)>> {
    let mut rows = Vec::new();
    let mut begin = 0;
    for end in split(entries) {
        let body = encode_entries(entries.get(begin..end).unwrap_or_default())?;
        rows.push((begin..end, body.into()));
        begin = end;
    }
    Ok(rows)
}

fn conflict(stream: &StreamName, expected: ExpectedVersion, actual: u64) -> Error {
    let what = format!("stream {stream:?}");
    Error::conflict(what, VersionConflict { expected, actual })
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Makes all appends in one transaction, in order. One that is refused writes nothing, and the others
/// take place; an error of the whole is the database's, and the transaction's end.
pub(super) async fn append(
    tx: &mut Tx<'_>,
    collections: &Collections,
    asked: &[Asked],
) -> Result<Vec<Result<Vec<Appended>>>> {
    let ids = asked.iter().map(Asked::len).sum();
    let rows = asked.iter().map(|asked| asked.rows.len()).sum();
    let locked = lock(tx, collections, OPERATION, number(ids), number(rows)).await?;
    let mut names: Vec<&str> = asked.iter().map(|asked| asked.stream.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut work = Work {
        locked,
        streams: stream_rows(tx, collections, OPERATION, &names).await?,
        held: HashMap::new(),
        next_id: locked.last_id,
        next_seq: locked.last_seq,
        entries: Vec::new(),
        log: Vec::new(),
    };
    work.create(tx, collections, asked).await?;
    work.look_up(tx, collections, asked).await?;
    let mut results = Vec::with_capacity(asked.len());
    for asked in asked {
        results.push(work.add(asked)?);
    }
    work.write(tx, collections).await?;
    Ok(results)
}

/// What a transaction of appends gathers before it writes.
struct Work {
    locked: Locked,
    streams: HashMap<String, StreamRow>,
    /// Which entry holds a dedup key.
    held: HashMap<(StreamKey, String), i64>,
    next_id: i64,
    next_seq: i64,
    entries: Vec<RawDocumentBuf>,
    log: Vec<RawDocumentBuf>,
}

impl Work {
    /// Gives keys to streams that do not exist. They are written where an append to them took place.
    async fn create(
        &mut self,
        tx: &mut Tx<'_>,
        collections: &Collections,
        asked: &[Asked],
    ) -> Result<()> {
        let mut new: Vec<&StreamName> = Vec::new();
        for asked in asked.iter().filter(|asked| asked.len() > 0) {
            if !self.streams.contains_key(asked.stream.as_str()) && !new.contains(&&asked.stream) {
                new.push(&asked.stream);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let first = new_keys(tx, collections, OPERATION, number(new.len())).await?;
        for (key, name) in (first..).zip(new) {
            let stream = StreamRef {
                key: StreamKey(key.unsigned_abs()),
                name: name.clone(),
                name_version: 1,
            };
            self.streams
                .insert(name.as_str().to_owned(), StreamRow::new(stream));
        }
        Ok(())
    }

    /// Finds who holds the dedup keys. The lock keeps the answer true.
    async fn look_up(
        &mut self,
        tx: &mut Tx<'_>,
        collections: &Collections,
        asked: &[Asked],
    ) -> Result<()> {
        let mut wanted: BTreeMap<StreamKey, Vec<Bson>> = BTreeMap::new();
        for asked in asked {
            let Some(row) = self
                .streams
                .get(asked.stream.as_str())
                .filter(|row| !row.new)
            else {
                continue;
            };
            let keys = asked.entries.iter().map(|entry| entry.dedup_key.as_str());
            let keys = keys.filter(|key| !key.is_empty()).map(Bson::from);
            let keys: Vec<Bson> = keys.collect();
            if !keys.is_empty() {
                wanted.entry(row.stream.key).or_default().extend(keys);
            }
        }
        for (key, keys) in wanted {
            let filter = doc! {"stream": int_in(key.0), "dedup_key": {"$in": keys}};
            let options = FindOptions::builder()
                .projection(doc! {"dedup_key": 1})
                .hint(mongodb::options::Hint::Name("dedup_key".to_owned()))
                .build();
            let database = tx.database().clone();
            let entries = &collections.entries;
            let session = tx.session();
            let mut found =
                Rows::find(&database, session, OPERATION, entries, filter, options).await?;
            while let Some(found) = found.next(OPERATION).await? {
                let held = (key, text(&found, "dedup_key")?.to_owned());
                self.held.insert(held, integer(&found, "_id")?);
            }
        }
        Ok(())
    }

    /// Decides on one append. The outer result is a failure of all.
    fn add(&mut self, asked: &Asked) -> Result<Result<Vec<Appended>>> {
        let refused = |actual| Ok(Err(conflict(&asked.stream, asked.expected, actual)));
        let Some(row) = self.streams.get_mut(asked.stream.as_str()) else {
            // Nothing is created, but the expectation holds.
            return if asked.expected.accepts(0) {
                Ok(Ok(Vec::new()))
            } else {
                refused(0)
            };
        };
        if asked.entries.is_empty() && !asked.expected.accepts(row.version) {
            return refused(row.version);
        }
        let key = row.stream.key;
        let mut appended = Vec::with_capacity(asked.len());
        let mut own: HashMap<&str, i64> = HashMap::new();
        let mut ids = Vec::with_capacity(asked.len());
        let mut next_id = self.next_id;
        for entry in &asked.entries {
            next_id += 1;
            let holder = match entry.dedup_key.as_str() {
                "" => None,
                dedup => own
                    .get(dedup)
                    .or_else(|| self.held.get(&(key, dedup.to_owned())))
                    .copied(),
            };
            let id = holder.unwrap_or(next_id);
            ids.push(if holder.is_some() { 0 } else { id });
            if holder.is_none() && !entry.dedup_key.is_empty() {
                own.insert(&entry.dedup_key, id);
            }
            appended.push(Appended {
                id: EntryId(id.unsigned_abs()),
                duplicate: holder.is_some(),
            });
        }
        let kept = ids.iter().filter(|id| **id != 0).count();
        if kept == 0 {
            return Ok(Ok(appended));
        }
        if !asked.expected.accepts(row.version) {
            return refused(row.version);
        }
        self.next_id = next_id;
        let own: Vec<_> = own
            .into_iter()
            .map(|(dedup, id)| (dedup.to_owned(), id))
            .collect();
        self.held
            .extend(own.into_iter().map(|(dedup, id)| ((key, dedup), id)));
        for (id, entry) in ids.iter().zip(&asked.entries).filter(|(id, _)| **id != 0) {
            let new = EntryRow {
                id: *id,
                stream: key,
                created_at: self.locked.now,
                payload: &entry.payload,
                order_key: &entry.order_key,
                dedup_key: &entry.dedup_key,
                schema_version: entry.schema_version,
                metadata: &entry.metadata,
                tags: &entry.tags,
                annotations: None,
                label_version: 0,
                updated_at: None,
            };
            self.entries.push(new.document());
        }
        if self.locked.log {
            let made;
            let rows = if asked.rows.is_empty() {
                made = log_bodies(&asked.entries)?;
                &made
            } else {
                &asked.rows
            };
            let mut version = row.version;
            for (range, body) in rows {
                let ids = ids.get(range.clone()).unwrap_or_default();
                let kept = ids.iter().filter(|id| **id != 0).count();
                if kept == 0 {
                    continue;
                }
                version += u64::try_from(kept).unwrap_or(0);
                self.next_seq += 1;
                let new = LogRow {
                    seq: self.next_seq,
                    at: self.locked.now,
                    stream: row.stream.clone(),
                    kind: APPEND,
                    ids: ids.to_vec(),
                    version: int_in(version),
                    body: body.clone(),
                };
                self.log.push(log_document(&new, number(kept))?);
            }
        }
        let kept = u64::try_from(kept).unwrap_or(0);
        row.version += kept;
        row.added += kept;
        Ok(Ok(appended))
    }

    async fn write(self, tx: &mut Tx<'_>, collections: &Collections) -> Result<()> {
        let (mut new, mut counters) = (Vec::new(), Vec::new());
        for row in self.streams.values().filter(|row| row.added > 0) {
            if row.new {
                new.push(row.document(self.locked.now));
            } else {
                counters.push(doc! {
                    "q": {"_id": int_in(row.stream.key.0)},
                    "u": {"$inc": {"version": int_in(row.added), "live": int_in(row.added)}},
                });
            }
        }
        // On a standalone server each is written by itself: a stream first, what counts it last.
        tx.insert(OPERATION, &collections.streams, &new).await?;
        tx.insert(OPERATION, &collections.entries, &self.entries)
            .await?;
        tx.insert(OPERATION, &collections.log, &self.log).await?;
        tx.update(OPERATION, &collections.streams, counters).await?;
        Ok(())
    }
}
