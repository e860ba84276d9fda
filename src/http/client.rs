//! Asks a node: over its control socket, or, if it lives in this process, its router directly. Whoever
//! asks does not see which.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::state::App;
use super::{Holder, Pardon, Relocate, Remove, What};
use crate::node::api::{
    AddRequest, Banned, ContentStatus, Failure, GetRequest, Identity, Limits, LimitsRequest, Line, Listed,
    Peers, ProvideRequest, ProvidedLine, ReadRequest, Status,
};
use crate::node::lock;

/// The largest answer that is taken whole (a list of half a million contents).
const MAX_ANSWER: usize = 512 << 20;

/// The longest line of an answer.
const MAX_LINE: usize = 4 << 20;

/// How long a node may take to say who it is: it may still be starting.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// A way to ask a node.
#[derive(Clone, Debug)]
pub struct Client {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Socket(Arc<Path>),
    Here(Router),
}

/// Why a control socket could not be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody serves it at the moment: its holder is just starting or ending.
    #[error("nobody answers on the control socket")]
    Gone,
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// As long as this lives, the node counts us among its jobs.
#[derive(Debug)]
pub struct Presence(#[allow(dead_code, reason = "held, not read")] Lines);

impl Client {
    /// Asks the node of this process.
    pub fn local(app: &Arc<App>) -> Client {
        Client { backend: Backend::Here(super::router(app)) }
    }

    /// Asks the node that owns `data_dir`.
    ///
    /// # Errors
    /// [`AttachError::Gone`] if it is worth to try again (or to take the directory's lock).
    pub async fn attach(data_dir: &Path) -> Result<(Client, Holder, Presence), AttachError> {
        let client = Client { backend: Backend::Socket(data_dir.into()) };
        let answer = async {
            let (response, connection) = client.send(Method::GET, "/v1/attach", None).await?;
            Ok::<_, CallError>((response.status(), Lines::new(response.into_body(), connection)))
        };
        let answer = match tokio::time::timeout(ATTACH_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(CallError::Gone(error))) => {
                tracing::debug!("control socket: {error}");
                return Err(AttachError::Gone);
            }
            Ok(Err(CallError::Failed(failure))) => return Err(failure.into()),
            Err(_) => {
                let text = "the node that owns the data directory does not answer on its control socket";
                return Err(Failure::failed(text).into());
            }
        };
        match answer {
            (StatusCode::SERVICE_UNAVAILABLE, _) => Err(AttachError::Gone),
            (StatusCode::OK, mut lines) => match lines.next_value::<Holder>().await {
                Some(holder) => Ok((client, holder?, Presence(lines))),
                None => Err(AttachError::Gone),
            },
            (status, _) => {
                let text =
                    format!("the node of the data directory speaks another version of the API ({status})");
                Err(Failure::failed(text).into())
            }
        }
    }

    pub async fn identity(&self) -> Result<Identity, Failure> {
        self.get_json("/v1/id").await
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        self.get_json("/v1/status").await
    }

    pub async fn list(&self) -> Result<Vec<ContentStatus>, Failure> {
        self.get_json("/v1/list").await
    }

    pub async fn peers(&self) -> Result<Peers, Failure> {
        self.get_json("/v1/peers").await
    }

    pub async fn banned(&self) -> Result<Vec<Banned>, Failure> {
        self.get_json("/v1/banned").await
    }

    pub async fn pardon(&self, request: &Pardon) -> Result<Banned, Failure> {
        self.post_json("/v1/pardon", request).await
    }

    pub async fn limits(&self) -> Result<Limits, Failure> {
        self.get_json("/v1/limits").await
    }

    pub async fn set_limits(&self, request: &LimitsRequest) -> Result<Limits, Failure> {
        self.post_json("/v1/limits", request).await
    }

    pub async fn ls(&self, request: &ReadRequest) -> Result<Vec<Listed>, Failure> {
        self.get_json(&with_query("/v1/ls", request)).await
    }

    /// The bytes behind a link; an error in their middle comes as the last item.
    pub async fn cat(&self, request: &ReadRequest) -> Result<Stream, Failure> {
        let (response, connection) = self.checked(Method::GET, &with_query("/v1/cat", request), None).await?;
        Ok(Stream { body: response.into_body(), _connection: connection })
    }

    pub async fn add(&self, request: &AddRequest) -> Result<Lines, Failure> {
        self.post_lines("/v1/add", request).await
    }

    /// Shared as long as the lines are held.
    pub async fn share(&self, request: &AddRequest) -> Result<Lines, Failure> {
        self.post_lines("/v1/share", request).await
    }

    /// Dropping the lines ends the fetch for now.
    pub async fn get(&self, request: &GetRequest) -> Result<Lines, Failure> {
        self.post_lines("/v1/get", request).await
    }

    pub async fn verify(&self, what: &str) -> Result<Lines, Failure> {
        self.post_lines("/v1/verify", &What { what: what.to_owned() }).await
    }

    /// Dropping the lines ends the look-up.
    pub async fn find(&self, link: &str) -> Result<Lines, Failure> {
        let request = ReadRequest { link: link.to_owned(), ..ReadRequest::default() };
        let (response, connection) =
            self.checked(Method::GET, &with_query("/v1/find", &request), None).await?;
        Ok(Lines::new(response.into_body(), connection))
    }

    pub async fn provide(&self, request: &ProvideRequest) -> Result<ProvidedLine, Failure> {
        self.post_json("/v1/provide", request).await
    }

    pub async fn pause(&self, what: &str) -> Result<ContentStatus, Failure> {
        self.post_json("/v1/pause", &What { what: what.to_owned() }).await
    }

    pub async fn resume(&self, what: &str) -> Result<ContentStatus, Failure> {
        self.post_json("/v1/resume", &What { what: what.to_owned() }).await
    }

    pub async fn remove(&self, request: &Remove) -> Result<ContentStatus, Failure> {
        self.post_json("/v1/rm", request).await
    }

    pub async fn relocate(&self, request: &Relocate) -> Result<ContentStatus, Failure> {
        self.post_json("/v1/relocate", request).await
    }

    pub async fn shutdown(&self) -> Result<(), Failure> {
        self.post_json::<serde_json::Value>("/v1/shutdown", &()).await.map(drop)
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (response, _connection) = self.checked(Method::GET, path, None).await?;
        read_json(response.into_body()).await
    }

    async fn post_json<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T, Failure> {
        let (response, _connection) = self.checked(Method::POST, path, Some(to_json(value)?)).await?;
        read_json(response.into_body()).await
    }

    async fn post_lines(&self, path: &str, value: &impl Serialize) -> Result<Lines, Failure> {
        let (response, connection) = self.checked(Method::POST, path, Some(to_json(value)?)).await?;
        Ok(Lines::new(response.into_body(), connection))
    }

    /// An answer that is no failure.
    async fn checked(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Response<Body>, Option<Connection>), Failure> {
        let (response, connection) = self.send(method, path, body).await.map_err(CallError::into_failure)?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let unclear = |_| Failure::failed(format!("the node answered {status} and did not say why"));
        Err(read_json::<Failure>(response.into_body()).await.unwrap_or_else(unclear))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Response<Body>, Option<Connection>), CallError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "dunlin")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, Body::from))
            .map_err(|e| CallError::Failed(Failure::usage(format!("cannot ask for {path}: {e}"))))?;
        match &self.backend {
            Backend::Here(router) => {
                let service = TowerToHyperService::new(router.clone());
                let Ok(response) = hyper::service::Service::call(&service, request).await;
                Ok((response, None))
            }
            Backend::Socket(data_dir) => {
                let (mut sender, connection) = connect(data_dir).await?;
                let response = sender.send_request(request).await.map_err(io::Error::other)?;
                Ok((response.map(Body::new), Some(connection)))
            }
        }
    }
}

async fn connect(data_dir: &Path) -> io::Result<(http1::SendRequest<Body>, Connection)> {
    let stream = lock::connect_control(data_dir)?;
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let task = tokio::spawn(async move {
        // What goes wrong here is seen by whoever waits for the answer.
        let _ = connection.await;
    });
    Ok((sender, Connection(task.abort_handle())))
}

/// Hangs up when dropped, so that the node sees at once that nobody reads on.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum CallError {
    /// No connection, or it ended before an answer.
    Gone(io::Error),
    Failed(Failure),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> CallError {
        CallError::Gone(error)
    }
}

impl CallError {
    fn into_failure(self) -> Failure {
        match self {
            CallError::Gone(error) => Failure::failed(format!("the running node is gone ({error})")),
            CallError::Failed(failure) => failure,
        }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Body,
    read: BytesMut,
    ended: bool,
    _connection: Option<Connection>,
}

impl Lines {
    fn new(body: Body, connection: Option<Connection>) -> Lines {
        Lines { body, read: BytesMut::new(), ended: false, _connection: connection }
    }

    /// The next line; `None` when the node has ended its answer.
    pub async fn next(&mut self) -> Option<Result<Line, Failure>> {
        self.next_value().await
    }

    /// Cancel-safe: what has been read is kept.
    async fn next_value<T: DeserializeOwned>(&mut self) -> Option<Result<T, Failure>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.read[searched..].iter().position(|&b| b == b'\n') {
                let line = self.read.split_to(searched + at + 1);
                return Some(serde_json::from_slice(&line).map_err(|e| not_understood(&e)));
            }
            searched = self.read.len();
            if self.ended || searched > MAX_LINE {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) | None => self.ended = true,
            }
        }
    }
}

/// Bytes as they come.
#[derive(Debug)]
pub struct Stream {
    body: Body,
    _connection: Option<Connection>,
}

impl Stream {
    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// The content broke off; what the node says about it, if it can.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(broken(&error))),
            }
        }
    }
}

/// The innermost cause says the most: in-process it is the node's own failure.
fn broken(error: &axum::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<Failure>() {
        Some(failure) => failure.clone(),
        None => {
            Failure::failed(format!("the bytes broke off ({cause}); `dunlin status` of the node may say why"))
        }
    }
}

fn to_json(value: &impl Serialize) -> Result<Bytes, Failure> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from).map_err(|e| Failure::usage(format!("cannot put the request into JSON: {e}")))
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    let bytes = Limited::new(body, MAX_ANSWER).collect().await;
    let bytes = bytes.map_err(|e| Failure::failed(format!("the node's answer broke off: {e}")))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| not_understood(&e))
}

fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::failed(format!("cannot understand the node's answer ({error}); is it of another version?"))
}

fn with_query(path: &str, request: &ReadRequest) -> String {
    let encode = |s| utf8_percent_encode(s, NON_ALPHANUMERIC);
    let mut out = format!("{path}?link={}", encode(&request.link));
    for peer in &request.peers {
        out.push_str("&peer=");
        out.extend(encode(peer));
    }
    if let Some(seconds) = request.timeout {
        out += &format!("&timeout={seconds}");
    }
    out
}
