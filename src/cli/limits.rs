//! `dunlin limits`: how fast, and to how many at once; shown, and changed while the node runs.

use anyhow::Result;
use clap::Args;

use super::human::{Align, table};
use super::session::{Need, Session};
use super::{Context, content};
use crate::node::api::{Limits, LimitsRequest};
use crate::node::config::{Change, Rate, Slots};

#[derive(Debug, Args)]
#[command(after_long_help = "\
RATE is bytes a second: a number, or one with k, M, G (powers of 1,000) or Ki, Mi, Gi (powers of 1,024), or
`unlimited`, or `default` for what config.toml says. What is set holds at once, with a node running or not, and is
kept until it is set back. A content's or a peer's limit holds beside that of everything.

  dunlin limits
  dunlin limits --up 2M --down unlimited
  dunlin limits --content ./holiday.mp4 --up 500k
  dunlin limits --peer 12D3KooW... --down default")]
pub struct LimitsArgs {
    /// Send at most this much.
    #[arg(long, value_name = "RATE")]
    pub up: Option<Change<Rate>>,
    /// Receive at most this much.
    #[arg(long, value_name = "RATE")]
    pub down: Option<Change<Rate>>,
    /// Of this content alone: its CID, link, or path.
    #[arg(long, value_name = "CONTENT", conflicts_with = "peer")]
    pub content: Option<String>,
    /// Of this peer alone, by its ID.
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Serve so many peers at once: `auto`, a number, or `default`.
    #[arg(long, value_name = "auto|N", conflicts_with_all = ["content", "peer"])]
    pub slots: Option<Change<Slots>>,
}

pub async fn run(context: &Context, args: LimitsArgs) -> Result<()> {
    let LimitsArgs { up, down, content: what, peer, slots } = args;
    let what = what.as_deref().map(content).transpose()?;
    let request = LimitsRequest { content: what, peer, up, down, slots };
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = limits(context, &session, &request).await;
    session.finish(&context.signals).await;
    result
}

async fn limits(context: &Context, session: &Session, request: &LimitsRequest) -> Result<()> {
    let given = request.up.is_some() || request.down.is_some() || request.slots.is_some();
    let whose = request.content.is_some() || request.peer.is_some();
    let limits = match given || whose {
        true => session.client.set_limits(request).await?,
        false => session.client.limits().await?,
    };
    let out = context.out();
    if out.is_json() {
        out.json(&limits)?;
    } else if !(out.is_quiet() && given) {
        out.text(&table(
            &[("OF", Align::Left), ("UP", Align::Right), ("DOWN", Align::Right), ("SLOTS", Align::Right)],
            &rows(&limits),
        ))?;
    }
    Ok(())
}

fn rows(limits: &Limits) -> Vec<Vec<String>> {
    let slots = Slots(limits.slots).to_string();
    let mut rows = vec![vec!["everything".to_owned(), rate(limits.up), rate(limits.down), slots]];
    for c in &limits.contents {
        let name = c.name.as_ref().map_or_else(|| c.cid.clone(), |name| format!("{} ({name})", c.cid));
        rows.push(vec![name, rate(c.up), rate(c.down), String::new()]);
    }
    for p in &limits.peers {
        rows.push(vec![p.peer.clone(), rate(p.up), rate(p.down), String::new()]);
    }
    rows
}

/// As it can be given again: `2M`, `1500k`, `1234`.
fn rate(rate: Option<u64>) -> String {
    match rate {
        None => "unlimited".to_owned(),
        Some(n) if n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        Some(n) if n % 1_000 == 0 => format!("{}k", n / 1_000),
        Some(n) => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_shown_as_it_can_be_given() {
        for n in [1, 999, 1_000, 1_048_576, 1_500_000, 2_000_000, 3_000_000_000] {
            assert_eq!(rate(Some(n)).parse::<Rate>().unwrap(), Rate(Some(n)));
        }
        assert_eq!(rate(None).parse::<Rate>().unwrap(), Rate(None));
    }
}
