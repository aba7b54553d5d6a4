//! Permissions of a file that is trusted: who may own, read and write it, checked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, User, geteuid};

use super::diagnostic::Diagnostic;

/// Options for reading files: how strictly their owners and modes are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Takes files that others could have written, and secrets that others could have read.
    pub insecure_permissions: bool,
}

/// Mode bits: that others than the owner can read.
pub(super) const OTHERS_READ: u32 = 0o044;
/// Mode bits: that others than the owner can write.
pub(crate) const OTHERS_WRITE: u32 = 0o022;
const GROUP_WRITES: u32 = 0o020;

/// The error that others than root and the running user could have written a file, or read it.
///
/// `forbidden` are the bits of its mode that it may not have, of [`OTHERS_READ`] and
/// [`OTHERS_WRITE`]; `also` is one more user that may own it; `otherwise` ends the help.
pub(crate) fn unsafe_to_use(
    path: &Path,
    metadata: &fs::Metadata,
    also: Option<u32>,
    forbidden: u32,
    otherwise: &str,
) -> Option<Diagnostic> {
    let owner = metadata.uid();
    let mode = metadata.mode() & 0o7777;
    // Not where it holds a secret, which ssh does not take then either.
    let is_spared = mode & GROUP_WRITES != 0 && forbidden == OTHERS_WRITE && is_own_group(metadata);
    let forbidden = if is_spared { OTHERS_WRITE & !GROUP_WRITES } else { forbidden };
    let own = geteuid();
    let is_ours = owner == 0 || owner == own.as_raw() || Some(owner) == also;
    let (message, change) = if !is_ours {
        let option = if metadata.is_symlink() { "-h " } else { "" };
        let message = format!("belongs to user {owner}, who could change it");
        let own = if own.is_root() { "root".to_owned() } else { own.to_string() };
        (message, format!("chown {option}{own}"))
    } else if mode & forbidden & OTHERS_WRITE != 0 && mode & STICKY != 0 {
        let message = format!("everybody can write in it (mode {mode:04o})");
        let help = format!("name a directory below it that is knockd's alone{otherwise}");
        return Some(Diagnostic::file(path, message).help(help));
    } else if mode & forbidden & OTHERS_WRITE != 0 {
        let message = format!("others than its owner can write it (mode {mode:04o})");
        let change = if forbidden & OTHERS_READ == 0 { "go-w" } else { "go-rwx" };
        (message, format!("chmod {change}"))
    } else if mode & OTHERS_READ & forbidden != 0 {
        let message = format!("others than its owner can read it (mode {mode:04o})");
        (message, "chmod go-rwx".to_owned())
    } else {
        return None;
    };
    let help = format!("run: {change} {}{otherwise}", path.display());
    Some(Diagnostic::file(path, message).help(help))
}

/// Of a directory that all write to, such as /tmp: it is meant to be so.
const STICKY: u32 = 0o1000;

/// Whether the group of a file is its owner's own: of the same name, and with nobody else in it.
/// Many systems make the files of a user so, for that group to write. None of root's are.
fn is_own_group(metadata: &fs::Metadata) -> bool {
    let owner = User::from_uid(metadata.uid().into()).ok().flatten();
    let group = Group::from_gid(metadata.gid().into()).ok().flatten();
    owner.zip(group).is_some_and(|(owner, group)| {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let is_alone = group.mem.iter().all(|name| *name == owner.name)
            && !is_first_of_others(&users, group.gid, &owner.name);
        !owner.uid.is_root() && owner.gid == group.gid && owner.name == group.name && is_alone
    })
}

/// Whether a group is the first of anybody but the owner, which stands with the users (passwd(5))
/// and not with the group.
fn is_first_of_others(users: &str, group: Gid, owner: &str) -> bool {
    let group = group.to_string();
    users.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields.get(3) == Some(&&*group) && fields.first() != Some(&owner)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_group_is_not_the_owners_own_where_it_is_the_first_of_another() {
        let users = "alice:x:4501:4501::/home/alice:/bin/sh\nbob:x:4502:4502::/:/bin/sh\n";
        let carol = "carol:x:4503:4501:::\n";
        let is_others = |users: &str| is_first_of_others(users, Gid::from_raw(4501), "alice");
        assert!(!is_others(users));
        assert!(is_others(&format!("{users}{carol}")));
    }

    #[test]
    fn the_group_may_write_where_nobody_but_the_owner_is_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let is_refused = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let metadata = fs::metadata(file.path()).unwrap();
            let as_secret =
                unsafe_to_use(file.path(), &metadata, None, OTHERS_READ | OTHERS_WRITE, "");
            assert_eq!(as_secret.is_some(), mode & 0o066 != 0, "{mode:o}");
            unsafe_to_use(file.path(), &metadata, None, OTHERS_WRITE, "").is_some()
        };
        assert!(!is_refused(0o644) && is_refused(0o602));
        if !geteuid().is_root() {
            assert_eq!(is_refused(0o620), !is_own_group(&fs::metadata(file.path()).unwrap()));
            return;
        }
        assert!(is_refused(0o620), "a file of root's");
        // A user alone in a group, in that of others, and in one that is not known.
        let groups = |user: u32, group: u32| {
            chown(file.path(), Some(user), Some(group)).unwrap();
            is_own_group(&fs::metadata(file.path()).unwrap())
        };
        let of = |name: &str| {
            User::from_name(name).unwrap().map(|it| (it.uid.as_raw(), it.gid.as_raw()))
        };
        // On Debian nobody else has the group of games, and many have that of nobody.
        if let (Some(games), Some(nobody)) = (of("games"), of("nobody")) {
            assert!(groups(games.0, games.1));
            assert!(!groups(games.0, nobody.1) && !groups(nobody.0, nobody.1));
            assert!(!groups(games.0, 54_321) && !groups(54_321, games.1));
        }
    }
}
