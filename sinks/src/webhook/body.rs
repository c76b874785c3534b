//! What is sent: bodies and their content types.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_core::hook::Delivery;
use ledger_core::{
    Change, Entry, Error, ErrorKind, Mutation, MutationKind, Pairs, Result, StoreName, is_json,
};
use serde::Serialize;

/// The form of bodies. Prints and parses as its name in a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `compat`: `{"stream","entries"}`, with `X-Ledger-Signature`. Appends only.
    #[default]
    Compat,
    /// `standard`: Standard Webhooks 1.0.
    Standard,
    /// `cloudevents`: `CloudEvents` 1.0 in JSON, one event a request where batches hold one item,
    /// and else batched; signed as `standard` is where there are secrets.
    CloudEvents {
        /// Whether requests hold lists of events.
        batched: bool,
    },
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "compat" => Ok(Self::Compat),
            "standard" => Ok(Self::Standard),
            "cloudevents" => Ok(Self::CloudEvents { batched: false }),
            other => Err(Error::invalid(
                "read format",
                format!("{other:?} is none of compat, standard, cloudevents"),
            )),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compat => "compat",
            Self::Standard => "standard",
            Self::CloudEvents { .. } => "cloudevents",
        })
    }
}

impl Format {
    /// The value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Compat | Self::Standard => "application/json",
            Self::CloudEvents { batched: false } => "application/cloudevents+json; charset=utf-8",
            Self::CloudEvents { batched: true } => {
                "application/cloudevents-batch+json; charset=utf-8"
            }
        }
    }

    /// The body of a delivery. `id` is the name of an entry's id in it.
    pub(super) fn body(self, delivery: &Delivery, id: &str) -> Result<Vec<u8>> {
        let changes = &delivery.changes;
        let stream = delivery.stream().map(|stream| stream.name.as_str());
        let stream = stream.unwrap_or_default();
        let mut json = Json::default();
        match self {
            Self::Compat => {
                json.object(|json| {
                    json.field("stream", stream)?;
                    json.entries(changes, id)
                })?;
            }
            Self::Standard => {
                json.object(|json| {
                    json.field("type", kind(delivery.kind()))?;
                    json.field("timestamp", &at(changes.last()))?;
                    json.key("data");
                    json.object(|json| {
                        json.field("store", delivery.store.as_str())?;
                        json.field("stream", stream)?;
                        match changes.first().map(|change| &change.mutation) {
                            Some(Mutation::Append { .. }) | None => json.entries(changes, id),
                            Some(other) => json.mutation(other, id),
                        }
                    })
                })?;
            }
            Self::CloudEvents { batched: false } => {
                let (Some(change), None) = (changes.first(), changes.get(1)) else {
                    let what = "a structured CloudEvent holds one item";
                    return Err(Error::new(ErrorKind::Internal, "write body", what));
                };
                json.event(&delivery.store, change, id)?;
            }
            Self::CloudEvents { batched: true } => {
                json.list(changes, |json, change| {
                    json.event(&delivery.store, change, id)
                })?;
            }
        }
        Ok(json.0)
    }
}

/// The type of an event.
fn kind(kind: MutationKind) -> &'static str {
    match kind {
        MutationKind::Append => "ledger.entries.appended",
        MutationKind::SetTags => "ledger.tags.changed",
        MutationKind::SetAnnotations => "ledger.annotations.changed",
        MutationKind::Trim => "ledger.stream.trimmed",
        MutationKind::Rename => "ledger.stream.renamed",
        MutationKind::Stream => "ledger.stream.state",
    }
}

/// When a change was made. The time of an append is its entry's own, so that a body is the same
/// whether the log or a copy told of it.
fn at(change: Option<&Change>) -> String {
    let at = change.map(|change| match &change.mutation {
        Mutation::Append { entry, .. } => entry.created_at,
        _ => change.committed_at,
    });
    at.unwrap_or_default().to_string()
}

/// JSON as it is written. Payloads stand in it byte for byte, which no serializer would promise.
#[derive(Default)]
struct Json(Vec<u8>);

impl Json {
    fn comma(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(b',');
        }
    }

    fn key(&mut self, key: &str) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        serde_json::to_writer(&mut self.0, value).map_err(|error| {
            Error::new(ErrorKind::Internal, "write body", "JSON").with_source(error)
        })
    }

    fn field(&mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.key(key);
        self.value(value)
    }

    fn object(&mut self, fields: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.comma();
        self.0.push(b'{');
        fields(self)?;
        self.0.push(b'}');
        Ok(())
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut item: impl FnMut(&mut Self, &T) -> Result<()>,
    ) -> Result<()> {
        self.0.push(b'[');
        for one in items {
            item(self, one)?;
        }
        self.0.push(b']');
        Ok(())
    }

    fn pairs(&mut self, key: &str, pairs: &Pairs) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        self.field(key, pairs)
    }

    fn text(&mut self, key: &str, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.field(key, text)
    }

    fn entries(&mut self, changes: &[Change], id: &str) -> Result<()> {
        self.key("entries");
        self.list(changes, |json, change| match &change.mutation {
            Mutation::Append { entry, .. } => json.entry(entry, id),
            other => {
                let what = format!("a list of entries with a {}", other.kind());
                Err(Error::new(ErrorKind::Internal, "write body", what))
            }
        })
    }

    fn entry(&mut self, entry: &Entry, id: &str) -> Result<()> {
        self.object(|json| {
            json.field(id, &entry.id.to_string())?;
            if is_json(&entry.payload) {
                json.key("payload");
                json.0.extend_from_slice(&entry.payload);
            } else {
                json.field("payload_base64", &STANDARD.encode(&entry.payload))?;
            }
            json.text("order_key", &entry.order_key)?;
            json.text("dedup_key", &entry.dedup_key)?;
            json.field("schema_version", &entry.schema_version)?;
            json.pairs("metadata", &entry.metadata)?;
            if !entry.tags.is_empty() {
                json.field("tags", &entry.tags)?;
            }
            json.pairs("annotations", &entry.annotations)?;
            json.field("created_at", &entry.created_at.to_string())?;
            match entry.updated_at {
                Some(at) => json.field("updated_at", &at.to_string()),
                None => Ok(()),
            }
        })
    }

    /// The fields of a change that is no append.
    fn mutation(&mut self, mutation: &Mutation, id_name: &str) -> Result<()> {
        match mutation {
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                self.field(id_name, &id.to_string())?;
                self.field("label_version", label_version)?;
                self.field("tags", tags)
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                self.field(id_name, &id.to_string())?;
                self.field("label_version", label_version)?;
                self.field("annotations", annotations)
            }
            Mutation::Trim { through } => self.field("through", &through.to_string()),
            Mutation::Rename | Mutation::Stream(_) | Mutation::Append { .. } => Ok(()),
        }
    }

    /// A `CloudEvent`. Its id is the change's own, whatever requests it comes in.
    fn event(&mut self, store: &StoreName, change: &Change, id: &str) -> Result<()> {
        let key = change.stream.key;
        let own = match &change.mutation {
            Mutation::Append { entry, .. } => entry.id.to_string(),
            Mutation::SetTags {
                id, label_version, ..
            } => format!("{id}/tags/{label_version}"),
            Mutation::SetAnnotations {
                id, label_version, ..
            } => format!("{id}/annotations/{label_version}"),
            Mutation::Trim { through } => format!("stream/{key}/trimmed/{through}"),
            Mutation::Rename | Mutation::Stream(_) => {
                format!("stream/{key}/renamed/{}", change.stream.name_version)
            }
        };
        self.object(|json| {
            json.field("specversion", "1.0")?;
            json.field("id", &own)?;
            json.field("source", &format!("/stores/{store}"))?;
            let kind = match change.mutation.kind() {
                MutationKind::Append => "ledger.entry.appended",
                other => self::kind(other),
            };
            json.field("type", kind)?;
            json.field("subject", change.stream.name.as_str())?;
            json.field("time", &at(Some(change)))?;
            json.field("datacontenttype", "application/json")?;
            json.key("data");
            match &change.mutation {
                Mutation::Append { entry, .. } => json.entry(entry, id),
                other => json.object(|json| {
                    json.field("stream", change.stream.name.as_str())?;
                    json.mutation(other, id)
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::testing::{append, change, delivery};
    use ledger_core::EntryId;
    use serde_json::Value;

    fn text(format: Format, changes: Vec<Change>) -> String {
        let body = format.body(&delivery(changes), "id").unwrap();
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn payload_bytes_stand_in_the_body_as_they_are() {
        let payload = "{ \"b\":1.00,\"a\" : \"\\u00e9\",\"a\":1e400 }\n";
        for format in [
            Format::Compat,
            Format::Standard,
            Format::CloudEvents { batched: true },
        ] {
            let body = text(format, vec![append(7, payload)]);
            assert!(body.contains(payload), "{body}");
        }
        let body = text(Format::Compat, vec![append(7, "not json")]);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["entries"][0]["payload_base64"], "bm90IGpzb24=");
        assert_eq!(body["entries"][0].get("payload"), None);
    }

    #[test]
    fn the_bodies_have_the_documented_fields() {
        let compat = text(Format::Compat, vec![append(7, "1"), append(8, "2")]);
        assert_eq!(
            compat,
            r#"{"stream":"user-1","entries":[{"id":"7","payload":1,"schema_version":1,"created_at":"1970-01-01T00:00:07Z"},{"id":"8","payload":2,"schema_version":1,"created_at":"1970-01-01T00:00:08Z"}]}"#
        );
        let standard = text(Format::Standard, vec![append(7, "1")]);
        assert_eq!(
            standard,
            r#"{"type":"ledger.entries.appended","timestamp":"1970-01-01T00:00:07Z","data":{"store":"orders","stream":"user-1","entries":[{"id":"7","payload":1,"schema_version":1,"created_at":"1970-01-01T00:00:07Z"}]}}"#
        );
        let event = text(Format::CloudEvents { batched: false }, vec![append(7, "1")]);
        assert_eq!(
            event,
            r#"{"specversion":"1.0","id":"7","source":"/stores/orders","type":"ledger.entry.appended","subject":"user-1","time":"1970-01-01T00:00:07Z","datacontenttype":"application/json","data":{"id":"7","payload":1,"schema_version":1,"created_at":"1970-01-01T00:00:07Z"}}"#
        );
        let batched = Format::CloudEvents { batched: true };
        let events: Vec<Value> =
            serde_json::from_str(&text(batched, vec![append(7, "1"), append(8, "2")])).unwrap();
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn what_is_no_append_tells_what_has_changed() {
        let tags = Mutation::SetTags {
            id: EntryId(7),
            label_version: 2,
            tags: vec!["a".to_owned()],
        };
        let trim = Mutation::Trim {
            through: EntryId(9),
        };
        for (mutation, kind, field, value) in [
            (
                tags,
                "ledger.tags.changed",
                "tags",
                serde_json::json!(["a"]),
            ),
            (trim, "ledger.stream.trimmed", "through", "9".into()),
            (
                Mutation::Rename,
                "ledger.stream.renamed",
                "stream",
                "user-1".into(),
            ),
        ] {
            let change = change(1, mutation);
            let body: Value =
                serde_json::from_str(&text(Format::Standard, vec![change.clone()])).unwrap();
            assert_eq!(
                (&body["type"], &body["data"][field]),
                (&kind.into(), &value)
            );
            let format = Format::CloudEvents { batched: false };
            let event: Value = serde_json::from_str(&text(format, vec![change])).unwrap();
            assert_eq!(
                (&event["type"], &event["data"][field]),
                (&kind.into(), &value)
            );
        }
    }
}
