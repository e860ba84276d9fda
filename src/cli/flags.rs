//! The raw command line, as it was typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    add, cat, completions, find, get, limits, ls, pardon, pause, peers, provide, relocate, rm, share, verify,
};
use crate::node::config::{ListenAddr, NetworkName, PeerAddr};

/// Shares files with everybody who has their link, and fetches them from everybody who has them.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    max_term_width = 100,
    after_help = "Share a file:  dunlin share holiday.mp4\nFetch it:      dunlin get 'magnet:?xt=urn:cid:...'"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalFlags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Default, Args)]
pub struct GlobalFlags {
    /// Where the node keeps its identity and index [default: the platform's, or $DUNLIN_DATA_DIR].
    #[arg(long, value_name = "DIR", global = true, help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Read settings from this file instead of config.toml in the data directory.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Print results as JSON, one object a line.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print the bare result only.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Tell more of what happens; repeat for still more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Global options")]
    pub verbose: u8,
}

/// For commands that start a node. Beside a running node only `--peer` has a meaning.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Node options")]
pub struct NodeFlags {
    /// Listen on this address instead of the configured ones (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<ListenAddr>,
    /// Others reach us at this address, such as a router's forwarded port (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub external: Vec<ListenAddr>,
    /// Enter the DHT by this peer instead of the network's own bootstrap peers (repeatable).
    #[arg(long, value_name = "MULTIADDR", conflicts_with = "no_bootstrap")]
    pub bootstrap: Vec<PeerAddr>,
    /// Enter no DHT by bootstrap peers; the local network and the link's peers remain.
    #[arg(long)]
    pub no_bootstrap: bool,
    /// Ask this peer first (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub peer: Vec<PeerAddr>,
    /// Whose bootstrap peers to start from: amino (the public network); any other name has none.
    #[arg(long, value_name = "NAME")]
    pub network: Option<NetworkName>,
    /// Do not look for nodes on the local network.
    #[arg(long)]
    pub no_mdns: bool,
    /// Speak Bitswap alone, also with other dunlin nodes (for tests and measurements).
    #[arg(long, hide = true)]
    pub no_exchange: bool,
}

impl NodeFlags {
    /// The first flag that a node which runs already cannot take.
    pub fn first_of_start(&self) -> Option<&'static str> {
        [
            (!self.listen.is_empty(), "--listen"),
            (!self.external.is_empty(), "--external"),
            (!self.bootstrap.is_empty(), "--bootstrap"),
            (self.no_bootstrap, "--no-bootstrap"),
            (self.network.is_some(), "--network"),
            (self.no_mdns, "--no-mdns"),
            (self.no_exchange, "--no-exchange"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// For commands whose only options are the node's.
#[derive(Debug, Args)]
pub struct OnlyNodeFlags {
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Share files or folders until Ctrl-C, and print their links.
    Share(share::ShareArgs),
    /// Add files or folders to the store, where they lie; a running daemon serves them.
    Add(add::AddArgs),
    /// Fetch what a link names, and verify every byte of it.
    Get(get::GetArgs),
    /// Write a linked file to stdout as it comes.
    Cat(cat::CatArgs),
    /// List a linked folder without fetching its files.
    Ls(ls::LsArgs),
    /// Show who provides a link's content, as they are found.
    Find(find::FindArgs),
    /// Tell the DHT now that we provide a content.
    Provide(provide::ProvideArgs),
    /// List our own contents.
    List,
    /// Run the long-lived node that serves contents and other commands.
    Daemon(OnlyNodeFlags),
    /// Show what the node does.
    Status,
    /// Show the connected peers, what went between them and us, and who is banned.
    Peers(peers::PeersArgs),
    /// Take a peer's ban back.
    Pardon(pardon::PardonArgs),
    /// Show and change how fast the node sends and receives, in all, for a content or with a peer.
    Limits(limits::LimitsArgs),
    /// Leave contents alone for a while: fetch, send and announce nothing of them.
    Pause(pause::PauseArgs),
    /// Go on with contents that are paused, or that a full disk has stopped.
    Resume(pause::ResumeArgs),
    /// Show the node's peer ID and addresses.
    Id,
    /// Forget a content; your files stay.
    Rm(rm::RmArgs),
    /// Hash a content's files again and name those that have changed.
    Verify(verify::VerifyArgs),
    /// Tell where a content's files have been moved to.
    Relocate(relocate::RelocateArgs),
    /// Print the settings in force as a config file.
    Config(OnlyNodeFlags),
    /// Print a shell's completion script.
    Completions(completions::CompletionsArgs),
    /// Simulate swarms and rings, and plot them.
    Lab(crate::lab::cmd::LabArgs),
}

impl Command {
    /// The node's flags, if the command takes them.
    pub fn node_flags(&self) -> Option<&NodeFlags> {
        match self {
            Command::Share(args) => Some(&args.node),
            Command::Add(args) => Some(&args.node),
            Command::Get(args) => Some(&args.node),
            Command::Cat(args) => Some(&args.node),
            Command::Ls(args) => Some(&args.node),
            Command::Find(args) => Some(&args.node),
            Command::Provide(args) => Some(&args.node),
            Command::Daemon(args) | Command::Config(args) => Some(&args.node),
            _ => None,
        }
    }
}

/// A time to wait.
pub fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    parsed
        .filter(|s| s.is_finite() && *s > 0.0 && *s <= 1e9)
        .ok_or_else(|| "it must be a number of seconds above 0, such as 60 or 2.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_time() {
        assert_eq!(seconds("60"), Ok(60.0));
        assert_eq!(seconds("2.5s"), Ok(2.5));
        for bad in ["", "0", "-1", "nan", "inf", "1e300", "1m", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
