//! The table of a destination and the statements on it.

use ledger_core::{Result, Row, RowChange, Value};
use ledger_layout::tables::{ColumnOptions, Note, TableOptions};

use super::{Engine, Param, quoted};
use crate::rejected::rejected;

/// How many parameters a statement has at most; the limits are 32,766 and 65,535.
const PARAMS: usize = 30_000;
/// How many rows a statement has at most.
const ROWS: usize = 500;

/// A column of the destination.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    kind: ledger_core::ColumnType,
    pub(super) type_name: String,
    options: ColumnOptions,
    pub(super) key: bool,
}

/// The table at the destination.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) target: String,
    pub(super) slots: Vec<Slot>,
    pub(super) keyless_changes: bool,
}

impl Destination {
    pub(super) fn new<E: Engine>(
        engine: &E,
        target: &str,
        note: &Note,
        options: &TableOptions,
    ) -> Self {
        let slots = note.names().map(|carried| {
            let options = options.column(&carried.source);
            let text = options.text || options.protect.is_some();
            Slot {
                name: carried.name.clone(),
                kind: carried.kind.clone(),
                type_name: engine.type_of(&carried.kind, &carried.declared, text),
                key: carried.key,
                options,
            }
        });
        Self {
            target: target.to_owned(),
            slots: slots.collect(),
            keyless_changes: options.keyless_changes,
        }
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.slots.iter().any(|slot| slot.key)
    }

    fn keys(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.key)
    }

    /// The type of one of its columns.
    pub(super) fn type_of(&self, name: &str) -> Option<&str> {
        let slot = self.slots.iter().find(|slot| slot.name == name)?;
        Some(&slot.type_name)
    }

    pub(super) fn create(&self) -> String {
        let mut parts: Vec<String> = self
            .slots
            .iter()
            .map(|slot| {
                let null = if slot.key { " NOT NULL" } else { "" };
                format!("{} {}{null}", quoted(&slot.name), slot.type_name)
            })
            .collect();
        if self.is_keyed() {
            let keys: Vec<String> = self.keys().map(|(_, slot)| quoted(&slot.name)).collect();
            parts.push(format!("PRIMARY KEY ({})", keys.join(", ")));
        }
        format!(
            "CREATE TABLE {} ({})",
            quoted(&self.target),
            parts.join(", ")
        )
    }

    /// The values of a row for each slot; none for those that it does not tell.
    pub(super) fn values<E: Engine>(
        &self,
        engine: &E,
        change: &RowChange,
        places: &[Option<usize>],
        row: &Row,
    ) -> Result<Vec<Option<Param>>> {
        let value = |(slot, place): (&Slot, &Option<usize>)| match place
            .map_or(Some(&Value::Null), |place| row.get(place))
        {
            None | Some(Value::Absent) => Ok(None),
            Some(Value::Null) if slot.key => Err(rejected(
                change,
                &slot.name,
                "is NULL, and is a part of the key",
            )),
            Some(Value::Null) => Ok(Some(Param::Null)),
            Some(Value::Text(text)) => slot
                .param(engine, text)
                .map(Some)
                .map_err(|rule| rejected(change, &slot.name, rule)),
        };
        self.slots.iter().zip(places).map(value).collect()
    }

    /// Writes rows, each of another key, over those that are there.
    pub(super) async fn upsert<E: Engine>(
        &self,
        engine: &mut E,
        rows: &[Vec<Param>],
    ) -> Result<()> {
        let names: Vec<String> = self.slots.iter().map(|slot| quoted(&slot.name)).collect();
        let others = self.slots.iter().filter(|slot| !slot.key);
        let sets: Vec<String> = others
            .map(|slot| format!("{0} = excluded.{0}", quoted(&slot.name)))
            .collect();
        let keys: Vec<String> = self.keys().map(|(_, slot)| quoted(&slot.name)).collect();
        let conflict = match (keys.is_empty(), sets.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!(" ON CONFLICT ({}) DO NOTHING", keys.join(", ")),
            (false, false) => format!(
                " ON CONFLICT ({}) DO UPDATE SET {}",
                keys.join(", "),
                sets.join(", ")
            ),
        };
        let slots: Vec<&Slot> = self.slots.iter().collect();
        for rows in rows.chunks(chunk(slots.len())) {
            let sql = format!(
                "INSERT INTO {} ({}) VALUES {}{conflict}",
                quoted(&self.target),
                names.join(", "),
                tuples(engine, &slots, rows.len()),
            );
            engine.run(&sql, rows.concat()).await?;
        }
        Ok(())
    }

    /// Removes the rows with these keys.
    pub(super) async fn delete<E: Engine>(
        &self,
        engine: &mut E,
        keys: &[Vec<Param>],
    ) -> Result<()> {
        let slots: Vec<&Slot> = self.keys().map(|(_, slot)| slot).collect();
        let names: Vec<String> = slots.iter().map(|slot| quoted(&slot.name)).collect();
        for keys in keys.chunks(chunk(slots.len())) {
            let sql = format!(
                "DELETE FROM {} WHERE ({}) IN (VALUES {})",
                quoted(&self.target),
                names.join(", "),
                tuples(engine, &slots, keys.len()),
            );
            engine.run(&sql, keys.concat()).await?;
        }
        Ok(())
    }

    /// Sets what a row tells, of the row with the key `at`; tells whether there is one.
    pub(super) async fn update<E: Engine>(
        &self,
        engine: &mut E,
        values: &[Option<Param>],
        at: &[Param],
    ) -> Result<bool> {
        let mut params = Vec::new();
        let mut sets = Vec::new();
        for (slot, value) in self.slots.iter().zip(values) {
            if let Some(value) = value {
                params.push(value.clone());
                let place = engine.place(params.len(), &slot.type_name);
                sets.push(format!("{} = {place}", quoted(&slot.name)));
            }
        }
        let condition = self.at(engine, at, &mut params);
        let sql = format!(
            "UPDATE {} SET {} WHERE {condition}",
            quoted(&self.target),
            sets.join(", ")
        );
        Ok(engine.run(&sql, params).await? > 0)
    }

    /// Whether there is a row with this key.
    pub(super) async fn has<E: Engine>(&self, engine: &mut E, at: &[Param]) -> Result<bool> {
        let mut params = Vec::new();
        let condition = self.at(engine, at, &mut params);
        let sql = format!(
            "SELECT '1', NULL, NULL FROM {} WHERE {condition}",
            quoted(&self.target)
        );
        Ok(!engine.fetch(&sql, params).await?.is_empty())
    }

    fn at<E: Engine>(&self, engine: &E, at: &[Param], params: &mut Vec<Param>) -> String {
        let mut conditions = Vec::new();
        for ((_, slot), value) in self.keys().zip(at) {
            params.push(value.clone());
            let place = engine.place(params.len(), &slot.type_name);
            conditions.push(format!("{} = {place}", quoted(&slot.name)));
        }
        conditions.join(" AND ")
    }

    /// Removes one row that equals this one; tells whether there is one.
    pub(super) async fn take<E: Engine>(&self, engine: &mut E, row: &[Param]) -> Result<bool> {
        let mut conditions = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let place = engine.place(at + 1, &slot.type_name);
            conditions.push(engine.same(&quoted(&slot.name), &place));
        }
        let (table, name) = (quoted(&self.target), engine.row_name());
        let sql = format!(
            "DELETE FROM {table} WHERE {name} = (SELECT {name} FROM {table} WHERE {} LIMIT 1)",
            conditions.join(" AND ")
        );
        Ok(engine.run(&sql, row.to_vec()).await? > 0)
    }

    /// The columns as text.
    pub(super) fn shown<E: Engine>(&self, engine: &E) -> Vec<String> {
        let slots = self.slots.iter();
        slots
            .map(|slot| engine.show(&quoted(&slot.name), slot.held_as()))
            .collect()
    }

    /// The order of the key; of all columns where there is none.
    pub(super) fn order(&self) -> String {
        let keyed = self.is_keyed();
        let slots = self.slots.iter().filter(|slot| slot.key || !keyed);
        let names: Vec<String> = slots.map(|slot| quoted(&slot.name)).collect();
        names.join(", ")
    }

    /// The condition that a row stands behind a key, whose values are the parameters.
    pub(super) fn behind<E: Engine>(&self, engine: &E) -> String {
        let slots: Vec<&Slot> = self.keys().map(|(_, slot)| slot).collect();
        format!("({}) > {}", self.order(), tuples(engine, &slots, 1))
    }

    /// The condition that a row has one of so many keys.
    pub(super) fn among<E: Engine>(&self, engine: &E, count: usize) -> String {
        let slots: Vec<&Slot> = self.keys().map(|(_, slot)| slot).collect();
        format!(
            "({}) IN (VALUES {})",
            self.order(),
            tuples(engine, &slots, count)
        )
    }

    pub(super) async fn clear<E: Engine>(&self, engine: &mut E) -> Result<()> {
        let sql = format!("DELETE FROM {}", quoted(&self.target));
        engine.run(&sql, Vec::new()).await.map(drop)
    }

    /// The key of a row's values.
    pub(super) fn key(&self, values: &[Option<Param>]) -> Option<Vec<Param>> {
        self.keys()
            .map(|(at, _)| values.get(at).cloned().flatten())
            .collect()
    }
}

impl Slot {
    /// What its values are at the destination.
    fn held_as(&self) -> &ledger_core::ColumnType {
        if self.options.text || self.options.protect.is_some() {
            &ledger_core::ColumnType::Text
        } else {
            &self.kind
        }
    }

    /// A value as it was read.
    pub(super) fn read<E: Engine>(&self, engine: &E, text: Option<String>) -> Value {
        text.map_or(Value::Null, |text| {
            Value::Text(engine.text(self.held_as(), text).into())
        })
    }

    /// A value of the source as it is read here.
    pub(super) fn expected<E: Engine>(&self, engine: &E, value: &Value) -> Value {
        let Value::Text(text) = value else {
            return value.clone();
        };
        let mut shown = Vec::new();
        match &self.options.protect {
            Some(protection) => protection.push(text, &mut shown),
            None => shown.extend_from_slice(text),
        }
        let shown = String::from_utf8_lossy(&shown).into_owned();
        Value::Text(engine.text(self.held_as(), shown).into())
    }

    fn param<E: Engine>(&self, engine: &E, text: &[u8]) -> Result<Param, &'static str> {
        if let Some(protection) = &self.options.protect {
            let mut protected = Vec::with_capacity(64);
            protection.push(text, &mut protected);
            return engine.param(&self.kind, &protected, true);
        }
        engine.param(&self.kind, text, self.options.text)
    }
}

fn chunk(columns: usize) -> usize {
    (PARAMS / columns.max(1)).clamp(1, ROWS)
}

fn tuples<E: Engine>(engine: &E, slots: &[&Slot], rows: usize) -> String {
    let mut sql = String::new();
    let mut number = 0;
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for (at, slot) in slots.iter().enumerate() {
            number += 1;
            if at > 0 {
                sql.push_str(", ");
            }
            sql.push_str(&engine.place(number, &slot.type_name));
        }
        sql.push(')');
    }
    sql
}
