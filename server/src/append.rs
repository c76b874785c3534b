//! Appending, in one call.

use ledger_core::NewEntry;
use tonic::{Code, Status};

use crate::Service;
use crate::call::Call;
use crate::messages::{expected, new_entry, stream};
use crate::service::answer;
use crate::status::refusal;
use crate::v1;

impl Service {
    /// See `LedgerService.Append`.
    pub(crate) async fn append(
        &self,
        call: &Call,
        request: v1::AppendRequest,
    ) -> Result<v1::AppendResponse, Status> {
        let name = self.named(call)?;
        let stream = stream("stream", &request.stream)?;
        let entries = self.new_entries(call, request.entries)?;
        let expected = expected(request.expected_version)?;
        let store = self.open(call, &name).await?;
        let appended = answer(store.append(&stream, entries, expected).await)?;
        let new = appended.iter().filter(|entry| !entry.duplicate);
        Ok(v1::AppendResponse {
            ids: new.map(|entry| entry.id.to_string()).collect(),
        })
    }

    /// The entries of a call, with its trace in their metadata where that was asked for.
    pub(crate) fn new_entries(
        &self,
        call: &Call,
        entries: Vec<v1::EntryInput>,
    ) -> Result<Vec<NewEntry>, Status> {
        let limit = self.options.limits.entries;
        if entries.len() > limit {
            return Err(refusal(
                Code::InvalidArgument,
                "TOO_MANY_ENTRIES",
                format!(
                    "entries has {} entries, at most {limit} are allowed in one call",
                    entries.len()
                ),
                [
                    ("field", "entries".to_owned()),
                    ("limit", limit.to_string()),
                ],
            ));
        }
        let entries = entries.into_iter().enumerate();
        let mut entries = entries
            .map(|(index, entry)| {
                new_entry(index, entry)?
                    .checked(index)
                    .map_err(|error| crate::status(&error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for entry in &mut entries {
            for (key, value) in &call.trace {
                // What the caller wrote itself stands.
                entry
                    .metadata
                    .entry((*key).to_owned())
                    .or_insert_with(|| value.clone());
            }
        }
        Ok(entries)
    }
}
