//! A store that Ledger knows nothing of: kept in memory, written against `ledger-core` alone. It
//! passes the conformance suite, and is a source like any other.
//!
//! ```text
//! cargo test --example third_party_store --features conformance   # the suite
//! cargo run --example third_party_store --features conformance    # a bridge from it
//! ```

mod store;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ledger::bridge::{Bridge, BridgeOptions, VerifyOptions, verify};
use ledger::conformance::{CASES, Harness as _};
use ledger::pipeline::Stop;
use ledger::sqlite::{SqliteConfig, SqliteSink};
use ledger::{ExpectedVersion, NewEntry, PipelineId, StoreName, StreamName};

use store::MemoryHarness;

#[tokio::main]
async fn main() -> Result<()> {
    let name = StoreName::new("orders")?;
    let source = MemoryHarness::default().open(&name).await?;
    for number in 0..1_000 {
        let stream = StreamName::new(format!("user-{}", number % 7))?;
        let entry = NewEntry::new(number.to_string());
        source
            .append(&stream, vec![entry], ExpectedVersion::Any)
            .await?;
    }
    let renamed = StreamName::new("user-0")?;
    let first = source.stat(&renamed).await?.first_id.context("an entry")?;
    source.trim(&renamed, first).await?;
    source
        .rename(&renamed, &StreamName::new("archive")?)
        .await?;
    println!("{source} holds 999 entries in 7 streams");

    let sink = Arc::new(SqliteSink::open(SqliteConfig::memory(), name).await?);
    let pipeline = PipelineId::new("example")?;
    let options = BridgeOptions {
        once: true,
        ..BridgeOptions::new(pipeline.clone())
    };
    let bridge = Bridge::new(source.clone(), sink.clone(), options)?;
    let summary = bridge.run(&Stop::new()).await?;
    println!("{} mutations delivered to {sink}", summary.stats.delivered);

    let options = VerifyOptions::new(pipeline);
    let report = verify(source.as_ref(), sink.as_ref(), &options, |_| {}).await?;
    println!(
        "{} entries in {} streams compared, {} differences",
        report.entries,
        report.streams,
        report.differences.len()
    );
    ensure!(report.is_equal(), "the replica must be equal to the store");
    ensure!(
        (report.entries, report.streams) == (999, 7),
        "everything must have been compared"
    );
    println!(
        "The store passes {} cases: cargo test --example third_party_store --features conformance",
        CASES.len()
    );
    Ok(())
}

#[cfg(test)]
mod conformance {
    use crate::store::MemoryHarness;

    ledger::conformance_tests!(MemoryHarness::default());
}
