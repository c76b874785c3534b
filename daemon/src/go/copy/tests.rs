//! What a database refuses, and what becomes of the rest.

use std::cell::RefCell;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use ledger::CursorStore;
use ledger::connect::DatabaseUrl;

use super::super::source::{GoRow, GoStream};
use super::*;

/// A sink that refuses the entries with these ids as data.
#[derive(Debug)]
struct Refusing {
    ids: Vec<u64>,
    taken: Mutex<Vec<u64>>,
    acks: Mutex<Vec<Position>>,
}

impl fmt::Display for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refusing")
    }
}

#[async_trait]
impl Sink<Change> for Refusing {
    async fn deliver(&self, batch: &Batch<Change>) -> ledger::Result<()> {
        let ids: Vec<_> = batch.items.iter().map(|(_, change)| id(change)).collect();
        if ids.iter().any(|id| self.ids.contains(id)) {
            return Err(Error::new(ErrorKind::Rejected, "deliver", "not this one"));
        }
        self.taken.lock().unwrap().extend(ids);
        let ack = Position::from_cursor(batch.ack.as_ref().unwrap());
        self.acks.lock().unwrap().push(ack.unwrap());
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        None
    }
}

fn id(change: &Change) -> u64 {
    match &change.mutation {
        Mutation::Append { entry, .. } => entry.id.0,
        _ => 0,
    }
}

fn row(id: i64) -> GoRow {
    GoRow {
        id,
        stream: GoStream {
            key: 1,
            id: b"s".to_vec(),
            name: None,
            shadowed: false,
        },
        payload: Some(b"1".to_vec()),
        order_key: None,
        dedup_key: None,
        schema_version: 1,
        metadata: None,
        tags: None,
        annotations: None,
        source_id: None,
        created_at: Some(b"2023-11-14T22:13:20.123".to_vec()),
        updated_at: None,
    }
}

#[tokio::test]
async fn what_the_database_refuses_is_named_and_the_rest_of_its_batch_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let url = format!("sqlite:{}", path.display());
    let create = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&create).await.unwrap();
    let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, stream TEXT, payload BLOB,
               order_key TEXT, dedup_key TEXT, schema_version INTEGER, created_at TEXT)";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    let source = Source::open(&url).await.unwrap();
    assert_eq!(
        source.place(),
        DatabaseUrl::parse(&url).unwrap().to_string()
    );

    let sink = Arc::new(Refusing {
        ids: vec![3, 4, 10],
        taken: Mutex::default(),
        acks: Mutex::default(),
    });
    let named = RefCell::new(Vec::new());
    let copy = Copy {
        table: &source.tables()[0],
        to: None,
        restart: false,
        source_id_key: None,
        refused: &|refused| named.borrow_mut().push(refused.id.unwrap()),
        progress: &|_| {},
    };
    let mut target = Target {
        sink: Arc::clone(&sink) as _,
        pipeline: PipelineId::new("p").unwrap(),
        fence: 1,
        position: Position::default(),
        batch: Vec::new(),
        bytes: 0,
    };
    let mut position = Position {
        refused: 5,
        ..Position::default()
    };
    for id in 1..=10 {
        position.id = id.try_into().unwrap();
        target.add(change(row(id), position.to_cursor(), None).unwrap());
    }
    let mut copied = Copied {
        entries: 10,
        ..Copied::default()
    };
    copy.deliver(&mut target, &mut position, &mut copied)
        .await
        .unwrap();
    assert_eq!(*named.borrow(), [3, 4, 10]);
    assert_eq!(*sink.taken.lock().unwrap(), [1, 2, 5, 6, 7, 8, 9]);
    assert_eq!((copied.entries, position.refused), (7, 8));
    // A run that ends in between goes on behind what is durable or refused, and knows how many
    // were refused until there.
    let acks = sink.acks.lock().unwrap().clone();
    assert!(acks.is_sorted_by_key(|at| (at.id, at.refused)));
    for at in &acks {
        let refused = [3, 4, 10].iter().filter(|id| **id <= at.id).count();
        assert_eq!(at.refused, 5 + u64::try_from(refused).unwrap(), "{acks:?}");
    }
    assert_eq!(acks.last(), Some(&position));
}
