//! Positions of the write-ahead log as text.

use ledger_core::{Error, ErrorKind, Result};

/// A log position as PostgreSQL writes it.
pub(in crate::postgres) fn shown(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Reads a log position as PostgreSQL writes it.
pub(in crate::postgres) fn parsed(text: &str) -> Result<u64> {
    let parse = || {
        let (high, low) = text.split_once('/')?;
        let high = u64::from(u32::from_str_radix(high, 16).ok()?);
        let low = u64::from(u32::from_str_radix(low, 16).ok()?);
        Some(high << 32 | low)
    };
    parse().ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            "read log position",
            format!("{text:?} is none"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_as_postgresql_does() {
        assert_eq!(shown(0x16_B374_D848), "16/B374D848");
        assert_eq!(parsed("16/B374D848").unwrap(), 0x16_B374_D848);
        for text in ["", "1", "1/", "1/100000000", "-1/0", "x/y"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
