//! The lease on a bridge: of several instances one works.

use std::time::Duration;

use ledger_core::pipeline::Stop;
use ledger_core::{Consumers, Error, ErrorKind, Lease, PipelineId, Result};
use tokio::time::Instant;
use uuid::Uuid;

/// The lease of [`under_lease`]: a process that dies holds a bridge up no longer than this.
const WORK: Duration = Duration::from_secs(15);

/// Does `work` on a bridge's ends while no instance of the bridge can run: under its lease.
/// `Unavailable` while one runs. What another instance would have to wait for is given back at the
/// end, and ends by itself where this is dropped.
pub async fn under_lease<T>(
    consumers: &dyn Consumers,
    pipeline: &PipelineId,
    operation: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    // Unique for each call: a lease is renewed by its holder's name.
    let holder = format!("{operation} by {}@{}", std::process::id(), Uuid::new_v4());
    // A pause asked for keeps the bridge from coming back; it does not keep this from working.
    if let Lease::HeldBy { holder } = consumers.lease(pipeline, &holder, WORK).await? {
        return Err(Error::new(
            ErrorKind::Unavailable,
            operation,
            format!("the bridge {pipeline} is running ({holder}); stop it, or pause it, first"),
        ));
    }
    let keep = async {
        loop {
            tokio::time::sleep(WORK / 3).await;
            match consumers.lease(pipeline, &holder, WORK).await {
                Ok(Lease::Held { .. }) => {}
                Ok(Lease::HeldBy { holder }) => {
                    let what = format!("{holder} took the lease on pipeline {pipeline}");
                    return Error::new(ErrorKind::Unavailable, operation, what);
                }
                Err(error) => return error,
            }
        }
    };
    let done = tokio::select! {
        done = work => done,
        lost = keep => Err(lost),
    };
    let released = consumers.release(pipeline, &holder).await;
    // Why the work failed is what matters; a lease that is not given back runs out.
    let done = done?;
    released?;
    Ok(done)
}

/// A lease that is held.
pub(crate) struct Held<'a> {
    consumers: &'a dyn Consumers,
    pipeline: &'a PipelineId,
    holder: &'a str,
    ttl: Duration,
}

/// What waiting for the lease came to.
pub(crate) enum Waited<'a> {
    /// The lease is held.
    Held(Held<'a>),
    /// The pipeline is asked to pause; the lease is not held.
    Paused,
    /// The stop handle fired.
    Stopped,
}

/// Waits until the lease is free, and takes it. `waiting` is told who has it. A bridge that is asked
/// to pause does not touch the lease: what works in its stead would find it taken now and then.
pub(crate) async fn acquire<'a>(
    consumers: &'a dyn Consumers,
    pipeline: &'a PipelineId,
    holder: &'a str,
    ttl: Duration,
    stop: &Stop,
    mut waiting: impl FnMut(&str),
) -> Result<Waited<'a>> {
    loop {
        let registered = consumers.list().await?;
        let mut own = registered.iter().filter(|one| one.pipeline == *pipeline);
        if own.any(|one| one.paused) {
            return Ok(Waited::Paused);
        }
        match consumers.lease(pipeline, holder, ttl).await? {
            Lease::Held { paused: false } => {
                return Ok(Waited::Held(Held {
                    consumers,
                    pipeline,
                    holder,
                    ttl,
                }));
            }
            // Asked for in between.
            Lease::Held { paused: true } => {
                consumers.release(pipeline, holder).await?;
                return Ok(Waited::Paused);
            }
            Lease::HeldBy { holder } => waiting(&holder),
        }
        if tokio::time::timeout(ttl / 5, stop.stopped()).await.is_ok() {
            return Ok(Waited::Stopped);
        }
    }
}

impl Held<'_> {
    /// Renews the lease for ever. It ends with `Ok` when the pipeline is asked to pause, and with a
    /// retryable error when the lease is lost, or could not be renewed before its end: the work
    /// MUST stop then, since another instance may have begun.
    pub(crate) async fn keep(&self) -> Result<()> {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let left = self.ttl.saturating_sub(renewed.elapsed());
            let asked = Instant::now();
            let renewal = self.consumers.lease(self.pipeline, self.holder, self.ttl);
            match tokio::time::timeout(left, renewal).await {
                Ok(Ok(Lease::Held { paused: true })) => return Ok(()),
                Ok(Ok(Lease::Held { paused: false })) => renewed = asked,
                Ok(Ok(Lease::HeldBy { holder })) => {
                    return Err(self.lost(&format!("{holder} has taken it")));
                }
                Ok(Err(error)) if !error.is_retryable() => return Err(error),
                Ok(Err(_)) if renewed.elapsed() < self.ttl => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(self.lost("it could not be renewed in time"));
                }
            }
        }
    }

    /// Gives the lease back, so that another instance need not wait for its end.
    pub(crate) async fn release(self) {
        if let Err(error) = self.consumers.release(self.pipeline, self.holder).await {
            tracing::debug!(pipeline = %self.pipeline, error = error.chain(), "lease not released");
        }
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            "renew lease",
            format!("the lease on pipeline {} is lost: {why}", self.pipeline),
        )
    }
}
