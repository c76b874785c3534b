//! The configuration: what a file, the environment and the arguments say together.

mod bridges;
mod client;
mod database;
pub(crate) mod duration;
mod first_run;
mod hooks;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ledger::StoreName;

pub(crate) use database::Db;
pub(crate) use first_run::write as write_first;
pub(crate) use hooks::{
    HookConfig, PREFIX as HOOK_PREFIX, key as hook_key, pipeline as hook_pipeline,
};
pub(crate) use sections::{BridgeConfig, Carried, HttpTls, Limits, Tls};
pub(crate) use show::show;

use crate::exit::Failure;

use tree::{Problems, Section};

/// Where a daemon listens unless told otherwise.
pub(crate) const LISTEN: &str = "localhost:50051";

const KEYS: [&str; 13] = [
    "listen",
    "http_listen",
    "log_file",
    "api_key",
    "allowed_stores",
    "start_timeout",
    "drain_timeout",
    "tls",
    "http_tls",
    "db",
    "limits",
    "hooks",
    "bridges",
];

/// A text that is printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What a daemon and its clients go by.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file, where there is one.
    pub(crate) file: Option<PathBuf>,
    /// Where the pid file is, and the database unless the file says otherwise.
    pub(crate) folder: PathBuf,
    /// The address of gRPC.
    pub(crate) listen: String,
    /// The address of HTTP; none for no HTTP.
    pub(crate) http_listen: Option<String>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) api_key: Option<Secret>,
    /// Empty for all.
    pub(crate) allowed_stores: Vec<StoreName>,
    pub(crate) start_timeout: Option<Duration>,
    /// How long a stop waits for calls and deliveries that are under way.
    pub(crate) drain_timeout: Duration,
    pub(crate) tls: Tls,
    pub(crate) http_tls: HttpTls,
    pub(crate) db: Db,
    pub(crate) limits: Limits,
    pub(crate) hooks: Vec<HookConfig>,
    pub(crate) bridges: Vec<BridgeConfig>,
}

/// What the arguments and the environment say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) config: Option<PathBuf>,
    pub(crate) api_key: Option<Secret>,
    pub(crate) addr: Option<String>,
    pub(crate) http_addr: Option<String>,
}

impl Config {
    /// Reads the named file, else the one in the home folder where it exists, else takes the
    /// defaults; then what arguments and environment say instead.
    pub(crate) fn load(overrides: &Overrides) -> anyhow::Result<Self> {
        let mut config = match path(overrides)? {
            (path, true) => Self::read(&path)?,
            (path, false) => Self::defaults(folder_of(&path))?,
        };
        if let Some(key) = &overrides.api_key {
            config.api_key = Some(key.clone());
        }
        if let Some(addr) = &overrides.addr {
            check_address(addr).map_err(|rule| Failure::usage(format!("--addr: {rule}")))?;
            config.listen.clone_from(addr);
        }
        if let Some(addr) = &overrides.http_addr {
            check_address(addr).map_err(|rule| Failure::usage(format!("--http-addr: {rule}")))?;
            config.http_listen = Some(addr.clone());
        }
        Ok(config)
    }

    /// Reads a file. An error names all that is wrong with it, each with key and line.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = tree::read_file(path)?;
        let path = std::path::absolute(path).context("find the configuration's folder")?;
        let problems = Problems::default();
        Self::parse(&text, &path, &problems).map_err(|text| {
            let text = format!("config {}: {text}", path.display());
            let unset = problems.unset();
            anyhow::Error::new(Bad { text, unset })
        })
    }

    /// Reads the text of a file at `path`, and gathers its problems.
    fn parse(text: &str, path: &Path, problems: &Problems) -> Result<Self, String> {
        let node = tree::parse(text)?;
        let folder = folder_of(path);
        let top = Section::top(&node, &KEYS, problems);
        let defaults = Self::defaults(folder.clone()).map_err(|error| format!("{error:#}"))?;
        let address = |key: &str| {
            let address = top.text(key)?;
            match check_address(&address.text) {
                Ok(()) => Some(address.text),
                Err(rule) => {
                    top.refuse(&address, rule);
                    None
                }
            }
        };
        let config = Self {
            listen: address("listen").unwrap_or(defaults.listen),
            http_listen: address("http_listen"),
            log_file: top.text("log_file").map(|path| path.text.into()),
            api_key: top.text("api_key").map(|key| Secret(key.text)),
            allowed_stores: sections::stores(&top, "allowed_stores"),
            start_timeout: top.duration("start_timeout"),
            drain_timeout: top
                .duration("drain_timeout")
                .unwrap_or(defaults.drain_timeout),
            tls: sections::tls(&top),
            http_tls: sections::http_tls(&top),
            db: database::read(&top, &folder).unwrap_or(defaults.db),
            limits: sections::limits(&top),
            hooks: hooks::read(&top),
            bridges: bridges::bridges(&top),
            file: Some(path.to_owned()),
            folder,
        };
        match problems.text() {
            None => Ok(config),
            Some(problems) => Err(problems),
        }
    }

    /// The built-in defaults.
    pub(crate) fn defaults(folder: PathBuf) -> anyhow::Result<Self> {
        Ok(Self {
            file: None,
            db: Db::in_folder(&folder)?,
            folder,
            listen: LISTEN.to_owned(),
            http_listen: None,
            log_file: None,
            api_key: None,
            allowed_stores: Vec::new(),
            start_timeout: None,
            drain_timeout: Duration::from_secs(10),
            tls: Tls::default(),
            http_tls: HttpTls::default(),
            limits: Limits::default(),
            hooks: Vec::new(),
            bridges: Vec::new(),
        })
    }

    /// What keeps a daemon from running by this configuration although it is well-formed.
    pub(crate) fn check_for_daemon(&self) -> anyhow::Result<()> {
        let file = self.file.as_deref().map(Path::display);
        let within = |text: &str| match &file {
            Some(file) => anyhow!("config {file}: {text}"),
            None => anyhow!("{text}"),
        };
        if self.db.kind() == "clickhouse" && !self.hooks.is_empty() {
            return Err(within(
                "hooks: their state cannot be kept in ClickHouse; carry the store into SQLite, \
                 PostgreSQL or MongoDB with a bridge, and let a daemon on that database run them",
            ));
        }
        if self.tls.ca.is_some() && self.tls.cert.is_none() {
            return Err(within(
                "tls.ca: serves a client only; a daemon that asks for certificates needs tls.cert \
                 and tls.key too",
            ));
        }
        Ok(())
    }

    /// What somebody should know who starts a daemon by this configuration.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for hook in &self.hooks {
            let name = &hook.name;
            if hook.insecure_skip_verify {
                warnings.push(format!(
                    "hooks: {name} trusts whoever answers (insecure_skip_verify)"
                ));
            }
            if hook.secrets.is_empty() {
                warnings.push(format!(
                    "hooks: {name} has no secret, so its receiver cannot tell who sends"
                ));
            }
        }
        warnings
    }

    /// How long `start` waits until the daemon is ready.
    pub(crate) fn start_timeout(&self) -> Duration {
        self.start_timeout.unwrap_or(match self.db.kind() {
            "sqlite" => Duration::from_secs(5),
            "clickhouse" => Duration::from_secs(20),
            _ => Duration::from_secs(15),
        })
    }
}

/// A file that is wrong.
#[derive(Debug)]
struct Bad {
    text: String,
    unset: bool,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Bad {}

/// Whether a file could not be read because a variable that it names is not set in this process. In
/// the daemon it may be.
pub(crate) fn lacks_variable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Bad>().is_some_and(|bad| bad.unset)
}

/// The file to read, and whether to read it: a named one must be there.
pub(crate) fn path(overrides: &Overrides) -> anyhow::Result<(PathBuf, bool)> {
    if let Some(path) = &overrides.config {
        if !path.exists() {
            return Err(Failure::usage(format!(
                "--config: {} does not exist",
                path.display()
            )));
        }
        return Ok((std::path::absolute(path).context("--config")?, true));
    }
    let home = std::env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .context("find the home folder: set HOME, or name a file with --config")?;
    let path = home.join(".ledger").join("config.yaml");
    let exists = path.exists();
    Ok((path, exists))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).to_owned()
}

/// Checks `host:port`. The host may be absent, for all addresses of the machine.
pub(crate) fn check_address(address: &str) -> Result<(), String> {
    const RULE: &str = "must be host:port, as in localhost:50051 or :8080";
    let refused = || format!("{address:?} {RULE}");
    let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
    let numeric = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !numeric || port.parse::<u16>().is_err() {
        return Err(refused());
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if valid { Ok(()) } else { Err(refused()) }
}
