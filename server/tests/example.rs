use std::process::Command;

#[test]
fn the_example_of_an_embedded_service_runs() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "-p",
            "ledger-server",
            "--example",
            "embedded",
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "reader: reader may not Append",
            "writer: appended 1",
            "reader: counted 1"
        ]
    );
}
