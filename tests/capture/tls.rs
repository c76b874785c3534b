//! Connections that are encrypted, and users that prove who they are.

use ledger::ErrorKind;
use ledger_harness::Postgres;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::ends::{Ends, Engine};

const PASSWORD: &str = "p+w/hunter2";

/// The certificate of an authority, and one that it has given to a server, with its key.
struct Certificates {
    authority: String,
    server: String,
    key: String,
}

fn certificates(name: &str) -> Certificates {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let server = params.signed_by(&key, &issuer).unwrap();
    Certificates {
        authority,
        server: server.pem(),
        key: key.serialize_pem(),
    }
}

/// A server that lets `captor` in with TLS and a password only.
async fn secured(name: &str) -> (Postgres, Certificates) {
    let made = certificates(name);
    let mut server = Postgres::start_with(&["password_encryption = 'scram-sha-256'"]).await;
    server.put("server.crt", &made.server).await;
    server.put("server.key", &made.key).await;
    server
        .put(
            "pg_hba.conf",
            "host all ledger 127.0.0.1/32 trust\nhostssl all captor 127.0.0.1/32 scram-sha-256\n",
        )
        .await;
    server.configure(&["ssl = on"]);
    server.restart().await;
    server
        .psql(&format!(
            "CREATE ROLE captor LOGIN REPLICATION PASSWORD '{PASSWORD}'; \
             GRANT ALL ON DATABASE ledger TO captor; GRANT ALL ON SCHEMA public TO captor; \
             CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO captor; \
             INSERT INTO t SELECT i, 'copied' FROM generate_series(1, 1000) i"
        ))
        .await;
    (server, made)
}

fn url(server: &Postgres, host: &str, password: &str, more: &str) -> String {
    let password = password.replace('+', "%2B").replace('/', "%2F");
    format!(
        "postgres://captor:{password}@{host}:{}/ledger?{more}",
        server.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_carried_over_tls_by_a_user_with_a_password() {
    let (server, made) = secured("localhost").await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &made.authority).unwrap();
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::take(&mut ends.from);
    let verified = format!("sslmode=verify-full&sslrootcert={}", ca.display());
    for (round, more) in ["sslmode=require", verified.as_str()].iter().enumerate() {
        ends.from = url(&server, "localhost", PASSWORD, more);
        ends.once().await.unwrap();
        let running = ends.start().await;
        server
            .psql(&format!(
                "UPDATE t SET v = 'round {round}' WHERE id % 7 = 0"
            ))
            .await;
        let compared = ends.verify(false).await;
        assert!(compared.equal, "{more}: {:#?}", compared.differences);
        // Both kinds of connection, and none without.
        let plain = "SELECT count(*) FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s USING (pid) \
                     WHERE a.usename = 'captor' AND NOT s.ssl";
        assert_eq!(server.psql(plain).await, "0");
        let sender = "SELECT count(*) FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid) \
                      WHERE r.usename = 'captor' AND s.ssl AND s.version LIKE 'TLSv1.%'";
        assert_eq!(server.psql(sender).await, "1");
        running.stopped().await;
    }
    ends.from = own;
    ends.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_trusted_is_told_without_secrets() {
    let (server, made) = secured("localhost").await;
    let folder = tempfile::tempdir().unwrap();
    let pem = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (ca, other) = (
        pem("ca.pem", &made.authority),
        pem("other.pem", &certificates("localhost").authority),
    );
    let full = |ca: &str| format!("sslmode=verify-full&sslrootcert={ca}");
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::take(&mut ends.from);
    let wrong = [
        ("localhost", "not+hunter2", full(&ca), "password"),
        ("localhost", PASSWORD, full(&other), "certificate"),
        // The certificate names another host.
        ("127.0.0.1", PASSWORD, full(&ca), "certificate"),
        (
            "localhost",
            PASSWORD,
            full("/nowhere/ca.pem"),
            "/nowhere/ca.pem",
        ),
        (
            "localhost",
            PASSWORD,
            "sslmode=disable".to_owned(),
            "no encryption",
        ),
    ];
    for (host, password, more, told) in wrong {
        ends.from = url(&server, host, password, &more);
        let error = ends.once().await.unwrap_err();
        let text = error.chain();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.to_lowercase().contains(told), "{more}: {text}");
        assert_ne!(error.kind(), ErrorKind::Internal, "{text}");
    }
    ends.from = own;
    ends.drop_databases().await;
}
