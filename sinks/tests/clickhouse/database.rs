//! A database of its own for each test, and what is delivered into it.

use clickhouse::Row;
use ledger_core::{
    Batch, Change, Cursor, Entry, EntryId, Mutation, Pairs, PipelineId, Sink as _, SourceId,
    StoreName, StreamKey, StreamName, StreamRef, Timestamp,
};
use ledger_layout::clickhouse::{ClickHouseConfig, Connection, identifier};
use ledger_sinks::clickhouse::ClickHouseSink;
use serde::Deserialize;
use uuid::Uuid;

/// A database of its own on one of the engines.
pub(crate) struct Database {
    pub(crate) config: ClickHouseConfig,
    pub(crate) connection: Connection,
}

impl Database {
    pub(crate) async fn create(variable: &str) -> Self {
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set; see scripts/servers.sh"));
        let mut config: ClickHouseConfig = url.parse().unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin = Connection::new(config.clone());
        admin
            .execute("test", &format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        config.database = name;
        Self {
            connection: Connection::new(config.clone()),
            config,
        }
    }

    pub(crate) async fn sink(&self) -> ClickHouseSink {
        ClickHouseSink::open(&self.config, &orders()).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.connection.execute("test", sql).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &str) -> u64 {
        let query = self.connection.client().query_raw(sql);
        self.connection
            .timed("test", query.fetch_one::<u64>())
            .await
            .unwrap()
    }

    pub(crate) async fn view(&self) -> Vec<ViewRow> {
        let query = self
            .connection
            .client()
            .query("SELECT ?fields FROM orders_current ORDER BY stream, id");
        self.connection.fetch_all("test", query).await.unwrap()
    }

    pub(crate) async fn drop(self) {
        self.execute(&format!(
            "DROP DATABASE {}",
            identifier(&self.config.database)
        ))
        .await;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Row, Deserialize)]
pub(crate) struct ViewRow {
    pub(crate) stream: String,
    pub(crate) id: u64,
    #[serde(with = "serde_bytes")]
    pub(crate) payload: Vec<u8>,
    pub(crate) order_key: String,
    pub(crate) dedup_key: String,
    pub(crate) schema_version: i64,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) tags: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: Option<i64>,
}

pub(crate) fn orders() -> StoreName {
    StoreName::new("orders").unwrap()
}

pub(crate) fn pipeline() -> PipelineId {
    PipelineId::new("bridge-1").unwrap()
}

pub(crate) fn source(number: u128) -> SourceId {
    SourceId {
        store: Uuid::from_u128(number),
        system: "7301".to_owned(),
        timeline: 1,
        origins: Vec::new(),
    }
}

pub(crate) fn cursor(at: usize) -> Cursor {
    Cursor::new(b'P', &u64::try_from(at).unwrap().to_be_bytes())
}

pub(crate) fn stream(key: u64, name: &str, name_version: u64) -> StreamRef {
    StreamRef {
        key: StreamKey(key),
        name: StreamName::new(name).unwrap(),
        name_version,
    }
}

pub(crate) fn entry(id: u64) -> Entry {
    Entry {
        id: EntryId(id),
        stream: StreamName::new("a").unwrap(),
        payload: vec![0, 0xff, b'\'', u8::try_from(id % 250).unwrap()].into(),
        order_key: format!("order-{id}"),
        dedup_key: format!("däd'up\\{id}"),
        schema_version: 3,
        metadata: Pairs::from([("k'\\".to_owned(), format!("wért {id}"))]),
        tags: vec!["new".to_owned()],
        annotations: Pairs::new(),
        label_version: 0,
        created_at: Timestamp::from_micros(1_700_000_000_123_456 + i64::try_from(id).unwrap()),
        updated_at: None,
    }
}

pub(crate) fn change(stream: &StreamRef, at: i64, mutation: Mutation) -> Change {
    Change {
        cursor: cursor(0),
        committed_at: Timestamp::from_micros(1_700_000_000_000_000 + at),
        stream: stream.clone(),
        mutation,
    }
}

pub(crate) fn append(stream: &StreamRef, id: u64) -> Change {
    let entry = Entry {
        stream: stream.name.clone(),
        ..entry(id)
    };
    change(
        stream,
        0,
        Mutation::Append {
            entry: Box::new(entry),
            version: id,
        },
    )
}

pub(crate) fn tags(stream: &StreamRef, id: u64, label_version: u64, tag: &str) -> Change {
    let tags = vec![tag.to_owned()];
    change(
        stream,
        5,
        Mutation::SetTags {
            id: EntryId(id),
            label_version,
            tags,
        },
    )
}

pub(crate) fn trim(stream: &StreamRef, through: u64) -> Change {
    change(
        stream,
        0,
        Mutation::Trim {
            through: EntryId(through),
        },
    )
}

/// Batches over `changes[from..to]`, with the position as cursor.
pub(crate) fn batch(fence: u64, changes: &[Change], from: usize, to: usize) -> Batch<Change> {
    let items = (from..to)
        .map(|at| (cursor(at + 1), changes[at].clone()))
        .collect();
    Batch {
        items,
        after: Some(cursor(from)),
        through: cursor(to),
        ack: Some(cursor(to)),
        pipeline: pipeline(),
        fence,
    }
}

pub(crate) async fn claim(sink: &ClickHouseSink) -> u64 {
    sink.cursors()
        .unwrap()
        .claim(&pipeline(), &source(1))
        .await
        .unwrap()
        .fence
}

pub(crate) async fn deliver(sink: &ClickHouseSink, fence: u64, changes: &[Change]) {
    sink.deliver(&batch(fence, changes, 0, changes.len()))
        .await
        .unwrap();
}
