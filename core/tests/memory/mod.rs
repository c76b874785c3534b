// A store in memory with just what the tests of the typed layer and the wrappers need: appends,
// pages, trims, labels and a log of appends. It is no example of a correct store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, Entry, EntryId, Error,
    ErrorKind, ExpectedVersion, Labels, Lag, Mutation, NewEntry, Page, Pairs, Query, ReadOptions,
    Result, Search, SourceId, Stat, Store, StoreName, StreamKey, StreamName, StreamRef, Timestamp,
};

#[derive(Debug)]
pub(crate) struct MemoryStore {
    name: StoreName,
    entries: Mutex<BTreeMap<StreamName, Vec<Entry>>>,
    log: Mutex<Vec<Change>>,
    closed: Mutex<bool>,
}

impl MemoryStore {
    pub(crate) fn shared(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: StoreName::new(name).unwrap(),
            entries: Mutex::default(),
            log: Mutex::default(),
            closed: Mutex::default(),
        })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<StreamName, Vec<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        stream: &StreamName,
        id: EntryId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T> {
        let mut entries = self.entries();
        let entry = entries
            .get_mut(stream)
            .and_then(|list| list.iter_mut().find(|e| e.id == id));
        let entry = entry.ok_or_else(|| Error::new(ErrorKind::NotFound, "label", "no entry"))?;
        entry.label_version += 1;
        Ok(change(entry))
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory store {}", self.name)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &StoreName {
        &self.name
    }

    async fn append(
        &self,
        stream: &StreamName,
        new: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let mut entries = self.entries();
        let mut log = self.log.lock().unwrap();
        let list = entries.entry(stream.clone()).or_default();
        let version = u64::try_from(list.len()).unwrap();
        assert!(expected.accepts(version));
        let mut done = Vec::new();
        for (index, entry) in new.into_iter().enumerate() {
            let entry = entry.checked(index)?;
            let taken = |have: &&Entry| have.dedup_key == entry.dedup_key;
            if let Some(have) = list
                .iter()
                .find(taken)
                .filter(|have| !have.dedup_key.is_empty())
            {
                done.push(Appended {
                    id: have.id,
                    duplicate: true,
                });
                continue;
            }
            let seq = u64::try_from(log.len()).unwrap() + 1;
            let entry = Entry {
                id: EntryId(seq),
                stream: stream.clone(),
                payload: entry.payload,
                order_key: entry.order_key,
                dedup_key: entry.dedup_key,
                schema_version: entry.schema_version,
                metadata: entry.metadata,
                tags: entry.tags,
                annotations: Pairs::new(),
                label_version: 0,
                created_at: Timestamp::from_micros(0),
                updated_at: None,
            };
            list.push(entry.clone());
            done.push(Appended {
                id: EntryId(seq),
                duplicate: false,
            });
            log.push(Change {
                cursor: Cursor::new(b'M', &seq.to_be_bytes()),
                committed_at: entry.created_at,
                stream: StreamRef {
                    key: StreamKey(1),
                    name: stream.clone(),
                    name_version: 1,
                },
                mutation: Mutation::Append {
                    entry: Box::new(entry),
                    version: seq,
                },
            });
        }
        Ok(done)
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let entries = self.entries();
        let list = entries.get(stream).map_or(&[][..], Vec::as_slice);
        let behind = |entry: &&Entry| options.after.is_none_or(|after| entry.id > after);
        let mut found = list
            .iter()
            .filter(behind)
            .filter(|entry| options.matches(entry));
        let page = found.by_ref().take(options.page_limit()).cloned().collect();
        Ok(Page {
            entries: page,
            more: found.next().is_some(),
        })
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        let entries = self.entries();
        let list = entries.get(stream).map_or(&[][..], Vec::as_slice);
        let count = u64::try_from(list.len()).unwrap();
        Ok(Stat {
            count,
            first_id: list.first().map(|entry| entry.id),
            last_id: list.last().map(|entry| entry.id),
            version: count,
        })
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let mut entries = self.entries();
        let list = entries.entry(stream.clone()).or_default();
        let before = list.len();
        list.retain(|entry| entry.id > through);
        Ok(u64::try_from(before - list.len()).unwrap())
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        let names: BTreeSet<_> = self.entries().keys().cloned().collect();
        Ok(names
            .into_iter()
            .filter(|name| Some(name) > after)
            .take(limit)
            .collect())
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        let mut entries = self.entries();
        let list = entries.remove(from).unwrap_or_default();
        entries.insert(to.clone(), list);
        Ok(())
    }

    fn labels(&self) -> Option<&dyn Labels> {
        Some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        Some(self)
    }

    async fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }
}

impl MemoryStore {
    #[allow(dead_code, reason = "not every user of this file closes the store")]
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap()
    }
}

#[async_trait]
impl Labels for MemoryStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        self.with(stream, id, |entry| entry.tags = tags)
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        self.with(stream, id, |entry| {
            entry.annotations.extend(set);
            entry.annotations.retain(|key, _| !delete.contains(key));
        })
    }
}

#[async_trait]
impl Search for MemoryStore {
    async fn search(
        &self,
        _stream: Option<&StreamName>,
        _query: &Query,
        _options: &ReadOptions,
    ) -> Result<Page> {
        Ok(Page::default())
    }
}

/// What was appended so far, and then the end.
#[async_trait]
impl ChangeLog for MemoryStore {
    async fn identity(&self) -> Result<SourceId> {
        Err(Error::new(ErrorKind::Unsupported, "identify", "memory"))
    }

    fn start(&self) -> Cursor {
        Cursor::new(b'M', &[])
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let mut log = self.log.lock().unwrap().clone();
        log.retain(|change| change.cursor > after);
        stream::iter(log.into_iter().map(Ok)).boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        Ok(self.start())
    }

    async fn lag(&self, _after: &Cursor) -> Result<Lag> {
        Ok(Lag::default())
    }

    fn snapshot(&self, _after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        stream::empty().boxed()
    }

    async fn size(&self) -> Result<u64> {
        Ok(0)
    }

    fn contents(&self) -> &dyn Contents {
        unimplemented!("no test here verifies")
    }

    fn consumers(&self) -> &dyn Consumers {
        unimplemented!("no test here registers")
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        unimplemented!("no test here parks")
    }
}
