//! `ledger hook verify-signature`

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use ledger::Timestamp;
use ledger::webhook::{Signed, VerifyingKey, verify, verify_compat};
use ledger_server::v1::VerifyHookSignatureRequest;
use serde_json::json;

use crate::cli::{Global, Output, VerifySignature};
use crate::client::{Called as _, Daemon};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Tells whether a signature holds, however old it is; fails where it does not.
pub(crate) async fn run(
    options: &VerifySignature,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let body = if let Some(path) = &options.body {
        std::fs::read(path).with_context(|| format!("--body: read {}", path.display()))?
    } else {
        let mut body = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut body);
        read.context("read the body from standard input")?;
        body
    };
    let reason = match (&options.hook, &options.secret) {
        (Some(hook), _) => {
            let daemon = Daemon::of(&global.overrides())?;
            let request = VerifyHookSignatureRequest {
                name: hook.clone(),
                id: options.id.clone(),
                timestamp: options.timestamp.clone(),
                signature: options.signature.clone(),
                body: body.into(),
            };
            let mut hooks = daemon.hooks()?;
            let answer = hooks.verify_hook_signature(request).await.answer(&daemon)?;
            (!answer.valid).then_some(answer.reason)
        }
        (None, Some(secret)) => local(options, secret, &body)?,
        (None, None) => {
            return Err(Failure::usage(
                "name a hook of the daemon, or give the secret by LEDGER_WEBHOOK_SECRET",
            ));
        }
    };
    let valid = reason.is_none();
    printer.result(&match (printer.form(global.output), &reason) {
        (Output::Table, None) => "valid".to_owned(),
        (Output::Table, Some(reason)) => format!("not valid: {reason}"),
        (_, reason) => json!({ "valid": valid, "reason": reason }).to_string(),
    })?;
    Ok(if valid { Exit::Done } else { Exit::Failed })
}

/// Why a signature is none of this secret's; none where it is.
fn local(options: &VerifySignature, secret: &str, body: &[u8]) -> anyhow::Result<Option<String>> {
    if options.id.is_empty() && options.timestamp.is_empty() {
        let valid = verify_compat(secret.as_bytes(), &options.signature, body);
        let why = "it is not the signature of the body by the secret";
        return Ok((!valid).then(|| why.to_owned()));
    }
    let key = VerifyingKey::parse(secret)
        .map_err(|error| Failure::usage(format!("--secret: {}", error.context())))?;
    let signed = Signed {
        id: &options.id,
        timestamp: &options.timestamp,
        signature: &options.signature,
    };
    let verified = verify(&[key], signed, body, Timestamp::now(), Duration::MAX);
    Ok(verified.err().map(|why| why.to_string()))
}
