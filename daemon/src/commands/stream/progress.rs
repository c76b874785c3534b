//! How far a file has been appended, so that an interrupted run can go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Overrides, path};
use crate::exit::Failure;

/// How far a file has been appended.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The lines whose entries are durable.
    lines: u64,
    /// What the file was then: its size, and when it was written.
    bytes: u64,
    modified: u128,
}

/// Keeps how far a file has been appended, beside the configuration.
#[derive(Debug)]
pub(super) struct Progress {
    /// None for standard input, which cannot be begun again.
    kept: Option<(PathBuf, State)>,
}

impl Progress {
    /// For standard input: nothing is kept.
    pub(super) fn none() -> Self {
        Self { kept: None }
    }

    /// For a file that is appended to `target`, which tells daemon, store and fields.
    pub(super) fn of(file: &Path, target: &str, overrides: &Overrides) -> anyhow::Result<Self> {
        let within = || format!("--file: {}", file.display());
        let absolute = fs::canonicalize(file).with_context(within)?;
        let about = fs::metadata(file).with_context(within)?;
        let modified = about.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (config, _) = path(overrides)?;
        let digest = xxh3_64(format!("{}\n{target}", absolute.display()).as_bytes());
        let folder = config.parent().unwrap_or(Path::new(".")).join("loads");
        let state = State {
            lines: 0,
            bytes: about.len(),
            modified: modified.map_or(0, |time| time.as_nanos()),
        };
        let kept = Some((folder.join(format!("{digest:016x}.json")), state));
        Ok(Self { kept })
    }

    /// Begins anew: what is known of an earlier run counts no more.
    pub(super) fn restart(&self) -> anyhow::Result<()> {
        let Some((path, _)) = &self.kept else {
            return Ok(());
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("forget the progress in {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Takes up where an earlier run ended, and tells how many lines are done. Of a file that has
    /// been appended as a whole these are all: who does not know how the earlier run ended may ask.
    pub(super) fn resume(&mut self) -> anyhow::Result<u64> {
        let Some((path, now)) = &mut self.kept else {
            return Ok(0);
        };
        let Ok(text) = fs::read_to_string(&*path) else {
            return Ok(0);
        };
        let before: State = serde_json::from_str(&text)
            .with_context(|| format!("--resume: {} is damaged; remove it", path.display()))?;
        if (before.bytes, before.modified) != (now.bytes, now.modified) {
            return Err(Failure::usage(
                "--resume: the file has changed since it was appended; append what is new of it by \
                 itself, or all of it without --resume",
            ));
        }
        now.lines = before.lines;
        Ok(now.lines)
    }

    /// Notes that so many lines are durable.
    pub(super) fn done(&mut self, lines: u64) -> anyhow::Result<()> {
        let Some((path, state)) = &mut self.kept else {
            return Ok(());
        };
        state.lines = lines;
        let within = || format!("note the progress in {}", path.display());
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(within)?;
        // Never half a file, whenever the program ends.
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(within)?;
        serde_json::to_writer(&mut file, state).with_context(within)?;
        file.persist(&*path).with_context(within)?;
        Ok(())
    }
}
