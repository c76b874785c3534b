//! What was read of the log and is not settled yet.

use std::collections::VecDeque;

use ledger_core::Cursor;

/// The positions read, in log order, each settled or not. The cursor may move up to the first that
/// is not.
#[derive(Debug, Default)]
pub(super) struct Window {
    slots: VecDeque<(Cursor, bool)>,
    /// The number of the first slot.
    base: u64,
    settled: Option<Cursor>,
}

impl Window {
    /// A position that was read; its number.
    pub(super) fn push(&mut self, cursor: Cursor) -> u64 {
        self.slots.push_back((cursor, false));
        self.base + self.slots.len() as u64 - 1
    }

    /// What stands at this position is delivered, or queued, or of no interest.
    pub(super) fn settle(&mut self, slot: u64) {
        let index = slot.checked_sub(self.base);
        let index = index.and_then(|index| usize::try_from(index).ok());
        if let Some((_, settled)) = index.and_then(|index| self.slots.get_mut(index)) {
            *settled = true;
        }
        while matches!(self.slots.front(), Some((_, true))) {
            self.settled = self.slots.pop_front().map(|(cursor, _)| cursor);
            self.base += 1;
        }
    }

    /// How many positions are not behind the cursor.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number of the first position that is not settled.
    pub(super) fn first(&self) -> u64 {
        self.base
    }

    /// How far everything is settled, where that has moved since it was asked last.
    pub(super) fn take_settled(&mut self) -> Option<Cursor> {
        self.settled.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> Cursor {
        Cursor::new(b't', &[n])
    }

    #[test]
    fn the_cursor_never_passes_what_is_not_settled() {
        let mut window = Window::default();
        let slots: Vec<_> = (0..4).map(|n| window.push(at(n))).collect();
        window.settle(slots[1]);
        window.settle(slots[2]);
        assert_eq!(window.take_settled(), None);
        window.settle(slots[0]);
        assert_eq!(window.take_settled(), Some(at(2)));
        assert_eq!((window.take_settled(), window.len()), (None, 1));
        window.settle(slots[0]);
        window.settle(99);
        assert_eq!(window.take_settled(), None);
        window.settle(slots[3]);
        assert_eq!(window.take_settled(), Some(at(3)));
    }
}
