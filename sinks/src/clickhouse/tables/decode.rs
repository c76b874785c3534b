//! Reading values as ClickHouse sends them, and writing them as the source does.

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::tables::{
    Decimal, push_bytes, push_date, push_element, push_float32, push_float64, push_pair,
    push_timestamp, push_uuid,
};

use super::kind::Kind;

/// Bytes of the format `RowBinary`, read from their beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.fixed()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128> {
        Ok(u128::from_le_bytes(self.fixed()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    fn count(&mut self) -> Result<usize> {
        let mut count = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            count |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(count);
            }
        }
        Err(short())
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    /// Passes over a value of `kind`, which is not `Nullable`.
    pub(super) fn skip(&mut self, kind: &Kind) -> Result<()> {
        match kind {
            Kind::Array {
                element,
                dimensions,
            } => self.skip_array(element, *dimensions),
            Kind::Vector => {
                let count = self.count()?;
                self.take(count.saturating_mul(4)).map(drop)
            }
            Kind::Pairs => {
                for _ in 0..self.count()? {
                    self.string()?;
                    if self.byte()? == 0 {
                        self.string()?;
                    }
                }
                Ok(())
            }
            kind => match kind.width() {
                Some(width) => self.take(width).map(drop),
                None => self.string().map(drop),
            },
        }
    }

    fn skip_array(&mut self, element: &Kind, dimensions: usize) -> Result<()> {
        for _ in 0..self.count()? {
            if dimensions > 1 {
                self.skip_array(element, dimensions - 1)?;
            } else if self.byte()? == 0 {
                self.skip(element)?;
            }
        }
        Ok(())
    }

    /// Reads a value of `kind`, which is not `Nullable`, and appends the text that stands for it.
    pub(super) fn render(&mut self, kind: &Kind, to: &mut Vec<u8>) -> Result<()> {
        match kind {
            Kind::Bool => to.push(if self.byte()? == 0 { b'f' } else { b't' }),
            Kind::Int16 => push_shown(i16::from_le_bytes(self.fixed()?), to),
            Kind::Int32 => push_shown(i32::from_le_bytes(self.fixed()?), to),
            Kind::Int64 => push_shown(i64::from_le_bytes(self.fixed()?), to),
            Kind::UInt32 => push_shown(u32::from_le_bytes(self.fixed()?), to),
            Kind::Float32 => push_float32(f32::from_le_bytes(self.fixed()?), to),
            Kind::Float64 => push_float64(f64::from_le_bytes(self.fixed()?), to),
            Kind::Decimal { precision, scale } => {
                let bytes = self.take(super::kind::decimal_width(*precision))?;
                Decimal::from_le_bytes(bytes).push(usize::from(*scale), to);
            }
            Kind::Text | Kind::Protected(_) => to.extend_from_slice(self.string()?),
            Kind::Bytes => push_bytes(self.string()?, to),
            Kind::Uuid => push_uuid(self.u128()?.rotate_left(64), to),
            Kind::Date => push_date(i64::from(i32::from_le_bytes(self.fixed()?)), to),
            Kind::Timestamp { zoned } => {
                push_timestamp(i64::from_le_bytes(self.fixed()?), *zoned, to);
            }
            Kind::Array {
                element,
                dimensions,
            } => self.render_array(element, *dimensions, to)?,
            Kind::Vector => {
                to.push(b'[');
                for at in 0..self.count()? {
                    if at > 0 {
                        to.push(b',');
                    }
                    push_float32(f32::from_le_bytes(self.fixed()?), to);
                }
                to.push(b']');
            }
            Kind::Pairs => {
                for at in 0..self.count()? {
                    let key = self.string()?;
                    let value = match self.byte()? {
                        0 => Some(self.string()?),
                        _ => None,
                    };
                    push_pair(key, value, at == 0, to);
                }
            }
        }
        Ok(())
    }

    fn render_array(&mut self, element: &Kind, dimensions: usize, to: &mut Vec<u8>) -> Result<()> {
        to.push(b'{');
        let mut text = Vec::new();
        for at in 0..self.count()? {
            if at > 0 {
                to.push(b',');
            }
            if dimensions > 1 {
                self.render_array(element, dimensions - 1, to)?;
            } else if self.byte()? == 0 {
                text.clear();
                self.render(element, &mut text)?;
                push_element(Some(&text), to);
            } else {
                push_element(None, to);
            }
        }
        to.push(b'}');
        Ok(())
    }
}

fn push_shown(value: impl std::fmt::Display, to: &mut Vec<u8>) {
    to.extend_from_slice(value.to_string().as_bytes());
}

fn short() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "read rows of ClickHouse",
        "the answer ends within a value",
    )
}
