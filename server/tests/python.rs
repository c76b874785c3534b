use std::process::Command;
use std::sync::Arc;

use ledger_core::StoreName;
use ledger_server::{ApiKeyGuard, Limits, ServiceOptions};

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_made_by_the_tools_of_another_language_meets_the_contract() {
    let python = std::env::var("LEDGER_GRPC_PYTHON").expect(
        "LEDGER_GRPC_PYTHON is not set: run the tests by scripts/test.sh, or \
         eval \"$(scripts/servers.sh start)\" before",
    );
    let server = Server::with(ServiceOptions {
        guard: Arc::new(ApiKeyGuard::new("secret")),
        allowed_stores: vec![StoreName::new("orders").unwrap()],
        limits: Limits {
            entries: 50,
            ..Limits::default()
        },
        ..ServiceOptions::default()
    })
    .await;
    let address = server.address.to_string();
    let run = move || {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
        Command::new(python)
            .arg("client.py")
            .arg(address)
            .current_dir(folder)
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(
        told.ends_with("all 11 methods meet the contract\n"),
        "{told}"
    );
}
