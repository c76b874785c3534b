//! The collections of a database as the source of a bridge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ledger_core::pipeline::Step;
use ledger_core::{
    Consumers, Cursor, DeadLetters, Error, ErrorKind, Lag, PipelineId, Progress, Result, RowChange,
    Source, SourceId, StoreName, Table, TableName, TableSink, TableState,
};
use ledger_layout::mongodb::{Collections, Deployment, MongoConfig, MongoDatabase, failed, text};
use mongodb::bson::{Bson, RawDocumentBuf, doc};
use mongodb::options::ReturnDocument;
use mongodb::results::CollectionType;
use uuid::Uuid;

use super::copying::Pending;
use super::feed::Feed;
use super::follow::{Following, OPERATION};
use super::options::CollectionOptions;
use super::position::{Position, number};
use super::shapes::Shapes;
use super::values::SCHEMA;
use crate::mongodb::consumers::MongoConsumers;
use crate::mongodb::dead_letters::MongoDeadLetters;
use crate::select::TableSelection;

/// Under which name captures are registered among the consumers of stores, and the collection that
/// says which database it is.
const REGISTERED: &str = "ledger_capture";

/// The collections of a MongoDB database, captured for one pipeline.
pub struct MongoCapture {
    database: MongoDatabase,
    options: CollectionOptions,
    sink: Arc<dyn TableSink>,
    consumers: MongoConsumers,
    dead_letters: MongoDeadLetters,
    /// About how many documents are still to be copied, while some are.
    copying: Arc<AtomicU64>,
    is_copying: Arc<AtomicBool>,
    /// When the stream was last read to its end.
    caught_up: Mutex<Instant>,
}

/// Which collections are carried.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    patterns: TableSelection,
    /// The collections of stores.
    own: BTreeSet<String>,
}

impl Selected {
    pub(super) fn holds(&self, collection: &str) -> bool {
        !collection.is_empty()
            && !collection.starts_with("system.")
            && !self.own.contains(collection)
            && self.patterns.holds(&TableName::new(SCHEMA, collection))
    }
}

impl MongoCapture {
    /// Connects, and checks what can be known at once: that there are change streams, and that there
    /// is a collection to carry.
    pub async fn open(
        config: MongoConfig,
        options: CollectionOptions,
        sink: Arc<dyn TableSink>,
    ) -> Result<Self> {
        options.check()?;
        let database = MongoDatabase::open(config).await?;
        if database.deployment() == Deployment::Standalone {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                format!(
                    "{} is no replica set, and has no change streams; start mongod with --replSet",
                    database.config()
                ),
            ));
        }
        let collections = Collections::of(&StoreName::new(REGISTERED)?);
        let this = Self {
            consumers: MongoConsumers {
                database: database.clone(),
                collections: Arc::clone(&collections),
                position: |cursor| {
                    let position = Position::from_cursor(cursor)?;
                    Ok(i64::try_from(position.time).unwrap_or(i64::MAX))
                },
            },
            dead_letters: MongoDeadLetters {
                database: database.clone(),
                collections,
            },
            database,
            options,
            sink,
            copying: Arc::default(),
            is_copying: Arc::default(),
            caught_up: Mutex::new(Instant::now()),
        };
        if this.names(&this.selected().await?).await?.is_empty() {
            let what = format!("no collection matches {}", this.options.collections);
            return Err(Error::new(ErrorKind::NotFound, OPERATION, what));
        }
        Ok(this)
    }

    pub(super) fn database(&self) -> &MongoDatabase {
        &self.database
    }

    /// The collections that are selected at this moment, with the columns that the pipeline's tables
    /// have at the sink.
    pub async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<Arc<Table>>> {
        let names = self.names(&self.selected().await?).await?;
        let mut shapes = self.shapes(&self.sink.tables(pipeline).await?);
        Ok(names.iter().map(|name| shapes.table(name)).collect())
    }

    fn shapes(&self, states: &[TableState]) -> Shapes {
        let database = &self.database.config().database;
        Shapes::new(database, self.options.documents, states)
    }

    /// Gives back what the pipeline holds at the server: its registration and dead letters.
    pub async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        self.consumers.unregister(pipeline).await
    }

    async fn selected(&self) -> Result<Selected> {
        let stores = self.database.stores().await?;
        let own = stores.iter().flat_map(|store| {
            let own = Collections::of(store);
            [own.streams.clone(), own.entries.clone(), own.log.clone()]
        });
        Ok(Selected {
            patterns: self.options.collections.clone(),
            own: own.collect(),
        })
    }

    async fn names(&self, selected: &Selected) -> Result<BTreeSet<String>> {
        let fail = |error| failed(OPERATION, self.database.config().to_string(), error);
        let mut found = self
            .database
            .database()
            .list_collections()
            .await
            .map_err(fail)?;
        let mut names = BTreeSet::new();
        while let Some(collection) = found.next().await {
            let collection = collection.map_err(fail)?;
            let ordinary = matches!(collection.collection_type, CollectionType::Collection);
            if ordinary && selected.holds(&collection.name) {
                names.insert(collection.name);
            }
        }
        Ok(names)
    }

    /// The collections that the sink has tables of, and those that are to be copied.
    async fn sorted(
        &self,
        states: &[TableState],
        selected: &Selected,
    ) -> Result<(BTreeSet<String>, VecDeque<Pending>)> {
        let noted: BTreeMap<&str, &TableState> = states
            .iter()
            .map(|state| (state.table.name.table.as_str(), state))
            .collect();
        let mut pending = VecDeque::new();
        for name in self.names(selected).await? {
            let state = noted.get(name.as_str()).copied();
            let (documents, copy) = (self.options.documents, self.options.copy);
            pending.extend(Pending::of(&name, state, documents, copy));
        }
        let known = noted.into_keys().map(str::to_owned);
        Ok((known.collect(), pending))
    }
}

/// The time behind the last write that the majority has.
pub(super) async fn head(database: &MongoDatabase) -> Result<u64> {
    let hello = database
        .run("find the oplog's head", doc! {"hello": 1})
        .await?;
    let time = hello
        .get_document("lastWrite")
        .and_then(|write| write.get_document("majorityOpTime"))
        .and_then(|time| time.get_timestamp("ts"));
    match (time, hello.get("operationTime")) {
        (Ok(time), _) => Ok(number(time) + 1),
        (Err(_), Some(Bson::Timestamp(time))) => Ok(number(*time) + 1),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "find the oplog's head",
            "the server tells no time of its last write",
        )),
    }
}

/// A time as [`head`] tells it, later than any that was told before.
pub(super) async fn later_head(database: &MongoDatabase) -> Result<u64> {
    // Nothing else may be written meanwhile.
    let (of, count) = (doc! {"_id": "identity"}, doc! {"$inc": {"copies": 1_i64}});
    let moved = database.collection(REGISTERED).update_one(of, count).await;
    moved.map_err(|error| failed("move the oplog's head", "", error))?;
    head(database).await
}

#[async_trait]
impl Source<RowChange> for MongoCapture {
    async fn identity(&self) -> Result<SourceId> {
        self.database.check_open()?;
        // A database has no number of its own that every user may read.
        let new = doc! {"$setOnInsert": {"uuid": Uuid::new_v4().to_string()}};
        let found: Option<RawDocumentBuf> = self
            .database
            .collection(REGISTERED)
            .find_one_and_update(doc! {"_id": "identity"}, new)
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await
            .map_err(|error| failed("read source identity", "", error))?;
        let malformed = || {
            let what = format!("the collection {REGISTERED} holds no identity");
            Error::new(ErrorKind::Corrupt, "read source identity", what)
        };
        let found = found.ok_or_else(malformed)?;
        Ok(SourceId {
            store: text(&found, "uuid")?.parse().map_err(|_| malformed())?,
            system: "mongodb".to_owned(),
            timeline: 1,
            origins: Vec::new(),
        })
    }

    async fn head(&self) -> Result<Cursor> {
        Ok(Position::before(head(&self.database).await?).to_cursor())
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        let position = Position::from_cursor(after)?;
        let end = head(&self.database).await?;
        let behind = (end >> 32).saturating_sub(position.time >> 32);
        let mut caught_up = self
            .caught_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // What is written elsewhere on the server moves the end, and an idle position follows it only
        // every few seconds.
        if behind < 15 {
            *caught_up = Instant::now();
        }
        Ok(Lag {
            bytes: None,
            entries: 0,
            age: caught_up.elapsed(),
            held_by: Vec::new(),
        })
    }

    async fn size(&self) -> Result<u64> {
        let mut size = 0;
        for name in self.names(&self.selected().await?).await? {
            let count = self
                .database
                .collection(&name)
                .estimated_document_count()
                .await;
            size += count.map_err(|error| failed("count documents", "", error))?;
        }
        Ok(size)
    }

    fn copying(&self) -> Option<u64> {
        let left = self.copying.load(Ordering::Relaxed);
        self.is_copying.load(Ordering::Relaxed).then_some(left)
    }

    async fn steps(
        &self,
        pipeline: &PipelineId,
        progress: Progress,
        until: Option<Cursor>,
    ) -> Result<BoxStream<'static, Result<Step<RowChange>>>> {
        let until = until.as_ref().map(Position::from_cursor).transpose()?;
        let end = head(&self.database).await?;
        let (position, fresh) = match &progress {
            Progress::Snapshot { .. } => (Position::before(end), true),
            Progress::Follow(cursor) => (Position::from_cursor(cursor)?, false),
        };
        if position.time > end {
            let what = format!(
                "{}: the oplog ends before the position that this bridge stands at: the server is a \
                 restored backup; copy the collections anew with `ledger bridge run --resync`",
                self.database.config()
            );
            return Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what));
        }
        let feed = Feed::at(&self.database, position).await?;
        let selected = self.selected().await?;
        let states = self.sink.tables(pipeline).await?;
        let shapes = self.shapes(&states);
        // Without a cursor nothing is known of how far the copies are.
        let noted = if fresh { &[] } else { states.as_slice() };
        let (known, pending) = self.sorted(noted, &selected).await?;
        self.copying.store(self.size().await?, Ordering::Relaxed);
        let following = Following::new(
            self.database.clone(),
            Arc::clone(&self.sink),
            shapes,
            selected,
            feed,
            position,
            known,
            pending,
            until.map(|until| until.time),
            Arc::clone(&self.copying),
            Arc::clone(&self.is_copying),
        );
        Ok(following.steps())
    }

    fn version_at(&self, cursor: &Cursor) -> Result<u64> {
        Ok(Position::from_cursor(cursor)?.time)
    }

    fn consumers(&self) -> &dyn Consumers {
        &self.consumers
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.dead_letters
    }
}

impl fmt::Display for MongoCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} collections {}",
            self.database.config(),
            self.options.collections
        )
    }
}

impl fmt::Debug for MongoCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoCapture")
            .field("database", &self.database)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
