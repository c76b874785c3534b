//! What is said about arguments that are no command.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit::Exit;

/// Answers arguments that are no command: help where it was asked for, else one line that says
/// what is wrong, without repeating what could be a secret.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if help {
        // To standard output where it was asked for, to standard error where a command is missing.
        // A closed pipe is nobody's concern.
        let _ = error.print();
        return if error.kind() == ErrorKind::DisplayHelp {
            Exit::Done.into()
        } else {
            Exit::Usage.into()
        };
    }
    crate::printer::error_line(&describe(error));
    Exit::Usage.into()
}

fn describe(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg);
    let said = match (error.kind(), &argument) {
        (ErrorKind::MissingRequiredArgument, Some(arguments)) => {
            format!("{arguments} must be given")
        }
        (ErrorKind::ValueValidation, Some(argument)) => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            format!("{argument}: {}", why.unwrap_or_default())
        }
        // The first paragraph of clap's own words.
        _ => {
            let full = error.to_string();
            let first = full.split("\n\n").next().unwrap_or_default();
            let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
            first
                .strip_prefix("error: ")
                .map_or(first.clone(), ToOwned::to_owned)
        }
    };
    // What stands in the wrong place may be a URL with its password.
    let said = if said.contains("://") {
        "a URL stands where none belongs; write --from URL --to URL --store NAME"
    } else {
        &said
    };
    format!("{said} (see ledger --help)")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Cli;

    fn refused(arguments: &[&str]) -> String {
        let all = ["ledger"].iter().chain(arguments);
        describe(&Cli::try_parse_from(all).unwrap_err())
    }

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refusal_is_one_line_that_names_the_argument() {
        let run = ["bridge", "run", "--from", "sqlite:a", "--to", "sqlite:b"];
        for (more, words) in [
            (&["-s", "9"][..], "must match"),
            (&["-s", "a", "--skip", "append"], "none of set_tags"),
            (&["-s", "a", "--on-failure", "x"], "none of stop"),
            (&["-s", "a", "--lanes", "0"], "--lanes"),
            (&["-s", "a", "--frobnicate"], "--frobnicate"),
        ] {
            let said = refused(&[&run[..], more].concat());
            assert!(said.contains(words) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_misplaced_url_is_not_repeated() {
        let said = refused(&["bridge", "run", "postgres://u:hunter2@h/db"]);
        assert!(!said.contains("hunter2"), "{said}");
        let said = refused(&["postgres://u:hunter2@h/db"]);
        assert!(!said.contains("hunter2"), "{said}");
        let said = refused(&["bridge", "replay", "-s", "postgres://u:hunter2@h/db"]);
        assert!(!said.contains("hunter2"), "{said}");
    }
}
