//! Rows that were read and are not acknowledged yet.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::position::Position;

/// How many marks are kept; beyond, half of them are given up, so that those left lie evenly.
const MARKS: usize = 4_096;

/// Counts what one run has handed on, by positions.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    /// How many rows were handed on.
    handed_on: u64,
    /// How many of them are acknowledged.
    acknowledged: u64,
    /// How many were handed on up to some positions, in order.
    positions: VecDeque<(Position, u64)>,
    /// How many rows lie between two marks at least.
    apart: u64,
}

impl InFlight {
    /// Some more rows were handed on, up to this position.
    pub(super) fn hand_on(&self, position: Position, rows: u64) {
        if rows == 0 {
            return;
        }
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        this.handed_on += rows;
        if this.positions.len() >= MARKS {
            this.thin();
        }
        // The last mark always tells of all; it is moved where it is close to the one before.
        let mut last = this.positions.iter().rev().map(|(_, rows)| *rows);
        if let (Some(last), Some(before)) = (last.next(), last.next())
            && last - before < this.apart
        {
            this.positions.pop_back();
        }
        let handed_on = this.handed_on;
        this.positions.push_back((position, handed_on));
    }

    /// How many rows are behind what is acknowledged: none too few, and too many by those that were
    /// handed on together with the first that is not.
    pub(super) fn behind(&self, acknowledged: Position) -> u64 {
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((position, rows)) = this.positions.front().copied()
            && position <= acknowledged
        {
            this.acknowledged = rows;
            this.positions.pop_front();
        }
        if this.positions.is_empty() {
            this.apart = 0;
        }
        this.handed_on - this.acknowledged
    }
}

impl Marks {
    /// Gives up about half of the marks.
    fn thin(&mut self) {
        self.apart = (self.handed_on - self.acknowledged) / (MARKS as u64 / 2);
        let (apart, mut kept) = (self.apart, self.acknowledged);
        self.positions.retain(|(_, rows)| {
            let keep = rows - kept >= apart;
            if keep {
                kept = *rows;
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_is_not_behind() {
        let rows = InFlight::default();
        assert_eq!(rows.behind(Position::between(9)), 0);
        rows.hand_on(Position::between(10), 3);
        rows.hand_on(Position::between(20), 4);
        rows.hand_on(Position::between(30), 0);
        assert_eq!(rows.behind(Position::between(9)), 7);
        assert_eq!(rows.behind(Position::between(15)), 4);
        // Nothing comes back.
        assert_eq!(rows.behind(Position::between(9)), 4);
        assert_eq!(rows.behind(Position::between(20)), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_never_tells_too_few() {
        let rows = InFlight::default();
        let all = 100_000;
        for position in 1..=all {
            rows.hand_on(Position::between(position), 1);
        }
        assert!(rows.0.lock().unwrap().positions.len() <= MARKS);
        let behind = rows.behind(Position::between(all / 2));
        // No more than what lies between two marks.
        assert!(
            (all / 2..all / 2 + all / 1_000).contains(&behind),
            "{behind}"
        );
        assert_eq!(rows.behind(Position::between(all)), 0);
    }
}
