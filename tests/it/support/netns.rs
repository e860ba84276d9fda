//! Hosts on an internet of the test's own: network namespaces with public-looking addresses, each in a /16 of its own.
//!
//! There is no way out: nobody has a default route. One router is each host's only neighbour: on a common link 80 hosts
//! would want 6,000 ARP entries, and Linux keeps 1,024 over all namespaces.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Says something past the test harness, which shows nothing of tests that pass.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn ip(words: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// The namespaces of one test: a router, and a host on a link to it for each node. Gone when dropped.
pub struct Net {
    prefix: String,
    hosts: usize,
}

impl Net {
    /// `None`, with a word why, where this machine cannot make them.
    pub fn new(hosts: usize) -> Option<Net> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        let n = NETS.fetch_add(1, Ordering::Relaxed);
        let net = Net { prefix: format!("dunlin{}-{n}-", std::process::id()), hosts };
        if !rustix::process::geteuid().is_root() {
            note("skipped: network namespaces need root");
            return None;
        }
        let hub = net.name("hub");
        if !ip(&format!("netns add {hub}")) {
            note(
                "skipped: `ip netns add` does not work here (iproute2 is missing, or namespaces may not be made)",
            );
            return None;
        }
        if !ip(&format!("netns exec {hub} sh -c echo${{IFS}}1>/proc/sys/net/ipv4/ip_forward")) {
            note("skipped: a network namespace may not be made a router here");
            return None;
        }
        for i in 0..hosts {
            let ns = net.host(i);
            assert!(ip(&format!("netns add {ns}")), "{ns}");
            assert!(ip(&format!("-n {ns} link add eth0 type veth peer name h{i} netns {hub}")));
            let router = format!("31.{}.7.0", i + 1);
            assert!(ip(&format!("-n {hub} addr add {router}/31 dev h{i}")));
            assert!(ip(&format!("-n {hub} link set h{i} up")));
            assert!(ip(&format!("-n {ns} addr add {}/31 dev eth0", net.address(i))));
            assert!(ip(&format!("-n {ns} link set lo up")));
            assert!(ip(&format!("-n {ns} link set eth0 up")));
            // 31.0.0.0/8 belongs to nobody's tests; no route leads out of it.
            assert!(ip(&format!("-n {ns} route add 31.0.0.0/8 via {router}")));
        }
        Some(net)
    }

    fn name(&self, of: &str) -> String {
        format!("{}{of}", self.prefix)
    }

    fn host(&self, i: usize) -> String {
        self.name(&i.to_string())
    }

    pub fn address(&self, i: usize) -> String {
        format!("31.{}.7.1", i + 1)
    }

    /// Where the kernel shows a host's namespace.
    pub fn namespace(&self, i: usize) -> PathBuf {
        Path::new("/run/netns").join(self.host(i))
    }

    /// A command on a host.
    pub fn command(&self, i: usize, program: &Path, args: &[OsString], home: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(i)]).arg(program).args(args);
        command.current_dir(home).stdin(Stdio::null()).env_remove("RUST_LOG");
        command.env("HOME", home).env("DUNLIN_DATA_DIR", home.join("data"));
        command.env("IPFS_PATH", home.join("repo")).env("IPFS_TELEMETRY", "off");
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for i in 0..self.hosts {
            ip(&format!("netns del {}", self.host(i)));
        }
        ip(&format!("netns del {}", self.name("hub")));
    }
}
