//! A row of a Go store as an entry, or why it cannot be one.

use std::collections::BTreeMap;

use ledger::{
    Change, Cursor, Entry, EntryId, Mutation, NewEntry, Pairs, StreamKey, StreamName, StreamRef,
    Timestamp, check_text,
};

use super::source::{GoRow, GoStream};

/// The rule that a row breaks, in words.
type Rule = String;

impl GoStream {
    /// The stream as it is named here, which is as the Go daemon showed it.
    pub(super) fn reference(&self) -> Result<StreamRef, Rule> {
        let name = match &self.name {
            Some(name) => text("stream name", Some(name))?,
            // The Go daemon showed another stream under this name, and this one not at all.
            None if self.shadowed => {
                format!("{} (go:{})", text("stream", Some(&self.id))?, self.key)
            }
            None => text("stream", Some(&self.id))?,
        };
        named(name, self.key)
    }

    /// The stream for a message.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(self.name.as_ref().unwrap_or(&self.id)).into_owned()
    }
}

/// A stream with this name and key.
pub(super) fn named(name: impl AsRef<str>, key: i64) -> Result<StreamRef, Rule> {
    Ok(StreamRef {
        key: StreamKey(positive("id", key)?),
        name: StreamName::new(name).map_err(|error| error.context().to_owned())?,
        name_version: 1,
    })
}

/// The row as a change that brings the entry with its present labels.
pub(super) fn change(
    row: GoRow,
    cursor: Cursor,
    source_id_key: Option<&str>,
) -> Result<Change, Rule> {
    let stream = row.stream.reference()?;
    let mut metadata = pairs("metadata", row.metadata)?;
    if let Some(key) = source_id_key {
        let source_id = text("source_id", row.source_id.as_ref())?;
        if !source_id.is_empty() && metadata.insert(key.to_owned(), source_id).is_some() {
            return Err(format!("its metadata has a key {key:?} already"));
        }
    }
    let new = NewEntry {
        payload: row.payload.ok_or("payload is NULL")?.into(),
        order_key: text("order_key", row.order_key.as_ref())?,
        dedup_key: text("dedup_key", row.dedup_key.as_ref())?,
        schema_version: u32::try_from(row.schema_version)
            .map_err(|_| format!("schema_version {} is out of range", row.schema_version))?,
        metadata,
        tags: tags(row.tags)?,
    };
    let new = new
        .checked(0)
        .map_err(|error| error.context().replace("entries[0].", ""))?;
    let annotations = pairs("annotations", row.annotations)?;
    for text in annotations.iter().flat_map(|(key, value)| [key, value]) {
        check_text("annotations", text).map_err(|error| error.context().to_owned())?;
    }
    let created_at = time("created_at", row.created_at.as_ref())?.ok_or("created_at is NULL")?;
    let updated_at = time("updated_at", row.updated_at.as_ref())?;
    let changed = updated_at.is_some() || !annotations.is_empty();
    let entry = Entry {
        id: EntryId(positive("id", row.id)?),
        stream: stream.name.clone(),
        payload: new.payload,
        order_key: new.order_key,
        dedup_key: new.dedup_key,
        schema_version: new.schema_version,
        metadata: new.metadata,
        tags: new.tags,
        annotations,
        // How often the labels changed is not known, only whether.
        label_version: u64::from(changed),
        created_at,
        updated_at,
    };
    Ok(Change {
        cursor,
        committed_at: created_at,
        stream,
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: 0,
        },
    })
}

fn positive(field: &str, number: i64) -> Result<u64, Rule> {
    match u64::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{field} {number} is below 1")),
    }
}

fn text(field: &str, bytes: Option<&Vec<u8>>) -> Result<String, Rule> {
    let bytes = bytes.cloned().unwrap_or_default();
    String::from_utf8(bytes).map_err(|_| format!("{field} is not UTF-8"))
}

fn pairs(field: &str, json: Option<Vec<u8>>) -> Result<Pairs, Rule> {
    let Some(json) = json else {
        return Ok(Pairs::new());
    };
    let read: Option<BTreeMap<String, String>> = serde_json::from_slice(&json)
        .map_err(|_| format!("{field} is not a JSON object of strings"))?;
    Ok(read.unwrap_or_default())
}

fn tags(json: Option<Vec<u8>>) -> Result<Vec<String>, Rule> {
    let Some(json) = json else {
        return Ok(Vec::new());
    };
    let read: Option<Vec<String>> =
        serde_json::from_slice(&json).map_err(|_| "tags is not a JSON list of strings")?;
    Ok(read.unwrap_or_default())
}

/// Times are written without a zone, in UTC; those that SQLite writes by itself with a space.
fn time(field: &str, bytes: Option<&Vec<u8>>) -> Result<Option<Timestamp>, Rule> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let written = text(field, Some(bytes))?;
    let mut rfc3339 = written.trim().replacen(' ', "T", 1);
    if !rfc3339.ends_with('Z') && !rfc3339.contains('+') {
        rfc3339.push('Z');
    }
    let read = rfc3339.parse();
    read.map(Some)
        .map_err(|_| format!("{field} {written:?} is not a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_every_version_wrote_them() {
        let micros = |text: &str| {
            let time = time("created_at", Some(&text.as_bytes().to_vec()));
            time.map(|time| time.unwrap().as_micros())
        };
        let second = 1_700_000_000_000_000;
        for (text, expected) in [
            ("2023-11-14T22:13:20.123", second + 123_000),
            ("2023-11-14T22:13:20.123456", second + 123_456),
            ("2023-11-14 22:13:20", second),
            ("2023-11-14T22:13:20Z", second),
            ("2023-11-14T23:13:20+01:00", second),
        ] {
            assert_eq!(micros(text), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "2023-13-01T00:00:00"] {
            assert!(micros(text).unwrap_err().contains("created_at"), "{text}");
        }
    }

    #[test]
    fn json_of_another_shape_names_its_field() {
        let list = Some(b"[1]".to_vec());
        assert!(
            pairs("metadata", list.clone())
                .unwrap_err()
                .contains("metadata")
        );
        assert!(tags(list).unwrap_err().contains("tags"));
        assert_eq!(pairs("metadata", Some(b"null".to_vec())), Ok(Pairs::new()));
        assert_eq!(tags(Some(b"null".to_vec())), Ok(vec![]));
    }
}
