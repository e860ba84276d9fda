//! The node's key: made once, kept in the data directory, readable by its owner alone.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use libp2p::identity::{KeyType, Keypair};

use super::NetError;

/// The file's name in the data directory: the libp2p protobuf of an Ed25519 key pair.
pub const FILE: &str = "identity.key";

/// Reads the identity in `dir`, or makes one.
///
/// # Errors
/// [`NetError::Identity`] if the file is no Ed25519 key, is open to others, or cannot be read or made.
pub fn load_or_create(dir: &Path) -> Result<Keypair, NetError> {
    let path = dir.join(FILE);
    let bad = |why: String| NetError::Identity { path: path.clone(), why };
    match fs::read(&path) {
        Ok(raw) => {
            check_mode(&path).map_err(bad)?;
            let key = Keypair::from_protobuf_encoding(&raw).map_err(|e| bad(e.to_string()))?;
            match key.key_type() {
                KeyType::Ed25519 => Ok(key),
                other => Err(bad(format!("an {other} key, only ed25519 is used"))),
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let key = Keypair::generate_ed25519();
            let raw = key.to_protobuf_encoding().map_err(|e| bad(e.to_string()))?;
            write_new(&path, &raw).map_err(|e| bad(e.to_string()))?;
            Ok(key)
        }
        Err(e) => Err(bad(e.to_string())),
    }
}

/// Writes beside it, syncs, then renames: a crash leaves no half of a key.
fn write_new(path: &Path, raw: &[u8]) -> std::io::Result<()> {
    let temp = path.with_extension("tmp");
    let _ = fs::remove_file(&temp);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut f = options.open(&temp)?;
    f.write_all(raw)?;
    f.sync_all()?;
    fs::rename(&temp, path)
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_err(|e| e.to_string())?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("its mode is {mode:o}, others may read it: chmod 600 it"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_identity_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let a = load_or_create(dir.path()).unwrap();
        let b = load_or_create(dir.path()).unwrap();
        assert_eq!(a.public(), b.public());
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_or_create(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn garbage_is_no_identity() {
        let dir = tempfile::tempdir().unwrap();
        write_new(&dir.path().join(FILE), b"garbage").unwrap();
        assert!(load_or_create(dir.path()).is_err());
    }
}
