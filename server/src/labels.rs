//! Tags and annotations.

use std::sync::Arc;

use ledger_core::{EntryId, Error, ErrorKind, Store, StoreName, StreamName};
use tonic::Status;

use crate::Service;
use crate::call::Call;
use crate::messages::{not_empty, stream};
use crate::service::answer;
use crate::status::{status, unsupported};
use crate::v1;

impl Service {
    /// See `LedgerService.SetTags`.
    pub(crate) async fn set_tags(
        &self,
        call: &Call,
        request: v1::SetTagsRequest,
    ) -> Result<v1::SetTagsResponse, Status> {
        let name = self.named(call)?;
        let stream = stream("stream", &request.stream)?;
        not_empty("id", &request.id)?;
        let (store, id) = self.entry(call, &name, &stream, &request.id).await?;
        let Some(labels) = store.labels() else {
            return Err(unsupported(&*store, "changing tags"));
        };
        answer(labels.set_tags(&stream, id, request.tags).await)?;
        Ok(v1::SetTagsResponse {})
    }

    /// See `LedgerService.SetAnnotations`.
    pub(crate) async fn set_annotations(
        &self,
        call: &Call,
        request: v1::SetAnnotationsRequest,
    ) -> Result<v1::SetAnnotationsResponse, Status> {
        let name = self.named(call)?;
        let stream = stream("stream", &request.stream)?;
        not_empty("id", &request.id)?;
        let (store, id) = self.entry(call, &name, &stream, &request.id).await?;
        let Some(labels) = store.labels() else {
            return Err(unsupported(&*store, "changing annotations"));
        };
        let (set, delete) = (request.set, request.delete);
        answer(labels.set_annotations(&stream, id, set, delete).await)?;
        Ok(v1::SetAnnotationsResponse {})
    }

    async fn entry(
        &self,
        call: &Call,
        name: &StoreName,
        stream: &StreamName,
        id: &str,
    ) -> Result<(Arc<dyn Store>, EntryId), Status> {
        let store = self.open(call, name).await?;
        // What a store cannot do at all is told before what is wrong with the entry.
        if store.labels().is_none() {
            return Err(unsupported(&*store, "changing labels"));
        }
        let id = self.id(&*store, Some(stream), "id", id).await?;
        let id = id.ok_or_else(|| {
            let context = format!("stream {stream:?} does not exist");
            status(&Error::new(ErrorKind::NotFound, "label entry", context))
        })?;
        Ok((store, id))
    }
}
