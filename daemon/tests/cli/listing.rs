//! Which stores a daemon tells of, and what asking for stores costs.

use ledger_harness::shared::postgres_url;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::daemon::Home;

/// The names of the stores that the daemon lists, without the one it always expects.
fn listed(home: &Home) -> Vec<String> {
    let (code, body) = home.http("/v1/stores");
    assert_eq!(code, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let stores = body["stores"].as_array().unwrap();
    let names = stores.iter().map(|store| store["name"].as_str().unwrap());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.retain(|name| name != "ledger_entries");
    names.sort();
    names
}

#[test]
fn the_stores_that_are_there_are_listed_before_anybody_asks_for_them() {
    let home = Home::started("");
    for store in ["orders", "users"] {
        home.out(&["stream", "append", "x", "-s", store]);
    }
    home.out(&["stream", "read", "-s", "mistyped"]);
    assert_eq!(listed(&home), ["orders", "users"]);
    home.out(&["stop"]);
    home.out(&["start"]);
    assert_eq!(listed(&home), ["orders", "users"]);
    home.out(&["stop"]);
    home.configure("allowed_stores: [users]");
    home.out(&["start"]);
    assert_eq!(listed(&home), ["users"]);
}

#[test]
fn the_status_tells_the_address_that_the_daemon_was_given() {
    let home = Home::new("");
    let [port] = crate::daemon::free_ports();
    let address = format!("localhost:{port}");
    home.out(&["start", "--addr", &address]);
    let pid = home.pid().unwrap();
    assert_eq!(
        home.out(&["status"]),
        format!("ledger daemon is running (pid {pid}, addr {address})\n")
    );
    home.out(&["stop"]);
    assert!(!home.path(".ledger/ledger.address").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_a_postgres_database_share_its_connections() {
    let database = format!("shared_{}", uuid::Uuid::new_v4().simple());
    let mut server = PgConnection::connect(&postgres_url()).await.unwrap();
    let sql = format!("CREATE DATABASE {database}");
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    sql.execute(&mut server).await.unwrap();
    let (host, _) = postgres_url()
        .rsplit_once('/')
        .map(|(a, b)| (a.to_owned(), b.len()))
        .unwrap();
    let config = format!("db: {{type: postgres, postgres: {{dsn: \"{host}/{database}\"}}}}");
    let home = Home::started(&config);
    let stores: Vec<_> = (0..12).map(|number| format!("store_{number:02}")).collect();
    for store in &stores {
        home.out(&["stream", "append", "x", "-s", store]);
        home.out(&["stream", "read", "-s", &format!("no_{store}")]);
    }
    assert_eq!(listed(&home), stores);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    let count = sqlx::query_scalar::<_, i64>(sql).bind(&database);
    let connections = count.fetch_one(&mut server).await.unwrap();
    assert!((1..=10).contains(&connections), "{connections}");
    home.out(&["stop"]);
    let sql = format!("DROP DATABASE {database} WITH (FORCE)");
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    sql.execute(&mut server).await.unwrap();
}
