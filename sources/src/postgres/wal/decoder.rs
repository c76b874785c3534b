//! From the messages of the log to the changes of a store.
//!
//! What the functions of the store write (`layout/src/postgres/functions.rs`): a message that tells
//! the stream, then the rows of an append or the row of a label; for a trim or a rename the message
//! alone. Rows are told whole, so a change needs nothing that a later one may have removed.

use std::collections::HashMap;

use bytes::Bytes;
use ledger_core::{
    Change, Entry, EntryId, Error, ErrorKind, Mutation, Pairs, Result, Row, StreamKey, StreamName,
    StreamRef, Timestamp, Value,
};
use ledger_layout::postgres::wal;
use ledger_layout::tables::{self, Array, Bounded, Event};
use uuid::Uuid;

use super::position::{Position, digest};
use crate::postgres::replication::{Message, Relation};

/// Reads the messages of a log, which are given to it one after the other.
pub(super) struct Decoder {
    store: Uuid,
    prefix: String,
    /// What was given on before.
    after: Position,
    /// The transaction that the reading has to begin with, where it begins within one.
    expected: Option<(u64, u32)>,
    columns: HashMap<u32, Columns>,
    transaction: Option<Transaction>,
    id: u64,
}

struct Transaction {
    xid: u32,
    commit: u64,
    at: i64,
    digest: u32,
    ordinal: u32,
    told: Option<Told>,
}

/// What a message told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    kind: u8,
    stream: StreamRef,
    number: u64,
}

/// What a message leads to.
#[derive(Debug)]
pub(super) enum Met {
    /// A change, which [`Decoder::change`] makes whole.
    Change(Position, Raw),
    /// A transaction ended here; nothing of it is left to come.
    Committed(u64),
    /// Nothing.
    Nothing,
}

/// A change before its values are read.
#[derive(Debug)]
pub(super) struct Raw {
    /// The transaction, without its epoch.
    pub(super) xid: u32,
    stream: StreamRef,
    at: i64,
    what: What,
}

#[derive(Debug)]
enum What {
    Append {
        relation: u32,
        row: Row,
        version: u64,
    },
    Label {
        relation: u32,
        row: Row,
    },
    Trim {
        through: u64,
    },
    Rename,
}

impl Decoder {
    /// A decoder of the log behind `after`, for messages of `prefix`; `store` seals the cursors. With `within` the log is read from that position's
    /// transaction on, which must then come first.
    pub(super) fn new(store: Uuid, prefix: String, after: Position, within: bool) -> Self {
        Self {
            prefix,
            store,
            expected: (within && after.ordinal > 0).then_some((after.commit, after.digest)),
            id: after.id,
            after,
            columns: HashMap::new(),
            transaction: None,
        }
    }

    /// Whether a transaction has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        self.transaction.is_some()
    }

    /// Takes a message.
    pub(super) fn read(&mut self, message: Message) -> Result<Met> {
        match message {
            Message::Begin { commit, at, xid } => {
                let digest = digest(commit, at);
                self.check(commit, digest)?;
                // One that began and did not end was cut off with its connection; it comes again.
                self.transaction = Some(Transaction {
                    xid,
                    commit,
                    at,
                    digest,
                    ordinal: 0,
                    told: None,
                });
                return Ok(Met::Nothing);
            }
            Message::Commit { end } => {
                self.transaction = None;
                return Ok(Met::Committed(end));
            }
            Message::Relation(relation) => {
                self.columns.insert(relation.id, Columns::of(&relation)?);
                return Ok(Met::Nothing);
            }
            // They depend on what this connection was told before, or on nobody's transaction.
            Message::Other
            | Message::Logical {
                transactional: false,
                ..
            } => return Ok(Met::Nothing),
            _ => {}
        }
        let transaction = self
            .transaction
            .as_mut()
            .ok_or_else(|| corrupt("a row stands outside of a transaction"))?;
        transaction.ordinal = transaction
            .ordinal
            .checked_add(1)
            .ok_or_else(|| corrupt("a transaction has more messages than can be counted"))?;
        let Some(raw) = transaction.take(message, &self.prefix)? else {
            return Ok(Met::Nothing);
        };
        if let What::Append { relation, row, .. } = &raw.what {
            let id = columns(&self.columns, *relation)?.id(row)?;
            self.id = self.id.max(id);
        }
        let position = Position {
            commit: transaction.commit,
            ordinal: transaction.ordinal,
            id: self.id,
            digest: transaction.digest,
        };
        let before = (position.commit, position.ordinal) <= (self.after.commit, self.after.ordinal);
        if before {
            return Ok(Met::Nothing);
        }
        Ok(Met::Change(position, raw))
    }

    /// Whether the history is the one that the position is of.
    fn check(&mut self, commit: u64, digest: u32) -> Result<()> {
        match self.expected.take() {
            Some(expected) if expected != (commit, digest) => Err(Error::new(
                ErrorKind::SourceDiverged,
                "read the write-ahead log",
                "the transaction of the cursor is not there: this is another history, as after \
                 restoring a backup; start again from a snapshot (--resync)",
            )),
            _ => Ok(()),
        }
    }

    /// Makes a change whole.
    pub(super) fn change(&self, position: Position, raw: Raw) -> Result<Change> {
        let cursor = position.to_cursor(&self.store);
        let Raw {
            stream, at, what, ..
        } = raw;
        let committed = Timestamp::from_micros(at);
        let (committed_at, mutation) = match what {
            What::Trim { through } => (
                committed,
                Mutation::Trim {
                    through: EntryId(through),
                },
            ),
            What::Rename => (committed, Mutation::Rename),
            What::Append {
                relation,
                row,
                version,
            } => {
                let entry = columns(&self.columns, relation)?.entry(&row, &stream)?;
                let entry = Box::new(entry);
                (entry.created_at, Mutation::Append { entry, version })
            }
            What::Label { relation, row } => {
                let (at, mutation) = columns(&self.columns, relation)?.label(&row)?;
                (at.unwrap_or(committed), mutation)
            }
        };
        Ok(Change {
            cursor,
            committed_at,
            stream,
            mutation,
        })
    }
}

impl Transaction {
    fn take(&mut self, message: Message, prefix: &str) -> Result<Option<Raw>> {
        let (xid, at) = (self.xid, self.at);
        let raw = |stream, what| {
            Ok(Some(Raw {
                xid,
                stream,
                at,
                what,
            }))
        };
        match message {
            Message::Logical {
                prefix: of,
                content,
                ..
            } if of == prefix => {
                if *content == *wal::ENDED {
                    return Err(Error::new(
                        ErrorKind::SourceDiverged,
                        "read the write-ahead log",
                        "the log of the store is kept elsewhere from here on; start again from a \
                         snapshot (--resync)",
                    ));
                }
                let told = Told::parse(&content)?;
                match told.kind {
                    b't' => {
                        let through = told.number;
                        raw(told.stream, What::Trim { through })
                    }
                    b'r' => raw(told.stream, What::Rename),
                    _ => {
                        self.told = Some(told);
                        Ok(None)
                    }
                }
            }
            Message::Insert { relation, row } => {
                let told = self.told.as_mut().filter(|told| told.kind == b'a');
                let told = told.ok_or_else(|| {
                    corrupt("a row of the entries was written, and not by an append")
                })?;
                told.number = told.number.saturating_add(1);
                let version = told.number;
                let what = What::Append {
                    relation,
                    row,
                    version,
                };
                raw(told.stream.clone(), what)
            }
            // An update that no label made changes nothing that is told.
            Message::Update { relation, row, .. } => match self.told.take() {
                Some(told) if told.kind == b'l' => raw(told.stream, What::Label { relation, row }),
                other => {
                    self.told = other;
                    Ok(None)
                }
            },
            _ => Ok(None),
        }
    }
}

impl Told {
    fn parse(content: &Bytes) -> Result<Self> {
        let parse = || {
            let text = std::str::from_utf8(content).ok()?;
            let mut parts = text.splitn(5, ' ');
            let kind = match parts.next()? {
                "a" => b'a',
                "l" => b'l',
                "t" => b't',
                "r" => b'r',
                _ => return None,
            };
            let key = StreamKey(parts.next()?.parse().ok()?);
            let name_version = parts.next()?.parse().ok()?;
            let number = parts.next()?.parse().ok()?;
            let name = StreamName::new(parts.next()?).ok()?;
            Some(Self {
                kind,
                stream: StreamRef {
                    key,
                    name,
                    name_version,
                },
                number,
            })
        };
        parse().ok_or_else(|| corrupt("a message of the store is not one that it writes"))
    }
}

/// Where the columns of the entries table stand in its rows.
struct Columns([usize; COLUMNS.len()]);

const COLUMNS: [&str; 13] = [
    "id",
    "payload",
    "payload_bytes",
    "order_key",
    "dedup_key",
    "schema_version",
    "metadata",
    "tags",
    "annotations",
    "tags_version",
    "annotations_version",
    "created_at",
    "updated_at",
];

#[derive(Clone, Copy)]
enum Column {
    Id,
    Payload,
    PayloadBytes,
    OrderKey,
    DedupKey,
    SchemaVersion,
    Metadata,
    Tags,
    Annotations,
    TagsVersion,
    AnnotationsVersion,
    CreatedAt,
    UpdatedAt,
}

fn columns(all: &HashMap<u32, Columns>, relation: u32) -> Result<&Columns> {
    let found = all.get(&relation);
    found.ok_or_else(|| corrupt("a row is of a table whose shape was not told"))
}

impl Columns {
    fn of(relation: &Relation) -> Result<Self> {
        let mut places = [0; COLUMNS.len()];
        for (place, wanted) in places.iter_mut().zip(COLUMNS) {
            let found = relation.columns.iter().position(|c| c.name == wanted);
            *place = found.ok_or_else(|| {
                corrupt(format!("table {} has no column {wanted}", relation.table))
            })?;
        }
        Ok(Self(places))
    }

    fn value<'r>(&self, row: &'r Row, column: Column) -> Result<Option<&'r Bytes>> {
        let place = self.0.get(column as usize).copied().unwrap_or(usize::MAX);
        match row.get(place) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            Some(Value::Absent) | None => Err(of_column(column, "is not told")),
        }
    }

    fn text<'r>(&self, row: &'r Row, column: Column) -> Result<&'r [u8]> {
        let value = self.value(row, column)?;
        value
            .map(|text| &**text)
            .ok_or_else(|| of_column(column, "is NULL"))
    }

    fn number(&self, row: &Row, column: Column) -> Result<u64> {
        let number = tables::integer(self.text(row, column)?);
        let number = number.map_err(|refused| of_column(column, refused.0))?;
        u64::try_from(number).map_err(|_| of_column(column, "is negative"))
    }

    fn id(&self, row: &Row) -> Result<u64> {
        self.number(row, Column::Id)
    }

    fn string(&self, row: &Row, column: Column) -> Result<String> {
        let text = self.text(row, column)?.to_vec();
        String::from_utf8(text).map_err(|_| of_column(column, "is not UTF-8"))
    }

    fn pairs(&self, row: &Row, column: Column) -> Result<Pairs> {
        match self.text(row, column)? {
            b"{}" => Ok(Pairs::new()),
            text => serde_json::from_slice(text)
                .map_err(|error| of_column(column, "holds no pairs of texts").with_source(error)),
        }
    }

    fn time(&self, row: &Row, column: Column) -> Result<Option<Timestamp>> {
        let Some(text) = self.value(row, column)? else {
            return Ok(None);
        };
        match tables::timestamp(text) {
            Ok(Bounded::At(micros)) => Ok(Some(Timestamp::from_micros(micros))),
            Ok(_) => Err(of_column(column, "is no time")),
            Err(refused) => Err(of_column(column, refused.0)),
        }
    }

    fn tags(&self, row: &Row) -> Result<Vec<String>> {
        const COLUMN: Column = Column::Tags;
        let refused = |refused: tables::Refused| of_column(COLUMN, refused.0);
        let array = Array::parse(self.text(row, COLUMN)?).map_err(refused)?;
        let mut tags = Vec::new();
        for event in array.events() {
            match event.map_err(refused)? {
                Event::Element(text) => tags.push(
                    String::from_utf8(text.into_owned())
                        .map_err(|_| of_column(COLUMN, "is not UTF-8"))?,
                ),
                Event::Null => return Err(of_column(COLUMN, "holds a NULL")),
                Event::Open | Event::Close => {}
            }
        }
        Ok(tags)
    }

    fn payload(&self, row: &Row) -> Result<Bytes> {
        // Copied: a slice would keep the whole of what was read at a time.
        if let Some(text) = self.value(row, Column::Payload)? {
            return Ok(Bytes::copy_from_slice(text));
        }
        let mut payload = Vec::new();
        let text = self.text(row, Column::PayloadBytes)?;
        tables::bytes(text, &mut payload)
            .map_err(|refused| of_column(Column::PayloadBytes, refused.0))?;
        Ok(payload.into())
    }

    fn entry(&self, row: &Row, stream: &StreamRef) -> Result<Entry> {
        let created_at = self.time(row, Column::CreatedAt)?;
        let schema = self.number(row, Column::SchemaVersion)?;
        Ok(Entry {
            id: EntryId(self.id(row)?),
            stream: stream.name.clone(),
            payload: self.payload(row)?,
            order_key: self.string(row, Column::OrderKey)?,
            dedup_key: self.string(row, Column::DedupKey)?,
            schema_version: u32::try_from(schema)
                .map_err(|_| of_column(Column::SchemaVersion, "is out of range"))?,
            metadata: self.pairs(row, Column::Metadata)?,
            tags: self.tags(row)?,
            annotations: Pairs::new(),
            label_version: 0,
            created_at: created_at.ok_or_else(|| of_column(Column::CreatedAt, "is NULL"))?,
            updated_at: None,
        })
    }

    /// The label that was changed is the one with the higher version.
    fn label(&self, row: &Row) -> Result<(Option<Timestamp>, Mutation)> {
        let id = EntryId(self.id(row)?);
        let tags = self.number(row, Column::TagsVersion)?;
        let annotations = self.number(row, Column::AnnotationsVersion)?;
        let mutation = if tags > annotations {
            Mutation::SetTags {
                id,
                label_version: tags,
                tags: self.tags(row)?,
            }
        } else {
            Mutation::SetAnnotations {
                id,
                label_version: annotations,
                annotations: self.pairs(row, Column::Annotations)?,
            }
        };
        Ok((self.time(row, Column::UpdatedAt)?, mutation))
    }
}

fn of_column(column: Column, what: &str) -> Error {
    let name = COLUMNS.get(column as usize).copied().unwrap_or_default();
    corrupt(format!("an entry's {name} {what}"))
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read the write-ahead log", what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::replication::RelationColumn;

    const STORE: Uuid = Uuid::from_u128(7);

    fn relation() -> Message {
        let column = |name: &str| RelationColumn {
            key: name == "id",
            name: name.to_owned(),
            kind: 25,
            modifier: -1,
        };
        Message::Relation(Relation {
            id: 1,
            schema: "public".to_owned(),
            table: "orders_entries".to_owned(),
            identity: b'd',
            columns: COLUMNS.iter().map(|name| column(name)).collect(),
        })
    }

    fn told(text: &str) -> Message {
        Message::Logical {
            transactional: true,
            prefix: wal::prefix(&STORE),
            content: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    fn row(id: &str, versions: [&str; 2]) -> Row {
        let text = |text: &str| Value::Text(Bytes::copy_from_slice(text.as_bytes()));
        let [tags, annotations] = versions;
        [
            id,
            "{}",
            "?",
            "",
            "",
            "1",
            r#"{"k": "v"}"#,
            r#"{a,"b \"c"}"#,
            "{}",
            tags,
            annotations,
            "2026-01-02 03:04:05.678901+00",
            "2026-01-02 03:04:06+00",
        ]
        .map(|value| {
            if value == "?" {
                Value::Null
            } else {
                text(value)
            }
        })
        .to_vec()
    }

    fn insert(id: &str) -> Message {
        Message::Insert {
            relation: 1,
            row: row(id, ["0", "0"]),
        }
    }

    fn begin(commit: u64) -> Message {
        Message::Begin {
            commit,
            at: 5,
            xid: 3,
        }
    }

    fn read(decoder: &mut Decoder, messages: Vec<Message>) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for message in messages {
            if let Met::Change(position, raw) = decoder.read(message)? {
                changes.push(decoder.change(position, raw)?);
            }
        }
        Ok(changes)
    }

    fn transaction() -> Vec<Message> {
        vec![
            begin(9),
            told("a 3 2 40 a name"),
            relation(),
            insert("11"),
            insert("12"),
            told("l 3 2 0 a name"),
            Message::Update {
                relation: 1,
                before: None,
                row: row("11", ["1", "0"]),
            },
            told("t 3 2 12 a name"),
            told("r 3 3 0 another"),
            Message::Commit { end: 10 },
        ]
    }

    #[test]
    fn a_transaction_is_told_change_by_change() {
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        let changes = read(&mut decoder, transaction()).unwrap();
        let kinds: Vec<_> = changes.iter().map(|c| c.mutation.kind().as_str()).collect();
        assert_eq!(kinds, ["append", "append", "set_tags", "trim", "rename"]);
        assert!(changes.is_sorted_by(|a, b| a.cursor < b.cursor));
        let Mutation::Append { entry, version } = &changes[1].mutation else {
            panic!("an append")
        };
        assert_eq!((entry.id, *version), (EntryId(12), 42));
        assert_eq!(entry.tags, ["a", "b \"c"]);
        assert_eq!(entry.created_at, changes[1].committed_at);
        assert_eq!(changes[2].committed_at.as_micros() % 1_000_000, 0);
        assert_eq!(changes[4].stream.name.as_str(), "another");
        assert_eq!(changes[4].stream.name_version, 3);
    }

    #[test]
    fn from_within_a_transaction_exactly_the_rest_comes() {
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        let all = read(&mut decoder, transaction()).unwrap();
        for (at, change) in all.iter().enumerate() {
            let after = Position::from_cursor(&change.cursor, &STORE).unwrap();
            let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), after, true);
            assert_eq!(read(&mut decoder, transaction()).unwrap(), all[at + 1..]);
        }
    }

    #[test]
    fn another_transaction_in_the_place_of_the_cursors_is_another_history() {
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        let all = read(&mut decoder, transaction()).unwrap();
        let after = Position::from_cursor(&all[0].cursor, &STORE).unwrap();
        let later = Message::Begin {
            commit: 9,
            at: 6,
            xid: 3,
        };
        for begun in [begin(8), begin(10), later] {
            let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), after, true);
            let error = read(&mut decoder, vec![begun]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceDiverged);
        }
    }

    #[test]
    fn what_no_function_of_the_store_wrote_is_corrupt_or_nothing() {
        let messages = |between: Message| vec![begin(9), relation(), between];
        for (message, refused) in [
            (insert("1"), true),
            (told("a 3 2"), true),
            (told("x 3 2 4 name"), true),
            (told("a 3 -2 4 name"), true),
            (
                Message::Logical {
                    transactional: true,
                    prefix: "ledger:other".to_owned(),
                    content: Bytes::from_static(b"a"),
                },
                false,
            ),
            (
                Message::Update {
                    relation: 1,
                    before: None,
                    row: row("1", ["1", "0"]),
                },
                false,
            ),
        ] {
            let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
            let read = read(&mut decoder, messages(message.clone()));
            match read {
                Ok(changes) => assert!(changes.is_empty() && !refused, "{message:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(refused, "{message:?}");
                }
            }
        }
    }

    #[test]
    fn what_depends_on_the_connection_or_on_no_transaction_is_not_counted() {
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        let all = read(&mut decoder, transaction()).unwrap();
        let outside = Message::Logical {
            transactional: false,
            prefix: wal::prefix(&STORE),
            content: Bytes::from_static(b"anything"),
        };
        let mut messages = vec![outside.clone()];
        for message in transaction() {
            messages.extend([message, Message::Other, outside.clone()]);
        }
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        assert_eq!(read(&mut decoder, messages).unwrap(), all);
    }

    #[test]
    fn the_end_of_the_log_is_told() {
        let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
        let error = read(&mut decoder, vec![begin(9), told("e")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    }

    prop_compose! {
        fn value()(kind in 0..4_u8, text in "[-0-9a{}\"\\\\, :+.]{0,12}") -> Value {
            match kind {
                0 => Value::Null,
                1 => Value::Absent,
                _ => Value::Text(text.into()),
            }
        }
    }

    fn message() -> impl Strategy<Value = Message> {
        let any_row = || prop::collection::vec(value(), 0..14);
        prop_oneof![
            (0..20_u64).prop_map(begin),
            Just(relation()),
            Just(insert("7")),
            Just(Message::Commit { end: 3 }),
            "[alrtx] [0-9]{1,3} [0-9]{1,2} [0-9]{1,20} .{0,9}".prop_map(|text| told(&text)),
            (0..3_u32, any_row()).prop_map(|(relation, row)| Message::Insert { relation, row }),
            (0..3_u32, any_row()).prop_map(|(relation, row)| Message::Update {
                relation,
                before: None,
                row
            }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_panics(messages in prop::collection::vec(message(), 0..40)) {
            let mut decoder = Decoder::new(STORE, wal::prefix(&STORE), Position::START, false);
            for message in messages {
                if let Ok(Met::Change(position, raw)) = decoder.read(message) {
                    let _ = decoder.change(position, raw);
                }
            }
        }
    }
}
