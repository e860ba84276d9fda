//! What the tests share: nodes as processes ([`home`]), files and folders ([`tree`]), a peer that can
//! lie ([`peer`], by Bitswap [`bitswap`], in the DHT [`liar`]) and contents to lie about ([`dag`]).

pub mod bitswap;
pub mod dag;
pub mod home;
pub mod liar;
pub mod netns;
pub mod peer;
mod raw;
pub mod tree;

/// The arguments of a command line, of any string or path type.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(std::ffi::OsString::from($arg)),*] };
}
pub(crate) use args;

/// The time, or `DUNLIN_TEST_SEED` to repeat a run. Printed, so that a failure shows it.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("DUNLIN_TEST_SEED") {
        Ok(text) => text.parse().expect("DUNLIN_TEST_SEED is a number"),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_secs() % 1_000_000
        }
    };
    println!("{test}: DUNLIN_TEST_SEED={seed}");
    seed
}
