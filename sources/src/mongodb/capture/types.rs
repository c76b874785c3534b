//! What the values of a column are, and how that widens.
//!
//! The types are ordered: `int` below `long` and `double`, every type below `mixed`. A column has the
//! least type that is above those of all its values, so it does not matter in which order they come,
//! nor how often.

use bytes::Bytes;
use ledger_core::{Column, ColumnType, Result, Value};
use ledger_layout::tables::{push_bytes, push_float64, push_timestamp, push_uuid};
use mongodb::bson::RawBsonRef;
use mongodb::bson::spec::BinarySubtype;

use super::values::json;

/// The first and the last millisecond of the years 1900 to 2299, which every sink's type has.
const MOMENTS: std::ops::RangeInclusive<i64> = -2_208_988_800_000..=10_413_791_999_999;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Bool,
    Int,
    Long,
    Double,
    /// Its digits as text.
    Decimal,
    String,
    /// 24 hexadecimal digits.
    ObjectId,
    /// A moment of the years 1900 to 2299.
    Date,
    Uuid,
    /// Bytes without a meaning of their own.
    Binary,
    /// What has no better form: arrays, documents that are nested too deep, and the types that only
    /// MongoDB has.
    Json,
    /// Several of these, as text.
    Mixed,
}

impl Type {
    #[cfg(test)]
    const ALL: [Self; 12] = [
        Self::Bool,
        Self::Int,
        Self::Long,
        Self::Double,
        Self::Decimal,
        Self::String,
        Self::ObjectId,
        Self::Date,
        Self::Uuid,
        Self::Binary,
        Self::Json,
        Self::Mixed,
    ];

    /// The least type of a value; none for null, which every type has.
    pub(super) fn of(value: RawBsonRef<'_>) -> Option<Self> {
        Some(match value {
            RawBsonRef::Null => return None,
            RawBsonRef::Boolean(_) => Self::Bool,
            RawBsonRef::Int32(_) => Self::Int,
            RawBsonRef::Int64(_) => Self::Long,
            RawBsonRef::Double(_) => Self::Double,
            RawBsonRef::Decimal128(_) => Self::Decimal,
            RawBsonRef::String(_) => Self::String,
            RawBsonRef::ObjectId(_) => Self::ObjectId,
            // Others have no column type that every sink holds exactly.
            RawBsonRef::DateTime(at) if MOMENTS.contains(&at.timestamp_millis()) => Self::Date,
            RawBsonRef::DateTime(_) => Self::Mixed,
            RawBsonRef::Binary(binary) => match (binary.subtype, binary.bytes.len()) {
                (BinarySubtype::Generic, _) => Self::Binary,
                (BinarySubtype::Uuid, 16) => Self::Uuid,
                _ => Self::Json,
            },
            _ => Self::Json,
        })
    }

    /// The least type above both.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (one, same) if one == same => one,
            (Self::Int, Self::Long) | (Self::Long, Self::Int) => Self::Long,
            (Self::Int, Self::Double) | (Self::Double, Self::Int) => Self::Double,
            _ => Self::Mixed,
        }
    }

    /// Whether every sink brings what it holds of a column of this type into one of `wider` exactly.
    /// Elsewhere the rows are written anew.
    pub(super) fn widens_in_place_to(self, wider: Self) -> bool {
        match wider {
            // How a sink writes these is not how they are written here.
            Self::Mixed => !matches!(self, Self::Double | Self::Date | Self::Binary),
            _ => self.join(wider) == wider,
        }
    }

    /// As MongoDB calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Long => "long",
            Self::Double => "double",
            Self::Decimal => "decimal",
            Self::String => "string",
            Self::ObjectId => "objectId",
            Self::Date => "date",
            Self::Uuid => "uuid",
            Self::Binary => "binData",
            // PostgreSQL keeps the text of a `json`, and not that of a `jsonb`.
            Self::Json => "json",
            Self::Mixed => "mixed",
        }
    }

    fn kind(self) -> ColumnType {
        match self {
            Self::Bool => ColumnType::Bool,
            Self::Int => ColumnType::Int32,
            Self::Long => ColumnType::Int64,
            Self::Double => ColumnType::Float64,
            Self::Date => ColumnType::TimestampTz,
            Self::Uuid => ColumnType::Uuid,
            Self::Binary => ColumnType::Bytes,
            Self::Json => ColumnType::Json,
            Self::Decimal | Self::String | Self::ObjectId | Self::Mixed => ColumnType::Text,
        }
    }

    /// A column of this type.
    pub(super) fn column(self, name: &str) -> Column {
        Column {
            name: name.to_owned(),
            kind: self.kind(),
            key: false,
            nullable: true,
            declared: self.name().to_owned(),
        }
    }

    /// The type of a column that was made before.
    pub(super) fn of_column(column: &Column) -> Self {
        match column.kind {
            ColumnType::Bool => Self::Bool,
            ColumnType::Int32 => Self::Int,
            ColumnType::Int64 => Self::Long,
            ColumnType::Float64 => Self::Double,
            ColumnType::TimestampTz => Self::Date,
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Bytes => Self::Binary,
            ColumnType::Json => Self::Json,
            _ => match column.declared.as_str() {
                "decimal" => Self::Decimal,
                "string" => Self::String,
                "objectId" => Self::ObjectId,
                _ => Self::Mixed,
            },
        }
    }

    /// A value as the text that stands for it in a column of this type. NULL where it is null, and
    /// where the type is not above its own.
    pub(super) fn value(self, value: RawBsonRef<'_>) -> Result<Value> {
        let Some(own) = Self::of(value) else {
            return Ok(Value::Null);
        };
        if own.join(self) != self {
            return Ok(Value::Null);
        }
        let mut text = Vec::new();
        match value {
            RawBsonRef::Boolean(value) => text.extend_from_slice(match (self, value) {
                (Self::Mixed, true) => b"true",
                (Self::Mixed, false) => b"false",
                (_, true) => b"t",
                (_, false) => b"f",
            }),
            RawBsonRef::Int32(value) if self == Self::Double => {
                push_float64(f64::from(value), &mut text);
            }
            RawBsonRef::Int32(value) => text.extend(value.to_string().bytes()),
            RawBsonRef::Int64(value) => text.extend(value.to_string().bytes()),
            RawBsonRef::Double(value) => push_float64(value, &mut text),
            RawBsonRef::Decimal128(value) => text.extend(value.to_string().bytes()),
            RawBsonRef::String(value) => text.extend(value.bytes()),
            RawBsonRef::ObjectId(value) => text.extend(value.to_hex().bytes()),
            RawBsonRef::DateTime(at) => match at.timestamp_millis().checked_mul(1_000) {
                Some(micros) => push_timestamp(micros, true, &mut text),
                None => text = json(value)?,
            },
            RawBsonRef::Binary(binary) if own == Self::Binary => {
                push_bytes(binary.bytes, &mut text);
            }
            RawBsonRef::Binary(binary) if own == Self::Uuid => {
                let bytes = binary.bytes.try_into().unwrap_or_default();
                push_uuid(u128::from_be_bytes(bytes), &mut text);
            }
            other => text = json(other)?,
        }
        Ok(Value::Text(Bytes::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use ledger_layout::tables::{Bounded, bytes, float64, integer, timestamp, uuid};
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Binary, Bson, DateTime, Decimal128, RawBson, Timestamp, doc};
    use proptest::prelude::*;

    use super::*;

    fn raw(value: Bson) -> RawBson {
        RawBson::try_from(value).unwrap()
    }

    fn text(kind: Type, value: Bson) -> Option<String> {
        match kind.value(raw(value).as_raw_bson_ref()).unwrap() {
            Value::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
            _ => None,
        }
    }

    fn any_type() -> impl Strategy<Value = Type> {
        prop::sample::select(Type::ALL.to_vec())
    }

    fn any_value() -> impl Strategy<Value = Bson> {
        let binary = |subtype| {
            move |bytes: Vec<u8>| {
                let subtype = BinarySubtype::from(subtype);
                Bson::Binary(Binary { subtype, bytes })
            }
        };
        prop_oneof![
            Just(Bson::Null),
            any::<bool>().prop_map(Bson::from),
            any::<i32>().prop_map(Bson::from),
            any::<i64>().prop_map(Bson::from),
            any::<f64>().prop_map(Bson::from),
            any::<String>().prop_map(Bson::from),
            any::<[u8; 12]>().prop_map(|bytes| Bson::from(ObjectId::from_bytes(bytes))),
            any::<i64>().prop_map(|at| Bson::from(DateTime::from_millis(at))),
            (-3_000_000_000_000_i64..12_000_000_000_000)
                .prop_map(|at| Bson::from(DateTime::from_millis(at))),
            any::<[u8; 16]>().prop_map(|bytes| Bson::from(Decimal128::from_bytes(bytes))),
            any::<Vec<u8>>().prop_map(binary(0)),
            any::<Vec<u8>>().prop_map(binary(0x80)),
            any::<[u8; 16]>().prop_map(move |bytes| binary(4)(bytes.to_vec())),
            any::<(u32, u32)>()
                .prop_map(|(time, increment)| { Bson::from(Timestamp { time, increment }) }),
            any::<Vec<i32>>().prop_map(Bson::from),
            any::<i32>().prop_map(|n| Bson::from(doc! {"n": n})),
        ]
    }

    proptest! {
        #[test]
        fn widening_is_a_join(a in any_type(), b in any_type(), c in any_type()) {
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            prop_assert_eq!(a.join(a), a);
            // Above both, and nothing below it is.
            prop_assert_eq!(a.join(a.join(b)), a.join(b));
            if a.join(c) == c && b.join(c) == c {
                prop_assert_eq!(a.join(b).join(c), c);
            }
        }

        #[test]
        fn a_value_is_what_its_column_says(value in any_value()) {
            let Some(kind) = Type::of(raw(value.clone()).as_raw_bson_ref()) else {
                return Ok(());
            };
            let text = text(kind, value.clone()).unwrap();
            let read = text.as_bytes();
            match (kind, value) {
                (Type::Bool, value) => prop_assert_eq!(value, Bson::from(text == "t")),
                (Type::Int, Bson::Int32(n)) => prop_assert_eq!(integer(read), Ok(i64::from(n))),
                (Type::Long, Bson::Int64(n)) => prop_assert_eq!(integer(read), Ok(n)),
                (Type::Double, Bson::Double(n)) => {
                    let back = float64(read).unwrap();
                    prop_assert!(back.to_bits() == n.to_bits() || back.is_nan() && n.is_nan());
                }
                (Type::String, Bson::String(value)) => prop_assert_eq!(text, value),
                (Type::ObjectId, Bson::ObjectId(id)) => {
                    prop_assert_eq!(ObjectId::parse_str(text).unwrap(), id);
                }
                (Type::Date, Bson::DateTime(at)) => {
                    let micros = Bounded::At(at.timestamp_millis() * 1_000);
                    prop_assert_eq!(timestamp(read), Ok(micros));
                }
                (Type::Uuid, Bson::Binary(binary)) => {
                    let own: [u8; 16] = binary.bytes.try_into().unwrap();
                    prop_assert_eq!(uuid(read), Ok(u128::from_be_bytes(own)));
                }
                (Type::Binary, Bson::Binary(binary)) => {
                    let mut back = Vec::new();
                    bytes(read, &mut back).unwrap();
                    prop_assert_eq!(back, binary.bytes);
                }
                (Type::Decimal, Bson::Decimal128(number)) => {
                    prop_assert_eq!(text, number.to_string());
                }
                (Type::Json, _) => {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
                }
                (Type::Mixed, value) => prop_assert!(matches!(value, Bson::DateTime(_))),
                (kind, value) => prop_assert!(false, "{kind:?} of {value:?}"),
            }
        }

        #[test]
        fn a_wider_column_has_every_value_and_a_narrower_none(value in any_value(), kind in any_type()) {
            let own = Type::of(raw(value.clone()).as_raw_bson_ref());
            let wide = own.is_some_and(|own| own.join(kind) == kind);
            prop_assert_eq!(text(kind, value).is_some(), wide);
        }

        #[test]
        fn a_column_says_its_type(kind in any_type()) {
            prop_assert_eq!(Type::of_column(&kind.column("a")), kind);
        }
    }

    #[test]
    fn what_a_sink_keeps_when_a_column_widens_is_what_is_written_then() {
        // What the three sinks make of the one text when the column becomes the other's.
        for (value, narrow, wide, kept) in [
            (Bson::from(-5), Type::Int, Type::Long, "-5"),
            (Bson::from(-5), Type::Int, Type::Double, "-5"),
            (Bson::from(-5), Type::Int, Type::Mixed, "-5"),
            (
                Bson::from(i64::MIN),
                Type::Long,
                Type::Mixed,
                "-9223372036854775808",
            ),
            (Bson::from(true), Type::Bool, Type::Mixed, "true"),
            (Bson::from("5"), Type::String, Type::Mixed, "5"),
            (Bson::from(vec![1, 2]), Type::Json, Type::Mixed, "[1,2]"),
        ] {
            assert!(narrow.widens_in_place_to(wide), "{narrow:?}");
            assert_eq!(text(wide, value).as_deref(), Some(kept));
        }
        for narrow in [Type::Double, Type::Date, Type::Binary] {
            assert!(!narrow.widens_in_place_to(Type::Mixed), "{narrow:?}");
        }
        assert!(!Type::Long.widens_in_place_to(Type::Double));
    }

    #[test]
    fn moments_that_not_every_sink_has_are_text() {
        for (millis, written) in [
            (-2_208_988_800_000, "1900-01-01 00:00:00+00"),
            (10_413_791_999_999, "2299-12-31 23:59:59.999+00"),
            (-2_208_988_800_001, "1899-12-31 23:59:59.999+00"),
            (10_413_792_000_000, "2300-01-01 00:00:00+00"),
            (-62_135_596_800_000, "0001-01-01 00:00:00+00"),
            (253_402_300_799_999, "9999-12-31 23:59:59.999+00"),
            (
                i64::MAX,
                r#"{"$date":{"$numberLong":"9223372036854775807"}}"#,
            ),
        ] {
            let at = Bson::from(DateTime::from_millis(millis));
            assert_eq!(text(Type::Mixed, at.clone()).as_deref(), Some(written));
            let kind = Type::of(raw(at).as_raw_bson_ref()).unwrap();
            let within = MOMENTS.contains(&millis);
            assert_eq!(kind, if within { Type::Date } else { Type::Mixed });
        }
    }
}
