//! `ledger top`

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ledger_server::v1::store_status::State as StoreState;
use ledger_server::v1::{Bridge, ListBridgesRequest, ListStoresRequest, StoreStatus};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Table};

use super::bridge_ask::{cells, state};
use crate::cli::{Global, Top};
use crate::client::{Called as _, Daemon};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// How long a key waits to be seen.
const KEYS: Duration = Duration::from_millis(50);

/// What is on the screen.
#[derive(Default)]
struct Seen {
    stores: Vec<StoreStatus>,
    bridges: Vec<Bridge>,
    /// What each bridge had delivered at the last look, for rates between looks.
    delivered: BTreeMap<String, (Instant, u64)>,
    error: Option<String>,
}

/// Shows stores and bridges until somebody presses q.
pub(crate) async fn top(options: &Top, global: &Global, _: &Printer) -> anyhow::Result<Exit> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "top needs a terminal; use `ledger bridge list -o jsonl` in scripts",
        ));
    }
    let daemon = Daemon::of(&global.overrides())?;
    // Who cannot be reached at all is told on a plain line.
    let mut seen = Seen::default();
    look(&daemon, &mut seen).await?;
    let mut terminal = ratatui::try_init().context("take the terminal")?;
    let shown = Box::pin(show(&mut terminal, &daemon, &mut seen, options)).await;
    ratatui::restore();
    shown.map(|()| Exit::Done)
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    daemon: &Daemon,
    seen: &mut Seen,
    options: &Top,
) -> anyhow::Result<()> {
    let interval = Duration::from_secs(u64::from(options.interval));
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| draw(frame, daemon.address(), seen))?;
        let wait = next.saturating_duration_since(Instant::now()).min(KEYS);
        if tokio::task::block_in_place(|| event::poll(wait))? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                        return Ok(());
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            // A daemon that is away for a while comes back.
            seen.error = look(daemon, seen)
                .await
                .err()
                .map(|error| format!("{error:#}"));
        }
    }
}

async fn look(daemon: &Daemon, seen: &mut Seen) -> anyhow::Result<()> {
    let mut admin = daemon.admin()?;
    let stores = admin
        .list_stores(ListStoresRequest {})
        .await
        .answer(daemon)?;
    let bridges = admin
        .list_bridges(ListBridgesRequest::default())
        .await
        .answer(daemon)?;
    let now = Instant::now();
    let mut bridges = bridges.bridges;
    let mut delivered = BTreeMap::new();
    for bridge in &mut bridges {
        if let Some((at, before)) = seen.delivered.get(&bridge.name) {
            let seconds = now.duration_since(*at).as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = bridge.delivered.saturating_sub(*before) as f64 / seconds.max(0.001);
            bridge.rate = rate;
        }
        delivered.insert(bridge.name.clone(), (now, bridge.delivered));
    }
    seen.stores = stores.stores;
    seen.bridges = bridges;
    seen.delivered = delivered;
    Ok(())
}

fn draw(frame: &mut Frame<'_>, address: &str, seen: &Seen) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = |color| {
        if plain {
            Style::new()
        } else {
            Style::new().fg(color)
        }
    };
    let heading = Style::new().add_modifier(Modifier::BOLD);
    let stores = u16::try_from(seen.stores.len()).unwrap_or(u16::MAX);
    let [title, upper, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(stores.saturating_add(3).min(12)),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let ready = seen.bridges.iter().all(|bridge| bridge.ready);
    let line = match &seen.error {
        Some(error) => Line::styled(error.clone(), color(Color::Red)),
        None if ready => Line::from(format!("ledger {address}")),
        None => Line::styled(
            format!("ledger {address}: a bridge makes no progress"),
            color(Color::Yellow),
        ),
    };
    frame.render_widget(line, title);

    let rows = seen.stores.iter().map(|store| {
        let (word, style) = match store.state() {
            StoreState::Ready => ("ready", color(Color::Green)),
            StoreState::Idle => ("idle", Style::new()),
            StoreState::Unavailable => ("unavailable", color(Color::Red)),
            StoreState::Unspecified => ("unknown", Style::new()),
        };
        let error = store.error.clone();
        Row::new([
            store.name.clone(),
            word.to_owned(),
            store.backend.clone(),
            error,
        ])
        .style(style)
    });
    let names = seen.stores.iter().map(|store| store.name.as_str());
    let backends = seen.stores.iter().map(|store| store.backend.as_str());
    let widths = [
        fitting("STORE", names, 48),
        Constraint::Length(11),
        fitting("BACKEND", backends, 48),
        Constraint::Fill(1),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["STORE", "STATE", "BACKEND", "ERROR"]).style(heading))
        .block(Block::bordered().title("stores"));
    frame.render_widget(table, upper);

    let rows = seen.bridges.iter().map(|bridge| {
        let style = match (bridge.ready, state(bridge)) {
            (false, _) => color(Color::Red),
            (true, "following") => color(Color::Green),
            _ => color(Color::Yellow),
        };
        Row::new(cells(bridge)).style(style)
    });
    let names = seen.bridges.iter().map(|bridge| bridge.name.as_str());
    let stores = seen.bridges.iter().map(|bridge| bridge.store.as_str());
    let sinks = seen.bridges.iter().map(|bridge| bridge.to.as_str());
    let numbers = [9, 8, 9, 9, 5].map(Constraint::Length);
    let mut widths = vec![
        fitting("BRIDGE", names, 32),
        fitting("STORE", stores, 24),
        fitting("TO", sinks, 40),
    ];
    widths.extend(numbers);
    widths.push(Constraint::Fill(1));
    let headings = [
        "BRIDGE",
        "STORE",
        "TO",
        "STATE",
        "RATE/S",
        "BEHIND",
        "LAG",
        "DEAD",
        "LAST ERROR",
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(headings).style(heading))
        .block(Block::bordered().title("bridges"));
    frame.render_widget(table, lower);
    frame.render_widget(Line::from("q ends"), foot);
}

/// As wide as the longest of a column's cells and its heading, at most `most`.
fn fitting<'a>(heading: &str, cells: impl Iterator<Item = &'a str>, most: u16) -> Constraint {
    let longest = cells
        .map(|cell| cell.chars().count())
        .fold(heading.len(), usize::max);
    Constraint::Length(u16::try_from(longest).map_or(most, |longest| longest.min(most)))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn names_are_not_cut_where_there_is_room() {
        let store = StoreStatus {
            name: "ledger_entries".to_owned(),
            backend: "postgres://127.0.0.1:5432/ledger".to_owned(),
            ..StoreStatus::default()
        };
        let bridge = Bridge {
            name: "orders-to-clickhouse".to_owned(),
            store: "ledger_entries".to_owned(),
            to: "clickhouse://127.0.0.1:8123/default".to_owned(),
            ..Bridge::default()
        };
        let seen = Seen {
            stores: vec![store.clone()],
            bridges: vec![bridge.clone()],
            ..Seen::default()
        };
        let mut terminal = Terminal::new(TestBackend::new(130, 12)).unwrap();
        terminal.draw(|frame| draw(frame, "here", &seen)).unwrap();
        let screen: String = terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        for text in [
            &store.name,
            &store.backend,
            &bridge.name,
            &bridge.store,
            &bridge.to,
        ] {
            assert!(screen.contains(text.as_str()), "{text}: {screen}");
        }
        assert!(screen.contains("LAST ERROR"), "{screen}");
    }
}
