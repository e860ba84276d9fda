//! From raw flags to what is in force: defaults, config file, environment, flags, the later over the earlier.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::flags::{GlobalFlags, NodeFlags};
use super::output::{Mode, Output};
use crate::node::api::Failure;
use crate::node::config::{Bootstrap, Config, LogLevel};

/// The file in the data directory that holds settings.
const CONFIG_FILE: &str = "config.toml";

/// What a command works with.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Absolute.
    pub data_dir: PathBuf,
    pub config: Config,
    pub out: Output,
    /// `--peer`, which a running node can be handed too.
    pub peers: Vec<String>,
    /// Speak the exchange, and not Bitswap alone.
    pub exchange: bool,
    /// A flag that only a node of our own can obey.
    pub start_flag: Option<&'static str>,
}

/// `environment`: `DUNLIN_DATA_DIR`, if it is set.
///
/// # Errors
/// Bad usage, each: no place for the data directory, a config file that is missing or wrong.
pub fn resolve(
    global: &GlobalFlags,
    node: Option<&NodeFlags>,
    environment: Option<OsString>,
) -> Result<Resolved, Failure> {
    let data_dir = data_dir(global.data_dir.as_deref(), environment)?;
    let mut config = read_config(global.config.as_deref(), &data_dir)?;
    let mut peers = Vec::new();
    if let Some(flags) = node {
        apply(flags, &mut config);
        peers = flags.peer.iter().map(ToString::to_string).collect();
    }
    apply_verbosity(global, &mut config);
    let mode = match (global.json, global.quiet) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Quiet,
        (false, false) => Mode::Human,
    };
    let start_flag = node.and_then(NodeFlags::first_of_start);
    let exchange = node.is_none_or(|flags| !flags.no_exchange);
    Ok(Resolved { data_dir, config, out: Output { mode }, peers, exchange, start_flag })
}

fn data_dir(flag: Option<&Path>, environment: Option<OsString>) -> Result<PathBuf, Failure> {
    let named = flag.map(Path::to_owned).or_else(|| environment.filter(|e| !e.is_empty()).map(PathBuf::from));
    let dir = match named {
        Some(dir) => dir,
        None => directories::ProjectDirs::from("", "", "dunlin")
            .map(|dirs| dirs.data_dir().to_owned())
            .ok_or_else(|| {
                Failure::usage("there is no home directory; name a data directory by --data-dir")
            })?,
    };
    if dir.as_os_str().is_empty() {
        return Err(Failure::usage("--data-dir is empty; name a directory"));
    }
    std::path::absolute(&dir)
        .map_err(|e| Failure::usage(format!("cannot use {} as data directory: {e}", dir.display())))
}

fn read_config(named: Option<&Path>, data_dir: &Path) -> Result<Config, Failure> {
    let path = named.map_or_else(|| data_dir.join(CONFIG_FILE), Path::to_owned);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        // A data directory that is none is told when it is opened.
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotADirectory => return Ok(Config::default()),
        Err(e) => return Err(Failure::usage(format!("cannot read the config file {}: {e}", path.display()))),
    };
    Config::parse(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

fn apply(flags: &NodeFlags, config: &mut Config) {
    let network = &mut config.network;
    if !flags.listen.is_empty() {
        network.listen.clone_from(&flags.listen);
    }
    if !flags.external.is_empty() {
        network.external.clone_from(&flags.external);
    }
    if let Some(name) = &flags.network {
        // A file's bootstrap peers belong to the network that the file names.
        if network.name != *name {
            network.bootstrap = Bootstrap::OfTheNetwork;
        }
        network.name.clone_from(name);
    }
    if flags.no_bootstrap {
        network.bootstrap = Bootstrap::Peers(Vec::new());
    } else if !flags.bootstrap.is_empty() {
        network.bootstrap = Bootstrap::Peers(flags.bootstrap.clone());
    }
    for peer in &flags.peer {
        if !network.peers.contains(peer) {
            network.peers.push(peer.clone());
        }
    }
    network.mdns &= !flags.no_mdns;
}

fn apply_verbosity(global: &GlobalFlags, config: &mut Config) {
    if global.verbose > 0 {
        let from = LogLevel::ALL.iter().position(|&l| l == config.log.level).unwrap_or(0);
        let to = (from + usize::from(global.verbose)).min(LogLevel::ALL.len() - 1);
        config.log.level = LogLevel::ALL[to];
    } else if global.quiet {
        config.log.level = LogLevel::Error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(dir: &Path) -> GlobalFlags {
        GlobalFlags { data_dir: Some(dir.to_owned()), ..GlobalFlags::default() }
    }

    #[test]
    fn flags_stand_over_the_environment_and_the_file_over_the_defaults() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        let r = resolve(&GlobalFlags::default(), None, Some(dir.into())).unwrap();
        assert_eq!(r.data_dir, dir);
        assert_eq!(r.config, Config::default());
        let r = resolve(&flags(dir), None, Some("/elsewhere".into())).unwrap();
        assert_eq!(r.data_dir, dir);

        std::fs::write(dir.join(CONFIG_FILE), "[network]\nmdns = false\nname = \"mine\"\n").unwrap();
        let node =
            NodeFlags { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..NodeFlags::default() };
        let r = resolve(&flags(dir), Some(&node), None).unwrap();
        assert!(!r.config.network.mdns);
        assert_eq!(r.config.network.listen, node.listen, "--listen replaces");
        assert!(r.config.bootstrap().is_empty());
        assert_eq!(r.start_flag, Some("--listen"));

        let other = tmp.path().join("other.toml");
        std::fs::write(&other, "[limits]\nupload = \"1M\"\n").unwrap();
        let r = resolve(&GlobalFlags { config: Some(other), ..flags(dir) }, None, None).unwrap();
        assert!(r.config.network.mdns, "--config replaces the data directory's file");
        assert_eq!(r.config.node(dir.into(), true).upload, Some(1_000_000));
    }

    #[test]
    fn a_named_config_file_must_exist_and_be_right() {
        let tmp = tempfile::tempdir().unwrap();
        let missing = GlobalFlags { config: Some(tmp.path().join("none.toml")), ..flags(tmp.path()) };
        let error = resolve(&missing, None, None).unwrap_err();
        assert!(error.usage && error.message.contains("none.toml"), "{error}");
        std::fs::write(tmp.path().join(CONFIG_FILE), "[limits]\nuplod = 1\n").unwrap();
        let error = resolve(&flags(tmp.path()), None, None).unwrap_err();
        assert!(error.usage && error.message.contains("did you mean `limits.upload`?"), "{error}");
    }

    #[test]
    fn verbosity_moves_the_log_level() {
        let tmp = tempfile::tempdir().unwrap();
        let level = |verbose, quiet| {
            let global = GlobalFlags { verbose, quiet, ..flags(tmp.path()) };
            resolve(&global, None, None).unwrap().config.log.level
        };
        assert_eq!(level(0, false), LogLevel::Warn);
        assert_eq!(level(1, false), LogLevel::Info);
        assert_eq!(level(9, false), LogLevel::Trace);
        assert_eq!(level(0, true), LogLevel::Error);
    }

    #[test]
    fn another_network_does_not_inherit_bootstrap_peers() {
        let tmp = tempfile::tempdir().unwrap();
        let named = |name: &str| NodeFlags { network: Some(name.parse().unwrap()), ..NodeFlags::default() };
        let bootstrap = |node: NodeFlags| {
            resolve(&flags(tmp.path()), Some(&node), None).unwrap().config.bootstrap().len()
        };
        assert_eq!(bootstrap(named("mine")), 0);
        assert!(bootstrap(named("amino")) > 0);
        assert_eq!(bootstrap(NodeFlags { no_bootstrap: true, ..NodeFlags::default() }), 0);
    }
}
