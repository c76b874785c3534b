//! `ledger top`

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ledger_server::v1::store_status::State as StoreState;
use ledger_server::v1::{
    Bridge, Hook, ListBridgesRequest, ListHooksRequest, ListStoresRequest, StoreStatus,
};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Table};

use super::{bridge_ask, hook};
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
    hooks: Vec<Hook>,
    /// What each bridge had delivered at the last look, for rates between looks.
    delivered: BTreeMap<String, (Instant, u64)>,
    error: Option<String>,
}

/// Shows stores, bridges and hooks until somebody presses q.
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
    let hooks = daemon
        .hooks()?
        .list_hooks(ListHooksRequest::default())
        .await
        .answer(daemon)?;
    seen.hooks = hooks.hooks;
    seen.stores = stores.stores;
    seen.bridges = bridges;
    seen.delivered = delivered;
    Ok(())
}

/// Colours, unless the environment wants none.
fn color(color: Color) -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain {
        Style::new()
    } else {
        Style::new().fg(color)
    }
}

fn draw(frame: &mut Frame<'_>, address: &str, seen: &Seen) {
    let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(3);
    // Who has none of something needs no room for it.
    let hooks = if seen.hooks.is_empty() {
        Constraint::Length(0)
    } else {
        Constraint::Min(4)
    };
    let bridges = if seen.bridges.is_empty() && !seen.hooks.is_empty() {
        Constraint::Length(0)
    } else {
        Constraint::Min(4)
    };
    let [title, upper, middle, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(lines(seen.stores.len()).min(12)),
        bridges,
        hooks,
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let bridges_ready = seen.bridges.iter().all(|bridge| bridge.ready);
    let hooks_ready = seen.hooks.iter().all(|hook| hook.ready);
    let line = match (&seen.error, bridges_ready, hooks_ready) {
        (Some(error), ..) => Line::styled(error.clone(), color(Color::Red)),
        (None, true, true) => Line::from(format!("ledger {address}")),
        (None, false, _) => Line::styled(
            format!("ledger {address}: a bridge makes no progress"),
            color(Color::Yellow),
        ),
        (None, true, false) => Line::styled(
            format!("ledger {address}: a hook makes no progress"),
            color(Color::Yellow),
        ),
    };
    frame.render_widget(line, title);
    draw_stores(frame, upper, &seen.stores);
    draw_bridges(frame, middle, &seen.bridges);
    draw_hooks(frame, lower, &seen.hooks);
    frame.render_widget(Line::from("q ends"), foot);
}

fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &'static str,
    headings: [&'static str; N],
    widths: [Constraint; N],
    rows: Vec<Row<'_>>,
) {
    let heading = Style::new().add_modifier(Modifier::BOLD);
    let table = Table::new(rows, widths)
        .header(Row::new(headings).style(heading))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn draw_stores(frame: &mut Frame<'_>, area: Rect, stores: &[StoreStatus]) {
    let rows = stores.iter().map(|store| {
        let (word, style) = match store.state() {
            StoreState::Ready => ("ready", color(Color::Green)),
            StoreState::Idle => ("idle", Style::new()),
            StoreState::Unavailable => ("unavailable", color(Color::Red)),
            StoreState::Unspecified => ("unknown", Style::new()),
        };
        let cells = [&store.name, word, &store.backend, &store.error];
        Row::new(cells.map(ToOwned::to_owned)).style(style)
    });
    let widths = [
        fitting("STORE", stores.iter().map(|store| store.name.as_str()), 48),
        Constraint::Length(11),
        fitting(
            "BACKEND",
            stores.iter().map(|store| store.backend.as_str()),
            48,
        ),
        Constraint::Fill(1),
    ];
    let headings = ["STORE", "STATE", "BACKEND", "ERROR"];
    draw_table(frame, area, "stores", headings, widths, rows.collect());
}

/// The colour of what runs: whether it makes progress, and follows.
fn style(ready: bool, state: &str) -> Style {
    match (ready, state) {
        (false, _) => color(Color::Red),
        (true, "following") => color(Color::Green),
        _ => color(Color::Yellow),
    }
}

fn draw_bridges(frame: &mut Frame<'_>, area: Rect, bridges: &[Bridge]) {
    let row = |bridge: &Bridge| {
        Row::new(bridge_ask::cells(bridge)).style(style(bridge.ready, bridge_ask::state(bridge)))
    };
    let [state, rate, behind, lag, dead] = [9, 8, 9, 9, 5].map(Constraint::Length);
    let widths = [
        fitting("BRIDGE", bridges.iter().map(|one| one.name.as_str()), 32),
        fitting("STORE", bridges.iter().map(|one| one.store.as_str()), 24),
        fitting("TO", bridges.iter().map(|one| one.to.as_str()), 40),
        state,
        rate,
        behind,
        lag,
        dead,
        Constraint::Fill(1),
    ];
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
    let rows = bridges.iter().map(row).collect();
    draw_table(frame, area, "bridges", headings, widths, rows);
}

fn draw_hooks(frame: &mut Frame<'_>, area: Rect, hooks: &[Hook]) {
    let row = |one: &Hook| Row::new(hook::cells(one)).style(style(one.ready, hook::state(one)));
    let [state, breaker, rate, behind, lag, waiting, dead] =
        [9, 9, 8, 9, 9, 7, 5].map(Constraint::Length);
    let widths = [
        fitting("HOOK", hooks.iter().map(|one| one.name.as_str()), 32),
        fitting("STORE", hooks.iter().map(|one| one.store.as_str()), 24),
        fitting("URL", hooks.iter().map(|one| one.url.as_str()), 40),
        state,
        breaker,
        rate,
        behind,
        lag,
        waiting,
        dead,
        Constraint::Fill(1),
    ];
    let headings = [
        "HOOK",
        "STORE",
        "URL",
        "STATE",
        "BREAKER",
        "RATE/S",
        "BEHIND",
        "LAG",
        "WAITING",
        "DEAD",
        "LAST ERROR",
    ];
    draw_table(
        frame,
        area,
        "hooks",
        headings,
        widths,
        hooks.iter().map(row).collect(),
    );
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
        let hook = Hook {
            name: "orders-to-shop".to_owned(),
            url: "https://shop.example".to_owned(),
            breaker: "half-open".to_owned(),
            ..Hook::default()
        };
        let seen = Seen {
            stores: vec![store.clone()],
            bridges: vec![bridge.clone()],
            hooks: vec![hook.clone()],
            ..Seen::default()
        };
        let mut terminal = Terminal::new(TestBackend::new(150, 16)).unwrap();
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
            &hook.name,
            &hook.url,
            &hook.breaker,
        ] {
            assert!(screen.contains(text.as_str()), "{text}: {screen}");
        }
        assert!(screen.contains("LAST ERROR"), "{screen}");
    }
}
