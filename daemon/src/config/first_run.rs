//! The file that the first start writes.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;

const TEXT: &str = r#"# The configuration of the ledger daemon. Every key may be left out.
# In values, ${NAME} stands for an environment variable.
# `ledger config check` says what is wrong; `ledger config show` what is in effect.

# Where gRPC is served; clients on this machine use the same address.
listen: "localhost:50051"

# Where HTTP is served: the gateway, /livez, /readyz, /metrics, /openapi.json.
# http_listen: "localhost:8080"

# JSON lines. A daemon in the background without one logs to ledger.log beside this file.
# log_file: ""

# What clients must send as x-api-key. Also LEDGER_API_KEY.
# api_key: ""

# Which stores may be used; all where nothing is listed.
# allowed_stores: [orders]

# How long `ledger start` waits until the daemon is ready, and a stop for what is under way.
# start_timeout: "10s"
# drain_timeout: "10s"

# TLS of gRPC. With `ca`, clients must show a certificate that it has signed.
# tls: {cert: "", key: "", ca: ""}
# http_tls: {cert: "", key: "", ca: ""}

# Where the stores are: sqlite (ledger.db beside this file, unless a path is given) or postgres.
db:
  type: sqlite
#  sqlite: {path: ""}
#  postgres: {dsn: "postgres://user:${PGPASSWORD}@host:5432/database"}

# Bounds of single calls.
# limits: {message_bytes: 4194304, entries_per_call: 10000, concurrent_streams: 1000, header_bytes: 16384, request_timeout: "30s"}

# Hooks post what is appended to an endpoint, signed; see docs/webhooks.md.
# hooks:
#   - name: orders-to-shop
#     store: orders
#     url: "https://shop.example/hooks/orders"
#     format: standard               # compat, standard, cloudevents
#     secret: "${SHOP_WEBHOOK_SECRET}"   # whsec_...
#     on_failure: park-stream        # stop, park-stream, skip

# Bridges carry a store into another database, and follow its changes.
# bridges:
#   - name: orders-to-clickhouse
#     store: orders                  # of this daemon; `from: URL` for another database
#     to: "clickhouse://user:${CLICKHOUSE_PASSWORD}@host:8123/database"
#     skip: [set_tags]               # set_tags, set_annotations, trim, rename
#     on_failure: park               # stop, park, skip
"#;

/// Writes the file, readable by its owner only, and its folder; leaves one that is there.
pub(crate) fn write(path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("make folder {}", folder.display()))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = match file {
        Ok(mut file) => file.write_all(TEXT.as_bytes()),
        // Another start was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::Problems;
    use crate::config::{Config, show};

    #[test]
    fn the_first_file_is_the_defaults_and_what_it_suggests_is_understood() {
        let path = Path::new("/home/ada/.ledger/config.yaml");
        let config = Config::parse(TEXT, path, &Problems::default()).unwrap();
        let defaults = Config::defaults("/home/ada/.ledger".into()).unwrap();
        assert_eq!(show(&config), show(&defaults));
        // Each suggestion, without its `# `, in a file of its own.
        let mut suggestions = TEXT.lines().filter_map(|line| {
            let line = line.strip_prefix("# ")?;
            let (key, _) = line.split_once(':')?;
            key.chars()
                .all(|c| c.is_ascii_lowercase() || c == '_')
                .then_some(line)
        });
        assert!(suggestions.clone().count() >= 9);
        suggestions.all(|line| {
            Config::parse(line, path, &Problems::default()).unwrap();
            true
        });
    }
}
