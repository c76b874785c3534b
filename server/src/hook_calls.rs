//! Looking after hooks.

use std::time::Duration;

use ledger_core::hook::{Attempt, AttemptQuery, Letter, Outcome};
use ledger_core::{Cursor, StreamKey};
use tonic::Status;

use crate::messages::{duration, limit, not_empty, stream, time, timestamp};
use crate::service::answer;
use crate::status::{invalid, refusal};
use crate::{HookReplay, HookRunState, HookSigned, HookStatus, Hooks, Service, v1};

/// The most dead letters, or attempts, of one response.
const MOST: usize = 10_000;

/// How long old secrets are signed with where nothing is said.
const OVERLAP: Duration = Duration::from_hours(24);

/// The longest that old secrets are signed with.
const LONGEST: Duration = Duration::from_hours(24 * 365);

impl Service {
    fn hooks(&self) -> &dyn Hooks {
        self.options.hooks.as_ref()
    }

    /// See `HookService.ListHooks`.
    pub(crate) async fn list_hooks(&self, request: v1::ListHooksRequest) -> v1::ListHooksResponse {
        let hooks = self.hooks().list().await.into_iter();
        let of_store =
            hooks.filter(|hook| request.store.is_empty() || hook.store.as_str() == request.store);
        v1::ListHooksResponse {
            hooks: of_store.map(hook).collect(),
        }
    }

    /// See `HookService.GetHook`.
    pub(crate) async fn get_hook(&self, request: v1::GetHookRequest) -> Result<v1::Hook, Status> {
        not_empty("name", &request.name)?;
        let hooks = self.hooks().list().await.into_iter();
        let mut of_name = hooks.filter(|hook| hook.name == request.name).map(hook);
        of_name.next().ok_or_else(|| {
            let what = format!("there is no hook {:?}", request.name);
            let field = [("field", "name".to_owned())];
            refusal(tonic::Code::NotFound, "NOT_FOUND", what, field)
        })
    }

    /// See `HookService.TestHook`.
    pub(crate) async fn test_hook(
        &self,
        request: v1::TestHookRequest,
    ) -> Result<v1::TestHookResponse, Status> {
        not_empty("name", &request.name)?;
        let made = answer(self.hooks().test(&request.name).await)?;
        Ok(v1::TestHookResponse {
            delivered: made.outcome == Outcome::Delivered.as_str(),
            attempt: Some(attempt(made)),
        })
    }

    /// See `HookService.ListHookAttempts`.
    pub(crate) async fn list_hook_attempts(
        &self,
        request: v1::ListHookAttemptsRequest,
    ) -> Result<v1::ListHookAttemptsResponse, Status> {
        not_empty("hook", &request.hook)?;
        let outcome = outcome(&request.outcome)?;
        let query = AttemptQuery {
            before: Some(request.before).filter(|before| *before > 0),
            stream: Some(request.stream).filter(|stream| !stream.is_empty()),
            outcome: outcome.map(|outcome| outcome.to_string()),
            id: Some(request.id).filter(|id| !id.is_empty()),
            since: request.since.map(|at| time("since", at)).transpose()?,
            until: request.until.map(|at| time("until", at)).transpose()?,
            limit: limit(request.limit).min(MOST),
        };
        let attempts = answer(self.hooks().attempts(&request.hook, &query).await)?;
        Ok(v1::ListHookAttemptsResponse {
            attempts: attempts.into_iter().map(attempt).collect(),
        })
    }

    /// See `HookService.PauseHook`.
    pub(crate) async fn pause_hook(
        &self,
        request: v1::PauseHookRequest,
    ) -> Result<v1::PauseHookResponse, Status> {
        not_empty("name", &request.name)?;
        answer(self.hooks().pause(&request.name).await)?;
        Ok(v1::PauseHookResponse {})
    }

    /// See `HookService.ResumeHook`.
    pub(crate) async fn resume_hook(
        &self,
        request: v1::ResumeHookRequest,
    ) -> Result<v1::ResumeHookResponse, Status> {
        not_empty("name", &request.name)?;
        answer(self.hooks().resume(&request.name, request.restart).await)?;
        Ok(v1::ResumeHookResponse {})
    }

    /// See `HookService.ReplayHook`.
    pub(crate) async fn replay_hook(
        &self,
        request: v1::ReplayHookRequest,
    ) -> Result<v1::ReplayHookResponse, Status> {
        not_empty("hook", &request.hook)?;
        if !request.rate.is_finite() || request.rate < 0.0 {
            return Err(invalid("rate", "must not be negative"));
        }
        let named = (!request.stream.is_empty()).then(|| stream("stream", &request.stream));
        let replay = HookReplay {
            stream: named.transpose()?,
            since: request.since.map(|at| time("since", at)).transpose()?,
            until: request.until.map(|at| time("until", at)).transpose()?,
            outcome: outcome(&request.outcome)?,
            dry_run: request.dry_run,
            rate: Some(request.rate).filter(|rate| *rate > 0.0),
        };
        let told = answer(self.hooks().replay(&request.hook, &replay).await)?;
        Ok(v1::ReplayHookResponse {
            streams: told.streams,
            deliveries: told.deliveries,
            entries: told.entries,
            delivered: told.delivered,
            failed: told.failed,
            gone: told.gone,
        })
    }

    /// See `HookService.ListHookDeadLetters`.
    pub(crate) async fn list_hook_dead_letters(
        &self,
        request: v1::ListHookDeadLettersRequest,
    ) -> Result<v1::ListHookDeadLettersResponse, Status> {
        not_empty("hook", &request.hook)?;
        let after = match request.after.as_str() {
            "" => None,
            text => Some(cursor("after", text)?),
        };
        let limit = limit(request.limit).min(MOST);
        let hooks = self.hooks();
        let (letters, total) = answer(hooks.letters(&request.hook, after.as_ref(), limit).await)?;
        Ok(v1::ListHookDeadLettersResponse {
            letters: letters.into_iter().map(letter).collect(),
            total,
        })
    }

    /// See `HookService.DiscardHookDeadLetters`.
    pub(crate) async fn discard_hook_dead_letters(
        &self,
        request: v1::DiscardHookDeadLettersRequest,
    ) -> Result<v1::DiscardHookDeadLettersResponse, Status> {
        not_empty("hook", &request.hook)?;
        if request.all != request.cursors.is_empty() {
            let rule = "must name the letters to discard, or be empty with all set";
            return Err(invalid("cursors", rule));
        }
        let cursors = request.cursors.iter().map(|text| cursor("cursors", text));
        let cursors = cursors.collect::<Result<Vec<_>, _>>()?;
        let cursors = (!request.all).then_some(cursors.as_slice());
        let discarded = answer(self.hooks().discard(&request.hook, cursors).await)?;
        Ok(v1::DiscardHookDeadLettersResponse { discarded })
    }

    /// See `HookService.ReplayHookDeadLetters`.
    pub(crate) async fn replay_hook_dead_letters(
        &self,
        request: v1::ReplayHookDeadLettersRequest,
    ) -> Result<v1::ReplayHookDeadLettersResponse, Status> {
        not_empty("hook", &request.hook)?;
        let stream = (request.stream_key > 0).then_some(StreamKey(request.stream_key));
        let requeued = answer(self.hooks().requeue(&request.hook, stream).await)?;
        Ok(v1::ReplayHookDeadLettersResponse { requeued })
    }

    /// See `HookService.RotateHookSecret`.
    pub(crate) async fn rotate_hook_secret(
        &self,
        request: v1::RotateHookSecretRequest,
    ) -> Result<v1::RotateHookSecretResponse, Status> {
        not_empty("name", &request.name)?;
        let overlap = match request.overlap {
            None => OVERLAP,
            Some(overlap) => Duration::try_from(overlap)
                .ok()
                .filter(|overlap| *overlap <= LONGEST)
                .ok_or_else(|| invalid("overlap", "must be from 0 to a year"))?,
        };
        let hooks = self.hooks();
        let rotated = hooks
            .rotate(&request.name, overlap, request.asymmetric)
            .await;
        let (secret, until) = answer(rotated)?;
        Ok(v1::RotateHookSecretResponse {
            secret,
            until: Some(timestamp(until)),
        })
    }

    /// See `HookService.RemoveHook`.
    pub(crate) async fn remove_hook(
        &self,
        request: v1::RemoveHookRequest,
    ) -> Result<v1::RemoveHookResponse, Status> {
        not_empty("name", &request.name)?;
        answer(self.hooks().remove(&request.name).await)?;
        Ok(v1::RemoveHookResponse {})
    }

    /// See `HookService.VerifyHookSignature`.
    pub(crate) async fn verify_hook_signature(
        &self,
        request: v1::VerifyHookSignatureRequest,
    ) -> Result<v1::VerifyHookSignatureResponse, Status> {
        not_empty("name", &request.name)?;
        not_empty("signature", &request.signature)?;
        let signed = HookSigned {
            id: request.id,
            timestamp: request.timestamp,
            signature: request.signature,
            body: request.body,
        };
        let verified = answer(self.hooks().verify(&request.name, &signed).await)?;
        Ok(v1::VerifyHookSignatureResponse {
            valid: verified.is_ok(),
            reason: verified.err().unwrap_or_default(),
        })
    }
}

fn outcome(text: &str) -> Result<Option<Outcome>, Status> {
    use Outcome::{Delivered, Failed, Gone, Refused, Throttled};
    if text.is_empty() {
        return Ok(None);
    }
    let known = [Delivered, Failed, Throttled, Refused, Gone];
    let found = known.into_iter().find(|outcome| outcome.as_str() == text);
    found.map(Some).ok_or_else(|| {
        let rule = "must be one of delivered, failed, throttled, refused, gone";
        invalid("outcome", rule)
    })
}

fn cursor(field: &str, text: &str) -> Result<Cursor, Status> {
    text.parse()
        .map_err(|_| invalid(field, "is not the cursor of a dead letter"))
}

fn letter(letter: Letter) -> v1::HookDeadLetter {
    v1::HookDeadLetter {
        cursor: letter.cursor.to_string(),
        stream_key: letter.stream.0,
        description: letter.description,
        reason: letter.reason,
        parked_at: Some(timestamp(letter.at)),
    }
}

fn attempt(attempt: Attempt) -> v1::HookAttempt {
    v1::HookAttempt {
        number: attempt.number,
        at: Some(timestamp(attempt.at)),
        id: attempt.id,
        stream: attempt.name,
        kind: attempt.kind,
        first: attempt.first,
        last: attempt.last,
        items: attempt.items,
        attempt: attempt.attempt,
        outcome: attempt.outcome,
        status: u32::from(attempt.status),
        took: Some(duration(Duration::from_micros(attempt.micros))),
        sent: attempt.sent,
        response: attempt.response,
        error: attempt.error,
    }
}

fn hook(hook: HookStatus) -> v1::Hook {
    use v1::hook::State;
    v1::Hook {
        name: hook.name,
        store: hook.store.to_string(),
        stream: hook.stream,
        url: hook.url,
        format: hook.format,
        state: match hook.state {
            HookRunState::Waiting => State::Waiting,
            HookRunState::Copying => State::Copying,
            HookRunState::Following => State::Following,
            HookRunState::Paused => State::Paused,
            HookRunState::Disabled => State::Disabled,
            HookRunState::Stopped => State::Stopped,
        }
        .into(),
        ready: hook.ready,
        breaker: hook.breaker.to_owned(),
        lag_entries: hook.lag_entries,
        lag: Some(duration(hook.lag)),
        delivered: hook.delivered,
        requests: hook.requests,
        failures: hook.failures,
        bytes: hook.bytes,
        rate: hook.rate,
        waiting: hook.counts.waiting,
        queued: hook.counts.queued,
        parked: hook.counts.parked,
        dead_letters: hook.counts.letters,
        last_error: hook.last_error.unwrap_or_default(),
        disabled: hook.disabled.unwrap_or_default(),
        position: hook.position.map(|at| at.to_string()).unwrap_or_default(),
    }
}
