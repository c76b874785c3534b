//! How a capture behaves.

use std::fmt;
use std::str::FromStr;

use ledger_core::{Error, Result};

use crate::select::TableSelection;

/// How a capture behaves.
#[derive(Debug, Clone)]
pub struct CollectionOptions {
    /// Which collections are carried: patterns without a schema. Time-series collections, views and
    /// those that the server or a ledger's store keeps its own state in never are.
    pub collections: TableSelection,
    /// Whether what the collections held before is copied. True by default.
    pub copy: bool,
    /// In which form documents are carried. [`Documents::Doc`] by default.
    pub documents: Documents,
}

impl CollectionOptions {
    /// The defaults, for these collections.
    pub fn new(collections: TableSelection) -> Self {
        Self {
            collections,
            copy: true,
            documents: Documents::default(),
        }
    }

    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<()> {
        if self.documents == Documents::Columns && !self.copy {
            let rule = "documents: columns needs what the collections hold to be copied, since they \
                        are copied anew where a column gets another type; leave copy as it is";
            return Err(Error::invalid("capture collections", rule));
        }
        Ok(())
    }
}

/// The form of documents as rows. A bridge that is given another form than before copies its
/// collections anew where rows of before would lack columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Documents {
    /// `_id` and `doc`, the document as JSON.
    #[default]
    Doc,
    /// A typed column for each field too, as they come.
    Columns,
}

impl Documents {
    /// As it is written in arguments and configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Doc => "doc",
            Self::Columns => "columns",
        }
    }
}

impl FromStr for Documents {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "doc" => Ok(Self::Doc),
            "columns" => Ok(Self::Columns),
            _ => {
                let rule = format!("must be doc or columns, not {text:?}");
                Err(Error::invalid("read the form of documents", rule))
            }
        }
    }
}

impl fmt::Display for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
