//! Captured tables and their copies.

use std::sync::Arc;

use ledger_bridge::{
    AnyBridge, Bridge, BridgeOptions, OnFailure, TableEnds, VerifyOptions, under_lease,
    verify_tables,
};
#[cfg(feature = "mongodb")]
use ledger_sources::mongodb::capture::{CollectionOptions, MongoCapture};
#[cfg(feature = "postgres")]
use ledger_sources::postgres::capture::{CaptureOptions, PostgresCapture};

use super::flow::{Flow, Verified};
use super::{DatabaseUrl, Kind};
use crate::pipeline::BatchOptions;
use crate::{
    Error, ErrorKind, PipelineId, Result, RowChange, Source, Table, TableContents, TableName,
    TableRoutes, TableSink,
};

/// Whose rows are captured.
#[derive(Clone)]
enum Capture {
    #[cfg(feature = "postgres")]
    Postgres(Arc<PostgresCapture>),
    #[cfg(feature = "mongodb")]
    Mongo(Arc<MongoCapture>),
}

impl Capture {
    fn source(&self) -> Arc<dyn Source<RowChange>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(capture) => Arc::clone(capture) as _,
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => Arc::clone(capture) as _,
        }
    }

    fn as_source(&self) -> &dyn Source<RowChange> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(capture) => capture.as_ref(),
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.as_ref(),
        }
    }

    fn contents(&self) -> &dyn TableContents {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(capture) => capture.as_ref(),
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.as_ref(),
        }
    }

    #[cfg_attr(
        not(feature = "mongodb"),
        allow(unused_variables, reason = "PostgreSQL's catalogue tells the columns")
    )]
    async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<Arc<Table>>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(capture) => capture.tables().await,
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.tables(pipeline).await,
        }
    }

    async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(capture) => capture.remove(pipeline).await,
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.remove(pipeline).await,
        }
    }
}

/// The tables of a database, and what keeps their copies.
#[derive(Clone)]
pub(super) struct TableFlow {
    source: Capture,
    sink: Arc<dyn TableSink>,
    batch: BatchOptions,
}

impl Flow {
    /// The tables of the database at `from` that `options` select, and their copies in the one at
    /// `to`, as `routes` say; of MongoDB its collections, as [`collections`](Self::collections) with
    /// the documents as a whole. `Unsupported` where `from` is neither PostgreSQL nor MongoDB, and for
    /// options that only PostgreSQL knows.
    #[cfg(feature = "postgres")]
    pub async fn tables(
        from: &DatabaseUrl,
        to: &DatabaseUrl,
        options: CaptureOptions,
        routes: TableRoutes,
    ) -> Result<Self> {
        match &from.0 {
            Kind::Postgres(config) => {
                let (sink, batch) = open(to, routes).await?;
                let config = config.as_ref().clone();
                let capture = PostgresCapture::open(config, options, Arc::clone(&sink));
                Ok(Self::of_tables(TableFlow {
                    source: Capture::Postgres(Arc::new(capture.await?)),
                    sink,
                    batch,
                }))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(_) => {
                // Refused before anything is made at the sink.
                let options = collection_options(options)?;
                Box::pin(Self::collections(from, to, options, routes)).await
            }
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => Err(no_source(from)),
        }
    }

    /// The collections of the MongoDB database at `from` that `options` select, and their copies in
    /// the database at `to`, as `routes` say: tables of the schema `public` with the columns `_id` and
    /// `doc`, and others where `options` ask for them. `Unsupported` where `from` is no MongoDB.
    #[cfg(feature = "mongodb")]
    pub async fn collections(
        from: &DatabaseUrl,
        to: &DatabaseUrl,
        options: CollectionOptions,
        routes: TableRoutes,
    ) -> Result<Self> {
        #[allow(irrefutable_let_patterns, reason = "depends on the features")]
        let Kind::Mongo(config) = &from.0 else {
            return Err(no_source(from));
        };
        options.check()?;
        let (sink, batch) = open(to, routes).await?;
        let config = config.as_ref().clone();
        let capture = MongoCapture::open(config, options, Arc::clone(&sink));
        Ok(Self::of_tables(TableFlow {
            source: Capture::Mongo(Arc::new(capture.await?)),
            sink,
            batch,
        }))
    }

    /// Copies one table anew, beside the others, in the next run. `NotFound` where it is not one of
    /// the bridge's, `Unsupported` where the bridge carries a store.
    pub async fn resync_table(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        match self.as_tables() {
            Some(tables) => {
                let consumers = tables.source().consumers();
                consumers.register(pipeline, &self.head().await?).await?;
                // Nobody else writes what is being given up.
                let forgotten = tables.sink.forget(pipeline, table);
                under_lease(consumers, pipeline, "resync table", forgotten).await
            }
            None => Err(Error::new(
                ErrorKind::Unsupported,
                "resync table",
                format!("bridge {pipeline} carries a store, not tables"),
            )),
        }
    }
}

impl TableFlow {
    pub(super) fn source(&self) -> &dyn Source<RowChange> {
        self.source.as_source()
    }

    pub(super) fn sink(&self) -> &dyn TableSink {
        self.sink.as_ref()
    }

    pub(super) fn batch(&self) -> BatchOptions {
        self.batch
    }

    pub(super) fn bridge(&self, options: BridgeOptions) -> Result<AnyBridge> {
        // A change that is delivered later than others of its table would undo them.
        if options.on_failure == OnFailure::Park && !self.sink.is_versioned() {
            let what = format!(
                "on_failure: park needs a sink whose rows have versions, and {} keeps none; use stop \
                 or skip",
                self.sink
            );
            return Err(Error::new(ErrorKind::Unsupported, "open bridge", what));
        }
        let (source, sink) = (self.source.source(), Arc::clone(&self.sink));
        Ok(Bridge::from_source(source, sink, options)?.into())
    }

    pub(super) async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        self.sink.resync(pipeline).await
    }

    pub(super) async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        self.source.remove(pipeline).await
    }

    pub(super) async fn verify(
        &self,
        options: &VerifyOptions,
        mut compared: impl FnMut(u64) + Send,
    ) -> Result<Verified> {
        let ends = TableEnds {
            source: self.source(),
            from: self.source.contents(),
            sink: self.sink.as_ref(),
            pipeline: &options.pipeline,
            patience: options.patience,
        };
        let mut tables = self.source.tables(&options.pipeline).await?;
        for _ in 0..AGAIN {
            let report = verify_tables(&ends, &tables, options.repair, &mut compared).await?;
            let now = self.source.tables(&options.pipeline).await?;
            if options.repair || now == tables {
                return Ok(report.into());
            }
            // Other columns by now: those were compared that there were before.
            tables = now;
        }
        let report = verify_tables(&ends, &tables, options.repair, compared);
        Ok(report.await?.into())
    }
}

/// How often tables are compared again of which the columns have changed meanwhile.
const AGAIN: u32 = 4;

fn no_source(from: &DatabaseUrl) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "capture tables",
        format!(
            "tables are captured from postgres:// and collections from mongodb://, not from {}://",
            from.scheme()
        ),
    )
}

/// What options of tables say of collections, with the defaults for what they do not say.
/// `Unsupported` for what only PostgreSQL has, which is not passed over.
#[cfg(all(feature = "mongodb", feature = "postgres"))]
pub fn collection_options(options: CaptureOptions) -> Result<CollectionOptions> {
    let mut filters = options.filters.values();
    let given = [
        ("slot", options.slot.is_some()),
        ("publication", options.publication.is_some()),
        ("keyless_changes", options.keyless_changes),
        ("wal_budget", options.wal_budget.is_some()),
        (
            "rows and excluded columns",
            filters.any(|filter| filter.rows.is_some() || !filter.exclude.is_empty()),
        ),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(CollectionOptions {
            copy: options.copy,
            ..CollectionOptions::new(options.tables)
        }),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Unsupported,
            "capture collections",
            format!("{name}: collections of MongoDB have no such option"),
        )),
    }
}

/// Opens what keeps the copies.
#[cfg_attr(
    not(any(feature = "clickhouse", feature = "postgres", feature = "sqlite")),
    allow(
        unused_variables,
        clippy::unused_async,
        reason = "nothing keeps copies then"
    )
)]
async fn open(to: &DatabaseUrl, routes: TableRoutes) -> Result<(Arc<dyn TableSink>, BatchOptions)> {
    match &to.0 {
        #[cfg(feature = "clickhouse")]
        Kind::ClickHouse(config) => {
            use ledger_sinks::clickhouse::ClickHouseTables;
            let sink = ClickHouseTables::open(config, routes).await?;
            let bounds = ClickHouseTables::recommended_batch();
            let batch = BatchOptions {
                max_items: bounds.items,
                max_bytes: bounds.bytes,
                max_wait: bounds.wait,
            };
            Ok((Arc::new(sink), batch))
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres(config) => {
            let sink = ledger_sinks::postgres::PostgresTables::open(config, routes).await?;
            Ok((Arc::new(sink), BatchOptions::default()))
        }
        #[cfg(feature = "sqlite")]
        Kind::Sqlite(config) => {
            let sink = ledger_sinks::sqlite::SqliteTables::open(config.clone(), routes).await?;
            Ok((Arc::new(sink), BatchOptions::default()))
        }
        #[cfg(feature = "mongodb")]
        Kind::Mongo(_) => Err(Error::new(
            ErrorKind::Unsupported,
            "open copies of tables",
            format!("{to} keeps no copies of tables; carry them into clickhouse:// or postgres://"),
        )),
    }
}
