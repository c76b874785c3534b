//! Dates and moments.

use std::io::Write as _;

use super::Refused;

const DATE: Refused = Refused("is no date (YYYY-MM-DD)");
const TIMESTAMP: Refused = Refused("is no date and time (YYYY-MM-DD HH:MM:SS.ffffff)");

const DAY: i64 = 86_400_000_000;

/// A value of a type that has both infinities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bounded<T> {
    /// Before all others.
    NegativeInfinity,
    /// An ordinary value.
    At(T),
    /// After all others.
    Infinity,
}

/// The days from 1970-01-01 to a date, by the Gregorian calendar also where it was not in use yet,
/// as the source counts.
pub fn date(text: &[u8]) -> Result<Bounded<i64>, Refused> {
    if let Some(infinite) = infinite(text) {
        return Ok(infinite);
    }
    let (text, before_christ) = era(text);
    let (days, rest) = days(text, before_christ).ok_or(DATE)?;
    if rest.is_empty() {
        Ok(Bounded::At(days))
    } else {
        Err(DATE)
    }
}

/// The microseconds from 1970-01-01 00:00 to a date and time; an offset from UTC, where one is
/// told, is taken off.
pub fn timestamp(text: &[u8]) -> Result<Bounded<i64>, Refused> {
    if let Some(infinite) = infinite(text) {
        return Ok(infinite);
    }
    let (text, before_christ) = era(text);
    moment(text, before_christ)
        .map(Bounded::At)
        .ok_or(TIMESTAMP)
}

fn infinite<T>(text: &[u8]) -> Option<Bounded<T>> {
    match text {
        b"infinity" => Some(Bounded::Infinity),
        b"-infinity" => Some(Bounded::NegativeInfinity),
        _ => None,
    }
}

fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

fn moment(text: &[u8], before_christ: bool) -> Option<i64> {
    let (days, rest) = days(text, before_christ)?;
    let (hours, rest) = two(rest.strip_prefix(b" ")?)?;
    let (minutes, rest) = two(rest.strip_prefix(b":")?)?;
    let (seconds, rest) = two(rest.strip_prefix(b":")?)?;
    if minutes > 59 || seconds > 60 {
        return None;
    }
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => micros(rest)?,
        None => (0, rest),
    };
    let offset = if rest.is_empty() { 0 } else { offset(rest)? };
    let within = ((hours * 60 + minutes) * 60 + seconds - offset) * 1_000_000 + fraction;
    // The end of a day may be written as 24:00.
    if hours > 24 || (hours == 24 && (minutes > 0 || seconds > 0 || fraction > 0)) {
        return None;
    }
    days.checked_mul(DAY)?.checked_add(within)
}

/// An offset from UTC in seconds: `+00`, `-03:30`, `+00:01:15`.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let (hours, mut rest) = two(text)?;
    let mut seconds = hours * 3_600;
    for unit in [60, 1] {
        if let Some(more) = rest.strip_prefix(b":") {
            let (value, after) = two(more)?;
            seconds += value * unit;
            rest = after;
        }
    }
    rest.is_empty().then_some(sign * seconds)
}

/// Up to six digits behind the point.
fn micros(text: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0;
    let mut rest = text;
    let mut unit = 100_000;
    while let Some((digit @ b'0'..=b'9', tail)) = rest.split_first() {
        if unit == 0 {
            return None;
        }
        value += i64::from(digit - b'0') * unit;
        unit /= 10;
        rest = tail;
    }
    (rest.len() < text.len()).then_some((value, rest))
}

fn two(text: &[u8]) -> Option<(i64, &[u8])> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] => {
            Some((i64::from(tens - b'0') * 10 + i64::from(ones - b'0'), rest))
        }
        _ => None,
    }
}

/// A date at the beginning of a text, as days from 1970-01-01.
fn days(text: &[u8], before_christ: bool) -> Option<(i64, &[u8])> {
    let end = text.iter().position(|byte| *byte == b'-')?;
    let (digits, rest) = text.split_at_checked(end)?;
    if !(4..=7).contains(&digits.len()) {
        return None;
    }
    let mut year = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        year = year * 10 + i64::from(digit - b'0');
    }
    if year == 0 {
        return None;
    }
    // There is no year 0: 1 BC comes before 1 AD.
    let year = if before_christ { 1 - year } else { year };
    let (month, rest) = two(rest.strip_prefix(b"-")?)?;
    let (day, rest) = two(rest.strip_prefix(b"-")?)?;
    let days = days_from_civil(year, month, day);
    // A day that its month does not have would come back as another one.
    (civil_from_days(days) == (year, month, day)).then_some((days, rest))
}

/// Days from 1970-01-01, by eras of 400 years which begin on the first of March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month, day)
}

/// Appends the date that is so many days from 1970-01-01, as the source writes it.
pub fn push_date(days: i64, to: &mut Vec<u8>) {
    let before_christ = push_day(days, to);
    if before_christ {
        to.extend_from_slice(b" BC");
    }
}

/// Appends date and time that are so many microseconds from 1970-01-01 00:00, and the offset `+00`
/// where it is a moment.
pub fn push_timestamp(micros: i64, zoned: bool, to: &mut Vec<u8>) {
    let before_christ = push_day(micros.div_euclid(DAY), to);
    let within = micros.rem_euclid(DAY);
    let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    // Writing into memory does not fail.
    let _ = write!(to, " {hours:02}:{minutes:02}:{seconds:02}");
    if fraction > 0 {
        let _ = write!(to, ".{fraction:06}");
        while to.last() == Some(&b'0') {
            to.pop();
        }
    }
    if zoned {
        to.extend_from_slice(b"+00");
    }
    if before_christ {
        to.extend_from_slice(b" BC");
    }
}

/// Appends a date without its era, and tells whether that is before Christ.
fn push_day(days: i64, to: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    let year = if before_christ { 1 - year } else { year };
    // Writing into memory does not fail.
    let _ = write!(to, "{year:04}-{month:02}-{day:02}");
    before_christ
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_date_comes_back(days in -2_500_000_i64..2_100_000_000 / 366) {
            let mut text = Vec::new();
            push_date(days, &mut text);
            prop_assert_eq!(date(&text), Ok(Bounded::At(days)));
        }

        #[test]
        fn a_moment_comes_back(micros in -200_000_000_000_000_000_i64..9_000_000_000_000_000_000, zoned: bool) {
            let mut text = Vec::new();
            push_timestamp(micros, zoned, &mut text);
            prop_assert_eq!(timestamp(&text), Ok(Bounded::At(micros)));
        }

        #[test]
        fn nothing_panics(text in "[-0-9 :.+BCinfty]{0,40}") {
            let _ = (date(text.as_bytes()), timestamp(text.as_bytes()));
        }
    }

    #[test]
    fn the_exceptions_of_the_source_are_understood() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("4713-01-01 BC", -2_440_550),
            ("5874897-12-31", 2_145_042_905),
        ] {
            assert_eq!(date(text.as_bytes()), Ok(Bounded::At(days)), "{text}");
        }
        assert_eq!(date(b"infinity"), Ok(Bounded::Infinity));
        assert_eq!(date(b"-infinity"), Ok(Bounded::NegativeInfinity));
        for text in [
            "",
            "2001-02-29",
            "2001-13-01",
            "0000-01-01",
            "2001-01-01x",
            "1-1-1",
        ] {
            assert_eq!(date(text.as_bytes()), Err(DATE), "{text}");
        }
        let day = 86_400_000_000;
        for (text, micros) in [
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01 00:00:00.5", 500_000),
            ("1970-01-01 24:00:00", day),
            ("1970-01-02 00:00:00+01:30", day - 5_400_000_000),
            ("1970-01-01 00:00:00-00:00:01", 1_000_000),
            ("1969-12-31 23:59:59.999999+00", -1),
        ] {
            assert_eq!(
                timestamp(text.as_bytes()),
                Ok(Bounded::At(micros)),
                "{text}"
            );
        }
        for text in [
            "1970-01-01",
            "1970-01-01 24:00:01",
            "1970-01-01 00:61:00",
            "1970-01-01 0:0:0",
            "1970-01-01 00:00:00.",
            "1970-01-01 00:00:00.1234567",
            "294277-01-09 04:00:54.775808",
        ] {
            assert_eq!(timestamp(text.as_bytes()), Err(TIMESTAMP), "{text}");
        }
    }
}
