//! Tags and annotations.

use async_trait::async_trait;
use ledger_core::{
    EntryId, Error, ErrorKind, Labels, Pairs, Result, StreamName, check_text, checked_tags,
};
use ledger_layout::log;
use ledger_layout::postgres::{begin, json_object};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Row as _};

use super::{PostgresStore, PostgresTransaction};

/// An entry whose row is locked.
struct Locked {
    stream_key: i64,
    name_version: i64,
    label_version: i64,
    annotations: Pairs,
}

impl PostgresTransaction<'_> {
    /// As [`Labels::set_tags`].
    pub async fn set_tags(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        tags: Vec<String>,
    ) -> Result<()> {
        const OPERATION: &str = "set tags";
        let tags = checked_tags("tags", tags)?;
        let body = log::encode_tags(&tags)?;
        let locked = self.lock_entry(OPERATION, stream, id).await?;
        self.write_label(
            OPERATION,
            stream,
            id,
            &locked,
            log::SET_TAGS,
            &tags,
            "{}",
            &body,
        )
        .await
    }

    /// As [`Labels::set_annotations`].
    pub async fn set_annotations(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        const OPERATION: &str = "set annotations";
        for (key, value) in &set {
            check_text("set", key)?;
            check_text("set", value)?;
        }
        let mut locked = self.lock_entry(OPERATION, stream, id).await?;
        let mut annotations = std::mem::take(&mut locked.annotations);
        annotations.extend(set);
        for key in &delete {
            annotations.remove(key);
        }
        let body = log::encode_annotations(&annotations)?;
        let json = json_object(&annotations)?;
        self.write_label(
            OPERATION,
            stream,
            id,
            &locked,
            log::SET_ANNOTATIONS,
            &[],
            &json,
            &body,
        )
        .await
    }

    /// Locks the stream's name, then the entry's row, each in a statement of its own. The name's
    /// lock lets appends and trims pass and makes a rename wait, so the name that is logged is the
    /// one the stream has at that point of the log.
    async fn lock_entry(
        &mut self,
        operation: &'static str,
        stream: &StreamName,
        id: EntryId,
    ) -> Result<Locked> {
        self.inner.check_writable(operation)?;
        if self.inner.options.append_only {
            return Err(Error::new(
                ErrorKind::Unsupported,
                operation,
                format!("store {} is append-only", self.inner.tables.store()),
            ));
        }
        let missing = |what: String| Error::new(ErrorKind::NotFound, operation, what);
        let sql = self
            .inner
            .tables
            .sql("SELECT key, name_version FROM {streams} WHERE name = $1 FOR KEY SHARE");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(stream.as_str())
            .fetch_optional(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed(operation, error))?
            .ok_or_else(|| missing(format!("there is no stream {stream:?}")))?;
        let stream_key: i64 = row.get(0);
        let name_version: i64 = row.get(1);
        let sql = self.inner.tables.sql(
            "SELECT greatest(tags_version, annotations_version), annotations FROM {entries} \
             WHERE id = $1 AND stream_key = $2 FOR NO KEY UPDATE",
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(i64::try_from(id.0).unwrap_or(i64::MAX))
            .bind(stream_key)
            .fetch_optional(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed(operation, error))?
            .ok_or_else(|| missing(format!("stream {stream:?} has no entry {id}")))?;
        let annotations: Json<Pairs> = row
            .try_get(1)
            .map_err(|error| self.inner.failed(operation, error))?;
        Ok(Locked {
            stream_key,
            name_version,
            label_version: row.get(0),
            annotations: annotations.0,
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the columns of one row")]
    async fn write_label(
        &mut self,
        operation: &'static str,
        stream: &StreamName,
        id: EntryId,
        locked: &Locked,
        kind: i16,
        tags: &[String],
        annotations: &str,
        body: &[u8],
    ) -> Result<()> {
        let sql = self
            .inner
            .tables
            .sql("SELECT {label}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)");
        sqlx::query(AssertSqlSafe(sql))
            .bind(locked.stream_key)
            .bind(stream.as_str())
            .bind(locked.name_version)
            .bind(i64::try_from(id.0).unwrap_or(i64::MAX))
            .bind(kind)
            .bind(locked.label_version + 1)
            .bind(tags)
            .bind(annotations)
            .bind(self.inner.row.log)
            .bind(body)
            .execute(&mut *self.conn)
            .await
            .map(drop)
            .map_err(|error| self.inner.failed(operation, error))
    }
}

#[async_trait]
impl Labels for PostgresStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        const OPERATION: &str = "set tags";
        let conn = self.inner.connection(OPERATION).await?;
        let failed = |error| self.inner.failed(OPERATION, error);
        let mut tx = begin(conn).await.map_err(failed)?;
        self.within(&mut tx).set_tags(stream, id, tags).await?;
        tx.commit().await.map_err(failed)?;
        self.inner.committed();
        Ok(())
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        const OPERATION: &str = "set annotations";
        let conn = self.inner.connection(OPERATION).await?;
        let failed = |error| self.inner.failed(OPERATION, error);
        let mut tx = begin(conn).await.map_err(failed)?;
        self.within(&mut tx)
            .set_annotations(stream, id, set, delete)
            .await?;
        tx.commit().await.map_err(failed)?;
        self.inner.committed();
        Ok(())
    }
}
