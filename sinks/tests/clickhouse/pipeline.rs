//! Cursors, fences and the bound source.

use std::collections::BTreeSet;

use ledger_core::{Batch, ErrorKind, PipelineId, Sink as _, SourceId};

use ledger_layout::clickhouse::{Cursors, Owner};

use crate::database::{
    Database, append, batch, claim, cursor, deliver, orders, pipeline, source, stream,
};

pub(crate) async fn of_two_instances_the_earlier_is_fenced(database: Database) {
    let (one, other) = (database.sink().await, database.sink().await);
    let a = stream(1, "a", 1);
    let first = claim(&one).await;
    deliver(&one, first, &[append(&a, 1)]).await;
    let taken = other
        .cursors()
        .unwrap()
        .claim(&pipeline(), &source(1))
        .await
        .unwrap();
    assert!(taken.fence > first);
    assert_eq!(taken.cursor, Some(cursor(1)));

    let late = batch(first, &[append(&a, 2)], 0, 1);
    let error = one.deliver(&late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let advanced = one
        .cursors()
        .unwrap()
        .advance(&pipeline(), first, &cursor(9))
        .await;
    assert_eq!(advanced.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(
        database.view().await.len(),
        1,
        "nothing is written under an old fence"
    );

    // A row that a fenced instance writes between check and claim does not count.
    database
        .execute(&format!(
            "INSERT INTO ledger_cursors VALUES ('orders', 'bridge-1', ({first}, 'ffff', ''))"
        ))
        .await;
    let stored = other.cursors().unwrap().stored(&pipeline()).await.unwrap();
    assert_eq!(stored, Some(cursor(1)));
    deliver(&other, taken.fence, &[append(&a, 1), append(&a, 2)]).await;
    database.drop().await;
}

pub(crate) async fn claims_at_the_same_moment_get_different_fences(database: Database) {
    let sink = database.sink().await;
    let cursors = sink.cursors().unwrap();
    let (name, id) = (pipeline(), source(1));
    let claims = futures::future::join_all((0..4).map(|_| cursors.claim(&name, &id))).await;
    let fences: BTreeSet<u64> = claims.iter().flatten().map(|claim| claim.fence).collect();
    assert_eq!(
        fences.len(),
        claims.iter().filter(|claim| claim.is_ok()).count()
    );
    let newest = fences.last().copied().unwrap();
    for fence in fences {
        let result = sink.deliver(&batch(fence, &[], 0, 0)).await;
        assert_eq!(result.is_ok(), fence == newest, "{result:?}");
    }
    database.drop().await;
}

pub(crate) async fn a_cursor_is_committed_claimed_and_reset(database: Database) {
    let sink = database.sink().await;
    let cursors = sink.cursors().unwrap();
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), None);
    let first = cursors.claim(&pipeline(), &source(1)).await.unwrap();
    assert_eq!(first.cursor, None);

    // A batch without items moves the cursor and nothing else; one without `ack` does not.
    sink.deliver(&batch(first.fence, &[], 0, 0)).await.unwrap();
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), Some(cursor(0)));
    let held_back = Batch {
        ack: None,
        ..batch(first.fence, &[], 0, 0)
    };
    sink.deliver(&held_back).await.unwrap();
    assert_eq!(
        cursors
            .advance(&pipeline(), first.fence, &cursor(300))
            .await
            .unwrap(),
        cursor(300)
    );
    assert_eq!(
        cursors
            .advance(&pipeline(), first.fence, &cursor(7))
            .await
            .unwrap(),
        cursor(300)
    );

    let second = cursors.claim(&pipeline(), &source(1)).await.unwrap();
    assert_eq!(second.cursor, Some(cursor(300)));
    let elsewhere = PipelineId::new("bridge-2").unwrap();
    assert_eq!(cursors.stored(&elsewhere).await.unwrap(), None);

    cursors.reset(&pipeline()).await.unwrap();
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), None);
    let error = sink
        .deliver(&batch(second.fence, &[], 0, 0))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let third = cursors.claim(&pipeline(), &source(1)).await.unwrap();
    assert!(third.fence > second.fence);
    assert_eq!(third.cursor, None);
    database.drop().await;
}

pub(crate) async fn a_store_belongs_to_one_source_until_a_resync(database: Database) {
    let sink = database.sink().await;
    let cursors = sink.cursors().unwrap();
    let fence = claim(&sink).await;
    deliver(&sink, fence, &[append(&stream(1, "a", 1), 1)]).await;

    // After a failover the timeline is another one, the history is not.
    let promoted = SourceId {
        timeline: 2,
        ..source(1)
    };
    let fence = cursors.claim(&pipeline(), &promoted).await.unwrap().fence;
    for name in ["bridge-1", "another-bridge"] {
        let name = PipelineId::new(name).unwrap();
        let error = cursors.claim(&name, &source(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceDiverged);
        assert!(
            error.to_string().contains("ledger bridge run --resync"),
            "{error}"
        );
    }
    deliver(&sink, fence, &[append(&stream(1, "a", 1), 2)]).await;
    assert_eq!(database.view().await.len(), 2);

    // A reset alone keeps the content, and with it the source.
    cursors.reset(&pipeline()).await.unwrap();
    let error = cursors.claim(&pipeline(), &source(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    let fence = claim(&sink).await;
    assert_eq!(database.view().await.len(), 2);

    sink.resync(&pipeline()).await.unwrap();
    let late = batch(fence, &[append(&stream(1, "a", 1), 3)], 0, 1);
    assert_eq!(
        sink.deliver(&late).await.unwrap_err().kind(),
        ErrorKind::Fenced
    );
    let claimed = cursors.claim(&pipeline(), &source(2)).await.unwrap();
    assert_eq!((database.view().await.len(), claimed.cursor), (0, None));
    deliver(&sink, claimed.fence, &[append(&stream(1, "b", 1), 1)]).await;
    assert_eq!(database.view().await.len(), 1);
    database.drop().await;
}

pub(crate) async fn a_dropped_table_is_no_loss_of_a_batch(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let a = stream(1, "a", 1);
    deliver(&sink, fence, &[append(&a, 1)]).await;
    database.execute("DROP TABLE orders_entries").await;
    let changes = [append(&a, 1), append(&a, 2)];
    // The server may hang up while the rows are still being sent; why, it tells the next time.
    let mut kinds = Vec::new();
    while kinds.last() != Some(&ErrorKind::NotFound) && kinds.len() < 20 {
        let delivered = sink.deliver(&batch(fence, &changes, 0, 2)).await;
        kinds.push(delivered.unwrap_err().kind());
    }
    assert_eq!(kinds.pop(), Some(ErrorKind::NotFound));
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Unavailable));
    let stored = sink.cursors().unwrap().stored(&pipeline()).await.unwrap();
    assert_eq!(
        stored,
        Some(cursor(1)),
        "the cursor stays where the data is"
    );
    database.drop().await;
}

pub(crate) async fn what_is_emptied_is_not_promoted_and_the_other_way_round(database: Database) {
    let sink = database.sink().await;
    let a = stream(1, "a", 1);
    let fence = claim(&sink).await;
    deliver(&sink, fence, &[append(&a, 1)]).await;
    let cursors = Cursors::new(database.connection.clone(), &orders());

    // As a resync that was cut short leaves it.
    cursors.begin_emptying("test").await.unwrap();
    let error = cursors.own("test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let late = batch(fence, &[append(&a, 2)], 0, 1);
    let error = sink.deliver(&late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let claimed = sink.cursors().unwrap();
    let error = claimed.claim(&pipeline(), &source(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    assert!(error.to_string().contains("--resync"), "{error}");
    sink.resync(&pipeline()).await.unwrap();
    let fence = claim(&sink).await;
    deliver(&sink, fence, &[append(&a, 1)]).await;

    // Others bind, empty and promote at the same moment: who is told that it was done is right.
    let promoted = futures::future::join_all((0..4).map(|_| cursors.own("test")));
    let (name, id) = (pipeline(), source(1));
    let bound = futures::future::join_all((0..4).map(|_| claimed.claim(&name, &id)));
    let emptied = futures::future::join_all((0..4).map(|_| cursors.begin_emptying("test")));
    let (promoted, _, emptied) = futures::join!(promoted, bound, emptied);
    let is_promoted = promoted.iter().any(Result::is_ok);
    assert_ne!(
        is_promoted,
        emptied.iter().any(Result::is_ok),
        "one of the two"
    );
    if is_promoted {
        assert!(promoted.iter().all(Result::is_ok), "{promoted:?}");
    } else {
        sink.resync(&pipeline()).await.unwrap();
        let fence = claim(&sink).await;
        deliver(&sink, fence, &[append(&a, 1)]).await;
        cursors.own("test").await.unwrap();
    }
    assert_eq!(cursors.owner("test").await.unwrap(), Owner::Itself);
    let error = sink.resync(&pipeline()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(database.view().await.len(), 1, "nothing was removed");
    database.drop().await;
}
