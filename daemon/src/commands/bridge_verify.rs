//! `ledger bridge verify`

use ledger::bridge::{Difference, Report, VerifyOptions, verify};
use serde_json::{Value, json};

use super::bridge_ask;
use crate::cli::{Global, Output, Verify, kinds};
use crate::exit::Exit;
use crate::printer::Printer;
use crate::urls::{self, Opened, Replica};

/// How many differences are named.
const NAMED: usize = 100;

/// Compares source and sink, and tells what differs.
pub(crate) async fn run(
    options: &Verify,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if let Some(bridge) = &options.bridge {
        return bridge_ask::verify(bridge, options.repair, global, printer).await;
    }
    let opened = Box::pin(urls::open(&options.ends, Replica::Existing)).await?;
    let Opened {
        source,
        sink,
        pipeline,
    } = opened;
    let how = VerifyOptions {
        skip: kinds(&options.skip),
        repair: options.repair,
        ..VerifyOptions::new(pipeline)
    };
    printer.show_bar();
    let compared = |entries| {
        printer
            .bar()
            .set_message(format!("{entries} entries compared"));
    };
    let report = verify(source.as_ref(), sink.sink().as_ref(), &how, compared).await;
    printer.clear_bar();
    let report = report?;
    match printer.form(global.output) {
        Output::Table => {
            for line in lines(&report, options.repair) {
                printer.result(&line)?;
            }
        }
        _ => printer.result(&as_json(&report).to_string())?,
    }
    Ok(if report.is_equal() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The report in words: first what differs, then the verdict.
pub(crate) fn lines(report: &Report, repair: bool) -> Vec<String> {
    let differences = &report.differences;
    let mut lines: Vec<_> = differences
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    if differences.len() > NAMED {
        lines.push(format!("and {} more", differences.len() - NAMED));
    }
    if repair && !differences.is_empty() {
        lines.push(format!(
            "{} repaired, {} not",
            report.repaired, report.unrepaired
        ));
    }
    let verdict = if report.is_equal() {
        "equal"
    } else {
        "different"
    };
    let mut line = format!(
        "{verdict}: {} entries in {} streams compared, {} differences",
        report.entries,
        report.streams,
        differences.len()
    );
    if report.pending > 0 {
        line.push_str(&format!(
            ", {} pending (the bridge has not got that far)",
            report.pending
        ));
    }
    lines.push(line);
    lines
}

fn as_json(report: &Report) -> Value {
    let named: Vec<_> = report.differences.iter().take(NAMED).map(named).collect();
    json!({
        "equal": report.is_equal(),
        "streams": report.streams,
        "entries": report.entries,
        "pending": report.pending,
        "different": report.differences.len(),
        "repaired": report.repaired,
        "unrepaired": report.unrepaired,
        "differences": named,
    })
}

fn named(difference: &Difference) -> Value {
    json!({
        "stream": difference.stream.as_str(),
        "id": difference.id.map(|id| id.to_string()),
        "kind": difference.kind.as_str(),
        "fields": difference.fields,
    })
}
