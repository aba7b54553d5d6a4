//! The identity of the watcher: giving up root, for good, and proving it.

use std::fs;
use std::io;

use caps::CapsHashSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgroups, getppid, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};
use serde::{Deserialize, Serialize};

use super::capabilities;

/// The user that the watcher becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// Another one.
    User { name: String, uid: u32, gid: u32 },
    /// The ids stay as they are: inside a user namespace there may be no others, and who is not root
    /// becomes nobody else.
    Unchanged,
}

/// The reason why there is no such identity, or why it could not be assumed.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("there is no user '{0}': create it (useradd --system {0}) or set another 'user'")]
    NoUser(String),
    #[error(
        "'user: {0}' would leave the watcher with root's rights: name an ordinary user \
         (root is for user namespaces only)"
    )]
    Root(String),
    #[error("only root can become '{0}': take 'user' away")]
    NotRoot(String),
    #[error("cannot {doing}: {source}{}", if in_user_namespace() { NO_OTHERS } else { "" })]
    Refused { doing: &'static str, source: io::Error },
    #[error("root could be had again ({0}): not going on")]
    NotGone(&'static str),
}

/// What helps where ids cannot be changed.
const NO_OTHERS: &str = " (where this user namespace has no other ids, write 'user: root')";

impl Identity {
    /// Looks up the user that the configuration names.
    ///
    /// Without a name it is `knockd`, or `nobody` where there is no such user; the second value
    /// says which of the two was missed.
    ///
    /// # Errors
    /// An unknown user, or one with root's rights outside a user namespace.
    pub fn resolve(name: Option<&str>) -> Result<(Self, Option<&'static str>), PrivilegeError> {
        let look_up = |name: &str| User::from_name(name).map_err(refused("look up users"));
        if !is_root() {
            let is_own = |user: &User| user.uid == geteuid();
            return match name {
                Some(name) if !look_up(name)?.as_ref().is_some_and(is_own) => {
                    Err(PrivilegeError::NotRoot(name.to_owned()))
                }
                _ => Ok((Self::Unchanged, None)),
            };
        }
        let (user, missed) = match (look_up(name.unwrap_or("knockd"))?, name) {
            (None, None) => (look_up("nobody")?, Some("knockd")),
            (user, _) => (user, None),
        };
        let user = user.ok_or_else(|| PrivilegeError::NoUser(name.unwrap_or("nobody").into()))?;
        if !user.uid.is_root() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            return Ok((Self::User { name: user.name, uid, gid }, missed));
        }
        if in_user_namespace() {
            Ok((Self::Unchanged, None))
        } else {
            Err(PrivilegeError::Root(user.name))
        }
    }

    /// Becomes this user, without any way back: groups, group, user, no-new-privileges, no core
    /// dumps, nobody who traces it, an end with its parent. Proves that root cannot be had again
    /// before it returns.
    ///
    /// # Errors
    /// Whatever the kernel refuses, and the proof's failure. The process must then end.
    pub fn assume(&self) -> Result<(), PrivilegeError> {
        let parent = getppid();
        prctl::set_dumpable(false).map_err(refused("forbid core dumps"))?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(refused("forbid core dumps"))?;
        if let Self::User { uid, gid, .. } = *self {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            setgroups(&[gid]).map_err(refused("set groups"))?;
            setresgid(gid, gid, gid).map_err(refused("set the group"))?;
            setresuid(uid, uid, uid).map_err(refused("set the user"))?;
        }
        // Whoever started knockd may have handed down what a change of the user leaves alone.
        capabilities::keep_only(&CapsHashSet::new())
            .map_err(io::Error::other)
            .map_err(refused("drop all capabilities"))?;
        // The kernel has undone both with the change of ids.
        prctl::set_dumpable(false).map_err(refused("forbid core dumps"))?;
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(refused("end with the keeper"))?;
        if getppid() != parent {
            return Err(refused("end with the keeper")(Errno::ESRCH));
        }
        setrlimit(Resource::RLIMIT_NPROC, 0, 0).map_err(refused("forbid child processes"))?;
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0).map_err(refused("forbid writing files"))?;
        self.prove()
    }

    fn prove(&self) -> Result<(), PrivilegeError> {
        let status = fs::read_to_string("/proc/self/status");
        if let Some(what) = left_over(&status.map_err(refused("read /proc/self/status"))?) {
            return Err(PrivilegeError::NotGone(what));
        }
        let Self::User { uid, gid, .. } = *self else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let users = getresuid().map_err(refused("read the user"))?;
        let groups = getresgid().map_err(refused("read the group"))?;
        let others = getgroups().map_err(refused("read the groups"))?;
        let root = Uid::from_raw(0);
        let left = [
            ([users.real, users.effective, users.saved] != [uid; 3], "a user id is left"),
            ([groups.real, groups.effective, groups.saved] != [gid; 3], "a group id is left"),
            (others.iter().any(|&id| id != gid), "a supplementary group is left"),
            (setresuid(root, root, root).is_ok(), "the user id can be set back"),
        ];
        let left = left.into_iter().find_map(|(is_left, what)| is_left.then_some(what));
        left.map_or(Ok(()), |what| Err(PrivilegeError::NotGone(what)))
    }
}

/// Whether this process has root's rights where it lives.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether this process lives in a user namespace other than the initial one.
pub(crate) fn in_user_namespace() -> bool {
    // The initial namespace maps every id to itself.
    let map = fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// The number of a group, where it exists.
pub(crate) fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// The sign in `/proc/self/status` that privileges are left.
fn left_over(status: &str) -> Option<&'static str> {
    let value = |key: &str| {
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    };
    let empty = |key| value(key).is_some_and(|bits| bits.bytes().all(|bit| bit == b'0'));
    if !["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().all(empty) {
        return Some("a capability is left");
    }
    (value("NoNewPrivs") != Some("1")).then_some("no-new-privileges is not set")
}

fn refused<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> PrivilegeError {
    move |error| PrivilegeError::Refused { doing, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Name:\tknockd\nNoNewPrivs:\t1\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";

    #[test]
    fn a_process_without_privileges_passes_the_proof() {
        assert_eq!(left_over(CLEAN), None);
    }

    #[test]
    fn a_capability_that_is_left_fails_the_proof() {
        let status = CLEAN.replace("CapPrm:\t0000000000000000", "CapPrm:\t0000000000002000");
        assert_eq!(left_over(&status), Some("a capability is left"));
    }

    #[test]
    fn what_cannot_be_read_fails_the_proof() {
        assert!(left_over("").is_some());
        assert!(left_over(&CLEAN.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")).is_some());
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = Identity::resolve(Some("no-such-user")).unwrap_err();
        assert!(error.to_string().contains("no-such-user"), "{error}");
    }
}
