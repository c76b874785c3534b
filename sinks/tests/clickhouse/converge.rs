//! Whatever the borders of the batches, the content is the same.

use std::collections::BTreeSet;

use ledger_core::{
    Change, Contents as _, Mutation, Sink as _, StoreName, StreamKey, StreamRef, StreamState,
    Timestamp,
};
use ledger_sinks::clickhouse::ClickHouseSink;
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use crate::database::{
    Database, ViewRow, append, batch, change, claim, cursor, pipeline, stream, trim,
};
use crate::model::{Model, contents};

// What a source does, as numbers that are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Append(usize, usize),
    Tags(usize, usize),
    Annotations(usize, usize),
    Trim(usize),
    Rename(usize, usize),
}

pub(crate) fn actions() -> impl Strategy<Value = Vec<Action>> {
    let number = 0..1_000_usize;
    let action = prop_oneof![
        4 => (number.clone(), 1..4_usize).prop_map(|(s, n)| Action::Append(s, n)),
        2 => (number.clone(), number.clone()).prop_map(|(e, v)| Action::Tags(e, v)),
        2 => (number.clone(), number.clone()).prop_map(|(e, v)| Action::Annotations(e, v)),
        1 => number.clone().prop_map(Action::Trim),
        2 => (number.clone(), number).prop_map(|(s, n)| Action::Rename(s, n)),
    ];
    prop::collection::vec(action, 1..60)
}

/// The log that a source writes when it does these things. Four streams share five names.
pub(crate) fn log(actions: &[Action]) -> Vec<Change> {
    let (mut model, mut changes) = (Model::default(), Vec::<Change>::new());
    let mut next_id = 1;
    let add = |model: &mut Model, changes: &mut Vec<Change>, mut change: Change| {
        // The source's clock also steps back.
        let at = i64::try_from(changes.len() * 7 % 11).unwrap();
        change.committed_at = Timestamp::from_micros(1_700_000_000_000_000 + at);
        model.apply(&change);
        changes.push(change);
    };
    for action in actions {
        let pick = |number: usize| {
            let (key, entry) = model
                .entries
                .iter()
                .nth(number % model.entries.len().max(1))?;
            Some((*key, entry.label_version + 1))
        };
        let used: BTreeSet<String> = model
            .streams
            .values()
            .map(|state| state.stream.name.to_string())
            .collect();
        let free: Vec<String> = (0..5)
            .map(|name| format!("n{name}"))
            .filter(|name| !used.contains(name))
            .collect();
        match *action {
            Action::Append(number, count) => {
                let key = StreamKey(1 + u64::try_from(number % 4).unwrap());
                let state = model
                    .streams
                    .get(&key)
                    .cloned()
                    .unwrap_or_else(|| StreamState {
                        stream: stream(key.0, &free[number % free.len()], 1),
                        version: 0,
                        trimmed_through: 0,
                    });
                for more in 1..=count {
                    let mut change = append(&state.stream, next_id);
                    let now = state.version + u64::try_from(more).unwrap();
                    if let Mutation::Append { version, .. } = &mut change.mutation {
                        *version = now;
                    }
                    next_id += 1;
                    add(&mut model, &mut changes, change);
                }
            }
            Action::Tags(number, value) => {
                let Some((key, label_version)) = pick(number) else {
                    continue;
                };
                let stream = model.streams[&key.stream].stream.clone();
                let tags = (0..value % 3).map(|tag| format!("t{tag}{value}")).collect();
                let mutation = Mutation::SetTags {
                    id: key.id,
                    label_version,
                    tags,
                };
                add(&mut model, &mut changes, change(&stream, 0, mutation));
            }
            Action::Annotations(number, value) => {
                let Some((key, label_version)) = pick(number) else {
                    continue;
                };
                let stream = model.streams[&key.stream].stream.clone();
                let annotations = (0..value % 3)
                    .map(|n| (format!("k{n}"), format!("v{value}")))
                    .collect();
                let mutation = Mutation::SetAnnotations {
                    id: key.id,
                    label_version,
                    annotations,
                };
                add(&mut model, &mut changes, change(&stream, 0, mutation));
            }
            Action::Trim(number) => {
                let Some((key, _)) = pick(number) else {
                    continue;
                };
                let stream = model.streams[&key.stream].stream.clone();
                add(&mut model, &mut changes, trim(&stream, key.id.0));
            }
            Action::Rename(number, name) => {
                let count = model.streams.len().max(1);
                let Some(state) = model.streams.values().nth(number % count) else {
                    continue;
                };
                let StreamRef {
                    key, name_version, ..
                } = state.stream;
                let stream = stream(key.0, &free[name % free.len()], name_version + 1);
                add(
                    &mut model,
                    &mut changes,
                    change(&stream, 0, Mutation::Rename),
                );
            }
        }
    }
    changes
}

/// How a log is delivered: how many changes a batch has, how many of them were delivered before,
/// and whether the pipeline is claimed again first.
pub(crate) type Plan = Vec<(usize, usize, bool)>;

pub(crate) async fn deliver_by_plan(
    sink: &ClickHouseSink,
    changes: &[Change],
    from: usize,
    plan: &Plan,
) {
    let mut fence = claim(sink).await;
    let (mut at, mut steps) = (from, plan.iter().cycle());
    while at < changes.len() {
        let (size, back, again) = *steps.next().unwrap();
        if again {
            fence = claim(sink).await;
        }
        let begin = at.saturating_sub(back);
        let end = (at + size).min(changes.len());
        sink.deliver(&batch(fence, changes, begin, end))
            .await
            .unwrap();
        at = end;
    }
    let stored = sink.cursors().unwrap().stored(&pipeline()).await.unwrap();
    assert_eq!(stored, (!changes.is_empty()).then(|| cursor(changes.len())));
}

pub(crate) async fn replays_with_other_borders_converge(database: Database) {
    let plans = prop::collection::vec((1..24_usize, 0..30_usize, prop::bool::weighted(0.3)), 1..6);
    let strategy = (
        actions(),
        plans,
        prop::option::of((0.0..1.0, 0.0..1.0, 0.0..1.0)),
    );
    let config = ProptestConfig {
        cases: 6,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let handle = tokio::runtime::Handle::current();
    let case = tokio::task::spawn_blocking(move || {
        let number = std::sync::Mutex::new(0);
        TestRunner::new(config).run(&strategy, |(actions, plan, snapshot)| {
            let store = {
                let mut number = number.lock().unwrap();
                *number += 1;
                StoreName::new(format!("orders{number}")).unwrap()
            };
            let changes = log(&actions);
            handle.block_on(async {
                let sink = ClickHouseSink::open(&database.config, &store)
                    .await
                    .unwrap();
                let mut from = 0;
                if let Some((start, first, second)) = snapshot {
                    // Two chunks of a snapshot, read while the source goes on.
                    let part = |from: usize, share: f64| {
                        let rest = f64::from(u32::try_from(changes.len() - from).unwrap());
                        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                        let share = (rest * share) as usize;
                        from + share
                    };
                    from = part(0, start);
                    let first = part(from, first);
                    let second = part(first, second);
                    let fence = claim(&sink).await;
                    for (at, odd) in [(first, false), (second, true)] {
                        let chunk = Model::of(&changes[..at])
                            .snapshot(|record| (record.key.id.0 % 2 == 1) == odd);
                        let mut batch = batch(fence, &chunk, 0, chunk.len());
                        batch.ack = None;
                        sink.deliver(&batch).await.unwrap();
                    }
                }
                deliver_by_plan(&sink, &changes, from, &plan).await;
                let model = Model::of(&changes);
                let query = format!("SELECT ?fields FROM {store}_current ORDER BY stream, id");
                let query = database.connection.client().query(&query);
                let rows: Vec<ViewRow> = database.connection.fetch_all("t", query).await.unwrap();
                prop_assert_eq!(rows, model.view());
                prop_assert_eq!(contents(&sink, 3).await, model.records());
                let states: Vec<StreamState> = model.streams.values().cloned().collect();
                prop_assert_eq!(sink.streams(None, 100).await.unwrap(), states);
                sink.purge().await.unwrap();
                prop_assert_eq!(contents(&sink, 1_000).await, model.records());
                Ok(())
            })
        })?;
        Ok::<_, proptest::test_runner::TestError<_>>(database)
    });
    match case.await.unwrap() {
        Ok(database) => database.drop().await,
        Err(error) => panic!("{error}"),
    }
}
