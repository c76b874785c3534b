//! Codecs give back what they were given, and answer any bytes with a value or an error.

use std::collections::BTreeMap;

use bytes::Bytes;
use ledger_core::{Codec, ErrorKind, FieldMapper, Json, MessagePack, Protobuf, Raw, Schema};
use ledger_core::{Upcaster as _, Versioned, Zstd};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Circle(f64),
    Rectangle { width: f32, height: f32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    text: String,
    signed: i64,
    unsigned: u64,
    small: Option<i8>,
    shapes: Vec<Shape>,
    nested: BTreeMap<String, Vec<bool>>,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(sint64, tag = "2")]
    signed: i64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    bytes: Vec<Vec<u8>>,
    #[prost(map = "string, double", tag = "4")]
    map: std::collections::HashMap<String, f64>,
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has finite numbers only", |number| number.is_finite())
}

fn shape() -> impl Strategy<Value = Shape> {
    let side = || any::<f32>().prop_filter("finite", |number| number.is_finite());
    prop_oneof![
        Just(Shape::Empty),
        finite().prop_map(Shape::Circle),
        (side(), side()).prop_map(|(width, height)| Shape::Rectangle { width, height }),
    ]
}

prop_compose! {
    fn record()(
        text in any::<String>(),
        signed in any::<i64>(),
        unsigned in any::<u64>(),
        small in any::<Option<i8>>(),
        shapes in vec(shape(), 0..5),
        nested in btree_map(any::<String>(), vec(any::<bool>(), 0..4), 0..4),
        bytes in vec(any::<u8>(), 0..200),
    ) -> Record {
        Record { text, signed, unsigned, small, shapes, nested, bytes }
    }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = vec(vec(any::<u8>(), 0..50), 0..4);
    let map = btree_map(any::<String>(), finite(), 0..4);
    (any::<String>(), any::<i64>(), bytes, map).prop_map(|(text, signed, bytes, map)| Message {
        text,
        signed,
        bytes,
        map: map.into_iter().collect(),
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let field = prop_oneof!["[a-e]", any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(field, inner, 0..6)
                .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Bytes that do and do not compress.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..100_000).prop_map(|(byte, len)| vec![byte; len]),
        (vec(any::<u8>(), 1..40), 1_usize..200).prop_map(|(part, times)| part.repeat(times)),
    ]
}

fn comes_back<T, C>(codec: &C, value: &T) -> Result<(), TestCaseError>
where
    T: PartialEq + std::fmt::Debug,
    C: Codec<T>,
{
    let payload = codec.encode(value)?;
    prop_assert_eq!(&codec.decode(&payload)?, value);
    prop_assert_eq!(&codec.decode_version(codec.version(), &payload)?, value);
    Ok(())
}

fn mapper() -> impl Strategy<Value = FieldMapper> {
    let field = || "[a-e]";
    let renames = vec((field(), field()), 0..4);
    let defaults = vec((field(), json()), 0..4);
    (renames, defaults, vec(field(), 0..3)).prop_map(|(renames, defaults, removals)| {
        let step = FieldMapper::new();
        let step = renames
            .into_iter()
            .fold(step, |step, (from, to)| step.rename(from, to));
        let step = defaults
            .into_iter()
            .fold(step, |step, (at, value)| step.add_default(at, value));
        removals.into_iter().fold(step, FieldMapper::remove)
    })
}

proptest! {
    #[test]
    fn any_record_comes_back(value in record()) {
        comes_back(&Json, &value)?;
        comes_back(&MessagePack, &value)?;
        comes_back(&Zstd::new(Json), &value)?;
        comes_back(&Zstd::new(MessagePack), &value)?;
    }

    #[test]
    fn any_json_value_comes_back(value in json()) {
        comes_back(&Json, &value)?;
        comes_back(&MessagePack, &value)?;
    }

    #[test]
    fn any_message_comes_back(value in message()) {
        comes_back(&Protobuf, &value)?;
        comes_back(&Zstd::new(Protobuf), &value)?;
    }

    #[test]
    fn any_bytes_come_back(value in payload(), level in 1_i32..6) {
        let value = Bytes::from(value);
        comes_back(&Raw, &value)?;
        comes_back(&Zstd::new(Raw).level(level), &value)?;
        comes_back(&Zstd::new(Raw).limit(50), &value)?;
    }

    #[test]
    fn framing_never_adds_more_than_its_byte(value in payload()) {
        let framed = Zstd::new(Raw).encode(&Bytes::from(value.clone()))?;
        prop_assert!(framed.len() <= value.len() + 1);
        prop_assert!(framed[0] <= 1);
    }

    #[test]
    fn what_was_written_before_compression_reads_back(value in vec(any::<u8>(), 1..300)) {
        prop_assume!(value[0] > 1);
        prop_assert_eq!(Codec::<Bytes>::decode(&Zstd::new(Raw), &value)?, value);
    }

    #[test]
    fn arbitrary_bytes_are_a_value_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        let refused = |error: ledger_core::Error| error.kind() == ErrorKind::Corrupt;
        prop_assert!(Codec::<Record>::decode(&Json, &bytes).map_or_else(refused, |_| true));
        prop_assert!(Codec::<Value>::decode(&Json, &bytes).map_or_else(refused, |_| true));
        prop_assert!(Codec::<Record>::decode(&MessagePack, &bytes).map_or_else(refused, |_| true));
        prop_assert!(Codec::<Value>::decode(&MessagePack, &bytes).map_or_else(refused, |_| true));
        prop_assert!(Codec::<Message>::decode(&Protobuf, &bytes).map_or_else(refused, |_| true));
    }

    #[test]
    fn arbitrary_frames_inflate_within_the_limit_or_are_errors(
        head in prop_oneof![Just(vec![]), Just(vec![0x28, 0xb5, 0x2f, 0xfd])],
        tail in vec(any::<u8>(), 0..200),
    ) {
        let frame = [&[1], head.as_slice(), tail.as_slice()].concat();
        match Codec::<Bytes>::decode(&Zstd::new(Raw).limit(1000), &frame) {
            Ok(plain) => prop_assert!(plain.len() <= 1000),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt),
        }
    }

    /// A damaged frame is rarely found by chance, so damage a good one.
    #[test]
    fn a_flipped_byte_never_panics_nor_exceeds_the_limit(
        plain in payload(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let codec = Zstd::new(Raw).limit(200_000);
        let mut framed = codec.encode(&Bytes::from(plain))?.to_vec();
        let at = at.index(framed.len());
        framed[at] ^= flip;
        if let Ok(plain) = Codec::<Bytes>::decode(&codec, &framed) {
            prop_assert!(plain.len() <= 200_000);
        }
    }

    #[test]
    fn mapping_fields_is_renaming_then_defaulting_then_removing(
        value in json(),
        renames in vec(("[a-e]", "[a-e]"), 0..4),
        defaults in vec(("[a-e]", json()), 0..4),
        removals in vec("[a-e]", 0..3),
    ) {
        let step = FieldMapper::new();
        let step = removals.iter().fold(step, FieldMapper::remove);
        let step = defaults.iter().fold(step, |step, (at, v)| step.add_default(at, v.clone()));
        let step = renames.iter().fold(step, |step, (from, to)| step.rename(from, to));
        let mapped = step.upcast(value.clone());
        let Value::Object(mut expected) = value else {
            prop_assert_eq!(mapped.is_ok(), value.is_null());
            return Ok(());
        };
        for (from, to) in renames {
            if expected.contains_key(&from) {
                let moved = expected.remove(&from).unwrap();
                expected.remove(&to);
                expected.insert(to, moved);
            }
        }
        for (at, value) in defaults {
            if !expected.contains_key(&at) {
                expected.insert(at, value);
            }
        }
        expected.retain(|at, _| !removals.contains(at));
        prop_assert_eq!(mapped?, Value::Object(expected));
    }

    #[test]
    fn an_upcast_is_the_same_in_every_format(
        value in json(),
        first in mapper(),
        second in mapper(),
        written in 0_u32..5,
    ) {
        let schema = Schema::new(3).upcast(1, first.clone())?.upcast(2, second.clone())?;
        let expected = match written {
            0 | 1 => first.upcast(value.clone()).and_then(|value| second.upcast(value)),
            2 => second.upcast(value.clone()),
            _ => Ok(value.clone()),
        };
        let schema = std::sync::Arc::new(schema);
        let json = Versioned::new(Json, schema.clone());
        let packed = Versioned::new(Zstd::new(MessagePack), schema);
        let json_read: Result<Value, _> = json.decode_version(written, &Json.encode(&value)?);
        let payload = Codec::<Value>::encode(&packed, &value)?;
        let packed_read: Result<Value, _> = packed.decode_version(written, &payload);
        match expected {
            Ok(expected) => {
                prop_assert_eq!(json_read?, expected.clone());
                prop_assert_eq!(packed_read?, expected);
            }
            Err(_) => prop_assert!(json_read.is_err() && packed_read.is_err()),
        }
    }
}

#[test]
fn message_pack_keeps_field_names_so_that_fields_may_come_and_go() {
    #[derive(Serialize, Deserialize)]
    struct Old {
        gone: u8,
        kept: String,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        #[serde(default)]
        added: Option<bool>,
        kept: String,
    }
    let payload = MessagePack
        .encode(&Old {
            gone: 1,
            kept: "x".into(),
        })
        .unwrap();
    let new: New = MessagePack.decode(&payload).unwrap();
    assert_eq!(
        new,
        New {
            added: None,
            kept: "x".into()
        }
    );
}

#[test]
fn message_pack_refuses_bytes_behind_the_value() {
    let mut payload = MessagePack.encode(&7_u8).unwrap().to_vec();
    payload.push(0);
    assert_eq!(
        Codec::<u8>::decode(&MessagePack, &payload)
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn values_that_a_format_cannot_hold_are_invalid_input() {
    let keyed_by_list = BTreeMap::from([(vec![1_u8], 1_u8)]);
    let error = Json.encode(&keyed_by_list).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_schema_inside_or_outside_of_compression_is_the_same() {
    let schema = || {
        Schema::new(2)
            .upcast(1, FieldMapper::new().rename("a", "b"))
            .unwrap()
    };
    let old = Zstd::new(Json)
        .encode(&serde_json::json!({"a": 1}))
        .unwrap();
    let outside = Versioned::new(Zstd::new(Json), schema());
    let inside = Zstd::new(Versioned::new(Json, schema()));
    let read: [Value; 2] = [
        outside.decode_version(1, &old).unwrap(),
        inside.decode_version(1, &old).unwrap(),
    ];
    assert_eq!(
        read,
        [serde_json::json!({"b": 1}), serde_json::json!({"b": 1})]
    );
    assert_eq!(Codec::<Value>::version(&inside), 2);
}

#[test]
fn deep_nesting_is_a_value_or_an_error_and_no_overflow() {
    for depth in [100, 127, 128, 1_000, 1_030, 1_000_000] {
        let packed = [vec![0x91; depth], vec![0xc0]].concat();
        let schema = Schema::new(2).upcast(1, |value: Value| Ok(value)).unwrap();
        let codec = Versioned::new(MessagePack, schema);
        let read: Result<Value, _> = codec.decode_version(1, &packed);
        assert_eq!(read.is_ok(), depth <= 127, "{depth}");
        let text = ["[".repeat(depth), "]".repeat(depth)].concat();
        let read: Result<Value, _> = Json.decode(text.as_bytes());
        assert_eq!(read.is_ok(), depth <= 127, "{depth}");
    }
}
