//! A TCP socket whose reader can sleep while packets come.
//!
//! The runtime watches each socket and is told of each packet, whether anybody waits for it or not: a system call
//! each time. A reader that will look by itself lets it watch nothing meanwhile.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;

#[derive(Debug)]
enum Inner {
    Watched(TcpStream),
    Asleep(std::net::TcpStream),
    /// The runtime would not have it again.
    Lost,
}

#[derive(Debug)]
pub struct Socket {
    inner: Inner,
    /// Somebody waits until more can be written, which the runtime has to see.
    writer_waits: bool,
}

impl Socket {
    pub fn new(socket: TcpStream) -> Socket {
        Socket { inner: Inner::Watched(socket), writer_waits: false }
    }

    /// What comes wakes nobody until [`Socket::wake`] is called, a read finds nothing there, or a write no room. Says
    /// whether that is so: who waits to write is not let down.
    ///
    /// # Errors
    /// The runtime does not give the socket back.
    pub fn sleep(&mut self) -> io::Result<bool> {
        if self.writer_waits {
            return Ok(false);
        }
        self.inner = match std::mem::replace(&mut self.inner, Inner::Lost) {
            Inner::Watched(socket) => Inner::Asleep(socket.0.into_std()?),
            other => other,
        };
        Ok(true)
    }

    /// What comes wakes whoever reads, and what came meanwhile at once.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn wake(&mut self) -> io::Result<()> {
        self.watched().map(|_| ())
    }

    /// The socket as the runtime watches it.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Inner::Asleep(_) = self.inner
            && let Inner::Asleep(socket) = std::mem::replace(&mut self.inner, Inner::Lost)
        {
            self.inner = Inner::Watched(TcpStream(tokio::net::TcpStream::from_std(socket)?));
        }
        match &mut self.inner {
            Inner::Watched(socket) => Ok(Pin::new(socket)),
            Inner::Asleep(_) | Inner::Lost => Err(lost()),
        }
    }

    fn poll_write_by(
        &mut self,
        asleep: impl FnOnce(&std::net::TcpStream) -> io::Result<usize>,
        watched: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Inner::Asleep(socket) = &self.inner {
            let wrote = asleep(socket);
            if !would_block(&wrote) {
                return Poll::Ready(wrote);
            }
        }
        let wrote = watched(self.watched()?);
        self.writer_waits = wrote.is_pending();
        wrote
    }

    /// # Errors
    /// The socket is lost.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn fd(&self) -> io::Result<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd;

        match &self.inner {
            Inner::Watched(socket) => Ok(socket.0.as_fd()),
            Inner::Asleep(socket) => Ok(socket.as_fd()),
            Inner::Lost => Err(lost()),
        }
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the runtime does not watch this connection any more")
}

fn would_block(done: &io::Result<usize>) -> bool {
    matches!(done, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Inner::Asleep(socket) = &self.inner {
            let mut socket = socket;
            let read = socket.read(buf);
            if !would_block(&read) {
                return Poll::Ready(read);
            }
        }
        self.watched()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(|mut socket| socket.write(buf), |socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(
            |mut socket| socket.write_vectored(bufs),
            |socket| socket.poll_write_vectored(cx, bufs),
        )
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Watched(socket) => Pin::new(socket).poll_flush(cx),
            // The kernel has it all.
            Inner::Asleep(_) => Poll::Ready(Ok(())),
            Inner::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched()?.poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::ready;
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    async fn link() -> (tokio::net::TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (peer, Socket::new(TcpStream(dialled)))
    }

    fn is_asleep(socket: &Socket) -> bool {
        matches!(socket.inner, Inner::Asleep(_))
    }

    #[tokio::test]
    async fn who_slept_reads_what_came_and_is_woken_by_what_comes_then() {
        let (mut peer, mut socket) = link().await;
        let mut some = [0; 10];
        for _ in 0..3 {
            assert!(socket.sleep().unwrap() && socket.sleep().unwrap());
            tokio::io::AsyncWriteExt::write_all(&mut peer, b"one").await.unwrap();
            let reads = async {
                let mut came = socket.read(&mut some).await.unwrap();
                while came < 3 {
                    came += socket.read(&mut some[came..]).await.unwrap();
                }
                assert_eq!(&some[..came], b"one");
                let nothing =
                    poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_read(cx, &mut [0; 9]))).await;
                assert!(nothing.is_pending() && !is_asleep(&socket));
                tokio::io::AsyncWriteExt::write_all(&mut peer, b"two").await.unwrap();
                socket.read_exact(&mut some[..3]).await.unwrap();
            };
            timeout(SOON, reads).await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_is_woken_hears_of_what_came_in_its_sleep() {
        let (mut peer, mut socket) = link().await;
        assert!(socket.sleep().unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"x").await.unwrap();
        socket.wake().unwrap();
        assert!(!is_asleep(&socket));
        timeout(SOON, socket.read_exact(&mut [0])).await.unwrap().unwrap();
        drop(peer);
        assert!(socket.sleep().unwrap());
        assert_eq!(timeout(SOON, socket.read(&mut [0])).await.unwrap().unwrap(), 0, "the end");
    }

    /// Writes until there is no room.
    async fn fill(socket: &mut Socket) -> usize {
        let (some, mut wrote) = ([7; 64 << 10], 0);
        let once = |socket: &mut Socket, cx: &mut Context<'_>| {
            let first = ready!(Pin::new(&mut *socket).poll_write(cx, &some))?;
            let Poll::Ready(more) = Pin::new(socket).poll_write_vectored(cx, &[IoSlice::new(&some); 2])
            else {
                return Poll::Ready(Ok(first));
            };
            Poll::Ready(more.map(|more| first + more))
        };
        while let Poll::Ready(n) = poll_fn(|cx| Poll::Ready(once(socket, cx))).await {
            wrote += n.unwrap();
        }
        wrote
    }

    #[tokio::test]
    async fn who_has_no_room_to_write_is_woken_when_there_is_some() {
        for sleeps in [false, true] {
            let (mut peer, mut socket) = link().await;
            assert_eq!(sleeps && socket.sleep().unwrap(), sleeps);
            let wrote = fill(&mut socket).await;
            assert!(!is_asleep(&socket), "or nobody would see when there is room");
            assert!(!socket.sleep().unwrap(), "who waits to write is not let down");
            let reads = tokio::spawn(async move {
                let mut all = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut all).await.unwrap();
                all.len()
            });
            timeout(SOON, socket.write_all(&[8])).await.unwrap().unwrap();
            assert!(socket.sleep().unwrap());
            timeout(SOON, socket.close()).await.unwrap().unwrap();
            assert_eq!(timeout(SOON, reads).await.unwrap().unwrap(), wrote + 1);
        }
    }
}
