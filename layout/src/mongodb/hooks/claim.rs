//! How a hook is taken, what it resumes from, and what an operator asked of it.

use bytes::Bytes;
use ledger_core::hook::{Asked, Claim, Plan, Settled, Waiting};
use ledger_core::{
    Cursor, EntryId, Error, ErrorKind, PipelineId, Result, SourceId, StoreName, StreamKey,
    Timestamp,
};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::super::database::MongoDatabase;
use super::super::error::failed;
use super::super::rows::{integer, optional_binary, optional_text, text, uint};
use super::super::transaction::Tx;
use super::collections::{HOOKS, ITEMS, OF_A_HOOK, PLANS, SETTLED, STREAMS};
use super::statements::{bytes, cursor, delete, ensure, find};

const OPERATION: &str = "claim hook";

pub(super) async fn claim(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    store: &StoreName,
    source: &SourceId,
) -> Result<Claim> {
    ensure(tx, OPERATION, hook).await?;
    let filter = doc! {"_id": hook.as_str()};
    let higher = vec![doc! {"$set": {"fence": {"$add": ["$fence", 1_i64]}}}];
    let taken = tx.change(OPERATION, HOOKS, filter.clone(), higher).await?;
    let taken = taken.ok_or_else(|| {
        let what = format!("{hook} was removed meanwhile");
        Error::new(ErrorKind::Unavailable, OPERATION, what)
    })?;
    let bound = optional_text(&taken, "store")?;
    if let Some(bound) = bound.filter(|bound| *bound != store.as_str()) {
        let what =
            format!("{hook} followed store {bound} until now, and is configured for {store}");
        return Err(Error::new(ErrorKind::Conflict, OPERATION, what));
    }
    if let Some(known) = optional_text(&taken, "source")? {
        let known: SourceId = known.parse()?;
        if !known.continues(source) {
            let what = format!("{hook} followed {known} until now, and store {store} is {source}");
            return Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what));
        }
    }
    let bind = doc! {"$set": {"store": store.as_str(), "source": source.to_string()}};
    let statement = doc! {"q": filter, "u": bind};
    tx.update(OPERATION, HOOKS, vec![statement]).await?;
    Ok(Claim {
        fence: uint(&taken, "fence")?,
        cursor: optional_text(&taken, "cursor")?
            .map(str::parse::<Cursor>)
            .transpose()?,
        waiting: waiting(tx, hook).await?,
        plans: plans(tx, hook).await?,
        settled: settled(tx, hook).await?,
    })
}

async fn waiting(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<Vec<Waiting>> {
    let found = all(tx, STREAMS, hook).await?;
    let decode = |document: &RawDocumentBuf| {
        Ok(Waiting {
            stream: StreamKey(uint(document, "stream")?),
            name: text(document, "name")?.to_owned(),
            through: cursor(document, "through")?,
            attempts: u32::try_from(uint(document, "attempts")?).unwrap_or(u32::MAX),
            next_at: Timestamp::from_micros(integer(document, "next_at")?),
            parked: uint(document, "parked")? > 0,
            error: text(document, "error")?.to_owned(),
        })
    };
    found.iter().map(decode).collect()
}

async fn plans(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<Vec<Plan>> {
    let found = all(tx, PLANS, hook).await?;
    let decode = |document: &RawDocumentBuf| {
        Ok(Plan {
            stream: StreamKey(uint(document, "stream")?),
            first: EntryId(uint(document, "first")?),
            last: EntryId(uint(document, "last")?),
            through: cursor(document, "through")?,
            begin: cursor(document, "first_at")?,
        })
    };
    found.iter().map(decode).collect()
}

async fn settled(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<Vec<Settled>> {
    let found = all(tx, SETTLED, hook).await?;
    let decode = |document: &RawDocumentBuf| {
        Ok(Settled {
            stream: StreamKey(uint(document, "stream")?),
            id: EntryId(uint(document, "id")?),
            through: cursor(document, "through")?,
        })
    };
    found.iter().map(decode).collect()
}

/// Everything of a hook in a collection.
async fn all(tx: &mut Tx<'_>, collection: &str, hook: &PipelineId) -> Result<Vec<RawDocumentBuf>> {
    let (database, filter) = (tx.database().clone(), of(hook));
    let options = FindOptions::default();
    find(
        &database,
        tx.session(),
        OPERATION,
        collection,
        filter,
        options,
    )
    .await
}

fn of(hook: &PipelineId) -> Document {
    doc! {"hook": hook.as_str()}
}

pub(super) async fn asked(database: &MongoDatabase, hook: &PipelineId) -> Result<Asked> {
    database.check_open()?;
    let found = database
        .collection(HOOKS)
        .find_one(doc! {"_id": hook.as_str()})
        .await
        .map_err(|error| failed("read what was asked of a hook", "", error))?;
    let Some(found) = found else {
        return Ok(Asked::default());
    };
    Ok(Asked {
        disabled: optional_text(&found, "disabled")?.map(str::to_owned),
        secrets: optional_binary(&found, "secrets")?.map(Bytes::copy_from_slice),
    })
}

pub(super) async fn ask(tx: &mut Tx<'_>, hook: &PipelineId, asked: &Asked) -> Result<()> {
    let mut set = Document::new();
    let mut unset = Document::new();
    match &asked.disabled {
        Some(disabled) => set.insert("disabled", disabled),
        None => unset.insert("disabled", ""),
    };
    match &asked.secrets {
        Some(secrets) => set.insert("secrets", bytes(secrets)),
        None => unset.insert("secrets", ""),
    };
    let statement = doc! {
        "q": {"_id": hook.as_str()},
        "u": {"$set": set, "$unset": unset, "$setOnInsert": {"fence": 0_i64}},
        "upsert": true,
    };
    let operation = "ask of a hook";
    tx.update(operation, HOOKS, vec![statement]).await.map(drop)
}

pub(super) async fn remove(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<bool> {
    const OPERATION: &str = "remove hook";
    let mut removed = delete(tx, OPERATION, HOOKS, vec![doc! {"_id": hook.as_str()}]).await?;
    for collection in OF_A_HOOK {
        removed += delete(tx, OPERATION, collection, vec![of(hook)]).await?;
    }
    Ok(removed > 0)
}

pub(super) async fn reset(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<()> {
    const OPERATION: &str = "reset hook";
    let statement = doc! {
        "q": {"_id": hook.as_str()},
        "u": {
            "$unset": {"cursor": "", "source": "", "store": ""},
            "$inc": {"fence": 1_i64},
        },
    };
    tx.update(OPERATION, HOOKS, vec![statement]).await?;
    for collection in [STREAMS, ITEMS, PLANS, SETTLED] {
        delete(tx, OPERATION, collection, vec![of(hook)]).await?;
    }
    Ok(())
}
