//! What the collections hold, for verification.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{Result, Row, Table, TableContents, Value};
use ledger_layout::mongodb::{MongoDatabase, Rows};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::MongoCapture;
use super::shapes::Columns;
use super::values::id_of;

const OPERATION: &str = "read collection";
/// How many documents are handed on together.
const DOCUMENTS: i64 = 500;
/// How many bytes of documents a page may have before it is cut short.
const PAGE_BYTES: usize = 8 << 20;

/// A page of documents behind an `_id`, in the order of `_id`s; none at the end. It also tells the
/// last `_id`.
pub(super) async fn page(
    database: &MongoDatabase,
    collection: &str,
    after: Option<Bson>,
    limit: i64,
) -> Result<(Vec<RawDocumentBuf>, Option<Bson>)> {
    // A comparison meets values of its own type only, so the index is walked from a bound.
    let mut options = FindOptions::builder()
        .sort(doc! {"_id": 1})
        .hint(mongodb::options::Hint::Keys(doc! {"_id": 1}))
        .limit(limit)
        .build();
    if let Some(after) = &after {
        options.min = Some(doc! {"_id": after.clone()});
        // The bound itself comes again.
        options.limit = Some(limit.saturating_add(1));
    }
    let mut found = Rows::find(database, None, OPERATION, collection, doc! {}, options).await?;
    let (mut documents, mut bytes, mut last) = (Vec::new(), 0, None);
    while let Some(document) = found.next(OPERATION).await? {
        let id = document
            .get("_id")
            .ok()
            .flatten()
            .and_then(|id| Bson::try_from(id).ok());
        if id.is_some() && id == after {
            continue;
        }
        bytes += document.as_bytes().len();
        last = id;
        documents.push(document);
        if bytes > PAGE_BYTES {
            break;
        }
    }
    Ok((documents, last))
}

fn id(row: &Row) -> Result<Bson> {
    match row.first() {
        Some(Value::Text(text)) => id_of(&String::from_utf8_lossy(text)),
        _ => Ok(Bson::Null),
    }
}

#[async_trait]
impl TableContents for MongoCapture {
    async fn rows(&self, table: &Table, after: Option<&Row>, limit: usize) -> Result<Vec<Row>> {
        let after = after.map(id).transpose()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
        let (documents, _) = page(self.database(), &table.name.table, after, limit).await?;
        let columns = Columns::of(table);
        documents.iter().map(|one| columns.row(one)).collect()
    }

    async fn rows_at(&self, table: &Table, keys: &[Row]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let columns = Columns::of(table);
        for keys in keys.chunks(1_000) {
            let ids = keys.iter().map(id).collect::<Result<Vec<_>>>()?;
            let filter: Document = doc! {"_id": {"$in": ids}};
            let options = FindOptions::default();
            let name = &table.name.table;
            let mut found =
                Rows::find(self.database(), None, OPERATION, name, filter, options).await?;
            while let Some(document) = found.next(OPERATION).await? {
                rows.push(columns.row(&document)?);
            }
        }
        Ok(rows)
    }

    fn all(&self, table: Arc<Table>) -> BoxStream<'static, Result<Vec<Row>>> {
        let database = self.database().clone();
        stream::try_unfold(
            (database, table, None, false),
            |(database, table, after, over)| async move {
                if over {
                    return Ok(None);
                }
                let name = &table.name.table;
                let (documents, last) = page(&database, name, after, DOCUMENTS).await?;
                let columns = Columns::of(&table);
                let rows = documents.iter().map(|one| columns.row(one));
                let rows = rows.collect::<Result<Vec<Row>>>()?;
                let over = last.is_none();
                Ok(Some((rows, (database, table, last, over))))
            },
        )
        .boxed()
    }
}
