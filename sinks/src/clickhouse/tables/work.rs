//! What one claim of a pipeline knows of its tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger_core::{CopyState, Error, ErrorKind, PipelineId, Result, RowChange, Table, Version};
use ledger_layout::clickhouse::Noted;
use ledger_layout::tables::Note;

use super::DELIVER;
use super::destination::Destination;

/// The tables of a pipeline, as long as its fence is the same.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) pipeline: PipelineId,
    pub(super) fence: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
}

/// For each slot of a destination the place of its value in a row.
pub(super) type Places = Arc<[Option<usize>]>;

/// A table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) noted: Noted,
    /// None until it was found to be as noted.
    pub(super) destination: Option<Arc<Destination>>,
    /// Whether the note has to be written.
    pub(super) dirty: bool,
    /// The shape that was met last, and where the values of its rows stand.
    places: Option<(Arc<Table>, Places)>,
}

impl Entry {
    pub(super) fn new(noted: Noted) -> Self {
        Self {
            noted,
            destination: None,
            dirty: false,
            places: None,
        }
    }

    pub(super) fn note(&self) -> Result<&Note> {
        self.noted
            .note
            .as_ref()
            .ok_or_else(|| unknown(self.noted.table_id))
    }

    /// Takes another note, with the table that it describes.
    pub(super) fn renew(&mut self, note: Note, destination: Destination) {
        self.noted.note = Some(note);
        self.destination = Some(Arc::new(destination));
        self.dirty = true;
        self.places = None;
    }

    /// Whether rows of this change can be written as the table is now.
    pub(super) fn admits(&self, change: &RowChange) -> bool {
        let Some(note) = &self.noted.note else {
            return false;
        };
        let met = self.places.as_ref();
        let same = met.is_some_and(|(table, _)| Arc::ptr_eq(table, &change.table));
        self.destination.is_some() && (same || !note.is_newer(&change.table, change.version))
    }

    /// For each slot of the destination the place of its value in a row of this change.
    pub(super) fn places(&mut self, change: &RowChange) -> Result<Places> {
        if let Some((table, places)) = &self.places
            && Arc::ptr_eq(table, &change.table)
        {
            return Ok(Arc::clone(places));
        }
        let places: Places = self.note()?.places(&change.table, change.version).into();
        self.places = Some((Arc::clone(&change.table), Arc::clone(&places)));
        Ok(places)
    }

    /// Hides rows below `version`.
    pub(super) fn raise(&mut self, version: Version) {
        let boundary = version.as_u128();
        if boundary > self.noted.boundary {
            self.noted.boundary = boundary;
            self.dirty = true;
        }
    }

    /// Notes how far the copy is. What a copy has not found again is hidden: at once where rows are
    /// told apart by their versions, and at its end where each key has but one row.
    pub(super) fn copied(&mut self, state: &CopyState) {
        let keyed = self.destination.as_ref().is_some_and(|d| d.is_keyed());
        let ends = match state {
            CopyState::Begun { .. } => !keyed,
            CopyState::Upto { .. } => false,
            CopyState::Done { .. } => true,
        };
        if ends {
            self.raise(Version::new(state.point(), 0));
        }
        if let Some(note) = &mut self.noted.note
            && note.copy.as_ref() != Some(state)
        {
            note.copy = Some(state.clone());
            self.dirty = true;
        }
    }
}

impl Entry {
    /// Notes that changes wait for the copy, and tells which one that is.
    pub(super) fn defer(&mut self) -> u64 {
        let Some(note) = &mut self.noted.note else {
            return 0;
        };
        self.dirty |= !note.deferred;
        note.deferred = true;
        note.copy.as_ref().map_or(0, CopyState::point)
    }

    /// Notes that none wait any more.
    pub(super) fn caught_up(&mut self) {
        if let Some(note) = &mut self.noted.note {
            self.dirty |= note.deferred;
            note.deferred = false;
        }
    }
}

impl Work {
    pub(super) fn entry(&mut self, table: &Table) -> Result<&mut Entry> {
        self.entries
            .get_mut(&table.id)
            .ok_or_else(|| unknown(table.id))
    }
}

fn unknown(table: u64) -> Error {
    let what = format!("table number {table} is not noted");
    Error::new(ErrorKind::Internal, DELIVER, what)
}
