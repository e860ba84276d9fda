//! How long distributing a file of F bytes to N receivers must take at least (Kurose and Ross, 2.5).
//!
//! Client-server: the server sends N copies, and the slowest receiver must take one. Peer-to-peer:
//! the seed must send one copy, and all up-links together carry N of them.

use serde::Serialize;

/// What a distribution starts from; rates in bytes a second, all above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// F, the file's size in bytes.
    pub size: f64,
    /// u_s, the server's or first seed's up-link.
    pub server_up: f64,
    /// u_i, each receiver's up-link.
    pub peer_up: f64,
    /// d_min, the slowest receiver's down-link.
    pub down: f64,
}

impl Default for Setting {
    /// The lecture's example: F/u = 1 h, u_s = 10 u, d_min = u_s.
    fn default() -> Setting {
        Setting { size: 3.6e9, server_up: 10e6, peer_up: 1e6, down: 10e6 }
    }
}

impl Setting {
    /// max(N F/u_s, F/d_min), in seconds: linear in N.
    pub fn client_server(&self, n: u64) -> f64 {
        (n as f64 * self.size / self.server_up).max(self.size / self.down)
    }

    /// max(F/u_s, F/d_min, N F/(u_s + N u_i)), in seconds: stays below F/u_i.
    pub fn p2p(&self, n: u64) -> f64 {
        let n = n as f64;
        p2p_bound(self.size, self.server_up, self.down, n * self.peer_up, n)
    }
}

/// max(F/u_s, F/d_min, N F/(u_s + sum u_i)), in seconds. No receivers, or nothing to send: 0.
pub fn p2p_bound(size: f64, seed_up: f64, slowest_down: f64, sum_up: f64, n: f64) -> f64 {
    if n <= 0.0 || size <= 0.0 {
        return 0.0;
    }
    (size / seed_up).max(size / slowest_down).max(n * size / (seed_up + sum_up))
}

/// One row of the comparison; seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub n: u64,
    pub client_server: f64,
    pub p2p: f64,
    /// What the simulated swarm took; `None` if it was not simulated.
    pub simulated: Option<f64>,
}

/// The bounds for each number of receivers.
pub fn rows(setting: &Setting, peers: &[u64]) -> Vec<Row> {
    let row =
        |&n: &u64| Row { n, client_server: setting.client_server(n), p2p: setting.p2p(n), simulated: None };
    peers.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3600.0;

    #[test]
    fn the_lectures_example_comes_out() {
        let s = Setting::default();
        assert_eq!(s.size / s.peer_up, HOUR);
        assert_eq!(s.server_up, 10.0 * s.peer_up);
        // Client-server is linear: a tenth of an hour a receiver.
        for n in 1..=35 {
            assert!((s.client_server(n) - n as f64 * HOUR / 10.0).abs() < 1e-6);
        }
        // Peer-to-peer is N/(10 + N) hours once that exceeds the one copy the seed must send.
        assert_eq!(s.p2p(1), HOUR / 10.0);
        for n in 2..=35 {
            let n_f = n as f64;
            assert!((s.p2p(n) - HOUR * n_f / (10.0 + n_f)).abs() < 1e-6);
            assert!(s.p2p(n) < HOUR);
        }
        assert!((s.p2p(30) - 0.75 * HOUR).abs() < 1e-6);
    }

    #[test]
    fn the_slowest_receiver_bounds_both() {
        let s = Setting { down: 1e5, ..Setting::default() };
        assert_eq!(s.client_server(1), 36_000.0);
        assert_eq!(s.p2p(1), 36_000.0);
    }

    #[test]
    fn peers_help_and_never_harm() {
        let s = Setting { size: 268_435_456.0, server_up: 4e6, peer_up: 2e6, down: 8e6 };
        assert!((s.p2p(1) - 67.108_864).abs() < 1e-9);
        assert!((s.p2p(64) - 64.0 * 268_435_456.0 / 132e6).abs() < 1e-9);
        assert!((1..100).all(|n| s.p2p(n) <= s.client_server(n)));
        assert!((1..100).all(|n| s.p2p(n) <= s.p2p(n + 1)));
    }

    #[test]
    fn nobody_to_serve_takes_no_time() {
        assert_eq!(p2p_bound(1e9, 1e6, 1e6, 0.0, 0.0), 0.0);
        assert_eq!(p2p_bound(0.0, 1e6, 1e6, 1e6, 3.0), 0.0);
    }
}
