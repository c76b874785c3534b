//! One server process: its folder, its port, its end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How often a condition is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(25);
/// How long a server may take to answer after its start, or to end.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// The value of an environment variable without which no test can run.
pub(crate) fn required(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!(
            "{variable} is not set: run scripts/test.sh, or eval \"$(scripts/servers.sh start)\""
        ),
    }
}

/// A file among the Python helpers of the tests.
pub(crate) fn helper(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../servers")
        .join(name)
}

/// A loopback port that was free a moment ago and that no other call of this process gets.
///
/// Below the range of outgoing connections: a client that retries while its server is down
/// could else be given the server's own port, and talk to itself.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    for _ in 0..COUNT {
        // Test processes start at different places, far from each other.
        let next = TAKEN.fetch_add(1, Ordering::Relaxed);
        let offset = (std::process::id().wrapping_mul(613).wrapping_add(next)) % COUNT;
        let Ok(port) = u16::try_from(FIRST + offset) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no loopback port from {FIRST} on is free");
}

/// Which signal ends a server in which manner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signals {
    /// An orderly end that keeps everything.
    pub(crate) stop: &'static str,
    /// A quick end that may lose what was not durable, but leaves no shared memory behind.
    pub(crate) abandon: &'static str,
}

/// A server's process with its folder and port; restarted on the same two.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    signals: Signals,
    port: u16,
    child: Option<Child>,
    // Dropped before the folder: the watcher then finds nothing left to do.
    watcher: Child,
    lifeline: Option<ChildStdin>,
    folder: TempDir,
}

/// Waits for the end of its input, which the test process holds open as long as it lives.
/// A folder that is still there then means that the test process did not clean up.
const WATCHER: &str = r#"
cat >/dev/null
[ -d "$1" ] || exit 0
pid=$(cat "$1/pid" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -s "$2" "$pid" 2>/dev/null
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -s KILL "$pid" 2>/dev/null
fi
rm -rf "$1"
"#;

impl Server {
    /// Prepares a folder, a port and a watcher; starts nothing yet.
    pub(crate) fn new(name: &'static str, signals: Signals) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("ledger-test-{name}-"))
            .tempdir()
            .unwrap_or_else(|error| panic!("create a folder for {name}: {error}"));
        // A server may run as another user than the test.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .unwrap_or_else(|error| panic!("set the permissions of {name}'s folder: {error}"));
        // In a process group of its own, or Ctrl-C would end it together with the test.
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(folder.path())
            .arg(signals.abandon)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start the watcher of {name}: {error}"));
        let lifeline = watcher.stdin.take();
        Self {
            name,
            signals,
            port: free_port(),
            child: None,
            watcher,
            lifeline,
            folder,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The end of what the server and its tools wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.folder().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn log(&self) -> File {
        File::options()
            .create(true)
            .append(true)
            .open(self.folder().join("log"))
            .unwrap_or_else(|error| panic!("open the log of {}: {error}", self.name))
    }

    /// Starts the process, its output in the log.
    pub(crate) fn spawn(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} is running already", self.name);
        let child = command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(self.log())
            .stderr(self.log())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", self.name));
        fs::write(self.folder().join("pid"), child.id().to_string())
            .unwrap_or_else(|error| panic!("note the process of {}: {error}", self.name));
        self.child = Some(child);
    }

    /// The server's process id, while it is not known to have ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the process has ended.
    pub(crate) fn ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => {
                let ended = matches!(child.try_wait(), Ok(Some(_)));
                if ended {
                    self.child = None;
                }
                ended
            }
            None => true,
        }
    }

    /// Waits until `ready` says so. Returns whether it did: false if the server ended first.
    pub(crate) async fn answers<F: Future<Output = bool>>(
        &mut self,
        mut ready: impl FnMut() -> F,
    ) -> bool {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if ready().await {
                return true;
            }
            if self.ended() {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not answer; the end of its log:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs a tool to its end, its output in the log; fails the test if it fails.
    pub(crate) async fn run(&self, mut command: Command) {
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(self.log())
            .stderr(self.log());
        let status = tokio::process::Command::from(command)
            .status()
            .await
            .unwrap_or_else(|error| panic!("run a tool for {}: {error}", self.name));
        assert!(
            status.success(),
            "a tool for {} failed:\n{}",
            self.name,
            self.log_tail()
        );
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that it has ended by itself.
            let _ = child.kill();
            self.gone().await;
        }
    }

    /// Asks the server to end in an orderly manner, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        if let Some(pid) = self.pid() {
            signal(self.signals.stop, &[pid]);
            self.gone().await;
        }
    }

    async fn gone(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.ended() {
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(self.signals.abandon, &[child.id()]);
            let deadline = Instant::now() + Duration::from_secs(5);
            while !matches!(child.try_wait(), Ok(Some(_))) {
                if Instant::now() >= deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // A process that is just ending may still write; the watcher tries again.
        let _ = fs::remove_dir_all(self.folder.path());
        drop(self.lifeline.take());
        let _ = self.watcher.wait();
    }
}

/// Sends a signal to processes; one that has gone meanwhile is no error.
pub(crate) fn signal(name: &str, pids: &[u32]) {
    let _ = Command::new("sh")
        .args(["-c", "kill -s \"$@\" 2>/dev/null", "kill", name])
        .args(pids.iter().map(ToString::to_string))
        .status();
}

/// Whether a process still runs: one that has ended but was not waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            // pid (name) state parent ...; the name may hold blanks and parentheses.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            fields.nth(1).and_then(|field| field.parse().ok()) == Some(parent)
        })
        .collect()
}

/// A command with its arguments.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
