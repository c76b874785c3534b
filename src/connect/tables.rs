//! Captured tables and their copies.

use std::sync::Arc;

use ledger_bridge::{
    AnyBridge, Bridge, BridgeOptions, OnFailure, TableEnds, VerifyOptions, under_lease,
    verify_tables,
};
use ledger_sources::postgres::capture::{CaptureOptions, PostgresCapture};

use super::flow::{Flow, Verified};
use super::{DatabaseUrl, Kind};
use crate::pipeline::BatchOptions;
use crate::{
    Error, ErrorKind, PipelineId, Result, RowChange, Source, TableName, TableRoutes, TableSink,
};

/// The tables of a database, and what keeps their copies.
#[derive(Clone)]
pub(super) struct TableFlow {
    source: Arc<PostgresCapture>,
    sink: Arc<dyn TableSink>,
    batch: BatchOptions,
}

impl Flow {
    /// The tables of the database at `from` that `options` select, and their copies in the one at
    /// `to`, as `routes` say. `Unsupported` where `from` is not PostgreSQL.
    pub async fn tables(
        from: &DatabaseUrl,
        to: &DatabaseUrl,
        options: CaptureOptions,
        routes: TableRoutes,
    ) -> Result<Self> {
        let Some(config) = postgres(from) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "capture tables",
                format!(
                    "tables are captured from postgres://, not from {}://",
                    from.scheme()
                ),
            ));
        };
        let (sink, batch) = open(to, routes).await?;
        let capture = PostgresCapture::open(config.clone(), options, Arc::clone(&sink));
        Ok(Self::of_tables(TableFlow {
            source: Arc::new(capture.await?),
            sink,
            batch,
        }))
    }

    /// Copies one table anew, beside the others, in the next run. `NotFound` where it is not one of
    /// the bridge's, `Unsupported` where the bridge carries a store.
    pub async fn resync_table(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        match self.as_tables() {
            Some(tables) => {
                let consumers = tables.source.consumers();
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
        self.source.as_ref()
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
        let (source, sink) = (Arc::clone(&self.source), Arc::clone(&self.sink));
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
            source: self.source.as_ref(),
            from: self.source.as_ref(),
            sink: self.sink.as_ref(),
            pipeline: &options.pipeline,
            patience: options.patience,
        };
        let tables = self.source.tables().await?;
        let report = verify_tables(&ends, &tables, options.repair, compared);
        Ok(report.await?.into())
    }
}

/// How the server is reached, where it is PostgreSQL.
fn postgres(url: &DatabaseUrl) -> Option<&ledger_layout::postgres::PostgresConfig> {
    match &url.0 {
        Kind::Postgres(config) => Some(config),
        #[allow(unreachable_patterns, reason = "depends on the features")]
        _ => None,
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
    }
}
