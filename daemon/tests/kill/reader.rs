//! A reader of everything that the log tells.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ledger::{Change, Cursor, EntryId, Mutation, Pairs, Store, StreamKey, StreamName};

/// Reads `changes` from START across every restart, checking order and completeness.
#[derive(Default)]
pub(crate) struct Reader {
    cursor: Option<Cursor>,
    versions: HashMap<StreamKey, u64>,
    label_versions: HashMap<EntryId, u64>,
    pub(crate) appended: HashSet<EntryId>,
    pub(crate) names: HashMap<StreamKey, StreamName>,
    pub(crate) entries: HashMap<StreamKey, BTreeMap<EntryId, (Vec<String>, Pairs)>>,
    pub(crate) changes: u64,
}

impl Reader {
    fn see(&mut self, change: Change) {
        let what = format!("{change:?}");
        assert!(
            self.cursor
                .as_ref()
                .is_none_or(|last| *last < change.cursor),
            "order: {what}"
        );
        self.cursor = Some(change.cursor);
        self.changes += 1;
        let key = change.stream.key;
        self.names.insert(key, change.stream.name);
        let entries = self.entries.entry(key).or_default();
        let mut relabel = |id: EntryId, version: u64| {
            let last = self.label_versions.insert(id, version).unwrap_or(0);
            assert_eq!(
                version,
                last + 1,
                "a label change is missing or doubled: {what}"
            );
        };
        match change.mutation {
            Mutation::Append { entry, version } => {
                let last = self.versions.insert(key, version).unwrap_or(0);
                assert_eq!(version, last + 1, "an append is missing or doubled: {what}");
                assert!(
                    entries.keys().next_back().is_none_or(|id| *id < entry.id),
                    "ids: {what}"
                );
                assert!(self.appended.insert(entry.id), "doubled: {what}");
                entries.insert(entry.id, (entry.tags, entry.annotations));
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                relabel(id, label_version);
                entries
                    .get_mut(&id)
                    .expect("tags of an entry that is there")
                    .0 = tags;
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                relabel(id, label_version);
                entries
                    .get_mut(&id)
                    .expect("annotations of an entry that is there")
                    .1 = annotations;
            }
            Mutation::Trim { through } => {
                assert!(
                    entries.contains_key(&through),
                    "trimmed what was not there: {what}"
                );
                *entries = entries.split_off(&EntryId(through.0 + 1));
            }
            Mutation::Rename => {}
            Mutation::Stream(_) => panic!("a log tells no states: {what}"),
        }
    }

    /// Reads until `until`, resuming after every error.
    pub(crate) async fn read(
        mut self,
        store: Arc<dyn Store>,
        until: tokio::sync::watch::Receiver<Option<Cursor>>,
    ) -> Self {
        let log = store.log().unwrap();
        loop {
            let mut changes = log.changes(self.cursor.clone().unwrap_or_else(|| log.start()));
            let mut waiting = until.clone();
            loop {
                let done = until.borrow().clone();
                if done.is_some() && self.cursor >= done {
                    return self;
                }
                tokio::select! {
                    change = changes.next() => match change {
                        Some(Ok(change)) => self.see(change),
                        Some(Err(error)) => {
                            assert!(error.is_retryable(), "reader: {}", error.chain());
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            break;
                        }
                        None => break,
                    },
                    _ = waiting.changed() => {}
                }
            }
        }
    }
}
