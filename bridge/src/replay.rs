//! Delivering dead letters again.

use std::collections::HashSet;

use ledger_core::{Batch, CursorStore, ErrorKind, Item, Result, Sink, Source};

use crate::lease::under_lease;
use crate::{BridgeOptions, isolate};

/// How many letters are read at a time.
const PAGE: usize = 200;

/// Delivers the letters of a pipeline in order, under its lease; tells how many were delivered and
/// how many are left.
pub(crate) async fn replay<T: Item>(
    source: &dyn Source<T>,
    sink: &dyn Sink<T>,
    cursors: &dyn CursorStore,
    options: &BridgeOptions,
) -> Result<(u64, u64)> {
    let pipeline = &options.pipeline;
    let work = deliver(source, sink, cursors, options);
    let delivered = under_lease(source.consumers(), pipeline, "replay dead letters", work).await?;
    Ok((delivered, source.dead_letters().count(pipeline).await?))
}

async fn deliver<T: Item>(
    source: &dyn Source<T>,
    sink: &dyn Sink<T>,
    cursors: &dyn CursorStore,
    options: &BridgeOptions,
) -> Result<u64> {
    let pipeline = &options.pipeline;
    let identity = source.identity().await?;
    let claim = cursors.claim(pipeline, &identity).await?;
    let letters = source.dead_letters();
    let (mut after, mut delivered) = (None, 0);
    // Streams whose letter was refused again.
    let mut refused = HashSet::new();
    loop {
        let page = letters.list(pipeline, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(delivered);
        };
        after = Some(last.cursor.clone());
        for letter in &page {
            if refused.contains(&letter.key) {
                continue;
            }
            let item: T = isolate::item(letter)?;
            let batch = Batch {
                items: vec![(letter.cursor.clone(), item)],
                after: None,
                through: letter.cursor.clone(),
                // The pipeline's own cursor has passed it long ago, or will.
                ack: None,
                pipeline: pipeline.clone(),
                fence: claim.fence,
            };
            match isolate::deliver_in_time(sink, &batch, options.delivery_timeout).await {
                Ok(()) => {
                    letters
                        .remove(pipeline, std::slice::from_ref(&letter.cursor))
                        .await?;
                    delivered += 1;
                }
                Err(error) if error.kind() == ErrorKind::Rejected => {
                    tracing::warn!(
                        %pipeline,
                        what = letter.description,
                        reason = error.chain(),
                        "the sink refuses a dead letter again"
                    );
                    refused.insert(letter.key);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
