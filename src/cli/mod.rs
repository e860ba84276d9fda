//! The command line: raw flags ([`flags`]), then what is in force ([`resolve`]), then one file a command.
//! Commands know only [`crate::http::client::Client`], so each works with a running node and without.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::node::api::Failure;
use crate::node::config::LogLevel;
use flags::{Cli, Command};
use output::{Output, say};
use resolve::{Resolved, resolve};
use signals::{INTERRUPTED, Signals};

mod add;
mod cat;
mod completions;
mod config;
mod daemon;
mod escape;
mod find;
mod flags;
mod follow;
mod get;
mod human;
mod id;
mod lab;
mod limits;
mod list;
mod ls;
mod malloc;
mod output;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod pages;
mod pardon;
mod pause;
mod peers;
mod progress;
mod provide;
mod relocate;
mod resolve;
mod rm;
mod session;
mod share;
mod signals;
mod status;
mod verify;

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

/// A signal asked for the end before the work was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// What the asynchronous commands work with.
struct Context {
    resolved: Resolved,
    signals: Signals,
}

impl Context {
    fn out(&self) -> Output {
        self.resolved.out
    }
}

/// Runs one command: 0 done, 1 failed, 2 bad usage, 130 interrupted. Errors are one line on stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    malloc::keep_what_is_freed();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return not_run(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let resolve = |node| resolve(&cli.global, node, std::env::var_os("DUNLIN_DATA_DIR"));
    match cli.command {
        Command::Completions(args) => completions::run(&args),
        Command::Lab(args) => lab::run(args, cli.global.json),
        Command::Config(ref args) => config::run(&resolve(Some(&args.node))?),
        command => {
            let resolved = resolve(command.node_flags())?;
            tell_of(resolved.config.log.level);
            in_runtime(command, resolved)
        }
    }
}

fn in_runtime(command: Command, resolved: Resolved) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let context = Context { resolved, signals: Signals::install()? };
        dispatch(command, &context).await
    });
    // What blocks still (a write to a pipe that nobody reads) must not keep us.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, context: &Context) -> anyhow::Result<()> {
    match command {
        Command::Share(args) => share::run(context, args).await,
        Command::Add(args) => add::run(context, args).await,
        Command::Get(args) => get::run(context, args).await,
        Command::Cat(args) => cat::run(context, args).await,
        Command::Ls(args) => ls::run(context, args).await,
        Command::Find(args) => find::run(context, args).await,
        Command::Provide(args) => provide::run(context, args).await,
        Command::List => list::run(context).await,
        Command::Daemon(_) => daemon::run(context).await,
        Command::Status => status::run(context).await,
        Command::Peers(args) => peers::run(context, args).await,
        Command::Pardon(args) => pardon::run(context, args).await,
        Command::Limits(args) => limits::run(context, args).await,
        Command::Id => id::run(context).await,
        Command::Pause(args) => pause::run(context, args).await,
        Command::Resume(args) => pause::resume(context, args).await,
        Command::Rm(args) => rm::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Relocate(args) => relocate::run(context, args).await,
        Command::Config(_) | Command::Completions(_) | Command::Lab(_) => {
            unreachable!("run before there is a runtime")
        }
    }
}

/// Logs go to stderr; the libraries' only from one level above ours.
fn tell_of(level: LogLevel) {
    let others = match level {
        LogLevel::Error | LogLevel::Warn => "error",
        LogLevel::Info => "warn",
        LogLevel::Debug => "info",
        LogLevel::Trace => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("{others},dunlin={level}"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let terminal = io::IsTerminal::is_terminal(&io::stderr());
    // A logger that is there already (in tests) is as good.
    let _ = logs.with_ansi(terminal).compact().try_init();
}

/// Says on one line why a command failed, and gives its exit code.
fn failed(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() {
        return INTERRUPTED.into();
    }
    let pipe = |c: &(dyn std::error::Error + 'static)| {
        c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(pipe) {
        // Whoever read our output has had enough.
        return ExitCode::SUCCESS;
    }
    say(&format!("dunlin: {}", told(error)));
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.usage => BAD_USAGE.into(),
        _ => FAILED.into(),
    }
}

/// An error and its causes, those left out that the text before has told already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Help and version go to stdout; what is wrong with the flags is one line on stderr.
fn not_run(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout is no failure of ours.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            say(&format!("dunlin: {}", usage_line(error)));
            BAD_USAGE.into()
        }
    }
}

/// clap's several lines as one: its first paragraph, its tips, and where to read on.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut parts: Vec<&str> = Vec::new();
    let mut command = "dunlin".to_owned();
    for line in text.lines().map(str::trim) {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            // `dunlin get [OPTIONS] <LINK>`: the program, and the words before the first option or value.
            let word = |w: &&str| w.chars().all(|c| c.is_ascii_lowercase());
            let mut words = usage.split(' ');
            let program = words.next().unwrap_or("dunlin");
            command = std::iter::once(program).chain(words.take_while(word)).collect::<Vec<_>>().join(" ");
        } else if !line.is_empty() && !line.starts_with("For more information") {
            parts.push(line);
        }
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand || parts.is_empty() {
        parts = vec!["no command given, such as share, get or daemon"];
    }
    let said = parts.join("; ").replace(":; ", ": ").replace("; tip: ", "; ");
    format!("{said}; see `{command} --help`")
}

/// A link that can be understood. The node would say the same, but only once it has started.
fn link(text: &str) -> Result<(), Failure> {
    crate::link::Link::parse(text).map(drop).map_err(|e| Failure::usage(e.to_string()))
}

/// `what` for the node: a link as it is, and what is none as an absolute path.
fn content(what: &str) -> Result<String, Failure> {
    if crate::link::Link::parse(what).is_ok() {
        return Ok(what.to_owned());
    }
    let known = ["/ipfs/", "ipfs://", "magnet:", "http://", "https://"];
    if known.iter().any(|prefix| what.starts_with(prefix)) {
        return link(what).map(|()| what.to_owned());
    }
    Ok(utf8(absolute(what.as_ref())?)?.to_string_lossy().into_owned())
}

/// A path as it was meant where the command was typed. Nothing in it is resolved.
fn absolute(path: &std::path::Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::usage(format!("the path `{}`: {e}", path.display())))
}

/// Names in links and in the API are UTF-8, so that of a path must be too.
fn utf8(path: std::path::PathBuf) -> Result<std::path::PathBuf, Failure> {
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Failure::usage(format!(
            "the name `{}` is not UTF-8, which a link cannot carry; rename it",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("dunlin").chain(line.split_whitespace()).map(OsString::from);
        Cli::try_parse_from(words).map_err(|e| usage_line(&e))
    }

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_forms_that_others_rely_on_are_understood() {
        let tcp = "/ip4/127.0.0.1/tcp/0";
        let quic = "/ip4/127.0.0.1/udp/0/quic-v1";
        let peer = format!("{tcp}/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8");
        let node = format!("--listen {tcp} --listen {quic} --no-bootstrap --network mine --no-mdns");
        for line in [
            format!("share --json --data-dir d {node} file other"),
            format!("share --json --data-dir d --listen {tcp} --no-bootstrap file"),
            format!("get LINK --json -o out --data-dir d --listen {tcp} --no-bootstrap --peer {peer} --seed"),
            format!("get LINK --timeout 2.5 --force -q --bootstrap {peer} --bootstrap {peer}"),
            "add -q --data-dir d file".into(),
            "add --json --only-hash --hidden --preserve-mode --preserve-mtime --profile v1-256k a b".into(),
            format!("daemon --json --data-dir d {node}"),
            "--json status".into(),
            "status --json".into(),
            "-vv peers --config c.toml".into(),
            format!("cat {peer} --peer {peer} --timeout 2.5"),
            "ls LINK/path --timeout 60s".into(),
            format!("find LINK --json --data-dir d {node}"),
            "provide LINK --verify --json".into(),
            "add --provide all file".into(),
            "share --provide none file".into(),
            "daemon --external /ip4/1.2.3.4/tcp/1".into(),
            "list".into(),
            "id".into(),
            "pause x ./y --json".into(),
            "resume x -q".into(),
            "rm x --delete-part".into(),
            "verify x".into(),
            "peers --banned --json".into(),
            "pardon 12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8".into(),
            "limits".into(),
            "limits --up 1.5M --down unlimited --slots auto --json".into(),
            "limits --content x --up default".into(),
            "limits --peer 12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8 --down 10Ki".into(),
            "relocate x there".into(),
            format!("config {node}"),
            "completions bash".into(),
        ] {
            if let Err(error) = parse(&line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn a_program_of_another_name_says_that_in_its_advice() {
        for (words, wants) in
            [(["dunlin-0.1", "shear"], "`dunlin-0.1 --help`"), (["d2", "get"], "`d2 get --help`")]
        {
            let error = Cli::try_parse_from(words).map_err(|e| usage_line(&e)).unwrap_err();
            assert!(error.ends_with(wants), "{error}");
        }
    }

    #[test]
    fn bad_usage_is_one_line_that_says_what_would_be_right() {
        for (line, wants) in [
            ("", vec!["no command", "dunlin --help"]),
            ("shear x", vec!["'shear'", "'share'", "dunlin --help"]),
            ("get", vec!["<LINK>", "dunlin get --help"]),
            ("get a b", vec!["'b'"]),
            ("get a --frce", vec!["'--frce'", "'--force'"]),
            ("get a --timeout soon", vec!["'soon'", "seconds"]),
            ("get a --timeout 0", vec!["seconds"]),
            ("cat a --timeout 0", vec!["seconds"]),
            ("get a --peer /ip4/1.2.3.4/tcp/1", vec!["/p2p/ID"]),
            ("daemon --listen 4201", vec!["no multiaddr", "/ip4/0.0.0.0/tcp/4201"]),
            ("daemon --listen /ip4/1.2.3.4", vec!["/ip4/0.0.0.0/tcp/4201"]),
            ("daemon --listen /ip4/1.2.3.4/tcp/1 /ip4/1.2.3.4/tcp/2", vec!["unexpected argument"]),
            ("daemon --network Mine", vec!["a-z"]),
            ("list --listen /ip4/1.2.3.4/tcp/1", vec!["--listen"]),
            ("share", vec!["<PATH>"]),
            ("pause", vec!["<CONTENT>", "dunlin pause --help"]),
            ("resume", vec!["<CONTENT>", "dunlin resume --help"]),
            ("limits --up fast", vec!["`fast`", "10M"]),
            ("limits --up 0", vec!["unlimited"]),
            ("limits --slots 0", vec!["auto"]),
            ("limits --content x --slots 3", vec!["--content", "--slots"]),
            ("limits --content x --peer y", vec!["--peer"]),
        ] {
            let error = parse(line).expect_err(line);
            assert!(!error.contains('\n'), "{line}: {error}");
            for want in wants {
                assert!(error.contains(want), "{line}: no {want} in: {error}");
            }
        }
    }

    #[test]
    fn errors_have_the_exit_codes_that_are_promised() {
        let code = |e: anyhow::Error| format!("{:?}", failed(&e));
        let same = |n: u8| format!("{:?}", ExitCode::from(n));
        assert_eq!(code(Failure::usage("x").into()), same(2));
        assert_eq!(code(Failure::failed("x").into()), same(1));
        assert_eq!(code(anyhow::anyhow!("x")), same(1));
        assert_eq!(code(Interrupted.into()), same(130));
        assert_eq!(code(io::Error::from(io::ErrorKind::BrokenPipe).into()), same(0));
    }

    #[test]
    fn a_cause_is_told_once() {
        let tmp = tempfile::NamedTempFile::new().unwrap();
        let error = anyhow::Error::from(crate::node::lock::DataDir::open(tmp.path()).unwrap_err());
        assert_eq!(told(&error), error.to_string());
        assert_eq!(told(&error.context("starting")), format!("starting: {}", told(&error_again(tmp.path()))));
    }

    fn error_again(path: &std::path::Path) -> anyhow::Error {
        crate::node::lock::DataDir::open(path).unwrap_err().into()
    }

    #[test]
    fn a_path_is_meant_from_here_and_a_link_as_it_is() {
        let link = "magnet:?xt=urn:cid:bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        assert_eq!(content(link).unwrap(), link);
        let here = std::env::current_dir().unwrap().join("some file");
        assert_eq!(content("some file").unwrap(), here.to_str().unwrap());
        for bad in ["", "magnet:?xt=nothing", "/ipfs/", "ipfs://none"] {
            assert!(content(bad).unwrap_err().usage, "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_bad_usage() {
        use std::os::unix::ffi::OsStringExt;
        let error = utf8(OsString::from_vec(b"/a/\xff".to_vec()).into()).unwrap_err();
        assert!(error.usage && error.message.contains("UTF-8"), "{error}");
    }
}
