//! TCP sockets that hold back little.
//!
//! The kernel takes megabytes for a connection that sends long, whatever its rate: on a slow link seconds of
//! chunks that nothing can overtake. With a limit on what it holds unsent (what is under way does not count, so
//! long links lose nothing) a control message waits for milliseconds.
//! The exchange keeps the layers above as short (`net/exchange/pace.rs`).

use libp2p::tcp::tokio::TcpStream;

/// Bytes that a socket may hold beyond those that are under way. The kernel asks for more when half are left,
/// which on a link of 1 Gbit/s is 130 us before it would idle, and the layers above have more at hand.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 32 << 10;

/// Sets the limit; a system that has none keeps what it does.
pub fn lean(socket: TcpStream) -> TcpStream {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(e) = socket2::SockRef::from(&socket.0).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!("a connection without a limit on what the kernel holds unsent: {e}");
    }
    socket
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_holds_little_unsent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = lean(TcpStream(dialled));
        assert_eq!(socket2::SockRef::from(&socket.0).tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
