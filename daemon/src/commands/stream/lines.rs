//! Lines of a file, and how they become entries.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_server::v1::EntryInput;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::{Append, LineFormat};
use crate::exit::Failure;

/// How a line becomes an entry.
pub(super) struct Shape {
    stream: String,
    stream_field: Option<String>,
    order_key_field: Option<String>,
    dedup_key_field: Option<String>,
    payload_field: Option<String>,
    metadata: BTreeMap<String, String>,
    tags: Vec<String>,
}

impl Shape {
    pub(super) fn of(options: &Append) -> Self {
        Self {
            stream: options.stream.clone(),
            stream_field: options.stream_field.clone(),
            order_key_field: options.order_key_field.clone(),
            dedup_key_field: options.dedup_key_field.clone(),
            payload_field: options.payload_field.clone(),
            metadata: options.meta.iter().cloned().collect(),
            tags: options.tag.clone(),
        }
    }

    /// The stream and the entry of a line; an error is the rule that it breaks.
    pub(super) fn entry(&self, line: &str) -> Result<(String, EntryInput), String> {
        let fields = [
            &self.stream_field,
            &self.order_key_field,
            &self.dedup_key_field,
            &self.payload_field,
        ];
        let object = if fields.iter().any(|field| field.is_some()) {
            let object: BTreeMap<String, &RawValue> =
                serde_json::from_str(line).map_err(|_| "is not a JSON object".to_owned())?;
            Some(object)
        } else {
            serde_json::from_str::<&RawValue>(line).map_err(|_| "is not valid JSON".to_owned())?;
            None
        };
        let text = |field: &Option<String>| -> Result<Option<String>, String> {
            let Some(field) = field else { return Ok(None) };
            let value = object.as_ref().and_then(|object| object.get(field));
            let value = value.ok_or_else(|| format!("has no field {field:?}"))?;
            match serde_json::from_str(value.get()) {
                Ok(Value::String(text)) => Ok(Some(text)),
                Ok(Value::Number(number)) => Ok(Some(number.to_string())),
                _ => Err(format!(
                    "its field {field:?} is neither a text nor a number"
                )),
            }
        };
        let payload = match &self.payload_field {
            None => line.to_owned().into_bytes(),
            Some(field) => {
                let value = |field: &str| object.as_ref().and_then(|object| object.get(field));
                // What cannot stand in JSON is exported under another name.
                match (value(field), value(&format!("{field}_base64"))) {
                    (Some(raw), _) => raw.get().to_owned().into_bytes(),
                    (None, Some(raw)) => serde_json::from_str::<String>(raw.get())
                        .ok()
                        .and_then(|text| STANDARD.decode(text).ok())
                        .ok_or_else(|| format!("its field \"{field}_base64\" is not base64"))?,
                    (None, None) => return Err(format!("has no field {field:?}")),
                }
            }
        };
        let stream = text(&self.stream_field)?.unwrap_or_else(|| self.stream.clone());
        let entry = EntryInput {
            payload: payload.into(),
            order_key: text(&self.order_key_field)?.unwrap_or_default(),
            dedup_key: text(&self.dedup_key_field)?.unwrap_or_default(),
            schema_version: 0,
            metadata: self.metadata.clone(),
            tags: self.tags.clone(),
        };
        Ok((stream, entry))
    }
}

/// The lines of a file, with the number of each.
pub(super) enum Lines {
    Json {
        reader: BufReader<Box<dyn Read + Send>>,
        number: u64,
    },
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        header: csv::StringRecord,
    },
}

impl Lines {
    pub(super) fn new(options: &Append, reader: Box<dyn Read + Send>) -> anyhow::Result<Self> {
        let csv = match options.format {
            Some(format) => format == LineFormat::Csv,
            None => options
                .file
                .as_deref()
                .and_then(Path::extension)
                .is_some_and(|ending| ending == "csv"),
        };
        if !csv {
            let reader = BufReader::with_capacity(1 << 18, reader);
            return Ok(Self::Json { reader, number: 0 });
        }
        let mut reader = Box::new(csv::Reader::from_reader(reader));
        let header = reader.headers().map_err(|error| bad_csv(&error))?.clone();
        Ok(Self::Csv { reader, header })
    }

    /// The next line as JSON: its number from 1, the bytes it took, and its text. Blank ones are
    /// left out.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<(u64, u64, String)>> {
        match self {
            Self::Json { reader, number } => {
                let mut bytes = 0;
                loop {
                    let mut line = Vec::new();
                    let read = reader.read_until(b'\n', &mut line).context("read lines")?;
                    if read == 0 {
                        return Ok(None);
                    }
                    *number += 1;
                    bytes += read as u64;
                    let line = String::from_utf8(line)
                        .map_err(|_| Failure::usage(format!("line {number} is not UTF-8")))?;
                    let text = line.trim();
                    if !text.is_empty() {
                        return Ok(Some((*number, bytes, text.to_owned())));
                    }
                }
            }
            Self::Csv { reader, header } => {
                let before = reader.position().byte();
                let mut record = csv::StringRecord::new();
                if !reader
                    .read_record(&mut record)
                    .map_err(|error| bad_csv(&error))?
                {
                    return Ok(None);
                }
                let number = record.position().map_or(0, csv::Position::line);
                let mut text = String::from("{");
                // In the order of the columns, which a map would not keep.
                for (name, value) in header.iter().zip(&record) {
                    let comma = if text.len() > 1 { "," } else { "" };
                    let pair = format!("{comma}{}:{}", json!(name), json!(value));
                    text.push_str(&pair);
                }
                text.push('}');
                Ok(Some((number, reader.position().byte() - before, text)))
            }
        }
    }
}

/// The reader's own words may hold what the file holds.
fn bad_csv(error: &csv::Error) -> anyhow::Error {
    let line = error.position().map_or(1, csv::Position::line);
    Failure::usage(match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            format!("line {line} has {len} values, and the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {line} is not UTF-8"),
        csv::ErrorKind::Io(error) => format!("read lines: {error}"),
        _ => format!("line {line} is not CSV"),
    })
}
