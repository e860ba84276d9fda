//! A data directory, and the `dunlin` processes that run on it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// No test waits longer for one thing. Generous: a debug build on a busy machine with two cores.
pub const LONG: Duration = Duration::from_secs(120);
/// Between looks at what tells nobody that it changed (exit, files).
pub const PAUSE: Duration = Duration::from_millis(3);

/// A folder with a data directory `data` in it; commands run in the folder.
pub struct Home {
    dir: TempDir,
    listen: &'static str,
    program: PathBuf,
}

impl Home {
    pub fn new() -> Home {
        Home::on(TCP)
    }

    /// Its nodes listen on `listen` alone.
    pub fn on(listen: &'static str) -> Home {
        let dir = tempfile::Builder::new().prefix("dunlin-it-").tempdir().unwrap();
        Home { dir, listen, program: env!("CARGO_BIN_EXE_dunlin").into() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The bare command: nothing of the user's settings, this home's data directory.
    pub fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DUNLIN_") {
                command.env_remove(name);
            }
        }
        command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME").env_remove("RUST_LOG");
        command.env("HOME", self.path()).env("DUNLIN_DATA_DIR", self.data());
        command
    }

    /// Runs to its end a command that starts no node of its own, or attaches to one.
    pub fn run(&self, args: &[OsString]) -> Done {
        Running::spawn(self.command(args)).wait()
    }

    /// The same, and it must succeed.
    pub fn ok(&self, args: &[OsString]) -> Done {
        self.run(args).ok()
    }

    /// Starts a command with a node of its own: on loopback, without bootstrap peers.
    pub fn start(&self, args: &[OsString]) -> Running {
        let mut command = self.command(args);
        command.args(["--listen", self.listen]);
        if !args.iter().any(|a| a == "--bootstrap") {
            command.arg("--no-bootstrap");
        }
        Running::spawn(command)
    }

    /// A daemon, and its one line.
    pub fn daemon(&self, more: &[OsString]) -> (Running, Value) {
        let args: Vec<OsString> =
            ["daemon", "--json"].into_iter().map(OsString::from).chain(more.iter().cloned()).collect();
        let mut daemon = self.start(&args);
        let line = daemon.json();
        (daemon, line)
    }

    pub fn status(&self) -> Value {
        one_json(&self.ok(&["status".into(), "--json".into()]))
    }
}

fn one_json(done: &Done) -> Value {
    let lines = done.json();
    assert_eq!(lines.len(), 1, "not one JSON line: {:?}", done.stdout);
    lines.into_iter().next().expect("one line")
}

/// The first address of a node's line, ending in /p2p/ID.
pub fn address(line: &Value) -> String {
    let listen = line["listen"].as_array().unwrap_or_else(|| panic!("no `listen` in {line}"));
    let first = listen.first().and_then(Value::as_str).unwrap_or_else(|| panic!("listens nowhere: {line}"));
    assert!(first.contains("/p2p/"), "{first} does not name the peer");
    first.to_owned()
}

pub fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {line}"))
}

pub fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {line}"))
}

/// What a process has said on stderr so far.
#[derive(Default)]
struct Said {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

impl Said {
    fn get(&self) -> String {
        self.text.lock().unwrap().0.clone()
    }
}

/// A process. Killed when dropped; what it said on stderr is shown when the test fails.
pub struct Running {
    child: Child,
    what: String,
    stdout: Receiver<String>,
    stderr: Arc<Said>,
}

/// A process that has ended.
pub struct Done {
    pub what: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    pub fn spawn(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let what = command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let what = what.chars().take(400).collect();
        let (lines, stdout) = sync_channel(1_024);
        let from = child.stdout.take().expect("piped");
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let stderr = Arc::new(Said::default());
        let (said, mut from) = (stderr.clone(), child.stderr.take().expect("piped"));
        thread::spawn(move || {
            let mut some = [0; 4_096];
            while let Ok(n) = from.read(&mut some)
                && n > 0
            {
                said.text.lock().unwrap().0 += &String::from_utf8_lossy(&some[..n]);
                said.more.notify_all();
            }
            said.text.lock().unwrap().1 = true;
            said.more.notify_all();
        });
        Running { child, what, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin, if the command was given one; once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped, and not taken before")
    }

    /// The next line on stdout, which must be JSON.
    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("`{}`: {e} in {line:?}", self.what))
    }

    /// The next line on stdout.
    pub fn line(&mut self) -> String {
        match self.stdout.recv_timeout(LONG) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("`{}` has printed nothing for {LONG:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait();
                panic!("`{}` ended ({status:?}) without a line on stdout", self.what)
            }
        }
    }

    pub fn stderr(&self) -> String {
        self.stderr.get()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has an id");
        kill_process(pid, signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Done {
        let until = Instant::now() + LONG;
        let status = self.wait_status(until);
        let mut stdout = String::new();
        // The pipe ends with the process and whoever inherited it, which is nobody.
        while let Ok(line) = self.stdout.recv_timeout(Duration::from_secs(5)) {
            stdout += &line;
        }
        let mut said = self.stderr.text.lock().unwrap();
        while !said.1 && Instant::now() < until {
            said = self.stderr.more.wait_timeout(said, Duration::from_secs(5)).unwrap().0;
        }
        let stderr = said.0.clone();
        drop(said);
        Done { what: self.what.clone(), code: status.code(), stdout, stderr }
    }

    fn wait_status(&mut self, until: Instant) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "`{}` has not ended within {LONG:?}", self.what);
            thread::sleep(PAUSE);
        }
    }

    /// Interrupts it (as Ctrl-C does) and waits for its end.
    pub fn interrupt(self) -> Done {
        self.signal(Signal::INT);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stderr of `{}`:\n{}---", self.what, self.stderr());
        }
    }
}

impl Done {
    pub fn ok(self) -> Done {
        self.code(0)
    }

    pub fn code(self, code: i32) -> Done {
        let Done { what, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "`{what}`\n--- stdout:\n{stdout}--- stderr:\n{stderr}---");
        self
    }

    /// The JSON objects on stdout, one a line and nothing else.
    pub fn json(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("`{}`: {e}: {line}", self.what));
        self.stdout.lines().map(parse).collect()
    }

    /// The error it ended with: the last line on stderr.
    pub fn error(&self) -> &str {
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("dunlin: "), "`{}` does not end with an error:\n{}", self.what, self.stderr);
        last
    }
}
