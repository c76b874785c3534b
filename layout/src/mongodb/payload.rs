//! Payloads as documents.
//!
//! A JSON payload is stored as BSON, so that the database's own operators work on it. BSON has other
//! numbers than JSON, and no duplicate keys; where the stored value, written as JSON again, is not
//! the payload to the byte, the bytes stand beside it. A JSON text that is nested too deep or would
//! become too large is stored as bytes alone.
//!
//! | payload | field |
//! |---|---|
//! | JSON | `payload`, and `raw` where needed |
//! | other UTF-8 text | `text` |
//! | anything else | `bytes` |

use std::collections::{HashMap, hash_map};

use bytes::Bytes;
use ledger_core::{Error, ErrorKind, Result, is_json};
use mongodb::bson::raw::{CStr, CString};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Decimal128, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr,
};

/// MongoDB documents nest at most 100 deep, which includes the levels around a payload.
const MAX_DEPTH: usize = 90;
/// The most bytes that value and bytes beside it may have together.
const MAX_SIZE: usize = 15 << 20;

/// Adds the fields of a payload to a document.
pub fn put_payload(document: &mut RawDocumentBuf, payload: &[u8]) {
    let bytes = || {
        RawBson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: payload.to_vec(),
        })
    };
    if let Ok(json) = std::str::from_utf8(payload) {
        if !is_json(payload) {
            return document.append(cstr!("text"), json);
        }
        if let Some(value) = Reader::read(json) {
            let mut again = Vec::with_capacity(payload.len());
            let exact = write_json(&mut again, value.as_raw_bson_ref()).is_ok() && again == payload;
            let beside = if exact { 0 } else { payload.len() };
            if size(&value) + beside <= MAX_SIZE {
                document.append(cstr!("payload"), value);
                if !exact {
                    document.append(cstr!("raw"), bytes());
                }
                return;
            }
        }
    }
    document.append(cstr!("bytes"), bytes());
}

fn size(value: &RawBson) -> usize {
    match value {
        RawBson::Document(document) => document.as_bytes().len(),
        RawBson::Array(array) => array.as_bytes().len(),
        RawBson::String(text) => text.len(),
        _ => 16,
    }
}

/// The payload of a document that [`put_payload`] has filled.
pub fn payload_of(document: &RawDocument) -> Result<Bytes> {
    let field = |name: &str| document.get(name).ok().flatten();
    if let Some(raw) = field("raw").or_else(|| field("bytes")) {
        let raw = raw.as_binary().ok_or_else(|| corrupt("its bytes"))?;
        return Ok(Bytes::copy_from_slice(raw.bytes));
    }
    if let Some(text) = field("text") {
        let text = text.as_str().ok_or_else(|| corrupt("its text"))?;
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    let value = field("payload").ok_or_else(|| corrupt("its payload is missing"))?;
    json_of(value).map(Bytes::from)
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read payload", what)
}

/// A BSON value as compact JSON; `Corrupt` for a type that no JSON text becomes.
pub fn json_of(value: RawBsonRef<'_>) -> Result<Vec<u8>> {
    let mut json = Vec::new();
    write_json(&mut json, value)?;
    Ok(json)
}

fn write_json(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<()> {
    let unwritten = |error: serde_json::Error| corrupt("as JSON").with_source(error);
    let broken = |error: mongodb::bson::error::Error| corrupt("a value").with_source(error);
    match value {
        RawBsonRef::Null => out.extend(b"null"),
        RawBsonRef::Boolean(true) => out.extend(b"true"),
        RawBsonRef::Boolean(false) => out.extend(b"false"),
        RawBsonRef::Int32(number) => out.extend(number.to_string().bytes()),
        RawBsonRef::Int64(number) => out.extend(number.to_string().bytes()),
        RawBsonRef::Double(number) => {
            serde_json::to_writer(out, &number).map_err(unwritten)?;
        }
        RawBsonRef::Decimal128(number) => out.extend(number.to_string().bytes()),
        RawBsonRef::String(text) => serde_json::to_writer(out, text).map_err(unwritten)?,
        RawBsonRef::Array(array) => {
            out.push(b'[');
            for (index, item) in array.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_json(out, item.map_err(broken)?)?;
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
                serde_json::to_writer(&mut *out, key.as_str()).map_err(unwritten)?;
                out.push(b':');
                write_json(out, item)?;
            }
            out.push(b'}');
        }
        other => {
            let what = format!("a {:?} is no JSON", other.element_type());
            return Err(corrupt(&what));
        }
    }
    Ok(())
}

/// Reads a text that is known to be JSON into BSON, numbers by their text.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// None where BSON cannot hold it: too deep, or a key with a NUL character.
    fn read(text: &'a str) -> Option<RawBson> {
        Self { text, at: 0 }.value(0)
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn value(&mut self, depth: usize) -> Option<RawBson> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(depth).map(RawBson::Document),
            b'[' => self.array(depth).map(RawBson::Array),
            b'"' => self.string().map(RawBson::String),
            b't' => Some(self.word(4, RawBson::Boolean(true))),
            b'f' => Some(self.word(5, RawBson::Boolean(false))),
            b'n' => Some(self.word(4, RawBson::Null)),
            _ => self.number(),
        }
    }

    fn word(&mut self, length: usize, value: RawBson) -> RawBson {
        self.at += length;
        value
    }

    fn array(&mut self, depth: usize) -> Option<RawArrayBuf> {
        let mut array = RawArrayBuf::new();
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(array);
        }
        loop {
            array.push(self.value(depth + 1)?);
            let end = self.peek()? == b']';
            self.at += 1;
            if end {
                return Some(array);
            }
        }
    }

    /// Of fields with one key the last is kept, as in most readers of JSON.
    fn object(&mut self, depth: usize) -> Option<RawDocumentBuf> {
        let mut fields: Vec<(CString, RawBson)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        self.at += 1;
        while self.peek()? != b'}' {
            if self.text.as_bytes().get(self.at) == Some(&b',') {
                self.at += 1;
                self.peek()?;
            }
            let key = self.string()?;
            self.peek()?;
            self.at += 1;
            let value = self.value(depth + 1)?;
            match seen.entry(key) {
                hash_map::Entry::Occupied(known) => {
                    fields.get_mut(*known.get())?.1 = value;
                }
                hash_map::Entry::Vacant(new) => {
                    let key = CString::try_from(new.key().as_str()).ok()?;
                    new.insert(fields.len());
                    fields.push((key, value));
                }
            }
        }
        self.at += 1;
        let mut document = RawDocumentBuf::new();
        for (key, value) in fields {
            let key: &CStr = &key;
            document.append(key, value);
        }
        Some(document)
    }

    fn string(&mut self) -> Option<String> {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        let mut at = begin + 1;
        let mut escaped = false;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        self.at = at + 1;
        if escaped {
            // A lone surrogate is JSON that no text can hold.
            return serde_json::from_str(self.text.get(begin..=at)?).ok();
        }
        self.text.get(begin + 1..at).map(str::to_owned)
    }

    fn number(&mut self) -> Option<RawBson> {
        let rest = self.text.get(self.at..)?;
        let end = rest
            .find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let text = rest.get(..end).filter(|text| !text.is_empty())?;
        self.at += end;
        let whole = !text.contains(['.', 'e', 'E']);
        if whole {
            if let Ok(number) = text.parse::<i32>() {
                return Some(RawBson::Int32(number));
            }
            if let Ok(number) = text.parse::<i64>() {
                return Some(RawBson::Int64(number));
            }
        }
        let double: f64 = text.parse().ok()?;
        if (whole || !double.is_finite())
            && let Ok(decimal) = text.parse::<Decimal128>()
        {
            return Some(RawBson::Decimal128(decimal));
        }
        Some(RawBson::Double(double))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(payload: &[u8]) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        put_payload(&mut document, payload);
        assert_eq!(payload_of(&document).unwrap(), payload);
        document
    }

    fn fields(payload: &str) -> Vec<String> {
        let document = stored(payload.as_bytes());
        let fields = document.iter().map(|field| field.unwrap().0.to_string());
        fields.collect()
    }

    #[test]
    fn bytes_stand_beside_only_where_the_document_would_not_give_them_back() {
        for exact in [
            r#"{"a":1,"b":[true,null,"x\n",-0.5],"c":{"d.e":1,"$f":2,"":3}}"#,
            "9223372036854775807",
            "9223372036854775808",
            "[]",
            "{}",
            "0.1",
        ] {
            assert_eq!(fields(exact), ["payload"], "{exact}");
        }
        for beside in [
            r#"{ "a": 1 }"#,
            "1e400",
            "-0",
            "0.1000000000000000000000000000000000000001",
            r#"{"a":1,"a":2}"#,
            r#""\u0041""#,
            "1.0e5",
            "123456789012345678901234567890123456789012345",
        ] {
            assert_eq!(fields(beside), ["payload", "raw"], "{beside}");
        }
        assert_eq!(fields("no JSON"), ["text"]);
        assert_eq!(fields(r#"{"a\u0000b":1}"#), ["bytes"]);
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(fields(&deep), ["bytes"]);
        stored(b"\xff\x00");
        stored(b"");
    }

    #[test]
    fn numbers_become_what_the_database_compares_best() {
        let value = |text| Reader::read(text).unwrap();
        assert_eq!(value("7"), RawBson::Int32(7));
        assert_eq!(value("-2147483649"), RawBson::Int64(-2_147_483_649));
        assert_eq!(value("2.50"), RawBson::Double(2.5));
        let decimal = |text: &str| RawBson::Decimal128(text.parse().unwrap());
        assert_eq!(value("9223372036854775808"), decimal("9223372036854775808"));
        assert_eq!(value("1e400"), decimal("1e400"));
        assert_eq!(value(r#"{"a":1,"a":2}"#), value(r#"{"a":2}"#));
    }

    fn json() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("JSON", |n| n.is_finite())
                .prop_map(|n| format!("{n:e}")),
            "-?[1-9][0-9]{0,40}",
            "0\\.[0-9]{1,40}",
        ];
        let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
        let leaf = prop_oneof![number, text.clone(), Just("null".to_owned())];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            let pair = (text.clone(), inner.clone()).prop_map(|(k, v)| format!("{k} :{v}"));
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|all| format!("[{}]", all.join(", "))),
                prop::collection::vec(pair, 0..5).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(payload: Vec<u8>) {
            stored(&payload);
        }

        #[test]
        fn any_json_comes_back(json in json()) {
            stored(json.as_bytes());
        }
    }
}
