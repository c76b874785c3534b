//! The stored form of entries, streams and log rows.

use bytes::Bytes;
use ledger_core::{
    Entry, EntryId, Error, ErrorKind, Pairs, Result, StreamKey, StreamName, StreamRef, StreamState,
    Timestamp, is_json,
};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteRow, SqliteTypeInfo};
use sqlx::{Decode, Encode, Row as _, Sqlite, Type};

use crate::log::{LogRow, decode_ids};

/// The tag of cursors of an SQLite store's log.
pub const LOG_TAG: u8 = b's';

/// What [`decode_entry`] takes, of an entries table called `e`.
pub const ENTRY_COLUMNS: &str = "e.stream_key, e.id, e.payload, e.order_key, e.dedup_key, \
    e.schema_version, e.metadata, e.tags, e.annotations, \
    max(e.tags_version, e.annotations_version), e.created_at, e.updated_at";

/// What [`decode_log_row`] takes, of a log table called `l`.
pub const LOG_COLUMNS: &str =
    "l.seq, l.at, l.stream_key, l.stream_name, l.name_version, l.kind, l.version, l.ids, l.body";

/// A payload on its way into the database: a JSON text as TEXT, so that SQLite's JSON functions
/// work on it, anything else as BLOB. Both keep the bytes.
#[derive(Debug)]
pub enum Payload<'a> {
    /// A JSON text.
    Json(&'a str),
    /// Other bytes.
    Bytes(&'a [u8]),
}

/// The stored form of a payload.
pub fn payload_value(payload: &[u8]) -> Payload<'_> {
    match std::str::from_utf8(payload) {
        Ok(text) if is_json(payload) => Payload::Json(text),
        _ => Payload::Bytes(payload),
    }
}

impl Type<Sqlite> for Payload<'_> {
    fn type_info() -> SqliteTypeInfo {
        <[u8] as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for Payload<'_> {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        match self {
            Self::Json(text) => Encode::<Sqlite>::encode((*text).to_owned(), buffer),
            Self::Bytes(bytes) => Encode::<Sqlite>::encode(bytes.to_vec(), buffer),
        }
    }
}

/// A column of a row that was read during `operation`.
pub fn read_column<'r, T>(row: &'r SqliteRow, index: usize) -> Result<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
{
    row.try_get(index).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            "read row",
            "a stored value is not of its column's type",
        )
        .with_source(error)
    })
}

/// A stored number that is never negative.
pub fn uint(row: &SqliteRow, index: usize) -> Result<u64> {
    let value: i64 = read_column(row, index)?;
    u64::try_from(value).map_err(|_| corrupt("a number that counts is negative"))
}

/// A number on its way into the database; one that a column cannot hold becomes the largest it can,
/// which no stored number reaches.
pub fn int_in(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An id from the database.
pub fn id_out(row: &SqliteRow, index: usize) -> Result<EntryId> {
    uint(row, index).map(EntryId)
}

/// A time from the database.
pub fn from_micros(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// Pairs as JSON.
pub fn json_pairs(pairs: &Pairs) -> Result<String> {
    if pairs.is_empty() {
        return Ok("{}".to_owned());
    }
    serde_json::to_string(pairs).map_err(unencodable)
}

/// Texts as JSON.
pub fn json_texts(texts: &[String]) -> Result<String> {
    if texts.is_empty() {
        return Ok("[]".to_owned());
    }
    serde_json::to_string(texts).map_err(unencodable)
}

fn unencodable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "encode entry", "as JSON").with_source(error)
}

/// Pairs from JSON.
pub fn text_pairs(row: &SqliteRow, index: usize) -> Result<Pairs> {
    match read_column(row, index)? {
        "{}" => Ok(Pairs::new()),
        text => serde_json::from_str(text)
            .map_err(|error| corrupt("pairs are not a JSON object of texts").with_source(error)),
    }
}

fn texts(row: &SqliteRow, index: usize) -> Result<Vec<String>> {
    match read_column(row, index)? {
        "[]" => Ok(Vec::new()),
        text => serde_json::from_str(text)
            .map_err(|error| corrupt("tags are not a JSON array of texts").with_source(error)),
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read row", what)
}

/// An entry from the columns [`ENTRY_COLUMNS`], with the key of its stream.
pub fn decode_entry(row: &SqliteRow, stream: StreamName) -> Result<(StreamKey, Entry)> {
    let decode = || {
        let schema_version = u32::try_from(uint(row, 5)?);
        Ok(Entry {
            id: id_out(row, 1)?,
            stream,
            payload: Bytes::from(read_column::<Vec<u8>>(row, 2)?),
            order_key: read_column(row, 3)?,
            dedup_key: read_column(row, 4)?,
            schema_version: schema_version.map_err(|_| corrupt("its schema version"))?,
            metadata: text_pairs(row, 6)?,
            tags: texts(row, 7)?,
            annotations: text_pairs(row, 8)?,
            label_version: uint(row, 9)?,
            created_at: from_micros(read_column(row, 10)?),
            updated_at: read_column::<Option<i64>>(row, 11)?.map(from_micros),
        })
    };
    let (key, id) = (uint(row, 0)?, uint(row, 1)?);
    let entry = decode().map_err(|error: Error| error.within(format!("entry {id}")))?;
    Ok((StreamKey(key), entry))
}

/// A stream's state from the columns key, name, `name_version`, version, `trimmed_through`.
pub fn decode_stream(row: &SqliteRow) -> Result<StreamState> {
    Ok(StreamState {
        stream: StreamRef {
            key: StreamKey(uint(row, 0)?),
            name: stream_name(row, 1)?,
            name_version: uint(row, 2)?,
        },
        version: uint(row, 3)?,
        trimmed_through: uint(row, 4)?,
    })
}

fn stream_name(row: &SqliteRow, index: usize) -> Result<StreamName> {
    StreamName::new(read_column::<&str>(row, index)?)
        .map_err(|error| corrupt("a stream's name breaks the rule").with_source(error))
}

/// A row of the log from the columns [`LOG_COLUMNS`], of which `first` is the first.
pub fn decode_log_row(row: &SqliteRow, first: usize) -> Result<LogRow> {
    let seq: i64 = read_column(row, first)?;
    let decode = || {
        let kind: i64 = read_column(row, first + 5)?;
        Ok(LogRow {
            seq,
            at: from_micros(read_column(row, first + 1)?),
            stream: StreamRef {
                key: StreamKey(uint(row, first + 2)?),
                name: stream_name(row, first + 3)?,
                name_version: uint(row, first + 4)?,
            },
            // A number too large for the field is no kind that is known, as 0 is not.
            kind: i16::try_from(kind).unwrap_or(0),
            ids: decode_ids(read_column(row, first + 7)?)?,
            version: read_column(row, first + 6)?,
            body: Bytes::from(read_column::<Vec<u8>>(row, first + 8)?),
        })
    };
    decode().map_err(|error: Error| error.within(format!("log row {seq}")))
}
