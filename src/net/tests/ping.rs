//! Pings that nobody answers.

use futures::{AsyncReadExt, AsyncWriteExt};

use super::hostile::attacked_with;
use super::*;

/// A node, and the ping streams that it opens to a peer which leaves all of them open.
async fn pinged() -> (Node, mpsc::Receiver<(bool, libp2p::Stream)>) {
    let mut cfg = config(TCP);
    cfg.limits.ping = Duration::from_millis(50);
    let (node, _, streams) = attacked_with(cfg, libp2p::ping::PROTOCOL_NAME, 0).await;
    (node, streams)
}

/// One that does not know the name of the protocol at all may be as silent (js-libp2p), and is well.
#[tokio::test]
async fn a_peer_that_never_answers_a_ping_is_not_taken_for_dead() {
    let (mut node, mut streams) = pinged().await;
    let mut open = Vec::new();
    // A stream for each ping that failed: the second failure and those after it would be told.
    while open.len() < 6 {
        open.push(timeout(LONG, streams.recv()).await.unwrap().unwrap());
    }
    while let Ok(event) = node.events.try_recv() {
        assert!(!matches!(event, Event::Unresponsive { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn a_peer_that_answers_no_pings_any_more_is_unresponsive() {
    let (mut node, mut streams) = pinged().await;
    let (_, mut first) = timeout(LONG, streams.recv()).await.unwrap().unwrap();
    let mut ping = [0; 32];
    first.read_exact(&mut ping).await.unwrap();
    first.write_all(&ping).await.unwrap();
    first.flush().await.unwrap();
    node.event(|e| matches!(e, Event::Rtt { .. }).then_some(())).await;
    node.event(|e| matches!(e, Event::Unresponsive { .. }).then_some(())).await;
}
