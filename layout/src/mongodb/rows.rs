//! The stored form of entries, streams and log rows.

use bytes::Bytes;
use ledger_core::{
    Entry, EntryId, Error, ErrorKind, Pairs, Result, StreamKey, StreamName, StreamRef, StreamState,
    Timestamp,
};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, Document, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr,
    doc,
};

use super::payload::{payload_of, put_payload};
use crate::log::{LogRow, decode_ids, encode_ids};

/// The most bytes of a document.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// The tag of cursors of a MongoDB store's log.
pub const LOG_TAG: u8 = b'm';

/// An entry on its way into its collection. What is empty or 0 is left out of the document.
#[derive(Debug)]
pub struct EntryRow<'a> {
    /// Its id.
    pub id: i64,
    /// The key of its stream.
    pub stream: StreamKey,
    /// When it was appended.
    pub created_at: Timestamp,
    /// The bytes.
    pub payload: &'a [u8],
    /// The order key.
    pub order_key: &'a str,
    /// The dedup key.
    pub dedup_key: &'a str,
    /// The schema version.
    pub schema_version: u32,
    /// The metadata.
    pub metadata: &'a Pairs,
    /// The tags.
    pub tags: &'a [String],
    /// The annotations; none of a new entry.
    pub annotations: Option<&'a Pairs>,
    /// The label version of tags and annotations.
    pub label_version: u64,
    /// When labels changed last.
    pub updated_at: Option<Timestamp>,
}

impl<'a> EntryRow<'a> {
    /// An entry of a replica.
    pub fn of(stream: StreamKey, entry: &'a Entry) -> Self {
        Self {
            id: int_in(entry.id.0),
            stream,
            created_at: entry.created_at,
            payload: &entry.payload,
            order_key: &entry.order_key,
            dedup_key: &entry.dedup_key,
            schema_version: entry.schema_version,
            metadata: &entry.metadata,
            tags: &entry.tags,
            annotations: Some(&entry.annotations),
            label_version: entry.label_version,
            updated_at: entry.updated_at,
        }
    }

    /// The document.
    pub fn document(&self) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), self.id);
        document.append(cstr!("stream"), int_in(self.stream.0));
        document.append(cstr!("created_at"), self.created_at.as_micros());
        document.append(cstr!("schema_version"), i64::from(self.schema_version));
        for (key, text) in [
            (cstr!("order_key"), self.order_key),
            (cstr!("dedup_key"), self.dedup_key),
        ] {
            if !text.is_empty() {
                document.append(key, text);
            }
        }
        if !self.metadata.is_empty() {
            document.append(cstr!("metadata"), raw_pairs(self.metadata));
        }
        if !self.tags.is_empty() {
            let mut tags = RawArrayBuf::new();
            for tag in self.tags {
                tags.push(tag.as_str());
            }
            document.append(cstr!("tags"), tags);
        }
        if let Some(annotations) = self.annotations.filter(|pairs| !pairs.is_empty()) {
            document.append(cstr!("annotations"), raw_pairs(annotations));
        }
        if self.label_version > 0 {
            let version = int_in(self.label_version);
            document.append(cstr!("tags_version"), version);
            document.append(cstr!("annotations_version"), version);
        }
        if let Some(at) = self.updated_at {
            document.append(cstr!("updated_at"), at.as_micros());
        }
        put_payload(&mut document, self.payload);
        document
    }
}

fn raw_pairs(pairs: &Pairs) -> RawArrayBuf {
    let mut array = RawArrayBuf::new();
    for (key, value) in pairs {
        let mut pair = RawDocumentBuf::new();
        pair.append(cstr!("k"), key.as_str());
        pair.append(cstr!("v"), value.as_str());
        array.push(pair);
    }
    array
}

/// Pairs as they are stored: keys may hold dots and dollars, which field names are better without.
pub fn pairs_array(pairs: &Pairs) -> Vec<Bson> {
    let pair = |(key, value): (&String, &String)| Bson::Document(doc! {"k": key, "v": value});
    pairs.iter().map(pair).collect()
}

/// The statements of an update that sets a label and its version.
pub fn label_fields(column: &str, value: Vec<Bson>, version: i64, at: i64) -> Document {
    let mut fields = Document::new();
    fields.insert(column, value);
    fields.insert(format!("{column}_version"), version);
    fields.insert("updated_at", at);
    fields
}

/// A number on its way into the database; one that it cannot hold becomes the largest it can, which
/// no stored number reaches.
pub fn int_in(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read document", what)
}

fn field<'a>(document: &'a RawDocument, name: &str) -> Result<Option<RawBsonRef<'a>>> {
    let value = document.get(name);
    let value = value.map_err(|error| corrupt("it is no BSON").with_source(error))?;
    Ok(value.filter(|value| !matches!(value, RawBsonRef::Null)))
}

/// A whole number, where the field is there.
pub fn optional_integer(document: &RawDocument, name: &str) -> Result<Option<i64>> {
    match field(document, name)? {
        None => Ok(None),
        Some(RawBsonRef::Int32(number)) => Ok(Some(i64::from(number))),
        Some(RawBsonRef::Int64(number)) => Ok(Some(number)),
        Some(_) => Err(corrupt(format!("{name} is no whole number"))),
    }
}

/// A whole number; 0 where the field is missing.
pub fn integer(document: &RawDocument, name: &str) -> Result<i64> {
    Ok(optional_integer(document, name)?.unwrap_or(0))
}

/// A number that is never negative; 0 where the field is missing.
pub fn uint(document: &RawDocument, name: &str) -> Result<u64> {
    u64::try_from(integer(document, name)?).map_err(|_| corrupt(format!("{name} is negative")))
}

/// A text, where the field is there.
pub(super) fn optional_text<'a>(document: &'a RawDocument, name: &str) -> Result<Option<&'a str>> {
    match field(document, name)? {
        None => Ok(None),
        Some(RawBsonRef::String(text)) => Ok(Some(text)),
        Some(_) => Err(corrupt(format!("{name} is no text"))),
    }
}

/// A text; empty where the field is missing.
pub fn text<'a>(document: &'a RawDocument, name: &str) -> Result<&'a str> {
    Ok(optional_text(document, name)?.unwrap_or_default())
}

/// A date that the server has written.
pub fn now_of(document: &RawDocument, name: &str) -> Result<Timestamp> {
    match field(document, name)? {
        Some(RawBsonRef::DateTime(at)) => Ok(Timestamp::from_micros(
            at.timestamp_millis().saturating_mul(1_000),
        )),
        _ => Err(corrupt(format!("{name} is no date"))),
    }
}

/// Bytes, where the field is there.
pub(super) fn optional_binary<'a>(
    document: &'a RawDocument,
    name: &str,
) -> Result<Option<&'a [u8]>> {
    match field(document, name)? {
        None => Ok(None),
        Some(RawBsonRef::Binary(binary)) => Ok(Some(binary.bytes)),
        Some(_) => Err(corrupt(format!("{name} is no binary value"))),
    }
}

/// Bytes.
pub(super) fn binary<'a>(document: &'a RawDocument, name: &str) -> Result<&'a [u8]> {
    optional_binary(document, name)?.ok_or_else(|| corrupt(format!("{name} is missing")))
}

fn pairs(document: &RawDocument, name: &str) -> Result<Pairs> {
    let malformed = || corrupt(format!("{name} are no pairs"));
    let Some(value) = field(document, name)? else {
        return Ok(Pairs::new());
    };
    let array = value.as_array().ok_or_else(malformed)?;
    let mut pairs = Pairs::new();
    for pair in array {
        let pair = pair.map_err(|error| malformed().with_source(error))?;
        let pair = pair.as_document().ok_or_else(malformed)?;
        pairs.insert(text(pair, "k")?.to_owned(), text(pair, "v")?.to_owned());
    }
    Ok(pairs)
}

fn texts(document: &RawDocument, name: &str) -> Result<Vec<String>> {
    let malformed = || corrupt(format!("{name} are no texts"));
    let Some(value) = field(document, name)? else {
        return Ok(Vec::new());
    };
    let array = value.as_array().ok_or_else(malformed)?;
    let mut texts = Vec::new();
    for item in array {
        let item = item.map_err(|error| malformed().with_source(error))?;
        texts.push(item.as_str().ok_or_else(malformed)?.to_owned());
    }
    Ok(texts)
}

/// The key of the stream that an entry belongs to.
pub fn key_of(document: &RawDocument) -> Result<StreamKey> {
    uint(document, "stream").map(StreamKey)
}

/// An entry from its document.
pub fn decode_entry(document: &RawDocument, stream: StreamName) -> Result<Entry> {
    let id = uint(document, "_id")?;
    let decode = || {
        let label_version =
            uint(document, "tags_version")?.max(uint(document, "annotations_version")?);
        let schema_version = u32::try_from(uint(document, "schema_version")?);
        let updated_at = optional_integer(document, "updated_at")?;
        Ok(Entry {
            id: EntryId(id),
            stream,
            payload: payload_of(document)?,
            order_key: text(document, "order_key")?.to_owned(),
            dedup_key: text(document, "dedup_key")?.to_owned(),
            schema_version: schema_version.map_err(|_| corrupt("its schema version"))?,
            metadata: pairs(document, "metadata")?,
            tags: texts(document, "tags")?,
            annotations: pairs(document, "annotations")?,
            label_version,
            created_at: Timestamp::from_micros(integer(document, "created_at")?),
            updated_at: updated_at.map(Timestamp::from_micros),
        })
    };
    decode().map_err(|error: Error| error.within(format!("entry {id}")))
}

fn stream_name(document: &RawDocument) -> Result<StreamName> {
    StreamName::new(text(document, "name")?)
        .map_err(|error| corrupt("a stream's name breaks the rule").with_source(error))
}

/// A stream's state from its document.
pub fn decode_stream(document: &RawDocument) -> Result<StreamState> {
    Ok(StreamState {
        stream: StreamRef {
            key: StreamKey(uint(document, "_id")?),
            name: stream_name(document)?,
            name_version: uint(document, "name_version")?,
        },
        version: uint(document, "version")?,
        trimmed_through: uint(document, "trimmed_through")?,
    })
}

/// The document of a log row, which stands for so many changes.
pub fn log_document(row: &LogRow, changes: i64) -> Result<RawDocumentBuf> {
    let bytes = |bytes: Vec<u8>| {
        RawBson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes,
        })
    };
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), row.seq);
    document.append(cstr!("at"), row.at.as_micros());
    document.append(cstr!("stream"), int_in(row.stream.key.0));
    document.append(cstr!("name"), row.stream.name.as_str());
    document.append(cstr!("name_version"), int_in(row.stream.name_version));
    document.append(cstr!("kind"), i64::from(row.kind));
    document.append(cstr!("changes"), changes);
    document.append(cstr!("version"), row.version);
    document.append(cstr!("ids"), bytes(encode_ids(&row.ids)?));
    document.append(cstr!("body"), bytes(row.body.to_vec()));
    Ok(document)
}

/// A row of the log from its document.
pub fn decode_log_row(document: &RawDocument) -> Result<LogRow> {
    let seq = integer(document, "_id")?;
    let decode = || {
        Ok(LogRow {
            seq,
            at: Timestamp::from_micros(integer(document, "at")?),
            stream: StreamRef {
                key: key_of(document)?,
                name: stream_name(document)?,
                name_version: uint(document, "name_version")?,
            },
            // A number too large for the field is no kind that is known, as 0 is not.
            kind: i16::try_from(integer(document, "kind")?).unwrap_or(0),
            ids: decode_ids(binary(document, "ids")?)?,
            version: integer(document, "version")?,
            body: Bytes::copy_from_slice(binary(document, "body")?),
        })
    };
    decode().map_err(|error: Error| error.within(format!("log row {seq}")))
}
