//! The binary: everything is in the library, so that tests reach it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    dunlin::cli::main(std::env::args_os())
}
