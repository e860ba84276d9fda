//! With other IPFS programs: kubo and Helia, as `tests/interop/install.sh` installs them.
//!
//! Where they are not there a test says so on stderr and passes; with `DUNLIN_INTEROP=require`, as in CI, it fails.

mod bitswap;
mod cids;
mod dht;
mod helia;
pub mod kubo;
mod transports;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// What a variable names, or what `install.sh` has put beside the program under test. `holds`: a file that is in
/// it, if it is a folder.
fn installed(variable: &str, name: &str, holds: Option<&str>) -> Option<PathBuf> {
    let built = || {
        let target = PathBuf::from(env!("CARGO_BIN_EXE_dunlin")).parent()?.parent()?.to_owned();
        Some(target.join("interop").join(name))
    };
    let path = std::env::var_os(variable).map(PathBuf::from).or_else(built)?;
    if holds.map_or(path.clone(), |file| path.join(file)).is_file() {
        return Some(path);
    }
    assert!(std::env::var_os(variable).is_none(), "{variable}={} is not there", path.display());
    let why = format!("{name} is not there; tests/interop/install.sh installs it");
    assert_ne!(std::env::var_os("DUNLIN_INTEROP"), Some(OsString::from("require")), "{why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test harness, which shows nothing of what passes.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    None
}

/// kubo's program, or the end of the test.
macro_rules! need_kubo {
    () => {
        match crate::interop::kubo::program() {
            Some(program) => program,
            None => return,
        }
    };
}

/// Helia's folder, or the end of the test.
macro_rules! need_helia {
    () => {
        match crate::interop::helia::folder() {
            Some(folder) => folder,
            None => return,
        }
    };
}

use {need_helia, need_kubo};

/// Waits until `is` holds, looking again and again: for what other programs tell nobody.
pub fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + crate::support::home::LONG;
    while !is() {
        assert!(std::time::Instant::now() < until, "no {what} within {:?}", crate::support::home::LONG);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
