//! The routes: each takes a request apart, asks the node, and puts the answer together.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::gate::{Posted, Refusal, gate, refused};
use super::jobs::Job;
use super::state::{App, shutting_down};
use super::stream::{After, PROGRESS_QUEUE, encode, forward, line_and_hold, lines};
use super::{Pardon, Relocate, Remove, What};
use crate::node::api::{
    AddRequest, Banned, ContentStatus, Failure, GetRequest, Identity, Limits, LimitsRequest, Line, Listed,
    Peers, ProvideRequest, ProvidedLine, ReadRequest, Status,
};

type Answer<T> = Result<Json<T>, Refusal>;
type Streamed = Result<Response, Refusal>;
type Pairs = Query<Vec<(String, String)>>;

/// All routes over one node.
pub fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/v1/id", get(id))
        .route("/v1/attach", get(attach))
        .route("/v1/status", get(status))
        .route("/v1/list", get(list))
        .route("/v1/peers", get(peers))
        .route("/v1/banned", get(banned))
        .route("/v1/pardon", post(pardon))
        .route("/v1/limits", get(limits).post(set_limits))
        .route("/v1/add", post(add))
        .route("/v1/share", post(share))
        .route("/v1/get", post(fetch))
        .route("/v1/verify", post(verify))
        .route("/v1/find", get(find))
        .route("/v1/provide", post(provide))
        .route("/v1/ls", get(ls))
        .route("/v1/cat", get(cat))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/rm", post(rm))
        .route("/v1/relocate", post(relocate))
        .route("/v1/shutdown", post(shutdown))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "there is no such route; see /v1/status") })
        .method_not_allowed_fallback(|| async {
            refused(StatusCode::METHOD_NOT_ALLOWED, "this route takes another method")
        })
        .layer(middleware::from_fn(gate))
        .with_state(app.clone())
}

async fn id(State(app): State<Arc<App>>) -> Json<Identity> {
    Json(app.node.identity())
}

async fn attach(State(app): State<Arc<App>>) -> Streamed {
    let job = begin(&app, &[])?;
    let line = encode(&app.holder());
    Ok(line_and_hold(&app, job, line))
}

async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    Json(Status { daemon: app.is_daemon(), ..app.node.status().await })
}

async fn list(State(app): State<Arc<App>>) -> Answer<Vec<ContentStatus>> {
    Ok(Json(app.node.list().await?))
}

async fn peers(State(app): State<Arc<App>>) -> Json<Peers> {
    Json(app.node.peers().await)
}

async fn banned(State(app): State<Arc<App>>) -> Answer<Vec<Banned>> {
    Ok(Json(app.node.banned().await?))
}

async fn pardon(State(app): State<Arc<App>>, Posted(Pardon { peer }): Posted<Pardon>) -> Answer<Banned> {
    Ok(Json(app.node.pardon(&peer).await?))
}

async fn limits(State(app): State<Arc<App>>) -> Answer<Limits> {
    Ok(Json(app.node.limits().await?))
}

async fn set_limits(State(app): State<Arc<App>>, Posted(request): Posted<LimitsRequest>) -> Answer<Limits> {
    Ok(Json(app.node.set_limits(request).await?))
}

async fn add(State(app): State<Arc<App>>, Posted(request): Posted<AddRequest>) -> Streamed {
    let job = begin(&app, &[&request.path])?;
    let (progress, receiver) = mpsc::channel(PROGRESS_QUEUE);
    let work = {
        let app = app.clone();
        async move {
            let shared = app.node.add(request, progress).await?;
            app.shares().keep(&shared.cid);
            Ok(Line::Done(shared))
        }
    };
    Ok(lines(&app, job, receiver, work, After::End))
}

async fn share(State(app): State<Arc<App>>, Posted(request): Posted<AddRequest>) -> Streamed {
    let job = begin(&app, &[&request.path])?;
    let (progress, receiver) = mpsc::channel(PROGRESS_QUEUE);
    // Begun where the work ends, without a wait in between: whenever the reader goes, each share that
    // began has its end.
    let (began, begun) = std::sync::mpsc::sync_channel(1);
    let work = {
        let app = app.clone();
        async move {
            let before = served(&app).await?;
            let shared = app.node.add(request, progress).await?;
            let share = Shared::begin(&app, &shared.cid, before.contains(&shared.cid));
            // There is room for the one; a receiver that is gone drops the share, which ends it.
            let _ = began.send(share);
            Ok(Line::Done(shared))
        }
    };
    let after = After::Hold(Box::new(move |_| Box::new(begun.try_recv().ok())));
    Ok(lines(&app, job, receiver, work, after))
}

/// The CIDs that the node serves for good.
async fn served(app: &App) -> Result<BTreeSet<String>, Failure> {
    let contents = app.node.list().await?;
    let served = |c: &ContentStatus| c.complete && (c.state.starts_with("seeding") || c.paused);
    Ok(contents.into_iter().filter(served).map(|c| c.cid).collect())
}

/// A content that is served until this is dropped.
struct Shared {
    app: Arc<App>,
    cid: String,
    /// Taken along to the end of the withdrawal, so that the node does not end before.
    job: Option<Job>,
}

impl Shared {
    fn begin(app: &Arc<App>, cid: &str, served_before: bool) -> Shared {
        app.shares().begin(cid, served_before);
        Shared { app: app.clone(), cid: cid.to_owned(), job: app.enter().ok() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.app.shares().end(&self.cid) {
            return;
        }
        let (app, cid, job) = (self.app.clone(), std::mem::take(&mut self.cid), self.job.take());
        // Without a runtime the whole process is on its way out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(failure) = app.node.withdraw(&cid).await {
                    tracing::warn!("cannot withdraw {cid}: {failure}");
                }
                drop(job);
            });
        }
    }
}

async fn fetch(State(app): State<Arc<App>>, Posted(mut request): Posted<GetRequest>) -> Streamed {
    let dest = request.dest.as_deref().unwrap_or(&request.folder);
    let job = begin(&app, &[dest, &request.folder])?;
    request.timeout.map_or(Ok(()), timeout)?;
    // A daemon goes on serving whatever it fetched.
    let after =
        if request.seed && !app.is_daemon() { After::Hold(Box::new(|_| Box::new(()))) } else { After::End };
    request.seed |= app.is_daemon();
    let (progress, receiver) = mpsc::channel(PROGRESS_QUEUE);
    let work = {
        let app = app.clone();
        async move {
            let keep = request.seed;
            let shared = app.node.get(request, progress).await?;
            if keep {
                app.shares().keep(&shared.cid);
            }
            Ok(Line::Done(shared))
        }
    };
    Ok(lines(&app, job, receiver, work, after))
}

async fn verify(State(app): State<Arc<App>>, Posted(What { what }): Posted<What>) -> Streamed {
    let job = begin(&app, &[])?;
    let (progress, receiver) = mpsc::channel(PROGRESS_QUEUE);
    let work = {
        let app = app.clone();
        async move { app.node.verify(&what, progress).await.map(Line::Verified) }
    };
    Ok(lines(&app, job, receiver, work, After::End))
}

async fn find(State(app): State<Arc<App>>, Query(pairs): Pairs) -> Streamed {
    let job = begin(&app, &[])?;
    let receiver = app.node.find_providers(&read_request(pairs)?.link).await?;
    Ok(forward(&app, job, receiver))
}

async fn provide(
    State(app): State<Arc<App>>,
    Posted(request): Posted<ProvideRequest>,
) -> Answer<ProvidedLine> {
    Ok(Json(app.node.provide_now(request).await?))
}

async fn ls(State(app): State<Arc<App>>, Query(pairs): Pairs) -> Answer<Vec<Listed>> {
    Ok(Json(app.node.ls(read_request(pairs)?).await?))
}

async fn cat(State(app): State<Arc<App>>, Query(pairs): Pairs) -> Streamed {
    let job = begin(&app, &[])?;
    let (length, first, rest) = open_cat(&app, pairs).await?;
    let bytes = stream::iter(first.map(Ok)).chain(ReceiverStream::new(rest));
    let held = bytes.map(move |item| {
        let _busy = &job;
        item
    });
    let mut response = Body::from_stream(held).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

/// Waits for the first bytes, so that what fails before them is told in words.
async fn open_cat(
    app: &App,
    pairs: Vec<(String, String)>,
) -> Result<(Option<u64>, Option<Bytes>, mpsc::Receiver<Result<Bytes, Failure>>), Failure> {
    let (length, mut bytes) = app.node.cat(read_request(pairs)?).await?;
    let first = tokio::select! {
        first = bytes.recv() => first.transpose()?,
        () = app.stopped() => return Err(shutting_down()),
    };
    Ok((length, first, bytes))
}

async fn pause(State(app): State<Arc<App>>, Posted(What { what }): Posted<What>) -> Answer<ContentStatus> {
    Ok(Json(app.node.pause(&what).await?))
}

async fn resume(State(app): State<Arc<App>>, Posted(What { what }): Posted<What>) -> Answer<ContentStatus> {
    Ok(Json(app.node.resume(&what).await?))
}

async fn rm(State(app): State<Arc<App>>, Posted(request): Posted<Remove>) -> Answer<ContentStatus> {
    Ok(Json(app.node.remove(&request.what, request.delete_part).await?))
}

async fn relocate(State(app): State<Arc<App>>, Posted(request): Posted<Relocate>) -> Answer<ContentStatus> {
    absolute(&request.path)?;
    Ok(Json(app.node.relocate(&request.what, request.path).await?))
}

async fn shutdown(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    app.stop();
    Json(serde_json::json!({}))
}

/// Enters a job whose paths are as they must be.
fn begin(app: &App, paths: &[&Path]) -> Result<Job, Refusal> {
    for path in paths {
        absolute(path)?;
    }
    app.enter().map_err(Refusal::unavailable)
}

fn absolute(path: &Path) -> Result<(), Failure> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Failure::usage(format!("the path `{}` is not absolute", path.display())))
}

fn timeout(seconds: f64) -> Result<(), Failure> {
    // As many as `get` takes: what is more is no time that anybody waits.
    match seconds > 0.0 && seconds <= 1e9 {
        true => Ok(()),
        false => Err(Failure::usage("the timeout must be a number of seconds above 0")),
    }
}

fn read_request(pairs: Vec<(String, String)>) -> Result<ReadRequest, Failure> {
    let (mut link, mut request) = (None, ReadRequest::default());
    for (key, value) in pairs {
        match key.as_str() {
            "link" if link.is_none() => link = Some(value),
            "peer" => request.peers.push(value),
            "timeout" if request.timeout.is_none() => {
                let seconds = value.parse().unwrap_or(f64::NAN);
                timeout(seconds)?;
                request.timeout = Some(seconds);
            }
            _ => {
                return Err(Failure::usage(format!(
                    "unknown or repeated parameter `{key}`; take link, peer and timeout"
                )));
            }
        }
    }
    let link = link.ok_or_else(|| Failure::usage("the parameter `link` is missing"))?;
    Ok(ReadRequest { link, ..request })
}
