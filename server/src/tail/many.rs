//! The tail of several streams, or of the whole store. Its positions are cursors of the log, and
//! before that places in a walk over the streams.

use std::sync::Arc;
use std::time::Duration;

use globset::GlobMatcher;
use ledger_core::{Cursor, EntryId, Mutation, Progress, ReadOptions, Store, StreamName};
use tokio::time::Instant;
use tonic::Status;

use super::outbox::Outbox;
use super::walk::{Walk, log, matches, newest};
use super::{PAGE, Start, Terms};
use crate::Service;
use crate::feed::Follow;
use crate::service::answer;
use crate::status::invalid;
use crate::v1;

/// How many streams are read before the log is looked at.
const STREAMS: usize = 64;
/// How often a tail that has nothing to tell tells its cursor.
const TELL: Duration = Duration::from_secs(5);

/// A tail of several streams: walks over them, then follows the log from where it stood before the
/// walk.
///
/// What is appended during the walk is told once: the log up to what the walk has seen says which
/// entries these are, and they are left to it.
pub(super) struct Tail {
    service: Service,
    store: Arc<dyn Store>,
    pattern: Option<GlobMatcher>,
    terms: Terms,
    phase: Phase,
    outbox: Outbox,
    /// The log's end when the tail began: past it, the tail has caught up.
    goal: Cursor,
    caught_up: bool,
    told_at: Instant,
}

enum Phase {
    Walk(Box<Walk>),
    Follow(Follow),
}

impl Tail {
    pub(super) async fn new(
        service: &Service,
        store: Arc<dyn Store>,
        pattern: Option<GlobMatcher>,
        terms: Terms,
        cursor: &str,
        start: &Start,
    ) -> Result<Self, Status> {
        let goal = answer(log(&*store)?.head().await)?;
        let mut outbox = Outbox::default();
        let phase = if cursor.is_empty() {
            match start {
                Start::Now => follow(service, &store, goal.clone()).await?,
                Start::Last(count) => {
                    let walk = Walk::new(&*store, goal.clone(), None, None)?;
                    let newest = newest(&*store, pattern.as_ref(), &terms, walk, *count).await?;
                    let follow_from = Progress::Follow(goal.clone()).to_cursor().to_string();
                    let count = newest.len();
                    for (index, entry) in newest.into_iter().enumerate() {
                        let last = index + 1 == count;
                        outbox.push(
                            entry,
                            if last {
                                follow_from.clone()
                            } else {
                                String::new()
                            },
                        );
                    }
                    follow(service, &store, goal.clone()).await?
                }
                Start::Beginning | Start::Since(_) => {
                    Phase::Walk(Box::new(Walk::new(&*store, goal.clone(), None, None)?))
                }
            }
        } else {
            resume(service, &store, cursor).await?
        };
        Ok(Self {
            service: service.clone(),
            store,
            pattern,
            terms,
            caught_up: false,
            phase,
            outbox,
            goal,
            told_at: Instant::now(),
        })
    }

    pub(super) async fn next(&mut self) -> Result<v1::TailResponse, Status> {
        loop {
            if let Some(mut response) = self.outbox.response(&self.terms)? {
                response.caught_up = self.outbox.is_empty() && self.reached();
                self.told_at = Instant::now();
                return Ok(response);
            }
            if self.reached() {
                return Ok(self.progress(true));
            }
            let moved = matches!(self.phase, Phase::Follow(_)) && self.told_at.elapsed() >= TELL;
            if moved {
                self.told_at = Instant::now();
                return Ok(self.progress(false));
            }
            match &mut self.phase {
                Phase::Walk(_) => self.walk().await?,
                Phase::Follow(_) => self.follow().await?,
            }
        }
    }

    fn progress(&self, caught_up: bool) -> v1::TailResponse {
        let cursor = match &self.phase {
            Phase::Walk(_) => String::new(),
            Phase::Follow(follow) => Progress::Follow(follow.after().clone())
                .to_cursor()
                .to_string(),
        };
        v1::TailResponse {
            entries: Vec::new(),
            cursor,
            caught_up,
        }
    }

    /// Whether the tail has just now caught up.
    fn reached(&mut self) -> bool {
        let Phase::Follow(follow) = &self.phase else {
            return false;
        };
        let now = !self.caught_up && *follow.after() >= self.goal;
        self.caught_up |= now;
        now
    }

    async fn follow(&mut self) -> Result<(), Status> {
        let Phase::Follow(follow) = &mut self.phase else {
            return Ok(());
        };
        for change in answer(follow.next().await)? {
            let Mutation::Append { entry, .. } = &change.mutation else {
                continue;
            };
            let named = matches(self.pattern.as_ref(), &change.stream.name);
            if named && self.terms.filters.matches(entry) {
                let cursor = Progress::Follow(change.cursor.clone()).to_cursor();
                self.outbox.push((**entry).clone(), cursor.to_string());
            }
        }
        Ok(())
    }

    async fn walk(&mut self) -> Result<(), Status> {
        let Phase::Walk(walk) = &mut self.phase else {
            return Ok(());
        };
        let pattern = self.pattern.as_ref();
        let log = log(&*self.store)?;
        let mut found = Vec::new();
        let limit = self.terms.limit.min(PAGE);
        let (mut streams, mut bytes) = (0, 0);
        while found.len() < limit && streams < STREAMS && bytes < self.terms.message_bytes {
            let Some((stream, after)) = walk.stream(&*self.store, pattern).await? else {
                break;
            };
            streams += 1;
            let options = ReadOptions {
                after: Some(after),
                limit: Some(limit),
                ..self.terms.filters.clone()
            };
            let page = answer(self.store.page(&stream, &options).await)?;
            let last = page.entries.last().map(|entry| entry.id);
            if let Some(last) = last.filter(|_| page.more) {
                walk.stream = Some((stream.clone(), last));
            }
            bytes += page.entries.iter().map(|e| e.payload.len()).sum::<usize>();
            found.extend(page.entries);
        }
        walk.later.sync(log).await?;
        for entry in found {
            if !walk.later.entries.contains(&entry.id) {
                let cursor = walk.cursor(&entry);
                self.outbox.push(entry, cursor);
            }
        }
        if walk.is_over() {
            let start = walk.start.clone();
            self.phase = follow(&self.service, &self.store, start).await?;
        }
        Ok(())
    }
}

/// Goes on from a cursor that a tail of several streams, or the change stream, gave.
async fn resume(service: &Service, store: &Arc<dyn Store>, text: &str) -> Result<Phase, Status> {
    let unknown = || invalid("cursor", "is not one that a tail of several streams gave");
    let cursor: Cursor = text.parse().map_err(|_| unknown())?;
    match Progress::from_cursor(&cursor) {
        Ok(Progress::Follow(after)) => follow(service, store, after).await,
        Ok(Progress::Snapshot { start, key }) => {
            let (id, name) = key.split_first_chunk::<8>().ok_or_else(unknown)?;
            let name = std::str::from_utf8(name).ok();
            let name = name.and_then(|name| StreamName::new(name).ok());
            let name = name.ok_or_else(unknown)?;
            let last = EntryId(u64::from_be_bytes(*id));
            let walk = Walk::new(&**store, start, Some(name), Some(last))?;
            Ok(Phase::Walk(Box::new(walk)))
        }
        // A cursor of the log itself, which the log judges.
        Err(_) => follow(service, store, cursor).await,
    }
}

async fn follow(service: &Service, store: &Arc<dyn Store>, after: Cursor) -> Result<Phase, Status> {
    let follow = Follow::new(&service.feeds, store, after).await;
    Ok(Phase::Follow(answer(follow)?))
}
