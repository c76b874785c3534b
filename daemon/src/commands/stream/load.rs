//! `ledger stream append` from a file or from standard input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};

use anyhow::Context as _;
use indicatif::ProgressStyle;
use ledger_server::v1::{AppendStreamRequest, AppendStreamResponse, EntryInput};
use serde_json::json;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::On;
use super::lines::{Lines, Shape};
use super::progress::Progress;
use crate::cli::{Append, Expected, Global, Output};
use crate::client::{call_failed, is_passing};
use crate::exit::{Exit, Failure};

/// A request holds at most so many entries of one stream, and so many bytes of payload.
const ENTRIES: usize = 500;
const BYTES: usize = 1 << 20;
/// So many lines are sorted by stream at a time, and so many bytes.
const BLOCK_LINES: usize = 2_000;
const BLOCK_BYTES: usize = 4 << 20;
/// So many requests are under way at most.
const UNDER_WAY: usize = 8;

/// Appends every line, in large requests that are sent without waiting for their answers.
pub(super) async fn run(options: &Append, global: &Global, on: &On<'_>) -> anyhow::Result<()> {
    check(options)?;
    let reader = open(options)?;
    let mut progress = match &options.file {
        None => Progress::none(),
        Some(path) => {
            let target = format!(
                "{} {} {} {:?}",
                on.daemon.address(),
                options.scope.store,
                options.stream,
                options.stream_field
            );
            Progress::of(path, &target, &global.overrides())?
        }
    };
    let done = if options.resume {
        progress.resume()?
    } else {
        progress.restart()?;
        0
    };
    if done > 0 {
        on.printer.notice(&format!("going on behind line {done}"));
    }
    let bytes = options
        .file
        .as_deref()
        .and_then(|path| path.metadata().ok());
    show(on, bytes.map(|about| about.len()));

    let (requests, receiver) = mpsc::channel(UNDER_WAY);
    let lines = Lines::new(options, reader)?;
    let bar = on.printer.bar().clone();
    let shape = Shape::of(options);
    // Files are read where waiting for a disk holds nobody up.
    let read = tokio::task::spawn_blocking(move || send(lines, &shape, done, &requests, &bar));
    let requests = futures::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    let mut client = on.daemon.follow(&options.scope.store)?;
    let mut told = Told::default();
    let ended = match client.append_stream(requests).await {
        Ok(answers) => told.hear(answers.into_inner(), &mut progress).await,
        Err(status) => Err(status),
    };
    on.printer.clear_bar();
    if let Err(status) = ended {
        let again = if !is_passing(&status) {
            ""
        } else if options.file.is_some() {
            "; run it again with --resume"
        } else {
            "; only lines behind these are left to be appended"
        };
        let error = call_failed(&status, on.daemon);
        let lines = told.lines.max(done);
        let text = format!("{error:#} ({lines} lines are appended{again})");
        return Err(Failure::new(Exit::of(&error), text).into());
    }
    // A line that is wrong has ended the requests, and what stands before it is appended.
    read.await.context("read lines")??;
    let Told {
        appended,
        duplicates,
        ..
    } = told;
    on.printer.result(&match on.printer.form(on.output) {
        Output::Table => format!("appended {appended} entries, {duplicates} duplicates skipped"),
        _ => json!({ "appended": appended, "duplicates": duplicates }).to_string(),
    })?;
    Ok(())
}

/// The file, or standard input.
fn open(options: &Append) -> anyhow::Result<Box<dyn Read + Send>> {
    match &options.file {
        Some(path) => {
            let file = File::open(path);
            let file = file.with_context(|| format!("--file: open {}", path.display()))?;
            Ok(Box::new(file))
        }
        None if io::stdin().is_terminal() => Err(Failure::usage(
            "PAYLOAD must be given, or --file, or lines on standard input",
        )),
        None => Ok(Box::new(io::stdin())),
    }
}

/// What the answers told so far.
#[derive(Debug, Default)]
struct Told {
    lines: u64,
    appended: i64,
    duplicates: i64,
}

impl Told {
    /// Listens to the answers until they end, and notes how far the file has been appended.
    async fn hear(
        &mut self,
        mut answers: Streaming<AppendStreamResponse>,
        progress: &mut Progress,
    ) -> Result<(), Status> {
        while let Some(answer) = answers.message().await? {
            self.appended += answer.appended;
            self.duplicates += answer.duplicates;
            let lines = u64::try_from(answer.sequence).unwrap_or(0);
            if lines > self.lines {
                self.lines = lines;
                if let Err(error) = progress.done(lines) {
                    // Appending goes on; only a later --resume would begin too early.
                    tracing::warn!(error = format!("{error:#}"), "no progress is kept");
                }
            }
        }
        Ok(())
    }
}

/// Refuses options that are of one entry.
fn check(options: &Append) -> anyhow::Result<()> {
    for (given, name, instead) in [
        (
            options.json,
            "--json",
            "lines of JSON are stored as they are",
        ),
        (
            !options.order_key.is_empty(),
            "--order-key",
            "use --order-key-field",
        ),
        (
            !options.dedup_key.is_empty(),
            "--dedup-key",
            "use --dedup-key-field",
        ),
        (
            !matches!(options.expect_version, None | Some(Expected::Any)),
            "--expect-version",
            "many entries are appended in several calls",
        ),
    ] {
        if given {
            return Err(Failure::usage(format!(
                "{name} is of a single PAYLOAD; {instead}"
            )));
        }
    }
    Ok(())
}

fn show(on: &On<'_>, bytes: Option<u64>) {
    if !on.printer.is_terminal() {
        return;
    }
    let template = match bytes {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left, {msg}",
        None => "{spinner} {bytes} {bytes_per_sec}, {msg}",
    };
    if let Some(bytes) = bytes {
        on.printer.bar().set_length(bytes);
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        on.printer.bar().set_style(style);
    }
    on.printer.show_bar();
}

/// Reads lines and sends them, a block at a time, sorted by stream. A request that ends a block
/// carries the number of the block's last line, the others that of the block before: an answer's
/// number always says that everything up to that line is durable.
fn send(
    mut lines: Lines,
    shape: &Shape,
    done: u64,
    requests: &mpsc::Sender<AppendStreamRequest>,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<()> {
    let mut before = done;
    loop {
        let (mut streams, mut order) = (BTreeMap::<String, Vec<EntryInput>>::new(), Vec::new());
        let (mut count, mut bytes, mut through) = (0, 0, before);
        let mut wrong = None;
        while count < BLOCK_LINES && bytes < BLOCK_BYTES {
            let (number, read, line) = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            };
            bar.inc(read);
            if number <= done {
                continue;
            }
            match shape.entry(&line) {
                Ok((stream, entry)) => {
                    count += 1;
                    bytes += line.len();
                    through = number;
                    if !streams.contains_key(&stream) {
                        order.push(stream.clone());
                    }
                    streams.entry(stream).or_default().push(entry);
                }
                Err(rule) => {
                    wrong = Some(Failure::usage(format!("line {number} {rule}")));
                    break;
                }
            }
        }
        let ended = count == 0;
        // What stands before a wrong line is appended: the file can be mended and gone on with.
        let mut block: Vec<_> = order
            .into_iter()
            .filter_map(|stream| streams.remove(&stream).map(|entries| (stream, entries)))
            .flat_map(|(stream, entries)| parts(&stream, entries))
            .collect();
        let last = block.len().saturating_sub(1);
        for (index, request) in block.iter_mut().enumerate() {
            let lines = if index == last { through } else { before };
            request.sequence = i64::try_from(lines).unwrap_or(i64::MAX);
        }
        for request in block {
            if requests.blocking_send(request).is_err() {
                // The call has ended, and says why.
                return Ok(());
            }
        }
        before = through;
        bar.set_message(format!("line {through}"));
        if let Some(error) = wrong {
            return Err(error);
        }
        if ended {
            return Ok(());
        }
    }
}

/// The requests that carry some entries of a stream.
fn parts(stream: &str, entries: Vec<EntryInput>) -> Vec<AppendStreamRequest> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry.payload.len();
        if !part.is_empty() && (part.len() >= ENTRIES || bytes + size > BYTES) {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(entry);
    }
    parts.push(part);
    let request = |entries| AppendStreamRequest {
        stream: stream.to_owned(),
        entries,
        sequence: 0,
    };
    parts.into_iter().map(request).collect()
}
