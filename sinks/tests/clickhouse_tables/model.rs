//! Random histories of a table, copied while it changes and delivered with interruptions, against
//! what the source holds at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger_core::{CopyState, RowChange, RowOp, Sink as _, Table, TableReplica as _, Value};
use ledger_layout::tables::TableOptions;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::database::{
    Database, batch, begun, change, claim, delete, done, full, insert, moved, pipeline, simple,
    truncate, update,
};

/// Numbers that decide everything.
struct Dice(std::vec::IntoIter<u32>);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next().unwrap_or(0)).unwrap() % end.max(1)
    }
}

/// What the source holds: a number and a long text by id.
type Content = BTreeMap<usize, (usize, String)>;

/// A history: the content after each of its changes, which has the number of its commit.
struct History {
    changes: Vec<RowChange>,
    contents: Vec<Content>,
}

const IDS: usize = 8;

fn history(dice: &mut Dice, t: &Arc<Table>, length: usize) -> History {
    let mut content = Content::new();
    let (mut changes, mut contents) = (Vec::new(), vec![Content::new()]);
    while changes.len() < length {
        let commit = u64::try_from(changes.len()).unwrap() + 1;
        let id = dice.below(IDS);
        let n = changes.len();
        let text = format!("text {n}");
        let shown =
            |id: usize, (n, s): &(usize, String)| [id.to_string(), n.to_string(), s.clone()];
        let row = |values: &[String; 3]| values.clone();
        let known = content.get(&id).cloned();
        let made = match (known, dice.below(12)) {
            (None, 0..11) => {
                content.insert(id, (n, text));
                let values = row(&shown(id, &content[&id]));
                insert(t, (commit, 2), &values.each_ref().map(String::as_str))
            }
            (Some(before), 0..5) => {
                content.insert(id, (n, before.1.clone()));
                // The long text is not told; with it all of the row before is, where it can be.
                let values = [&id.to_string(), &n.to_string(), "?"];
                if t.full_identity {
                    let before = shown(id, &before);
                    moved(
                        t,
                        (commit, 2),
                        &before.each_ref().map(String::as_str),
                        &values,
                    )
                } else {
                    update(t, (commit, 2), &values)
                }
            }
            (Some(before), 5 | 6) => {
                content.insert(id, (before.0, text.clone()));
                let values = [&id.to_string(), &before.0.to_string(), text.as_str()];
                if t.full_identity {
                    let before = shown(id, &before);
                    moved(
                        t,
                        (commit, 2),
                        &before.each_ref().map(String::as_str),
                        &values,
                    )
                } else {
                    update(t, (commit, 2), &values)
                }
            }
            (Some(before), 7 | 8) => {
                let to = dice.below(IDS);
                if content.contains_key(&to) {
                    continue;
                }
                content.remove(&id);
                content.insert(to, (n, before.1.clone()));
                let old = shown(id, &before);
                let old = if t.full_identity {
                    old.each_ref().map(String::as_str)
                } else {
                    [old[0].as_str(), "?", "?"]
                };
                moved(
                    t,
                    (commit, 3),
                    &old,
                    &[&to.to_string(), &n.to_string(), "?"],
                )
            }
            (Some(before), 9 | 10) => {
                content.remove(&id);
                let old = shown(id, &before);
                if t.full_identity {
                    delete(t, (commit, 2), &old.each_ref().map(String::as_str))
                } else {
                    delete(t, (commit, 2), &[&old[0], "?", "?"])
                }
            }
            _ if dice.below(3) == 0 => {
                content.clear();
                truncate(t, (commit, 2))
            }
            _ => continue,
        };
        changes.push(made);
        contents.push(content.clone());
    }
    History { changes, contents }
}

/// The copy in parts, of which each is read at some time, and the log from its point on, in some
/// order between them.
fn delivered(dice: &mut Dice, t: &Arc<Table>, history: &History, point: usize) -> Vec<RowChange> {
    let end = history.changes.len();
    let lsn = |at: usize| u64::try_from(at).unwrap();
    // A change of commit `at` has the position `at`; the copy's point stands before the next one.
    let version = (lsn(point) + 1, 0);
    let mut copy = Vec::new();
    let mut read = point;
    let mut from = 0;
    while from < IDS {
        let to = from + 1 + dice.below(4);
        read += dice.below(end - read + 1);
        for (id, (n, s)) in history.contents[read].range(from..to.min(IDS)) {
            copy.push(insert(t, version, &[&id.to_string(), &n.to_string(), s]));
        }
        let state = CopyState::Upto {
            point: version.0,
            after: to.to_string().into(),
        };
        copy.push(change(t, version, RowOp::Copied(state)));
        from = to;
    }
    copy.push(done(t, version.0, lsn(read) + 1));
    let mut all = vec![begun(t, version.0)];
    // While a table is copied, the source has to tell what it moves.
    let told = |(at, change): (usize, &RowChange)| {
        let mut change = change.clone();
        if let (true, true, RowOp::Update { row, .. }) =
            (change.moves(), at <= read, &mut change.op)
            && let Some(Value::Text(id)) = row.first()
        {
            let id: usize = String::from_utf8_lossy(id).parse().unwrap();
            row[2] = Value::Text(history.contents[at + 1][&id].1.clone().into());
        }
        change
    };
    let log = history.changes.iter().enumerate().skip(point).map(told);
    let mut log = log.peekable();
    let mut copy = copy.into_iter().peekable();
    // Copied first, followed first, or both at once.
    let lean = dice.below(5);
    loop {
        let next = match (log.peek(), copy.peek()) {
            (None, None) => return all,
            (Some(_), Some(_)) if dice.below(4) < lean => log.next(),
            (_, Some(_)) => copy.next(),
            (Some(_), None) => log.next(),
        };
        all.extend(next);
    }
}

async fn follow(database: &Database, options: &TableOptions, t: &Arc<Table>, seed: Vec<u32>) {
    let dice = &mut Dice(seed.into_iter());
    let history = history(dice, t, 40);
    let point = dice.below(30);
    let all = delivered(dice, t, &history, point);
    let sink = &mut database.sink_with(options.clone()).await;
    let mut fence = claim(sink).await;
    let mut at = 0;
    let mut crashes = 3;
    while at < all.len() {
        let to = (at + 1 + dice.below(12)).min(all.len());
        let delivered = sink.deliver(&batch(fence, &all, at, to)).await;
        delivered.unwrap_or_else(|error| panic!("{at}..{to}: {error}\n{}", shown_history(&all)));
        at = to;
        if crashes > 0 && dice.below(6) == 0 {
            crashes -= 1;
            // An instance that begins anew, from an earlier place.
            *sink = database.sink_with(options.clone()).await;
            fence = claim(sink).await;
            at -= dice.below(at.min(15));
        }
    }
    let expected: Vec<String> = history.contents[40]
        .iter()
        .map(|(id, (n, s))| format!("{id}|{n}|{s}"))
        .collect();
    let shown = database
        .lines("SELECT id, n, s FROM t_current ORDER BY id")
        .await;
    assert_eq!(shown, expected, "{}", shown_history(&all));
    let count = sink.count(&pipeline(), &t.name).await.unwrap();
    assert_eq!(usize::try_from(count).unwrap(), expected.len());
    sink.resync(&pipeline()).await.unwrap();
}

/// The changes as they were delivered, for who reads a failure.
fn shown_history(all: &[RowChange]) -> String {
    let line = |(at, change): (usize, &RowChange)| {
        format!("{at} {} {:?}\n", change.version, change.op).replace("Text(b", "(")
    };
    all.iter().enumerate().map(line).collect()
}

async fn follow_many(database: Database, options: TableOptions, t: Arc<Table>) {
    let mut runner = TestRunner::default();
    let seeds = proptest::collection::vec(any::<u32>(), 400);
    for _ in 0..8 {
        let seed = seeds.new_tree(&mut runner).unwrap().current();
        follow(&database, &options, &t, seed).await;
    }
    database.drop().await;
}

pub(crate) async fn any_history_comes_to_what_the_source_holds(database: Database) {
    follow_many(database, TableOptions::default(), simple()).await;
}

pub(crate) async fn any_history_that_tells_whole_rows_does_too(database: Database) {
    let mut columns = simple().columns.clone();
    columns[1].nullable = false;
    let t = full(&crate::database::table(columns));
    let options = TableOptions {
        order_by: vec!["n".to_owned(), "id".to_owned()],
        ..TableOptions::default()
    };
    follow_many(database, options, t).await;
}
