//! A hook without a daemon: what a store holds and what is appended is posted, signed, in each
//! stream's order, and goes on where it was after a restart. The receiver verifies it with the plain
//! function.
//!
//! ```sh
//! cargo run --features webhook-axum --example webhook_sink
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use ledger::bridge::hook::{Hook, HookOptions};
use ledger::connect::{DatabaseUrl, Stores};
use ledger::pipeline::Stop;
use ledger::webhook::{Format, SigningKey, Target, Verifier, WebhookConfig, WebhookEndpoint};
use ledger::{
    ExpectedVersion, NewEntry, PipelineId, Store as _, StoreName, StoreOptions, StreamName,
};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("shop.db").display());
    let stores = Stores::new(DatabaseUrl::parse(&url)?, StoreOptions::default());
    let store = stores.open(&StoreName::new("orders")?).await?;
    let append = async |stream: &str, payload: &str| {
        let stream = StreamName::new(stream)?;
        let entry = NewEntry::new(payload.to_owned());
        store
            .append(&stream, vec![entry], ExpectedVersion::Any)
            .await
    };

    // An ed25519 key: the receiver needs the public part only.
    let private = SigningKey::generate_private()?;
    let key = SigningKey::parse(&private)?;
    let public = key.public().unwrap_or_default();
    let (address, mut received) = receiver(&public).await?;

    let mut config = WebhookConfig::new(Target::parse(&address, &[])?);
    config.format = Format::Standard;
    config.keys = vec![key];
    let endpoint = Arc::new(WebhookEndpoint::new(config)?);
    // The cursor, and what waits for another attempt, stand in the store's own database.
    let options = HookOptions::new(PipelineId::new("hook:shop")?);
    let state = stores.hook_state().await?;
    let hook = Hook::new(Arc::clone(&store), endpoint, state, options)?;

    append("user-1", r#"{"item":"book"}"#).await?;
    for payload in [r#"{"item":"pen"}"#, r#"{"item":"ink"}"#] {
        let stop = Stop::new();
        let running = tokio::spawn({
            let (hook, stop) = (hook.clone(), stop.clone());
            async move { hook.run(&stop).await }
        });
        append("user-1", payload).await?;
        loop {
            let wait = tokio::time::timeout(Duration::from_mins(1), received.recv());
            let Some(body) = wait.await? else {
                anyhow::bail!("the receiver has ended");
            };
            println!("{body}");
            if body.contains(payload) {
                break;
            }
        }
        stop.stop();
        running.await??;
        println!("stopped, and started again: what was taken is not sent again");
    }
    anyhow::ensure!(received.is_empty(), "something came twice");
    Ok(())
}

/// A receiver that takes what the key has signed, and gives it on.
async fn receiver(public: &str) -> anyhow::Result<(String, mpsc::UnboundedReceiver<String>)> {
    let verifier = Verifier::new([public])?;
    let (taken, received) = mpsc::unbounded_channel();
    let take = move |headers: HeaderMap, body: Bytes| async move {
        match verifier.verify(&headers, &body) {
            Ok(_) => {
                let _ = taken.send(String::from_utf8_lossy(&body).into_owned());
                StatusCode::OK
            }
            Err(why) => {
                println!("refused: {why}");
                StatusCode::UNAUTHORIZED
            }
        }
    };
    let router = Router::new().route("/hook", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}/hook", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, received))
}
