//! What a substring search looks for.

use ledger_core::{Error, Query, Result};

/// The longest part of a query that goes into a LIKE pattern; SQLite bounds them.
const MAX_PATTERN: usize = 1_000;

/// A text to be found in payloads, whatever the case of its letters.
///
/// SQLite knows the case of ASCII letters only. So it looks for an ASCII part of the text, which
/// finds too much but hardly ever too little, and what it finds is looked at again here.
#[derive(Debug)]
pub(super) struct Needle {
    text: String,
    ascii: bool,
}

impl Needle {
    /// What a query asks for; `Unsupported` for a full-text query.
    pub(super) fn of(query: &Query) -> Result<Self> {
        match query {
            Query::Substring(text) if text.is_empty() => {
                Err(Error::invalid("search", "query must not be empty"))
            }
            Query::Substring(text) => Ok(Self {
                text: text.to_lowercase(),
                ascii: text.is_ascii(),
            }),
            Query::FullText(_) => Err(Error::new(
                ledger_core::ErrorKind::Unsupported,
                "search",
                "SQLite has no full-text index; search for a substring",
            )),
        }
    }

    /// A LIKE pattern that every JSON payload matches which contains the text; none where the text
    /// has no ASCII part.
    pub(super) fn pattern(&self) -> Option<String> {
        let part = self
            .text
            .split(|c: char| !c.is_ascii())
            .max_by_key(|part| part.len())?;
        let part = part
            .get(..part.len().min(MAX_PATTERN))
            .filter(|part| !part.is_empty())?;
        let mut pattern = String::with_capacity(part.len() + 2);
        pattern.push('%');
        for c in part.chars() {
            if matches!(c, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('%');
        Some(pattern)
    }

    /// Whether the payload contains the text.
    pub(super) fn is_in(&self, payload: &[u8]) -> bool {
        if self.ascii {
            return payload
                .windows(self.text.len())
                .any(|window| window.eq_ignore_ascii_case(self.text.as_bytes()));
        }
        String::from_utf8_lossy(payload)
            .to_lowercase()
            .contains(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_of_a_query_is_special() {
        let needle = Needle::of(&Query::Substring(r"50%_\X".into())).unwrap();
        assert_eq!(needle.pattern().unwrap(), r"%50\%\_\\x%");
        assert!(needle.is_in(br"was 50%_\x off"));
        assert!(!needle.is_in(br"was 500_\x off"));
    }

    #[test]
    fn letters_match_whatever_their_case() {
        let needle = Needle::of(&Query::Substring("ÄRGER im Büro".into())).unwrap();
        assert_eq!(needle.pattern().unwrap(), "%rger im b%");
        assert!(needle.is_in("viel ärger im BÜRO".as_bytes()));
        assert_eq!(
            Needle::of(&Query::Substring("Ж".into())).unwrap().pattern(),
            None
        );
    }
}
