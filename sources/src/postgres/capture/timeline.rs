//! Which history of the log a position belongs to.
//!
//! A standby that is promoted begins a new timeline at the position that it has got to. What the old
//! primary wrote behind that is no part of the new one's history, although positions go on counting
//! there: a cursor that has been there would be followed over changes that it never met.

use ledger_core::{Error, ErrorKind, Result};

use super::position::Position;
use crate::postgres::replication::{Replication, parsed, shown};

const OPERATION: &str = "compare timelines";

/// The timeline of a server, and where those before it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline {
    /// Its number.
    pub(super) number: u32,
    /// The timelines that led to it, each with the first position that is no part of it.
    before: Vec<(u32, u64)>,
}

impl Timeline {
    /// Asks the server.
    ///
    /// Source: PostgreSQL's documentation, "Streaming Replication Protocol", `IDENTIFY_SYSTEM` and
    /// `TIMELINE_HISTORY`. The first timeline has no history.
    pub(super) async fn of(replication: Replication) -> Result<(Replication, Self)> {
        let identify = "IDENTIFY_SYSTEM".to_owned();
        let (replication, answer) = replication.execute(OPERATION, identify).await?;
        let told = answer.first().and_then(|row| row.get(1)?.as_deref());
        let number: u32 = told.and_then(|told| told.parse().ok()).ok_or_else(|| {
            let what = "the server told no timeline";
            Error::new(ErrorKind::Corrupt, OPERATION, what)
        })?;
        if number <= 1 {
            let before = Vec::new();
            return Ok((replication, Self { number, before }));
        }
        let history = format!("TIMELINE_HISTORY {number}");
        let (replication, answer) = replication.execute(OPERATION, history).await?;
        let told = answer.first().and_then(|row| row.get(1)?.as_deref());
        let before = read(told.unwrap_or_default())?;
        Ok((replication, Self { number, before }))
    }

    /// Whether the log can be followed from a position that was stored on timeline `on`;
    /// `SourceDiverged` where it lies behind the point at which the server left that timeline. A
    /// position that tells none was stored before positions told it.
    pub(super) fn check(&self, position: Position, on: Option<u32>) -> Result<()> {
        let diverged = |what: String| {
            Err(Error::new(
                ErrorKind::SourceDiverged,
                "read the write-ahead log",
                format!(
                    "this bridge stands at {} of timeline {}, {what}: the server has not got what \
                     the bridge has carried since; copy the tables anew with \
                     `ledger bridge run --resync`, or `ledger bridge resync` of the daemon",
                    shown(position.commit),
                    on.unwrap_or_default()
                ),
            ))
        };
        let Some(on) = on.filter(|on| *on != self.number) else {
            return Ok(());
        };
        match self.before.iter().find(|(number, _)| *number == on) {
            None => diverged(format!("which timeline {} does not come from", self.number)),
            // The commit record of a transaction that was carried begins at its position.
            Some((_, end)) if position.boundary().map_or(position.commit + 1, |at| at) > *end => {
                let end = shown(*end);
                diverged(format!("and timeline {} has left it at {end}", self.number))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Reads a history file: a line for each timeline before, with its number and where it was left.
fn read(text: &str) -> Result<Vec<(u32, u64)>> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok());
        let end = words.next().and_then(|word| parsed(word).ok());
        number.zip(end).ok_or_else(|| {
            let what = format!("line {line:?} of the timeline's history is not understood");
            Error::new(ErrorKind::Corrupt, OPERATION, what)
        })
    };
    lines.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore x\n";

    #[test]
    fn a_position_behind_the_fork_is_of_another_history() {
        let timeline = Timeline {
            number: 3,
            before: read(HISTORY).unwrap(),
        };
        let within = |commit| Position {
            ordinal: 1,
            ..Position::between(commit)
        };
        let fork = 0x300_0148;
        for (position, on) in [
            (Position::between(fork), Some(1)),
            (within(fork - 8), Some(1)),
            (Position::between(fork + 1), Some(2)),
            (Position::between(u64::MAX), Some(3)),
            (Position::between(u64::MAX), None),
        ] {
            timeline.check(position, on).unwrap();
        }
        for (position, on) in [
            (Position::between(fork + 1), Some(1)),
            // A transaction whose commit record is the first thing behind the fork.
            (within(fork), Some(1)),
            (Position::between(0x500_0001), Some(2)),
            (Position::between(1), Some(4)),
        ] {
            let error = timeline.check(position, on).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceDiverged, "{position:?}");
            assert!(error.context().contains("--resync"), "{error}");
        }
    }

    #[test]
    fn a_history_that_is_not_understood_is_refused() {
        assert_eq!(read(HISTORY).unwrap(), [(1, 0x300_0148), (2, 0x500_0000)]);
        assert_eq!(read("# none\n").unwrap(), []);
        for text in ["x", "1", "1\tx", "1 0/", "-1\t0/1"] {
            assert_eq!(read(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
    }
}
