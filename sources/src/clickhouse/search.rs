//! What a substring search looks for.

use ledger_core::{Error, ErrorKind, Query, Result};
use ledger_layout::clickhouse::literal;

/// The longest text to search for, in bytes: a statement may have 256 KiB, and quoting grows it.
const MAX_TEXT: usize = 16 << 10;

/// A text to be found in payloads, whatever the case of its letters, as a condition.
///
/// The index of the payloads knows groups of four bytes of what `lower` makes of them, which leaves
/// letters beyond ASCII as they are. So a part of the text that is ASCII is looked for by the index,
/// and where that is not all of it, the whole is compared.
pub(super) fn condition(query: &Query) -> Result<String> {
    let text = match query {
        Query::Substring(text) => text,
        Query::FullText(_) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "search",
                "ClickHouse stores have no full-text index; search for a substring",
            ));
        }
    };
    if text.is_empty() {
        return Err(Error::invalid("search", "query must not be empty"));
    }
    if text.len() > MAX_TEXT {
        let what = format!("query is longer than {MAX_TEXT} bytes");
        return Err(Error::invalid("search", what));
    }
    let part = text
        .split(|c: char| !c.is_ascii())
        .max_by_key(|part| part.len())
        .unwrap_or_default();
    let mut conditions = Vec::new();
    if !part.is_empty() {
        let mut pattern = String::from("%");
        for c in part.to_ascii_lowercase().chars() {
            if matches!(c, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('%');
        conditions.push(format!("lower(payload) LIKE {}", literal(&pattern)));
    }
    if !text.is_ascii() {
        conditions.push(format!(
            "positionCaseInsensitiveUTF8(payload, {}) > 0",
            literal(text)
        ));
    }
    Ok(conditions.join(" AND "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        condition(&Query::Substring(text.into())).unwrap()
    }

    #[test]
    fn no_character_of_a_query_is_special() {
        assert_eq!(of(r"50%_\X"), r"lower(payload) LIKE '%50\\%\\_\\\\x%'");
        assert_eq!(of("it's"), r"lower(payload) LIKE '%it\'s%'");
    }

    #[test]
    fn letters_beyond_ascii_are_compared_as_letters() {
        assert_eq!(
            of("ÄRGER im Büro"),
            "lower(payload) LIKE '%rger im b%' AND \
             positionCaseInsensitiveUTF8(payload, 'ÄRGER im Büro') > 0"
        );
        assert_eq!(of("Ж"), "positionCaseInsensitiveUTF8(payload, 'Ж') > 0");
    }
}
