//! What administration asks of hooks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ledger::bridge::hook::Selection;
use ledger::hook::{Attempt, AttemptQuery, Delivery, Letter};
use ledger::webhook::{Format, Signed, Unverified, verify, verify_compat};
use ledger::{
    Change, Cursor, Entry, EntryId, Error, ErrorKind, Mutation, Pairs, Result, StreamKey,
    StreamName, StreamRef, Timestamp,
};
use ledger_server::{HookReplay, HookReplayed, HookSigned, HookStatus, Hooks};

use super::super::secrets;
use super::one::One;
use super::{Hooked, lock};
use crate::config::hook_pipeline;

/// The stream that a test is of.
const TEST: &str = "ledger.test";

/// The delivery of a test: an entry that no store has.
fn test(one: &One) -> Result<Delivery> {
    let stream = StreamName::new(TEST)?;
    let now = Timestamp::now();
    let entry = Entry {
        id: EntryId(0),
        stream: stream.clone(),
        payload: Bytes::from_static(br#"{"test":true}"#),
        order_key: String::new(),
        dedup_key: String::new(),
        schema_version: 1,
        metadata: Pairs::new(),
        tags: Vec::new(),
        annotations: Pairs::new(),
        label_version: 0,
        created_at: now,
        updated_at: None,
    };
    let change = Change {
        cursor: Cursor::new(b't', &[]),
        committed_at: now,
        stream: StreamRef {
            key: StreamKey::default(),
            name: stream,
            name_version: 0,
        },
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: 0,
        },
    };
    Ok(Delivery {
        id: format!("msg_test_{}", uuid::Uuid::new_v4().simple()),
        store: one.config.store.clone(),
        changes: vec![change],
        attempt: 1,
    })
}

#[async_trait]
impl Hooks for Hooked {
    async fn list(&self) -> Vec<HookStatus> {
        self.statuses()
    }

    async fn test(&self, name: &str) -> Result<Attempt> {
        let (one, open) = self.open(name)?;
        let delivery = test(&one)?;
        open.hook.post(&delivery).await?;
        let query = AttemptQuery {
            id: Some(delivery.id),
            limit: 1,
            ..AttemptQuery::default()
        };
        let made = open.state.attempts(&one.pipeline, &query).await?;
        made.into_iter().next().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "test hook",
                "the attempt is not remembered",
            )
        })
    }

    async fn attempts(&self, name: &str, query: &AttemptQuery) -> Result<Vec<Attempt>> {
        let (one, open) = self.open(name)?;
        open.state.attempts(&one.pipeline, query).await
    }

    async fn pause(&self, name: &str) -> Result<()> {
        self.open(name)?.1.hook.pause().await
    }

    async fn resume(&self, name: &str, restart: bool) -> Result<()> {
        if restart {
            let one = self.one(name)?;
            // A store that it followed before would be kept for it.
            let (pipeline, store) = (&one.pipeline, &one.config.store);
            self.stores.unregister(pipeline, Some(store)).await?;
            return self
                .while_stopped(name, |_, open| async move {
                    open.hook.reset().await?;
                    open.hook.resume().await
                })
                .await;
        }
        self.open(name)?.1.hook.resume().await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        const OPERATION: &str = "remove hook";
        if lock(&self.hooks).contains_key(name) {
            let what = format!(
                "name: {name} is in the daemon's configuration; take it out there and reload first"
            );
            return Err(Error::invalid(OPERATION, what));
        }
        let pipeline = hook_pipeline(name)?;
        let registered = self.stores.unregister(&pipeline, None).await?;
        let known = self.stores.hook_state().await?.remove(&pipeline).await?;
        if !known && registered == 0 {
            let what = format!("nothing is kept for a hook {name:?}");
            return Err(Error::new(ErrorKind::NotFound, OPERATION, what));
        }
        tracing::info!(hook = name, "a hook is forgotten");
        Ok(())
    }

    async fn replay(&self, name: &str, replay: &HookReplay) -> Result<HookReplayed> {
        let (_, open) = self.open(name)?;
        let selection = Selection {
            stream: replay.stream.clone(),
            since: replay.since,
            until: replay.until,
            status: replay.outcome,
            dry_run: replay.dry_run,
            rate: replay.rate,
        };
        let told = open.hook.replay(&selection).await?;
        Ok(HookReplayed {
            streams: told.streams,
            deliveries: told.deliveries,
            entries: told.entries,
            delivered: told.delivered,
            failed: told.failed,
            gone: told.gone,
        })
    }

    async fn letters(
        &self,
        name: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<Letter>, u64)> {
        let (one, open) = self.open(name)?;
        let letters = open.state.letters(&one.pipeline, after, limit).await?;
        let total = open.state.counts(&one.pipeline).await?.letters;
        Ok((letters, total))
    }

    async fn discard(&self, name: &str, cursors: Option<&[Cursor]>) -> Result<u64> {
        let cursors = cursors.map(<[Cursor]>::to_vec);
        self.while_stopped(name, move |one, open| async move {
            open.state.discard(&one.pipeline, cursors.as_deref()).await
        })
        .await
    }

    async fn requeue(&self, name: &str, stream: Option<StreamKey>) -> Result<u64> {
        self.while_stopped(name, move |one, open| async move {
            open.state.requeue(&one.pipeline, stream).await
        })
        .await
    }

    async fn rotate(
        &self,
        name: &str,
        overlap: Duration,
        asymmetric: bool,
    ) -> Result<(String, Timestamp)> {
        let _turn = self.work.lock().await;
        let (one, open) = self.open(name)?;
        let micros = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(micros));
        let asked = open.state.asked(&one.pipeline).await?;
        let (asked, told) = secrets::rotated(&one.config, &asked, until, asymmetric)?;
        open.state.ask(&one.pipeline, &asked).await?;
        one.use_secrets(&open).await?;
        Ok((told, until))
    }

    async fn verify(&self, name: &str, signed: &HookSigned) -> Result<Result<(), String>> {
        let (one, open) = self.open(name)?;
        let asked = open.state.asked(&one.pipeline).await?;
        let secrets = secrets::effective(&one.config, &asked, Timestamp::now());
        if one.config.format == Format::Compat {
            let valid = secrets.iter().any(|secret| {
                verify_compat(secret.expose().as_bytes(), &signed.signature, &signed.body)
            });
            let why = "it is not the signature of the body by the hook's secret";
            return Ok(if valid { Ok(()) } else { Err(why.to_owned()) });
        }
        let keys = secrets::verifying(&secrets)?;
        let headers = Signed {
            id: &signed.id,
            timestamp: &signed.timestamp,
            signature: &signed.signature,
        };
        let ages = Duration::MAX;
        let verified = verify(&keys, headers, &signed.body, Timestamp::now(), ages);
        Ok(verified
            .map(drop)
            .map_err(|why: Unverified| why.to_string()))
    }
}
