//! Answers that take time: one JSON object a line, as things happen.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::mpsc;

use super::jobs::Job;
use super::state::{App, shutting_down};
use crate::node::api::{Failure, Line, Progress};

/// Progress values that may wait for a slow reader; the work goes on when they are full.
pub const PROGRESS_QUEUE: usize = 16;

type Work = Pin<Box<dyn Future<Output = Result<Line, Failure>> + Send>>;

/// Makes of the result what is held until either side ends.
type Holding = Box<dyn FnOnce(&Line) -> Box<dyn Send> + Send>;

/// What happens after the last line.
pub enum After {
    End,
    /// Stay open.
    Hold(Holding),
}

enum Step {
    Work { work: Work, progress: mpsc::Receiver<Progress>, after: After },
    Hold(Box<dyn Send>),
    End,
}

struct State {
    app: Arc<App>,
    step: Step,
    _job: Job,
}

/// The answer that `work` gives: its progress, its result, and then what `after` says. When the reader
/// goes, `work` (or what is held) is dropped.
pub fn lines(
    app: &Arc<App>,
    job: Job,
    progress: mpsc::Receiver<Progress>,
    work: impl Future<Output = Result<Line, Failure>> + Send + 'static,
    after: After,
) -> Response {
    let step = Step::Work { work: Box::pin(work), progress, after };
    answer(State { app: app.clone(), step, _job: job })
}

/// One line, and then silence until either side ends.
pub fn line_and_hold(app: &Arc<App>, job: Job, line: Bytes) -> Response {
    let first = stream::iter([Ok(line)]);
    let state = State { app: app.clone(), step: Step::Hold(Box::new(())), _job: job };
    ndjson(Body::from_stream(stream::StreamExt::chain(first, stream::unfold(state, next))))
}

/// Lines that come of themselves, until the last.
pub fn forward(app: &Arc<App>, job: Job, lines: mpsc::Receiver<Line>) -> Response {
    let state = (app.clone(), job, lines, false);
    ndjson(Body::from_stream(stream::unfold(state, |(app, job, mut lines, ended)| async move {
        if ended {
            return None;
        }
        let (line, ended) = tokio::select! {
            biased;
            () = app.stopped() => (Line::Error(shutting_down()), true),
            line = lines.recv() => (line?, false),
        };
        Some((Ok::<_, std::convert::Infallible>(encode(&line)), (app, job, lines, ended)))
    })))
}

fn answer(state: State) -> Response {
    ndjson(Body::from_stream(stream::unfold(state, next)))
}

fn ndjson(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

async fn next(mut state: State) -> Option<(Result<Bytes, std::convert::Infallible>, State)> {
    let line = match std::mem::replace(&mut state.step, Step::End) {
        Step::End => return None,
        Step::Hold(held) => {
            state.app.stopped().await;
            drop(held);
            return None;
        }
        Step::Work { mut work, mut progress, after } => {
            let line = tokio::select! {
                biased;
                () = state.app.stopped() => Line::Error(shutting_down()),
                done = &mut work => done.unwrap_or_else(Line::Error),
                Some(p) = progress.recv() => Line::Progress(p),
            };
            state.step = match (&line, after) {
                (Line::Progress(_), after) => Step::Work { work, progress, after },
                (Line::Error(_), _) | (_, After::End) => Step::End,
                (_, After::Hold(hold)) => Step::Hold(hold(&line)),
            };
            line
        }
    };
    Some((Ok(encode(&line)), state))
}

/// A value as a line.
pub fn encode<T: serde::Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_else(|e| {
        // A path that is not UTF-8 is the only thing that JSON cannot say.
        let failure = Line::Error(Failure::failed(format!("cannot put the answer into JSON: {e}")));
        serde_json::to_vec(&failure).expect("a message is always JSON")
    });
    line.push(b'\n');
    line.into()
}
