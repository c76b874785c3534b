//! Entries, as the commands print them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_server::v1::Entry;
use serde::Serialize;

/// The form in which entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `id<TAB>payload`, a JSON string unquoted.
    Lines,
    /// A JSON object a line.
    Objects,
}

/// An entry as an object.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stream: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    payload: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    order_key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dedup_key: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    schema_version: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<At>,
}

#[derive(Debug, Serialize)]
struct At {
    seconds: i64,
    nanos: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl<'a> Shown<'a> {
    /// The entry as an object.
    pub(crate) fn of(entry: &'a Entry) -> Self {
        let at = |time: &Option<prost_types::Timestamp>| {
            time.as_ref().map(|time| At {
                seconds: time.seconds,
                nanos: time.nanos,
            })
        };
        Self {
            id: &entry.id,
            stream: &entry.stream,
            payload: STANDARD.encode(&entry.payload),
            order_key: &entry.order_key,
            dedup_key: &entry.dedup_key,
            schema_version: entry.schema_version,
            metadata: &entry.metadata,
            tags: &entry.tags,
            annotations: &entry.annotations,
            created_at: at(&entry.created_at),
            updated_at: at(&entry.updated_at),
        }
    }
}

impl Form {
    /// The lines of some entries, ready to be printed.
    pub(crate) fn lines(self, entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for entry in entries {
            match self {
                Self::Lines => {
                    lines.extend_from_slice(entry.id.as_bytes());
                    lines.push(b'\t');
                    lines.extend_from_slice(&payload_text(&entry.payload));
                }
                Self::Objects => serde_json::to_writer(&mut lines, &Shown::of(entry))?,
            }
            lines.push(b'\n');
        }
        Ok(lines)
    }
}

/// A payload for people: a JSON string without its quotes, anything else as it is.
fn payload_text(payload: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<String>(payload) {
        Ok(text) => text.into_bytes(),
        Err(_) => payload.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            id: "7".to_owned(),
            stream: "s".to_owned(),
            payload: bytes::Bytes::from_static(b"\"a\\tb\""),
            schema_version: 1,
            created_at: Some(prost_types::Timestamp {
                seconds: 5,
                nanos: 6,
            }),
            ..Entry::default()
        }
    }

    #[test]
    fn a_line_holds_id_and_payload_with_a_json_string_unquoted() {
        let other = Entry {
            payload: bytes::Bytes::from_static(b"{\"a\": 1}"),
            ..entry()
        };
        let binary = Entry {
            payload: bytes::Bytes::from_static(b"\xff\""),
            ..entry()
        };
        let lines = Form::Lines.lines(&[entry(), other, binary]).unwrap();
        assert_eq!(lines, b"7\ta\tb\n7\t{\"a\": 1}\n7\t\xff\"\n");
    }

    #[test]
    fn an_object_leaves_out_what_is_empty() {
        let lines = Form::Objects.lines(&[entry()]).unwrap();
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "{\"id\":\"7\",\"stream\":\"s\",\"payload\":\"ImFcdGIi\",\"schema_version\":1,\
             \"created_at\":{\"seconds\":5,\"nanos\":6}}\n"
        );
    }
}
