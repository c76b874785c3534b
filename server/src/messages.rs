//! Messages to and from what core knows.

use std::time::Duration;

use ledger_core::{Change, Entry, ExpectedVersion, Mutation, NewEntry, StreamName, Timestamp};
use tonic::Status;

use crate::status::invalid;
use crate::v1;

pub(crate) fn entry(entry: Entry) -> v1::Entry {
    v1::Entry {
        id: entry.id.to_string(),
        stream: entry.stream.into(),
        payload: entry.payload,
        order_key: entry.order_key,
        dedup_key: entry.dedup_key,
        schema_version: i64::from(entry.schema_version),
        metadata: entry.metadata,
        tags: entry.tags,
        annotations: entry.annotations,
        created_at: Some(timestamp(entry.created_at)),
        updated_at: entry.updated_at.map(timestamp),
    }
}

pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        // Below a thousand million.
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// A time that a client sent, in the field of this name.
pub(crate) fn time(field: &str, at: prost_types::Timestamp) -> Result<Timestamp, Status> {
    let micros = at
        .seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(at.nanos) / 1_000))
        .filter(|_| (0..1_000_000_000).contains(&at.nanos));
    micros
        .map(Timestamp::from_micros)
        .ok_or_else(|| invalid(field, "is not a time that can be kept"))
}

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Counts that the contract gives as `int64`.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The number of things asked for: 100 where nothing is said.
pub(crate) fn limit(limit: i64) -> usize {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit,
        _ => 100,
    }
}

/// A stream's name, in the field of this name.
pub(crate) fn stream(field: &str, name: &str) -> Result<StreamName, Status> {
    if name.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    StreamName::new(name)
        .map_err(|error| invalid(field, format_args!("is refused: {}", error.context())))
}

/// Refuses an empty field.
pub(crate) fn not_empty(field: &str, value: &str) -> Result<(), Status> {
    if value.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    Ok(())
}

pub(crate) fn new_entry(index: usize, entry: v1::EntryInput) -> Result<NewEntry, Status> {
    let version = u32::try_from(entry.schema_version).map_err(|_| {
        let field = format!("entries[{index}].schema_version");
        invalid(&field, "must be from 0 to 2147483647")
    })?;
    Ok(NewEntry {
        payload: entry.payload,
        order_key: entry.order_key,
        dedup_key: entry.dedup_key,
        schema_version: version,
        metadata: entry.metadata,
        tags: entry.tags,
    })
}

pub(crate) fn expected(version: Option<v1::ExpectedVersion>) -> Result<ExpectedVersion, Status> {
    use v1::expected_version::Expected;
    Ok(match version.and_then(|version| version.expected) {
        None | Some(Expected::Any(())) => ExpectedVersion::Any,
        Some(Expected::None(())) => ExpectedVersion::None,
        Some(Expected::Exists(())) => ExpectedVersion::Exists,
        Some(Expected::Exactly(version)) => ExpectedVersion::Exactly(
            u64::try_from(version)
                .map_err(|_| invalid("expected_version.exactly", "must not be negative"))?,
        ),
    })
}

pub(crate) fn change(change: &Change) -> v1::ChangesResponse {
    use v1::changes_response::Mutation as Message;
    let mutation = match change.mutation.clone() {
        Mutation::Append { entry: it, version } => Some(Message::Append(v1::Appended {
            entry: Some(entry(*it)),
            version,
        })),
        Mutation::SetTags {
            id,
            label_version,
            tags,
        } => Some(Message::SetTags(v1::TagsSet {
            id: id.to_string(),
            label_version,
            tags,
        })),
        Mutation::SetAnnotations {
            id,
            label_version,
            annotations,
        } => Some(Message::SetAnnotations(v1::AnnotationsSet {
            id: id.to_string(),
            label_version,
            annotations,
        })),
        Mutation::Trim { through } => Some(Message::Trim(v1::Trimmed {
            through: through.to_string(),
        })),
        // In the log of a relay the state of a stream tells its name, as a rename does.
        Mutation::Rename | Mutation::Stream(_) => Some(Message::Rename(())),
    };
    v1::ChangesResponse {
        cursor: change.cursor.to_string(),
        committed_at: Some(timestamp(change.committed_at)),
        stream: Some(v1::StreamRef {
            key: change.stream.key.0,
            name: change.stream.name.to_string(),
            name_version: change.stream.name_version,
        }),
        mutation,
    }
}
