//! How a capture behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use ledger_core::{Error, Result, TableName};

use crate::select::TableSelection;

/// How a capture behaves.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Which tables are carried.
    pub tables: TableSelection,
    /// A replication slot that somebody else keeps; made and dropped by the capture where none is
    /// named.
    pub slot: Option<String>,
    /// A publication that somebody else keeps; made, changed and dropped by the capture where none
    /// is named.
    pub publication: Option<String>,
    /// Whether updates and deletes of tables without a key are told, where their replica identity is
    /// FULL. False by default: such tables only grow.
    pub keyless_changes: bool,
    /// Whether what the tables held before is copied. True by default.
    pub copy: bool,
    /// How many ranges of a table are read side by side; 2 by default.
    pub copy_width: usize,
    /// What of single tables is carried.
    pub filters: BTreeMap<TableName, TableFilter>,
    /// What happens where the slot holds back too much of the log; nothing by default.
    pub wal_budget: Option<WalBudget>,
}

impl CaptureOptions {
    /// The defaults, for these tables.
    pub fn new(tables: TableSelection) -> Self {
        Self {
            tables,
            slot: None,
            publication: None,
            keyless_changes: false,
            copy: true,
            copy_width: 2,
            filters: BTreeMap::new(),
            wal_budget: None,
        }
    }
}

/// What of a table is carried. [`Default`] is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableFilter {
    /// Columns that are not carried. None of the key.
    pub exclude: BTreeSet<String>,
    /// A condition that the rows fulfil which are carried, in SQL. The server decides it, so it needs
    /// PostgreSQL 15 or newer, and may name columns of the replica identity only: to others
    /// PostgreSQL would refuse its users' updates.
    pub rows: Option<String>,
}

/// How much of the write-ahead log a capture may hold back at the server. Half of it is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalBudget {
    /// The bytes.
    pub bytes: u64,
    /// What happens then.
    pub exceeded: WalExceeded,
}

/// What happens where a capture holds back more than it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalExceeded {
    /// The capture ends, and the slot stays.
    #[default]
    Stop,
    /// The slot is dropped as well, so that the server can go on without the capture, whose tables
    /// must be copied anew afterwards.
    DropSlot,
    /// The slot is dropped, and the tables are copied anew at once.
    Resync,
}

impl FromStr for WalExceeded {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "stop" => Ok(Self::Stop),
            "drop_slot" => Ok(Self::DropSlot),
            "resync" => Ok(Self::Resync),
            _ => Err(Error::invalid(
                "read what an exceeded budget does",
                format!("{text:?} must be stop, drop_slot or resync"),
            )),
        }
    }
}
