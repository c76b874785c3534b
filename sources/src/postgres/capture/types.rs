//! What PostgreSQL's types are to a capture.

use std::collections::HashMap;

use ledger_core::{ColumnType, Result};
use ledger_layout::postgres::failed;
use sqlx::{PgConnection, Row as _};

/// The types of a database, by their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Types(HashMap<u32, Type>);

#[derive(Debug, Clone)]
struct Type {
    name: String,
    /// Of the system's own schema, whose names are sure to mean what they say.
    built_in: bool,
    /// Of an array: what it holds.
    element: Option<u32>,
    /// Of a domain: what it restricts, and the modifier of that.
    base: Option<(u32, i32)>,
}

/// How deep domains over arrays over domains may nest.
const DEPTH: usize = 16;

impl Types {
    /// Reads all types.
    pub(super) async fn load(conn: &mut PgConnection) -> Result<Self> {
        let rows = sqlx::query(
            "SELECT t.oid::int8, t.typname::text, n.nspname = 'pg_catalog', \
             CASE WHEN t.typinput = 'array_in'::regproc THEN t.typelem::int8 END, \
             CASE WHEN t.typtype = 'd' THEN t.typbasetype::int8 END, t.typtypmod \
             FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace",
        )
        .fetch_all(conn)
        .await
        .map_err(|error| failed("read types", "", error))?;
        let number = |number: i64| u32::try_from(number).unwrap_or_default();
        let types = rows.iter().map(|row| {
            let base: Option<i64> = row.get(4);
            let read = Type {
                name: row.get(1),
                built_in: row.get(2),
                element: row.get::<Option<i64>, _>(3).map(number),
                base: base.map(|base| (number(base), row.get(5))),
            };
            (number(row.get(0)), read)
        });
        Ok(Self(types.collect()))
    }

    /// Whether a type of this number was there when they were read.
    pub(super) fn knows(&self, kind: u32) -> bool {
        self.0.contains_key(&kind)
    }

    /// What values of the type are. One that is not known is text, which every type can be.
    pub(super) fn column(&self, kind: u32, modifier: i32) -> ColumnType {
        self.resolve(kind, modifier, DEPTH)
    }

    fn resolve(&self, kind: u32, modifier: i32, depth: usize) -> ColumnType {
        let (Some(found), Some(depth)) = (self.0.get(&kind), depth.checked_sub(1)) else {
            return ColumnType::Text;
        };
        if let Some((base, of_domain)) = found.base {
            return self.resolve(base, of_domain, depth);
        }
        if let Some(element) = found.element {
            return ColumnType::Array(Box::new(self.resolve(element, modifier, depth)));
        }
        match (found.built_in, found.name.as_str()) {
            (true, name) => built_in(name, modifier),
            (false, "hstore") => ColumnType::Pairs,
            (false, "vector") => ColumnType::Vector,
            (false, _) => ColumnType::Text,
        }
    }
}

fn built_in(name: &str, modifier: i32) -> ColumnType {
    match name {
        "bool" => ColumnType::Bool,
        "int2" => ColumnType::Int16,
        "int4" => ColumnType::Int32,
        "int8" => ColumnType::Int64,
        "oid" => ColumnType::UInt32,
        "float4" => ColumnType::Float32,
        "float8" => ColumnType::Float64,
        "numeric" => decimal(modifier),
        "bytea" => ColumnType::Bytes,
        "uuid" => ColumnType::Uuid,
        "date" => ColumnType::Date,
        "timestamp" => ColumnType::Timestamp,
        "timestamptz" => ColumnType::TimestampTz,
        "time" => ColumnType::Time,
        "json" | "jsonb" => ColumnType::Json,
        _ => ColumnType::Text,
    }
}

/// The size of a `numeric`. Its modifier is 4 more than precision and scale side by side, in 16 bits
/// and in 11, of which the latter is signed (`numeric_typmod_scale` in PostgreSQL's `numeric.c`).
fn decimal(modifier: i32) -> ColumnType {
    if modifier < 4 {
        return ColumnType::Number;
    }
    let packed = modifier - 4;
    let precision = u16::try_from(packed >> 16 & 0xffff);
    let scale = i16::try_from(((packed & 0x7ff) ^ 1_024) - 1_024);
    match (precision, scale) {
        (Ok(precision), Ok(scale)) => ColumnType::Decimal { precision, scale },
        _ => ColumnType::Number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numerics_modifier_holds_precision_and_signed_scale() {
        let of = |precision: i32, scale: i32| decimal(((precision << 16) | (scale & 0x7ff)) + 4);
        let sized = |precision, scale| ColumnType::Decimal { precision, scale };
        assert_eq!(of(12, 2), sized(12, 2));
        assert_eq!(of(1_000, 1_000), sized(1_000, 1_000));
        assert_eq!(of(3, -2), sized(3, -2));
        assert_eq!(decimal(-1), ColumnType::Number);
    }

    #[test]
    fn a_domain_is_what_it_restricts_and_a_foreign_name_means_nothing() {
        let plain = |name: &str, built_in| Type {
            name: name.to_owned(),
            built_in,
            element: None,
            base: None,
        };
        let types = Types(HashMap::from([
            (23, plain("int4", true)),
            (900, plain("int4", false)),
            (
                901,
                Type {
                    element: Some(902),
                    ..plain("_d", false)
                },
            ),
            (
                902,
                Type {
                    base: Some((23, -1)),
                    ..plain("d", false)
                },
            ),
            (
                903,
                Type {
                    base: Some((903, -1)),
                    ..plain("round", false)
                },
            ),
        ]));
        assert_eq!(types.column(902, -1), ColumnType::Int32);
        assert_eq!(
            types.column(901, -1),
            ColumnType::Array(Box::new(ColumnType::Int32))
        );
        assert_eq!(types.column(900, -1), ColumnType::Text);
        assert_eq!(types.column(903, -1), ColumnType::Text);
        assert_eq!(types.column(1, -1), ColumnType::Text);
    }
}
