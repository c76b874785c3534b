//! Messages from the query and the path.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};
use tonic::Status;
use url::form_urlencoded;

use crate::status::invalid;

/// The message that a query describes: `field=value`, `outer.field=value`, `field[key]=value` for
/// maps, several `field=value` for repeated fields; names in camel or snake case. What names no
/// field is ignored.
pub(super) fn message(
    descriptor: &MessageDescriptor,
    query: &str,
) -> Result<DynamicMessage, Status> {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut seen = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if put(&mut message, &key, &value, &Again::Refused(&seen))? {
            seen.push(key.into_owned());
        }
    }
    Ok(message)
}

/// Sets a field, whatever it holds.
pub(super) fn set(message: &mut DynamicMessage, field: &str, value: &str) -> Result<(), Status> {
    put(message, field, value, &Again::Allowed).map(drop)
}

/// What becomes of a second value for a field that has one.
enum Again<'a> {
    Allowed,
    Refused(&'a [String]),
}

/// Puts a value at a key; whether it was one for a field that has only one.
fn put(
    message: &mut DynamicMessage,
    key: &str,
    value: &str,
    again: &Again<'_>,
) -> Result<bool, Status> {
    let (path, map_key) = match key.strip_suffix(']').and_then(|key| key.split_once('[')) {
        Some((path, map_key)) => (path, Some(map_key)),
        None => (key, None),
    };
    let (outer, leaf) = match path.rsplit_once('.') {
        Some((outer, leaf)) => (Some(outer), leaf),
        None => (None, path),
    };
    let mut message = message;
    for name in outer.into_iter().flat_map(|outer| outer.split('.')) {
        let Some(field) = field(&message.descriptor(), name) else {
            return Ok(false);
        };
        // A field in a map, in a row or in a scalar is none.
        if field.is_list() || field.is_map() {
            return Ok(false);
        }
        let Value::Message(inner) = message.get_field_mut(&field) else {
            return Ok(false);
        };
        message = inner;
    }
    let Some(field) = field(&message.descriptor(), leaf) else {
        return Ok(false);
    };
    if field.is_map() {
        let (Some(map_key), Kind::Message(entry)) = (map_key, field.kind()) else {
            return Err(invalid(
                key,
                format_args!("must be given as {path}[key]=value"),
            ));
        };
        let value = scalar(key, &entry.map_entry_value_field(), value)?;
        if let Value::Map(map) = message.get_field_mut(&field) {
            map.insert(MapKey::String(map_key.to_owned()), value);
        }
        return Ok(false);
    }
    if map_key.is_some() {
        return Ok(false);
    }
    let value = scalar(key, &field, value)?;
    if field.is_list() {
        if let Value::List(list) = message.get_field_mut(&field) {
            list.push(value);
        }
        return Ok(false);
    }
    if let Again::Refused(seen) = again
        && seen.iter().any(|seen| seen == key)
    {
        return Err(invalid(key, "was given more than once"));
    }
    message.set_field(&field, value);
    Ok(true)
}

fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor
        .get_field_by_name(name)
        .or_else(|| descriptor.get_field_by_json_name(name))
}

fn scalar(key: &str, field: &FieldDescriptor, text: &str) -> Result<Value, Status> {
    let wrong = |what: &str| invalid(key, format_args!("must be {what}, not {text:?}"));
    Ok(match field.kind() {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
            _ => return Err(wrong("true or false")),
        },
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(text.parse().map_err(|_| wrong("a whole number"))?)
        }
        Kind::Uint64 | Kind::Fixed64 => {
            Value::U64(text.parse().map_err(|_| wrong("a whole number from 0"))?)
        }
        Kind::Message(inner) if inner.full_name() == "google.protobuf.Empty" => {
            Value::Message(DynamicMessage::new(inner))
        }
        Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {
            let at: prost_types::Timestamp = text.parse().map_err(|_| wrong("an RFC 3339 time"))?;
            let mut message = DynamicMessage::new(inner);
            message
                .transcode_from(&at)
                .map_err(|_| wrong("an RFC 3339 time"))?;
            Value::Message(message)
        }
        _ => return Err(invalid(key, "cannot be given in a query")),
    })
}
