//! Comparing a replica with its source, while both may move.
//!
//! A chunk of the source is read, then the log's head is taken; once the sink's cursor has reached
//! that, the sink's chunk is read, which then holds everything the source's chunk showed. What
//! differs is read again on both sides, and reported only if the source's row has not changed
//! meanwhile. Where no bridge runs, what was mutated between the sink's cursor and the log's head
//! is *pending*, not different.

mod compare;
mod pending;
mod report;
mod settle;
mod tables;

use std::collections::BTreeSet;
use std::time::Duration;

use ledger_core::{
    Change, Contents, EntryKey, Error, ErrorKind, MutationKind, PipelineId, Replica, Result, Sink,
    Store, StreamKey,
};

pub use report::{Difference, Kind, Report};
pub use tables::{RowDifference, TableEnds, TableReport, verify_tables};

use crate::lease::under_lease;
use crate::ledger::log;
use compare::{Entries, Streams};
use settle::Settle;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// The bridge whose cursor tells how far the sink is.
    pub pipeline: PipelineId,
    /// The kinds of mutation that the bridge does not carry.
    pub skip: BTreeSet<MutationKind>,
    /// Mend what differs, which needs the bridge's lease: `Unavailable` while the bridge runs.
    pub repair: bool,
    /// Entries of a chunk; 5,000 by default.
    pub chunk: usize,
    /// How long a running bridge may stand still before it counts as stopped; 15 seconds by
    /// default.
    pub patience: Duration,
}

impl VerifyOptions {
    /// The defaults, for a bridge of this name.
    pub fn new(pipeline: PipelineId) -> Self {
        Self {
            pipeline,
            skip: BTreeSet::new(),
            repair: false,
            chunk: 5_000,
            patience: Duration::from_secs(15),
        }
    }
}

/// How many rows are read again at a time: of the largest payloads they still fit into memory.
const READ_AGAIN: usize = 100;
/// How often rows that change while they are compared are read again.
const ROUNDS: usize = 20;

/// Compares the whole content; `progress` is told how many entries have been compared.
///
/// `NotFound` where the sink has never been written by this bridge, `Conflict` where its copy has
/// not ended yet: run the bridge first.
pub async fn verify(
    source: &dyn Store,
    sink: &dyn Sink<Change>,
    options: &VerifyOptions,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Report> {
    let log = log(source)?;
    let replica = sink.replica().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "verify",
            format!("{sink} is not a replica"),
        )
    })?;
    let mut settle = Settle::new(log, sink, options)?;
    settle.check_copied().await?;
    if options.repair {
        // Told before the comparison rather than after it.
        let nothing = async { Ok(()) };
        under_lease(
            log.consumers(),
            &options.pipeline,
            "repair replica",
            nothing,
        )
        .await?;
    }
    let mut report = Report::default();

    let streams = Streams {
        source: log.contents(),
        replica,
        skip: &options.skip,
    };
    let mut suspects = Vec::new();
    let mut after = None;
    loop {
        let here = log.contents().streams(after, options.chunk).await?;
        let last = here.last().map(|state| state.stream.key);
        settle.reach_head().await?;
        suspects.extend(streams.differing(&here, after, last, options.chunk).await?);
        report.streams += here.len() as u64;
        let Some(last) = last else { break };
        after = Some(last);
    }
    let streams_left = settled(&mut settle, &streams, suspects).await?;

    let entries = Entries {
        source: log.contents(),
        replica,
        skip: &options.skip,
    };
    let mut suspects = Vec::new();
    let mut after = None;
    loop {
        let here = log.contents().entries(after, None, options.chunk).await?;
        let last = here.last().map(|record| record.key);
        settle.reach_head().await?;
        suspects.extend(entries.differing(&here, after, last, options.chunk).await?);
        report.entries += here.len() as u64;
        progress(report.entries);
        let Some(last) = last else { break };
        after = Some(last);
    }
    let entries_left = settled(&mut settle, &entries, suspects).await?;

    let pending = settle.pending(&streams_left, &entries_left).await?;
    report.pending = pending.count;
    let streams_left: Vec<_> = streams_left
        .into_iter()
        .filter(|key| !pending.streams.contains(key))
        .collect();
    let entries_left: Vec<_> = entries_left
        .into_iter()
        .filter(|key| !pending.entries.contains(key))
        .collect();
    // The bridge may have applied what was pending, in the time it took to find that out.
    report
        .differences
        .extend(streams.describe(&streams_left).await?);
    report
        .differences
        .extend(entries.describe(&entries_left).await?);
    if options.repair && !report.differences.is_empty() {
        // A bridge at work could deliver a newer state of a row between the source's row being read
        // and the replica's being written: it would be gone, and its change does not come again.
        let work = repair(log.contents(), replica, &streams_left, &entries_left);
        under_lease(log.consumers(), &options.pipeline, "repair replica", work).await?;
        let left_streams = streams.describe(&streams_left).await?;
        let left_entries = entries.describe(&entries_left).await?;
        let left = left_streams.len() + left_entries.len();
        report.repaired = (report.differences.len() - left.min(report.differences.len())) as u64;
        report.unrepaired = left as u64;
        report.verify_too = replica.followers().await?;
    }
    Ok(report)
}

/// Reads suspects again until each is equal, or differs with the source's row unchanged.
async fn settled<C: compare::Compared>(
    settle: &mut Settle<'_>,
    compared: &C,
    mut suspects: Vec<C::Key>,
) -> Result<Vec<C::Key>> {
    let mut confirmed = Vec::new();
    for _ in 0..ROUNDS {
        if suspects.is_empty() {
            break;
        }
        let mut moving = Vec::new();
        for keys in suspects.chunks(READ_AGAIN) {
            let before = compared.source_digests(keys).await?;
            settle.reach_head().await?;
            let there = compared.replica_digests(keys).await?;
            let now = compared.source_digests(keys).await?;
            for key in keys {
                if before.get(key) == there.get(key) {
                    continue;
                }
                if before.get(key) == now.get(key) {
                    confirmed.push(*key);
                } else {
                    moving.push(*key);
                }
            }
        }
        suspects = moving;
    }
    if let Some(key) = suspects.first() {
        // Not different, as far as anyone could tell: it never stood still.
        tracing::warn!(
            ?key,
            rows = suspects.len(),
            "rows changed each time they were compared"
        );
    }
    Ok(confirmed)
}

async fn repair(
    source: &dyn Contents,
    replica: &dyn Replica,
    streams: &[StreamKey],
    entries: &[EntryKey],
) -> Result<()> {
    for keys in streams.chunks(READ_AGAIN) {
        let states = source.streams_at(keys).await?;
        let gone: Vec<StreamKey> = keys
            .iter()
            .copied()
            .filter(|key| !states.iter().any(|state| state.stream.key == *key))
            .collect();
        replica.repair(&states, &[], &[]).await?;
        replica.remove_streams(&gone).await?;
    }
    for keys in entries.chunks(READ_AGAIN) {
        let records = source.entries_at(keys).await?;
        replica.repair(&[], keys, &records).await?;
    }
    Ok(())
}
