//! `dunlin list`: our own contents.

use anyhow::Result;

use super::Context;
use super::human::{self, Align, table};
use super::session::{Need, Session};
use crate::node::api::ContentStatus;

pub async fn run(context: &Context) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = print(context, &session).await;
    session.finish(&context.signals).await;
    result
}

async fn print(context: &Context, session: &Session) -> Result<()> {
    let contents = session.client.list().await?;
    let out = context.out();
    if out.is_json() {
        contents.iter().try_for_each(|content| out.json(content))?;
    } else if out.is_quiet() {
        contents.iter().try_for_each(|content| out.line(&content.cid))?;
    } else if contents.is_empty() {
        out.note("no contents yet; `dunlin add PATH` or `dunlin get LINK` makes one");
    } else {
        out.text(&contents_table(&contents))?;
    }
    Ok(())
}

/// For `list` and `status`.
pub fn contents_table(contents: &[ContentStatus]) -> String {
    let head = [
        ("SIZE", Align::Right),
        ("HAVE", Align::Right),
        ("PEERS", Align::Right),
        ("DOWN", Align::Right),
        ("UP", Align::Right),
        ("STATE", Align::Left),
        ("CID", Align::Left),
        ("PATH", Align::Left),
    ];
    let rows: Vec<Vec<String>> = contents.iter().map(row).collect();
    table(&head, &rows)
}

fn row(content: &ContentStatus) -> Vec<String> {
    vec![
        human::bytes(content.size),
        have(content),
        content.peers.to_string(),
        human::rate(content.down_rate),
        human::rate(content.up_rate),
        short(&content.state).to_owned(),
        content.cid.clone(),
        content.path.to_string_lossy().into_owned(),
    ]
}

/// Without the reason, which `status` gives a line of its own.
pub fn short(state: &str) -> &str {
    state.split_once(": ").map_or(state, |(short, _)| short)
}

/// Never 100 % unless it is all there.
fn have(content: &ContentStatus) -> String {
    if content.complete {
        return "all".to_owned();
    }
    let (held, all) = match content.size {
        0 => (u64::from(content.held), u64::from(content.chunks)),
        size => (content.held_bytes, size),
    };
    let percent = if all == 0 { 0 } else { u128::from(held) * 100 / u128::from(all) };
    format!("{} %", percent.min(99))
}
