//! Values that must not leave the source as they are.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How a sensitive column is carried. NULL stays NULL.
#[derive(Clone, PartialEq, Eq)]
pub enum Protection {
    /// As HMAC-SHA-256 of the value's text under this key, in 64 hexadecimal digits: equal values
    /// stay equal, so that they can be counted and joined, and without the key nobody can try out
    /// which value it was.
    Hash(Vec<u8>),
    /// As this text, whatever the value.
    Mask(String),
}

impl Protection {
    /// Appends what stands for the value.
    pub fn push(&self, text: &[u8], to: &mut Vec<u8>) {
        match self {
            Self::Mask(mask) => to.extend_from_slice(mask.as_bytes()),
            Self::Hash(key) => {
                // A key of any length is taken.
                let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
                    return;
                };
                mac.update(text);
                for byte in mac.finalize().into_bytes() {
                    for nibble in [byte >> 4, byte & 0xf] {
                        to.push(char::from_digit(u32::from(nibble), 16).map_or(b'0', |c| c as u8));
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(_) => f.write_str("Hash(***)"),
            Self::Mask(mask) => f.debug_tuple("Mask").field(mask).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_hmac_sha_256_and_its_key_is_not_shown() {
        // RFC 4231, test case 2.
        let hash = Protection::Hash(b"Jefe".to_vec());
        let mut text = Vec::new();
        hash.push(b"what do ya want for nothing?", &mut text);
        assert_eq!(
            text,
            b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(!format!("{hash:?}").contains("74"), "{hash:?}");
    }

    #[test]
    fn a_mask_is_the_same_for_every_value() {
        let mask = Protection::Mask("***".to_owned());
        let mut text = Vec::new();
        mask.push(b"secret", &mut text);
        assert_eq!(text, b"***");
    }
}
