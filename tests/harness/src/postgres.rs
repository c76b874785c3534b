//! A private PostgreSQL.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{DEADLINE, POLL, Server, Signals, children, command, required, runs, signal};

/// A private PostgreSQL with `wal_level=logical`, durable as in production; of the version that the
/// distribution has, or a newer one for what only that can do.
///
/// Its superuser is `ledger`, its database `ledger`. Every instance has a system
/// identifier of its own.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    bin: PathBuf,
}

const SETTINGS: &[&str] = &[
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "wal_level = logical",
    "max_wal_senders = 10",
    "max_replication_slots = 10",
    "max_connections = 100",
    "max_prepared_transactions = 10",
    "shared_buffers = 32MB",
];

impl Postgres {
    /// Starts a new instance.
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_PG_BIN` is not set.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a new instance with more lines in its configuration, such as
    /// `"wal_sender_timeout = 2s"`. A later line wins over an earlier one, and over the defaults.
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_PG_BIN` is not set.
    pub async fn start_with(settings: &[&str]) -> Self {
        Self::initialised(required("LEDGER_PG_BIN"), settings).await
    }

    /// Starts a new instance of a newer PostgreSQL than that of the distribution: 17 or later, which
    /// has failover slots. Otherwise as [`Self::start_with`].
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_PG_NEW_BIN` is not set.
    pub async fn start_newer(settings: &[&str]) -> Self {
        Self::initialised(required("LEDGER_PG_NEW_BIN"), settings).await
    }

    /// Starts a physical standby of this instance, with more lines in its configuration. It follows
    /// through the physical slot of this name where one is given.
    ///
    /// # Panics
    /// If it cannot be copied, or does not start.
    pub async fn standby(&self, slot: Option<&str>, settings: &[&str]) -> Self {
        let mut this = Self::prepared(self.bin.clone()).await;
        let primary = format!(
            "host=127.0.0.1 port={} user=ledger dbname=ledger",
            self.port()
        );
        let mut arguments = vec!["-d", &primary, "-R", "--checkpoint=fast", "--no-sync"];
        arguments.extend(slot.into_iter().flat_map(|slot| ["--slot", slot]));
        let copy = this.as_owner("pg_basebackup", &arguments);
        this.server.run(copy).await;
        this.configure(settings);
        this.launch().await;
        this
    }

    /// Ends the recovery of a standby, which is a primary with a timeline of its own then.
    ///
    /// # Panics
    /// If it is none.
    pub async fn promote(&self) {
        assert_eq!(self.psql("SELECT pg_promote()").await, "t");
    }

    async fn initialised(bin: String, settings: &[&str]) -> Self {
        let mut this = Self::prepared(PathBuf::from(bin)).await;
        let initdb = this.as_owner(
            "initdb",
            &[
                "-U",
                "ledger",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
        );
        this.server.run(initdb).await;
        this.configure(&[SETTINGS, settings].concat());
        this.launch().await;
        this.server
            .run(this.psql_command("postgres", "CREATE DATABASE ledger"))
            .await;
        this
    }

    /// A folder of its user's own.
    async fn prepared(bin: PathBuf) -> Self {
        let signals = Signals {
            stop: "INT",
            abandon: "QUIT",
        };
        let server = Server::new("postgres", signals);
        let this = Self { server, bin };
        let home = this.server.folder().join("home");
        fs::create_dir(&home).unwrap_or_else(|error| panic!("create {}: {error}", home.display()));
        this.give(&home).await;
        this
    }

    /// Puts a file into the data directory, readable by the server's user only, as for a certificate.
    ///
    /// # Panics
    /// If it cannot be written.
    pub async fn put(&self, name: &str, content: &str) {
        let file = self.data().join(name);
        fs::write(&file, content)
            .unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
            .unwrap_or_else(|error| panic!("protect {}: {error}", file.display()));
        self.give(&file).await;
    }

    /// Adds lines to the configuration, for the next start; a later one wins.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn configure(&self, settings: &[&str]) {
        let file = self.data().join("postgresql.conf");
        let mut configuration = File::options()
            .append(true)
            .open(&file)
            .unwrap_or_else(|error| panic!("open {}: {error}", file.display()));
        let port = format!("port = {}", self.server.port());
        for line in settings.iter().chain([&port.as_str()]) {
            writeln!(configuration, "{line}")
                .unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        }
    }

    async fn give(&self, path: &Path) {
        if is_root() {
            self.server
                .run(command("chown", ["postgres".as_ref(), path.as_os_str()]))
                .await;
        }
    }

    /// `postgres://ledger:ledger@127.0.0.1:port/ledger`; any password is accepted.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgres://ledger:ledger@127.0.0.1:{}/ledger",
            self.server.port()
        )
    }

    /// The loopback port; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The data directory, as for a look at `pg_wal`.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.server.folder().join("home/data")
    }

    /// What the server has logged so far, its last lines.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log_tail()
    }

    /// Kills all of the server's processes at once, as a power cut would end them (what
    /// was written but not yet synced stays, as the machine lives on).
    ///
    /// Returns when the last of them is gone, so that a restart does not meet one.
    ///
    /// # Panics
    /// If a process does not end.
    pub async fn kill(&mut self) {
        if let Some(postmaster) = self.server.pid() {
            // Stopped first: it can neither fork more nor restart what was killed.
            signal("STOP", &[postmaster]);
            let processes = children(postmaster);
            signal("KILL", &processes);
            self.server.kill().await;
            let deadline = Instant::now() + DEADLINE;
            while processes.iter().any(|pid| runs(*pid)) {
                assert!(
                    Instant::now() < deadline,
                    "processes of PostgreSQL do not end"
                );
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Ends the server in an orderly manner: connections are closed, a checkpoint is made.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Starts the server again on the same port and data, stopping it first if it runs.
    ///
    /// Returns when it answers queries, after its recovery.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }

    /// Runs SQL with `psql` on the database `ledger`; returns unaligned rows without a header.
    ///
    /// # Panics
    /// If it fails.
    pub async fn psql(&self, sql: &str) -> String {
        let output = tokio::process::Command::from(self.psql_command("ledger", sql))
            .output()
            .await
            .unwrap_or_else(|error| panic!("run psql: {error}"));
        assert!(
            output.status.success(),
            "psql failed on {sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    async fn launch(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.server.spawn(self.as_owner("postgres", &[]));
            let bin = self.bin.clone();
            let port = self.server.port().to_string();
            let up = self
                .server
                .answers(|| {
                    let query = [
                        "-h",
                        "127.0.0.1",
                        "-U",
                        "ledger",
                        "-d",
                        "postgres",
                        "-p",
                        &port,
                    ];
                    let mut psql = command(bin.join("psql"), query);
                    psql.args(["-qAtXc", "SELECT 1"])
                        .stdin(Stdio::null())
                        .stdout(Stdio::null());
                    psql.stderr(Stdio::null());
                    async {
                        tokio::process::Command::from(psql)
                            .status()
                            .await
                            .is_ok_and(|status| status.success())
                    }
                })
                .await;
            if up {
                return;
            }
            // The data stays locked until the last of the killed processes is gone.
            let log = self.server.log_tail();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            let locked = last.iter().any(|line| {
                line.contains("postmaster.pid\" already exists")
                    || line.contains("pre-existing shared memory")
            });
            assert!(
                locked && Instant::now() < deadline,
                "PostgreSQL does not start; the end of its log:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A program that works on the data directory; it refuses to run as root.
    fn as_owner(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
            ]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("-D").arg(self.data()).args(arguments);
        command
    }

    fn psql_command(&self, database: &str, sql: &str) -> Command {
        let port = self.server.port().to_string();
        let mut psql = command(
            self.bin.join("psql"),
            [
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "ledger",
                "-d",
                database,
            ],
        );
        psql.args(["-v", "ON_ERROR_STOP=1", "-qAtXc", sql])
            .stdin(Stdio::null());
        psql
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A postmaster that was killed leaves its shared memory behind: the key and id are
        // on the seventh line of its lock file.
        let lock = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let segment = lock
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1));
        if let (None, Some(segment)) = (self.server.pid(), segment) {
            let _ = Command::new("ipcrm")
                .args(["-m", segment])
                .stderr(Stdio::null())
                .status();
        }
    }
}

fn is_root() -> bool {
    // The owner of the process's own entry is its effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}
