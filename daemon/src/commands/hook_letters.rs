//! `ledger hook dead-letters`

use ledger_server::v1::{
    DiscardHookDeadLettersRequest, ListHookDeadLettersRequest, ReplayHookDeadLettersRequest,
};
use serde_json::{Value, json};

use crate::cli::{Global, HookLetters, Output};
use crate::client::{Called as _, Daemon};
use crate::exit::Exit;
use crate::printer::Printer;

/// How many letters are asked for at a time.
const PAGE: i64 = 500;

/// Lists the letters of a hook, forgets them, or lets them be delivered again.
pub(crate) async fn run(
    options: &HookLetters,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let mut hooks = daemon.hooks()?;
    let name = &options.named.hook;
    let form = printer.form(global.output);
    if options.replay {
        let request = ReplayHookDeadLettersRequest {
            hook: name.clone(),
            stream_key: options.stream_key.unwrap_or_default(),
        };
        let answer = hooks
            .replay_hook_dead_letters(request)
            .await
            .answer(&daemon)?;
        printer.result(&match form {
            Output::Table => format!("{} dead letters are delivered again", answer.requeued),
            _ => json!({ "hook": name, "requeued": answer.requeued }).to_string(),
        })?;
        return Ok(Exit::Done);
    }
    if options.discard_all || !options.discard.is_empty() {
        let request = DiscardHookDeadLettersRequest {
            hook: name.clone(),
            cursors: options.discard.clone(),
            all: options.discard_all,
        };
        let answer = hooks
            .discard_hook_dead_letters(request)
            .await
            .answer(&daemon)?;
        printer.result(&match form {
            Output::Table => format!("{} dead letters discarded", answer.discarded),
            _ => json!({ "hook": name, "discarded": answer.discarded }).to_string(),
        })?;
        return Ok(Exit::Done);
    }
    let mut request = ListHookDeadLettersRequest {
        hook: name.clone(),
        after: String::new(),
        limit: PAGE,
    };
    let (mut count, mut all) = (0_u64, Vec::new());
    loop {
        let page = hooks
            .list_hook_dead_letters(request.clone())
            .await
            .answer(&daemon)?;
        let Some(last) = page.letters.last() else {
            break;
        };
        request.after.clone_from(&last.cursor);
        for letter in page.letters {
            count += 1;
            let at = letter
                .parked_at
                .map(|at| at.to_string())
                .unwrap_or_default();
            if form == Output::Table {
                printer.result(&format!(
                    "{at}\t{}\t{}\t{}\t{}",
                    letter.stream_key, letter.cursor, letter.description, letter.reason
                ))?;
                continue;
            }
            let value = json!({
                "cursor": letter.cursor,
                "stream_key": letter.stream_key,
                "description": letter.description,
                "reason": letter.reason,
                "parked_at": at,
            });
            if form == Output::Jsonl {
                printer.result(&value.to_string())?;
            } else {
                all.push(value);
            }
        }
    }
    if form == Output::Json {
        printer.result(&Value::from(all).to_string())?;
    }
    printer.notice(&format!("{count} dead letters of {name}"));
    Ok(Exit::Done)
}
