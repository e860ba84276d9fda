//! Results go to stdout, everything else that is for people to stderr.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

use super::escape::{escape, escape_json};

/// In what form a command speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Human,
    /// One compact object a line, and nothing else on stdout.
    Json,
    /// The bare result.
    Quiet,
}

#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub mode: Mode,
}

impl Output {
    pub fn is_json(self) -> bool {
        self.mode == Mode::Json
    }

    pub fn is_quiet(self) -> bool {
        self.mode == Mode::Quiet
    }

    /// A JSON object as a line.
    pub fn json(self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(value)?;
        self.raw(escape_json(&json).as_bytes())?;
        self.raw(b"\n")
    }

    /// A line that a program may read: escaped only where it meets a terminal.
    pub fn line(self, text: &str) -> io::Result<()> {
        let stdout = io::stdout();
        let text = if stdout.is_terminal() { escape(text) } else { text.into() };
        self.raw(format!("{text}\n").as_bytes())
    }

    pub fn path(self, path: &Path) -> io::Result<()> {
        self.line(&path.to_string_lossy())
    }

    /// Lines for people, escaped already where they need it.
    pub fn text(self, text: &str) -> io::Result<()> {
        self.raw(text.as_bytes())
    }

    fn raw(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// A remark on stderr, unless only results are wanted.
    pub fn note(self, text: &str) {
        if self.mode == Mode::Human {
            say(text);
        }
    }

    /// Something that the user should know although the command goes on.
    pub fn warn(self, text: &str) {
        say(&format!("dunlin: {text}"));
    }
}

/// One escaped line on stderr. Without a stderr there is nobody to tell.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", escape(text));
}
