//! Reads that wait until a record of TLS is whole.
//!
//! Of a part of a record nothing can be made, yet on a slow link each packet woke the connection's task: of 16 KiB that
//! came in twelve packets, twelve times, and with nine nodes on one machine that was most of what they did. Here the
//! kernel is told how much is missing, and wakes nobody before that is there (`SO_RCVLOWAT`, which on Linux a poll heeds
//! too). While much comes at once it is told nothing, and where it cannot be told each packet wakes.
//!
//! What comes before TLS, by which it is chosen, is multistream-select's: messages that begin with their length, in
//! one byte while it is below 128, and a name (<https://github.com/multiformats/multistream-select>). A record: a byte for its kind, two
//! for the version, of which the first is 3, two for the length of what follows (RFC 8446, 5.1 and 5.2).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};

use super::lean::Lean;

const HEADER: usize = 5;
/// The longest record that may come, without its header, and the kinds that there are.
const LONGEST: usize = (16 << 10) + 256;
const KINDS: std::ops::RangeInclusive<u8> = 20..=23;
const VERSION: u8 = 3;
/// A part of a record that is worth waiting for.
const LONG: usize = 4 << 10;
/// A link of which so much more comes at once than was waited for is not slow.
const MUCH: usize = 8 << 10;

/// Where in a record the stream is.
#[derive(Debug, Default)]
struct Place {
    header: [u8; HEADER],
    have: usize,
    /// What is missing of the record, or of the message before the first one.
    left: usize,
    /// A record has begun: no more is chosen.
    begun: bool,
    /// It is something else than TLS.
    lost: bool,
}

impl Place {
    fn saw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            let n = bytes.len().min(self.left);
            self.left -= n;
            bytes = &bytes[n..];
            let Some((byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            self.header[self.have] = *byte;
            self.have += 1;
            self.headed();
        }
    }

    /// Looks at what is here of a header.
    fn headed(&mut self) {
        let [kind, version, _, len @ ..] = self.header;
        match self.have {
            2 if version != VERSION && !self.begun => {
                self.lost = !(2..128).contains(&kind);
                self.left = usize::from(kind).saturating_sub(1);
                self.have = 0;
            }
            2 => {
                self.begun = true;
                self.lost = version != VERSION || !KINDS.contains(&kind);
            }
            HEADER => {
                self.left = usize::from(u16::from_be_bytes(len));
                self.lost = self.left > LONGEST;
                self.have = 0;
            }
            _ => {}
        }
    }

    /// How many bytes to wait for.
    fn missing(&self) -> usize {
        if self.lost || self.left < LONG { 1 } else { self.left }
    }
}

/// A socket that wakes its reader when a record has come.
#[derive(Debug)]
pub struct Whole {
    inner: Lean,
    place: Place,
    /// How many bytes are waited for.
    least: usize,
    /// What came since nothing was there the last time, and whether that was little.
    came: usize,
    slow: bool,
}

impl Whole {
    pub fn new(inner: Lean) -> Whole {
        Whole { inner, place: Place::default(), least: 1, came: 0, slow: false }
    }

    /// Nothing is there at the moment.
    fn ran_dry(&mut self) {
        if self.came > 0 {
            self.slow = self.came < self.least + MUCH;
            self.came = 0;
        }
        let least = if self.slow { self.place.missing() } else { 1 };
        if least != self.least {
            self.least = least;
            self.inner.wake_for(least);
        }
    }
}

impl AsyncRead for Whole {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(n)) => {
                self.place.saw(&buf[..*n]);
                self.came += n;
            }
            Poll::Ready(Err(_)) => {}
            // The kernel wakes at once if by now as much is there as it is told.
            Poll::Pending => self.ran_dry(),
        }
        read
    }
}

impl AsyncWrite for Whole {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::super::congestion::Paced;
    use super::*;

    fn record(kind: u8, len: usize) -> Vec<u8> {
        let header = [&[kind, VERSION, 3][..], &(len as u16).to_be_bytes()].concat();
        [header, (0..len).map(|i| (i % 251) as u8).collect()].concat()
    }

    fn chosen() -> Vec<u8> {
        b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n".to_vec()
    }

    /// Where a stream is after these bytes, whatever parts they come in.
    fn place(bytes: &[u8]) -> Place {
        let mut whole = Place::default();
        whole.saw(bytes);
        for most in [1, 3, 1_448] {
            let mut parts = Place::default();
            bytes.chunks(most).for_each(|part| parts.saw(part));
            assert_eq!((parts.left, parts.lost, parts.have), (whole.left, whole.lost, whole.have), "{most}");
        }
        whole
    }

    #[test]
    fn what_is_missing_of_a_record_is_known_and_of_nothing_else() {
        let long = record(23, 16 << 10);
        let cases: [(Vec<u8>, usize); 12] = [
            (vec![], 1),
            (chosen()[..4].to_vec(), 1),
            (chosen(), 1),
            ([chosen(), long[..4].to_vec()].concat(), 1),
            ([chosen(), long[..5].to_vec()].concat(), 16 << 10),
            ([chosen(), record(22, 300), long[..1_448].to_vec()].concat(), (16 << 10) - 1_443),
            ([long.clone(), long[..1_005].to_vec()].concat(), (16 << 10) - 1_000),
            (long.clone(), 1),
            (long[..long.len() - LONG + 1].to_vec(), 1),
            (record(23, 3_000)[..100].to_vec(), 1),
            // Noise: a length of two bytes and what follows.
            (b"\x13/multistream/1.0.0\n\x07/noise\n\x20\x05".to_vec(), 1),
            ([long.clone(), vec![23, VERSION, 3, 0xff, 0xff]].concat(), 1),
        ];
        for (i, (bytes, missing)) in cases.iter().enumerate() {
            assert_eq!(place(bytes).missing(), *missing, "{i}");
        }
        for lost in [vec![0, 9], vec![200, 200], [long, vec![99, VERSION]].concat()] {
            assert!(place(&lost).lost, "{lost:?}");
        }
    }

    async fn link() -> (TcpStream, Whole) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        peer.set_nodelay(true).unwrap();
        (peer, Whole::new(Lean::new(libp2p::tcp::tokio::TcpStream(dialled), Paced::default())))
    }

    /// A task that reads, and what comes of each read. It is told of in the same turn of the (one) thread in which the
    /// next read finds nothing.
    struct Reads(mpsc::Receiver<Vec<u8>>);

    impl Reads {
        fn new(mut whole: Whole) -> Reads {
            let (tell, told) = mpsc::channel(10_000);
            tokio::spawn(async move {
                let mut some = vec![0; 64 << 10];
                while let Ok(n @ 1..) = whole.read(&mut some).await {
                    if tell.send(some[..n].to_vec()).await.is_err() {
                        return;
                    }
                }
            });
            Reads(told)
        }

        /// The next read, or `None` at the end.
        async fn next(&mut self) -> Option<Vec<u8>> {
            timeout(Duration::from_secs(60), self.0.recv()).await.unwrap()
        }

        async fn all(mut self) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(some) = self.next().await {
                all.extend(some);
            }
            all
        }
    }

    /// Writes in packets, each a while after the one before.
    async fn trickle(peer: &mut TcpStream, bytes: &[u8], most: usize) {
        for part in bytes.chunks(most) {
            peer.write_all(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A link of which little has come at a time, at last the first 1,000 bytes of a record of 16 KiB.
    async fn slow() -> (TcpStream, Reads, Vec<u8>) {
        let (mut peer, whole) = link().await;
        let mut reads = Reads::new(whole);
        let long = record(23, 16 << 10);
        for part in [&chosen()[..], &record(22, 1_000), &long[..1_000]] {
            peer.write_all(part).await.unwrap();
            assert_eq!(reads.next().await.unwrap(), part);
        }
        (peer, reads, long)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn a_record_that_comes_in_many_packets_wakes_the_connection_once() {
        let (mut peer, mut reads, long) = slow().await;
        for _ in 0..5 {
            trickle(&mut peer, &long[1_000..], 1_448).await;
            assert!(reads.next().await.unwrap() == long[1_000..], "in one read");
            trickle(&mut peer, &long[..1_000], 1_000).await;
            assert_eq!(reads.next().await.unwrap(), &long[..1_000]);
        }
    }

    #[tokio::test]
    async fn whatever_comes_comes_in_order_and_to_its_end() {
        let parts = [record(22, 300), record(23, 9_000), record(23, 0), record(23, 16_640), record(21, 2)];
        let records = [chosen(), parts.concat().repeat(2)].concat();
        let no_tls = [chosen(), record(23, 9_000), vec![77; 30_000]].concat();
        let cut_off = records[..records.len() - 3_000].to_vec();
        for all in [records, no_tls, cut_off, vec![255; 9_000]] {
            for most in [500, 1_448, 5_000, 17_000] {
                let (mut peer, whole) = link().await;
                let reads = Reads::new(whole);
                trickle(&mut peer, &all, most).await;
                drop(peer);
                assert!(reads.all().await == all, "{} bytes in parts of {most}", all.len());
            }
        }
    }

    #[tokio::test]
    async fn a_short_record_after_long_ones_is_not_waited_with() {
        let (mut peer, mut reads, long) = slow().await;
        trickle(&mut peer, &long[1_000..], 1_448).await;
        let mut came = 1_000;
        while came < long.len() {
            came += reads.next().await.unwrap().len();
        }
        for _ in 0..3 {
            peer.write_all(&record(23, 40)).await.unwrap();
            assert_eq!(reads.next().await.unwrap(), record(23, 40));
        }
    }

    #[tokio::test]
    async fn who_says_no_more_within_a_record_is_heard() {
        let (mut peer, reads, long) = slow().await;
        trickle(&mut peer, &long[1_000..9_000], 1_448).await;
        drop(peer);
        assert!(reads.all().await == long[1_000..9_000]);
    }

    #[tokio::test]
    async fn where_much_comes_at_once_each_packet_wakes() {
        let (mut peer, mut whole) = link().await;
        let all = [chosen(), record(23, 16 << 10).repeat(8)].concat();
        let mut some = vec![0; 64 << 10];
        let mut came = 0;
        for part in all.chunks(20_000) {
            peer.write_all(part).await.unwrap();
            let until = came + part.len();
            while came < until {
                came += timeout(Duration::from_secs(60), whole.read(&mut some)).await.unwrap().unwrap();
                let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut whole).poll_read(cx, &mut some))).await;
                match more {
                    Poll::Ready(n) => came += n.unwrap(),
                    Poll::Pending => assert_eq!((whole.slow, whole.least), (false, 1)),
                }
            }
        }
    }
}
