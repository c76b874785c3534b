//! Appending many lines, and exporting.

use serde_json::Value;

use crate::daemon::Home;

#[test]
fn json_lines_go_to_the_streams_that_they_name() {
    let home = Home::started("");
    let lines = "{\"u\":\"a\",\"k\":1,\"o\":\"x\"}\n\n{\"u\":\"b\",\"k\":2,\"o\":\"y\"}\n{\"u\":\"a\",\"k\":3,\"o\":\"x\"}\n";
    let load = [
        "stream",
        "append",
        "--stream-field",
        "u",
        "--dedup-key-field",
        "k",
        "--order-key-field",
        "o",
        "--tag",
        "t",
        "-o",
        "table",
    ];
    let loaded = home.fed(&load, lines);
    assert_eq!(
        loaded.out, "appended 3 entries, 0 duplicates skipped\n",
        "{loaded:#?}"
    );
    let again = home.fed(&load, lines);
    assert_eq!(
        again.out, "appended 0 entries, 3 duplicates skipped\n",
        "{again:#?}"
    );
    let read = home.out(&[
        "stream",
        "read",
        "-S",
        "a",
        "--tag",
        "t",
        "--order-key",
        "x",
    ]);
    let payloads: Vec<_> = read
        .lines()
        .map(|line| line.split_once('\t').unwrap().1)
        .collect();
    assert_eq!(
        payloads,
        [
            "{\"u\":\"a\",\"k\":1,\"o\":\"x\"}",
            "{\"u\":\"a\",\"k\":3,\"o\":\"x\"}"
        ]
    );
    for (lines, error) in [
        ("{\"u\":\"a\"", "line 1 is not a JSON object"),
        (
            "{\"u\":\"a\",\"k\":1,\"o\":1}\n{\"k\":1,\"o\":1}",
            "line 2 has no field \"u\"",
        ),
        ("{\"u\":[],\"k\":1,\"o\":1}", "neither a text nor a number"),
    ] {
        let ran = home.fed(&load, lines);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.err.contains(error), "{ran:#?}");
    }
}

#[test]
fn a_large_csv_is_loaded_and_exported_and_loaded_again() {
    const LINES: usize = 5_000;
    let home = Home::started("");
    let file = home.path("orders.csv");
    let mut text = "id,user,note\n".to_owned();
    for number in 0..LINES {
        text.push_str(&format!("{number},user-{},\"a, \"\"b\"\"\"\n", number % 7));
    }
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let out = home.out(&[
        "stream",
        "append",
        "-s",
        "orders",
        "--file",
        &file,
        "--stream-field",
        "user",
        "--dedup-key-field",
        "id",
        "-o",
        "json",
    ]);
    assert_eq!(out, format!("{{\"appended\":{LINES},\"duplicates\":0}}\n"));
    let first = home.out(&[
        "stream", "read", "-s", "orders", "-S", "user-0", "--limit", "1",
    ]);
    let (_, payload) = first.trim_end().split_once('\t').unwrap();
    assert_eq!(
        payload,
        "{\"id\":\"0\",\"user\":\"user-0\",\"note\":\"a, \\\"b\\\"\"}"
    );

    let export = home.path("export.jsonl").display().to_string();
    home.out(&["stream", "export", "-s", "orders", "--file", &export]);
    let exported = std::fs::read_to_string(&export).unwrap();
    assert_eq!(exported.lines().count(), LINES);
    let line: Value = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
    assert_eq!(line["stream"], "user-0");
    assert_eq!(line["payload"]["note"], "a, \"b\"");
    let twice = home.ran(&["stream", "export", "-s", "orders", "--file", &export]);
    assert_eq!(twice.code, Some(1), "a file is never written over");
    home.out(&[
        "stream",
        "append",
        "-s",
        "copy",
        "--file",
        &export,
        "--stream-field",
        "stream",
        "--payload-field",
        "payload",
        "--dedup-key-field",
        "dedup_key",
    ]);
    for stream in 0..7 {
        let stream = format!("user-{stream}");
        let of = |store: &str| {
            let all = [
                "stream", "read", "-s", store, "-S", &stream, "--limit", "10000",
            ];
            let text = home.out(&all);
            text.lines()
                .map(|line| line.split_once('\t').unwrap().1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("orders"), of("copy"));
        assert!(of("orders").len() >= LINES / 7);
    }
}

#[test]
fn an_interrupted_load_goes_on_where_it_ended() {
    let home = Home::started("");
    let path = home.path("lines.jsonl");
    let numbers: Vec<_> = (0..3_000).map(|number: u32| number.to_string()).collect();
    let mut text = numbers.join("\n") + "\n";
    text.push_str("broken\n");
    std::fs::write(&path, &text).unwrap();
    let file = path.display().to_string();
    let broken = home.ran(&["stream", "append", "--file", &file]);
    assert_eq!(broken.code, Some(2), "{broken:#?}");
    assert!(
        broken.err.contains("line 3001 is not valid JSON"),
        "{broken:#?}"
    );
    assert_eq!(
        home.out(&["stream", "count"]),
        "3000\n",
        "what stands before it is appended"
    );
    let again = home.ran(&["stream", "append", "--file", &file, "--resume"]);
    assert!(again.err.contains("line 3001"), "{again:#?}");
    assert_eq!(
        home.out(&["stream", "count"]),
        "3000\n",
        "nothing is doubled"
    );
    std::fs::write(&path, text.replace("broken", "12345")).unwrap();
    let changed = home.ran(&["stream", "append", "--file", &file, "--resume"]);
    assert_eq!(changed.code, Some(2), "{changed:#?}");
    assert!(changed.err.contains("has changed"), "{changed:#?}");
}

#[test]
fn a_file_that_was_appended_as_a_whole_has_nothing_to_resume() {
    let home = Home::started("");
    let file = home.path("lines.jsonl");
    std::fs::write(&file, "{\"n\":1}\n{\"n\":2}\n").unwrap();
    let file = file.display().to_string();
    let load = ["stream", "append", "--file", &file, "-o", "json"];
    let resume = [&load[..], &["--resume"]].concat();
    assert_eq!(home.out(&resume), "{\"appended\":2,\"duplicates\":0}\n");
    assert_eq!(home.out(&resume), "{\"appended\":0,\"duplicates\":0}\n");
    assert_eq!(home.out(&["stream", "count"]), "2\n");
    // Without it all are appended once more.
    assert_eq!(home.out(&load), "{\"appended\":2,\"duplicates\":0}\n");
    assert_eq!(home.out(&["stream", "count"]), "4\n");
}
