//! Reading ahead: one page is fetched while the one before is consumed.

use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{Change, Result};
use tokio::sync::mpsc;

/// Where a reader puts its pages; `false` from [`Pages::send`] tells that nobody listens any more.
pub(crate) struct Pages(mpsc::Sender<Result<Vec<Change>>>);

impl Pages {
    /// Hands a page over, and waits while the one before has not been taken.
    pub(crate) async fn send(&self, page: Vec<Change>) -> bool {
        page.is_empty() || self.0.send(Ok(page)).await.is_ok()
    }
}

/// Runs `read` in a task of its own, at most one page ahead of who consumes the stream. The stream
/// ends with the error that `read` returns, or when it returns `Ok`. Dropping the stream ends the
/// task.
pub(crate) fn prefetch<F, R>(read: F) -> BoxStream<'static, Result<Change>>
where
    F: FnOnce(Pages) -> R + Send + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let start = async move {
        let (sender, receiver) = mpsc::channel(1);
        let pages = Pages(sender.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                end = read(pages) => end,
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = end {
                // Nobody is left to tell where this fails.
                let _ = sender.send(Err(error)).await;
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            let page = receiver.recv().await?;
            Some((page, receiver))
        })
        .flat_map(|page| {
            let (changes, error) = match page {
                Ok(changes) => (changes, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(changes.into_iter().map(Ok).chain(error))
        })
    };
    stream::once(start).flatten().boxed()
}
