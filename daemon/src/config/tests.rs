//! What a configuration may hold, and how what it may not is refused.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(
        text,
        Path::new("/etc/ledger/config.yaml"),
        &Problems::default(),
    )
}

#[test]
fn every_key_is_read() {
    let text = r#"
listen: "0.0.0.0:1"
http_listen: ":2"
log_file: "/x.log"
api_key: hunter2
allowed_stores: [orders, users]
start_timeout: "1m30s"
drain_timeout: 3s
tls: {cert: a, key: b, ca: c}
http_tls: {cert: d, key: e}
db:
  type: postgres
  postgres: {dsn: "host=h user=u password=hunter2 dbname=d"}
limits: {message_bytes: 5, entries_per_call: 6, concurrent_streams: 7, header_bytes: 8, request_timeout: 9s}
hooks:
  - {name: audit, store: orders, stream: "", url: "https://h/x", secret: "hunter2", max_retries: 5, interval: "5s", ca: "", insecure_skip_verify: true}
bridges:
  - {name: b, store: orders, to: "clickhouse://u:hunter2@h:8123/db", skip: [set_tags, trim], on_failure: park}
  - {name: c, collections: "events,!odd", documents: columns, from: "mongodb://u:hunter2@h/d", to: "clickhouse://h:8123/db"}
"#;
    let config = parse(text).unwrap();
    assert_eq!(config.listen, "0.0.0.0:1");
    assert_eq!(config.http_listen.as_deref(), Some(":2"));
    assert_eq!(config.start_timeout(), Duration::from_secs(90));
    assert_eq!(config.allowed_stores.len(), 2);
    assert_eq!(config.db.kind(), "postgres");
    assert_eq!(config.limits.message_bytes, Some(5));
    assert_eq!(config.limits.request_timeout, Some(Duration::from_secs(9)));
    assert!(config.hooks[0].insecure_skip_verify);
    assert_eq!(config.bridges[0].skip.len(), 2);
    assert_eq!(config.hooks[0].schedule().waits().len(), 4);
    assert_eq!(config.warnings().len(), 1);
    let shown = format!("{config:?} {}", show(&config));
    assert!(!shown.contains("hunter2"), "{shown}");
    // What is shown is read again.
    let again = parse(&show(&config)).unwrap();
    assert_eq!(show(&again), show(&config));
}

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "# nothing\n\n", "listen:\n", "listen: null\ndb: {}\n"] {
        let config = parse(text).unwrap();
        assert_eq!(config.listen, LISTEN, "{text:?}");
        assert_eq!(config.db.kind(), "sqlite");
    }
    assert!(show(&parse("").unwrap()).contains("/etc/ledger/ledger.db"));
}

#[test]
fn a_refusal_names_key_and_line() {
    for (text, words) in [
        ("listen: x", &["line 1", "listen", "host:port"][..]),
        ("\nlisten: \"localhost:99999\"", &["line 2", "listen"]),
        ("listem: x", &["line 1", "listem", "not a known key"]),
        ("db:\n  sqlite:\n    pth: x", &["line 3", "db.sqlite.pth"]),
        ("db: {type: oracle}", &["db.type", "sqlite, postgres"]),
        (
            "db:\n  type: postgres",
            &["line 2", "db.postgres.dsn", "must be given"],
        ),
        (
            "db:\n  type: clickhouse\n  clickhouse:\n    dsn: tcp://h:9000/d",
            &["line 4", "db.clickhouse.dsn", "clickhouse://", "8123"],
        ),
        (
            "db: {type: clickhouse, clickhouse: {dsn: 'clickhouse://h:9000/d'}}",
            &["db.clickhouse.dsn", "HTTP"],
        ),
        ("start_timeout: 5", &["line 1", "start_timeout", "250ms"]),
        ("start_timeout: 0s", &["start_timeout"]),
        ("start_timeout: -5s", &["start_timeout"]),
        ("tls:\n  cert: a", &["line 2", "tls.key", "tls.cert"]),
        ("tls:\n  key: a", &["line 2", "tls.cert", "tls.key"]),
        ("http_tls: {cert: a}", &["http_tls.key"]),
        ("http_tls: {ca: a}", &["http_tls.cert"]),
        (
            "allowed_stores: [ok, '9']",
            &["allowed_stores[1]", "must match"],
        ),
        ("allowed_stores: ok", &["allowed_stores", "list"]),
        ("hooks: [{name: a}]", &["hooks[0].store", "hooks[0].url"]),
        (
            "hooks: [{name: a, store: o, url: 'ftp://h'}]",
            &["hooks[0].url", "http"],
        ),
        (
            "hooks: [{name: a, store: o, url: 'http://h', max_retries: x}]",
            &["hooks[0].max_retries"],
        ),
        (
            "hooks: [{name: a, store: o, url: 'http://h', insecure_skip_verify: x}]",
            &["insecure_skip_verify", "true or false"],
        ),
        (
            "bridges: [{name: a, store: o}]",
            &["bridges[0].to", "must be given"],
        ),
        (
            "bridges:\n- {name: a, store: o, to: 'sqlite:x'}\n- {name: a, store: o, to: 'sqlite:y'}",
            &["line 3", "bridges[1].name", "another bridge"],
        ),
        (
            "bridges: [{name: a, store: o, to: 'mysql://u:hunter2@h/d'}]",
            &["bridges[0].to", "mysql"],
        ),
        (
            "bridges: [{name: a, store: o, to: 'sqlite:x', on_failure: cry}]",
            &["bridges[0].on_failure", "stop, park, skip"],
        ),
        (
            "bridges: [{name: a, store: o, to: 'sqlite:x', skip: [append]}]",
            &["bridges[0].skip[0]"],
        ),
        (
            "api_key: '${LEDGER_TEST_UNSET}'",
            &["line 1", "api_key", "LEDGER_TEST_UNSET", "not set"],
        ),
        (
            "listen: a:1\nlisten: a:2",
            &["line 2", "listen", "twice", "line 1"],
        ),
        ("listen: [", &["line"]),
        ("- a", &["line 1"]),
        (
            "limits: {entries_per_call: 0}",
            &["limits.entries_per_call", "above 0"],
        ),
        ("listen: {a: b}", &["listen", "one value"]),
        ("db: x", &["db", "pairs"]),
    ] {
        refuses(text, words);
    }
}

#[test]
fn the_form_of_documents_is_for_collections() {
    for (text, words) in [
        (
            "bridges: [{name: a, collections: o, from: 'mongodb://h/d', to: 'sqlite:x', documents: rows}]",
            &["bridges[0].documents", "must be doc or columns", "rows"][..],
        ),
        (
            "bridges: [{name: a, tables: o, from: 'postgres://h/d', to: 'sqlite:x', documents: doc}]",
            &["bridges[0].documents", "beside collections"],
        ),
        (
            "bridges: [{name: a, collections: o, from: 'postgres://h/d', to: 'sqlite:x', documents: doc}]",
            &["bridges[0].documents", "mongodb://", "postgres://"],
        ),
        (
            "bridges: [{name: a, store: o, to: 'sqlite:x', documents: doc}]",
            &["bridges[0].documents", "tables"],
        ),
        (
            "bridges: [{name: a, collections: o, from: 'mongodb://h/d', to: 'sqlite:x', documents: columns, copy: false}]",
            &["bridges[0].copy", "documents is columns"],
        ),
    ] {
        refuses(text, words);
    }
}

fn refuses(text: &str, words: &[&str]) {
    let said = parse(text).err().unwrap_or_default();
    for word in words {
        assert!(
            said.contains(word),
            "{text:?}: {word:?} is not part of {said:?}"
        );
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn backends_that_keep_hooks_and_those_that_do_not() {
    for (db, seconds, keeps) in [
        (
            "type: clickhouse\n  clickhouse: {dsn: 'clickhouse://u:hunter2@h:8123/d'}",
            20,
            false,
        ),
        (
            "type: mongodb\n  mongodb: {uri: 'mongodb://u:hunter2@h/d'}",
            15,
            true,
        ),
    ] {
        let text = format!("db:\n  {db}");
        let config = parse(&text).unwrap();
        config.check_for_daemon().unwrap();
        assert_eq!(config.start_timeout(), Duration::from_secs(seconds));
        let hooks = "\nhooks:\n  - {name: a, store: orders, url: 'https://h/'}";
        let config = parse(&format!("{text}{hooks}")).unwrap();
        let checked = config.check_for_daemon();
        assert_eq!(checked.is_ok(), keeps, "{db}");
        if let Err(error) = checked {
            let error = format!("{error:#}");
            assert!(
                error.contains("hooks:") && error.contains("bridge"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn addresses() {
    for good in [
        "localhost:1",
        ":50051",
        "[::1]:80",
        "10.0.0.1:0",
        "a-b.c:65535",
    ] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "localhost",
        "localhost:",
        "a:b",
        "a:65536",
        "::1:80",
        "[x]:1",
        "a b:1",
        "http://a:1",
        "a:+1",
    ] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
}
