//! The contract over the statements.

/// The contract itself over those functions. `read!(state, function, arguments..)` and `write!` of the
/// backend run one on a connection, the latter in a transaction.
macro_rules! state {
    ($state:ident) => {
        #[async_trait::async_trait]
        impl ledger_core::hook::State for $state {
            async fn claim(
                &self,
                hook: &PipelineId,
                store: &StoreName,
                source: &SourceId,
            ) -> Result<Claim> {
                write!(self, claim_in, hook, store, source)
            }

            async fn commit(&self, hook: &PipelineId, fence: u64, writes: &Writes) -> Result<()> {
                write!(self, commit_in, hook, fence, writes)
            }

            async fn queued(
                &self,
                hook: &PipelineId,
                stream: StreamKey,
                through: Option<&Cursor>,
                limit: usize,
            ) -> Result<Vec<Queued>> {
                read!(self, queued_in, hook, stream, through, limit)
            }

            async fn remember(&self, hook: &PipelineId, attempts: &[Attempt]) -> Result<()> {
                write!(self, remember_in, hook, attempts)
            }

            async fn attempts(
                &self,
                hook: &PipelineId,
                query: &AttemptQuery,
            ) -> Result<Vec<Attempt>> {
                read!(self, attempts_in, hook, query)
            }

            async fn letters(
                &self,
                hook: &PipelineId,
                after: Option<&Cursor>,
                limit: usize,
            ) -> Result<Vec<Letter>> {
                read!(self, letters_in, hook, after, limit)
            }

            async fn requeue(&self, hook: &PipelineId, stream: Option<StreamKey>) -> Result<u64> {
                write!(self, requeue_in, hook, stream)
            }

            async fn discard(&self, hook: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
                write!(self, discard_in, hook, cursors)
            }

            async fn counts(&self, hook: &PipelineId) -> Result<Counts> {
                read!(self, counts_in, hook)
            }

            async fn asked(&self, hook: &PipelineId) -> Result<Asked> {
                read!(self, asked_in, hook)
            }

            async fn ask(&self, hook: &PipelineId, asked: &Asked) -> Result<()> {
                write!(self, ask_in, hook, asked)
            }

            async fn remove(&self, hook: &PipelineId) -> Result<bool> {
                write!(self, remove_in, hook)
            }

            async fn reset(&self, hook: &PipelineId) -> Result<()> {
                write!(self, reset_in, hook)
            }
        }
    };
}

pub(crate) use state;
