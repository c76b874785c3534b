//! What keeps the state of hooks, on each database that does.

use std::sync::Arc;

use ledger::connect::{DatabaseUrl, Stores};
use ledger::hook::{Asked, Attempt, AttemptQuery, Plan, Queued, Settled, State, Waiting, Writes};
use ledger::{
    Cursor, EntryId, ErrorKind, PipelineId, SourceId, StoreName, StoreOptions, StreamKey, Timestamp,
};
use ledger_harness::{Mongo, Postgres};
use mongodb::bson::{Document, doc};

fn at(n: u8) -> Cursor {
    Cursor::new(b'F', &[n])
}

fn queued(stream: u64, n: u8) -> Queued {
    Queued {
        stream: StreamKey(stream),
        cursor: at(n),
        description: format!("append s{stream}#{n}"),
        item: vec![n].into(),
        letter: None,
        border: (n == 2).then_some(EntryId(9)),
    }
}

fn settled(id: u64, through: u8) -> Settled {
    Settled {
        stream: StreamKey(1),
        id: EntryId(id),
        through: at(through),
    }
}

fn waiting(stream: u64, through: u8, parked: bool) -> Waiting {
    Waiting {
        stream: StreamKey(stream),
        name: format!("s{stream}"),
        through: at(through),
        attempts: 3,
        next_at: Timestamp::from_micros(77),
        parked,
        error: "status 500".to_owned(),
    }
}

fn attempt(n: u64, outcome: &str) -> Attempt {
    Attempt {
        number: 0,
        at: Timestamp::now(),
        id: format!("msg_{n}"),
        stream: StreamKey(1),
        name: format!("s{}", n % 2),
        kind: "append".to_owned(),
        first: n.to_string(),
        last: n.to_string(),
        items: 1,
        attempt: 1,
        outcome: outcome.to_owned(),
        status: 200,
        micros: 5,
        sent: 9,
        response: vec![0, 255].into(),
        error: String::new(),
    }
}

fn source() -> SourceId {
    SourceId {
        store: uuid::Uuid::from_u128(7),
        system: "here".to_owned(),
        timeline: 1,
        origins: Vec::new(),
    }
}

#[allow(clippy::too_many_lines, reason = "one state through all calls")]
async fn works(state: Arc<dyn State>) {
    let hook = &PipelineId::new("hook:a").unwrap();
    let other = &PipelineId::new("hook:b").unwrap();
    let store = StoreName::new("orders").unwrap();
    let first = state.claim(hook, &store, &source()).await.unwrap();
    assert_eq!((first.fence, first.cursor), (1, None));

    // One commit holds everything, and a claim gives it back.
    let plan = Plan {
        stream: StreamKey(3),
        first: EntryId(6),
        last: EntryId(7),
        begin: at(6),
        through: at(7),
    };
    let writes = Writes {
        cursor: Some(at(5)),
        plans: vec![plan.clone()],
        queue: vec![queued(1, 1), queued(1, 2), queued(1, 3), queued(2, 4)],
        waiting: vec![waiting(1, 2, false), waiting(2, 4, true)],
        settled: vec![settled(9, 4), settled(0, 7)],
        attempts: vec![attempt(1, "delivered"), attempt(2, "failed")],
        ..Writes::default()
    };
    state.commit(hook, 1, &writes).await.unwrap();
    // Again, as after a failure whose outcome nobody knows.
    let twice = Writes {
        attempts: Vec::new(),
        ..writes.clone()
    };
    state.commit(hook, 1, &twice).await.unwrap();
    let mut second = state.claim(hook, &store, &source()).await.unwrap();
    second.waiting.sort_by_key(|waiting| waiting.stream);
    assert_eq!((second.fence, second.cursor), (2, Some(at(5))));
    assert_eq!(second.waiting, [waiting(1, 2, false), waiting(2, 4, true)]);
    assert_eq!(second.plans, [plan]);
    assert_eq!(second.settled, [settled(9, 7)]);
    let fenced = state.commit(hook, 1, &writes).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced);

    let counts = state.counts(hook).await.unwrap();
    assert_eq!(
        (counts.waiting, counts.parked, counts.queued, counts.letters),
        (1, 1, 3, 1)
    );
    let found = state
        .queued(hook, StreamKey(1), Some(&at(2)), 10)
        .await
        .unwrap();
    assert_eq!(found, [queued(1, 1), queued(1, 2)]);
    assert!(
        state
            .queued(other, StreamKey(1), None, 10)
            .await
            .unwrap()
            .is_empty()
    );

    // A cursor never moves back; what is delivered is gone; what is skipped is a letter.
    let writes = Writes {
        cursor: Some(at(3)),
        delivered: vec![(StreamKey(1), at(1))],
        skipped: vec![(StreamKey(1), at(2), "it was poison".to_owned())],
        ..Writes::default()
    };
    state.commit(hook, 2, &writes).await.unwrap();
    let found = state.queued(hook, StreamKey(1), None, 10).await.unwrap();
    assert_eq!(found, [queued(1, 3)]);
    let letters = state.letters(hook, None, 10).await.unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|l| (l.stream.0, l.reason.as_str()))
        .collect();
    assert_eq!(told, [(1, "it was poison"), (2, "status 500")]);
    let behind = state
        .letters(hook, Some(&letters[0].cursor), 10)
        .await
        .unwrap();
    assert_eq!(behind, letters[1..]);
    assert_eq!(state.requeue(hook, Some(StreamKey(2))).await.unwrap(), 1);
    assert_eq!(state.requeue(hook, None).await.unwrap(), 1);
    assert!(state.letters(hook, None, 10).await.unwrap().is_empty());
    let writes = Writes {
        released: vec![StreamKey(1)],
        cursor_tells: true,
        cursor: Some(at(8)),
        ..Writes::default()
    };
    state.commit(hook, 2, &writes).await.unwrap();
    let third = state.claim(hook, &store, &source()).await.unwrap();
    assert_eq!(
        (third.cursor, third.plans.len(), third.settled.len()),
        (Some(at(8)), 0, 0)
    );
    assert_eq!(third.waiting.len(), 1);
    assert!(!third.waiting[0].parked);

    // Discarding.
    let writes = Writes {
        queue: vec![queued(5, 1), queued(5, 2)],
        waiting: vec![waiting(5, 1, true)],
        ..Writes::default()
    };
    state.commit(hook, 3, &writes).await.unwrap();
    assert_eq!(state.discard(hook, Some(&[at(1), at(3)])).await.unwrap(), 1);
    assert_eq!(state.counts(hook).await.unwrap().parked, 1);
    assert_eq!(state.discard(hook, None).await.unwrap(), 1);
    assert_eq!(state.counts(hook).await.unwrap().parked, 0);

    // What was asked for.
    assert_eq!(state.asked(other).await.unwrap(), Asked::default());
    let asked = Asked {
        disabled: None,
        secrets: Some(b"{}"[..].into()),
    };
    state.ask(hook, &asked).await.unwrap();
    let writes = Writes {
        disabled: Some("gone".to_owned()),
        ..Writes::default()
    };
    state.commit(hook, 3, &writes).await.unwrap();
    let asked = state.asked(hook).await.unwrap();
    assert_eq!(asked.disabled.as_deref(), Some("gone"));
    assert_eq!(asked.secrets.as_deref(), Some(&b"{}"[..]));

    // Another store, or another history of it.
    let users = StoreName::new("users").unwrap();
    let error = state.claim(hook, &users, &source()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("orders") && error.to_string().contains("users"));
    let restored = SourceId {
        store: uuid::Uuid::from_u128(8),
        ..source()
    };
    let error = state.claim(hook, &store, &restored).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    state.reset(hook).await.unwrap();
    let anew = state.claim(hook, &users, &restored).await.unwrap();
    assert_eq!(
        (anew.cursor, anew.waiting.len(), anew.plans.len()),
        (None, 0, 0)
    );
    assert_eq!(state.counts(hook).await.unwrap().queued, 0);
}

async fn remembers(state: Arc<dyn State>) {
    let hook = &PipelineId::new("hook:many").unwrap();
    let all: Vec<_> = (0..300)
        .map(|n| attempt(n, if n % 3 == 0 { "failed" } else { "delivered" }))
        .collect();
    for part in all.chunks(100) {
        state.remember(hook, part).await.unwrap();
    }
    let query = |change: &dyn Fn(&mut AttemptQuery)| {
        let mut query = AttemptQuery {
            limit: 1_000,
            ..AttemptQuery::default()
        };
        change(&mut query);
        let state = Arc::clone(&state);
        async move { state.attempts(hook, &query).await.unwrap() }
    };
    let newest = query(&|query| query.limit = 2).await;
    assert_eq!(
        (newest[0].id.as_str(), newest[1].id.as_str()),
        ("msg_299", "msg_298")
    );
    assert_eq!(&newest[0].response[..], [0, 255]);
    let before = newest[1].number;
    let next = query(&|query| (query.before, query.limit) = (Some(before), 1)).await;
    assert_eq!(next[0].id, "msg_297");
    assert_eq!(
        query(&|query| query.outcome = Some("failed".to_owned()))
            .await
            .len(),
        100
    );
    assert_eq!(
        query(&|query| query.stream = Some("s1".to_owned()))
            .await
            .len(),
        150
    );
    assert_eq!(
        query(&|query| query.id = Some("msg_7".to_owned()))
            .await
            .len(),
        1
    );
    let future = Timestamp::from_micros(i64::MAX);
    assert!(query(&|query| query.since = Some(future)).await.is_empty());
    assert_eq!(query(&|query| query.until = Some(future)).await.len(), 300);

    // By number, and by age.
    let mut old = attempt(1, "delivered");
    old.at = Timestamp::from_micros(0);
    let other = &PipelineId::new("hook:old").unwrap();
    state.remember(other, &vec![old; 50]).await.unwrap();
    state
        .remember(other, &vec![attempt(2, "delivered"); 10_300])
        .await
        .unwrap();
    let kept = AttemptQuery {
        limit: 100_000,
        ..AttemptQuery::default()
    };
    let kept = state.attempts(other, &kept).await.unwrap();
    assert!((10_000..=10_100).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().all(|attempt| attempt.id == "msg_2"));
    assert_eq!(
        query(&|_| {}).await.len(),
        300,
        "another hook's are its own"
    );
}

/// Positions are in the order of their bytes, however long each is.
async fn orders(state: Arc<dyn State>) {
    let hook = &PipelineId::new("hook:order").unwrap();
    let store = StoreName::new("orders").unwrap();
    state.claim(hook, &store, &source()).await.unwrap();
    let at = |position: &[u8]| Cursor::new(b'F', position);
    let ascending = [
        at(&[]),
        at(&[0]),
        at(&[9, 255, 255]),
        at(&[10]),
        at(&[10, 0]),
        at(&[255]),
    ];
    let queue = |cursor: &Cursor| Queued {
        cursor: cursor.clone(),
        ..queued(1, 1)
    };
    let writes = Writes {
        cursor: Some(ascending[3].clone()),
        queue: ascending.iter().rev().map(queue).collect(),
        plans: ascending[3..]
            .iter()
            .map(|through| Plan {
                stream: StreamKey(1),
                first: EntryId(1),
                last: EntryId(2),
                begin: ascending[0].clone(),
                through: through.clone(),
            })
            .collect(),
        settled: vec![Settled {
            stream: StreamKey(1),
            id: EntryId(u64::MAX >> 1),
            through: ascending[4].clone(),
        }],
        ..Writes::default()
    };
    state.commit(hook, 1, &writes).await.unwrap();
    let cursors = async |through, limit| {
        let found = state.queued(hook, StreamKey(1), through, limit).await;
        let found = found.unwrap().into_iter();
        found.map(|item| item.cursor).collect::<Vec<_>>()
    };
    assert_eq!(cursors(None, 10).await, ascending);
    assert_eq!(cursors(Some(&ascending[3]), 10).await, ascending[..4]);
    assert_eq!(cursors(None, 2).await, ascending[..2]);
    assert!(cursors(None, 0).await.is_empty());

    // Neither shorter nor longer ones move the cursor back.
    let back = Writes {
        cursor: Some(ascending[2].clone()),
        cursor_tells: true,
        ..Writes::default()
    };
    state.commit(hook, 1, &back).await.unwrap();
    let claimed = state.claim(hook, &store, &source()).await.unwrap();
    assert_eq!(claimed.cursor.as_ref(), Some(&ascending[3]));
    assert_eq!((claimed.plans.len(), claimed.settled.len()), (3, 1));
    let further = Writes {
        cursor: Some(ascending[4].clone()),
        cursor_tells: true,
        waiting: vec![Waiting {
            through: ascending[1].clone(),
            ..waiting(1, 1, true)
        }],
        ..Writes::default()
    };
    state.commit(hook, 2, &further).await.unwrap();
    let claimed = state.claim(hook, &store, &source()).await.unwrap();
    assert_eq!((claimed.plans.len(), claimed.settled.len()), (1, 0));

    let letters = state.letters(hook, Some(&ascending[0]), 2).await.unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.cursor.clone(), letter.reason.as_str()))
        .collect();
    let (first, second) = (ascending[1].clone(), ascending[2].clone());
    assert_eq!(
        told,
        [(first, "status 500"), (second, "behind a parked item")]
    );
    assert!(state.letters(hook, None, 0).await.unwrap().is_empty());
    let counts = state.counts(hook).await.unwrap();
    assert_eq!((counts.queued, counts.letters), (0, 6));

    assert_eq!(state.requeue(hook, None).await.unwrap(), 6);
}

/// A stream that nothing holds up begins with the first of its letters; a parked one goes on where it was.
async fn begins_with_its_letters(state: Arc<dyn State>) {
    let hook = &PipelineId::new("hook:letters").unwrap();
    let store = StoreName::new("orders").unwrap();
    state.claim(hook, &store, &source()).await.unwrap();
    let writes = Writes {
        queue: (1..=6)
            .rev()
            .flat_map(|n| [queued(1, n), queued(2, n), queued(3, n)])
            .collect(),
        skipped: vec![(StreamKey(2), at(6), "no".to_owned())],
        waiting: vec![waiting(1, 2, true), waiting(3, 1, false)],
        ..Writes::default()
    };
    state.commit(hook, 1, &writes).await.unwrap();
    // What is a letter already is neither delivered nor skipped once more.
    let again = Writes {
        delivered: vec![(StreamKey(2), at(3))],
        skipped: vec![(StreamKey(2), at(6), "once more".to_owned())],
        ..Writes::default()
    };
    state.commit(hook, 1, &again).await.unwrap();
    let letters = state.letters(hook, None, 100).await.unwrap();
    assert!(letters.iter().all(|letter| letter.reason != "once more"));
    let counts = state.counts(hook).await.unwrap();
    assert_eq!((counts.queued, counts.letters), (6, 12));
    assert_eq!(state.requeue(hook, None).await.unwrap(), 12);
    let mut claimed = state.claim(hook, &store, &source()).await.unwrap();
    claimed.waiting.sort_by_key(|waiting| waiting.stream);
    let stands: Vec<_> = claimed
        .waiting
        .iter()
        .map(|waiting| (&waiting.through, waiting.attempts, waiting.parked))
        .collect();
    assert_eq!(
        stands,
        [(&at(2), 0, false), (&at(1), 0, false), (&at(1), 3, false)]
    );
    assert!(state.remove(hook).await.unwrap());
    assert!(!state.remove(hook).await.unwrap());
    let anew = state.claim(hook, &store, &source()).await.unwrap();
    assert_eq!((anew.cursor, anew.waiting.len()), (None, 0));
}

/// However many take a hook at once, and whatever the ones before still store meanwhile: one holds it.
async fn is_taken_by_one(state: Arc<dyn State>) {
    let hook = PipelineId::new("hook:taken").unwrap();
    let store = StoreName::new("orders").unwrap();
    let taking = (0..8).map(|n| {
        let (state, hook, store) = (Arc::clone(&state), hook.clone(), store.clone());
        tokio::spawn(async move {
            let fence = state.claim(&hook, &store, &source()).await.unwrap().fence;
            let writes = Writes {
                queue: vec![queued(fence, 1)],
                attempts: vec![attempt(n, "delivered"); 3],
                ..Writes::default()
            };
            (fence, state.commit(&hook, fence, &writes).await)
        })
    });
    let (mut fences, mut stored) = (Vec::new(), 0);
    for taken in futures::future::join_all(taking).await {
        let (fence, committed) = taken.unwrap();
        fences.push(fence);
        match committed {
            Ok(()) => stored += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
        }
    }
    fences.sort_unstable();
    assert_eq!(fences, (1..=8).collect::<Vec<_>>());
    assert!(stored >= 1, "the last one is not fenced");
    assert_eq!(state.counts(&hook).await.unwrap().queued, stored);
    let query = AttemptQuery {
        limit: 100,
        ..AttemptQuery::default()
    };
    let attempts = state.attempts(&hook, &query).await.unwrap();
    assert_eq!(attempts.len() as u64, stored * 3);
    assert!(attempts.is_sorted_by(|a, b| a.number > b.number));
}

#[tokio::test]
async fn sqlite_keeps_the_state_of_hooks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let url = format!("sqlite:{}", path.display());
    let stores = Stores::new(DatabaseUrl::parse(&url).unwrap(), StoreOptions::default());
    works(stores.hook_state().await.unwrap()).await;
    remembers(stores.hook_state().await.unwrap()).await;
    orders(stores.hook_state().await.unwrap()).await;
    begins_with_its_letters(stores.hook_state().await.unwrap()).await;
    is_taken_by_one(stores.hook_state().await.unwrap()).await;

    // What a newer program has made is left alone.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let newer = "UPDATE ledger_hooks_version SET version = 2";
    sqlx::raw_sql(newer).execute(&mut connection).await.unwrap();
    let error = stores.hook_state().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_state_of_hooks() {
    let server = Postgres::start().await;
    let url = DatabaseUrl::parse(&server.url()).unwrap();
    let stores = Stores::new(url, StoreOptions::default());
    // Two that open it at once make it once.
    let (one, two) = tokio::join!(stores.hook_state(), stores.hook_state());
    works(one.unwrap()).await;
    remembers(two.unwrap()).await;
    orders(stores.hook_state().await.unwrap()).await;
    begins_with_its_letters(stores.hook_state().await.unwrap()).await;
    is_taken_by_one(stores.hook_state().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_keeps_the_state_of_hooks() {
    let url = crate::hooked::mongodb_url();
    let parsed = DatabaseUrl::parse(&url).unwrap();
    let stores = Stores::new(parsed, StoreOptions::default());
    // Two that open it at once make it once.
    let (one, two) = tokio::join!(stores.hook_state(), stores.hook_state());
    let client = mongodb::Client::with_uri_str(&url).await.unwrap();
    let database = client.default_database().unwrap();
    database.run_command(doc! {"profile": 2}).await.unwrap();
    works(one.unwrap()).await;
    remembers(two.unwrap()).await;
    orders(stores.hook_state().await.unwrap()).await;
    begins_with_its_letters(stores.hook_state().await.unwrap()).await;
    is_taken_by_one(stores.hook_state().await.unwrap()).await;
    database.run_command(doc! {"profile": 0}).await.unwrap();
    let profile = database.collection::<Document>("system.profile");
    let by_index = doc! {"ns": {"$regex": "ledger_hook_"}, "planSummary": {"$regex": "IXSCAN"}};
    assert!(profile.count_documents(by_index).await.unwrap() > 100);
    let scanned = doc! {
        "ns": {"$regex": "ledger_hook"}, "planSummary": {"$regex": "COLLSCAN"},
    };
    let scanned = profile.find_one(scanned).await.unwrap();
    assert!(scanned.is_none(), "{scanned:#?}");
    // What is counted and joined is so at one moment.
    let joined = doc! {"command.pipeline.$lookup": {"$exists": true}};
    let torn = doc! {"$and": [joined.clone(), {"readConcern.level": {"$ne": "snapshot"}}]};
    assert!(profile.count_documents(joined).await.unwrap() > 0);
    let torn = profile.find_one(torn).await.unwrap();
    assert!(torn.is_none(), "{torn:#?}");

    // What a newer program has made is left alone.
    database
        .collection::<Document>("ledger_hooks_version")
        .update_one(doc! {}, doc! {"$set": {"version": 2}})
        .await
        .unwrap();
    let error = stores.hook_state().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_mongodb_keeps_no_hooks() {
    let server = Mongo::start_standalone().await;
    let url = DatabaseUrl::parse(&server.url()).unwrap();
    let stores = Stores::new(url, StoreOptions::default());
    let error = stores.hook_state().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("--replSet"), "{error}");
}

/// Whoever goes away in the middle of a call leaves no transaction behind on the connection, into which
/// the next one would write what nobody commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_no_transaction_open() {
    let source = crate::hooked::Source::postgres().await;
    let stream = ledger::StreamName::new("s").unwrap();
    let ids = source.append("s", &["1"]).await;
    let labels = source.store.labels().unwrap();
    let (state, hook) = (source.state().await, PipelineId::new("hook:a").unwrap());
    // After each time at which it may wait for the server.
    for polls in 0..200 {
        let call = async {
            labels
                .set_tags(&stream, ids[0], vec![polls.to_string()])
                .await?;
            state.reset(&hook).await
        };
        let mut call = std::pin::pin!(call);
        for _ in 0..polls % 20 {
            if futures::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let open = source.transactions_left_open().await;
    assert_eq!(open, 0, "connections with an open transaction");
}
