//! Arrays.

use std::borrow::Cow;

use super::Refused;

const ARRAY: Refused = Refused("is no array ({1,2})");
const RAGGED: Refused = Refused("is an array whose parts differ in length");
const BOUNDS: Refused = Refused("has array bounds that are not understood");
const DEEP: Refused = Refused("is an array of more than six dimensions");

/// The most dimensions that the source knows (`MAXDIM`).
const DIMENSIONS: usize = 6;

/// An array's text whose form was checked: how many elements each dimension has.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    body: &'a [u8],
    lengths: [usize; DIMENSIONS],
    depth: usize,
    shifted: bool,
}

/// A part of an array's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// An array begins: the outermost, or one within it.
    Open,
    /// It ends.
    Close,
    /// An element, without quotes and escapes.
    Element(Cow<'a, [u8]>),
    /// An element that is NULL.
    Null,
}

impl<'a> Array<'a> {
    /// Checks a text as `{1,2,NULL}`, `{{a},{"b c"}}` or `[0:1]={1,2}`.
    pub fn parse(text: &'a [u8]) -> Result<Self, Refused> {
        let (body, bounds) = bounds(text)?;
        let mut array = Self {
            body,
            lengths: [0; DIMENSIONS],
            depth: 0,
            shifted: bounds,
        };
        array.measure()?;
        Ok(array)
    }

    /// The number of dimensions; 0 of an array without elements.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The number of elements of each dimension, the outermost first.
    pub fn lengths(&self) -> &[usize] {
        self.lengths.get(..self.depth).unwrap_or_default()
    }

    /// Whether a dimension begins elsewhere than at 1.
    pub fn is_shifted(&self) -> bool {
        self.shifted
    }

    /// The parts of the text.
    pub fn events(&self) -> Events<'a> {
        Events {
            rest: self.body,
            open: 0,
            expects: Expects::Value,
        }
    }

    fn measure(&mut self) -> Result<(), Refused> {
        // How many values each open array has so far; and what its dimension has, once known.
        let mut counts = [0_usize; DIMENSIONS];
        let mut known = [None; DIMENSIONS];
        let mut open = 0_usize;
        let mut deepest = 0;
        // Elements stand in one dimension only, the innermost.
        let mut leaf = None;
        for event in self.events() {
            match event? {
                Event::Open => {
                    if leaf.is_some_and(|leaf| open >= leaf) {
                        return Err(RAGGED);
                    }
                    if open > 0 {
                        count(&mut counts, open)?;
                    }
                    *counts.get_mut(open).ok_or(DEEP)? = 0;
                    open += 1;
                    deepest = deepest.max(open);
                }
                Event::Close => {
                    open -= 1;
                    let count = counts.get(open).copied().ok_or(DEEP)?;
                    let known = known.get_mut(open).ok_or(DEEP)?;
                    if known.replace(count).is_some_and(|before| before != count) {
                        return Err(RAGGED);
                    }
                }
                Event::Element(_) | Event::Null => {
                    if *leaf.get_or_insert(open) != open || deepest > open {
                        return Err(RAGGED);
                    }
                    count(&mut counts, open)?;
                }
            }
        }
        self.lengths = known.map(Option::unwrap_or_default);
        self.depth = if self.lengths.first() == Some(&0) {
            0
        } else {
            deepest
        };
        // `{{},{}}` has no elements either, but the source writes it `{}`.
        if self.depth > 1 && self.lengths().contains(&0) {
            return Err(ARRAY);
        }
        Ok(())
    }
}

fn count(counts: &mut [usize; DIMENSIONS], open: usize) -> Result<(), Refused> {
    let place = open.checked_sub(1).ok_or(ARRAY)?;
    *counts.get_mut(place).ok_or(DEEP)? += 1;
    Ok(())
}

/// Takes bounds as `[0:1][5:6]=` off, and tells whether one begins elsewhere than at 1.
fn bounds(text: &[u8]) -> Result<(&[u8], bool), Refused> {
    if text.first() != Some(&b'[') {
        return Ok((text, false));
    }
    let at = text.iter().position(|byte| *byte == b'=').ok_or(BOUNDS)?;
    let (bounds, body) = text.split_at_checked(at).ok_or(BOUNDS)?;
    let bounds = std::str::from_utf8(bounds).map_err(|_| BOUNDS)?;
    let mut shifted = false;
    for bound in bounds.split_inclusive(']') {
        let bound = bound
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let (from, to) = bound.and_then(|text| text.split_once(':')).ok_or(BOUNDS)?;
        let from: i64 = from.parse().map_err(|_| BOUNDS)?;
        to.parse::<i64>().map_err(|_| BOUNDS)?;
        shifted |= from != 1;
    }
    Ok((body.get(1..).ok_or(BOUNDS)?, shifted))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    /// A value.
    Value,
    /// A value, or the end of the array that has just begun.
    First,
    /// A comma, or the end of an array.
    Next,
}

/// The parts of an array's text; ends behind the first error.
#[derive(Debug, Clone)]
pub struct Events<'a> {
    rest: &'a [u8],
    open: usize,
    expects: Expects,
}

impl<'a> Events<'a> {
    fn step(&mut self) -> Result<Event<'a>, Refused> {
        if self.expects == Expects::Next
            && let Some((b',', rest)) = self.rest.split_first()
        {
            self.rest = rest;
            self.expects = Expects::Value;
        }
        match self.rest.split_first() {
            Some((b'{', rest)) if self.expects != Expects::Next => {
                self.rest = rest;
                self.open += 1;
                self.expects = Expects::First;
                Ok(Event::Open)
            }
            Some((b'}', rest)) if self.expects != Expects::Value => {
                self.rest = rest;
                self.open = self.open.checked_sub(1).ok_or(ARRAY)?;
                self.expects = Expects::Next;
                // Nothing follows the outermost one.
                if self.open == 0 && !rest.is_empty() {
                    return Err(ARRAY);
                }
                Ok(Event::Close)
            }
            Some(_) if self.open > 0 && self.expects != Expects::Next => {
                self.expects = Expects::Next;
                self.value()
            }
            _ => Err(ARRAY),
        }
    }

    fn value(&mut self) -> Result<Event<'a>, Refused> {
        if let Some(quoted) = self.rest.strip_prefix(b"\"") {
            let (text, rest) = unquote(quoted).ok_or(ARRAY)?;
            self.rest = rest;
            return Ok(Event::Element(text));
        }
        let end = self
            .rest
            .iter()
            .position(|byte| matches!(byte, b',' | b'}'));
        let (text, rest) = self.rest.split_at_checked(end.ok_or(ARRAY)?).ok_or(ARRAY)?;
        self.rest = rest;
        if text.is_empty() || text.iter().any(|byte| matches!(byte, b'"' | b'{' | b'\\')) {
            return Err(ARRAY);
        }
        if text.eq_ignore_ascii_case(b"null") {
            return Ok(Event::Null);
        }
        Ok(Event::Element(Cow::Borrowed(text)))
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.open == 0 && self.expects == Expects::Next {
            return None;
        }
        let event = self.step();
        if event.is_err() {
            self.open = 0;
            self.expects = Expects::Next;
        }
        Some(event)
    }
}

/// A text up to its closing quote, and what follows; behind a backslash every byte stands for
/// itself.
pub(super) fn unquote(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let special = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (plain, mut rest) = text.split_at_checked(special)?;
    if let Some(rest) = rest.strip_prefix(b"\"") {
        return Some((Cow::Borrowed(plain), rest));
    }
    let mut text = plain.to_vec();
    loop {
        match rest {
            [b'"', after @ ..] => return Some((Cow::Owned(text), after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] if rest != b"\\" => {
                text.push(*byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

/// Appends an element as the source writes it: quoted where it could be taken for something else.
pub fn push_element(element: Option<&[u8]>, to: &mut Vec<u8>) {
    let Some(element) = element else {
        to.extend_from_slice(b"NULL");
        return;
    };
    let special = |byte: &u8| {
        matches!(
            byte,
            b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t'..=b'\r'
        )
    };
    if !element.is_empty() && !element.iter().any(special) && !element.eq_ignore_ascii_case(b"null")
    {
        to.extend_from_slice(element);
        return;
    }
    push_quoted(element, to);
}

pub(super) fn push_quoted(text: &[u8], to: &mut Vec<u8>) {
    to.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            to.push(b'\\');
        }
        to.push(*byte);
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat(text: &str) -> Result<(Vec<usize>, Vec<Option<String>>), Refused> {
        let array = Array::parse(text.as_bytes())?;
        let mut elements = Vec::new();
        for event in array.events() {
            match event? {
                Event::Element(text) => {
                    elements.push(Some(String::from_utf8(text.into_owned()).unwrap()));
                }
                Event::Null => elements.push(None),
                Event::Open | Event::Close => {}
            }
        }
        Ok((array.lengths().to_vec(), elements))
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn every_form_of_the_source_is_read() {
        assert_eq!(flat("{}"), Ok((vec![], vec![])));
        assert_eq!(flat("{1,2,3}"), Ok((vec![3], some(&["1", "2", "3"]))));
        assert_eq!(
            flat(r#"{"a b","NULL","","x\"y\\z",ü}"#),
            Ok((vec![5], some(&["a b", "NULL", "", r#"x"y\z"#, "ü"])))
        );
        assert_eq!(flat("{NULL,null}"), Ok((vec![2], vec![None, None])));
        assert_eq!(
            flat("{{1,2},{3,4},{5,6}}"),
            Ok((vec![3, 2], some(&["1", "2", "3", "4", "5", "6"])))
        );
        assert_eq!(flat("{{{1}}}"), Ok((vec![1, 1, 1], some(&["1"]))));
        let shifted = Array::parse(b"[0:1][-3:-2]={{1,2},{3,4}}").unwrap();
        assert!(shifted.is_shifted() && shifted.lengths() == [2, 2]);
        assert!(!Array::parse(b"[1:2]={1,2}").unwrap().is_shifted());
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in [
            "",
            "{",
            "}",
            "{1",
            "1",
            "{1,}",
            "{,1}",
            "{1}}",
            "{1}x",
            "{{1},2}",
            "{2,{1}}",
            "{{1},{2,3}}",
            "{{},{}}",
            "{\"a}",
            "{a\"b}",
            "[0:1]{1}",
            "[0]={1}",
            "[a:b]={1}",
            "{\"\\",
            "{{{{{{{1}}}}}}}",
        ] {
            assert!(flat(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn elements_come_back(values in proptest::collection::vec(proptest::option::of(".*"), 0..8)) {
            let mut text = b"{".to_vec();
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.push(b',');
                }
                push_element(value.as_deref().map(str::as_bytes), &mut text);
            }
            text.push(b'}');
            let (_, back) = flat(std::str::from_utf8(&text).unwrap()).unwrap();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn nothing_panics(text in r#"[{}",\\\[\]:=aN1 ]{0,30}"#) {
            let _ = flat(&text);
        }
    }
}
