//! The messages of the output plugin `pgoutput`, protocol version 1.
//!
//! Source: PostgreSQL's documentation, "Logical Replication Message Formats". Every number is big
//! endian; a text ends with a zero byte. Values are slices of the message, not copies.

use bytes::{Buf, Bytes};
use ledger_core::{Error, ErrorKind, Result, Row, Value};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH: i64 = 946_684_800_000_000;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins; its changes follow, then its commit.
    Begin {
        /// Where its commit record begins.
        commit: u64,
        /// When it was committed, in microseconds since 1970.
        at: i64,
        /// The transaction's number, without its epoch.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Where its commit record ends.
        end: u64,
    },
    /// The shape of a table, before the first row of it and whenever it has changed.
    Relation(Relation),
    /// A row was inserted.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        row: Row,
    },
    /// A row was changed.
    Update {
        /// The table.
        relation: u32,
        /// The row before: with the key's columns where the key was changed, with all of them where
        /// the table's identity is FULL.
        before: Option<Row>,
        /// The row afterwards.
        row: Row,
    },
    /// A row was removed.
    Delete {
        /// The table.
        relation: u32,
        /// The row before: its key, or all of it where the table's identity is FULL.
        before: Row,
    },
    /// Tables were emptied.
    Truncate {
        /// Which.
        relations: Vec<u32>,
    },
    /// An application wrote into the log; told only to those that ask for it.
    Logical {
        /// Whether it is a part of a transaction. Others stand where they were written, also between
        /// transactions.
        transactional: bool,
        /// Whose it is.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// What is of no consequence here: the origin of a transaction, the name of a type.
    Other,
}

/// The shape of a table as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's number.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The replica identity: `d`efault, `n`othing, `f`ull or `i`ndex.
    pub identity: u8,
    /// The columns.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is a part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// The number of its type.
    pub kind: u32,
    /// The type's modifier; -1 for none.
    pub modifier: i32,
}

/// Reads one message, which has to be used up; `Corrupt` for anything else. It never panics, whatever
/// the bytes are.
pub fn decode(bytes: Bytes) -> Result<Message> {
    let mut input = Input(bytes);
    let message = message(&mut input)?;
    if input.0.has_remaining() {
        return Err(corrupt("bytes are left behind the message"));
    }
    Ok(message)
}

fn message(input: &mut Input) -> Result<Message> {
    Ok(match input.byte()? {
        b'B' => {
            let commit = input.number64()?;
            let at = input.number64()?.cast_signed().saturating_add(EPOCH);
            let xid = input.number32()?;
            Message::Begin { commit, at, xid }
        }
        b'C' => {
            input.byte()?;
            input.number64()?;
            let end = input.number64()?;
            input.number64()?;
            Message::Commit { end }
        }
        b'R' => Message::Relation(relation(input)?),
        b'I' => {
            let relation = input.number32()?;
            input.expect(b'N')?;
            let row = input.row()?;
            Message::Insert { relation, row }
        }
        b'U' => {
            let relation = input.number32()?;
            let before = match input.byte()? {
                b'K' | b'O' => {
                    let before = input.row()?;
                    input.expect(b'N')?;
                    Some(before)
                }
                b'N' => None,
                _ => return Err(corrupt("an update holds neither K, O nor N")),
            };
            let row = input.row()?;
            Message::Update {
                relation,
                before,
                row,
            }
        }
        b'D' => {
            let relation = input.number32()?;
            if !matches!(input.byte()?, b'K' | b'O') {
                return Err(corrupt("a delete holds neither K nor O"));
            }
            let before = input.row()?;
            Message::Delete { relation, before }
        }
        b'T' => {
            let count = input.number32()?;
            input.byte()?;
            // Not reserved by the number alone: it may be anything.
            let relations = (0..count)
                .map(|_| input.number32())
                .collect::<Result<_>>()?;
            Message::Truncate { relations }
        }
        b'M' => {
            let transactional = input.byte()? & 1 == 1;
            input.number64()?;
            let prefix = input.text()?;
            let length = usize::try_from(input.number32()?).map_err(|_| cut())?;
            let content = input.take(length)?;
            Message::Logical {
                transactional,
                prefix,
                content,
            }
        }
        b'O' | b'Y' => {
            input.0.clear();
            Message::Other
        }
        other => {
            let what = format!("message {:?} is not known", char::from(other));
            return Err(corrupt(what));
        }
    })
}

fn relation(input: &mut Input) -> Result<Relation> {
    let id = input.number32()?;
    let schema = match input.text()? {
        // How the plugin writes the schema of the system's own tables.
        schema if schema.is_empty() => "pg_catalog".to_owned(),
        schema => schema,
    };
    let table = input.text()?;
    let identity = input.byte()?;
    let count = input.number16()?;
    let columns = (0..count).map(|_| {
        Ok(RelationColumn {
            key: input.byte()? & 1 == 1,
            name: input.text()?,
            kind: input.number32()?,
            modifier: input.number32()?.cast_signed(),
        })
    });
    Ok(Relation {
        columns: columns.collect::<Result<_>>()?,
        id,
        schema,
        table,
        identity,
    })
}

/// What is left of a message.
struct Input(Bytes);

impl Input {
    fn byte(&mut self) -> Result<u8> {
        self.0.try_get_u8().map_err(|_| cut())
    }

    fn number16(&mut self) -> Result<u16> {
        self.0.try_get_u16().map_err(|_| cut())
    }

    fn number32(&mut self) -> Result<u32> {
        self.0.try_get_u32().map_err(|_| cut())
    }

    fn number64(&mut self) -> Result<u64> {
        self.0.try_get_u64().map_err(|_| cut())
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.byte()? == byte {
            return Ok(());
        }
        Err(corrupt(format!("{:?} is missing", char::from(byte))))
    }

    fn take(&mut self, len: usize) -> Result<Bytes> {
        if len > self.0.len() {
            return Err(cut());
        }
        Ok(self.0.split_to(len))
    }

    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(cut)?;
        let text = self.take(end)?;
        self.byte()?;
        String::from_utf8(text.into()).map_err(|_| corrupt("a name is not UTF-8"))
    }

    fn row(&mut self) -> Result<Row> {
        let count = self.number16()?;
        let mut row = Vec::with_capacity(usize::from(count).min(self.0.len()));
        for _ in 0..count {
            row.push(match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Absent,
                b't' => {
                    let len = self.number32()?;
                    let len = usize::try_from(len).map_err(|_| cut())?;
                    Value::Text(self.take(len)?)
                }
                other => {
                    let what = format!("a value of kind {:?} is not known", char::from(other));
                    return Err(corrupt(what));
                }
            });
        }
        Ok(row)
    }
}

fn cut() -> Error {
    corrupt("it is cut short")
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read replication message", what)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn row(out: &mut Vec<u8>, values: &[Option<&str>]) {
        out.put_u16(u16::try_from(values.len()).unwrap());
        for value in values {
            match value {
                None => out.put_u8(b'n'),
                Some("?") => out.put_u8(b'u'),
                Some(text) => {
                    out.put_u8(b't');
                    out.put_u32(u32::try_from(text.len()).unwrap());
                    out.put_slice(text.as_bytes());
                }
            }
        }
    }

    fn update() -> Vec<u8> {
        let mut out = vec![b'U'];
        out.put_u32(16_384);
        out.put_u8(b'K');
        row(&mut out, &[Some("1"), None]);
        out.put_u8(b'N');
        row(&mut out, &[Some("2"), Some("?")]);
        out
    }

    #[test]
    fn an_update_with_a_changed_key_and_an_unchanged_value() {
        let message = decode(update().into()).unwrap();
        let expected = Message::Update {
            relation: 16_384,
            before: Some(vec![text("1"), Value::Null]),
            row: vec![text("2"), Value::Absent],
        };
        assert_eq!(message, expected);
    }

    #[test]
    fn a_message_that_is_cut_anywhere_is_corrupt() {
        let whole = update();
        for end in 0..whole.len() {
            let error = decode(Bytes::copy_from_slice(&whole[..end])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{end}");
        }
        let mut longer = whole;
        longer.push(0);
        assert_eq!(
            decode(longer.into()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn a_relation_tells_names_types_and_key() {
        let mut out = vec![b'R'];
        out.put_u32(7);
        out.put_slice(b"Sales\0My \"Orders\"\0d");
        out.put_u16(2);
        for (key, name, kind, modifier) in [(1, "id", 20_u32, -1_i32), (0, "n", 1_700, 655_366)] {
            out.put_u8(key);
            out.put_slice(name.as_bytes());
            out.put_u8(0);
            out.put_u32(kind);
            out.put_i32(modifier);
        }
        let Message::Relation(relation) = decode(out.into()).unwrap() else {
            panic!("no relation");
        };
        assert_eq!(
            (&*relation.schema, &*relation.table),
            ("Sales", "My \"Orders\"")
        );
        assert!(relation.columns[0].key && !relation.columns[1].key);
        assert_eq!(relation.columns[1].modifier, 655_366);
    }

    #[test]
    fn a_count_without_its_values_allocates_nothing_for_them() {
        let mut out = vec![b'T'];
        out.put_u32(u32::MAX);
        out.put_u8(0);
        assert_eq!(decode(out.into()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_message_of_an_application_is_read_whole() {
        let mut out = vec![b'M', 1];
        out.put_u64(7);
        out.put_slice(b"ledger:x\0");
        out.put_u32(3);
        out.put_slice(b"a b");
        let message = decode(out.clone().into()).unwrap();
        let expected = Message::Logical {
            transactional: true,
            prefix: "ledger:x".to_owned(),
            content: Bytes::from_static(b"a b"),
        };
        assert_eq!(message, expected);
        out.pop();
        assert_eq!(decode(out.into()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn times_count_from_1970() {
        let mut out = vec![b'B'];
        out.put_u64(99);
        out.put_i64(0);
        out.put_u32(1);
        let message = decode(out.into()).unwrap();
        let at = 946_684_800_000_000;
        let xid = 1;
        assert_eq!(
            message,
            Message::Begin {
                commit: 99,
                at,
                xid
            }
        );
    }
}
