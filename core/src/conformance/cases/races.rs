//! The log under writers side by side: whatever they do, replaying it gives the store's content.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::conformance::case::{append_ids, entry, name, numbered, settled};
use crate::conformance::content::assert_holds;
use crate::conformance::follower::{Follower, Mark, mark};
use crate::conformance::model::{Model, Order};
use crate::conformance::random::Random;
use crate::conformance::{Ability, Case, Ending};
use crate::{EntryId, Error, ErrorKind, ExpectedVersion, Mutation, Pairs, Store, StreamName};

/// What writers may do beside appending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    pub(super) transactions: bool,
    pub(super) trims: bool,
    pub(super) renames: bool,
}

/// Writers, each with what it committed: the payloads of its appends.
pub(super) type Writers = Vec<JoinHandle<Vec<String>>>;

/// Starts this many writers on a few streams; each makes `steps` steps with random delays.
pub(super) fn writers(
    case: &Case,
    store: &Arc<dyn Store>,
    random: &mut Random,
    mix: Mix,
    (count, steps): (usize, usize),
) -> Writers {
    (0..count)
        .map(|number| {
            let writer = Writer {
                case: case.clone(),
                store: Arc::clone(store),
                random: random.split(),
                mix,
                number,
                known: Vec::new(),
                committed: Vec::new(),
            };
            tokio::spawn(writer.run(steps))
        })
        .collect()
}

struct Writer {
    case: Case,
    store: Arc<dyn Store>,
    random: Random,
    mix: Mix,
    number: usize,
    known: Vec<(StreamName, EntryId)>,
    committed: Vec<String>,
}

impl Writer {
    async fn run(mut self, steps: usize) -> Vec<String> {
        for step in 0..steps {
            self.random.pause().await;
            match self.random.below(10) {
                0..5 => self.append(step).await,
                5 if self.mix.transactions => self.transact(step).await,
                6 if self.mix.trims => self.trim().await,
                7 if self.mix.renames => self.rename().await,
                8 => self.tag(step).await,
                _ => self.annotate(step).await,
            }
        }
        self.committed
    }

    fn stream(&mut self) -> StreamName {
        name(["a", "b", "c"][self.random.below(3)])
    }

    fn batch(&mut self, step: usize) -> Vec<String> {
        (0..=self.random.below(4))
            .map(|n| format!("{}/{step}/{n}", self.number))
            .collect()
    }

    async fn append(&mut self, step: usize) {
        let (stream, texts) = (self.stream(), self.batch(step));
        let entries: Vec<_> = texts.iter().map(|text| entry(text)).collect();
        let call = || {
            self.store
                .append(&stream, entries.clone(), ExpectedVersion::Any)
        };
        let appended = settled(call).await.expect("append");
        self.known.extend(
            appended
                .into_iter()
                .map(|appended| (stream.clone(), appended.id)),
        );
        self.committed.extend(texts);
    }

    async fn transact(&mut self, step: usize) {
        let (stream, texts) = (self.stream(), self.batch(step));
        let entries = texts.iter().map(|text| entry(text)).collect();
        let how = if self.random.below(2) == 0 {
            Ending::Commit
        } else {
            Ending::RollBack
        };
        let mut random = self.random.split();
        let ending = async move {
            for _ in 0..5 {
                random.pause().await;
            }
            how
        };
        match self
            .case
            .transact(&self.store, &stream, entries, Box::pin(ending))
            .await
        {
            Some(Ok(_)) if how == Ending::Commit => self.committed.extend(texts),
            Some(Err(error)) => assert!(error.is_retryable(), "{error}"),
            _ => {}
        }
    }

    fn one_known(&mut self) -> Option<(StreamName, EntryId)> {
        (!self.known.is_empty()).then(|| self.random.pick(&self.known).clone())
    }

    async fn trim(&mut self) {
        if let Some((stream, id)) = self.one_known() {
            settled(|| self.store.trim(&stream, id))
                .await
                .expect("trim");
        }
    }

    async fn rename(&mut self) {
        let from = self.stream();
        let to = name(&format!("{}{}", from, self.random.below(1_000)));
        may_be_gone(settled(|| self.store.rename(&from, &to)).await);
    }

    async fn tag(&mut self, step: usize) {
        if let (Some((stream, id)), Some(labels)) = (self.one_known(), self.store.labels()) {
            let tags = vec![format!("{}/{step}", self.number)];
            may_be_gone(settled(|| labels.set_tags(&stream, id, tags.clone())).await);
        }
    }

    async fn annotate(&mut self, step: usize) {
        if let (Some((stream, id)), Some(labels)) = (self.one_known(), self.store.labels()) {
            let set = Pairs::from([(self.number.to_string(), step.to_string())]);
            let delete = vec![((self.number + 1) % 8).to_string()];
            let call = || labels.set_annotations(&stream, id, set.clone(), delete.clone());
            may_be_gone(settled(call).await);
        }
    }
}

/// Another writer may have trimmed the entry, or renamed the stream.
fn may_be_gone(done: Result<(), Error>) {
    if let Err(error) = done {
        let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists);
        assert!(gone, "{error}");
    }
}

/// Waits for writers; the payloads that they committed.
pub(super) async fn committed(writers: Writers) -> BTreeSet<String> {
    let mut committed = BTreeSet::new();
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    committed
}

/// Lets eight writers work while two readers follow: both are told the same, each committed entry
/// exactly once, in an order that leads to the store's content.
async fn assert_told_exactly(case: &Case, mix: Mix) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    let mut random = Random::new();
    let writers = writers(case, &store, &mut random, mix, (8, 25));
    let (send_mark, mark_sent) = tokio::sync::watch::channel(None::<Arc<Mark>>);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, mut mark_sent) = (Arc::clone(&store), mark_sent.clone());
            tokio::spawn(async move {
                let log = store.log().unwrap();
                let mut follower = Follower::new(log, &log.start());
                // The writers' first changes are read while they write.
                let mut changes = follower.take(50).await;
                let mark = mark_sent
                    .wait_for(Option::is_some)
                    .await
                    .unwrap()
                    .clone()
                    .unwrap();
                changes.extend(follower.until(&mark).await);
                changes
            })
        })
        .collect();
    let committed = committed(writers).await;
    // Where chance made few changes, the readers' first part still ends.
    append_ids(&store, &name("filler"), numbered(50)).await;
    send_mark.send_replace(Some(Arc::new(mark(&store).await)));
    let mut told = Vec::new();
    for reader in readers {
        told.push(reader.await.unwrap());
    }
    assert!(told[0] == told[1], "both readers are told the same");
    let changes = told.remove(0);
    Order::check(&changes);
    let payloads: Vec<_> = changes
        .iter()
        .filter(|change| change.stream.name != name("filler"))
        .filter_map(|change| match &change.mutation {
            Mutation::Append { entry, .. } => {
                Some(String::from_utf8(entry.payload.to_vec()).unwrap())
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        payloads.len(),
        committed.len(),
        "each committed entry is told once"
    );
    assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), committed);
    assert_holds(&store, Model::of(&changes)).await;
}

/// Appends and labels.
pub async fn appends_and_labels_are_told_exactly(case: &Case) {
    let mix = Mix {
        transactions: false,
        trims: false,
        renames: false,
    };
    assert_told_exactly(case, mix).await;
}

/// Trims that race appends and labels.
pub async fn trims_are_told_exactly(case: &Case) {
    let mix = Mix {
        transactions: false,
        trims: true,
        renames: false,
    };
    assert_told_exactly(case, mix).await;
}

/// Renames that race everything else.
pub async fn renames_are_told_exactly(case: &Case) {
    let renames = case.has(Ability::Rename);
    assert_told_exactly(
        case,
        Mix {
            transactions: false,
            trims: true,
            renames,
        },
    )
    .await;
}

/// Rollbacks and late commits beside everything else.
pub async fn late_commits_and_rollbacks_are_told_exactly(case: &Case) {
    let transactions = case.has(Ability::Transactions);
    let renames = case.has(Ability::Rename);
    assert_told_exactly(
        case,
        Mix {
            transactions,
            trims: true,
            renames,
        },
    )
    .await;
}
