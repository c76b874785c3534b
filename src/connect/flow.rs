//! The two ends of a bridge, whatever it carries.

use std::fmt;
use std::sync::Arc;

use ledger_bridge::{
    AnyBridge, Bridge, BridgeOptions, Difference, Report, VerifyOptions, under_lease, verify,
};
#[cfg(any(feature = "mongodb", feature = "postgres"))]
use ledger_bridge::{RowDifference, TableReport};

use super::ReplicaSink;
#[cfg(any(feature = "mongodb", feature = "postgres"))]
use super::tables::TableFlow;
use crate::pipeline::BatchOptions;
use crate::{
    ChangeLog, Consumers, Cursor, DeadLetters, Error, ErrorKind, Lag, PipelineId, Result, Store,
};

/// The two ends of a bridge: a ledger's store and its replica, or the tables of a database and their
/// copies. Cloning shares them.
#[derive(Clone)]
pub struct Flow(Kind);

#[derive(Clone)]
enum Kind {
    Ledger {
        source: Arc<dyn Store>,
        sink: ReplicaSink,
    },
    #[cfg(any(feature = "mongodb", feature = "postgres"))]
    Tables(TableFlow),
}

/// What came of comparing the two ends.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Whether tables were compared, and not a store.
    pub of_tables: bool,
    /// The streams, or the tables.
    pub groups: u64,
    /// The entries, or the rows.
    pub compared: u64,
    /// What differs.
    pub differences: Vec<Differing>,
    /// How many entries the bridge has not come to yet.
    pub pending: u64,
    /// How many differences were mended.
    pub repaired: u64,
    /// How many could not be.
    pub unrepaired: u64,
    /// Where something was mended in a relay: the bridges from it, which are to be verified as well.
    pub verify_too: Vec<PipelineId>,
    /// Whether the two are equal, after what was mended.
    pub equal: bool,
}

/// An entry, a stream or a row that differs. `Display` tells it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// The stream, or the table.
    pub group: String,
    /// The entry's id, or the row's key; none for a stream itself.
    pub key: Option<String>,
    /// In one word.
    pub kind: &'static str,
    /// The fields, or the columns, that differ.
    pub fields: Vec<String>,
    text: String,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Report> for Verified {
    fn from(report: Report) -> Self {
        let differing = |difference: &Difference| Differing {
            group: difference.stream.as_str().to_owned(),
            key: difference.id.map(|id| id.to_string()),
            kind: difference.kind.as_str(),
            fields: difference.fields.iter().map(ToString::to_string).collect(),
            text: difference.to_string(),
        };
        Self {
            of_tables: false,
            groups: report.streams,
            compared: report.entries,
            differences: report.differences.iter().map(differing).collect(),
            pending: report.pending,
            repaired: report.repaired,
            unrepaired: report.unrepaired,
            equal: report.is_equal(),
            verify_too: report.verify_too,
        }
    }
}

#[cfg(any(feature = "mongodb", feature = "postgres"))]
impl From<TableReport> for Verified {
    fn from(report: TableReport) -> Self {
        let differing = |difference: &RowDifference| Differing {
            group: difference.table.clone(),
            key: Some(difference.key.clone()),
            kind: difference.kind,
            fields: difference.columns.clone(),
            text: difference.to_string(),
        };
        Self {
            of_tables: true,
            groups: report.tables,
            compared: report.rows,
            differences: report.differences.iter().map(differing).collect(),
            pending: 0,
            repaired: report.repaired,
            unrepaired: report.differences.len() as u64 - report.repaired,
            verify_too: Vec::new(),
            equal: report.is_equal(),
        }
    }
}

/// How many dead letters are removed at a time.
const LETTERS: usize = 500;

impl Flow {
    /// A store, which must keep a log, and its replica.
    pub fn ledger(source: Arc<dyn Store>, sink: ReplicaSink) -> Result<Self> {
        log(source.as_ref())?;
        Ok(Self(Kind::Ledger { source, sink }))
    }

    #[cfg(any(feature = "mongodb", feature = "postgres"))]
    pub(super) fn of_tables(tables: TableFlow) -> Self {
        Self(Kind::Tables(tables))
    }

    #[cfg(any(feature = "mongodb", feature = "postgres"))]
    pub(super) fn as_tables(&self) -> Option<&TableFlow> {
        match &self.0 {
            Kind::Ledger { .. } => None,
            Kind::Tables(tables) => Some(tables),
        }
    }

    /// Who reads the source.
    pub fn consumers(&self) -> Result<&dyn Consumers> {
        match &self.0 {
            Kind::Ledger { source, .. } => Ok(log(source.as_ref())?.consumers()),
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => Ok(tables.source().consumers()),
        }
    }

    /// What could not be delivered.
    pub fn dead_letters(&self) -> Result<&dyn DeadLetters> {
        match &self.0 {
            Kind::Ledger { source, .. } => Ok(log(source.as_ref())?.dead_letters()),
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => Ok(tables.source().dead_letters()),
        }
    }

    /// The head of the source's log.
    pub async fn head(&self) -> Result<Cursor> {
        match &self.0 {
            Kind::Ledger { source, .. } => log(source.as_ref())?.head().await,
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.source().head().await,
        }
    }

    /// How far behind the head a position is.
    pub async fn lag(&self, after: &Cursor) -> Result<Lag> {
        match &self.0 {
            Kind::Ledger { source, .. } => log(source.as_ref())?.lag(after).await,
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.source().lag(after).await,
        }
    }

    /// About how many entries or rows the source holds.
    pub async fn size(&self) -> Result<u64> {
        match &self.0 {
            Kind::Ledger { source, .. } => log(source.as_ref())?.size().await,
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.source().size().await,
        }
    }

    /// The batches that suit the sink.
    pub fn batch(&self) -> BatchOptions {
        match &self.0 {
            Kind::Ledger { sink, .. } => sink.batch(),
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.batch(),
        }
    }

    /// The bridge between them.
    pub fn bridge(&self, options: BridgeOptions) -> Result<AnyBridge> {
        match &self.0 {
            Kind::Ledger { source, sink } => {
                Ok(Bridge::new(Arc::clone(source), sink.sink(), options)?.into())
            }
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.bridge(options),
        }
    }

    /// Has the next run copy everything anew, and forgets what the source knows of the bridge, its
    /// dead letters included: the copy holds them. A replica of a store is emptied. `Unavailable`
    /// while the bridge runs.
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        let (consumers, letters) = (self.consumers()?, self.dead_letters()?);
        // Under the bridge's lease: nobody else begins to write what is being emptied.
        consumers.register(pipeline, &self.head().await?).await?;
        let emptied = async {
            match &self.0 {
                Kind::Ledger { sink, .. } => sink.resync(pipeline).await?,
                #[cfg(any(feature = "mongodb", feature = "postgres"))]
                Kind::Tables(tables) => tables.resync(pipeline).await?,
            }
            loop {
                let page = letters.list(pipeline, None, LETTERS).await?;
                if page.is_empty() {
                    break;
                }
                let cursors: Vec<_> = page.into_iter().map(|letter| letter.cursor).collect();
                letters.remove(pipeline, &cursors).await?;
            }
            consumers.reset(pipeline, &self.head().await?).await
        };
        under_lease(consumers, pipeline, "resync", emptied).await
    }

    /// Gives back what the bridge holds at the source, for good: its registration and dead letters,
    /// and of a bridge of tables its replication slot and its publications, which keep the log. What
    /// it has written stays at the sink. `Unavailable` while the bridge runs.
    pub async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        let consumers = self.consumers()?;
        let removed = async {
            match &self.0 {
                Kind::Ledger { .. } => consumers.unregister(pipeline).await,
                #[cfg(any(feature = "mongodb", feature = "postgres"))]
                Kind::Tables(tables) => tables.remove(pipeline).await,
            }
        };
        let known = consumers.list().await?;
        if known.iter().any(|consumer| consumer.pipeline == *pipeline) {
            return under_lease(consumers, pipeline, "remove", removed).await;
        }
        match &self.0 {
            Kind::Ledger { .. } => Err(Error::new(
                ErrorKind::NotFound,
                "remove bridge",
                format!("there is no bridge {pipeline} at {}", self.source()),
            )),
            // A slot may be left of one that is not registered any more.
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(_) => removed.await,
        }
    }

    /// Compares the two, and mends what differs where `options.repair` says so.
    pub async fn verify(
        &self,
        options: &VerifyOptions,
        compared: impl FnMut(u64) + Send,
    ) -> Result<Verified> {
        match &self.0 {
            Kind::Ledger { source, sink } => {
                let sink = sink.sink();
                let report = verify(source.as_ref(), sink.as_ref(), options, compared);
                Ok(report.await?.into())
            }
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.verify(options, compared).await,
        }
    }

    /// Gives the source's connections back.
    pub async fn close(&self) {
        match &self.0 {
            Kind::Ledger { source, .. } => source.close().await,
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(_) => {}
        }
    }

    /// What is read, in words.
    pub fn source(&self) -> String {
        match &self.0 {
            Kind::Ledger { source, .. } => source.to_string(),
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.source().to_string(),
        }
    }

    /// What is written, in words.
    pub fn sink(&self) -> String {
        match &self.0 {
            Kind::Ledger { sink, .. } => sink.to_string(),
            #[cfg(any(feature = "mongodb", feature = "postgres"))]
            Kind::Tables(tables) => tables.sink().to_string(),
        }
    }
}

fn log(source: &dyn Store) -> Result<&dyn ChangeLog> {
    source.log().ok_or_else(|| {
        let what = format!("{source} keeps no mutation log; a replica does as a relay");
        Error::new(ErrorKind::Unsupported, "follow store", what)
    })
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flow({} -> {})", self.source(), self.sink())
    }
}
