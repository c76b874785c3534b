//! `ledger stream`

mod append;
mod count;
mod export;
mod labels;
mod lines;
mod list;
mod load;
mod progress;
mod read;
mod rename;
mod stat;
mod tail;
mod trim;

use crate::cli::{Global, Output, Stream};
use crate::client::{Daemon, Form};
use crate::exit::Exit;
use crate::printer::Printer;

/// Runs a verb.
pub(crate) async fn stream(
    command: &Stream,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let on = On {
        daemon: &daemon,
        printer,
        output: global.output,
    };
    match command {
        Stream::Append(options) => Box::pin(append::run(options, global, &on)).await?,
        Stream::Read(options) => read::read(options, &on).await?,
        Stream::Search(options) => read::search(options, &on).await?,
        Stream::Count(options) => count::run(options, &on).await?,
        Stream::List(options) => list::run(options, &on).await?,
        Stream::Stat(options) => stat::run(options, &on).await?,
        Stream::Tag(options) => labels::tag(options, &on).await?,
        Stream::Annotate(options) => labels::annotate(options, &on).await?,
        Stream::Rename(options) => rename::run(options, &on).await?,
        Stream::Trim(options) => trim::run(options, &on).await?,
        Stream::Tail(options) => Box::pin(tail::run(options, &on)).await?,
        Stream::Export(options) => Box::pin(export::run(options, &on)).await?,
    }
    Ok(Exit::Done)
}

/// What a verb works with.
struct On<'a> {
    daemon: &'a Daemon,
    printer: &'a Printer,
    output: Option<Output>,
}

impl On<'_> {
    /// Prints a result whose lines have a fixed form, or, where another form was asked for, as
    /// JSON.
    fn fixed(&self, lines: &str, value: &serde_json::Value) -> anyhow::Result<()> {
        match self.output {
            None | Some(Output::Table) => self.printer.result(lines)?,
            Some(_) => self.printer.result(&value.to_string())?,
        }
        Ok(())
    }

    /// The form of entries. One list of all of them is `None`.
    fn entries(&self, json: bool) -> Option<Form> {
        match self.output {
            Some(Output::Json) => None,
            Some(Output::Jsonl) => Some(Form::Objects),
            _ if json => Some(Form::Objects),
            _ => Some(Form::Lines),
        }
    }
}
