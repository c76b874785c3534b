//! The section `db`: which database holds the stores.

use std::path::Path;

use ledger::connect::DatabaseUrl;
use ledger::{Retention, StoreOptions};

use super::Secret;
use super::tree::{Scalar, Section};

const KEYS: [&str; 7] = [
    "type",
    "sqlite",
    "postgres",
    "mongodb",
    "clickhouse",
    "retention",
    "retention_max",
];

/// Which database holds the stores.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pub(crate) url: DatabaseUrl,
    /// The URL with its password.
    pub(crate) dsn: Secret,
    pub(crate) options: StoreOptions,
}

impl Db {
    /// The default: a file in the folder of the configuration.
    pub(crate) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("ledger.db");
        Ok(Self::stores(&sqlite_url(&path.display().to_string()))?)
    }

    fn stores(text: &str) -> ledger::Result<Self> {
        Ok(Self {
            url: DatabaseUrl::parse(text)?,
            dsn: Secret::new(text),
            options: StoreOptions::default(),
        })
    }

    /// The kind, as `db.type` names it.
    pub(crate) fn kind(&self) -> &'static str {
        self.url.scheme()
    }
}

/// Reads the section; none where a problem was noted.
pub(crate) fn read(top: &Section<'_>, folder: &Path) -> Option<Db> {
    let section = top.section("db", &KEYS);
    let postgres = section.section("postgres", &["dsn", "log"]);
    let mut db = place(&section, &postgres, folder);
    let retention = retention(&section);
    let wal = postgres.parsed("log", "must be table or wal", |text| match text {
        "table" => Some(false),
        "wal" => Some(true),
        _ => None,
    });
    if let Some(Db { url, options, .. }) = &mut db {
        options.retention = retention?;
        options.write_ahead_log = url.scheme() == "postgres" && wal.unwrap_or(false);
    }
    db
}

/// How long logs are kept; none where a problem was noted.
fn retention(section: &Section<'_>) -> Option<Retention> {
    let mut retention = Retention::default();
    if let Some(min) = section.duration("retention") {
        retention.min = min;
    }
    retention.max = section.duration("retention_max");
    if retention.max.is_some_and(|max| max < retention.min) {
        section.refuse_key(
            "retention_max",
            "must not be below db.retention (24h by default)",
        );
        return None;
    }
    Some(retention)
}

fn place(section: &Section<'_>, postgres: &Section<'_>, folder: &Path) -> Option<Db> {
    let sqlite = section.section("sqlite", &["path"]);
    let mongodb = section.section("mongodb", &["uri", "database"]);
    let clickhouse = section.section("clickhouse", &["dsn"]);
    let kind = section.text("type");
    match kind.as_ref().map_or("sqlite", |kind| kind.text.as_str()) {
        "sqlite" => {
            let Some(path) = sqlite.text("path") else {
                return Db::in_folder(folder).ok();
            };
            url(&sqlite, &path, &sqlite_url(&path.text))
        }
        "postgres" => {
            let dsn = postgres.required("dsn")?;
            if dsn.text.contains("://") {
                return url(postgres, &dsn, &dsn.text);
            }
            match key_values(&dsn.text) {
                Ok(text) => url(postgres, &dsn, &text),
                Err(rule) => {
                    postgres.refuse(&dsn, rule);
                    None
                }
            }
        }
        "mongodb" => {
            let uri = mongodb.required("uri")?;
            let database = mongodb.text("database");
            url(&mongodb, &uri, &uri.text)?;
            let text = in_database(&uri.text, database.as_ref().map(|name| name.text.as_str()));
            // The name is at fault, where the URL was not.
            url(&mongodb, database.as_ref().unwrap_or(&uri), &text)
        }
        "clickhouse" => {
            let dsn = clickhouse.required("dsn")?;
            url(&clickhouse, &dsn, &dsn.text)
        }
        _ => {
            section.refuse_key(
                "type",
                "must be one of sqlite, postgres, mongodb, clickhouse",
            );
            None
        }
    }
}

/// A MongoDB URL with the database that the key `database` names, `ledger` where neither names one.
/// What stands behind it in the URL is the database for the user's password, and stays that.
fn in_database(uri: &str, database: Option<&str>) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("mongodb", uri));
    let (before, parameters) = match rest.split_once('?') {
        Some((before, parameters)) => (before, Some(parameters)),
        None => (rest, None),
    };
    let (hosts, named) = before.split_once('/').unwrap_or((before, ""));
    let name = database.unwrap_or(if named.is_empty() { "ledger" } else { named });
    let mut text = format!("{scheme}://{hosts}/{name}");
    let mut parameters: Vec<String> = parameters.into_iter().map(str::to_owned).collect();
    let tells = parameters
        .iter()
        .any(|all| all.to_ascii_lowercase().contains("authsource="));
    if hosts.contains('@') && !tells && scheme == "mongodb" {
        let source = if named.is_empty() { "admin" } else { named };
        parameters.push(format!("authSource={source}"));
    }
    if !parameters.is_empty() {
        text.push('?');
        text.push_str(&parameters.join("&"));
    }
    text
}

fn sqlite_url(path: &str) -> String {
    format!("sqlite:{path}")
}

fn url(section: &Section<'_>, scalar: &Scalar, text: &str) -> Option<Db> {
    match Db::stores(text) {
        Ok(db) => Some(db),
        Err(error) => {
            section.refuse(scalar, error.context());
            None
        }
    }
}

/// Turns `host=h port=5432 user=u password='p w' dbname=d` into a URL. Values may stand in single
/// quotes, in which `\'` and `\\` are a quote and a backslash. An error repeats no value.
fn key_values(text: &str) -> Result<String, String> {
    let (mut host, mut port, mut user, mut password, mut database) = (
        String::new(),
        String::new(),
        String::new(),
        None,
        String::new(),
    );
    let mut parameters = Vec::new();
    for (key, value) in pairs(text)? {
        match key.as_str() {
            "host" | "hostaddr" => host = value,
            "port" => port = value,
            "user" => user = value,
            "password" => password = Some(value),
            "dbname" | "database" => database = value,
            "sslmode" | "sslrootcert" | "sslcert" | "sslkey" | "application_name" | "options" => {
                parameters.push((key, value));
            }
            // Of no effect here: waits and sessions are this program's own.
            "connect_timeout" | "fallback_application_name" | "client_encoding" => {}
            other => {
                let named = other.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                let shown = if named {
                    format!(" {other:?}")
                } else {
                    String::new()
                };
                return Err(format!("the parameter{shown} is not understood"));
            }
        }
    }
    if host.starts_with('/') {
        parameters.push(("host".to_owned(), std::mem::take(&mut host)));
        host.push_str("localhost");
    }
    if host.is_empty() {
        host.push_str("localhost");
    }
    if port.is_empty() {
        port.push_str("5432");
    }
    let mut url = String::from("postgres://");
    if !user.is_empty() {
        url.push_str(&escaped(&user));
        if let Some(password) = password {
            url.push(':');
            url.push_str(&escaped(&password));
        }
        url.push('@');
    }
    url.push_str(&format!("{host}:{port}/{}", escaped(&database)));
    for (index, (key, value)) in parameters.iter().enumerate() {
        url.push(if index == 0 { '?' } else { '&' });
        url.push_str(&format!("{key}={}", escaped(value)));
    }
    Ok(url)
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    const FORM: &str = "must be postgres://user:password@host:5432/database, or key=value pairs with spaces between";
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return if pairs.is_empty() {
                Err(FORM.to_owned())
            } else {
                Ok(pairs)
            };
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if key.is_empty() || chars.next() != Some('=') {
            return Err(FORM.to_owned());
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err("a closing quote is missing".to_owned()),
                None => break,
            }
        }
        pairs.push((key, value));
    }
}

/// Percent-encodes everything that could be taken for a part of the URL.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_goes_into_the_url_and_the_users_stays() {
        for (uri, database, text) in [
            ("mongodb://h", None, "mongodb://h/ledger"),
            ("mongodb://h/app?w=1", None, "mongodb://h/app?w=1"),
            ("mongodb://h/app", Some("own"), "mongodb://h/own"),
            (
                "mongodb://u:p@h",
                Some("own"),
                "mongodb://u:p@h/own?authSource=admin",
            ),
            (
                "mongodb://u:p@h/users?tls=true",
                Some("own"),
                "mongodb://u:p@h/own?tls=true&authSource=users",
            ),
            (
                "mongodb://u:p@h/?authSource=x",
                None,
                "mongodb://u:p@h/ledger?authSource=x",
            ),
        ] {
            assert_eq!(in_database(uri, database), text);
        }
    }

    #[test]
    fn key_values_become_a_url() {
        for (text, url) in [
            (
                "host=h user=u password=p dbname=d",
                "postgres://u:p@h:5432/d",
            ),
            (
                "host = h port=6000 user=u password='a b\\'c/' dbname=d sslmode=disable",
                "postgres://u:a%20b%27c%2F@h:6000/d?sslmode=disable",
            ),
            ("dbname=d", "postgres://localhost:5432/d"),
            (
                "host=/run/pg dbname=d",
                "postgres://localhost:5432/d?host=%2Frun%2Fpg",
            ),
        ] {
            assert_eq!(key_values(text).unwrap(), url, "{text}");
            DatabaseUrl::parse(url).unwrap();
        }
        for text in [
            "hunter2",
            "password=hunter2 x",
            "password='hunter2",
            "hunter2=1 =",
            "",
        ] {
            let error = key_values(text).unwrap_err();
            assert!(
                text.starts_with("hunter2=1") || !error.contains("hunter2"),
                "{error}"
            );
        }
        assert!(key_values("frob=hunter2").unwrap_err().contains("frob"));
    }
}
