//! What a search looks for.

use ledger_core::{Error, ErrorKind, Query, Result};

/// What is to be found in payloads.
#[derive(Debug)]
pub(super) enum Needle {
    /// A text, whatever the case of its letters. Documents hold no text to be searched, so entries
    /// are looked at here.
    Substring {
        /// In lower case.
        text: String,
        /// Whether it has ASCII characters only.
        ascii: bool,
    },
    /// Words, which the text index finds.
    FullText(String),
}

impl Needle {
    /// What a query asks for; `Unsupported` for a full-text query without that option.
    pub(super) fn of(query: &Query, full_text: bool) -> Result<Self> {
        match query {
            Query::Substring(text) | Query::FullText(text) if text.is_empty() => {
                Err(Error::invalid("search", "query must not be empty"))
            }
            Query::Substring(text) => Ok(Self::Substring {
                text: text.to_lowercase(),
                ascii: text.is_ascii(),
            }),
            Query::FullText(text) if full_text => Ok(Self::FullText(text.clone())),
            Query::FullText(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "search",
                "the store was opened without full_text; open it with that option, and call \
                 ensure_search_index once",
            )),
        }
    }

    /// Whether the payload contains the text. What the index has found, does.
    pub(super) fn is_in(&self, payload: &[u8]) -> bool {
        match self {
            Self::FullText(_) => true,
            Self::Substring { text, ascii: true } => payload
                .windows(text.len())
                .any(|window| window.eq_ignore_ascii_case(text.as_bytes())),
            Self::Substring { text, .. } => String::from_utf8_lossy(payload)
                .to_lowercase()
                .contains(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_match_whatever_their_case_and_no_character_is_special() {
        let find = |text: &str, payload: &[u8]| {
            Needle::of(&Query::Substring(text.into()), false)
                .unwrap()
                .is_in(payload)
        };
        assert!(find(r"50%_\X", br"was 50%_\x off"));
        assert!(!find(r"50%_\X", br"was 500_\x off"));
        assert!(find("ÄRGER im Büro", "viel ärger im BÜRO".as_bytes()));
        let words = Query::FullText("words".into());
        assert_eq!(
            Needle::of(&words, false).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}
