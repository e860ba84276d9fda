//! Names from strangers that are to become files: what is refused, and paths made of what is not.
//!
//! Refused is what could lead out of the folder or cannot be a name at all. Names that are merely odd
//! (escape sequences, `CON`, leading dashes) are legal on Linux and kept; whoever displays them escapes them.

use std::fmt;

/// The longest name, in bytes (`NAME_MAX`).
pub const MAX_NAME_LEN: usize = 255;

/// Why a name cannot be a file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    #[error("an empty name")]
    Empty,
    #[error("the name `.` or `..`")]
    Dots,
    #[error("a name with a slash")]
    Slash,
    #[error("a name with a NUL byte")]
    Nul,
    #[error("a name longer than 255 bytes")]
    TooLong,
    #[error("a name that is not UTF-8")]
    NotUtf8,
}

/// The name itself, if it can be one component of a path.
pub fn check_name(name: &[u8]) -> Result<&str, NameFault> {
    match name {
        b"" => return Err(NameFault::Empty),
        b"." | b".." => return Err(NameFault::Dots),
        _ if name.len() > MAX_NAME_LEN => return Err(NameFault::TooLong),
        _ if name.contains(&b'/') => return Err(NameFault::Slash),
        _ if name.contains(&0) => return Err(NameFault::Nul),
        _ => {}
    }
    std::str::from_utf8(name).map_err(|_| NameFault::NotUtf8)
}

/// A path beneath a content's root: safe names joined by `/`; empty for the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

impl RelPath {
    /// The root itself.
    pub const fn root() -> RelPath {
        RelPath(String::new())
    }

    /// Reads back what [`RelPath::as_str`] gave.
    pub fn parse(path: &str) -> Result<RelPath, NameFault> {
        if !path.is_empty() {
            path.split('/').try_for_each(|name| check_name(name.as_bytes()).map(drop))?;
        }
        Ok(RelPath(path.to_owned()))
    }

    /// The path of an entry of this folder.
    pub fn join(&self, name: &[u8]) -> Result<RelPath, NameFault> {
        let name = check_name(name)?;
        if self.is_root() {
            return Ok(RelPath(name.to_owned()));
        }
        let mut path = String::with_capacity(self.0.len() + 1 + name.len());
        path.push_str(&self.0);
        path.push('/');
        path.push_str(name);
        Ok(RelPath(path))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root downwards; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// The folder that holds it; `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        Some(RelPath(self.0.rfind('/').map_or(String::new(), |at| self.0[..at].to_owned())))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        let long = [b'a'; 256];
        let bad: [(&[u8], NameFault); 9] = [
            (b"", NameFault::Empty),
            (b".", NameFault::Dots),
            (b"..", NameFault::Dots),
            (b"/abs", NameFault::Slash),
            (b"../x", NameFault::Slash),
            (b"a/b", NameFault::Slash),
            (b"a\0b", NameFault::Nul),
            (&long, NameFault::TooLong),
            (b"\xff\xfe", NameFault::NotUtf8),
        ];
        for (name, why) in bad {
            assert_eq!(check_name(name), Err(why), "{name:?}");
            assert_eq!(RelPath::root().join(name), Err(why));
        }
    }

    #[test]
    fn odd_names_that_linux_allows_are_kept() {
        for name in ["CON", "\x1b[31mred", "...", "-rf", "a\\b", " ", "ünï", &"x".repeat(255)] {
            assert_eq!(check_name(name.as_bytes()), Ok(name));
        }
    }

    #[test]
    fn paths_join_parse_and_part() {
        let p = RelPath::root().join(b"a").unwrap().join("ü".as_bytes()).unwrap();
        assert_eq!(p.as_str(), "a/ü");
        assert_eq!(RelPath::parse("a/ü"), Ok(p.clone()));
        assert_eq!((p.name(), p.parent().unwrap().as_str()), (Some("ü"), "a"));
        assert_eq!(p.parent().unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(RelPath::parse(""), Ok(RelPath::root()));
        for bad in ["/", "a/", "/a", "a//b", "a/../b"] {
            assert!(RelPath::parse(bad).is_err(), "{bad}");
        }
    }
}
