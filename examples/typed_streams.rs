//! Typed streams whose schema evolves: what version 1 of a program wrote, version 2 reads.
//!
//! ```text
//! cargo run --example typed_streams
//! ```

use std::sync::Arc;

use futures::TryStreamExt as _;
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{
    ErrorKind, ExpectedVersion, FieldMapper, Json, NewTyped, ReadOptions, Result, Schema, Store,
    StoreName, StoreOptions, StreamName, TypedStore, Versioned,
};
use serde::{Deserialize, Serialize};

/// What the first version of the program knows of an order.
#[derive(Debug, Serialize, Deserialize)]
struct OrderV1 {
    customer: String,
    cents: u64,
    comment: Option<String>,
}

/// The second version calls the customer a buyer, knows currencies, and has no comments.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    buyer: String,
    cents: u64,
    currency: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = SqliteStore::open(
        SqliteConfig::memory(),
        StoreName::new("orders")?,
        StoreOptions::default(),
    )
    .await?;
    let store: Arc<dyn Store> = Arc::new(store);
    let ada = StreamName::new("ada")?;

    // The first version of the program writes.
    let first = TypedStore::<OrderV1, _>::new(store.clone(), Json);
    let order = OrderV1 {
        customer: "ada".to_owned(),
        cents: 1_250,
        comment: Some("no hurry".to_owned()),
    };
    first.stream(ada.clone()).append(order).await?;
    println!("version 1 wrote an order");

    // The second one says what became of the fields, and writes its own.
    let from_v1 = FieldMapper::new()
        .rename("customer", "buyer")
        .add_default("currency", "EUR")
        .remove("comment");
    let schema = Schema::new(2).upcast(1, from_v1)?;
    let second = TypedStore::<Order, _>::new(store.clone(), Versioned::new(Json, schema));
    let orders = second.stream(ada.clone());
    let order = Order {
        buyer: "ada".to_owned(),
        cents: 900,
        currency: "CHF".to_owned(),
    };
    orders
        .append(NewTyped::new(order).dedup_key("order-2").tag("web"))
        .await?;
    println!("version 2 wrote an order");

    // It reads both as its own type; each tells the version it was written with.
    let read: Vec<_> = orders.read(ReadOptions::all()).try_collect().await?;
    for entry in &read {
        println!(
            "  #{} of schema {}: {:?}",
            entry.id, entry.schema_version, entry.value
        );
    }
    let versions: Vec<_> = read.iter().map(|entry| entry.schema_version).collect();
    assert_eq!(
        versions,
        [1, 2],
        "an entry keeps the version it was written with"
    );
    assert_eq!(read[0].value.buyer, "ada");
    assert_eq!(read[0].value.currency, "EUR");

    // The same order again is a duplicate, and an append that expects what is not there, an error.
    let order = || Order {
        buyer: "ada".to_owned(),
        cents: 900,
        currency: "CHF".to_owned(),
    };
    let again = orders
        .append(NewTyped::new(order()).dedup_key("order-2"))
        .await?;
    assert!(again.duplicate);
    let late = orders
        .append_all([order()], ExpectedVersion::Exactly(1))
        .await;
    let conflict = late.as_ref().err().map(ledger::Error::kind);
    assert_eq!(
        conflict,
        Some(ErrorKind::Conflict),
        "its version has passed"
    );
    if let Err(error) = late {
        println!("a late writer: {error}");
    }
    store.close().await;
    Ok(())
}
