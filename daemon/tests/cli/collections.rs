//! Collections of MongoDB from the command line.

use std::process::Stdio;

use ledger_harness::shared::{mongodb_url, postgres_url};
use mongodb::bson::{Document, doc};

use crate::program::{Databases, SECRET, done, program, ran, refused};

#[tokio::test]
async fn the_form_of_documents_is_said_where_it_means_something() {
    let databases = Databases::new().await;
    let to = databases.url("copy.db");
    let bridge = |verb: &str, from: &str, what: [&str; 2], form: &str| {
        let mut command = program(&["bridge", verb, what[0], what[1], "--documents", form]);
        command.args(["--from", from, "--to", &to]);
        command
    };
    let mongodb = format!("mongodb://u:{SECRET}@127.0.0.1:1/db");
    for verb in ["run", "verify"] {
        let mut odd = bridge(verb, &mongodb, ["--collections", "t"], "rows");
        let line = ran(&mut odd).err;
        for word in ["--documents", "must be doc or columns", "rows"] {
            assert!(line.contains(word), "{word} is not part of {line}");
        }
        let postgres = postgres_url();
        let line = refused(&mut bridge(verb, &postgres, ["--tables", "t"], "columns"));
        for word in ["--documents", "mongodb://", "postgres://"] {
            assert!(line.contains(word), "{word} is not part of {line}");
        }
        let own = databases.url("source.db");
        let line = ran(&mut bridge(verb, &own, ["--store", "orders"], "doc")).err;
        assert!(line.contains("--tables"), "{line}");
    }
    let mut partly = bridge("run", &mongodb, ["--collections", "t"], "columns");
    let line = refused(partly.arg("--no-copy"));
    assert!(line.contains("documents: columns"), "{line}");
    assert!(!databases.path("copy.db").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_become_columns_and_are_verified() {
    let databases = Databases::new().await;
    let (server, _) = mongodb_url()
        .rsplit_once('/')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let name = format!("cli{}", uuid::Uuid::new_v4().simple());
    let (from, to) = (
        format!("{server}/{name}?directConnection=true"),
        databases.url("copy.db"),
    );
    let client = mongodb::Client::with_uri_str(&from).await.unwrap();
    let people = client.database(&name).collection::<Document>("people");
    let person = doc! {"_id": 1, "name": {"first": "Ada", "last": "Lovelace"}, "born": 1815};
    people
        .insert_many([person, doc! {"_id": 2, "born": "long ago"}])
        .await
        .unwrap();
    let bridge = |verb: &str| {
        let mut command = program(&["bridge", verb, "--collections", "people", "--from", &from]);
        command.args(["--to", &to, "--documents", "columns", "-o", "table"]);
        command
    };
    done(bridge("run").arg("--once"));
    let path = databases.path("copy.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut copy = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let rows: Vec<(String, Option<String>, String)> =
        sqlx::query_as("SELECT _id, \"name.last\", born FROM people ORDER BY _id")
            .fetch_all(&mut copy)
            .await
            .unwrap();
    let row = |id: &str, last: Option<&str>, born: &str| {
        (id.to_owned(), last.map(str::to_owned), born.to_owned())
    };
    assert_eq!(
        rows,
        [
            row("1", Some("Lovelace"), "1815"),
            row("2", None, "long ago")
        ]
    );
    // Reading the log's head is in the log as well, so the bridge has to run.
    let mut running = bridge("run")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let equal = done(&mut bridge("verify")).out;
    assert!(equal.starts_with("equal: 2 rows in 1 tables"), "{equal}");
    sqlx::query("UPDATE people SET born = '1816' WHERE _id = '1'")
        .execute(&mut copy)
        .await
        .unwrap();
    sqlx::Connection::close(copy).await.unwrap();
    let different = ran(&mut bridge("verify"));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(different.code, Some(1), "{different:#?}");
    let line = "public.people (_id=1): different in born";
    assert!(different.out.contains(line), "{different:#?}");
    client.database(&name).drop().await.unwrap();
}
