//! What a verification found.

use std::fmt;

use ledger_core::{EntryId, PipelineId, StreamName};

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many streams the source has.
    pub streams: u64,
    /// How many entries the source has.
    pub entries: u64,
    /// Rows that differ only because the sink has not got that far yet.
    pub pending: u64,
    /// What differs.
    pub differences: Vec<Difference>,
    /// How many differences were mended.
    pub repaired: u64,
    /// How many were not, although that was asked for.
    pub unrepaired: u64,
    /// Where something was mended in a relay: who follows its log. That does not tell of it, so each
    /// of these is to be verified as well.
    pub verify_too: Vec<PipelineId>,
}

impl Report {
    /// Whether source and sink are equal now: nothing differed, or everything was mended.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() || (self.repaired > 0 && self.unrepaired == 0)
    }
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The stream's name at the source; where only the sink has it, the name there.
    pub stream: StreamName,
    /// The entry; none where the stream itself differs.
    pub id: Option<EntryId>,
    /// How.
    pub kind: Kind,
    /// The fields that differ.
    pub fields: Vec<&'static str>,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The sink lacks it.
    Missing,
    /// Only the sink has it.
    Extra,
    /// Some fields differ.
    Different,
}

impl Kind {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.as_str(), self.stream.as_str())?;
        if let Some(id) = self.id {
            write!(f, " #{id}")?;
        }
        if !self.fields.is_empty() {
            write!(f, " ({})", self.fields.join(", "))?;
        }
        Ok(())
    }
}
