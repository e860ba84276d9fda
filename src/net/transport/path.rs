//! TCP's congestion control, by the length of the path.
//!
//! Where the system's choice is BBR, short paths get CUBIC. BBR takes its rate from what gets through when it fills the
//! queue in front of the link, each connection for itself, and a swarm has many: with eight leechers on links of
//! 16 Mbit/s its connections sent a sixth of their bytes twice, CUBIC's beside them 0.4 %, and the fetch took 4 % longer
//! (`docs/benchmarks.md`). On long paths it is the other way round: CUBIC begins at its smallest window after each
//! pause, and a swarm pauses often.

use libp2p::tcp::tokio::TcpStream;

/// Chooses for a new connection; a system other than Linux keeps its choice.
pub fn by_path(socket: TcpStream) -> TcpStream {
    #[cfg(target_os = "linux")]
    if let Err(e) = linux::choose(&socket) {
        tracing::debug!("a connection with the system's congestion control: {e}");
    }
    socket
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::time::Duration;

    use libp2p::tcp::tokio::TcpStream;
    use nix::libc;
    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::GetStruct;
    use socket2::SockRef;

    /// A path whose round trip is shorter is short.
    const SHORT: Duration = Duration::from_millis(20);

    /// The beginning of `struct tcp_info` (tcp(7)), as long as every kernel has had it.
    type Info = [u32; 26];
    /// `tcpi_rtt` in it, in microseconds; 0: not measured.
    const RTT: usize = 17;

    #[derive(Clone, Copy)]
    struct TcpInfo;
    nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, Info, GetStruct<Info>);

    /// The kernel measured it when the connection was made: what keeps this process or the other one busy is not in it.
    fn round_trip(socket: &TcpStream) -> io::Result<Option<Duration>> {
        let micros = getsockopt(&socket.0, TcpInfo)?[RTT];
        Ok((micros > 0).then(|| Duration::from_micros(micros.into())))
    }

    /// What is better than the present choice, if something is.
    fn better(round_trip: Option<Duration>, now: &[u8]) -> Option<&'static [u8]> {
        (round_trip? < SHORT && now.starts_with(b"bbr")).then_some(b"cubic")
    }

    pub fn choose(socket: &TcpStream) -> io::Result<()> {
        let options = SockRef::from(&socket.0);
        match better(round_trip(socket)?, &options.tcp_congestion()?) {
            Some(choice) => options.set_tcp_congestion(choice),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_bbr_on_a_short_path_is_replaced() {
            let ms = |n| Some(Duration::from_millis(n));
            assert_eq!(better(ms(0), b"bbr\0\0"), Some(&b"cubic"[..]));
            assert_eq!(better(ms(19), b"bbr2"), Some(&b"cubic"[..]));
            for (round_trip, now) in
                [(ms(20), &b"bbr"[..]), (None, b"bbr"), (ms(0), b"cubic"), (ms(0), b"reno")]
            {
                assert_eq!(better(round_trip, now), None, "{round_trip:?}");
            }
        }

        #[tokio::test]
        async fn both_ends_of_a_connection_know_its_round_trip_and_choose_by_it() {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            for socket in [TcpStream(dialled), TcpStream(accepted)] {
                let known = round_trip(&socket).unwrap();
                assert!(known.is_some_and(|t| t < Duration::from_secs(5)), "{known:?}");
                choose(&socket).unwrap();
                let chosen = SockRef::from(&socket.0).tcp_congestion().unwrap();
                assert!(known >= Some(SHORT) || !chosen.starts_with(b"bbr"), "{}", chosen.escape_ascii());
            }
        }
    }
}
