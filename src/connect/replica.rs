//! Replicas by URL.

use std::fmt;
use std::sync::Arc;

use ledger_layout::ReplicaOptions;

use super::{DatabaseUrl, Kind};
use crate::pipeline::BatchOptions;
use crate::{Change, ErrorKind, PipelineId, Result, Sink, Store, StoreName};

impl DatabaseUrl {
    /// Opens a sink for the changes of a store, and creates its tables where they do not exist.
    /// Refused: tables of that name that have another shape, or are no replica's.
    pub async fn open_sink(&self, store: &StoreName) -> Result<ReplicaSink> {
        self.open_sink_with(store, ReplicaOptions::default()).await
    }

    /// As [`open_sink`](Self::open_sink), with options.
    pub async fn open_sink_with(
        &self,
        store: &StoreName,
        options: ReplicaOptions,
    ) -> Result<ReplicaSink> {
        let sink = match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                use ledger_sinks::sqlite::SqliteSink;
                let sink = SqliteSink::open_with(config.clone(), store.clone(), options);
                Inner::Sqlite(Arc::new(sink.await?))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sinks::postgres::PostgresSink;
                let sink = PostgresSink::open_with(config, store, options);
                Inner::Postgres(Arc::new(sink.await?))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                use ledger_sinks::mongodb::MongoSink;
                let config = config.as_ref().clone();
                let sink = MongoSink::open_with(config, store.clone(), options);
                Inner::Mongo(Arc::new(sink.await?))
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sinks::clickhouse::ClickHouseSink;
                let sink = ClickHouseSink::open_with(config, store, options);
                Inner::ClickHouse(Arc::new(sink.await?))
            }
        };
        Ok(ReplicaSink(sink))
    }

    /// As [`open_sink_with`](Self::open_sink_with), for the changes of this source. Where the sink is a
    /// store that they came through, the error names the loop.
    pub async fn open_sink_of(
        &self,
        source: &dyn Store,
        store: &StoreName,
        options: ReplicaOptions,
    ) -> Result<ReplicaSink> {
        match Box::pin(self.open_sink_with(store, options)).await {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::AlreadyExists
                ) =>
            {
                self.check_loop(source, store).await?;
                Err(error)
            }
            opened => opened,
        }
    }

    /// `InvalidInput` where the store here is one that the changes of `source` came through.
    async fn check_loop(&self, source: &dyn Store, store: &StoreName) -> Result<()> {
        let Some(log) = source.log() else {
            return Ok(());
        };
        let identity = log.identity().await?;
        // What stands there may be no store at all; the sink's own error tells it.
        let Ok(sink) = Box::pin(self.open_store(store)).await else {
            return Ok(());
        };
        let looped = match sink.log() {
            Some(log) => {
                let own = log.identity().await?;
                identity.check_sink(own.store, &format!("store {store} in {self}"))
            }
            None => Ok(()),
        };
        sink.close().await;
        looped
    }

    /// As [`open_sink`](Self::open_sink), creating nothing: `NotFound` where there is no replica.
    pub async fn open_existing_sink(&self, store: &StoreName) -> Result<ReplicaSink> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                let existing = Self(Kind::Sqlite(config.clone().create(false)));
                Box::pin(existing.open_sink(store)).await
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sinks::postgres::PostgresSink;
                let sink = PostgresSink::open_existing(config, store).await?;
                Ok(ReplicaSink(Inner::Postgres(Arc::new(sink))))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                let config = config.as_ref().clone().create(false);
                let existing = Self(Kind::Mongo(Box::new(config)));
                Box::pin(existing.open_sink(store)).await
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sinks::clickhouse::ClickHouseSink;
                let sink = ClickHouseSink::open_existing(config, store).await?;
                Ok(ReplicaSink(Inner::ClickHouse(Arc::new(sink))))
            }
        }
    }
}

/// A replica opened by its URL: the sink of a bridge, and what suits it. Cloning shares it.
#[derive(Clone)]
pub struct ReplicaSink(Inner);

#[derive(Clone)]
enum Inner {
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<ledger_sinks::sqlite::SqliteSink>),
    #[cfg(feature = "postgres")]
    Postgres(Arc<ledger_sinks::postgres::PostgresSink>),
    #[cfg(feature = "mongodb")]
    Mongo(Arc<ledger_sinks::mongodb::MongoSink>),
    #[cfg(feature = "clickhouse")]
    ClickHouse(Arc<ledger_sinks::clickhouse::ClickHouseSink>),
}

impl ReplicaSink {
    /// The sink itself.
    pub fn sink(&self) -> Arc<dyn Sink<Change>> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(sink) => Arc::clone(sink) as _,
            #[cfg(feature = "postgres")]
            Inner::Postgres(sink) => Arc::clone(sink) as _,
            #[cfg(feature = "mongodb")]
            Inner::Mongo(sink) => Arc::clone(sink) as _,
            #[cfg(feature = "clickhouse")]
            Inner::ClickHouse(sink) => Arc::clone(sink) as _,
        }
    }

    /// The batches that suit it.
    pub fn batch(&self) -> BatchOptions {
        match &self.0 {
            #[cfg(feature = "clickhouse")]
            Inner::ClickHouse(_) => {
                let bounds = ledger_sinks::clickhouse::ClickHouseSink::recommended_batch();
                BatchOptions {
                    max_items: bounds.items,
                    max_bytes: bounds.bytes,
                    max_wait: bounds.wait,
                }
            }
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => BatchOptions::default(),
        }
    }

    /// Empties the replica and forgets the pipeline's cursor, so that the next run copies
    /// everything anew, from whichever source. No bridge may be running.
    #[allow(
        unused_variables,
        reason = "all but ClickHouse forget the cursors of all pipelines"
    )]
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(sink) => sink.clear().await,
            #[cfg(feature = "postgres")]
            Inner::Postgres(sink) => sink.resync().await,
            #[cfg(feature = "mongodb")]
            Inner::Mongo(sink) => sink.clear().await,
            #[cfg(feature = "clickhouse")]
            Inner::ClickHouse(sink) => sink.resync(pipeline).await,
        }
    }
}

impl fmt::Display for ReplicaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sink().fmt(f)
    }
}

impl fmt::Debug for ReplicaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaSink({self})")
    }
}
