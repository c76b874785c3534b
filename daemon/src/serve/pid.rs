//! The pid file: one daemon a folder.
//!
//! A running daemon holds a lock on its pid file, which the kernel lifts when the process ends in
//! whatever way. Whether a daemon runs is therefore asked of the lock, and never of the number,
//! which another process may have by now.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often a file that was removed in between is opened again.
const ATTEMPTS: usize = 10;

/// The pid file of a folder, held by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

/// What holding the pid file came to.
#[derive(Debug)]
pub(crate) enum Taken {
    /// This process is the folder's daemon.
    Held(PidFile),
    /// Another one is.
    Running(u32),
}

/// Where the pid file of a folder is.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.pid")
}

/// After how many looks a lock is a daemon's, and not that of [`running`].
const LOOKS: usize = 3;

/// Where the daemon of a folder notes its address: not in the pid file, which holds a number only.
fn address_path(folder: &Path) -> PathBuf {
    folder.join("ledger.address")
}

/// The address that the folder's daemon has noted, while one runs.
pub(crate) fn address(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(address_path(folder)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Notes the address of the folder's daemon, which the caller is.
pub(crate) fn note_address(folder: &Path, address: &str) -> anyhow::Result<()> {
    let path = address_path(folder);
    let within = || format!("note the address in {}", path.display());
    // Never half an address, whoever reads it meanwhile.
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(within)?;
    writeln!(file, "{address}").with_context(within)?;
    file.persist(&path).with_context(within)?;
    Ok(())
}

/// Makes this process the folder's daemon, unless another one is. A stale file is replaced.
pub(crate) fn take(folder: &Path) -> anyhow::Result<Taken> {
    let path = path(folder);
    let within = || format!("take the pid file {}", path.display());
    for attempt in 0..ATTEMPTS {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(within)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Who holds the lock may be about to write its number, or to end; or it only looks,
                // for a moment, and the number is that of a daemon that was killed.
                if attempt >= LOOKS
                    && let Some(pid) = number(&mut file)
                {
                    return Ok(Taken::Running(pid));
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
            Err(error) => return Err(error).with_context(within),
        }
        // A daemon that ends removes its file; a lock on what was removed keeps nobody out.
        let same = std::fs::metadata(&path)
            .is_ok_and(|there| file.metadata().is_ok_and(|here| here.ino() == there.ino()));
        if !same {
            continue;
        }
        file.set_len(0).with_context(within)?;
        file.rewind().with_context(within)?;
        writeln!(file, "{}", std::process::id()).with_context(within)?;
        file.sync_all().with_context(within)?;
        return Ok(Taken::Held(PidFile { path, _file: file }));
    }
    anyhow::bail!("{}: another process keeps replacing it", within())
}

/// The process that is the folder's daemon; none where none runs.
pub(crate) fn running(folder: &Path) -> anyhow::Result<Option<u32>> {
    let path = path(folder);
    let within = || format!("read the pid file {}", path.display());
    for _ in 0..ATTEMPTS {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(within),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(None),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error).with_context(within),
        }
        if let Some(pid) = number(&mut file) {
            return Ok(Some(pid));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("{}: it is locked, and holds no number", within())
}

fn number(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Removed while the lock is held, so that it is never another one's.
        if let Some(folder) = self.path.parent() {
            drop(std::fs::remove_file(address_path(folder)));
        }
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_it_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        std::fs::write(path(folder.path()), "4194304\n").unwrap();
        assert_eq!(running(folder.path()).unwrap(), None, "a stale one");
        let Taken::Held(held) = take(folder.path()).unwrap() else {
            panic!("a stale file keeps nobody out");
        };
        let own = std::process::id();
        assert_eq!(running(folder.path()).unwrap(), Some(own));
        assert!(matches!(take(folder.path()).unwrap(), Taken::Running(pid) if pid == own));
        drop(held);
        assert!(!path(folder.path()).exists());
        assert!(matches!(take(folder.path()).unwrap(), Taken::Held(_)));
    }
}
