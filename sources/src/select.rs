//! Which tables a capture carries.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use ledger_core::{Error, Result, TableName};

/// A list of patterns: `public.*,!public.secret`.
///
/// Each pattern is `schema.table`, or `table` in the schema `public`; `*` stands for any characters,
/// `?` for one, names are compared as they stand in the catalogue, upper and lower case apart. One
/// with `!` in front takes out what an earlier one has taken in.
#[derive(Debug, Clone)]
pub struct TableSelection {
    text: String,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    taken: bool,
    schema: GlobMatcher,
    table: GlobMatcher,
}

impl TableSelection {
    /// Whether a table is carried. Those in which Ledger keeps its own state never are.
    pub fn holds(&self, name: &TableName) -> bool {
        const OWN: &[&str] = &[
            "ledger_capture",
            "ledger_consumers",
            "ledger_cursors",
            "ledger_dead_letters",
            "ledger_stores",
        ];
        if OWN.contains(&name.table.as_str()) {
            return false;
        }
        let mut matching = self.patterns.iter().filter(|pattern| {
            pattern.schema.is_match(&name.schema) && pattern.table.is_match(&name.table)
        });
        matching.next_back().is_some_and(|pattern| pattern.taken)
    }
}

impl FromStr for TableSelection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |what: String| Error::invalid("read tables", what);
        let mut patterns = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (taken, pattern) = match part.strip_prefix('!') {
                Some(rest) => (false, rest.trim()),
                None => (true, part),
            };
            let (schema, table) = pattern.split_once('.').unwrap_or(("public", pattern));
            if schema.is_empty() || table.is_empty() {
                return Err(refused(format!(
                    "{part:?} is not schema.table; write a list such as \
                     'public.*,!public.secret'"
                )));
            }
            let glob = |text: &str| {
                let glob = GlobBuilder::new(text).literal_separator(false).build();
                glob.map(|glob| glob.compile_matcher())
                    .map_err(|error| refused(format!("pattern {text:?}: {}", error.kind())))
            };
            patterns.push(Pattern {
                taken,
                schema: glob(schema)?,
                table: glob(table)?,
            });
        }
        if !patterns.iter().any(|pattern| pattern.taken) {
            return Err(refused(format!("{text:?} takes no table in")));
        }
        let text = text.to_owned();
        Ok(Self { text, patterns })
    }
}

impl fmt::Display for TableSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(patterns: &str, schema: &str, table: &str) -> bool {
        let selection: TableSelection = patterns.parse().unwrap();
        selection.holds(&TableName::new(schema, table))
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        assert!(holds("public.*,!public.secret", "public", "orders"));
        assert!(!holds("public.*,!public.secret", "public", "secret"));
        assert!(holds("*.*,!public.*,public.kept", "public", "kept"));
        assert!(!holds("public.*", "Public", "t"));
        assert!(holds("orders", "public", "orders"));
        assert!(holds("Sales.My Orders", "Sales", "My Orders"));
        assert!(!holds("*.*", "public", "ledger_consumers"));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "a,,b", "!public.secret", ".t", "s.", "public.[x"] {
            assert!(text.parse::<TableSelection>().is_err(), "{text}");
        }
    }
}
