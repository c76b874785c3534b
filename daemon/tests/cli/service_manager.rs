//! What a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::daemon::Home;

#[test]
fn a_service_manager_hears_of_readiness_reloads_the_watchdog_and_the_end() {
    let home = Home::new("");
    let path = home.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let mut daemon = home
        .ledger(&["start", "--foreground"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    hear("READY=1");
    assert_eq!(home.pid().unwrap(), daemon.id().to_string());
    hear("WATCHDOG=1");
    home.signal("HUP");
    hear("RELOADING=1");
    hear("READY=1");
    home.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_file_takes_the_place_of_standard_error() {
    let home = Home::new("");
    let log = home.path("daemon.log");
    home.configure(&format!("log_file: \"{}\"", log.display()));
    let mut daemon: Command = home.ledger(&["start", "--foreground"]);
    let daemon = daemon.stderr(Stdio::piped()).spawn().unwrap();
    crate::daemon::wait("readiness", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"ready\""))
    });
    assert_eq!(crate::daemon::mode(&log), 0o600);
    home.signal("INT");
    let ended = daemon.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
    assert!(!home.path(".ledger/ledger.log").exists());
}
