//! Landlock: what this process, and those that it starts, may still reach of files and networks.

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

/// The newest interface that the rules are known to go with: Linux 6.15's. A newer one may
/// restrict more, but not unasked.
const KNOWN: ABI = ABI::V7;

/// Where libraries are.
pub(crate) const LIBRARIES: [&str; 6] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"];
/// Where names are looked up; what else that takes may be anywhere below.
pub(crate) const NAMES: [&str; 4] =
    ["/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"];

/// The files that a process may still reach, and what else is taken from it.
#[derive(Debug, Default)]
pub(crate) struct LandlockRules<'a> {
    /// Files, and directories with all that is in them. One that is not there now is not to be
    /// reached later either.
    pub read: Vec<&'a Path>,
    /// Also to make, change, rename and remove.
    pub write: Vec<&'a Path>,
    /// Directories whose files can be removed, and nothing else.
    pub remove: Vec<&'a Path>,
    /// Also to run.
    pub execute: Vec<&'a Path>,
    /// TCP sockets can neither be bound nor connected.
    pub no_network: bool,
    /// No signal to, and no abstract Unix socket of, a process that is not under the same rules.
    pub scoped: bool,
}

impl LandlockRules<'_> {
    /// Those of a process that looks up names: nothing but the files that this takes.
    pub(crate) fn of_resolver() -> Self {
        let read = NAMES.iter().chain(&LIBRARIES).map(Path::new).collect();
        Self { read, scoped: true, ..Self::default() }
    }
}

/// The extent to which [`LandlockRules`] hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockReport {
    /// The version of the kernel's interface, no newer than known here; 0: there is none, or it is
    /// forbidden.
    pub abi: u8,
    pub no_network: bool,
    pub scoped: bool,
}

/// The kernel's refusal of rules that it knows.
#[derive(Debug, thiserror::Error)]
#[error("the kernel takes no Landlock rules: {0}")]
pub(crate) struct LandlockError(#[from] RulesetError);

/// Restricts this process as far as the kernel can. There is no way back, and no privilege is gained
/// by executing from then on. To be called before there is a thread: others are not restricted.
///
/// # Errors
/// Where the kernel knows the rules and refuses them, as it does after 16 such sets.
pub(crate) fn restrict(rules: &LandlockRules<'_>) -> Result<LandlockReport, LandlockError> {
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
    if rules.no_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
    }
    if rules.scoped {
        ruleset = ruleset.scope(Scope::from_all(KNOWN))?;
    }
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(&rules.read, look))?
        .add_rules(path_beneath_rules(&rules.write, look | AccessFs::from_write(KNOWN)))?
        .add_rules(path_beneath_rules(&rules.remove, AccessFs::RemoveFile))?
        .add_rules(path_beneath_rules(&rules.execute, look | AccessFs::Execute))?
        .restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi.min(KNOWN),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => ABI::Unsupported,
    };
    Ok(LandlockReport { abi: abi as u8, no_network: rules.no_network, scoped: rules.scoped })
}

impl LandlockReport {
    /// What was asked for and does not hold, for want of a newer kernel; nothing where all does.
    pub(crate) fn missing(self) -> Vec<&'static str> {
        // Since which version of the interface each is there.
        let parts = [
            (true, 1, "files"),
            (true, 3, "truncating"),
            (self.no_network, 4, "network"),
            (true, 5, "device ioctls"),
            (self.scoped, 6, "signals"),
            (self.scoped, 6, "abstract sockets"),
        ];
        let is_missing = |&(asked, since, _): &(bool, u8, _)| asked && self.abi < since;
        parts.into_iter().filter(is_missing).map(|(.., part)| part).collect()
    }
}

impl fmt::Display for LandlockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.abi, self.missing()) {
            (0, _) => f.write_str("none: this kernel lacks it or has it turned off"),
            (abi, missing) if missing.is_empty() => write!(f, "all (version {abi})"),
            (abi, missing) => write!(f, "all but {} (version {abi})", missing.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn report(abi: u8) -> LandlockReport {
        LandlockReport { abi, no_network: true, scoped: true }
    }

    /// Each thread is restricted by itself.
    fn restricted<T: Send>(rules: &LandlockRules<'_>, then: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let then = scope.spawn(|| {
                restrict(rules).unwrap();
                then()
            });
            then.join().unwrap()
        })
    }

    fn is_here() -> bool {
        let abi = restricted(&LandlockRules::default(), || restrict(&LandlockRules::default()));
        let is_here = abi.unwrap().missing().is_empty();
        if !is_here {
            eprintln!("SKIPPED: this kernel lacks Landlock, or a part of it");
        }
        is_here
    }

    #[test]
    fn what_an_older_kernel_lacks_is_named() {
        assert_eq!(report(7).to_string(), "all (version 7)");
        assert_eq!(report(5).to_string(), "all but signals, abstract sockets (version 5)");
        let rules = LandlockReport { scoped: false, ..report(3) };
        assert_eq!(rules.to_string(), "all but network, device ioctls (version 3)");
        assert_eq!(report(0).to_string(), "none: this kernel lacks it or has it turned off");
    }

    #[test]
    fn without_rules_no_file_and_no_network_is_reached() {
        if !is_here() {
            return;
        }
        let rules = LandlockRules { no_network: true, scoped: true, ..LandlockRules::default() };
        let refused = [
            restricted(&rules, || File::open("/proc/self/status").map(drop)),
            restricted(&rules, || TcpListener::bind("127.0.0.1:0").map(drop)),
        ];
        for tried in refused {
            assert_eq!(tried.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn what_may_be_read_cannot_be_written_and_the_other_directory_can() {
        if !is_here() {
            return;
        }
        let (read, write) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (read.path().join("old"), write.path().join("new"));
        fs::write(&old, "old").unwrap();
        let rules = LandlockRules {
            read: vec![read.path()],
            write: vec![write.path()],
            ..LandlockRules::default()
        };
        restricted(&rules, || {
            assert_eq!(fs::read(&old).unwrap(), b"old");
            assert!(fs::write(&old, "new").is_err());
            assert!(fs::remove_file(&old).is_err());
            fs::write(&new, "new").unwrap();
            fs::remove_file(&new).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap();
        });
    }
}
