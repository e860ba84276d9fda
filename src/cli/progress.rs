//! How far it is: a bar on a terminal, a line each 5 s elsewhere, nothing with `-q` and `--json`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape;
use super::human;
use super::output::{Mode, Output, say};
use crate::node::api::Progress;

const PLAIN_EVERY: Duration = Duration::from_secs(5);

pub enum Meter {
    Silent,
    Plain { verb: &'static str, next: Instant },
    Bar(ProgressBar),
}

impl Meter {
    /// `verb`: what is being done, such as `fetching`.
    pub fn new(out: Output, verb: &'static str) -> Meter {
        if out.mode != Mode::Human {
            return Meter::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Meter::Plain { verb, next: Instant::now() + PLAIN_EVERY };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(false));
        Meter::Bar(bar)
    }

    pub fn update(&mut self, progress: &Progress) {
        match self {
            Meter::Silent => {}
            Meter::Plain { verb, next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + PLAIN_EVERY;
                    say(&format!("{verb}: {}", describe(progress)));
                }
            }
            Meter::Bar(bar) => {
                if bar.length() != progress.total {
                    bar.set_style(style(progress.total.is_some()));
                    match progress.total {
                        Some(total) => bar.set_length(total),
                        None => bar.unset_length(),
                    }
                }
                bar.set_position(progress.done);
                bar.set_message(escape(&describe(progress)).into_owned());
                bar.tick();
            }
        }
    }

    /// Takes the bar away before something else is said.
    pub fn clear(&mut self) {
        if let Meter::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One line of text that changes, on a terminal; nothing elsewhere.
pub struct Ticker(Option<ProgressBar>);

impl Ticker {
    pub fn new(out: Output) -> Ticker {
        if out.mode != Mode::Human || !std::io::stderr().is_terminal() {
            return Ticker(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(false));
        Ticker(Some(bar))
    }

    pub fn say(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(escape(text).into_owned());
            bar.tick();
        }
    }

    /// Does something that prints, with the line taken away meanwhile.
    pub fn apart<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(bar: bool) -> ProgressStyle {
    let template = if bar { "{bar:24} {wide_msg}" } else { "{spinner} {wide_msg}" };
    ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> ")
}

/// `45 %, 12.0 MiB of 27.0 MiB, 4.1 MiB/s, 3 peers, 4 s left, fetching`; what is not known is left out.
fn describe(p: &Progress) -> String {
    let mut parts = Vec::new();
    match p.total {
        Some(total) => {
            let percent = if total == 0 { 100 } else { u128::from(p.done) * 100 / u128::from(total) };
            parts.push(format!("{percent} %"));
            parts.push(format!("{} of {}", human::bytes(p.done), human::bytes(total)));
        }
        None => parts.push(human::bytes(p.done)),
    }
    if p.files > 1 {
        parts.push(format!("{} files", p.files));
    }
    if p.rate >= 1.0 {
        parts.push(human::rate(p.rate));
    }
    match p.peers {
        0 => {}
        1 => parts.push("1 peer".to_owned()),
        n => parts.push(format!("{n} peers")),
    }
    if let Some(left) = p.total.and_then(|t| t.checked_sub(p.done)).filter(|&left| left > 0 && p.rate >= 1.0)
    {
        parts.push(format!("{} left", human::duration((left as f64 / p.rate).ceil())));
    }
    if !p.state.is_empty() {
        parts.push(p.state.clone());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        let mut p = Progress { state: "looking for peers".into(), ..Progress::default() };
        assert_eq!(describe(&p), "0 B, looking for peers");
        p = Progress {
            done: 1 << 20,
            total: Some(4 << 20),
            files: 2,
            rate: 1048576.0,
            peers: 3,
            state: "x".into(),
            ..Progress::default()
        };
        assert_eq!(describe(&p), "25 %, 1.0 MiB of 4.0 MiB, 2 files, 1.0 MiB/s, 3 peers, 3 s left, x");
        p = Progress { total: Some(0), ..Progress::default() };
        assert_eq!(describe(&p), "100 %, 0 B of 0 B");
    }
}
