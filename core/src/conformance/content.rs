//! What a store holds, by every way of asking.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::case::{ids, name, read_all};
use super::follower::MARKS;
use super::model::Model;
use crate::{EntryKey, Store, StreamName};

/// The whole content, as [`Contents`](crate::Contents) tells it, read in small pages.
pub(super) async fn content(store: &Arc<dyn Store>) -> Model {
    let contents = store.log().expect("a log").contents();
    let mut model = Model::default();
    let mut after = None;
    loop {
        let page = contents.streams(after, 3).await.expect("read the streams");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3, "no more streams than asked for");
        after = Some(last.stream.key);
        for state in page {
            let earlier = model.streams.last_key_value().map(|(key, _)| *key);
            assert!(earlier < Some(state.stream.key), "streams ascend by key");
            model.streams.insert(state.stream.key, state);
        }
    }
    let mut after: Option<EntryKey> = None;
    loop {
        let page = contents
            .entries(after, None, 40)
            .await
            .expect("read the entries");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 40, "no more entries than asked for");
        after = Some(last.key);
        for record in page {
            let earlier = model.entries.last_key_value().map(|(key, _)| *key);
            assert!(earlier < Some(record.key), "entries ascend by key");
            assert_eq!(record.key.id, record.entry.id);
            model.entries.insert(record.key, record.entry);
        }
    }
    without_marks(model)
}

/// Marks are no content of a case.
fn without_marks(mut model: Model) -> Model {
    let mark = model
        .streams
        .values()
        .find(|state| state.stream.name.as_str() == MARKS);
    if let Some(key) = mark.map(|state| state.stream.key) {
        model.streams.remove(&key);
        model.entries.retain(|entry, _| entry.stream != key);
    }
    model
}

/// Checks that a store that nobody writes to holds exactly this, whichever way it is asked.
pub(super) async fn assert_holds(store: &Arc<dyn Store>, expected: Model) {
    let expected = without_marks(expected).named();
    let found = content(store).await;
    assert_eq!(
        found.streams, expected.streams,
        "streams: the store's (left), expected (right)"
    );
    let keys = |model: &Model| model.entries.keys().copied().collect::<Vec<_>>();
    assert_eq!(
        keys(&found),
        keys(&expected),
        "entries: the store's (left), expected (right)"
    );
    assert_eq!(
        found.entries, expected.entries,
        "entries: the store's (left), expected (right)"
    );
    assert_reads(store, &expected).await;
}

/// Checks that reads, stat and the list of streams agree with this content.
async fn assert_reads(store: &Arc<dyn Store>, content: &Model) {
    let mut full: BTreeMap<&StreamName, usize> = BTreeMap::new();
    for (key, state) in &content.streams {
        let expected: Vec<_> = content
            .entries
            .iter()
            .filter(|(entry, _)| entry.stream == *key)
            .map(|(_, entry)| entry.clone())
            .collect();
        let stream = &state.stream.name;
        assert_eq!(read_all(store, stream).await, expected, "reading {stream}");
        let stat = store.stat(stream).await.expect("stat");
        assert_eq!(stat.version, state.version, "version of {stream}");
        assert_eq!(
            stat.count,
            u64::try_from(expected.len()).unwrap(),
            "count of {stream}"
        );
        let ids = ids(&expected);
        assert_eq!(stat.first_id, ids.first().copied(), "first id of {stream}");
        assert_eq!(stat.last_id, ids.last().copied(), "last id of {stream}");
        if !expected.is_empty() {
            full.insert(stream, expected.len());
        }
    }
    let listed = store.streams(None, usize::MAX).await.expect("list streams");
    let listed: Vec<_> = listed
        .iter()
        .filter(|stream| **stream != name(MARKS))
        .collect();
    assert_eq!(
        listed,
        full.into_keys().collect::<Vec<_>>(),
        "the list of streams"
    );
}
