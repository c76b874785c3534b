//! Receiving webhooks with axum: the extractor hands over what is signed by the sender, and answers
//! everything else with 401. A delivery may come more than once, under one id.
//!
//! ```sh
//! cargo run --features webhook-axum --example webhook_receiver
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::post;
use ledger::hook::{Delivery, Endpoint as _};
use ledger::webhook::{
    Format, SigningKey, Target, Verifier, Webhook, WebhookConfig, WebhookEndpoint,
};
use ledger::{
    Change, Cursor, Entry, EntryId, Mutation, Pairs, PipelineId, StoreName, StreamKey, StreamName,
    StreamRef, Timestamp,
};

/// What the handlers of this receiver share.
#[derive(Clone)]
struct Shop {
    verifier: Verifier,
    /// The ids of what was handled: the second delivery of one needs no work. A real receiver keeps
    /// them where it keeps what it made of them, in one transaction.
    handled: Arc<Mutex<HashSet<String>>>,
}

impl FromRef<Shop> for Verifier {
    fn from_ref(shop: &Shop) -> Self {
        shop.verifier.clone()
    }
}

/// Answers only once the work is done: what is not answered with 2xx comes again.
async fn orders(State(shop): State<Shop>, webhook: Webhook) -> StatusCode {
    let mut handled = shop.handled.lock().unwrap_or_else(PoisonError::into_inner);
    if handled.insert(webhook.id.clone()) {
        println!("{}: {}", webhook.id, String::from_utf8_lossy(&webhook.body));
    } else {
        println!("{}: handled before", webhook.id);
    }
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let secret = SigningKey::generate_shared()?;
    let shop = Shop {
        // During a rotation both secrets stand here.
        verifier: Verifier::new([&secret])?,
        handled: Arc::default(),
    };
    let router = Router::new()
        .route("/orders", post(orders))
        .with_state(shop);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/orders", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });

    // What a hook of a daemon does, by hand: the same delivery twice, then one by somebody else.
    let sender = |secret: &str| -> anyhow::Result<WebhookEndpoint> {
        let mut config = WebhookConfig::new(Target::parse(&url, &[])?);
        config.format = Format::Standard;
        config.keys = vec![SigningKey::parse(secret)?];
        Ok(WebhookEndpoint::new(config)?)
    };
    let delivery = delivery()?;
    let ours = sender(&secret)?;
    for _ in 0..2 {
        let answer = ours.post(&delivery).await?;
        anyhow::ensure!(answer.status == Some(204), "{answer:?}");
    }
    let stranger = sender(&SigningKey::generate_shared()?)?;
    let answer = stranger.post(&delivery).await?;
    anyhow::ensure!(answer.status == Some(401), "{answer:?}");
    println!("a stranger was answered 401");
    Ok(())
}

/// One entry, as a hook would send it.
fn delivery() -> anyhow::Result<Delivery> {
    let stream = StreamName::new("user-123")?;
    let now = Timestamp::now();
    let entry = Entry {
        id: EntryId(1),
        stream: stream.clone(),
        payload: br#"{"item":"book"}"#.to_vec().into(),
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
        cursor: Cursor::new(b'x', &[1]),
        committed_at: now,
        stream: StreamRef {
            key: StreamKey(1),
            name: stream,
            name_version: 1,
        },
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: 1,
        },
    };
    let (hook, store) = (PipelineId::new("hook:example")?, StoreName::new("orders")?);
    let delivery = Delivery::new(&hook, uuid::Uuid::new_v4(), &store, vec![change]);
    delivery.ok_or_else(|| anyhow::anyhow!("a delivery without changes"))
}
