//! Truth values and numbers.

use std::io::Write as _;
use std::str::FromStr;

use super::Refused;

const BOOLEAN: Refused = Refused("is neither t nor f");
const INTEGER: Refused = Refused("is no integer of 64 bits");
const FLOAT: Refused = Refused("is no floating-point number of this size");
const DECIMAL: Refused = Refused("is no decimal number");
const DIGITS: Refused = Refused("has more digits than its column declares");
const NAN: Refused = Refused("is NaN, which a Decimal cannot hold; carry the column as text");
const VECTOR: Refused = Refused("is no vector ([1,2.5])");

/// `t` or `f`.
pub fn boolean(text: &[u8]) -> Result<bool, Refused> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(BOOLEAN),
    }
}

/// An integer of up to 64 bits with a sign.
pub fn integer(text: &[u8]) -> Result<i64, Refused> {
    let (negative, digits) = sign(text);
    if digits.is_empty() {
        return Err(INTEGER);
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = i64::from(decimal_digit(*digit).ok_or(INTEGER)?);
        // Below zero all the way: the lowest number has no positive counterpart.
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_sub(digit))
            .ok_or(INTEGER)?;
    }
    if negative {
        Ok(value)
    } else {
        value.checked_neg().ok_or(INTEGER)
    }
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

fn decimal_digit(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}

/// A number of single precision.
pub fn float32(text: &[u8]) -> Result<f32, Refused> {
    float(text, |value: &f32| value.is_infinite())
}

/// A number of double precision.
pub fn float64(text: &[u8]) -> Result<f64, Refused> {
    float(text, |value: &f64| value.is_infinite())
}

fn float<F: FromStr>(text: &[u8], infinite: impl Fn(&F) -> bool) -> Result<F, Refused> {
    let text = std::str::from_utf8(text).map_err(|_| FLOAT)?;
    let value: F = text.parse().map_err(|_| FLOAT)?;
    // What is too large for the type is parsed as infinity, which is another number.
    if infinite(&value) && text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(FLOAT);
    }
    Ok(value)
}

/// Appends a number of single precision by its shortest digits.
pub fn push_float32(value: f32, to: &mut Vec<u8>) {
    if value.is_finite() {
        push_digits(&format!("{value:e}"), 6, to);
    } else {
        push_special(f64::from(value), to);
    }
}

/// Appends a number of double precision by its shortest digits.
pub fn push_float64(value: f64, to: &mut Vec<u8>) {
    if value.is_finite() {
        push_digits(&format!("{value:e}"), 15, to);
    } else {
        push_special(value, to);
    }
}

fn push_special(value: f64, to: &mut Vec<u8>) {
    to.extend_from_slice(if value.is_nan() {
        b"NaN"
    } else if value > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    });
}

/// Writes digits in scientific form as the source does: with an exponent of at least two digits
/// where it is below -4 or not below `from`, else without.
fn push_digits(scientific: &str, from: i32, to: &mut Vec<u8>) {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= from {
        to.extend_from_slice(digits.as_bytes());
        let sign = if exponent < 0 { '-' } else { '+' };
        // Writing into memory does not fail.
        let _ = write!(to, "e{sign}{:02}", exponent.unsigned_abs());
        return;
    }
    let digits = match digits.strip_prefix('-') {
        Some(digits) => {
            to.push(b'-');
            digits
        }
        None => digits,
    };
    let (head, tail) = digits.split_once('.').unwrap_or((digits, ""));
    if exponent < 0 {
        to.extend_from_slice(b"0.");
        to.extend(std::iter::repeat_n(
            b'0',
            usize::try_from(-exponent - 1).unwrap_or(0),
        ));
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(tail.as_bytes());
        return;
    }
    to.extend_from_slice(head.as_bytes());
    let whole = usize::try_from(exponent).unwrap_or(0);
    let (whole_digits, fraction) = tail.split_at_checked(whole).unwrap_or((tail, ""));
    to.extend_from_slice(whole_digits.as_bytes());
    to.extend(std::iter::repeat_n(b'0', whole - whole_digits.len()));
    if !fraction.is_empty() {
        to.push(b'.');
        to.extend_from_slice(fraction.as_bytes());
    }
}

/// The numbers of a vector, `[1,2.5]`.
pub fn vector(text: &[u8]) -> Result<impl Iterator<Item = Result<f32, Refused>> + '_, Refused> {
    let body = text
        .strip_prefix(b"[")
        .and_then(|text| text.strip_suffix(b"]"))
        .ok_or(VECTOR)?;
    let numbers = body.split(|byte| *byte == b',').map(float32);
    Ok(numbers.take(if body.is_empty() { 0 } else { usize::MAX }))
}

/// A decimal number as an integer of 256 bits in units of its last digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// The lowest first.
    limbs: [u64; 4],
}

impl Decimal {
    /// The two's complement, the lowest byte first; narrower types are its first bytes.
    pub fn to_le_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let mut carry = self.negative;
        let (parts, _) = bytes.as_chunks_mut::<8>();
        for (part, limb) in parts.iter_mut().zip(self.limbs) {
            let limb = if self.negative {
                let (limb, overflow) = (!limb).overflowing_add(u64::from(carry));
                carry = overflow;
                limb
            } else {
                limb
            };
            *part = limb.to_le_bytes();
        }
        bytes
    }

    /// From two's complement of up to 32 bytes, the lowest first.
    pub fn from_le_bytes(bytes: &[u8]) -> Self {
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 32];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        let (parts, _) = wide.as_chunks::<8>();
        let mut limbs = [0; 4];
        let mut carry = negative;
        for (limb, part) in limbs.iter_mut().zip(parts) {
            *limb = u64::from_le_bytes(*part);
            if negative {
                let (flipped, overflow) = (!*limb).overflowing_add(u64::from(carry));
                *limb = flipped;
                carry = overflow;
            }
        }
        Self { negative, limbs }
    }

    fn push_digit(&mut self, digit: u8) -> Option<()> {
        let mut carry = u128::from(digit);
        for limb in &mut self.limbs {
            let wide = u128::from(*limb) * 10 + carry;
            *limb = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(0);
            carry = wide >> 64;
        }
        (carry == 0).then_some(())
    }

    /// Takes the last digit off.
    fn pop_digit(&mut self) -> u8 {
        let mut rest = 0_u128;
        for limb in self.limbs.iter_mut().rev() {
            let wide = (rest << 64) | u128::from(*limb);
            *limb = u64::try_from(wide / 10).unwrap_or(0);
            rest = wide % 10;
        }
        u8::try_from(rest).unwrap_or(0)
    }

    /// Appends the number with `scale` digits behind the point.
    pub fn push(mut self, scale: usize, to: &mut Vec<u8>) {
        let negative = self.negative && self.limbs != [0; 4];
        let mut reversed = Vec::with_capacity(80);
        while self.limbs != [0; 4] || reversed.len() <= scale {
            reversed.push(b'0' + self.pop_digit());
        }
        if negative {
            to.push(b'-');
        }
        for (place, digit) in reversed.iter().enumerate().rev() {
            to.push(*digit);
            if place == scale && scale > 0 {
                to.push(b'.');
            }
        }
    }
}

/// A decimal of at most `precision` digits, up to 76, of which `scale` are behind the point.
pub fn decimal(text: &[u8], precision: u16, scale: u16) -> Result<Decimal, Refused> {
    let (negative, digits) = sign(text);
    if digits.eq_ignore_ascii_case(b"nan") {
        return Err(NAN);
    }
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => digits.split_at_checked(at).unwrap_or((digits, &[])),
        None => (digits, &[][..]),
    };
    let fraction = fraction.get(1..).unwrap_or_default();
    if whole.is_empty() && fraction.is_empty() {
        return Err(DECIMAL);
    }
    let scale = usize::from(scale);
    let (kept, beyond) = fraction.split_at_checked(scale).unwrap_or((fraction, &[]));
    if beyond.iter().any(|byte| *byte != b'0') {
        let known = beyond.iter().all(u8::is_ascii_digit);
        return Err(if known { DIGITS } else { DECIMAL });
    }
    let zeros = std::iter::repeat_n(&b'0', scale - kept.len());
    let mut count = 0;
    // Most numbers fit in 128 bits, which is a good deal faster.
    let mut low = 0_u128;
    let mut number = Decimal {
        negative,
        limbs: [0; 4],
    };
    for byte in whole.iter().chain(kept).chain(zeros) {
        let digit = decimal_digit(*byte).ok_or(DECIMAL)?;
        if count > 0 || digit > 0 {
            count += 1;
        }
        if count > precision {
            return Err(DIGITS);
        }
        if count <= 38 {
            low = low * 10 + u128::from(digit);
            continue;
        }
        if count == 39 {
            number.limbs = limbs(low);
        }
        number.push_digit(digit).ok_or(DIGITS)?;
    }
    if count <= 38 {
        number.limbs = limbs(low);
    }
    Ok(number)
}

fn limbs(value: u128) -> [u64; 4] {
    let low = u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
    let high = u64::try_from(value >> 64).unwrap_or(0);
    [low, high, 0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(value: Decimal, scale: usize) -> String {
        let mut text = Vec::new();
        value.push(scale, &mut text);
        String::from_utf8(text).unwrap()
    }

    fn float_text(value: f64) -> String {
        let mut text = Vec::new();
        push_float64(value, &mut text);
        String::from_utf8(text).unwrap()
    }

    proptest! {
        #[test]
        fn an_integer_comes_back(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn a_float_comes_back_bit_by_bit(bits: u64) {
            let value = f64::from_bits(bits);
            let back = float64(float_text(value).as_bytes()).unwrap();
            prop_assert!(back.to_bits() == value.to_bits() || value.is_nan() && back.is_nan());
        }

        #[test]
        fn a_decimal_comes_back(digits in "-?[1-9][0-9]{0,65}", fraction in "[0-9]{10}") {
            let text = format!("{digits}.{fraction}");
            let value = decimal(text.as_bytes(), 76, 10).unwrap();
            prop_assert_eq!(shown(value, 10), text);
            let back = Decimal::from_le_bytes(&value.to_le_bytes());
            prop_assert_eq!(back, value);
        }

        #[test]
        fn a_decimal_is_the_integer_of_its_digits(value: i64) {
            let parsed = decimal(value.to_string().as_bytes(), 19, 0).unwrap();
            prop_assert_eq!(&parsed.to_le_bytes()[..16], &i128::from(value).to_le_bytes());
            let narrow = Decimal::from_le_bytes(&value.to_le_bytes());
            prop_assert_eq!(shown(narrow, 0), value.to_string());
        }

        #[test]
        fn nothing_panics(text: Vec<u8>, precision in 0_u16..80, scale in 0_u16..80) {
            let _ = (boolean(&text), integer(&text), float32(&text), float64(&text));
            let _ = decimal(&text, precision, scale);
            let _ = vector(&text).map(Iterator::count);
        }
    }

    #[test]
    fn floats_are_written_as_the_source_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100.0, "100"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float_text(value), text);
        }
        let mut text = Vec::new();
        push_float32(1e6, &mut text);
        assert_eq!(text, b"1e+06");
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        assert_eq!(integer(b"9223372036854775808"), Err(INTEGER));
        assert_eq!(integer(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(integer(b"-"), Err(INTEGER));
        assert_eq!(float32(b"1e39"), Err(FLOAT));
        assert!(float64(b"Infinity").unwrap().is_infinite());
        assert_eq!(decimal(b"NaN", 5, 2), Err(NAN));
        assert_eq!(decimal(b"1000.00", 5, 2), Err(DIGITS));
        assert_eq!(decimal(b"1.001", 5, 2), Err(DIGITS));
        assert_eq!(decimal(b"1.x", 5, 2), Err(DECIMAL));
        assert_eq!(decimal(b"", 5, 2), Err(DECIMAL));
        assert_eq!(shown(decimal(b"-0.5", 5, 2).unwrap(), 2), "-0.50");
        assert_eq!(shown(decimal(b"-0.00", 5, 2).unwrap(), 2), "0.00");
        let largest = "9".repeat(76);
        assert_eq!(
            shown(decimal(largest.as_bytes(), 76, 0).unwrap(), 0),
            largest
        );
        let numbers: Result<Vec<f32>, _> = vector(b"[1,2.5,-3e-05]").unwrap().collect();
        assert_eq!(numbers, Ok(vec![1.0, 2.5, -3e-5]));
        assert_eq!(vector(b"[]").unwrap().count(), 0);
    }
}
