//! `ledger bridge verify`

use ledger::PipelineId;
use ledger::bridge::VerifyOptions;
use ledger::connect::{Differing, Verified};
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
    let documents = options.form.documents;
    let opened = Box::pin(urls::open(
        &options.ends,
        Replica::Existing,
        None,
        documents,
    ))
    .await?;
    let Opened { flow, pipeline } = opened;
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
    let report = flow.verify(&how, compared).await;
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
    Ok(if report.equal {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The report in words: first what differs, then the verdict.
pub(crate) fn lines(report: &Verified, repair: bool) -> Vec<String> {
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
    lines.extend(verify_too(&report.verify_too));
    let verdict = if report.equal { "equal" } else { "different" };
    let what = match (report.of_tables, report.groups) {
        (false, streams) => format!("entries in {streams} streams"),
        (true, tables) => format!("rows in {tables} tables"),
    };
    let mut line = format!(
        "{verdict}: {} {what} compared, {} differences",
        report.compared,
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

/// What is to be done where a relay was mended.
pub(crate) fn verify_too(bridges: &[impl ToString]) -> Option<String> {
    let bridges: Vec<String> = bridges.iter().map(ToString::to_string).collect();
    (!bridges.is_empty()).then(|| {
        format!(
            "the sink is a relay, whose log does not tell what was repaired; verify what follows it as \
             well: {}",
            bridges.join(", ")
        )
    })
}

fn as_json(report: &Verified) -> Value {
    let verify_too: Vec<_> = report.verify_too.iter().map(PipelineId::as_str).collect();
    let (groups, compared) = if report.of_tables {
        ("tables", "rows")
    } else {
        ("streams", "entries")
    };
    let differences = report.differences.iter().take(NAMED);
    let named: Vec<_> = differences
        .map(|differing| named(differing, report.of_tables))
        .collect();
    json!({
        "equal": report.equal,
        groups: report.groups,
        compared: report.compared,
        "pending": report.pending,
        "different": report.differences.len(),
        "repaired": report.repaired,
        "unrepaired": report.unrepaired,
        "verify_too": verify_too,
        "differences": named,
    })
}

fn named(differing: &Differing, of_tables: bool) -> Value {
    let (group, key) = if of_tables {
        ("table", "key")
    } else {
        ("stream", "id")
    };
    json!({
        group: differing.group,
        key: differing.key,
        "kind": differing.kind,
        "fields": differing.fields,
    })
}
