//! Positions in a log.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A position in a log: opaque bytes whose order is the log's order.
///
/// The first byte is the tag of the log's kind, so that a cursor of one kind of log is never
/// taken for another's. It prints as lower-case hexadecimal and parses back. The empty cursor
/// is not a position of any log; [`ChangeLog::start`](crate::ChangeLog::start) gives the one
/// before a log's first change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(Bytes);

/// The most bytes that a cursor may have.
const MAX_LEN: usize = 512;

impl Cursor {
    /// A cursor of the log kind `tag` at `position`, whose byte order MUST be the log's order.
    pub fn new(tag: u8, position: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(position.len() + 1);
        bytes.push(tag);
        bytes.extend_from_slice(position);
        Self(bytes.into())
    }

    /// Reads a cursor back from stored bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > MAX_LEN {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "read cursor",
                format!(
                    "a cursor has 1 to {MAX_LEN} bytes, this one has {}",
                    bytes.len()
                ),
            ));
        }
        Ok(Self(bytes))
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The stored form, without copying it.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The tag of the log's kind.
    pub fn tag(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// The position without the tag, where the tag is `tag`; `SourceDiverged` where it is another
    /// log's.
    pub fn position(&self, tag: u8) -> Result<&[u8]> {
        match self.0.split_first() {
            Some((first, rest)) if *first == tag => Ok(rest),
            _ => Err(Error::new(
                ErrorKind::SourceDiverged,
                "read cursor",
                format!("cursor {self} is of another kind of log; resync the pipeline"),
            )),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({self})")
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(
                "parse cursor",
                format!("{text:?} is not an even row of hex digits"),
            )
        };
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = Vec::with_capacity(text.len() / 2);
        for pair in text.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
            if pair.starts_with('+') {
                return Err(invalid());
            }
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| invalid())?);
        }
        Self::from_bytes(bytes)
    }
}

/// How far a pipeline is: still copying what was there before, or following the log.
///
/// Stored as one [`Cursor`], so that whatever keeps cursors keeps these; any snapshot position
/// sorts before any following one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Copying; `start` is the log position to follow from afterwards, `key` the last key copied.
    Snapshot {
        /// The head of the log when the copy began.
        start: Cursor,
        /// The last key copied; empty before the first.
        key: Bytes,
    },
    /// Following the log after this cursor.
    Follow(Cursor),
}

const SNAPSHOT: u8 = b'A';
const FOLLOW: u8 = b'F';

impl Progress {
    /// The form that is stored.
    pub fn to_cursor(&self) -> Cursor {
        match self {
            Self::Snapshot { start, key } => {
                let start = start.as_bytes();
                // `MAX_LEN` bounds it far below what two bytes hold.
                let len = u16::try_from(start.len()).unwrap_or(u16::MAX);
                let mut bytes = Vec::with_capacity(3 + start.len() + key.len());
                bytes.push(SNAPSHOT);
                bytes.extend_from_slice(&len.to_be_bytes());
                bytes.extend_from_slice(start);
                bytes.extend_from_slice(key);
                Cursor(bytes.into())
            }
            Self::Follow(cursor) => Cursor::new(FOLLOW, cursor.as_bytes()),
        }
    }

    /// Reads the stored form; `SourceDiverged` for a cursor that is no pipeline's progress.
    pub fn from_cursor(cursor: &Cursor) -> Result<Self> {
        if cursor.tag() == FOLLOW {
            let inner = Bytes::copy_from_slice(cursor.position(FOLLOW)?);
            return Ok(Self::Follow(Cursor::from_bytes(inner)?));
        }
        let position = cursor.position(SNAPSHOT)?;
        let parts = position
            .split_first_chunk::<2>()
            .and_then(|(len, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*len))));
        let Some((start, key)) = parts else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "read cursor",
                format!("snapshot position {cursor} is cut short"),
            ));
        };
        Ok(Self::Snapshot {
            start: Cursor::from_bytes(Bytes::copy_from_slice(start))?,
            key: Bytes::copy_from_slice(key),
        })
    }
}
