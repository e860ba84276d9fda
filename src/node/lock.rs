//! One process owns a data directory: who holds its lock serves the control socket in it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};

const LOCK: &str = "lock";
const SOCKET: &str = "control.sock";
const NURSERY: &str = "control.new";

/// The longest socket path that `sockaddr_un` takes on Linux, with its final NUL: 108 bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Why a data directory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockHeld {
    /// Another process owns it; its control socket answers, or soon will.
    #[error("{} is in use by {}", path.display(), holder(*pid))]
    Held { path: PathBuf, pid: Option<u32> },
    #[error("cannot use {} as data directory: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another dunlin process".to_owned(), |pid| format!("dunlin process {pid}"))
}

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    bound: AtomicBool,
    /// Held open: the kernel lets go of the lock when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory (mode 0700) if it is missing, and takes its lock without waiting.
    ///
    /// # Errors
    /// [`LockHeld::Held`] if another process has it, [`LockHeld::Io`] for everything else.
    pub fn open(path: &Path) -> Result<DataDir, LockHeld> {
        let failed = |source| LockHeld::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockHeld::Held { path: path.to_owned(), pid: read_pid(&mut lock) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        write_pid(&mut lock).map_err(failed)?;
        Ok(DataDir { path: path.to_owned(), bound: AtomicBool::new(false), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the control socket (mode 0600), in place of one that a killed holder has left.
    /// Connections wait in its queue until they are accepted.
    ///
    /// # Errors
    /// Those of the file system, or a path that does not fit a socket address.
    pub fn bind_control(&self) -> io::Result<UnixListener> {
        // Made in a private folder and moved when its mode is right: the data directory itself may be older
        // and more open, and a umask would be the whole process's.
        let nursery = self.path.join(NURSERY);
        match std::fs::remove_dir_all(&nursery) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&nursery)?;
        let listener = UnixListener::bind(&SocketAddress::of(&nursery)?.path)?;
        std::fs::set_permissions(nursery.join(SOCKET), Permissions::from_mode(0o600))?;
        std::fs::rename(nursery.join(SOCKET), self.path.join(SOCKET))?;
        std::fs::remove_dir(&nursery)?;
        self.bound.store(true, Ordering::Relaxed);
        Ok(listener)
    }

    /// Takes the control socket away: from now on nobody new finds this process.
    pub fn unbind_control(&self) {
        if self.bound.swap(false, Ordering::Relaxed) {
            // Gone already is as good; a stale one is removed by the next holder.
            let _ = std::fs::remove_file(self.path.join(SOCKET));
        }
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        self.unbind_control();
    }
}

/// Connects to the control socket of the process that owns `data_dir`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if nobody serves it (now).
pub fn connect_control(data_dir: &Path) -> io::Result<UnixStream> {
    let address = SocketAddress::of(data_dir)?;
    UnixStream::connect(&address.path)
}

/// Where the control socket is reached: its path, or, if that is too long for a socket address, a short
/// path through an open handle of the directory.
struct SocketAddress {
    path: PathBuf,
    _dir: Option<rustix::fd::OwnedFd>,
}

impl SocketAddress {
    fn of(data_dir: &Path) -> io::Result<SocketAddress> {
        let path = data_dir.join(SOCKET);
        if path.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
            return Ok(SocketAddress { path, _dir: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(data_dir, flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        if !short.exists() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} is too long for a socket address ({SOCKET_PATH_MAX} bytes); take a shorter data directory",
                    path.display()
                ),
            ));
        }
        Ok(SocketAddress { path: short.join(SOCKET), _dir: Some(dir) })
    }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn second_opener_is_told_who_holds_the_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        match DataDir::open(&path) {
            Err(e @ LockHeld::Held { pid, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert!(e.to_string().contains("in use by dunlin process"), "{e}");
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn control_socket_is_private_and_replaces_a_stale_one() {
        let tmp = tempfile::tempdir().unwrap();
        let data = DataDir::open(tmp.path()).unwrap();
        drop(data.bind_control().unwrap());
        assert!(connect_control(tmp.path()).is_err(), "nobody listens on a stale socket");
        let _listener = data.bind_control().unwrap();
        let mode = std::fs::metadata(tmp.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        connect_control(tmp.path()).unwrap();
        drop(data);
        assert!(!tmp.path().join(SOCKET).exists());
    }

    #[test]
    fn a_long_data_directory_still_has_a_control_socket() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x".repeat(120)).join("y".repeat(120));
        let data = DataDir::open(&path).unwrap();
        let _listener = data.bind_control().unwrap();
        connect_control(&path).unwrap();
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_named() {
        let tmp = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(tmp.path()).unwrap_err().to_string();
        assert!(error.contains(&tmp.path().display().to_string()), "{error}");
    }
}
