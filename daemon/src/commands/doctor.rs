//! `ledger doctor`

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger::StoreName;
use ledger::connect::DatabaseUrl;
use ledger_server::v1::{HealthRequest, ListBridgesRequest};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

use crate::cli::{DEFAULT_STORE, Global, Output};
use crate::client::{Called as _, Daemon};
use crate::config::{BridgeConfig, Carried, Config, Db};
use crate::exit::Exit;
use crate::printer::Printer;
use crate::serve::pid;
use crate::tables;

/// With less than this free, a database may not be able to write before long.
const LITTLE_SPACE: u64 = 1 << 30;

/// How far two clocks may be apart before times in the log mislead people.
const SKEW: Duration = Duration::from_secs(5);

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Warning,
    Bad,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// What the checks found, in their order.
#[derive(Default)]
struct Findings(Vec<(&'static str, Verdict, String)>);

impl Findings {
    fn good(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push((check, Verdict::Good, text.into()));
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push((check, Verdict::Warning, text.into()));
    }

    fn bad(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push((check, Verdict::Bad, text.into()));
    }
}

/// Checks what a daemon and its clients need; fails where something is bad.
pub(crate) async fn doctor(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    match Config::load(&global.overrides()) {
        Err(error) => findings.bad("config", format!("{error:#}; mend the file")),
        Ok(config) => {
            check_config(&config, &mut findings);
            check_folder(&config.folder, &mut findings);
            check_clock(&mut findings);
            check_daemon(&config, &mut findings).await;
            check_database(&config, &mut findings).await;
            for bridge in &config.bridges {
                let opened = check_bridge(bridge).await;
                let within = format!("{} to {}", bridge.name, bridge.to);
                match opened {
                    Ok(()) => findings.good("bridge", within),
                    Err(error) if error.kind() == ledger::ErrorKind::NotFound => findings.good(
                        "bridge",
                        format!("{within}: reachable; the replica is made by the first run"),
                    ),
                    Err(error) => findings.bad("bridge", format!("{within}: {}", error.chain())),
                }
            }
        }
    }
    let rows: Vec<_> = findings
        .0
        .iter()
        .map(|(check, verdict, text)| {
            let value = json!({ "check": check, "verdict": verdict.as_str(), "text": text });
            (
                [
                    (*check).to_owned(),
                    verdict.as_str().to_owned(),
                    text.clone(),
                ],
                value,
            )
        })
        .collect();
    let form = match global.output {
        None => printer.form(None),
        Some(form) => form,
    };
    printer.rows(form, ["CHECK", "VERDICT", "WHAT"], &rows)?;
    let bad = findings
        .0
        .iter()
        .filter(|(_, verdict, _)| *verdict == Verdict::Bad)
        .count();
    if form == Output::Table && bad > 0 {
        printer.notice(&format!("{bad} to mend"));
    }
    Ok(if bad == 0 { Exit::Done } else { Exit::Failed })
}

fn check_config(config: &Config, findings: &mut Findings) {
    match &config.file {
        None => findings.good("config", "no file; the built-in defaults are used"),
        Some(file) => {
            findings.good("config", format!("{} is well-formed", file.display()));
            let open =
                fs::metadata(file).is_ok_and(|about| about.permissions().mode() & 0o077 != 0);
            if open && config.api_key.is_some() {
                let file = file.display();
                findings.warn(
                    "config",
                    format!("others can read its secrets; chmod 600 {file}"),
                );
            }
        }
    }
    if let Err(error) = config.check_for_daemon() {
        findings.bad("config", format!("{error:#}"));
    }
    for warning in config.warnings() {
        findings.warn("config", warning);
    }
    let local = ["localhost:", "127.0.0.1:", "[::1]:"]
        .iter()
        .any(|host| config.listen.starts_with(host));
    if !local && config.api_key.is_none() && config.tls.ca.is_none() {
        findings.warn(
            "config",
            format!(
                "listen: {} is open to the network without api_key or tls.ca",
                config.listen
            ),
        );
    }
    if !local && config.tls.cert.is_none() {
        findings.warn(
            "config",
            format!("listen: {} is not encrypted; set tls", config.listen),
        );
    }
    for (key, path) in [
        ("tls.cert", &config.tls.cert),
        ("tls.key", &config.tls.key),
        ("tls.ca", &config.tls.ca),
        ("http_tls.cert", &config.http_tls.cert),
        ("http_tls.key", &config.http_tls.key),
        ("http_tls.ca", &config.http_tls.ca),
    ] {
        if let Some(path) = path
            && let Err(error) = fs::File::open(path)
        {
            findings.bad("tls", format!("{key}: {}: {error}", path.display()));
        }
    }
}

fn check_folder(folder: &Path, findings: &mut Findings) {
    let shown = folder.display();
    if !folder.exists() {
        findings.good("folder", format!("{shown} is made by the first start"));
        return;
    }
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) => findings.good("folder", format!("{shown} can be written")),
        Err(error) => findings.bad(
            "folder",
            format!("{shown}: {error}; let this user write there"),
        ),
    }
    check_space(folder, findings);
}

fn check_space(folder: &Path, findings: &mut Findings) {
    match rustix::fs::statvfs(folder) {
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let text = format!("{} MiB free at {}", free >> 20, folder.display());
            if free < LITTLE_SPACE {
                findings.warn("disk", format!("{text}; a full disk refuses appends"));
            } else {
                findings.good("disk", text);
            }
        }
        Err(error) => findings.warn("disk", format!("{}: {error}", folder.display())),
    }
}

fn check_clock(findings: &mut Findings) {
    // 2025-01-01: no build of this program is older.
    const EARLIEST: u64 = 1_735_689_600;
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(now) if now.as_secs() >= EARLIEST => findings.good("clock", "the system's is plausible"),
        _ => findings.bad(
            "clock",
            "the system's is years behind; synchronise it (NTP)",
        ),
    }
}

async fn check_daemon(config: &Config, findings: &mut Findings) {
    match pid::running(&config.folder) {
        Ok(Some(pid)) => findings.good("daemon", format!("runs (pid {pid})")),
        Ok(None) => findings.good(
            "daemon",
            "none runs from this folder; `ledger start` starts one",
        ),
        Err(error) => findings.bad("daemon", format!("{error:#}")),
    }
    let daemon = match Daemon::at(config) {
        Ok(daemon) => daemon,
        Err(error) => return findings.bad("daemon", format!("{error:#}")),
    };
    let asked = async {
        // Any store name will do: Health asks for none.
        let mut client = daemon.store(DEFAULT_STORE)?;
        let health = client.health(HealthRequest {}).await.answer(&daemon)?;
        let request = ListBridgesRequest::default();
        let bridges = daemon
            .admin()?
            .list_bridges(request)
            .await
            .answer(&daemon)?;
        anyhow::Ok((health.status, bridges.bridges))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => findings.bad("daemon", format!("{} does not answer", daemon.address())),
        Ok(Err(error)) => findings.warn("daemon", format!("{error:#}")),
        Ok(Ok((status, bridges))) => {
            let text = format!("{} answers: {status}", daemon.address());
            if status == "ok" {
                findings.good("daemon", text);
            } else {
                findings.warn("daemon", format!("{text}; see `ledger top` and the log"));
            }
            for bridge in bridges.iter().filter(|bridge| !bridge.ready) {
                findings.bad("bridge", format!("{}: {}", bridge.name, bridge.last_error));
            }
        }
    }
}

async fn check_database(config: &Config, findings: &mut Findings) {
    let Db { url, dsn, .. } = &config.db;
    if url.scheme() == "postgres" {
        let checked = check_postgres(dsn.expose(), url, findings);
        if tokio::time::timeout(PATIENCE, checked).await.is_err() {
            findings.bad("database", format!("{url} does not answer"));
        }
        return;
    }
    let target = url.target();
    let path = Path::new(&target);
    if target == ":memory:" {
        return findings.warn(
            "database",
            "in memory: everything is gone when the daemon ends",
        );
    }
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        check_space(folder, findings);
    }
    if !path.exists() {
        return findings.good("database", format!("{target} is made by the first append"));
    }
    // No store has this name unless somebody made it; what matters is whether the file opens.
    let Ok(probe) = StoreName::new(DEFAULT_STORE) else {
        return;
    };
    match url.open_store(&probe).await {
        Ok(store) => {
            store.close().await;
            findings.good("database", format!("{target} opens"));
        }
        Err(error) if error.kind() == ledger::ErrorKind::NotFound => {
            findings.good("database", format!("{target} opens"));
        }
        Err(error) => findings.bad("database", error.chain()),
    }
}

async fn check_postgres(dsn: &str, url: &DatabaseUrl, findings: &mut Findings) {
    const SQL: &str = "SELECT current_setting('server_version_num')::int,
        current_setting('server_version'), pg_is_in_recovery(),
        has_database_privilege(current_database(), 'CONNECT, TEMP')
          AND has_schema_privilege(current_schema(), 'CREATE'),
        extract(epoch FROM clock_timestamp())::float8, current_setting('fsync'),
        current_setting('full_page_writes'), current_setting('max_connections')::int,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')";
    // The parser's own error may quote the URL.
    let Ok(options) = dsn.parse::<PgConnectOptions>() else {
        return findings.bad(
            "database",
            format!("{url}: the DSN has a parameter that is not understood"),
        );
    };
    let asked = async {
        let mut connection = options.disable_statement_logging().connect().await?;
        let row = sqlx::query(SQL).fetch_one(&mut connection).await?;
        let facts = (
            row.try_get::<i32, _>(0)?,
            row.try_get::<String, _>(1)?,
            row.try_get::<bool, _>(2)?,
            row.try_get::<Option<bool>, _>(3)?.unwrap_or(false),
            row.try_get::<f64, _>(4)?,
            row.try_get::<String, _>(5)? == "on" && row.try_get::<String, _>(6)? == "on",
            i64::from(row.try_get::<i32, _>(7)?) - row.try_get::<i64, _>(8)?,
        );
        sqlx::Connection::close(connection).await?;
        Ok::<_, sqlx::Error>(facts)
    };
    let (number, version, standby, may_create, clock, safe, free) = match asked.await {
        Ok(facts) => facts,
        Err(error) => return findings.bad("database", format!("{url}: {error}")),
    };
    if number < 130_000 {
        findings.bad(
            "database",
            format!("{url} is PostgreSQL {version}; 13 or newer is needed"),
        );
    } else {
        findings.good("database", format!("{url} answers: PostgreSQL {version}"));
    }
    if standby {
        findings.bad(
            "database",
            "the server is a standby, which takes no writes; name the primary",
        );
    }
    if may_create {
        findings.good("privileges", "this user may create tables");
    } else {
        findings.bad(
            "privileges",
            "this user may not create tables; GRANT CREATE ON SCHEMA ... TO it",
        );
    }
    let here = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let apart = (here.as_secs_f64() - clock).abs();
    if apart > SKEW.as_secs_f64() {
        findings.warn(
            "clock",
            format!("the database's differs by {apart:.0} s; synchronise both (NTP)"),
        );
    } else {
        findings.good("clock", "the database's agrees");
    }
    if !safe {
        findings.bad(
            "settings",
            "fsync or full_page_writes is off: a crash can lose what was confirmed",
        );
    }
    if free < 20 {
        findings.warn(
            "settings",
            format!("{free} connections are left; a store takes up to 10"),
        );
    } else {
        findings.good("settings", format!("{free} connections are left"));
    }
}

/// Whether the ends of a bridge can be reached and are what it needs.
async fn check_bridge(bridge: &BridgeConfig) -> ledger::Result<()> {
    match &bridge.carried {
        Carried::Store { store, .. } => bridge.to.open_existing_sink(store).await.map(drop),
        Carried::Tables {
            from,
            options,
            documents,
            routes,
        } => {
            let (options, routes) = (options.as_ref().clone(), routes.clone());
            let flow = tables::flow(from, &bridge.to, options, *documents, routes);
            flow.await.map(drop)
        }
    }
}
