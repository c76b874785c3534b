//! Documents as the texts of columns.

use std::sync::Arc;

use bytes::Bytes;
use ledger_core::{Column, ColumnType, Error, ErrorKind, Result, Row, Table, TableName, Value};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Bson, RawBsonRef, RawDocument};
use xxhash_rust::xxh3::xxh3_64;

/// The schema that collections count as being in: a database has no schemas.
pub(super) const SCHEMA: &str = "public";
/// The column of the key.
pub(super) const ID: &str = "_id";
/// The column of the document as a whole.
pub(super) const DOC: &str = "doc";

/// The end of the year 9999, the last millisecond that relaxed extended JSON writes as a date.
const LAST_WRITTEN: i64 = 253_402_300_799_999;

/// What the key's column is declared as where a table is written in columns. A sink notes it with
/// the table, and it says in which form its rows are: a table that no field came to has as many
/// columns as one of documents as a whole.
const BESIDE_COLUMNS: &str = "id, beside columns";

/// Whether the rows of a table have a value for each field, and not for documents as a whole only.
pub(super) fn is_in_columns(table: &Table) -> bool {
    let key = table.columns.first();
    key.is_some_and(|key| key.declared == BESIDE_COLUMNS)
}

/// The same table, of rows that have a value for each field.
pub(super) fn in_columns(mut table: Arc<Table>) -> Arc<Table> {
    if !is_in_columns(&table)
        && let Some(key) = Arc::make_mut(&mut table).columns.first_mut()
    {
        BESIDE_COLUMNS.clone_into(&mut key.declared);
    }
    table
}

/// A collection as a table, of documents as a whole.
pub(super) fn table(database: &str, collection: &str) -> Arc<Table> {
    let column = |name: &str, kind, key: bool, declared: &str| Column {
        name: name.to_owned(),
        kind,
        key,
        nullable: !key,
        declared: declared.to_owned(),
    };
    Arc::new(Table {
        // By its name: what is dropped and made again goes on in the same table.
        id: xxh3_64(format!("{database}.{collection}").as_bytes()) >> 1,
        name: TableName::new(SCHEMA, collection),
        columns: vec![
            column(ID, ColumnType::Text, true, "text"),
            column(DOC, ColumnType::Json, false, "jsonb"),
        ],
        full_identity: false,
    })
}

/// The row of a document as a whole.
pub(super) fn row(document: &RawDocument) -> Result<Row> {
    let doc = json(RawBsonRef::Document(document))?;
    Ok(vec![id(document)?, Value::Text(Bytes::from(doc))])
}

/// The row that tells a document's key only, of a table with so many columns.
pub(super) fn key_row(key: &RawDocument, columns: usize) -> Result<Row> {
    let mut row = vec![Value::Absent; columns];
    if let Some(first) = row.first_mut() {
        *first = id(key)?;
    }
    Ok(row)
}

fn id(document: &RawDocument) -> Result<Value> {
    let id = document.get("_id").ok().flatten();
    let id = id.ok_or_else(|| corrupt("a document has no _id"))?;
    Ok(Value::Text(Bytes::from(id_text(id)?)))
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read document", what)
}

/// An `_id` as text: an `ObjectId` as its 24 hexadecimal digits, a text as it is, everything else as
/// extended JSON. A text that could be taken for one of the others stands in quotes, so no two ids
/// have one text; whole numbers that MongoDB holds equal have.
pub fn id_text(id: RawBsonRef<'_>) -> Result<String> {
    match id {
        RawBsonRef::ObjectId(id) => Ok(id.to_hex()),
        RawBsonRef::String(text) if !is_other(text) => Ok(text.to_owned()),
        RawBsonRef::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            Ok(format!("{number:.0}"))
        }
        other => String::from_utf8(json(other)?)
            .map_err(|error| corrupt("an _id is no text").with_source(error)),
    }
}

fn is_other(text: &str) -> bool {
    is_object_id(text) || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The `_id` that a text of [`id_text`] stands for.
pub(super) fn id_of(text: &str) -> Result<Bson> {
    if is_object_id(text) {
        let id = ObjectId::parse_str(text);
        return id
            .map(Bson::ObjectId)
            .map_err(|error| corrupt("an ObjectId").with_source(error));
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(json) => Bson::try_from(json)
            .map_err(|error| corrupt(format!("the _id {text}")).with_source(error)),
        Err(_) => Ok(Bson::String(text.to_owned())),
    }
}

/// A value as relaxed extended JSON, version 2: what JSON has stands as it is, 64-bit integers to the
/// digit, everything else as an object that names its type. The fields keep their order.
pub fn json(value: RawBsonRef<'_>) -> Result<Vec<u8>> {
    let mut json = Vec::new();
    write(&mut json, value)?;
    Ok(json)
}

fn write(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<()> {
    let broken = |error: mongodb::bson::error::Error| corrupt("a value").with_source(error);
    match value {
        RawBsonRef::Null => out.extend(b"null"),
        RawBsonRef::Boolean(true) => out.extend(b"true"),
        RawBsonRef::Boolean(false) => out.extend(b"false"),
        RawBsonRef::Int32(number) => out.extend(number.to_string().bytes()),
        RawBsonRef::Int64(number) => out.extend(number.to_string().bytes()),
        RawBsonRef::Double(number) if number.is_finite() => text(out, &number)?,
        RawBsonRef::String(value) => text(out, value)?,
        RawBsonRef::ObjectId(id) => {
            out.extend(b"{\"$oid\":\"");
            out.extend(id.to_hex().bytes());
            out.extend(b"\"}");
        }
        RawBsonRef::Decimal128(number) => {
            out.extend(b"{\"$numberDecimal\":\"");
            out.extend(number.to_string().bytes());
            out.extend(b"\"}");
        }
        RawBsonRef::Binary(binary) if binary.subtype != BinarySubtype::BinaryOld => {
            extended(out, Bson::Binary(binary.to_binary()))?;
        }
        // The driver takes these for the last one that it can write otherwise.
        RawBsonRef::DateTime(at) if at.timestamp_millis() > LAST_WRITTEN => {
            let millis = at.timestamp_millis();
            out.extend(format!("{{\"$date\":{{\"$numberLong\":\"{millis}\"}}}}").bytes());
        }
        RawBsonRef::Array(array) => {
            out.push(b'[');
            for (index, item) in array.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, item.map_err(broken)?)?;
            }
            out.push(b']');
        }
        RawBsonRef::Document(document) => {
            out.push(b'{');
            for (index, field) in document.iter().enumerate() {
                let (key, item) = field.map_err(broken)?;
                if index > 0 {
                    out.push(b',');
                }
                text(out, key.as_str())?;
                out.push(b':');
                write(out, item)?;
            }
            out.push(b'}');
        }
        other => {
            let owned = Bson::try_from(other).map_err(broken)?;
            extended(out, owned)?;
        }
    }
    Ok(())
}

fn text<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|error| corrupt("as JSON").with_source(error))
}

fn extended(out: &mut Vec<u8>, value: Bson) -> Result<()> {
    text(out, &value.into_relaxed_extjson())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawDocumentBuf, doc};
    use proptest::prelude::*;

    use super::*;

    fn of(document: &mongodb::bson::Document) -> (String, String) {
        let raw = RawDocumentBuf::try_from(document).unwrap();
        let row = row(&raw).unwrap();
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            _ => panic!("a value"),
        };
        (text(&row[0]), text(&row[1]))
    }

    #[test]
    fn types_that_json_lacks_say_what_they_are() {
        let oid = ObjectId::parse_str("64b0000000000000000000ff").unwrap();
        let date = mongodb::bson::DateTime::from_millis(1_700_000_000_123);
        let decimal: mongodb::bson::Decimal128 = "0.1000".parse().unwrap();
        let (id, doc) = of(&doc! {
            "_id": oid, "z": i64::MAX, "a": 1.5, "at": date, "d": decimal, "n": f64::NAN,
            "b": mongodb::bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] },
        });
        assert_eq!(id, "64b0000000000000000000ff");
        assert_eq!(
            doc,
            r#"{"_id":{"$oid":"64b0000000000000000000ff"},"z":9223372036854775807,"a":1.5,"at":{"$date":"2023-11-14T22:13:20.123Z"},"d":{"$numberDecimal":"0.1000"},"n":{"$numberDouble":"NaN"},"b":{"$binary":{"base64":"AQI=","subType":"00"}}}"#
        );
    }

    #[test]
    fn a_date_that_no_calendar_has_is_its_milliseconds() {
        let at = |millis| doc! {"_id": 1, "at": mongodb::bson::DateTime::from_millis(millis)};
        for (millis, written) in [
            (253_402_300_799_999, r#""9999-12-31T23:59:59.999Z""#),
            (253_402_300_800_000, r#"{"$numberLong":"253402300800000"}"#),
            (i64::MAX, r#"{"$numberLong":"9223372036854775807"}"#),
            (-1, r#"{"$numberLong":"-1"}"#),
            (i64::MIN, r#"{"$numberLong":"-9223372036854775808"}"#),
        ] {
            let (_, doc) = of(&at(millis));
            assert_eq!(doc, format!(r#"{{"_id":1,"at":{{"$date":{written}}}}}"#));
        }
    }

    #[test]
    fn no_two_ids_have_one_text() {
        let ids = [
            Bson::from(5),
            Bson::from("5"),
            Bson::from("\"5\""),
            Bson::from("x"),
            Bson::from(true),
            Bson::from("true"),
            Bson::from("64b0000000000000000000ff"),
            ObjectId::parse_str("64b0000000000000000000ff")
                .unwrap()
                .into(),
            doc! {"a": 1}.into(),
            Bson::from("{\"a\":1}"),
            Bson::from(5.5),
            Bson::Null,
        ];
        let texts: Vec<String> = ids.iter().map(|id| of(&doc! {"_id": id}).0).collect();
        let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{texts:?}");
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(id_of(text).unwrap(), *id, "{text}");
        }
        assert_eq!(of(&doc! {"_id": 5_i64}).0, of(&doc! {"_id": 5.0}).0);
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_that_reads_back(id: String) {
            let (text, _) = of(&doc! {"_id": &id});
            prop_assert_eq!(id_of(&text).unwrap(), Bson::String(id));
        }
    }
}
