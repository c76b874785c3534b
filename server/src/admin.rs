//! Looking after stores and bridges.

use ledger_core::{Cursor, PipelineId};
use tonic::Status;

use crate::messages::{duration, limit, not_empty, timestamp};
use crate::service::answer;
use crate::status::{invalid, refusal};
use crate::{BridgeState, BridgeStatus, Service, StoreState, v1};

/// The most dead letters of one response.
const MAX_LETTERS: usize = 10_000;

impl Service {
    /// See `AdminService.ListStores`.
    pub(crate) async fn list_stores(&self) -> v1::ListStoresResponse {
        use v1::store_status::State;
        let stores = self.stores.list().await.into_iter();
        let stores = stores.map(|store| v1::StoreStatus {
            name: store.name.to_string(),
            state: match store.state {
                StoreState::Idle => State::Idle,
                StoreState::Ready => State::Ready,
                StoreState::Unavailable => State::Unavailable,
            }
            .into(),
            backend: store.backend,
            error: store.error.unwrap_or_default(),
        });
        v1::ListStoresResponse {
            stores: stores.collect(),
        }
    }

    /// See `AdminService.ListBridges`.
    pub(crate) async fn list_bridges(
        &self,
        request: v1::ListBridgesRequest,
    ) -> v1::ListBridgesResponse {
        let bridges = self.options.bridges.list().await.into_iter();
        let of_store =
            bridges.filter(|bridge| request.store.is_empty() || bridge.store == request.store);
        v1::ListBridgesResponse {
            bridges: of_store.map(bridge).collect(),
        }
    }

    /// See `AdminService.GetBridge`.
    pub(crate) async fn get_bridge(
        &self,
        request: v1::GetBridgeRequest,
    ) -> Result<v1::Bridge, Status> {
        let name = named("name", &request.name)?;
        let bridges = self.options.bridges.list().await.into_iter();
        let mut of_name = bridges.filter(|bridge| bridge.name == name).map(bridge);
        of_name.next().ok_or_else(|| {
            refusal(
                tonic::Code::NotFound,
                "NOT_FOUND",
                format!("there is no bridge {name:?}"),
                [("field", "name".to_owned())],
            )
        })
    }

    /// See `AdminService.PauseBridge`.
    pub(crate) async fn pause_bridge(
        &self,
        request: v1::PauseBridgeRequest,
    ) -> Result<v1::PauseBridgeResponse, Status> {
        let name = named("name", &request.name)?;
        answer(self.options.bridges.pause(&name).await)?;
        Ok(v1::PauseBridgeResponse {})
    }

    /// See `AdminService.ResumeBridge`.
    pub(crate) async fn resume_bridge(
        &self,
        request: v1::ResumeBridgeRequest,
    ) -> Result<v1::ResumeBridgeResponse, Status> {
        let name = named("name", &request.name)?;
        answer(self.options.bridges.resume(&name).await)?;
        Ok(v1::ResumeBridgeResponse {})
    }

    /// See `AdminService.ResyncBridge`.
    pub(crate) async fn resync_bridge(
        &self,
        request: v1::ResyncBridgeRequest,
    ) -> Result<v1::ResyncBridgeResponse, Status> {
        let name = named("name", &request.name)?;
        let table = Some(request.table.as_str()).filter(|table| !table.is_empty());
        answer(self.options.bridges.resync(&name, table).await)?;
        Ok(v1::ResyncBridgeResponse {})
    }

    /// See `AdminService.RemoveBridge`.
    pub(crate) async fn remove_bridge(
        &self,
        request: v1::RemoveBridgeRequest,
    ) -> Result<v1::RemoveBridgeResponse, Status> {
        let name = named("name", &request.name)?;
        answer(self.options.bridges.remove(&name).await)?;
        Ok(v1::RemoveBridgeResponse {})
    }

    /// See `AdminService.VerifyBridge`.
    pub(crate) async fn verify_bridge(
        &self,
        request: v1::VerifyBridgeRequest,
    ) -> Result<v1::VerifyBridgeResponse, Status> {
        let name = named("name", &request.name)?;
        let found = answer(self.options.bridges.verify(&name, request.repair).await)?;
        Ok(v1::VerifyBridgeResponse {
            compared: found.compared,
            different: found.different,
            pending: found.pending,
            repaired: found.repaired,
            differences: found.differences,
            streams: found.streams,
            unrepaired: found.unrepaired,
            equal: found.equal,
            verify_too: found.verify_too,
        })
    }

    /// See `AdminService.ListDeadLetters`.
    pub(crate) async fn list_dead_letters(
        &self,
        request: v1::ListDeadLettersRequest,
    ) -> Result<v1::ListDeadLettersResponse, Status> {
        let name = named("bridge", &request.bridge)?;
        let after = match request.after.as_str() {
            "" => None,
            text => Some(cursor("after", text)?),
        };
        let limit = limit(request.limit).min(MAX_LETTERS);
        let bridges = &self.options.bridges;
        let letters = answer(bridges.dead_letters(&name, after.as_ref(), limit).await)?;
        let told = letters.letters.into_iter().map(|letter| v1::DeadLetter {
            cursor: letter.cursor.to_string(),
            stream_key: letter.key.0,
            description: letter.description,
            reason: letter.reason,
            parked_at: Some(timestamp(letter.parked_at)),
        });
        Ok(v1::ListDeadLettersResponse {
            letters: told.collect(),
            total: letters.total,
        })
    }

    /// See `AdminService.DiscardDeadLetters`.
    pub(crate) async fn discard_dead_letters(
        &self,
        request: v1::DiscardDeadLettersRequest,
    ) -> Result<v1::DiscardDeadLettersResponse, Status> {
        let name = named("bridge", &request.bridge)?;
        if request.all != request.cursors.is_empty() {
            return Err(invalid(
                "cursors",
                "must name the letters to discard, or be empty with all set",
            ));
        }
        let cursors = request.cursors.iter().map(|text| cursor("cursors", text));
        let cursors = cursors.collect::<Result<Vec<_>, _>>()?;
        let cursors = (!request.all).then_some(cursors.as_slice());
        let discarded = answer(self.options.bridges.discard(&name, cursors).await)?;
        Ok(v1::DiscardDeadLettersResponse { discarded })
    }

    /// See `AdminService.ReplayDeadLetters`.
    pub(crate) async fn replay_dead_letters(
        &self,
        request: v1::ReplayDeadLettersRequest,
    ) -> Result<v1::ReplayDeadLettersResponse, Status> {
        let name = named("bridge", &request.bridge)?;
        let (replayed, left) = answer(self.options.bridges.replay(&name).await)?;
        Ok(v1::ReplayDeadLettersResponse { replayed, left })
    }
}

fn named(field: &str, name: &str) -> Result<PipelineId, Status> {
    not_empty(field, name)?;
    PipelineId::new(name)
        .map_err(|error| invalid(field, format_args!("is refused: {}", error.context())))
}

fn cursor(field: &str, text: &str) -> Result<Cursor, Status> {
    text.parse()
        .map_err(|_| invalid(field, "is not the cursor of a dead letter"))
}

fn bridge(bridge: BridgeStatus) -> v1::Bridge {
    use v1::bridge::State;
    v1::Bridge {
        name: bridge.name.to_string(),
        store: bridge.store,
        to: bridge.to,
        state: match bridge.state {
            BridgeState::Waiting => State::Waiting,
            BridgeState::Copying => State::Copying,
            BridgeState::Following => State::Following,
            BridgeState::Paused => State::Paused,
            BridgeState::Stopped => State::Stopped,
        }
        .into(),
        lag_entries: bridge.lag_entries,
        lag: Some(duration(bridge.lag)),
        lag_bytes: bridge.lag_bytes,
        last_error: bridge.last_error.unwrap_or_default(),
        delivered: bridge.delivered,
        skipped: bridge.skipped,
        parked: bridge.parked,
        refused: bridge.refused,
        rate: bridge.rate,
        position: bridge.position.map(|at| at.to_string()).unwrap_or_default(),
        dead_letters: bridge.dead_letters,
        ready: bridge.ready,
        bytes: bridge.bytes,
        to_copy: bridge.to_copy,
    }
}
