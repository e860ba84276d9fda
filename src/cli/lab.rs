//! `dunlin lab`: hands over to the lab.

use std::io;

use anyhow::Result;

use crate::lab::cmd::{LabArgs, run as run_lab};
use crate::node::api::Failure;

/// `json`: the global flag, wherever it stood.
pub fn run(mut args: LabArgs, json: bool) -> Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if args.command.simulates() {
        super::pages::start_with_huge();
    }
    args.json |= json;
    match run_lab(&args, &mut io::stdout().lock()) {
        Ok(()) => Ok(()),
        Err(error) if error.is_usage() => Err(Failure::usage(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}
