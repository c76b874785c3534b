//! The proto3 JSON mapping.

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, SerializeOptions, Value,
};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use tonic::Status;

use crate::status::invalid;

/// Reads a message: names in camel and in snake case, unknown ones ignored.
pub(super) fn from_slice(
    descriptor: &MessageDescriptor,
    json: &[u8],
) -> Result<DynamicMessage, Status> {
    let malformed = |error: serde_json::Error| invalid("body", format_args!("is refused: {error}"));
    let mut input = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message =
        DynamicMessage::deserialize_with_options(descriptor.clone(), &mut input, &options);
    let message = message.map_err(malformed)?;
    input.end().map_err(malformed)?;
    Ok(message)
}

/// Writes a message: names in camel case, every field that has no presence whatever it holds, and
/// null for a message that is absent.
pub(super) fn to_vec(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(&Message(message))
        .map_err(|error| Status::internal(format!("write the response as JSON: {error}")))
}

struct Message<'a>(&'a DynamicMessage);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = self.0.descriptor();
        if descriptor.full_name().starts_with("google.protobuf.") {
            let options = SerializeOptions::new();
            return self.0.serialize_with_options(serializer, &options);
        }
        let mut map = serializer.serialize_map(None)?;
        for field in descriptor.fields() {
            let chosen = field.containing_oneof().is_some();
            let absent = field.supports_presence() && !self.0.has_field(&field);
            if absent && chosen {
                continue;
            }
            if absent {
                map.serialize_entry(field.json_name(), &())?;
                continue;
            }
            let value = self.0.get_field(&field);
            map.serialize_entry(field.json_name(), &Field(&value, &field))?;
        }
        map.end()
    }
}

struct Field<'a>(&'a Value, &'a FieldDescriptor);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value, field) = self;
        match value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            // Not every reader of JSON has whole numbers of this size.
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::F64(value) if value.is_nan() => serializer.serialize_str("NaN"),
            Value::F64(value) => serializer.serialize_str(if *value > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            }),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => {
                serializer.collect_str(&Base64Display::new(value, &BASE64_STANDARD))
            }
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(kind) => match kind.get_value(*number) {
                    Some(value) => serializer.serialize_str(value.name()),
                    None => serializer.serialize_i32(*number),
                },
                _ => serializer.serialize_i32(*number),
            },
            Value::Message(message) => Message(message).serialize(serializer),
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&Field(value, field))?;
                }
                list.end()
            }
            Value::Map(values) => {
                let entry = match field.kind() {
                    Kind::Message(entry) => Some(entry.map_entry_value_field()),
                    _ => None,
                };
                // Sorted, so that equal messages are equal texts.
                let mut values: Vec<_> = values.iter().map(|(k, v)| (text(k), v)).collect();
                values.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                let mut map = serializer.serialize_map(Some(values.len()))?;
                for (key, value) in values {
                    map.serialize_entry(&key, &Field(value, entry.as_ref().unwrap_or(field)))?;
                }
                map.end()
            }
        }
    }
}

fn text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
