//! Whose a store is: a bridge's, which makes it a replica, or its own.

use ledger_core::{Error, ErrorKind, PipelineId, Result};
use uuid::Uuid;

use super::cursors::{ATTEMPTS, Cursors};
use super::{States, Tables};

/// Whose a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody has said so yet.
    Nobody,
    /// A pipeline writes it, or will: it is a replica.
    Bridge,
    /// It takes appends of its own.
    Itself,
}

/// What stands in a binding for a store of its own.
pub(super) const OWN: u8 = 2;
/// What stands in it while the content is removed.
pub(super) const EMPTYING: u8 = 3;

/// The state that decides between a promotion and a removal of the content: it is changed by
/// compare-and-set, which a binding is not. It holds [`PROMOTED`], or [`EMPTIED`] with the number of the
/// run that removes.
const FATE: &str = "fate";
const PROMOTED: &str = "promoted";
const EMPTIED: &str = "emptied";

impl Cursors {
    /// Whose the store is.
    pub async fn owner(&self, operation: &'static str) -> Result<Owner> {
        Ok(match self.binding(operation).await? {
            (0, _) => Owner::Nobody,
            (_, OWN) => Owner::Itself,
            _ => Owner::Bridge,
        })
    }

    /// Says that the store is a replica, before any source has it. `AlreadyExists` where it is a store
    /// of its own.
    pub async fn reserve(&self) -> Result<()> {
        const OPERATION: &str = "open replica";
        match self.binding(OPERATION).await? {
            (0, _) => self.write_binding(OPERATION, (1, 0, "")).await,
            (_, OWN) => Err(self.not_a_replica(OPERATION)),
            _ => Ok(()),
        }
    }

    /// Makes the store its own: what any pipeline delivers from now on is refused. `Unavailable`
    /// while the content is being removed.
    pub async fn own(&self, operation: &'static str) -> Result<()> {
        let promoted = |stored: &str| {
            if stored.starts_with(EMPTIED) {
                return Err(self.being_emptied(operation));
            }
            Ok(PROMOTED.to_owned())
        };
        self.decide(operation, promoted).await?;
        self.mark(operation, OWN).await
    }

    /// Says that the content is being removed, until [`end_emptying`](Self::end_emptying): nothing is
    /// delivered meanwhile, and nobody makes the store its own. Gives the number of this run, whose
    /// turn it is from now on. `AlreadyExists` where the store is its own, or is being made that.
    pub async fn begin_emptying(&self, operation: &'static str) -> Result<Uuid> {
        // One that was made before there was that state.
        if self.binding(operation).await?.1 == OWN {
            return Err(self.not_a_replica(operation));
        }
        let run = Uuid::new_v4();
        let emptied = |stored: &str| {
            if stored == PROMOTED {
                return Err(self.not_a_replica(operation));
            }
            Ok(format!("{EMPTIED} {run}"))
        };
        self.decide(operation, emptied).await?;
        self.mark(operation, EMPTYING).await?;
        Ok(run)
    }

    /// `Unavailable` where another run removes the content by now.
    pub async fn check_emptying(&self, operation: &'static str, run: Uuid) -> Result<()> {
        let (stored, _) = self.states().read(operation, FATE, "").await?;
        if stored.text == format!("{EMPTIED} {run}") {
            return Ok(());
        }
        Err(self.being_emptied(operation))
    }

    /// Lets another source have the store, whose content this run has removed.
    pub async fn end_emptying(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        run: Uuid,
    ) -> Result<()> {
        self.check_emptying(operation, run).await?;
        self.release(pipeline).await?;
        let mine = format!("{EMPTIED} {run}");
        self.decide(operation, |stored: &str| {
            let text = if stored == mine { "" } else { stored };
            Ok(text.to_owned())
        })
        .await
    }

    fn states(&self) -> States {
        States::of(self.connection.clone(), self.store.clone())
    }

    async fn decide(
        &self,
        operation: &'static str,
        decision: impl Fn(&str) -> Result<String> + Send + Sync,
    ) -> Result<()> {
        Tables::open_states(&self.connection).await?;
        let change = |stored: &str, _| decision(stored).map(|text| (Some(text), ()));
        self.states().update(operation, FATE, "", change).await
    }

    fn being_emptied(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Unavailable, operation, self.emptied())
    }

    pub(super) fn emptied(&self) -> String {
        format!(
            "the content of store {:?} is being removed, or was and that was cut short; \
             `ledger bridge run --resync` removes it and starts again",
            self.store
        )
    }

    /// Writes a mark, and reads back whether it counts: another one may have come in between.
    async fn mark(&self, operation: &'static str, mark: u8) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match self.binding(operation).await? {
                (_, found) if found == mark => return Ok(()),
                (_, OWN) => return Err(self.not_a_replica(operation)),
                (epoch, _) => self.write_binding(operation, (epoch + 1, mark, "")).await?,
            }
        }
        let what = format!("others claim store {:?} all the time", self.store);
        Err(Error::new(ErrorKind::Unavailable, operation, what))
    }

    pub(super) fn not_a_replica(&self, operation: &'static str) -> Error {
        let what = format!(
            "store {:?} exists at the sink and is not a replica; name another database",
            self.store
        );
        Error::new(ErrorKind::AlreadyExists, operation, what)
    }

    async fn binding(&self, operation: &'static str) -> Result<(u64, u8)> {
        let sql = format!(
            "SELECT tupleElement(s.binding, 1) AS epoch, tupleElement(s.binding, 2) AS bound \
             FROM (SELECT max(binding) AS binding FROM {} WHERE store = ?) AS s",
            Tables::STORES,
        );
        let query = self.connection.client().query(&sql);
        let rows: Vec<(u64, u8)> = self
            .connection
            .fetch_all(operation, query.bind(self.store.as_str()))
            .await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}
