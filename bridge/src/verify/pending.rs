//! What the sink has yet to apply.

use std::collections::{HashMap, HashSet};

use futures::StreamExt as _;
use ledger_core::{ChangeLog, Cursor, EntryId, EntryKey, Mutation, Result, StreamKey};

/// Rows that were mutated behind the sink's cursor.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) streams: HashSet<StreamKey>,
    pub(super) entries: HashSet<EntryKey>,
    pub(super) count: u64,
}

/// Reads the log once, from the sink's cursor to `head`, for those of the rows that it mentions.
pub(super) async fn pending(
    log: &dyn ChangeLog,
    after: Cursor,
    head: &Cursor,
    streams: &[StreamKey],
    entries: &[EntryKey],
) -> Result<Pending> {
    let mut found = Pending::default();
    if streams.is_empty() && entries.is_empty() {
        return Ok(found);
    }
    let wanted: HashSet<EntryKey> = entries.iter().copied().collect();
    let streams: HashSet<StreamKey> = streams.iter().copied().collect();
    let mut trimmed: HashMap<StreamKey, EntryId> = HashMap::new();
    let mut changes = log.changes(after);
    while let Some(change) = changes.next().await {
        let change = change?;
        let key = change.stream.key;
        let renames = matches!(
            change.mutation,
            Mutation::Rename | Mutation::Trim { .. } | Mutation::Stream(_)
        );
        let creates = matches!(change.mutation, Mutation::Append { version: 1, .. });
        if (renames || creates) && streams.contains(&key) {
            found.streams.insert(key);
        }
        match change.mutation {
            Mutation::Append { entry, .. } => touch(&mut found, &wanted, key, entry.id),
            Mutation::SetTags { id, .. } | Mutation::SetAnnotations { id, .. } => {
                touch(&mut found, &wanted, key, id);
            }
            Mutation::Trim { through } => {
                let boundary = trimmed.entry(key).or_default();
                *boundary = through.max(*boundary);
            }
            Mutation::Stream(state) => {
                let boundary = trimmed.entry(key).or_default();
                *boundary = EntryId(state.trimmed_through).max(*boundary);
            }
            Mutation::Rename => {}
        }
        if change.cursor >= *head {
            break;
        }
    }
    let below = |key: &EntryKey| {
        trimmed
            .get(&key.stream)
            .is_some_and(|through| key.id <= *through)
    };
    found.entries.extend(entries.iter().copied().filter(below));
    found.count = (found.streams.len() + found.entries.len()) as u64;
    Ok(found)
}

fn touch(found: &mut Pending, wanted: &HashSet<EntryKey>, stream: StreamKey, id: EntryId) {
    let key = EntryKey { stream, id };
    if wanted.contains(&key) {
        found.entries.insert(key);
    }
}
