//! Reads that wait until a record of TLS is whole.
//!
//! Of a part of a record nothing can be made, yet on a slow link each packet woke the connection's task: of 16 KiB that
//! came in twelve packets, twelve times, and with nine nodes on one machine that was most of what they did. Here the
//! kernel is told how much is missing, and wakes nobody before that is there (`SO_RCVLOWAT`, which on Linux a poll heeds
//! too). While much comes at once it is told nothing, and where it cannot be told each packet wakes.
//!
//! As long as less is there than it is told, Linux acknowledges each two packets at once (`__tcp_ack_snd_check`). Of a full
//! way out that is a fiftieth for what comes at the same rate. So while the links share a pace the kernel is told nothing for as
//! long as a record takes (`rest.rs`), nobody is woken, and who reads then acknowledges all of it in one packet.
//!
//! What comes before TLS, by which it is chosen, is multistream-select's: messages that begin with their length, in
//! one byte while it is below 128, and a name (<https://github.com/multiformats/multistream-select>). A record: a byte for its kind, two
//! for the version, of which the first is 3, two for the length of what follows (RFC 8446, 5.1 and 5.2).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{AsyncRead, AsyncWrite};

use tokio::time::{Sleep, sleep_until};

use super::lean::Lean;
use super::rest::Rest;

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
    /// How many bytes the kernel waits for, and how many are rested for.
    least: usize,
    rests_for: usize,
    /// What came since nothing was there the last time, and whether that was little.
    came: usize,
    slow: bool,
    rest: Rest,
    /// Until then nobody looks, while `resting`.
    timer: Option<Pin<Box<Sleep>>>,
    resting: bool,
    /// Whoever reads was woken by what came.
    woken: bool,
}

impl Whole {
    pub fn new(inner: Lean) -> Whole {
        Whole {
            inner,
            place: Place::default(),
            least: 1,
            rests_for: 0,
            came: 0,
            slow: false,
            rest: Rest::default(),
            timer: None,
            resting: false,
            woken: true,
        }
    }

    fn saw(&mut self, bytes: &[u8]) {
        let whole = bytes.len() >= self.place.left;
        self.place.saw(bytes);
        self.came += bytes.len();
        if whole {
            self.rest.is_whole(self.woken, Instant::now());
        }
    }

    /// Nothing is there at the moment.
    fn ran_dry(&mut self) {
        if self.came > 0 {
            self.slow = self.came < self.least.max(self.rests_for) + MUCH;
            (self.came, self.rests_for) = (0, 0);
        }
    }

    /// Tells the kernel what is waited for.
    fn wait(&mut self, least: usize) {
        if least != self.least {
            self.least = least;
            self.inner.wake_for(least);
        }
    }

    /// When to look for the rest of a record, if it takes a while to come.
    fn look_at(&mut self) -> Option<Instant> {
        let missing = self.place.missing();
        let slow = missing > 1 && self.slow && self.inner.paced();
        slow.then(|| self.rest.look_at(missing, Instant::now())).flatten()
    }

    /// Looks away until then, if that can be done.
    ///
    /// # Errors
    /// The socket is lost.
    fn look_away(&mut self, until: Instant) -> io::Result<()> {
        if !self.inner.sleep()? {
            return Ok(());
        }
        self.wait(1);
        self.rests_for = self.place.missing();
        self.resting = true;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until.into()),
            None => self.timer = Some(Box::pin(sleep_until(until.into()))),
        }
        Ok(())
    }
}

impl AsyncRead for Whole {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.resting {
            if let Some(timer) = &mut this.timer {
                ready!(timer.as_mut().poll(cx));
            }
            this.resting = false;
            this.woken = false;
        }
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(n)) => {
                this.saw(&buf[..*n]);
                if *n < buf.len() {
                    this.ran_dry();
                    // A socket that is lost says so when it is read again: first what is here.
                    let _ = match this.look_at() {
                        Some(until) => this.look_away(until),
                        None => this.inner.wake(),
                    };
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                this.ran_dry();
                this.woken = true;
                // The kernel wakes at once if by now as much is there as it is told.
                this.wait(if this.slow { this.place.missing() } else { 1 });
            }
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

    async fn link(paced: bool) -> (TcpStream, Whole) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        peer.set_nodelay(true).unwrap();
        let pace = Paced::default();
        pace.set(paced);
        (peer, Whole::new(Lean::new(libp2p::tcp::tokio::TcpStream(dialled), pace)))
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
        let (mut peer, whole) = link(false).await;
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
            for (most, paced) in [500, 1_448, 5_000, 17_000].into_iter().flat_map(|m| [(m, false), (m, true)])
            {
                let (mut peer, whole) = link(paced).await;
                let reads = Reads::new(whole);
                trickle(&mut peer, &all, most).await;
                drop(peer);
                assert!(reads.all().await == all, "{} bytes in parts of {most}, paced: {paced}", all.len());
            }
        }
    }

    /// Of a full way out the acknowledgements of what came were a fiftieth: one for each two packets.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn while_there_is_a_pace_a_record_is_acknowledged_as_a_whole() {
        const ROUND: usize = 20;
        let (mut peer, mut whole) = link(true).await;
        let long = record(23, 16 << 10);
        peer.write_all(&[chosen(), record(22, 1_000)].concat()).await.unwrap();
        let (tell, mut told) = mpsc::channel(10);
        tokio::spawn(async move {
            let (mut some, mut came, mut left) = (vec![0; 16 << 10], 0, chosen().len() + 1_005);
            while let Ok(n @ 1..) = whole.read(&mut some).await {
                came += n;
                if came >= left {
                    left += ROUND * (HEADER + (16 << 10));
                    if tell.send(whole.inner.packets_sent()).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut before = told.recv().await.unwrap();
        // Where the machine is slow a round says nothing.
        let rounds = async {
            loop {
                for _ in 0..ROUND {
                    trickle(&mut peer, &long, 1_448).await;
                }
                let now = told.recv().await.unwrap();
                if now - before <= 3 * ROUND as u32 {
                    return;
                }
                before = now;
            }
        };
        timeout(Duration::from_secs(60), rounds)
            .await
            .expect("more than three packets for a record, each time");
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
        let (mut peer, mut whole) = link(true).await;
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
