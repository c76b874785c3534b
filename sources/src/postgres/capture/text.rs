//! Rows as `COPY ... TO STDOUT` writes them.
//!
//! Source: PostgreSQL's documentation of COPY, "Text Format". A row ends with a newline, values are
//! separated by tabs, `\N` is NULL, and within a value a backslash introduces what would else be one
//! of these.

use bytes::{Bytes, BytesMut};
use ledger_core::{Error, ErrorKind, Result, Row, Value};
use memchr::{memchr, memchr_iter};

/// Takes rows apart, whatever the borders of the pieces are that they come in.
#[derive(Debug, Default)]
pub struct CopyText {
    rest: BytesMut,
}

impl CopyText {
    /// The rows that this piece completes, each with `columns` values.
    pub fn rows(&mut self, piece: Bytes, columns: usize, rows: &mut Vec<Row>) -> Result<()> {
        let mut piece = piece;
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(&piece);
            piece = self.rest.split().freeze();
        }
        // A newline within a value is written as a backslash and an n.
        while let Some(end) = memchr(b'\n', &piece) {
            let line = piece.split_to(end);
            drop(piece.split_to(1));
            rows.push(row(&line, columns)?);
        }
        self.rest.extend_from_slice(&piece);
        Ok(())
    }

    /// Whether a row has begun that is not complete.
    pub fn is_cut(&self) -> bool {
        !self.rest.is_empty()
    }
}

fn row(line: &Bytes, columns: usize) -> Result<Row> {
    let mut row = Vec::with_capacity(columns);
    let mut begin = 0;
    // A table without columns has rows all the same.
    if columns > 0 || !line.is_empty() {
        let ends = memchr_iter(b'\t', line).chain(std::iter::once(line.len()));
        for end in ends {
            row.push(value(line.slice(begin..end))?);
            begin = end + 1;
        }
    }
    if row.len() == columns {
        return Ok(row);
    }
    Err(corrupt(format!(
        "a row has {} values and not {columns}",
        row.len()
    )))
}

fn value(text: Bytes) -> Result<Value> {
    if memchr(b'\\', &text).is_none() {
        return Ok(Value::Text(text));
    }
    if *text == *b"\\N" {
        return Ok(Value::Null);
    }
    let mut plain = BytesMut::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            plain.extend_from_slice(&[*byte]);
            continue;
        }
        let escaped = bytes
            .next()
            .ok_or_else(|| corrupt("a value ends with a backslash"))?;
        plain.extend_from_slice(&[match escaped {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => *other,
        }]);
    }
    Ok(Value::Text(plain.freeze()))
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read copied rows", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]], columns: usize) -> Result<Vec<Row>> {
        let (mut text, mut rows) = (CopyText::default(), Vec::new());
        for piece in pieces {
            text.rows(Bytes::copy_from_slice(piece), columns, &mut rows)?;
        }
        assert!(!text.is_cut());
        Ok(rows)
    }

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn values_are_read_as_they_were() {
        let rows = read(&[b"1\t\\N\t\\\\N\ta\\tb\\n\\r\\b\\f\\v\\\\\t\n"], 5).unwrap();
        let expected = vec![
            text("1"),
            Value::Null,
            text("\\N"),
            text("a\tb\n\r\u{8}\u{c}\u{b}\\"),
            text(""),
        ];
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn the_borders_of_the_pieces_do_not_matter() {
        let whole = b"a\tb\\n\nc\t\\N\n";
        let expected = read(&[whole], 2).unwrap();
        for at in 0..whole.len() {
            let (left, right) = whole.split_at(at);
            assert_eq!(read(&[left, right], 2).unwrap(), expected, "{at}");
        }
    }

    #[test]
    fn a_row_of_another_width_and_an_open_escape_are_corrupt() {
        for line in [&b"a\n"[..], b"a\tb\tc\n", b"a\tb\\\n"] {
            let error = read(&[line], 2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        assert_eq!(read(&[b"\n"], 0).unwrap(), [Row::new()]);
    }
}
