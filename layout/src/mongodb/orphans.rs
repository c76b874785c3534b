//! Transactions whose process is gone.
//!
//! A server does not end a transaction with the connection that it came by: one whose process was
//! killed keeps what it has written locked for a minute (`transactionLifetimeLimitSeconds`). Where
//! something is in the way for long, the user's own idle transactions are looked at, and those that
//! came by a connection that is closed are aborted. That is safe also for one that still lives: it is
//! told that it was aborted, as after an election.
//!
//! Source: MongoDB's manual, `$currentOp` ("idleSessions") and `killSessions`. Both need no privilege
//! for what is the user's own. Behind `mongos` the connections are those of `mongos`, and nothing is
//! found; there the minute is waited for.

use std::collections::HashSet;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error as Mongo;
use mongodb::options::{DatabaseOptions, ReadConcern};

use super::database::MongoDatabase;

/// Aborts them, and tells how many there were.
pub(super) async fn abort(database: &MongoDatabase) -> Result<usize, Mongo> {
    // What runs now is known to this member only: no other read concern is taken.
    let options = DatabaseOptions::builder().read_concern(ReadConcern::local());
    let admin = database
        .client()
        .database_with_options("admin", options.build());
    let everything = doc! {"$currentOp": {
        "allUsers": false, "idleSessions": true, "idleConnections": true,
    }};
    let some = doc! {"$project": {
        "desc": 1, "active": 1, "connectionId": 1, "lsid": 1, "transaction.timeInactiveMicros": 1,
    }};
    let told = admin.aggregate([everything, some]).await?;
    let told: Vec<Document> = told.try_collect().await?;
    let orphans = orphans(&told);
    if !orphans.is_empty() {
        let ended = orphans.len();
        admin.run_command(doc! {"killSessions": orphans}).await?;
        return Ok(ended);
    }
    Ok(0)
}

/// The sessions that hold a transaction, and whose connection is not among those that are there.
fn orphans(told: &[Document]) -> Vec<Document> {
    let holds = |operation: &&Document| operation.contains_key("transaction");
    let is_idle = |operation: &&Document| {
        operation
            .get_str("desc")
            .is_ok_and(|desc| desc == "inactive transaction")
            && operation.get_bool("active").is_ok_and(|active| !active)
    };
    let connections: HashSet<i64> = told
        .iter()
        .filter(|operation| !is_idle(operation))
        .filter_map(connection)
        .collect();
    let idle = told.iter().filter(is_idle).filter(holds);
    let gone = idle.filter(|operation| {
        connection(operation).is_some_and(|number| !connections.contains(&number))
    });
    let ids = gone.filter_map(|operation| operation.get_document("lsid").ok()?.get("id").cloned());
    ids.map(|id| doc! {"id": id}).collect()
}

fn connection(operation: &Document) -> Option<i64> {
    match operation.get("connectionId")? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(connection: impl Into<Bson>, id: i32) -> Document {
        doc! {"desc": "inactive transaction", "active": false, "connectionId": connection.into(),
        "lsid": {"id": id, "uid": 0}, "transaction": {}}
    }

    #[test]
    fn only_idle_transactions_without_a_connection_are_orphans() {
        let told = [
            doc! {"desc": "conn7", "active": false, "connectionId": 7_i64},
            doc! {"desc": "conn8", "active": true, "connectionId": 8, "transaction": {},
            "lsid": {"id": 8}},
            idle(7, 1),
            idle(8_i64, 2),
            idle(9, 3),
            idle(10_i64, 4),
            doc! {"desc": "inactive transaction", "active": false, "lsid": {"id": 5},
            "transaction": {}},
        ];
        assert_eq!(orphans(&told), [doc! {"id": 3}, doc! {"id": 4}]);
    }
}
