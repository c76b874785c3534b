//! How the logs of relays become shorter, and end.

use std::time::Duration;

use ledger::Retention;

use super::chains::relayed;
use super::content::add;
use super::pair::{Kind, open};

/// Nothing is kept that nobody follows.
const NONE: Retention = Retention {
    min: Duration::ZERO,
    max: None,
};

async fn more_is_pruned_than_is_written(middle: Kind) {
    let mut first = relayed(middle).await;
    for number in 0..600 {
        add(&first.source, "a", &number.to_string()).await;
    }
    first.once().await.unwrap();
    first.sink = first.to.kept(&first.name, NONE).await;
    // The first delivery prunes, and so do those behind it while there is more.
    for number in 0..3 {
        add(&first.source, "b", &number.to_string()).await;
        first.once().await.unwrap();
    }
    let opened = open(&first.to, &first.name, NONE).await;
    let left = opened.prune().await.unwrap();
    assert!(left <= 3, "{left} rows were left");
    opened.store().close().await;
    first.close().await;
}

macro_rules! middles {
    ($($middle:ident: $kind:ident),* => $cases:tt) => {
        $(middles!(@one $middle, $kind, $cases);)*
    };
    (@one $middle:ident, $kind:ident, [$($case:ident),* $(,)?]) => {
        mod $middle {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    Box::pin(super::$case(super::Kind::$kind)).await;
                }
            )*
        }
    };
}

middles!(sqlite: Sqlite, postgres: Postgres, mongodb: Mongo => [
    more_is_pruned_than_is_written,
]);
