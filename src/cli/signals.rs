//! Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean end, the second ends at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The exit code of what a signal interrupted.
pub const INTERRUPTED: u8 = 130;

#[derive(Clone, Debug)]
pub struct Signals {
    asked: watch::Receiver<bool>,
}

impl Signals {
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// The system refuses signal handlers.
    pub fn install() -> io::Result<Signals> {
        let (tell, asked) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if tell.send_replace(true) {
                    std::process::exit(INTERRUPTED.into());
                }
            }
        });
        Ok(Signals { asked })
    }

    /// Waits for the first signal; at once if it has come already.
    pub async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|&asked| asked).await.is_err() {
            // The task that listens never ends; without it there is nothing to wait for.
            std::future::pending().await
        }
    }
}
