//! Rows as values of the core.

use bytes::Bytes;
use ledger_core::{
    Entry, EntryId, Error, ErrorKind, Pairs, Result, StreamKey, StreamName, StreamRef, StreamState,
    Timestamp,
};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::types::Json;
use sqlx::{Decode, Encode, Postgres, Row as _, Type};

use crate::log::LogRow;

/// 2000-01-01T00:00:00Z, where PostgreSQL's binary timestamps begin, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// A `timestamptz`. PostgreSQL sends it as microseconds since 2000 (documentation, "Date/Time
/// Types": eight bytes, one microsecond of resolution).
#[derive(Debug, Clone, Copy)]
pub struct Micros(pub Timestamp);

/// Wraps a time for binding.
pub fn micros(at: Timestamp) -> Micros {
    Micros(at)
}

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl sqlx::postgres::PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0.as_micros() - EPOCH, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Micros {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a timestamp came in text form".into());
        }
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        micros
            .checked_add(EPOCH)
            .map(|micros| Self(Timestamp::from_micros(micros)))
            .ok_or_else(|| "a timestamp is out of range".into())
    }
}

/// What [`entry_from_row`] reads, in a query where `e` is the entries table and `s` the streams
/// table.
pub const ENTRY_COLUMNS: &str = "e.id, e.stream_key, s.name, e.payload::text, e.payload_bytes, \
     e.order_key, e.dedup_key, e.schema_version, nullif(e.metadata, '{}'), e.tags, \
     nullif(e.annotations, '{}'), greatest(e.tags_version, e.annotations_version), e.created_at, \
     e.updated_at";

/// Reads [`ENTRY_COLUMNS`], which stand first in the row.
pub fn entry_from_row(row: &PgRow) -> Result<(StreamKey, Entry)> {
    decode_entry(row).map_err(corrupt)
}

// The types of `ENTRY_COLUMNS` are known. Comparing them at each value shows in a large copy.
fn decode_entry(row: &PgRow) -> Result<(StreamKey, Entry), BoxDynError> {
    let payload = match row.try_get_unchecked::<Option<&str>, _>(3)? {
        Some(json) => Bytes::copy_from_slice(json.as_bytes()),
        None => Bytes::copy_from_slice(row.try_get_unchecked::<&[u8], _>(4)?),
    };
    let pairs = |index| -> Result<Pairs, BoxDynError> {
        Ok(row
            .try_get_unchecked::<Option<Json<Pairs>>, _>(index)?
            .map(|pairs| pairs.0)
            .unwrap_or_default())
    };
    let number = |index| -> Result<u64, BoxDynError> {
        Ok(u64::try_from(row.try_get_unchecked::<i64, _>(index)?)?)
    };
    let entry = Entry {
        id: EntryId(number(0)?),
        stream: StreamName::new(row.try_get_unchecked::<&str, _>(2)?)?,
        payload,
        order_key: row.try_get_unchecked(5)?,
        dedup_key: row.try_get_unchecked(6)?,
        schema_version: u32::try_from(row.try_get_unchecked::<i32, _>(7)?)?,
        metadata: pairs(8)?,
        tags: row.try_get_unchecked(9)?,
        annotations: pairs(10)?,
        label_version: number(11)?,
        created_at: row.try_get_unchecked::<Micros, _>(12)?.0,
        updated_at: row
            .try_get_unchecked::<Option<Micros>, _>(13)?
            .map(|at| at.0),
    };
    Ok((StreamKey(number(1)?), entry))
}

/// Reads `seq, at, stream_key, stream_name, name_version, kind, ids, version, body`, which stand
/// first in the row; none where `seq` is NULL.
pub fn log_row_from_row(row: &PgRow) -> Result<Option<LogRow>> {
    decode_log_row(row).map_err(corrupt)
}

fn decode_log_row(row: &PgRow) -> Result<Option<LogRow>, BoxDynError> {
    let Some(seq) = row.try_get::<Option<i64>, _>(0)? else {
        return Ok(None);
    };
    Ok(Some(LogRow {
        seq,
        at: row.try_get::<Micros, _>(1)?.0,
        stream: StreamRef {
            key: StreamKey(u64::try_from(row.try_get::<i64, _>(2)?)?),
            name: StreamName::new(row.try_get::<&str, _>(3)?)?,
            name_version: u64::try_from(row.try_get::<i64, _>(4)?)?,
        },
        kind: row.try_get(5)?,
        ids: row.try_get(6)?,
        version: row.try_get(7)?,
        body: Bytes::copy_from_slice(row.try_get::<&[u8], _>(8)?),
    }))
}

/// Reads `key, name, name_version, version, trimmed_through`, which stand first in the row.
pub fn stream_state_from_row(row: &PgRow) -> Result<StreamState> {
    let decode = || -> Result<StreamState, BoxDynError> {
        let number = |index| -> Result<u64, BoxDynError> {
            Ok(u64::try_from(row.try_get::<i64, _>(index)?)?)
        };
        Ok(StreamState {
            stream: StreamRef {
                key: StreamKey(number(0)?),
                name: StreamName::new(row.try_get::<&str, _>(1)?)?,
                name_version: number(2)?,
            },
            version: number(3)?,
            trimmed_through: number(4)?,
        })
    };
    decode().map_err(corrupt)
}

fn corrupt(source: BoxDynError) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "read a row",
        "a column does not hold what it should",
    )
    .with_source(source)
}

/// An array of texts in PostgreSQL's text form (documentation, "Array Input and Output Syntax"):
/// arrays of arrays must be rectangular, so a column of arrays travels as texts.
pub fn array_literal(texts: &[String]) -> String {
    let mut literal = String::from("{");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            literal.push(',');
        }
        literal.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(c);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

/// String pairs as JSON text.
pub fn json_object(pairs: &Pairs) -> Result<String> {
    if pairs.is_empty() {
        return Ok("{}".to_owned());
    }
    serde_json::to_string(pairs).map_err(|error| {
        Error::new(ErrorKind::Internal, "encode pairs", "metadata").with_source(error)
    })
}
