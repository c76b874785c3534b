//! TLS between the program and its daemon.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::daemon::Home;

/// An authority, and a certificate for localhost that it has signed: three files.
fn certificates(folder: &Path, name: &str) -> [PathBuf; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&key, &authority).unwrap();
    [
        ("cert", own.pem()),
        ("key", key.serialize_pem()),
        ("ca", authority.pem()),
    ]
    .map(|(part, pem)| {
        let path = folder.join(format!("{name}-{part}.pem"));
        std::fs::write(&path, pem).unwrap();
        path
    })
}

fn section([cert, key, ca]: [&Path; 3]) -> String {
    let [cert, key, ca] = [cert, key, ca].map(|path| path.display());
    format!("tls: {{cert: \"{cert}\", key: \"{key}\", ca: \"{ca}\"}}")
}

#[test]
fn with_mutual_tls_only_the_right_certificate_gets_in() {
    let home = Home::new("");
    let [cert, key, ca] = certificates(&home.path(""), "good");
    let [other_cert, other_key, other_ca] = certificates(&home.path(""), "other");
    home.configure(&section([&cert, &key, &ca]));
    home.out(&["start"]);
    assert_eq!(home.out(&["stream", "append", "x"]), "1\n");
    let none = Path::new("");
    for (what, config) in [
        ("no TLS", String::new()),
        ("no certificate", section([none, none, &ca])),
        (
            "a foreign certificate",
            section([&other_cert, &other_key, &ca]),
        ),
        ("a foreign authority", section([&cert, &key, &other_ca])),
    ] {
        let path = home.path(".ledger/client.yaml");
        std::fs::write(
            &path,
            format!("listen: \"localhost:{}\"\n{config}\n", home.port),
        )
        .unwrap();
        let path = path.display().to_string();
        let ran = home.ran(&["stream", "count", "-c", &path]);
        assert_eq!(ran.code, Some(6), "{what}: {ran:#?}");
        assert!(
            ran.err.starts_with("Error: cannot reach the daemon"),
            "{what}: {ran:#?}"
        );
    }
    assert_eq!(home.out(&["stream", "count"]), "1\n");
    // HTTP stays plain, unless its own key says otherwise.
    assert_eq!(home.http("/livez").0, 200);
    home.out(&["stop"]);
}
