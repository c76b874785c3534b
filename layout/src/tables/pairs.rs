//! Pairs (`hstore`).

use std::borrow::Cow;

use super::Refused;
use super::array::{push_quoted, unquote};

const PAIRS: Refused = Refused(r#"is no list of pairs ("a"=>"1", "b"=>NULL)"#);

/// The pairs of a text as `"a"=>"1", "b"=>NULL`; ends behind the first error.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    rest: &'a [u8],
    first: bool,
}

type Pair<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

impl<'a> Pairs<'a> {
    /// The pairs of `text`.
    pub fn of(text: &'a [u8]) -> Self {
        Self {
            rest: text,
            first: true,
        }
    }

    fn step(&mut self) -> Option<Pair<'a>> {
        if !self.first {
            self.rest = self.rest.strip_prefix(b", ")?;
        }
        self.first = false;
        let (key, rest) = unquote(self.rest.strip_prefix(b"\"")?)?;
        let rest = rest.strip_prefix(b"=>")?;
        if let Some(rest) = rest.strip_prefix(b"NULL") {
            self.rest = rest;
            return Some((key, None));
        }
        let (value, rest) = unquote(rest.strip_prefix(b"\"")?)?;
        self.rest = rest;
        Some((key, Some(value)))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = self.step();
        if pair.is_none() {
            self.rest = &[];
        }
        Some(pair.ok_or(PAIRS))
    }
}

/// Appends a pair, behind a comma where it is not the first.
pub fn push_pair(key: &[u8], value: Option<&[u8]>, first: bool, to: &mut Vec<u8>) {
    if !first {
        to.extend_from_slice(b", ");
    }
    push_quoted(key, to);
    to.extend_from_slice(b"=>");
    match value {
        Some(value) => push_quoted(value, to),
        None => to.extend_from_slice(b"NULL"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    fn owned(text: &[u8]) -> Result<Owned, Refused> {
        Pairs::of(text)
            .map(|pair| pair.map(|(key, value)| (key.into_owned(), value.map(Cow::into_owned))))
            .collect()
    }

    proptest! {
        #[test]
        fn pairs_come_back(pairs: Owned) {
            let mut text = Vec::new();
            for (at, (key, value)) in pairs.iter().enumerate() {
                push_pair(key, value.as_deref(), at == 0, &mut text);
            }
            prop_assert_eq!(owned(&text), Ok(pairs));
        }

        #[test]
        fn nothing_panics(text in r#"[",\\=>NULa ]{0,30}"#) {
            let _ = owned(text.as_bytes());
        }
    }

    #[test]
    fn what_are_no_pairs_is_refused() {
        for text in [
            "a",
            "\"a\"",
            "\"a\"=>",
            "\"a\"=>1",
            "\"a\"=>\"1\",",
            "\"a\"=>\"1\"\"b\"=>NULL",
        ] {
            assert_eq!(owned(text.as_bytes()), Err(PAIRS), "{text}");
        }
    }
}
