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
/// That this was started again: of a program with capabilities of its own newer glibc (2.39) drops what it was told
/// (ld.so(8), secure-execution mode).
const AGAIN: &str = "DUNLIN_STARTED_AGAIN";
/// `[madvise]` is in there where they are given to whoever asks.
const GIVEN: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Does not return if there are huge pages to be had: the process begins again, with them. Whoever has set something of
/// glibc's knows better.
pub fn start_with_huge() {
    let given = std::fs::read_to_string(GIVEN).is_ok_and(|text| text.contains("[madvise]"));
    if given && may_start_again(|name| std::env::var_os(name).is_some()) {
        // Without them it only takes longer, so why it cannot be started again is nothing to tell.
        let _ = start_again();
    }
}

fn may_start_again(is_set: impl Fn(&str) -> bool) -> bool {
    !is_set(TUNABLES) && !is_set(AGAIN)
}

fn start_again() -> io::Error {
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => return error,
    };
    let mut args = std::env::args_os();
    let mut command = Command::new(exe);
    command.arg0(args.next().as_deref().unwrap_or(OsStr::new("dunlin")));
    command.args(args).env(TUNABLES, HUGE).env(AGAIN, "1").exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a capability of its own (`setcap`) it would start itself again for ever.
    #[test]
    fn what_was_started_again_is_not_though_glibc_drops_what_it_was_told() {
        assert!(may_start_again(|_| false));
        assert!(!may_start_again(|name| name == TUNABLES), "somebody knows better");
        assert!(!may_start_again(|name| name == AGAIN));
    }
}
