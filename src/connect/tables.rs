//! Captured tables and their copies.

use std::sync::Arc;

use ledger_bridge::{
    AnyBridge, Bridge, BridgeOptions, OnFailure, TableEnds, VerifyOptions, under_lease,
    verify_tables,
};
#[cfg(feature = "mongodb")]
use ledger_sources::mongodb::capture::{CollectionOptions, MongoCapture};
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
    Postgres(Arc<PostgresCapture>),
    #[cfg(feature = "mongodb")]
    Mongo(Arc<MongoCapture>),
}

impl Capture {
    fn source(&self) -> Arc<dyn Source<RowChange>> {
        match self {
            Self::Postgres(capture) => Arc::clone(capture) as _,
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => Arc::clone(capture) as _,
        }
    }

    fn as_source(&self) -> &dyn Source<RowChange> {
        match self {
            Self::Postgres(capture) => capture.as_ref(),
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.as_ref(),
        }
    }

    fn contents(&self) -> &dyn TableContents {
        match self {
            Self::Postgres(capture) => capture.as_ref(),
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.as_ref(),
        }
    }

    async fn tables(&self) -> Result<Vec<Arc<Table>>> {
        match self {
            Self::Postgres(capture) => capture.tables().await,
            #[cfg(feature = "mongodb")]
            Self::Mongo(capture) => capture.tables().await,
        }
    }

    async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        match self {
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
    /// `to`, as `routes` say; of MongoDB its collections, as tables of the schema `public` with the
    /// columns `_id` and `doc`. `Unsupported` where `from` is neither PostgreSQL nor MongoDB, and for
    /// options that only PostgreSQL knows.
    pub async fn tables(
        from: &DatabaseUrl,
        to: &DatabaseUrl,
        options: CaptureOptions,
        routes: TableRoutes,
    ) -> Result<Self> {
        // Refused before anything is made at the sink.
        match &from.0 {
            Kind::Postgres(_) => {}
            #[cfg(feature = "mongodb")]
            Kind::Mongo(_) => check_collections(&options)?,
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "capture tables",
                    format!(
                        "tables are captured from postgres:// and collections from mongodb://, not \
                         from {}://",
                        from.scheme()
                    ),
                ));
            }
        }
        let (sink, batch) = open(to, routes).await?;
        let source = match &from.0 {
            Kind::Postgres(config) => {
                let config = config.as_ref().clone();
                let capture = PostgresCapture::open(config, options, Arc::clone(&sink));
                Capture::Postgres(Arc::new(capture.await?))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                let options = CollectionOptions {
                    copy: options.copy,
                    ..CollectionOptions::new(options.tables)
                };
                let config = config.as_ref().clone();
                let capture = MongoCapture::open(config, options, Arc::clone(&sink));
                Capture::Mongo(Arc::new(capture.await?))
            }
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => return Err(Error::new(ErrorKind::Unsupported, "capture tables", "")),
        };
        Ok(Self::of_tables(TableFlow {
            source,
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
        compared: impl FnMut(u64) + Send,
    ) -> Result<Verified> {
        let ends = TableEnds {
            source: self.source(),
            from: self.source.contents(),
            sink: self.sink.as_ref(),
            pipeline: &options.pipeline,
            patience: options.patience,
        };
        let tables = self.source.tables().await?;
        let report = verify_tables(&ends, &tables, options.repair, compared);
        Ok(report.await?.into())
    }
}

/// What is said of tables and means nothing for collections is refused, not passed over.
#[cfg(feature = "mongodb")]
fn check_collections(options: &CaptureOptions) -> Result<()> {
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
        None => Ok(()),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Unsupported,
            "capture collections",
            format!("{name}: collections of MongoDB have no such option"),
        )),
    }
}

/// Opens what keeps the copies.
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
