//! Which type of ClickHouse holds which values of the source, and the bytes of its values.

use std::fmt;

use ledger_core::ColumnType;
use ledger_layout::tables::{
    Array, Bounded, ColumnOptions, Event, Pairs, Protection, Refused, boolean, bytes, date,
    decimal, float32, float64, integer, timestamp, uuid, vector,
};

/// The first and the last day that a `Date32` and a `DateTime64` have: 1900-01-01, 2299-12-31.
const DAYS: std::ops::RangeInclusive<i64> = -25_567..=120_529;
const DAY_MICROS: i64 = 86_400_000_000;

const YEARS: Refused =
    Refused("is not within the years 1900 to 2299, which is all that the destination's type has");
const SIZE: Refused = Refused("does not fit in the column's integer type");
const SHIFTED: Refused = Refused("is an array that does not begin at 1");
const DIMENSIONS: Refused =
    Refused("is an array of another number of dimensions than the column's option `dimensions`");
const NESTED: Refused = Refused("holds a value that an array of this type cannot hold");

/// The most digits of a `Decimal`.
const PRECISION: u16 = 76;

/// The values of a column, without NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int16,
    Int32,
    Int64,
    UInt32,
    Float32,
    Float64,
    Decimal {
        precision: u16,
        scale: u16,
    },
    /// The source's own text.
    Text,
    Bytes,
    Uuid,
    Date,
    /// A moment, or a reading of a calendar and a clock somewhere.
    Timestamp {
        zoned: bool,
    },
    Protected(Protection),
    Array {
        element: Box<Kind>,
        dimensions: usize,
    },
    Vector,
    Pairs,
}

impl Kind {
    pub(super) fn of(kind: &ColumnType, declared: &str, options: &ColumnOptions) -> Self {
        if let Some(protection) = &options.protect {
            return Self::Protected(protection.clone());
        }
        if options.text {
            return Self::Text;
        }
        match kind {
            // The one built-in type whose arrays have semicolons between their elements.
            ColumnType::Array(_) if declared.starts_with("box") => Self::Text,
            ColumnType::Array(element) => match Self::scalar(element) {
                Some(element) => Self::Array {
                    element: Box::new(element),
                    dimensions: options.dimensions.unwrap_or(1),
                },
                None => Self::Text,
            },
            ColumnType::Vector => Self::Vector,
            ColumnType::Pairs => Self::Pairs,
            kind => Self::scalar(kind).unwrap_or(Self::Text),
        }
    }

    /// What can be NULL in ClickHouse; none for what an array is of but cannot hold there.
    fn scalar(kind: &ColumnType) -> Option<Self> {
        Some(match kind {
            ColumnType::Bool => Self::Bool,
            ColumnType::Int16 => Self::Int16,
            ColumnType::Int32 => Self::Int32,
            ColumnType::Int64 => Self::Int64,
            ColumnType::UInt32 => Self::UInt32,
            ColumnType::Float32 => Self::Float32,
            ColumnType::Float64 => Self::Float64,
            ColumnType::Decimal { precision, scale } => match u16::try_from(*scale) {
                Ok(scale) if (1..=PRECISION).contains(precision) && scale <= *precision => {
                    Self::Decimal {
                        precision: *precision,
                        scale,
                    }
                }
                _ => Self::Text,
            },
            ColumnType::Bytes => Self::Bytes,
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Date => Self::Date,
            ColumnType::Timestamp => Self::Timestamp { zoned: false },
            ColumnType::TimestampTz => Self::Timestamp { zoned: true },
            ColumnType::Array(_) => return None,
            // Elements of an array that are composed themselves are carried as text.
            _ => Self::Text,
        })
    }

    /// Whether NULL needs a column beside, since the type cannot be `Nullable`.
    pub(super) fn is_composed(&self) -> bool {
        matches!(self, Self::Array { .. } | Self::Vector | Self::Pairs)
    }

    /// How many bytes a value has; none where they differ.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self {
            Self::Bool => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::UInt32 | Self::Float32 | Self::Date => 4,
            Self::Int64 | Self::Float64 | Self::Timestamp { .. } => 8,
            Self::Uuid => 16,
            Self::Decimal { precision, .. } => decimal_width(*precision),
            _ => return None,
        })
    }

    /// Whether values of this kind can be brought into a column of `wider` by `ALTER TABLE`, each to
    /// the value that the source's own conversion gives.
    pub(super) fn widens_to(&self, wider: &Self) -> bool {
        match (self, wider) {
            (one, other) if one == other => true,
            (Self::Int16, Self::Int32 | Self::Int64 | Self::Float64)
            | (Self::Int32, Self::Int64 | Self::Float64)
            | (Self::Float32, Self::Float64)
            | (
                Self::Bool | Self::Int16 | Self::Int32 | Self::Int64 | Self::UInt32 | Self::Uuid,
                Self::Text,
            ) => true,
            (
                Self::Decimal { precision, scale },
                Self::Decimal {
                    precision: wider,
                    scale: longer,
                },
            ) => scale <= longer && precision - scale <= wider - longer,
            _ => false,
        }
    }

    /// Whether `ALTER TABLE` brings a column of this kind into one of `wider` in any way, which is
    /// enough where every row is written anew.
    pub(super) fn converts_to(&self, wider: &Self) -> bool {
        self.widens_to(wider) || (!self.is_composed() && *wider == Self::Text)
    }

    /// Appends the bytes of the value that `text` stands for, in the format `RowBinary`.
    pub(super) fn encode(&self, text: &[u8], to: &mut Vec<u8>) -> Result<(), Refused> {
        match self {
            Self::Bool => to.push(u8::from(boolean(text)?)),
            Self::Int16 => {
                let value = i16::try_from(integer(text)?).map_err(|_| SIZE)?;
                to.extend_from_slice(&value.to_le_bytes());
            }
            Self::Int32 => {
                let value = i32::try_from(integer(text)?).map_err(|_| SIZE)?;
                to.extend_from_slice(&value.to_le_bytes());
            }
            Self::Int64 => to.extend_from_slice(&integer(text)?.to_le_bytes()),
            Self::UInt32 => {
                let value = u32::try_from(integer(text)?).map_err(|_| SIZE)?;
                to.extend_from_slice(&value.to_le_bytes());
            }
            Self::Float32 => to.extend_from_slice(&float32(text)?.to_le_bytes()),
            Self::Float64 => to.extend_from_slice(&float64(text)?.to_le_bytes()),
            Self::Decimal { precision, scale } => {
                let bytes = decimal(text, *precision, *scale)?.to_le_bytes();
                let width = decimal_width(*precision);
                to.extend_from_slice(bytes.get(..width).unwrap_or(&bytes));
            }
            Self::Text => push_string(text, to),
            Self::Protected(protection) => {
                let mut protected = Vec::with_capacity(64);
                protection.push(text, &mut protected);
                push_string(&protected, to);
            }
            Self::Bytes => {
                push_count(text.len().saturating_sub(2) / 2, to);
                bytes(text, to)?;
            }
            Self::Uuid => {
                let value = uuid(text)?;
                // Two halves, each with its lowest byte first.
                to.extend_from_slice(&value.rotate_right(64).to_le_bytes());
            }
            Self::Date => match date(text)? {
                Bounded::At(days) if DAYS.contains(&days) => {
                    let days = i32::try_from(days).map_err(|_| YEARS)?;
                    to.extend_from_slice(&days.to_le_bytes());
                }
                _ => return Err(YEARS),
            },
            Self::Timestamp { .. } => match timestamp(text)? {
                Bounded::At(micros) if DAYS.contains(&micros.div_euclid(DAY_MICROS)) => {
                    to.extend_from_slice(&micros.to_le_bytes());
                }
                _ => return Err(YEARS),
            },
            Self::Array {
                element,
                dimensions,
            } => encode_array(element, *dimensions, text, to)?,
            Self::Vector => {
                push_count(vector(text)?.count(), to);
                for number in vector(text)? {
                    to.extend_from_slice(&number?.to_le_bytes());
                }
            }
            Self::Pairs => {
                push_count(Pairs::of(text).count(), to);
                for pair in Pairs::of(text) {
                    let (key, value) = pair?;
                    push_string(&key, to);
                    to.push(u8::from(value.is_none()));
                    if let Some(value) = value {
                        push_string(&value, to);
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode_array(
    element: &Kind,
    dimensions: usize,
    text: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), Refused> {
    let array = Array::parse(text)?;
    if array.is_shifted() {
        return Err(SHIFTED);
    }
    // Without elements it has no dimensions at all.
    if array.depth() == 0 {
        push_count(0, to);
        return Ok(());
    }
    if array.depth() != dimensions {
        return Err(DIMENSIONS);
    }
    let mut open = 0_usize;
    for event in array.events() {
        match event? {
            Event::Open => {
                push_count(array.lengths().get(open).copied().ok_or(NESTED)?, to);
                open += 1;
            }
            Event::Close => open -= 1,
            Event::Null => to.push(1),
            Event::Element(text) => {
                to.push(0);
                element.encode(&text, to)?;
            }
        }
    }
    Ok(())
}

/// How many bytes a decimal of so many digits has.
pub(super) fn decimal_width(precision: u16) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        19..=38 => 16,
        _ => 32,
    }
}

/// Appends a number as the format has it for counts and lengths, seven bits a byte.
pub(super) fn push_count(count: usize, to: &mut Vec<u8>) {
    let mut rest = count;
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            to.push(low & 0x7f);
            return;
        }
        to.push(low | 0x80);
    }
}

pub(super) fn push_string(text: &[u8], to: &mut Vec<u8>) {
    push_count(text.len(), to);
    to.extend_from_slice(text);
}

impl fmt::Display for Kind {
    /// The type as ClickHouse writes it, without `Nullable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "Bool",
            Self::Int16 => "Int16",
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::UInt32 => "UInt32",
            Self::Float32 => "Float32",
            Self::Float64 => "Float64",
            Self::Decimal { precision, scale } => {
                return write!(f, "Decimal({precision}, {scale})");
            }
            Self::Text | Self::Bytes | Self::Protected(_) => "String",
            Self::Uuid => "UUID",
            Self::Date => "Date32",
            Self::Timestamp { .. } => "DateTime64(6, 'UTC')",
            Self::Array {
                element,
                dimensions,
            } => {
                let (open, close) = ("Array(".repeat(*dimensions), ")".repeat(*dimensions));
                return write!(f, "{open}Nullable({element}){close}");
            }
            Self::Vector => "Array(Float32)",
            Self::Pairs => "Map(String, Nullable(String))",
        })
    }
}
