//! A source in the plainest way, to compare the replica with.

use std::collections::BTreeMap;

use ledger_core::{
    Change, Contents as _, Entry, EntryKey, Mutation, Record, StreamKey, StreamState, Timestamp,
};
use ledger_sinks::clickhouse::ClickHouseSink;

use crate::database::{Database, ViewRow, change};

/// What a source holds after a row of changes, told in the plainest way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) streams: BTreeMap<StreamKey, StreamState>,
    pub(crate) entries: BTreeMap<EntryKey, Entry>,
}

impl Model {
    pub(crate) fn of(changes: &[Change]) -> Self {
        let mut model = Self::default();
        for change in changes {
            model.apply(change);
        }
        model
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        let key = |id| EntryKey {
            stream: change.stream.key,
            id,
        };
        let state = self
            .streams
            .entry(change.stream.key)
            .or_insert_with(|| StreamState {
                stream: change.stream.clone(),
                version: 0,
                trimmed_through: 0,
            });
        state.stream = change.stream.clone();
        let at = change.committed_at;
        match &change.mutation {
            Mutation::Append { entry, version } => {
                state.version = *version;
                self.entries.insert(key(entry.id), (**entry).clone());
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                let entry = self.entries.get_mut(&key(*id)).unwrap();
                entry.tags.clone_from(tags);
                (entry.label_version, entry.updated_at) = (*label_version, Some(at));
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                let entry = self.entries.get_mut(&key(*id)).unwrap();
                entry.annotations.clone_from(annotations);
                (entry.label_version, entry.updated_at) = (*label_version, Some(at));
            }
            Mutation::Trim { through } => {
                state.trimmed_through = state.trimmed_through.max(through.0);
                let stream = change.stream.key;
                self.entries
                    .retain(|key, _| key.stream != stream || key.id > *through);
            }
            Mutation::Rename => {}
            Mutation::Stream(_) => unreachable!("a log holds none"),
        }
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let named = |(key, entry): (&EntryKey, &Entry)| {
            let stream = self.streams[&key.stream].stream.name.clone();
            Record {
                key: *key,
                entry: Entry {
                    stream,
                    ..entry.clone()
                },
            }
        };
        self.entries.iter().map(named).collect()
    }

    pub(crate) fn view(&self) -> Vec<ViewRow> {
        let mut rows: Vec<ViewRow> = self.records().into_iter().map(view_row).collect();
        rows.sort();
        rows
    }

    /// What a snapshot reads of it.
    pub(crate) fn snapshot(&self, which: impl Fn(&Record) -> bool) -> Vec<Change> {
        let records = self.records().into_iter().filter(|record| which(record));
        let appends = records.map(|record| {
            let stream = self.streams[&record.key.stream].stream.clone();
            let entry = Box::new(record.entry);
            change(&stream, 0, Mutation::Append { entry, version: 0 })
        });
        let states = self.streams.values();
        let states = states.map(|state| change(&state.stream, 0, Mutation::Stream(state.clone())));
        states.chain(appends).collect()
    }
}

pub(crate) fn view_row(record: Record) -> ViewRow {
    let entry = record.entry;
    ViewRow {
        stream: entry.stream.to_string(),
        id: entry.id.0,
        payload: entry.payload.to_vec(),
        order_key: entry.order_key,
        dedup_key: entry.dedup_key,
        schema_version: i64::from(entry.schema_version),
        metadata: entry.metadata.into_iter().collect(),
        tags: entry.tags,
        annotations: entry.annotations.into_iter().collect(),
        created_at: entry.created_at.as_micros(),
        updated_at: entry.updated_at.map(Timestamp::as_micros),
    }
}

pub(crate) async fn contents(sink: &ClickHouseSink, limit: usize) -> Vec<Record> {
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = sink.entries(after, None, limit).await.unwrap();
        assert!(page.len() <= limit);
        let Some(last) = page.last() else {
            return records;
        };
        after = Some(last.key);
        records.extend(page);
    }
}

pub(crate) async fn assert_equals(database: &Database, sink: &ClickHouseSink, model: &Model) {
    assert_eq!(database.view().await, model.view());
    assert_eq!(contents(sink, 3).await, model.records());
    let states: Vec<StreamState> = model.streams.values().cloned().collect();
    assert_eq!(sink.streams(None, 1_000).await.unwrap(), states);
}
