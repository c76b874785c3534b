//! The tables that collections are carried as, as far as they are known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ledger_core::{Result, Row, Table, TableState, Value, Version};
use mongodb::bson::RawDocument;

use super::flatten::fields;
use super::options::Documents;
use super::types::Type;
use super::values::{self, DOC, ID};

/// How many columns a table has at most, beside `_id` and `doc`.
pub(super) const COLUMNS: usize = 500;

/// The form of a column's name by which it is told apart, and none where no column has such a name.
pub(super) type Name<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// The tables of a capture, by their collections.
pub(super) struct Shapes {
    database: String,
    documents: Documents,
    by_collection: BTreeMap<String, Shape>,
}

/// A table's columns, as wide as its documents were so far. They only ever widen.
pub(super) struct Shape {
    /// As it was handed on last.
    table: Arc<Table>,
    /// Where in the log that was.
    version: Version,
    columns: Columns,
    is_news: bool,
}

/// The columns of a table, and where the values of a document go.
pub(super) struct Columns {
    /// Of the columns behind `_id` and `doc`, by their places.
    types: Vec<Type>,
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// The forms of the names.
    taken: HashSet<String>,
    is_full: bool,
}

/// A shape that is to be handed on.
pub(super) struct News {
    pub(super) before: Arc<Table>,
    pub(super) table: Arc<Table>,
    /// No lower one than that of any shape before.
    pub(super) version: Version,
    /// Whether sinks do not have the values of before in the new columns, so that every row has to be
    /// written anew.
    pub(super) is_written_anew: bool,
}

impl Shapes {
    /// The tables as the sink has them.
    pub(super) fn new(database: &str, documents: Documents, states: &[TableState]) -> Self {
        let mut this = Self {
            database: database.to_owned(),
            documents,
            by_collection: BTreeMap::new(),
        };
        if documents == Documents::Columns {
            for state in states {
                let collection = state.table.name.table.clone();
                let base = values::table(database, &collection);
                let table = values::in_columns(Arc::clone(&state.table));
                if extends(&table, &values::in_columns(base)) {
                    let shape = Shape::new(table, state.version);
                    this.by_collection.insert(collection, shape);
                }
            }
        }
        this
    }

    fn shape(&mut self, collection: &str) -> &mut Shape {
        let (database, documents) = (&self.database, self.documents);
        self.by_collection
            .entry(collection.to_owned())
            .or_insert_with(|| {
                let mut table = values::table(database, collection);
                if documents == Documents::Columns {
                    table = values::in_columns(table);
                }
                Shape::new(table, Version::default())
            })
    }

    /// The table as it was handed on last.
    pub(super) fn table(&mut self, collection: &str) -> Arc<Table> {
        Arc::clone(&self.shape(collection).table)
    }

    /// The table where its copy begins, noted at the copy's `point`: no shape is told below that.
    pub(super) fn table_at(&mut self, collection: &str, point: u64) -> Arc<Table> {
        let shape = self.shape(collection);
        shape.version = shape.version.max(Version::new(point, 0));
        Arc::clone(&shape.table)
    }

    /// Widens a table by what a document has.
    pub(super) fn take_in(
        &mut self,
        collection: &str,
        document: &RawDocument,
        name: Name<'_>,
    ) -> Result<()> {
        if self.documents == Documents::Doc {
            return Ok(());
        }
        let shape = self.shape(collection);
        shape.is_news |= shape.columns.take_in(collection, document, name)?;
        Ok(())
    }

    /// The table where it has widened since it was handed on last, to be handed on now, at `version`.
    pub(super) fn news(&mut self, collection: &str, version: Version) -> Option<News> {
        let shape = self.shape(collection);
        if !std::mem::take(&mut shape.is_news) {
            return None;
        }
        let before = Arc::clone(&shape.table);
        let mut table = before.as_ref().clone();
        let own = table.columns.split_off(VALUES.min(table.columns.len()));
        let columns = &shape.columns;
        let columns = columns.names.iter().zip(&columns.types);
        table
            .columns
            .extend(columns.map(|(name, kind)| kind.column(name)));
        let is_written_anew = own.iter().zip(&shape.columns.types).any(|(column, kind)| {
            let before = Type::of_column(column);
            !before.widens_in_place_to(*kind)
        });
        shape.table = Arc::new(table);
        shape.version = shape.version.max(version);
        Some(News {
            before,
            table: Arc::clone(&shape.table),
            version: shape.version,
            is_written_anew,
        })
    }

    /// The row of a document in the table as it was handed on last.
    pub(super) fn row(&mut self, collection: &str, document: &RawDocument) -> Result<Row> {
        self.shape(collection).columns.row(document)
    }
}

/// The table that a document would make alone, and its row.
pub fn as_columns(document: &RawDocument) -> Result<(Arc<Table>, Row)> {
    let mut shapes = Shapes::new("", Documents::Columns, &[]);
    shapes.take_in("", document, &|name| Some(name.to_owned()))?;
    shapes.news("", Version::default());
    let row = shapes.row("", document)?;
    Ok((shapes.table(""), row))
}

/// How many columns stand before those of the fields.
const VALUES: usize = 2;

/// Whether a table has the columns of documents as a whole, perhaps with others behind.
fn extends(table: &Table, base: &Table) -> bool {
    let common = table.columns.get(..VALUES);
    common.is_some_and(|columns| columns == base.columns)
}

impl Shape {
    fn new(table: Arc<Table>, version: Version) -> Self {
        Self {
            columns: Columns::of(&table),
            table,
            version,
            is_news: false,
        }
    }
}

impl Columns {
    /// The columns of a table.
    pub(super) fn of(table: &Table) -> Self {
        let columns = table.columns.get(VALUES..).unwrap_or_default();
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let places = names.iter().cloned().zip(VALUES..);
        Self {
            types: columns.iter().map(Type::of_column).collect(),
            places: places.collect(),
            taken: HashSet::new(),
            is_full: false,
            names,
        }
    }

    /// Whether a document has widened them.
    fn take_in(
        &mut self,
        collection: &str,
        document: &RawDocument,
        name: Name<'_>,
    ) -> Result<bool> {
        if self.taken.is_empty() {
            let own = [ID, DOC].into_iter();
            let all = own.chain(self.names.iter().map(String::as_str));
            self.taken = all.filter_map(name).collect();
        }
        let mut is_news = false;
        fields(document, &mut |path, value| {
            let Some(kind) = Type::of(value) else {
                return Ok(());
            };
            if let Some(place) = self.places.get(path) {
                if let Some(known) = self.types.get_mut(*place - VALUES) {
                    let joined = known.join(kind);
                    is_news |= joined != *known;
                    *known = joined;
                }
                return Ok(());
            }
            if self.names.len() >= COLUMNS {
                if !std::mem::replace(&mut self.is_full, true) {
                    tracing::warn!(
                        collection,
                        columns = COLUMNS,
                        "further fields stand in doc only"
                    );
                }
                return Ok(());
            }
            if name(path).is_some_and(|form| self.taken.insert(form)) {
                self.places
                    .insert(path.to_owned(), self.names.len() + VALUES);
                self.names.push(path.to_owned());
                self.types.push(kind);
                is_news = true;
            }
            Ok(())
        })?;
        Ok(is_news)
    }

    /// The row of a document. A value that is not of its column's type is NULL.
    pub(super) fn row(&self, document: &RawDocument) -> Result<Row> {
        let mut row = values::row(document)?;
        if self.names.is_empty() {
            return Ok(row);
        }
        row.resize(VALUES + self.names.len(), Value::Null);
        fields(document, &mut |path, value| {
            let Some(place) = self.places.get(path) else {
                return Ok(());
            };
            let kind = self.types.get(*place - VALUES);
            if let (Some(cell), Some(kind)) = (row.get_mut(*place), kind) {
                // Of a name that comes twice the first one counts.
                if *cell == Value::Null {
                    *cell = kind.value(value)?;
                }
            }
            Ok(())
        })?;
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use ledger_core::{ColumnType, CopyState};
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
    use proptest::prelude::*;

    use super::*;

    const ANY: Name<'static> = &|name: &str| Some(name.to_owned());

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    fn shapes() -> Shapes {
        Shapes::new("app", Documents::Columns, &[])
    }

    fn take_in(shapes: &mut Shapes, document: &Document, name: Name<'_>) {
        shapes.take_in("c", &raw(document), name).unwrap();
    }

    fn declared(table: &Table) -> Vec<String> {
        let columns = table.columns.iter().skip(VALUES);
        columns
            .map(|c| format!("{} {}", c.name, c.declared))
            .collect()
    }

    fn shown(row: &Row) -> Vec<String> {
        let values = row.iter().skip(VALUES).map(|value| match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            _ => "~".to_owned(),
        });
        values.collect()
    }

    #[test]
    fn fields_become_columns_in_the_order_of_their_coming_and_widen() {
        let mut shapes = shapes();
        take_in(
            &mut shapes,
            &doc! {"_id": 1, "n": 1, "a": {"b": "x"}, "none": Bson::Null},
            ANY,
        );
        let first = shapes.news("c", Version::new(5, 1)).unwrap();
        assert_eq!(declared(&first.table), ["n int", "a.b string"]);
        assert!(!first.is_written_anew && first.before.columns.len() == VALUES);
        assert!(shapes.news("c", Version::new(6, 1)).is_none());
        take_in(&mut shapes, &doc! {"_id": 2, "none": true, "n": 2_i64}, ANY);
        let second = shapes.news("c", Version::new(7, 1)).unwrap();
        assert_eq!(
            declared(&second.table),
            ["n long", "a.b string", "none bool"]
        );
        assert!(!second.is_written_anew);
        assert_eq!(second.before, first.table);
        // A shape is never told below the one before.
        take_in(&mut shapes, &doc! {"_id": 3, "n": 0.5}, ANY);
        let third = shapes.news("c", Version::new(6, 9)).unwrap();
        assert_eq!(third.version, Version::new(7, 1));
        assert_eq!(
            declared(&third.table),
            ["n mixed", "a.b string", "none bool"]
        );
        assert!(!third.is_written_anew, "a long is its digits everywhere");
        let row = shapes
            .row("c", &raw(&doc! {"_id": 4, "n": 1e300, "a": 5}))
            .unwrap();
        assert_eq!(shown(&row), ["1e+300", "~", "~"]);
    }

    #[test]
    fn what_sinks_do_not_convert_as_it_is_written_is_written_anew() {
        let mut shapes = shapes();
        take_in(&mut shapes, &doc! {"n": 1.5}, ANY);
        assert!(
            !shapes
                .news("c", Version::default())
                .unwrap()
                .is_written_anew
        );
        take_in(&mut shapes, &doc! {"n": "x"}, ANY);
        assert!(
            shapes
                .news("c", Version::default())
                .unwrap()
                .is_written_anew
        );
        // What was never handed on is nowhere.
        take_in(&mut shapes, &doc! {"m": 1.5}, ANY);
        take_in(&mut shapes, &doc! {"m": "x"}, ANY);
        assert!(
            !shapes
                .news("c", Version::default())
                .unwrap()
                .is_written_anew
        );
    }

    #[test]
    fn a_table_goes_on_as_the_sink_has_it() {
        let mut before = shapes();
        let document = doc! {"i": 1, "s": "x", "d": 1.5, "o": Bson::ObjectId(ObjectId::default())};
        take_in(&mut before, &document, ANY);
        let News { table, .. } = before.news("c", Version::new(5, 1)).unwrap();
        let state = TableState {
            table: Arc::clone(&table),
            version: Version::new(5, 1),
            copy: CopyState::Begun { point: 1 },
        };
        let states = [state];
        let mut after = Shapes::new("app", Documents::Columns, &states);
        assert!(Arc::ptr_eq(&after.table("c"), &table));
        take_in(&mut after, &document, ANY);
        assert!(after.news("c", Version::default()).is_none());
        take_in(&mut after, &doc! {"i": 2_i64}, ANY);
        let news = after.news("c", Version::new(3, 1)).unwrap();
        assert_eq!(news.version, Version::new(5, 1));
        // As a whole, documents have two columns, whatever the sink has.
        let mut whole = Shapes::new("app", Documents::Doc, &states);
        take_in(&mut whole, &document, ANY);
        assert!(whole.news("c", Version::default()).is_none());
        assert_eq!(whole.table("c").columns.len(), VALUES);
    }

    #[test]
    fn names_that_a_sink_has_not_or_takes_for_one_have_no_column() {
        let name = |name: &str| (name != "_version").then(|| name.to_ascii_lowercase());
        let mut shapes = shapes();
        let document =
            doc! {"Name": 1, "name": 2, "_version": 3, "doc": 4, "DOC": 5, "a": {"_id": 6}};
        take_in(&mut shapes, &document, &name);
        let table = shapes.news("c", Version::default()).unwrap().table;
        assert_eq!(declared(&table), ["Name int", "a._id int"]);
        let row = shapes
            .row("c", &raw(&doc! {"_id": 1, "name": 2, "Name": 1}))
            .unwrap();
        assert_eq!(shown(&row), ["1", "~"]);
    }

    #[test]
    fn a_scalar_and_an_embedded_document_of_one_name_are_two_columns() {
        let mut shapes = shapes();
        take_in(&mut shapes, &doc! {"a": {"b": 1}}, ANY);
        take_in(&mut shapes, &doc! {"a": 5}, ANY);
        let table = shapes.news("c", Version::default()).unwrap().table;
        assert_eq!(declared(&table), ["a.b int", "a int"]);
        // A field that is called as a path is none of them.
        let odd = doc! {"_id": 1, "a.b": "x", "a": {"b": 2}};
        take_in(&mut shapes, &odd, ANY);
        assert!(shapes.news("c", Version::default()).is_none());
        assert_eq!(shown(&shapes.row("c", &raw(&odd)).unwrap()), ["2", "~"]);
    }

    #[test]
    fn there_are_so_many_columns_and_no_more() {
        let mut shapes = shapes();
        let many: Document = (0..COLUMNS + 10)
            .map(|n| (format!("f{n}"), Bson::from(1)))
            .collect();
        take_in(&mut shapes, &many, ANY);
        let table = shapes.news("c", Version::default()).unwrap().table;
        assert_eq!(table.columns.len(), VALUES + COLUMNS);
        // Those that are there still widen.
        take_in(&mut shapes, &doc! {"f0": 1_i64, "f505": 1}, ANY);
        let table = shapes.news("c", Version::default()).unwrap().table;
        assert_eq!(table.columns[VALUES].kind, ColumnType::Int64);
        assert_eq!(table.columns.len(), VALUES + COLUMNS);
    }

    fn value() -> impl Strategy<Value = Bson> {
        prop_oneof![
            any::<i32>().prop_map(Bson::from),
            any::<i64>().prop_map(Bson::from),
            any::<f64>().prop_map(Bson::from),
            any::<bool>().prop_map(Bson::from),
            "[a-z]{0,3}".prop_map(Bson::from),
            Just(Bson::Null),
        ]
    }

    proptest! {
        #[test]
        fn any_order_of_documents_comes_to_the_same_types(
            documents in prop::collection::vec(prop::collection::vec(("[ab]", value()), 0..4), 0..6),
            seed: prop::sample::Index,
        ) {
            let mut documents: Vec<Document> = documents
                .into_iter()
                .map(|fields| doc! {"_id": 1}.into_iter().chain(fields).collect())
                .collect();
            let of = |documents: &[Document]| {
                let mut shapes = shapes();
                for document in documents {
                    take_in(&mut shapes, document, ANY);
                }
                shapes.news("c", Version::default());
                let mut columns = shapes.table("c").columns.clone();
                columns.sort_by(|a, b| a.name.cmp(&b.name));
                columns
            };
            let one = of(&documents);
            if !documents.is_empty() {
                let at = seed.index(documents.len());
                documents.rotate_left(at);
            }
            prop_assert_eq!(one, of(&documents));
        }
    }
}
