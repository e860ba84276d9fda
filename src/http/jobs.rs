//! Counts what the node is busy with, so that a foreground command can end with the last of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Jobs {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    closing: bool,
}

/// A job runs as long as this lives.
#[derive(Debug)]
pub struct Job {
    jobs: Arc<Jobs>,
}

impl Jobs {
    /// `None` once closing: a job that comes too late is refused, never cut off.
    pub fn enter(self: &Arc<Jobs>) -> Option<Job> {
        let mut state = self.lock();
        if state.closing {
            return None;
        }
        state.running += 1;
        Some(Job { jobs: self.clone() })
    }

    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// Refuses new jobs from now on.
    pub fn close(&self) {
        self.lock().closing = true;
    }

    /// Waits until nothing runs, and refuses new jobs in the same instant.
    pub async fn close_when_idle(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if state.running == 0 {
                    state.closing = true;
                    return;
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Two plain fields cannot be left half-changed by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.jobs.lock().running -= 1;
        self.jobs.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closes_with_the_last_job_and_refuses_the_next() {
        let jobs = Arc::new(Jobs::default());
        let (a, b) = (jobs.enter().unwrap(), jobs.enter().unwrap());
        let waiter = tokio::spawn({
            let jobs = jobs.clone();
            async move { jobs.close_when_idle().await }
        });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        let c = jobs.enter().unwrap();
        drop(b);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(c);
        waiter.await.unwrap();
        assert!(jobs.enter().is_none());
    }
}
