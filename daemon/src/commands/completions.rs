//! `ledger completions` and `ledger man`

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man as Page;

use super::version::VERSION;
use crate::cli::{Cli, Completions, Man};
use crate::exit::Exit;
use crate::printer::Printer;

/// Prints the completions of a shell.
pub(crate) fn completions(options: &Completions, printer: &Printer) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "ledger", &mut script);
    printer.lines(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page of the program, or writes those of all commands.
pub(crate) fn man(options: &Man, printer: &Printer) -> anyhow::Result<Exit> {
    let Some(folder) = &options.dir else {
        let mut page = Vec::new();
        Page::new(Cli::command().version(VERSION)).render(&mut page)?;
        printer.lines(&page)?;
        return Ok(Exit::Done);
    };
    let within = || format!("--dir: write into {}", folder.display());
    fs::create_dir_all(folder).with_context(within)?;
    let mut command = Cli::command();
    command.build();
    let count = write(&command, "ledger", folder).with_context(within)?;
    printer.notice(&format!("{count} pages in {}", folder.display()));
    Ok(Exit::Done)
}

/// Writes the page of a command and of those below it; tells how many there are.
fn write(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<u64> {
    let mut page = Vec::new();
    Page::new(
        command
            .clone()
            .name(name.to_owned())
            .version(VERSION)
            .display_name(name.to_owned()),
    )
    .render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for below in command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
    {
        count += write(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(count)
}
