//! Serves the control socket.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::routes::router;
use super::state::App;

/// Connections at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;

/// For a request's head, from the connection's begin or the request before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a head may take.
const MAX_HEAD: usize = 64 << 10;

/// How long answers may take to leave once the node stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until [`App::stop`]; then lets the last answers leave.
///
/// # Errors
/// The socket cannot be used at all.
pub async fn serve(listener: UnixListener, app: Arc<App>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let router = router(&app);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = room.clone().acquire_owned();
        let accepted = tokio::select! {
            () = app.stopped() => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let place = place.await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, place) = match accepted {
            (Ok((stream, _)), place) => (stream, place),
            (Err(error), _) => {
                // Out of descriptors, most likely: others have to end first.
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (app, service) = (app.clone(), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = app.stopped() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("control connection: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Those that do not read their answer are cut off with the set.
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    Ok(())
}
