//! Changes for unit tests.

use bytes::Bytes;
use ledger_core::hook::Delivery;
use ledger_core::{
    Change, Cursor, Entry, EntryId, Mutation, Pairs, PipelineId, StoreName, StreamKey, StreamName,
    StreamRef, Timestamp,
};

pub(super) fn change(number: u64, mutation: Mutation) -> Change {
    Change {
        cursor: Cursor::new(b't', &number.to_be_bytes()),
        committed_at: Timestamp::from_micros(0),
        stream: StreamRef {
            key: StreamKey(1),
            name: StreamName::new("user-1").unwrap(),
            name_version: 1,
        },
        mutation,
    }
}

pub(super) fn append(id: u64, payload: &str) -> Change {
    let entry = Entry {
        id: EntryId(id),
        stream: StreamName::new("user-1").unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        order_key: String::new(),
        dedup_key: String::new(),
        schema_version: 1,
        metadata: Pairs::new(),
        tags: Vec::new(),
        annotations: Pairs::new(),
        label_version: 0,
        created_at: Timestamp::from_micros(i64::try_from(id).unwrap() * 1_000_000),
        updated_at: None,
    };
    let mutation = Mutation::Append {
        entry: Box::new(entry),
        version: id,
    };
    change(id, mutation)
}

pub(super) fn delivery(changes: Vec<Change>) -> Delivery {
    let hook = PipelineId::new("hook").unwrap();
    let store = StoreName::new("orders").unwrap();
    Delivery::new(&hook, uuid::Uuid::nil(), &store, changes).unwrap()
}
