//! `ledger stream read` and `ledger stream search`

use ledger_server::v1::{Entry, ReadOptions, ReadRequest, SearchRequest};

use super::On;
use crate::cli::{Read, Search};
use crate::client::{Called as _, Form, Shown};

/// The most entries of one call: larger results are read in pages, so that no answer is over the
/// daemon's message limit only because many entries were asked for.
const PAGE: i64 = 500;

/// Prints entries of a stream.
pub(super) async fn read(options: &Read, on: &On<'_>) -> anyhow::Result<()> {
    let mut client = on.daemon.store(&options.scope.store)?;
    let mut pages = Pages::new(options.limit, on, options.json);
    while let Some((limit, page_token)) = pages.next() {
        let request = ReadRequest {
            stream: options.stream.clone(),
            options: Some(ReadOptions {
                after: options.after.clone(),
                limit,
                desc: options.desc,
                order_key: options.order_key.clone(),
                tag: options.tag.clone(),
                page_token,
                ..ReadOptions::default()
            }),
        };
        let answer = client.read(request).await.answer(on.daemon)?;
        pages.print(&answer.entries, answer.next_page_token)?;
    }
    pages.end()
}

/// Prints the entries whose payload contains a text.
pub(super) async fn search(options: &Search, on: &On<'_>) -> anyhow::Result<()> {
    let mut client = on.daemon.store(&options.scope.store)?;
    let mut pages = Pages::new(options.limit, on, options.json);
    while let Some((limit, page_token)) = pages.next() {
        let request = SearchRequest {
            stream: options.stream.clone(),
            query: options.query.clone(),
            options: Some(ReadOptions {
                limit,
                desc: options.desc,
                page_token,
                ..ReadOptions::default()
            }),
            full_text: false,
        };
        let answer = client.search(request).await.answer(on.daemon)?;
        pages.print(&answer.entries, answer.next_page_token)?;
    }
    pages.end()
}

/// Entries that are asked for in pages, and printed as they come.
struct Pages<'a> {
    on: &'a On<'a>,
    form: Option<Form>,
    /// None once there is nothing more to ask for.
    token: Option<String>,
    left: i64,
    /// What is printed as one list in the end.
    all: Vec<serde_json::Value>,
}

impl<'a> Pages<'a> {
    fn new(limit: i64, on: &'a On<'a>, json: bool) -> Self {
        Self {
            on,
            form: on.entries(json),
            token: Some(String::new()),
            left: if limit <= 0 { 100 } else { limit },
            all: Vec::new(),
        }
    }

    /// The next page to ask for: its limit and its token.
    fn next(&mut self) -> Option<(i64, String)> {
        let token = self.token.take()?;
        Some((self.left.min(PAGE), token))
    }

    fn print(&mut self, entries: &[Entry], token: String) -> anyhow::Result<()> {
        self.left = self
            .left
            .saturating_sub(i64::try_from(entries.len()).unwrap_or(i64::MAX));
        self.token = (self.left > 0 && !token.is_empty()).then_some(token);
        match self.form {
            Some(form) => self.on.printer.lines(&form.lines(entries)?)?,
            None => {
                for entry in entries {
                    self.all.push(serde_json::to_value(Shown::of(entry))?);
                }
            }
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        if self.form.is_none() {
            let list = serde_json::Value::from(self.all);
            self.on.printer.result(&list.to_string())?;
        }
        Ok(())
    }
}
