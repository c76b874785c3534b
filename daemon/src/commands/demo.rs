//! `ledger demo`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ledger::bridge::{Bridge, BridgeOptions, Stats, VerifyOptions, verify};
use ledger::pipeline::Stop;
use ledger::sqlite::{SqliteConfig, SqliteSink, SqliteStore};
use ledger::{
    ExpectedVersion, NewEntry, Pairs, PipelineId, Result, Store, StoreName, StoreOptions,
    StreamName,
};
use tokio::time::{Instant, MissedTickBehavior};

use super::bridge_run::seconds;
use super::bridge_verify::lines;
use crate::cli::Demo;
use crate::exit::Exit;
use crate::printer::Printer;

/// How many streams the writers write to, all together.
const STREAMS: u64 = 40;

/// How many write at the same time.
const WRITERS: u64 = 3;

/// What the writers have done.
#[derive(Debug, Default)]
struct Written {
    appends: AtomicU64,
    labels: AtomicU64,
    trims: AtomicU64,
    renames: AtomicU64,
}

impl Written {
    fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    fn get(&self) -> [u64; 4] {
        [&self.appends, &self.labels, &self.trims, &self.renames]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// Lets writers write to an embedded store while a bridge carries it into an embedded replica, then
/// compares the two.
pub(crate) async fn demo(options: &Demo, printer: &Printer) -> anyhow::Result<Exit> {
    let folder = Folder::make(options.dir.as_deref())?;
    let store_name = StoreName::new("orders")?;
    let (from, to) = (folder.path("source.db"), folder.path("replica.db"));
    let store = SqliteStore::open(
        SqliteConfig::file(&from),
        store_name.clone(),
        StoreOptions::default(),
    )
    .await?;
    let store = Arc::new(store);
    let sink = SqliteSink::open(SqliteConfig::file(&to), store_name.clone()).await?;
    let sink = Arc::new(sink);
    printer.notice(&format!("source   sqlite:{}", from.display()));
    printer.notice(&format!("replica  sqlite:{}", to.display()));
    let seconds_asked = options.seconds;
    printer.notice(&format!(
        "{WRITERS} writers append, tag, annotate, trim and rename for {seconds_asked} s; \
         a bridge follows"
    ));

    let url = ledger::connect::DatabaseUrl::parse(&format!("sqlite:{}", to.display()))?;
    let pipeline = crate::urls::default_name(&store_name, &url)?;
    let bridge = Bridge::new(
        store.clone(),
        sink.clone(),
        BridgeOptions::new(pipeline.clone()),
    )?;
    let stop = Stop::new();
    let carried = {
        let (bridge, stop) = (bridge.clone(), stop.clone());
        tokio::spawn(async move { bridge.run(&stop).await })
    };
    let written = Arc::new(Written::default());
    let until = Instant::now() + Duration::from_secs(u64::from(options.seconds));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, written) = (store.clone(), written.clone());
            tokio::spawn(async move { write(store.as_ref(), writer, &written, until).await })
        })
        .collect();
    watch(&bridge, &written, printer, until).await?;
    for writer in writers {
        writer.await.context("a writer ended early")??;
    }

    drain(&bridge, store.as_ref(), &pipeline).await?;
    stop.stop();
    let summary = carried.await.context("the bridge ended early")??;
    let [appends, labels, trims, renames] = written.get();
    printer.result(&format!(
        "{appends} entries appended, {labels} tagged or annotated, {trims} trims, \
         {renames} renames; {} mutations delivered",
        summary.stats.delivered
    ))?;
    let how = VerifyOptions::new(pipeline);
    let report = verify(store.as_ref(), sink.as_ref(), &how, |_| {}).await?;
    for line in lines(&report.clone().into(), false) {
        printer.result(&line)?;
    }
    store.close().await;
    sink.close().await;
    next(&folder, printer);
    Ok(if report.is_equal() && report.pending == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Writes until the time is over, at a pace that leaves the machine room for the bridge.
async fn write(store: &SqliteStore, writer: u64, written: &Written, until: Instant) -> Result<()> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut round, mut renamed) = (0_u64, 0_u64);
    while Instant::now() < until {
        pace.tick().await;
        round += 1;
        // Each writer has its own streams; the numbers jump about as real keys do.
        let number = (round.wrapping_mul(7_919) % STREAMS) / WRITERS * WRITERS + writer;
        let stream = StreamName::new(format!("user-{number}"))?;
        let entries: Vec<_> = (0..=(round % 20))
            .map(|item| {
                let payload = format!(
                    r#"{{"user":{number},"round":{round},"item":{item},"amount":{}}}"#,
                    round.wrapping_mul(37) % 1_000
                );
                NewEntry::new(payload)
                    .dedup_key(format!("{round}-{item}"))
                    .tag("new")
            })
            .collect();
        let appended = store.append(&stream, entries, ExpectedVersion::Any).await?;
        Written::count(&written.appends, appended.len() as u64);
        if let (Some(labels), Some(last)) = (store.labels(), appended.last()) {
            if round.is_multiple_of(3) {
                labels
                    .set_tags(&stream, last.id, vec!["paid".to_owned()])
                    .await?;
                Written::count(&written.labels, 1);
            }
            if round.is_multiple_of(5) {
                let set = Pairs::from([("checked".to_owned(), round.to_string())]);
                labels
                    .set_annotations(&stream, last.id, set, Vec::new())
                    .await?;
                Written::count(&written.labels, 1);
            }
        }
        if round.is_multiple_of(50)
            && let Some(first) = appended.first()
        {
            store.trim(&stream, first.id).await?;
            Written::count(&written.trims, 1);
        }
        if round.is_multiple_of(80) {
            // The old name is free again: the next append to it makes a new stream.
            renamed += 1;
            let archive = StreamName::new(format!("user-{number}-archive-{writer}-{renamed}"))?;
            store.rename(&stream, &archive).await?;
            Written::count(&written.renames, 1);
        }
    }
    Ok(())
}

/// Shows the rates and the lag each second until the time is over.
async fn watch(
    bridge: &Bridge,
    written: &Written,
    printer: &Printer,
    until: Instant,
) -> anyhow::Result<()> {
    printer.result(&format!(
        "{:>8} {:>10} {:>10} {:>8} {:>8} {:>10} {:>10} {:>8} {:>8}",
        "second", "appended", "labels", "trims", "renames", "delivered", "rate/s", "behind", "lag"
    ))?;
    let mut tick = tokio::time::interval_at(
        Instant::now() + Duration::from_secs(1),
        Duration::from_secs(1),
    );
    let mut second = 0_u64;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = tokio::time::sleep_until(until) => return Ok(()),
        }
        second += 1;
        let [appends, labels, trims, renames] = written.get();
        let Stats {
            delivered,
            rate,
            lag_entries,
            lag,
            ..
        } = bridge.stats();
        printer.result(&format!(
            "{second:>8} {appends:>10} {labels:>10} {trims:>8} {renames:>8} {delivered:>10} \
             {rate:>10.0} {lag_entries:>8} {:>8}",
            seconds(lag)
        ))?;
    }
}

/// Waits until the replica's cursor has reached the log's present end.
async fn drain(bridge: &Bridge, store: &SqliteStore, pipeline: &PipelineId) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let log = store.log().context("the source keeps no mutation log")?;
    let head = ledger::Progress::Follow(log.head().await?).to_cursor();
    let begun = Instant::now();
    while bridge.stats().position.is_none_or(|at| at < head) {
        if begun.elapsed() > PATIENCE {
            let said = bridge.stats().last_error.unwrap_or_default();
            bail!("the bridge {pipeline} did not catch up in {PATIENCE:?} {said}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Says what to try next.
fn next(folder: &Folder, printer: &Printer) {
    let dir = match folder {
        Folder::Given(path) => path.display().to_string(),
        Folder::Temporary(_) => {
            printer.notice("\nTo keep the two databases and try more: ledger demo --dir demo");
            "demo".to_owned()
        }
    };
    let ends = format!("--from sqlite:{dir}/source.db --to sqlite:{dir}/replica.db --store orders");
    printer.notice(&format!(
        "\nWhat to try next\n  \
         compare once more    ledger bridge verify {ends}\n  \
         damage the replica   sqlite3 {dir}/replica.db \"UPDATE orders_entries SET payload = '{{}}' WHERE id = 1\"\n  \
         and mend it          ledger bridge verify --repair {ends}\n  \
         carry it elsewhere   ledger bridge run --once --from sqlite:{dir}/source.db \
         --to postgres://USER@HOST/DATABASE --store orders"
    ));
}

/// Where the databases are.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn make(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = given else {
            let folder = tempfile::Builder::new().prefix("ledger-demo-").tempdir();
            return Ok(Self::Temporary(folder.context("make a temporary folder")?));
        };
        std::fs::create_dir_all(path)
            .with_context(|| format!("--dir: make folder {}", path.display()))?;
        for file in ["source.db", "replica.db"].map(|file| path.join(file)) {
            if file.exists() {
                bail!(
                    "--dir: {} is there already; name another folder, or remove it",
                    file.display()
                );
            }
        }
        Ok(Self::Given(path.to_owned()))
    }

    fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Given(path) => path.join(file),
            Self::Temporary(folder) => folder.path().join(file),
        }
    }
}
