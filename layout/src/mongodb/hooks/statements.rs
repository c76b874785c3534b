//! What the calls have in common: queries within a transaction and without, and several statements at
//! once.

use futures::StreamExt as _;
use ledger_core::{Cursor, Error, ErrorKind, PipelineId, Result};
use mongodb::ClientSession;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::super::contents::Rows;
use super::super::database::MongoDatabase;
use super::super::error::failed;
use super::super::rows::text;
use super::super::transaction::{Tx, count};
use super::collections::HOOKS;
use crate::hook_bounds::ROWS;

/// A limit on its way into a query; none where nothing is asked for, which MongoDB takes for everything.
pub(super) fn limit(most: usize) -> Option<i64> {
    (most > 0).then(|| i64::try_from(most).unwrap_or(i64::MAX))
}

/// Bytes on their way into a document.
pub(super) fn bytes(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

/// A position, from a document.
pub(super) fn cursor(document: &RawDocument, name: &str) -> Result<Cursor> {
    text(document, name)?.parse()
}

/// The documents that a query finds.
pub(super) async fn find(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    operation: &'static str,
    collection: &str,
    filter: Document,
    options: FindOptions,
) -> Result<Vec<RawDocumentBuf>> {
    let mut rows = Rows::find(database, session, operation, collection, filter, options).await?;
    let mut found = Vec::new();
    while let Some(document) = rows.next(operation).await? {
        found.push(document);
    }
    Ok(found)
}

/// The documents that the stages of an aggregation give.
pub(super) async fn aggregate(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    operation: &'static str,
    collection: &str,
    stages: Vec<Document>,
) -> Result<Vec<RawDocumentBuf>> {
    database.check_open()?;
    let fail = |error| failed(operation, "", error);
    let mut found = Vec::new();
    if let Some(session) = session {
        let collection = database.snapshot_of(collection);
        let rows = collection
            .aggregate(stages)
            .with_type::<RawDocumentBuf>()
            .session(&mut *session);
        let mut rows = rows.await.map_err(fail)?;
        while let Some(document) = rows.next(session).await {
            found.push(document.map_err(fail)?);
        }
    } else {
        let collection = database.collection(collection);
        let rows = collection.aggregate(stages).with_type::<RawDocumentBuf>();
        let mut rows = rows.await.map_err(fail)?;
        while let Some(document) = rows.next().await {
            found.push(document.map_err(fail)?);
        }
    }
    Ok(found)
}

/// How many documents of a collection match.
pub(super) async fn counted(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    operation: &'static str,
    collection: &str,
    filter: Document,
) -> Result<u64> {
    database.check_open()?;
    let counted = if let Some(session) = session {
        let collection = database.snapshot_of(collection);
        collection.count_documents(filter).session(session).await
    } else {
        let collection = database.collection(collection);
        collection.count_documents(filter).await
    };
    counted.map_err(|error| failed(operation, "", error))
}

/// Inserts documents, in order.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    operation: &'static str,
    collection: &str,
    documents: &[Document],
) -> Result<()> {
    let encode = |document| {
        RawDocumentBuf::try_from(document).map_err(|error| {
            Error::new(ErrorKind::Internal, operation, "encode").with_source(error)
        })
    };
    let documents = documents.iter().map(encode).collect::<Result<Vec<_>>>()?;
    tx.insert(operation, collection, &documents).await
}

/// Runs statements `{q, u, ...}` of an `update` command, in order, so many at a time that a command stays
/// small.
pub(super) async fn update(
    tx: &mut Tx<'_>,
    operation: &'static str,
    collection: &str,
    statements: Vec<Document>,
) -> Result<()> {
    for some in statements.chunks(ROWS) {
        tx.update(operation, collection, some.to_vec()).await?;
    }
    Ok(())
}

/// Removes what matches any of these filters, and tells how many there were.
pub(super) async fn delete(
    tx: &mut Tx<'_>,
    operation: &'static str,
    collection: &str,
    filters: Vec<Document>,
) -> Result<u64> {
    let mut deleted = 0;
    for some in filters.chunks(ROWS) {
        let deletes: Vec<Document> = some
            .iter()
            .map(|filter| doc! {"q": filter.clone(), "limit": 0})
            .collect();
        let command = doc! {"delete": collection, "deletes": deletes};
        deleted += count(&tx.run(operation, command).await?, "n");
    }
    Ok(deleted)
}

/// Writes the hook's document, where there is one, so that no other transaction that writes of the hook
/// is committed beside this one.
pub(super) async fn turn(
    tx: &mut Tx<'_>,
    operation: &'static str,
    hook: &PipelineId,
) -> Result<()> {
    let statement = doc! {"q": {"_id": hook.as_str()}, "u": {"$inc": {"writes": 1_i64}}};
    tx.update(operation, HOOKS, vec![statement]).await.map(drop)
}

/// Makes the hook's document where there is none; nobody has claimed it then.
pub(super) async fn ensure(
    tx: &mut Tx<'_>,
    operation: &'static str,
    hook: &PipelineId,
) -> Result<()> {
    let statement = doc! {
        "q": {"_id": hook.as_str()},
        "u": {"$setOnInsert": {"fence": 0_i64}},
        "upsert": true,
    };
    tx.update(operation, HOOKS, vec![statement]).await.map(drop)
}
