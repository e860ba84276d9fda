//! Pages of 2 MiB for the simulator.
//!
//! A simulated swarm goes through a hundred megabytes in no order, and with pages of 4 KiB the processor looks up where each of them
//! lies first: up to a fifth of the time. Where the system gives huge pages to whoever asks for them, glibc (2.35 and later) does so if it is told to when
//! the process starts, and not afterwards (<https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html>,
//! `glibc.malloc.hugetlb`). So the process starts itself again.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE: &str = "glibc.malloc.hugetlb=1";
/// `[madvise]` is in there where they are given to whoever asks.
const GIVEN: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Does not return if there are huge pages to be had: the process begins again, with them. Whoever has set something of
/// glibc's knows better, and so have we when we are here again.
pub fn start_with_huge() {
    let given = std::fs::read_to_string(GIVEN).is_ok_and(|text| text.contains("[madvise]"));
    if given && std::env::var_os(TUNABLES).is_none() {
        // Without them it only takes longer, so why it cannot be started again is nothing to tell.
        let _ = start_again();
    }
}

fn start_again() -> io::Error {
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => return error,
    };
    let mut args = std::env::args_os();
    let mut command = Command::new(exe);
    command.arg0(args.next().as_deref().unwrap_or(OsStr::new("dunlin")));
    command.args(args).env(TUNABLES, HUGE).exec()
}
