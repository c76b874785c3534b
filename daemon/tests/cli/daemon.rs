//! A daemon of a test's own, in a home of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::program::{Ran, done, program, ran};

/// A home with a configuration, and the daemon that is started there.
pub(crate) struct Home {
    folder: TempDir,
    pub(crate) port: u16,
    pub(crate) http: u16,
}

impl Home {
    /// A home whose daemon has ports of its own, and these lines in its configuration.
    pub(crate) fn new(config: &str) -> Self {
        let [port, http] = free_ports();
        let home = Self {
            folder: tempfile::tempdir().unwrap(),
            port,
            http,
        };
        std::fs::create_dir(home.path(".ledger")).unwrap();
        home.configure(config);
        home
    }

    /// The same, with the daemon running.
    pub(crate) fn started(config: &str) -> Self {
        let home = Self::new(config);
        let started = done(&mut home.ledger(&["start"]));
        assert!(
            started.out.starts_with("ledger daemon started (pid "),
            "{started:#?}"
        );
        home
    }

    /// Writes the configuration: the addresses, then these lines.
    pub(crate) fn configure(&self, lines: &str) {
        let text = format!(
            "listen: \"localhost:{}\"\nhttp_listen: \"localhost:{}\"\n{lines}\n",
            self.port, self.http
        );
        std::fs::write(self.path(".ledger/config.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The URL of a file in the home.
    pub(crate) fn url(&self, file: &str) -> String {
        format!("sqlite:{}", self.path(file).display())
    }

    /// The program, at home here.
    pub(crate) fn ledger(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("HOME", self.folder.path());
        command
    }

    /// Runs to its good end, and returns what was printed.
    pub(crate) fn out(&self, arguments: &[&str]) -> String {
        done(&mut self.ledger(arguments)).out
    }

    /// Runs to its end.
    pub(crate) fn ran(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.ledger(arguments))
    }

    /// Runs to its end with lines on standard input.
    pub(crate) fn fed(&self, arguments: &[&str], lines: &str) -> Ran {
        let mut child = self
            .ledger(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, lines.as_bytes()).unwrap();
        drop(pipe);
        child.wait_with_output().unwrap().into()
    }

    /// The process of the daemon; none where none is noted.
    pub(crate) fn pid(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.path(".ledger/ledger.pid")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().unwrap();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path(".ledger/ledger.log")).unwrap_or_default()
    }

    /// Waits until the log holds this text.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait(&format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }

    /// Asks over HTTP, and returns status and body.
    pub(crate) fn http(&self, path: &str) -> (u16, String) {
        get(self.http, path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let running = ran(&mut self.ledger(&["status"]))
            .out
            .contains("is running");
        if running && self.pid().is_some() {
            self.signal("KILL");
        }
    }
}

/// Waits until a condition holds.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ports that nobody has at this moment.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("localhost:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// One request of HTTP/1.1, and what came back.
fn get(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(("localhost", port)) else {
        return (0, String::new());
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

/// The mode of a file, as chmod writes it.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
