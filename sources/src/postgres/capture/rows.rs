//! From messages of the log to changes of rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ledger_core::pipeline::Step;
use ledger_core::{
    CopyState, Cursor, Error, ErrorKind, Progress, Result, Row, RowChange, RowOp, Table, TableName,
    Timestamp, Value, Version,
};
use ledger_layout::postgres::failed;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use super::catalog::{Found, described, filled_at_once, places, sql_name, tables};
use super::contents;
use super::options::CaptureOptions;
use super::position::Position;
use super::types::Types;
use crate::postgres::replication::{Message, Relation};

const OPERATION: &str = "read the log";

/// What is known of a table that is carried.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    /// Its shape, as it was handed on last.
    pub(super) table: Arc<Table>,
    /// Rows of a copy have this position: older changes are a part of them.
    pub(super) point: u64,
    /// From here on the copy's rows are those of the log; the end of the log while it goes on.
    pub(super) through: u64,
}

/// Reads messages in order.
pub(super) struct Rows {
    pool: PgPool,
    types: Types,
    options: CaptureOptions,
    /// The tables, by their numbers.
    pub(super) carried: BTreeMap<u32, Carried>,
    /// How the log's rows are laid out, since the connection was made: the place in the message of
    /// each column that is carried. None for a table that is not.
    layouts: HashMap<u32, Option<Layout>>,
    transaction: Option<Transaction>,
    /// The last position that was handed on.
    pub(super) position: Position,
    /// What is at or before it was handed on before the connection was made.
    resumed: Position,
    /// The timeline that is read: a part of every cursor.
    timeline: u32,
    /// Tables that are to be copied anew, since the log does not tell what has become of their rows.
    pub(super) recopy: HashSet<u32>,
}

#[derive(Debug)]
struct Layout {
    table: Arc<Table>,
    places: Vec<Option<usize>>,
    /// The message's columns are those that are carried, in order.
    as_it_is: bool,
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    commit: u64,
    at: i64,
    /// How many changes were received: the number of each is a part of its version, so none that is
    /// left out here may be left out in counting.
    changes: u64,
}

impl Rows {
    pub(super) fn new(
        pool: PgPool,
        types: Types,
        options: CaptureOptions,
        carried: BTreeMap<u32, Carried>,
        from: Position,
        timeline: u32,
    ) -> Self {
        Self {
            pool,
            types,
            options,
            carried,
            layouts: HashMap::new(),
            transaction: None,
            position: from,
            resumed: from,
            timeline,
            recopy: HashSet::new(),
        }
    }

    /// A step that is not in the log itself, behind what was handed on last.
    pub(super) fn beside(
        &mut self,
        table: &Arc<Table>,
        version: Version,
        op: RowOp,
    ) -> Step<RowChange> {
        self.position = self.position.next_beside();
        self.step(self.position, None, table, version, op)
    }

    /// What the catalogue says of these tables now.
    pub(super) async fn found(
        &mut self,
        conn: &mut PgConnection,
        wanted: &HashSet<u32>,
    ) -> Result<Vec<Found>> {
        self.types = Types::load(conn).await?;
        let found = tables(conn, &self.options, &self.types).await?;
        let found = found.into_iter();
        Ok(found
            .filter_map(|(id, found)| wanted.contains(&id).then_some(found))
            .collect())
    }

    /// Every transaction below `end` has been read: a position without an item, where it is news.
    pub(super) fn alive(&mut self, end: u64) -> Option<Step<RowChange>> {
        let position = Position::between(end);
        if self.transaction.is_some() || position <= self.position {
            return None;
        }
        self.position = position;
        Some(Step::empty(self.stored(position)))
    }

    /// What a message comes to.
    pub(super) async fn read(
        &mut self,
        message: Message,
        steps: &mut Vec<Step<RowChange>>,
    ) -> Result<()> {
        match message {
            Message::Begin { commit, at, .. } => {
                // One that did not end was given up with its connection, and is told again.
                let changes = 0;
                self.transaction = Some(Transaction {
                    commit,
                    at,
                    changes,
                });
            }
            Message::Commit { end } => {
                self.transaction = None;
                let position = Position::between(end);
                if position > self.position {
                    self.position = position;
                    steps.push(Step::empty(self.stored(position)));
                }
            }
            Message::Relation(relation) => self.relation(&relation, steps).await?,
            Message::Insert { relation, row } => {
                let Some(place) = self.change(relation)? else {
                    return Ok(());
                };
                let row = place.row(row)?;
                self.push(&place, RowOp::Insert(row), steps);
            }
            Message::Update {
                relation,
                before,
                row,
            } => {
                let Some(place) = self.change(relation)? else {
                    return Ok(());
                };
                let row = place.row(row)?;
                let before = before.map(|before| place.before(before)).transpose()?;
                let op = self.complete(&place, row, before).await?;
                self.push(&place, op, steps);
            }
            Message::Delete { relation, before } => {
                let Some(place) = self.change(relation)? else {
                    return Ok(());
                };
                let before = place.before(before)?;
                self.push(&place, RowOp::Delete(before), steps);
            }
            Message::Truncate { relations } => {
                let change = self.count()?;
                // Several tables have one number in the log.
                for (beside, relation) in (1..).zip(relations) {
                    let position = Position {
                        beside,
                        ..change.position()
                    };
                    let Some(place) = self.placed(relation, change, position)? else {
                        continue;
                    };
                    self.position = position;
                    let (at, version) = (Some(change.at), change.version());
                    steps.push(self.step(position, at, &place.table, version, RowOp::Truncate));
                }
            }
            Message::Logical { .. } | Message::Other => {}
        }
        Ok(())
    }

    /// Counts a change.
    fn count(&mut self) -> Result<Transaction> {
        let transaction = self.transaction.as_mut().ok_or_else(|| {
            let what = "a change came outside a transaction";
            Error::new(ErrorKind::Corrupt, OPERATION, what)
        })?;
        transaction.changes += 1;
        Ok(*transaction)
    }

    /// Counts a change, and tells where it belongs; none where it is not carried.
    fn change(&mut self, relation: u32) -> Result<Option<Place>> {
        let change = self.count()?;
        self.placed(relation, change, change.position())
    }

    fn placed(
        &self,
        relation: u32,
        change: Transaction,
        position: Position,
    ) -> Result<Option<Place>> {
        let layout = self.layouts.get(&relation).ok_or_else(|| {
            let what = format!("a change of table {relation}, which was not described");
            Error::new(ErrorKind::Corrupt, OPERATION, what)
        })?;
        let Some(layout) = layout else {
            return Ok(None);
        };
        if position <= self.resumed {
            return Ok(None);
        }
        // Without a key nothing tells a row of the copy from the same row in the log.
        let carried = self.carried.get(&relation);
        let copied = carried.is_some_and(|carried| change.commit <= carried.point);
        if copied && !layout.table.is_keyed() {
            return Ok(None);
        }
        Ok(Some(Place {
            change,
            table: Arc::clone(&layout.table),
            places: (!layout.as_it_is).then(|| layout.places.clone()),
            catching_up: carried.is_some_and(|carried| change.commit < carried.through),
        }))
    }

    fn push(&mut self, place: &Place, op: RowOp, steps: &mut Vec<Step<RowChange>>) {
        let position = place.change.position();
        self.position = position;
        let (at, version) = (Some(place.change.at), place.change.version());
        steps.push(self.step(position, at, &place.table, version, op));
    }

    /// A changed row. One that has got another key while its table was being copied may be in none
    /// of the ranges, so what the log does not tell of it is read where it is now: the row is one
    /// that later changes of the log lead to.
    async fn complete(&self, place: &Place, mut row: Row, before: Option<Row>) -> Result<RowOp> {
        let absent = row.contains(&Value::Absent);
        let op = |row, before| RowOp::Update { row, before };
        if !absent || !place.catching_up || before.is_none() || place.table.full_identity {
            return Ok(op(row, before));
        }
        let (table, keys) = (&*place.table, std::slice::from_ref(&row));
        let from = sql_name(&table.name);
        let found = contents::rows_at(&self.pool, table, &from, keys, None).await?;
        // It has been removed since, or has another key again: the log tells that later.
        let (Some(found), Some(before)) = (found.into_iter().next(), before.clone()) else {
            return Ok(before.map_or_else(|| op(row, None), RowOp::Delete));
        };
        for (value, present) in row.iter_mut().zip(found) {
            if *value == Value::Absent {
                *value = present;
            }
        }
        Ok(op(row, Some(before)))
    }

    /// Takes up the shape of a table, and hands it on where it is a new one.
    async fn relation(
        &mut self,
        relation: &Relation,
        steps: &mut Vec<Step<RowChange>>,
    ) -> Result<()> {
        let name = TableName::new(&relation.schema, &relation.table);
        let known = self.carried.get(&relation.id);
        if known.is_none() && !self.options.tables.holds(&name) {
            self.layouts.insert(relation.id, None);
            return Ok(());
        }
        let filter = self.options.filters.get(&name);
        let mut conn = self
            .pool
            .acquire()
            .await
            .map_err(|error| failed(OPERATION, name.to_string(), error))?;
        if let Some(known) = known {
            check_name(&self.options, &known.table.name, &name)?;
        }
        let table = described(&mut conn, relation, filter, &mut self.types).await?;
        let table = match known {
            Some(known) if *known.table == *table => Arc::clone(&known.table),
            Some(known) => {
                let had = |name: &str| known.table.columns.iter().any(|c| c.name == name);
                let added = table.columns.iter().map(|column| column.name.as_str());
                let added: Vec<_> = added.filter(|name| !had(name)).collect();
                let filled = !added.is_empty() && filled_at_once(&mut conn, &table, &added).await?;
                // Another type may come with other values, which the log does not tell either.
                let cast = known.table.columns.iter().any(|before| {
                    let mut now = table.columns.iter().filter(|c| c.name == before.name);
                    now.any(|now| now.kind != before.kind)
                });
                let (before, point) = (Arc::clone(&known.table), known.point);
                if (filled || cast) && self.options.copy && !self.is_replayed() {
                    tracing::warn!(
                        table = %name,
                        added = added.join(", "),
                        "rows that were there have got other values, which the log does not tell; \
                         the table is copied anew"
                    );
                    self.recopy.insert(relation.id);
                    // Noted before the shape: whoever goes on from here copies it too.
                    let version = Version::new(point, 0);
                    let begun = RowOp::Copied(CopyState::Begun { point });
                    steps.push(self.beside(&before, version, begun));
                }
                self.reshape(relation.id, &table, steps);
                table
            }
            None => {
                if self.options.copy {
                    self.recopy.insert(relation.id);
                }
                self.reshape(relation.id, &table, steps);
                table
            }
        };
        let places = places(relation, &table);
        let layout = Layout {
            as_it_is: places.len() == relation.columns.len()
                && places
                    .iter()
                    .enumerate()
                    .all(|(at, place)| *place == Some(at)),
            places,
            table,
        };
        self.layouts.insert(relation.id, Some(layout));
        Ok(())
    }

    fn reshape(&mut self, id: u32, table: &Arc<Table>, steps: &mut Vec<Step<RowChange>>) {
        // Where the next change has its removal: above everything that was in the old shape.
        let version = match self.transaction {
            Some(transaction) => Version::new(transaction.commit, 2 * (transaction.changes + 1)),
            None => Version::new(self.position.commit, 0),
        };
        let ended = Carried {
            table: Arc::clone(table),
            point: 0,
            through: 0,
        };
        self.carried.entry(id).or_insert(ended).table = Arc::clone(table);
        // A replay of what was handed on before comes in the shape of before too.
        if !self.is_replayed() {
            steps.push(self.beside(table, version, RowOp::Shape));
        }
    }

    fn stored(&self, position: Position) -> Cursor {
        Progress::Follow(position.to_cursor_on(self.timeline)).to_cursor()
    }

    fn step(
        &self,
        position: Position,
        at: Option<i64>,
        table: &Arc<Table>,
        version: Version,
        op: RowOp,
    ) -> Step<RowChange> {
        Step::of(RowChange {
            cursor: self.stored(position),
            committed_at: at.map(Timestamp::from_micros),
            table: Arc::clone(table),
            version,
            op,
        })
    }

    /// Whether what comes next was handed on before the connection was made.
    fn is_replayed(&self) -> bool {
        self.transaction
            .is_some_and(|transaction| transaction.next_position() <= self.resumed)
    }
}

/// Refuses another name of a table for which something is set: it would not hold any more, and show
/// what was to stay at the source.
pub(super) fn check_name(
    options: &CaptureOptions,
    before: &TableName,
    now: &TableName,
) -> Result<()> {
    let set = [before, now].map(|name| options.filters.contains_key(name));
    if before == now || set == [false, false] {
        return Ok(());
    }
    Err(Error::invalid(
        OPERATION,
        format!(
            "table {before} is called {now} now, and what is set for the one does not hold for the \
             other: name it in the bridge's columns, rows and rename, and copy it anew"
        ),
    ))
}

impl Transaction {
    fn ordinal(self) -> u64 {
        2 * self.changes + 1
    }

    fn position(self) -> Position {
        Position {
            commit: self.commit,
            ordinal: self.ordinal(),
            beside: 0,
        }
    }

    fn next_position(self) -> Position {
        Self {
            changes: self.changes + 1,
            ..self
        }
        .position()
    }

    fn version(self) -> Version {
        Version::new(self.commit, self.ordinal())
    }
}

/// Where a change belongs.
struct Place {
    change: Transaction,
    table: Arc<Table>,
    places: Option<Vec<Option<usize>>>,
    /// The table's copy has read later than the log is read.
    catching_up: bool,
}

impl Place {
    /// The row before. Where only its key is told, the message has NULL in place of the rest.
    fn before(&self, row: Row) -> Result<Row> {
        let mut row = self.row(row)?;
        if !self.table.full_identity {
            let columns = self.table.columns.iter();
            for (value, _) in row
                .iter_mut()
                .zip(columns)
                .filter(|(_, column)| !column.key)
            {
                *value = Value::Absent;
            }
        }
        Ok(row)
    }

    /// The values of the columns that are carried.
    fn row(&self, mut row: Row) -> Result<Row> {
        let Some(places) = &self.places else {
            if row.len() == self.table.columns.len() {
                return Ok(row);
            }
            let what = format!("a row of {} has another number of values", self.table.name);
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, what));
        };
        let take = |place: &Option<usize>| {
            let value = place.and_then(|place| row.get_mut(place));
            value.map_or(Value::Absent, |value| {
                std::mem::replace(value, Value::Absent)
            })
        };
        Ok(places.iter().map(take).collect())
    }
}
