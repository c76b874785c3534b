//! Entries that wait to be sent, each with the cursor behind it.

use std::collections::VecDeque;

use ledger_core::Entry;
use prost::Message as _;
use tonic::{Code, Status};

use super::Terms;
use crate::messages;
use crate::status::refusal;
use crate::v1;

/// Room that a response's other fields may need.
const ROOM: usize = 2_048;

/// Entries that wait to be sent, cut into responses of allowed size.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<(Entry, String)>);

impl Outbox {
    pub(super) fn push(&mut self, entry: Entry, cursor: String) {
        self.0.push_back((entry, cursor));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next response; none where nothing waits.
    pub(super) fn response(&mut self, terms: &Terms) -> Result<Option<v1::TailResponse>, Status> {
        let mut response = v1::TailResponse::default();
        let mut bytes = ROOM;
        while let Some((entry, cursor)) = self.0.pop_front() {
            // Metadata and labels are small beside the messages' limit; the payload is not copied.
            let message = messages::entry(entry.clone());
            let size = message.encoded_len();
            bytes += 1 + prost::length_delimiter_len(size) + size;
            if bytes > terms.message_bytes && !response.entries.is_empty() {
                self.0.push_front((entry, cursor));
                break;
            }
            if bytes - ROOM > terms.message_bytes {
                return Err(refusal(
                    Code::ResourceExhausted,
                    "RESPONSE_TOO_LARGE",
                    format!(
                        "entry {} of stream {:?} is over the message limit of {} bytes",
                        entry.id, entry.stream, terms.message_bytes
                    ),
                    [("limit", terms.message_bytes.to_string())],
                ));
            }
            response.entries.push(message);
            if !cursor.is_empty() {
                response.cursor = cursor;
            }
            if response.entries.len() == terms.limit {
                break;
            }
        }
        Ok(Some(response).filter(|response| !response.entries.is_empty()))
    }
}
