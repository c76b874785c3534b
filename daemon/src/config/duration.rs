//! Durations as Go writes them: `1.5s`, `1m30s`, `250ms`.

use std::time::Duration;

/// The units, longest spelling first where one begins with another, with their nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// What an error tells.
pub(crate) const RULE: &str = "must be a duration such as 250ms, 1.5s, 1m30s or 2h";

/// Reads a duration; none where it is not written as Go writes it, negative, or beyond 290 years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, behind) = UNITS.iter().find_map(|(name, nanos)| {
            let behind = behind.strip_prefix(name)?;
            // `m` is not the unit of `ms`; every unit ends before a digit, a point or the end.
            let ends = behind
                .chars()
                .next()
                .is_none_or(|c| c.is_ascii_digit() || c == '.');
            ends.then_some((*nanos, behind))
        })?;
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total
            .checked_add(whole.checked_mul(unit)?)?
            .checked_add(part(fraction, unit))?;
        rest = behind;
    }
    i64::try_from(total).ok()?;
    Some(Duration::from_nanos(total))
}

/// The digits at the beginning, and what is behind them.
fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The nanoseconds of the digits behind the point, what is finer than one cut off.
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(0)
}

/// Writes a duration as it is read back.
pub(crate) fn write(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (name, unit) in [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
    ] {
        if nanos >= unit && nanos.is_multiple_of(unit) {
            return format!("{}{name}", nanos / unit);
        }
    }
    match nanos {
        0 => "0s".to_owned(),
        _ => format!("{nanos}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90_000_000_000),
            ("250ms", 250_000_000),
            (".5h", 1_800_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "", "5", "-1s", "1", "s", "1 s", "1x", "1.s.", "1d", ".", "1ss", "9999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for nanos in [
            0,
            1,
            250_000_000,
            1_500_000_000,
            90_000_000_000,
            7_200_000_000_000,
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse(&write(duration)), Some(duration));
        }
    }
}
