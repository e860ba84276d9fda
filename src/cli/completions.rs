//! `dunlin completions`: for the shell.

use std::io::Write;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::flags::Cli;

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin completions bash > ~/.local/share/bash-completion/completions/dunlin")]
pub struct CompletionsArgs {
    /// Which shell.
    pub shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dunlin", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
