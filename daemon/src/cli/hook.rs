//! The arguments of `ledger hook`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ledger::Timestamp;

use crate::config::duration;

/// The webhooks of the daemon's configuration: what they do, what their receivers answered, and what
/// is sent again.
#[derive(Debug, Subcommand)]
pub(crate) enum Hook {
    /// List the daemon's hooks
    #[command(after_help = "Example: ledger hook list")]
    List,
    /// Tell what a hook is doing
    #[command(after_help = "Example: ledger hook status orders-to-shop")]
    Status(NamedHook),
    /// Send one delivery that is a test, and tell what came of it
    #[command(after_help = "Example: ledger hook test orders-to-shop")]
    Test(NamedHook),
    /// List the attempts that were made lately, the newest first
    #[command(
        after_help = "Example: ledger hook attempts orders-to-shop --status failed --since 1h"
    )]
    Attempts(Attempts),
    /// Let a hook pause until it is resumed, also over restarts
    #[command(after_help = "Example: ledger hook pause orders-to-shop")]
    Pause(NamedHook),
    /// Let a hook go on that is paused or disabled
    #[command(after_help = "Example: ledger hook resume orders-to-shop")]
    Resume(ResumeHook),
    /// Send again what was appended in a time, or what was attempted
    #[command(
        after_help = "Example: ledger hook replay orders-to-shop --since 2h --until 1h --stream user-1 --dry-run"
    )]
    Replay(ReplayHook),
    /// List what was given up, forget it, or let it be delivered again
    #[command(after_help = "Example: ledger hook dead-letters orders-to-shop --replay")]
    DeadLetters(HookLetters),
    /// Draw a new secret, and sign with the old ones too for a while
    #[command(after_help = "Example: ledger hook rotate-secret orders-to-shop --overlap 24h")]
    RotateSecret(RotateSecret),
    /// Forget a hook that was taken out of the configuration, with all that is kept for it
    #[command(after_help = "Example: ledger hook remove orders-to-shop")]
    Remove(NamedHook),
    /// Tell whether a signature is one of a hook's, or of a secret
    #[command(
        after_help = "Example: ledger hook verify-signature orders-to-shop --id msg_1 --timestamp 1700000000 --signature v1,... --body body.json"
    )]
    VerifySignature(VerifySignature),
}

/// A hook of the daemon.
#[derive(Debug, Args)]
pub(crate) struct NamedHook {
    /// The hook, as the daemon's configuration names it
    pub(crate) hook: String,
}

#[derive(Debug, Args)]
pub(crate) struct Attempts {
    #[command(flatten)]
    pub(crate) named: NamedHook,
    /// Only those of this stream
    #[arg(long, short = 'S', value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// Only those that came to this
    #[arg(long, value_enum, value_name = "OUTCOME")]
    pub(crate) status: Option<Came>,
    /// Only those of the delivery with this id
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Only those since this time, in RFC 3339 or as a duration ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// Only those before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    /// The most to list
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    pub(crate) limit: i64,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Came {
    /// The receiver has it.
    Delivered,
    /// It is tried again.
    Failed,
    /// The receiver has too much to do.
    Throttled,
    /// The receiver will not take it.
    Refused,
    /// The receiver wants no more deliveries.
    Gone,
}

impl Came {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ResumeHook {
    #[command(flatten)]
    pub(crate) named: NamedHook,
    /// Forget how far it was, and begin at the start of every stream
    #[arg(long)]
    pub(crate) restart: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayHook {
    #[command(flatten)]
    pub(crate) named: NamedHook,
    /// Only entries appended since this time, in RFC 3339 or as a duration ago; with --status,
    /// attempts made since
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// Only entries appended before this time; with --status, attempts made before
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    /// Only deliveries whose last attempt that is remembered came to this
    #[arg(long, value_enum, value_name = "OUTCOME")]
    pub(crate) status: Option<Came>,
    /// Only this stream
    #[arg(long, short = 'S', value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// Tell what would be sent, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many deliveries are sent a second at most
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct HookLetters {
    #[command(flatten)]
    pub(crate) named: NamedHook,
    /// Forget the letter with this cursor; may be repeated
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["discard_all", "replay"])]
    pub(crate) discard: Vec<String>,
    /// Forget all letters
    #[arg(long, conflicts_with = "replay")]
    pub(crate) discard_all: bool,
    /// Let them be delivered again, each stream's in order
    #[arg(long)]
    pub(crate) replay: bool,
    /// With --replay, only those of the stream with this key, as the list tells it
    #[arg(long, value_name = "KEY", requires = "replay")]
    pub(crate) stream_key: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateSecret {
    #[command(flatten)]
    pub(crate) named: NamedHook,
    /// How long the old secrets are signed with as well
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = overlap)]
    pub(crate) overlap: Duration,
    /// Draw an ed25519 key: the receiver gets the public one
    #[arg(long)]
    pub(crate) ed25519: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifySignature {
    /// A hook of the daemon; without one, a secret is given
    #[arg(value_name = "HOOK")]
    pub(crate) hook: Option<String>,
    /// The secret (`whsec_`) or public key (`whpk_`) to verify with, without a daemon
    #[arg(
        long,
        value_name = "SECRET",
        env = "LEDGER_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    pub(crate) secret: Option<String>,
    /// The header webhook-id; none for the form compat
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) id: String,
    /// The header webhook-timestamp; none for the form compat
    #[arg(long, value_name = "SECONDS", default_value = "")]
    pub(crate) timestamp: String,
    /// The header webhook-signature, or X-Ledger-Signature for the form compat
    #[arg(long, value_name = "SIGNATURE")]
    pub(crate) signature: String,
    /// A file with the body, byte for byte; standard input where it is not given
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
}

/// A time, or how long ago it was.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Some(ago) = duration::parse(text) {
        let micros = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
        let at = Timestamp::now().as_micros().saturating_sub(micros);
        return Ok(Timestamp::from_micros(at));
    }
    text.parse().map_err(|_| {
        "must be a time such as 2026-01-31T12:00:00Z, or how long ago, as 1h30m".to_owned()
    })
}

fn overlap(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| duration::RULE.to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    let rate = rate.filter(|rate: &f64| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| "must be above 0".to_owned())
}
