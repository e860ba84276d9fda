//! The router by itself, in-process and over its socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;

use super::client::{AttachError, Client, Lines};
use super::{App, Remove, Role, router, serve};
use crate::node::NodeHandle;
use crate::node::api::{AddRequest, ContentStatus, Failure, Line, ReadRequest, Shared};
use crate::node::config::NodeConfig;
use crate::node::lock::DataDir;

struct World {
    dir: TempDir,
    app: Arc<App>,
}

/// An offline node in a fresh folder, which takes itself for what `role` says.
async fn world(role: Role) -> World {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let node = NodeHandle::start(NodeConfig { data_dir, ..NodeConfig::default() }).await.unwrap();
    World { dir, app: App::new(node, role) }
}

impl World {
    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> AddRequest {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        request(&path)
    }

    /// Serves the socket; returned are its directory's lock and the server.
    fn serve(&self) -> (DataDir, tokio::task::JoinHandle<std::io::Result<()>>) {
        let data = DataDir::open(&self.data()).unwrap();
        let listener = data.bind_control().unwrap();
        (data, tokio::spawn(serve(listener, self.app.clone())))
    }
}

fn reading(link: &str) -> ReadRequest {
    ReadRequest { link: link.to_owned(), ..ReadRequest::default() }
}

fn request(path: &Path) -> AddRequest {
    AddRequest {
        path: path.to_owned(),
        profile: None,
        hidden: false,
        preserve_mode: false,
        preserve_mtime: false,
        only_hash: false,
        provide: None,
    }
}

async fn done(lines: &mut Lines) -> Result<Shared, Failure> {
    loop {
        match lines.next().await.expect("a result before the end")? {
            Line::Progress(_) => {}
            Line::Done(shared) => return Ok(shared),
            Line::Error(failure) => return Err(failure),
            other => panic!("{other:?}"),
        }
    }
}

async fn raw(app: &Arc<App>, request: Request<Body>) -> Response {
    let Ok(response) = hyper::service::Service::call(&TowerToHyperService::new(router(app)), request).await;
    response
}

async fn refusal(app: &Arc<App>, request: Request<Body>) -> (StatusCode, Failure) {
    let response = raw(app, request).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn post(path: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header(header::HOST, "localhost");
    request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn web_pages_and_strange_hosts_are_refused() {
    let world = world(Role::Daemon).await;
    let cases = [
        Request::get("/v1/status")
            .header(header::HOST, "localhost")
            .header(header::ORIGIN, "https://example.org"),
        Request::get("/v1/status").header(header::HOST, "localhost").header(header::ORIGIN, "null"),
        Request::get("/v1/status").header(header::HOST, "rebound.example.org"),
        Request::get("/v1/status"),
    ];
    for case in cases {
        let (status, failure) = refusal(&world.app, case.body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{failure}");
    }
    let form = Request::post("/v1/shutdown").header(header::HOST, "localhost");
    assert!(raw(&world.app, form.body(Body::empty()).unwrap()).await.status().is_success());
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let world = world(Role::Daemon).await;
    let cases = [
        (post("/v1/nothing", ""), StatusCode::NOT_FOUND, "route"),
        (post("/v1/status", ""), StatusCode::METHOD_NOT_ALLOWED, "method"),
        (post("/v1/add", "{"), StatusCode::BAD_REQUEST, "body"),
        (post("/v1/add", "{\"path\":\"relative\"}"), StatusCode::BAD_REQUEST, "absolute"),
        (post("/v1/get", "{\"link\":\"x\",\"folder\":\"here\"}"), StatusCode::BAD_REQUEST, "absolute"),
        (
            post("/v1/get", "{\"link\":\"x\",\"folder\":\"/\",\"timeout\":-1}"),
            StatusCode::BAD_REQUEST,
            "timeout",
        ),
        (post("/v1/add", &" ".repeat(2 << 20)), StatusCode::PAYLOAD_TOO_LARGE, "1 MiB"),
    ];
    for (request, want, word) in cases {
        let path = request.uri().path().to_owned();
        let (status, failure) = refusal(&world.app, request).await;
        assert_eq!(status, want, "{path}: {failure}");
        assert!(failure.message.contains(word), "{path}: {failure}");
    }
    let plain =
        Request::post("/v1/add").header(header::HOST, "localhost").header("content-type", "text/plain");
    let (status, _) = refusal(&world.app, plain.body(Body::from("{}")).unwrap()).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn the_same_answers_come_in_process_and_over_the_socket() {
    let world = world(Role::Daemon).await;
    let (_data, _server) = world.serve();
    let local = Client::local(&world.app);
    let (socket, holder, _presence) = Client::attach(&world.data()).await.unwrap();
    assert!(holder.daemon && holder.network);
    assert_eq!(holder.pid, std::process::id());
    let one = world.file("one", b"some bytes");
    let here = done(&mut local.add(&one).await.unwrap()).await.unwrap();
    let there = done(&mut socket.add(&one).await.unwrap()).await.unwrap();
    assert_eq!((&here.cid, here.size), (&there.cid, 10));
    for client in [&local, &socket] {
        assert!(client.status().await.unwrap().daemon);
        assert_eq!(client.identity().await.unwrap().peer_id, holder.identity.peer_id);
        assert_eq!(client.list().await.unwrap().len(), 1);
        let bad = client.ls(&reading("no link at all, and bad")).await.unwrap_err();
        assert!(bad.usage, "{bad}");
        let missing = done(&mut client.add(&request(&world.dir.path().join("none"))).await.unwrap()).await;
        assert!(missing.unwrap_err().message.contains("none"));
    }
    let mut bytes = Vec::new();
    let mut stream = socket.cat(&reading(&here.link)).await.unwrap();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert_eq!(bytes, b"some bytes");
    let removed = socket.remove(&Remove { what: here.cid.clone(), delete_part: false }).await.unwrap();
    assert_eq!(removed.cid, here.cid);
    assert!(local.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_share_lasts_as_long_as_its_reader() {
    let world = world(Role::Daemon).await;
    let (_data, _server) = world.serve();
    let (socket, _, presence) = Client::attach(&world.data()).await.unwrap();
    let mut lines = socket.share(&world.file("one", b"shared")).await.unwrap();
    done(&mut lines).await.unwrap();
    let before = world.app.node().list().await.unwrap();
    assert_eq!(world.app.running(), 3, "attached, sharing, and the share to be withdrawn");
    let open = tokio::time::timeout(Duration::from_millis(50), lines.next()).await;
    assert!(open.is_err(), "the answer must stay open");
    drop(lines);
    drop(presence);
    // Ends only when the hang-up was noticed and the withdrawal is done.
    tokio::time::timeout(Duration::from_secs(10), world.app.idle()).await.unwrap();
    assert_eq!(seeding(&before), 1, "{before:?}");
    assert_eq!(seeding(&world.app.node().list().await.unwrap()), 0);
    assert!(
        matches!(Client::attach(&world.data()).await, Err(AttachError::Gone)),
        "closed since it was idle"
    );
}

/// Contents that are served, or would be with a network.
fn seeding(contents: &[ContentStatus]) -> usize {
    contents.iter().filter(|c| c.state != "idle").count()
}

#[tokio::test]
async fn stopping_ends_what_is_open_and_refuses_what_comes() {
    let world = world(Role::Foreground { network: true }).await;
    let (data, server) = world.serve();
    let (socket, holder, _presence) = Client::attach(&world.data()).await.unwrap();
    assert!(!holder.daemon);
    let mut lines = socket.share(&world.file("one", b"shared")).await.unwrap();
    done(&mut lines).await.unwrap();
    socket.shutdown().await.unwrap();
    assert!(lines.next().await.is_none());
    server.await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(10), world.app.idle()).await.unwrap();
    drop(data);
    assert!(matches!(Client::attach(&world.data()).await, Err(AttachError::Gone)));
}
