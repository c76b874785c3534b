//! The reference library of Standard Webhooks in another language verifies what is sent.

use std::process::Command;

use ledger::webhook::SigningKey;
use ledger_harness::{Receiver, Reply};

use crate::hooked::{Running, Source};

/// A request as the script reads it.
fn case(
    request: &ledger_harness::Received,
    secrets: &[&str],
    public: &[&str],
) -> serde_json::Value {
    serde_json::json!({
        "headers": request.headers,
        "body": request.text(),
        "secrets": secrets,
        "public": public,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_library_verifies_both_algorithms_during_a_rotation() {
    let python = std::env::var("LEDGER_WEBHOOKS_PYTHON").expect(
        "LEDGER_WEBHOOKS_PYTHON is not set: run the tests by scripts/test.sh, or \
         eval \"$(scripts/servers.sh start)\" before",
    );
    let [old, new] = [(); 2].map(|()| SigningKey::generate_shared().unwrap());
    let [old_private, new_private] = [(); 2].map(|()| SigningKey::generate_private().unwrap());
    let public = |text: &str| SigningKey::parse(text).unwrap().public().unwrap();
    let (old_public, new_public) = (public(&old_private), public(&new_private));
    let source = Source::sqlite().await;
    let receiver = Receiver::start(|_| Reply::Status(200));
    let phases: [&[&str]; 3] = [
        &[&old, &old_private],
        &[&new, &new_private, &old, &old_private],
        &[&new, &new_private],
    ];
    // Text that is not ASCII, and a payload that is no JSON.
    let payloads = ["{\"name\": \"\u{e9}\\u00e9 \u{1f600}\"}", "not json"];
    for (phase, keys) in phases.iter().enumerate() {
        let hook = source
            .hook(&receiver, |config, _| {
                let keys = keys.iter();
                config.keys = keys.map(|key| SigningKey::parse(key).unwrap()).collect();
            })
            .await;
        let running = Running::start(&hook);
        source.append(&format!("s{phase}"), &payloads).await;
        receiver.wait("the phase", |received| {
            crate::hooked::count(received) == 2 * (phase + 1)
        });
        running.stop().await;
    }
    let mut cases = Vec::new();
    for request in receiver.received() {
        let phase = (0..3).find(|n| request.text().contains(&format!("\"s{n}\"")));
        let (accept, accept_public, refuse, refuse_public): (&[&str], &[&str], &[&str], &[&str]) =
            match phase.unwrap() {
                0 => (&[&old], &[&old_public], &[&new], &[&new_public]),
                1 => (&[&old, &new], &[&old_public, &new_public], &[], &[]),
                _ => (&[&new], &[&new_public], &[&old], &[&old_public]),
            };
        cases.push(serde_json::json!({
            "accepted": case(&request, accept, accept_public),
            "refused": case(&request, refuse, refuse_public),
        }));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webhooks/verify.py");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = Command::new(python)
        .arg(script)
        .arg(file.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    println!("{told}");
    assert!(told.contains("verified"), "{told}");
}
