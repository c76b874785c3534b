//! Bytes and UUIDs.

use super::Refused;

const BYTES: Refused = Refused(r"is no bytea in hexadecimal form (\x and digits)");
const UUID: Refused = Refused("is no UUID");

/// Appends the bytes that `\x` and hexadecimal digits stand for.
pub fn bytes(text: &[u8], to: &mut Vec<u8>) -> Result<(), Refused> {
    let digits = text.strip_prefix(b"\\x").ok_or(BYTES)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(BYTES);
    }
    to.reserve(pairs.len());
    for [high, low] in pairs {
        to.push(nibble(*high).ok_or(BYTES)? << 4 | nibble(*low).ok_or(BYTES)?);
    }
    Ok(())
}

/// Appends `\x` and the hexadecimal digits of `bytes`.
pub fn push_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    to.reserve(2 + 2 * bytes.len());
    to.extend_from_slice(b"\\x");
    for byte in bytes {
        to.push(digit(byte >> 4));
        to.push(digit(byte & 0xf));
    }
}

/// The number that a UUID in its usual form of 36 characters stands for.
pub fn uuid(text: &[u8]) -> Result<u128, Refused> {
    if text.len() != 36 {
        return Err(UUID);
    }
    let mut value = 0_u128;
    for (at, byte) in text.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return Err(UUID);
            }
        } else {
            value = value << 4 | u128::from(nibble(*byte).ok_or(UUID)?);
        }
    }
    Ok(value)
}

/// Appends a UUID in its usual form.
pub fn push_uuid(value: u128, to: &mut Vec<u8>) {
    for (at, byte) in value.to_be_bytes().into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            to.push(b'-');
        }
        to.push(digit(byte >> 4));
        to.push(digit(byte & 0xf));
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(value: Vec<u8>) {
            let (mut text, mut back) = (Vec::new(), Vec::new());
            push_bytes(&value, &mut text);
            bytes(&text, &mut back).unwrap();
            prop_assert_eq!(back, value);
        }

        #[test]
        fn a_uuid_comes_back(value: u128) {
            let mut text = Vec::new();
            push_uuid(value, &mut text);
            prop_assert_eq!(uuid(&text), Ok(value));
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "\\x1", "\\xzz", "00", "\\000"] {
            assert_eq!(
                bytes(text.as_bytes(), &mut Vec::new()),
                Err(BYTES),
                "{text}"
            );
        }
        let good = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(
            uuid(good.as_bytes()),
            Ok(0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11)
        );
        for text in [
            "",
            &good[1..],
            &good.replace('-', "0"),
            &good.replace('a', "g"),
        ] {
            assert_eq!(uuid(text.as_bytes()), Err(UUID), "{text}");
        }
    }
}
