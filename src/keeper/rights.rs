//! The rights of the keeper: what a configuration needs of capabilities and of files, and what is
//! given up for good.
//!
//! A command of the administrator's may need anything, and has no more than the keeper. So with
//! commands everything is kept; without them the keeper has a few capabilities and its own files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use caps::Capability::{
    CAP_DAC_OVERRIDE, CAP_KILL, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SETGID, CAP_SETUID,
};
use caps::errors::CapsError;
use caps::{Capability, CapsHashSet};
use nix::errno::Errno;
use nix::unistd::geteuid;
use tracing::warn;

use crate::config::{Config, Door, Loaded, Mechanism, Name, StoreAddress};
use crate::control::KeeperRights;
use crate::sys::landlock::{self, LIBRARIES, LandlockError, LandlockReport, LandlockRules, NAMES};
use crate::sys::privileges::Identity;
use crate::sys::{capabilities, fault, files, process};

/// What a watcher takes, and whoever looks up names: to capture, to become another user, and to end.
const OF_CHILDREN: &[Capability] = &[CAP_NET_RAW, CAP_SETUID, CAP_SETGID, CAP_KILL];

/// Where the kernel tells of itself and of interfaces, and time zones are. Not all are everywhere.
const SYSTEM: [&str; 6] = [
    "/proc",
    "/sys/class/net",
    "/sys/devices",
    "/usr/share/zoneinfo",
    // Users and groups, the time zone, where libraries are: all of them are replaced by others.
    "/etc",
    "/dev/urandom",
];

/// The doors that run commands, and what sends mail.
pub(crate) fn commands(config: &Config) -> impl Iterator<Item = String> + '_ {
    let doors = config.doors.iter().filter(|door| door.opening.runs_commands());
    let mail = config.settings.alert.iter().map(|_| "alert".to_owned());
    doors.map(|door| door.name().to_string()).chain(mail)
}

/// The doors that the kernel opens, which takes [`CAP_NET_ADMIN`].
fn by_kernel(config: &Config) -> impl Iterator<Item = &Door> {
    config.doors.iter().filter(|door| door.opening.commands().is_none())
}

/// The capabilities that a configuration needs; `None`: maybe any.
#[must_use]
fn capabilities(config: &Config) -> Option<CapsHashSet> {
    let runs_nothing = commands(config).next().is_none();
    let firewall = by_kernel(config).next().map(|_| CAP_NET_ADMIN);
    let socket = by_socket(config).then_some(CAP_DAC_OVERRIDE);
    runs_nothing.then(|| OF_CHILDREN.iter().copied().chain(firewall).chain(socket).collect())
}

/// Whether the courier reaches the store by a socket, whose owner may let nobody else at it.
fn by_socket(config: &Config) -> bool {
    let mut stores = config.settings.fleet.iter().flat_map(|fleet| &fleet.store.addresses);
    stores.any(|store| matches!(store, StoreAddress::Unix(_)))
}

/// What keeps a configuration from working without root, a line each, and what helps.
pub(super) fn lacking_without_root(config: &Config, held: &CapsHashSet) -> Vec<String> {
    let mut lacking = Vec::new();
    if !held.contains(&CAP_NET_RAW) {
        let exe = fs::read_link("/proc/self/exe").unwrap_or_else(|_| "knockd".into());
        lacking.push(format!(
            "nothing is captured: run as root: setcap cap_net_raw+ep {}; or start knockd with \
             CAP_NET_RAW as an ambient capability",
            exe.display()
        ));
    }
    if let Some(user) = &config.settings.user
        && Identity::resolve(Some(user)).is_err()
    {
        lacking.push(format!("the watcher does not become '{user}': take 'user' away"));
    }
    for door in by_kernel(config).filter(|_| !held.contains(&CAP_NET_ADMIN)) {
        lacking.push(format!(
            "door '{}' does not open via {}, which takes CAP_NET_ADMIN: write a start_command that \
             this user may run",
            door.name(),
            door.opening.mechanism
        ));
    }
    lacking
}

/// The doors whose template's program is likely to take root.
pub(super) fn by_template(config: &Config) -> impl Iterator<Item = (&Door, &Name)> {
    config.doors.iter().filter_map(|door| match &door.opening.mechanism {
        Mechanism::Commands { template: Some(name), .. } => Some((door, name)),
        _ => None,
    })
}

/// The files that are read and written at work.
#[derive(Clone, Debug)]
pub(crate) struct FilesInUse {
    files: Vec<PathBuf>,
    written: Vec<PathBuf>,
    /// The directories in which they are: a file may be replaced.
    read: BTreeSet<PathBuf>,
    write: BTreeSet<PathBuf>,
    /// Where the pid file is: it is removed from there, and no more.
    pid_file: [PathBuf; 2],
}

impl FilesInUse {
    /// Those of a configuration that was read from `path`.
    pub(crate) fn of(path: &Path, Loaded { config, secret_files, .. }: &Loaded) -> Self {
        let settings = &config.settings;
        let keys = settings.spa.old_key.iter().map(|(old, _)| old).chain([&settings.spa.key_file]);
        let takes_spa = config.doors.iter().any(|door| door.recognition.spa);
        let mut files: Vec<PathBuf> =
            keys.filter(|_| takes_spa).chain(secret_files).cloned().collect();
        let mut read = BTreeSet::new();
        if path.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let entries = entries.map(|entry| entry.path());
            files.extend(entries.filter(|file| file.extension().is_some_and(|it| it == "yaml")));
            read.insert(real(path));
        } else {
            files.push(path.to_owned());
        }
        read.extend(files.iter().flat_map(|file| directories(file)));
        let lists = config.doors.iter().filter_map(|door| Some(&door.one_time.as_ref()?.file));
        let written: Vec<PathBuf> = lists.chain(&settings.log.file).cloned().collect();
        let socket = settings.metrics.as_ref().map(|socket| directories(&socket.path));
        let write = written.iter().map(|file| directories(file)).chain(socket).flatten().collect();
        Self { files, written, read, write, pid_file: directories(&settings.pid_file) }
    }

    /// The first that is not among those of `kept`.
    fn missing_in(&self, kept: &Self) -> Option<&Path> {
        let is_written = |path: &PathBuf| kept.write.iter().any(|it| path.starts_with(it));
        let is_read = |path: &PathBuf| kept.read.iter().any(|it| path.starts_with(it));
        let read = self.read.iter().find(|path| !is_read(path) && !is_written(path));
        read.or(self.write.iter().find(|path| !is_written(path))).map(PathBuf::as_path)
    }

    /// Whether owners and modes let this user at all of them, with no right to pass those over.
    fn is_open(&self) -> bool {
        let is_open = |(path, wanted): (&PathBuf, u32)| {
            lets(path, wanted) && path.ancestors().skip(1).all(|it| lets(it, 1))
        };
        let read = self.files.iter().map(|path| (path, 4));
        let written = self.written.iter().map(|path| (path, 6));
        let directories = self.read.iter().map(|path| (path, 5));
        let changed = self.write.iter().chain(&self.pid_file).map(|path| (path, 7));
        read.chain(written).chain(directories).chain(changed).all(is_open)
    }

    /// With the network where names are looked up, or for the courier, which is started from its
    /// directory: also one that is installed later.
    fn restrict(
        &self,
        looks_up: bool,
        couriers: Option<&Path>,
    ) -> Result<LandlockReport, LandlockError> {
        let exe = Path::new("/proc/self/exe");
        let networked = looks_up || couriers.is_some();
        let system = SYSTEM.iter().chain(if networked { NAMES.as_slice() } else { &[] });
        let path = PathBuf::as_path;
        landlock::restrict(&LandlockRules {
            read: system.map(Path::new).chain(self.read.iter().map(path)).collect(),
            write: self.write.iter().map(path).chain([Path::new("/dev/null")]).collect(),
            execute: LIBRARIES.iter().map(Path::new).chain([exe]).chain(couriers).collect(),
            remove: self.pid_file.iter().map(path).collect(),
            no_network: !networked,
            // The service manager may listen on an abstract socket.
            scoped: false,
        })
    }
}

/// Whether this user, at the least, may do this to a file, in bits of a mode; also where there is
/// none. Groups are left out: whom they let at it, the right to pass is kept for all the same.
fn lets(path: &Path, wanted: u32) -> bool {
    let Ok(is) = fs::metadata(path) else { return true };
    let bits = if is.uid() == geteuid().as_raw() { is.mode() >> 6 } else { is.mode() };
    bits & wanted == wanted
}

/// A path without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The directory in which a file stands, and that in which what it leads to stands.
fn directories(file: &Path) -> [PathBuf; 2] {
    let of = |file: &Path| real(file.parent().unwrap_or(Path::new("/")));
    [of(file), of(&real(file))]
}

/// The rights that are left; `None`: all.
#[derive(Debug)]
pub(super) struct Rights(Option<FewRights>);

#[derive(Debug)]
struct FewRights {
    capabilities: CapsHashSet,
    files: FilesInUse,
    /// Another one is not looked up: where users are kept has been replaced since, if it is new.
    user: Option<String>,
    /// Whether there was a fleet, and so the network and the courier are left.
    has_fleet: bool,
    /// `None`: it is not to be had here, or a test has files of its own.
    landlock: Option<LandlockReport>,
}

impl Rights {
    pub(super) const ALL: Self = Self(None);

    /// Gives up what a configuration does not need. To be called before there is a thread.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn give_up(
        config: &Config,
        mut files: FilesInUse,
        looks_up: bool,
    ) -> Result<Self, CapsError> {
        let Some(mut needed) = capabilities(config) else { return Ok(Self::ALL) };
        let settings = &config.settings;
        // These stay, whatever a later configuration says.
        let own = [&settings.state_dir, &settings.run_dir].map(|directory| real(directory));
        files.write.extend(own);
        if !files.is_open() {
            needed.insert(CAP_DAC_OVERRIDE);
        }
        let has_fleet = settings.fleet.is_some();
        let courier = process::courier().ok().filter(|_| has_fleet);
        let couriers = courier.as_deref().and_then(Path::parent);
        let landlock = (!fault::is_on()).then(|| files.restrict(looks_up, couriers));
        let landlock = landlock.and_then(|it| it.inspect_err(|why| warn!("{why}")).ok());
        capabilities::keep_only(&needed)?;
        let (capabilities, user) = (capabilities::held()?, settings.user.clone());
        Ok(Self(Some(FewRights { capabilities, files, user, has_fleet, landlock })))
    }

    /// Checks that a configuration needs nothing that has been given up.
    ///
    /// # Errors
    /// Says what it needs, and what to do.
    pub(super) fn suffice(&self, config: &Config, files: &FilesInUse) -> Result<(), String> {
        let Some(few) = &self.0 else { return Ok(()) };
        let runs = config.doors.iter().find(|door| door.opening.runs_commands());
        let runs = runs.map(|door| format!("door '{}', which runs commands", door.name()));
        let mail = config.settings.alert.as_ref().map(|_| "mail by 'alert'".to_owned());
        let any = runs.or(mail).map(|who| format!("{who}, may need any privilege"));
        let firewall =
            by_kernel(config).find(|_| !few.capabilities.contains(&CAP_NET_ADMIN)).map(|door| {
                let via = &door.opening.mechanism;
                format!("door '{}', via {via}, needs {CAP_NET_ADMIN}", door.name())
            });
        let file = few.landlock.and_then(|_| files.missing_in(&few.files));
        let file = file.map(|path| format!("the configuration has files in {}", path.display()));
        let user = (config.settings.user != few.user).then(|| "'user' is another one".to_owned());
        let out_of_reach = few.landlock.is_some() && !few.has_fleet
            || by_socket(config) && !few.capabilities.contains(&CAP_DAC_OVERRIDE);
        let fleet = config.settings.fleet.as_ref().filter(|_| out_of_reach);
        let fleet = fleet.map(|_| "'fleet' needs a way to its store".to_owned());
        let why = any.or(firewall).or(file).or(user).or(fleet);
        why.map_or(Ok(()), |why| Err(format!("{why}: {RESTART}")))
    }

    /// An error of a file, and what helps where that may be out of reach.
    pub(super) fn explain(&self, error: String) -> String {
        let is_out_of_reach = self.0.is_some() && error.contains(Errno::EACCES.desc());
        if is_out_of_reach { format!("{error}\n{RESTART}") } else { error }
    }

    pub(super) fn status(&self) -> KeeperRights {
        let held = capabilities::held().unwrap_or_default();
        let mut capabilities: Vec<String> = held.iter().map(ToString::to_string).collect();
        capabilities.sort();
        let landlock = self.0.as_ref().and_then(|few| few.landlock);
        KeeperRights { capabilities, landlock: landlock.map(|report| report.to_string()) }
    }
}

/// Writes a file of knockd's own. Where that cannot be, the log says so, what helps where it is out
/// of reach, and what comes of it.
pub(super) fn replace(path: &Path, text: &str, otherwise: &str) {
    if let Err(error) = files::replace(path, text.as_bytes()) {
        let is_out_of_reach = error.kind() == io::ErrorKind::PermissionDenied;
        let restart = " (if its directory has been replaced, restart knockd)";
        let remedy = if is_out_of_reach { restart } else { "" };
        warn!("cannot write {}: {error}{remedy}; {otherwise}", path.display());
    }
}

/// What helps where a configuration needs more than is left.
const RESTART: &str = "knockd has given up what it did not need when it started: restart it";

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::sync::Barrier;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::{FleetSettings, Store, WhenLost, load};

    fn loaded(doors: &str) -> Loaded {
        load::parse(&SourceText::new("doors.yaml", doors)).unwrap()
    }

    fn needed(doors: &str) -> Option<Vec<String>> {
        let needed = capabilities(&loaded(doors).config)?;
        let mut names: Vec<String> = needed.iter().map(ToString::to_string).collect();
        names.sort();
        Some(names)
    }

    const GUARD: &str = "sequence: [7000, 8000, 9000], open: [22]";
    const SET: &str = "sequence: [7000, 8000, 9000], open: [22], via: {nft_set: {table: inet filter, set4: ssh4}}";
    const COMMAND: &str = "sequence: [7000, 8000, 9000], start_command: 'true'";

    #[test]
    fn the_guard_and_sets_take_the_firewall_and_watchers_what_makes_them_others() {
        let few = ["CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"];
        for door in [GUARD, SET] {
            assert_eq!(needed(&format!("doors: {{a: {{{door}}}}}")).unwrap(), few);
        }
        assert!(!needed("doors: {}").unwrap().contains(&"CAP_NET_ADMIN".to_owned()));
    }

    #[test]
    fn whatever_runs_a_command_may_take_any() {
        for text in [
            format!("doors: {{a: {{{GUARD}}}, b: {{{COMMAND}}}}}"),
            format!("doors: {{a: {{{GUARD}, on_close: 'true'}}}}"),
            format!("doors: {{a: {{{GUARD}, via: iptables}}}}"),
            format!("knockd: {{alert: {{email: root}}}}\ndoors: {{a: {{{GUARD}}}}}"),
        ] {
            assert_eq!(needed(&text), None, "{text}");
        }
    }

    fn kept_landlock() -> Option<LandlockReport> {
        Some(LandlockReport { abi: 7, no_network: true, scoped: true })
    }

    fn few(doors: &str) -> Rights {
        let Loaded { config, .. } = loaded(doors);
        let capabilities = capabilities(&config).unwrap();
        let files = FilesInUse::of(Path::new("/no/such"), &loaded(doors));
        let has_fleet = false;
        Rights(Some(FewRights {
            capabilities,
            files,
            user: None,
            has_fleet,
            landlock: kept_landlock(),
        }))
    }

    #[test]
    fn what_has_been_given_up_is_named_with_who_needs_it() {
        let guard = format!("doors: {{a: {{{GUARD}}}}}");
        let refused = |kept: &Rights, text: &str| {
            let wanted = loaded(text);
            let files = FilesInUse::of(Path::new("/no/such"), &wanted);
            kept.suffice(&wanted.config, &files).err().unwrap_or_default()
        };
        let kept = few(&guard);
        assert_eq!(refused(&kept, &guard), "");
        let command = format!("doors: {{b: {{{COMMAND}}}}}");
        assert!(refused(&kept, &command).starts_with("door 'b', which runs commands, may need"));
        let not_taken_up = format!("knockd: {{state_dir: /srv, run_dir: /srv/run}}\n{guard}");
        assert_eq!(refused(&kept, &not_taken_up), "");
        let elsewhere = format!("knockd: {{log: {{file: /srv/elsewhere/log}}}}\n{guard}");
        assert!(
            refused(&kept, &elsewhere)
                .starts_with("the configuration has files in /srv/elsewhere: ")
        );
        let another = format!("knockd: {{user: nobody}}\n{guard}");
        assert!(refused(&kept, &another).starts_with("'user' is another one: "));
        let without_door = few("doors: {}");
        let said = refused(&without_door, &guard);
        assert!(said.starts_with("door 'a', via guard, needs CAP_NET_ADMIN: "), "{said}");
        assert!(said.ends_with("restart it"));
        assert_eq!(refused(&Rights::ALL, &command), "");
    }

    #[test]
    fn what_was_never_held_keeps_no_configuration_out() {
        let guard = loaded(&format!("doors: {{a: {{{GUARD}}}}}"));
        let files = FilesInUse::of(Path::new("/no/such"), &guard);
        let capabilities = [CAP_NET_RAW, CAP_NET_ADMIN].into_iter().collect();
        let files_kept = files.clone();
        let kept = FewRights {
            capabilities,
            files: files_kept,
            user: None,
            has_fleet: false,
            landlock: None,
        };
        assert_eq!(Rights(Some(kept)).suffice(&guard.config, &files), Ok(()));
    }

    const FLEET: &str = "knockd: {fleet: {name: gw1, store: 'rediss://a', key_file: KEY}}";

    #[test]
    fn a_fleet_that_there_was_not_asks_for_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        fs::write(&key, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let door = format!("doors: {{a: {{{GUARD}}}}}");
        let fleet = FLEET.replace("KEY", key.to_str().unwrap());
        let wanted = loaded(&format!("{fleet}\n{door}"));
        let files = FilesInUse::of(Path::new("/no/such"), &wanted);
        let Rights(Some(kept)) = few(&door) else { panic!("few") };
        let kept = |has_fleet, landlock| {
            let capabilities = kept.capabilities.clone();
            let kept = files.clone();
            let kept = FewRights { capabilities, files: kept, user: None, has_fleet, landlock };
            Rights(Some(kept)).suffice(&wanted.config, &files)
        };
        let refused = kept(false, kept_landlock()).unwrap_err();
        assert!(refused.starts_with("'fleet' needs a way to its store: "), "{refused}");
        assert_eq!(kept(true, kept_landlock()), Ok(()));
        // Nothing has been given up.
        assert_eq!(kept(false, None), Ok(()));
    }

    #[test]
    fn a_store_whose_socket_belongs_to_others_takes_the_right_to_pass() {
        let fleet = |store: &str| {
            let mut config = loaded("doors: {}").config;
            let store = Store {
                addresses: vec![store.parse().unwrap()],
                password: None,
                authorities: None,
            };
            config.settings.fleet = Some(FleetSettings {
                name: "gw1".parse().unwrap(),
                store,
                key: [1; 32].into(),
                wait: Duration::ZERO,
                when_lost: WhenLost::Alone,
            });
            config
        };
        let [host, socket] = ["rediss://a", "unix:/run/a"].map(fleet);
        assert!(!capabilities(&host).unwrap().contains(&CAP_DAC_OVERRIDE));
        assert!(capabilities(&socket).unwrap().contains(&CAP_DAC_OVERRIDE));
        let files = FilesInUse::of(Path::new("/no/such"), &loaded("doors: {}"));
        let capabilities = capabilities(&host).unwrap();
        let (kept, landlock) = (files.clone(), kept_landlock());
        let kept = FewRights { capabilities, files: kept, user: None, has_fleet: true, landlock };
        let kept = Rights(Some(kept));
        assert_eq!(kept.suffice(&host, &files), Ok(()));
        let refused = kept.suffice(&socket, &files).unwrap_err();
        assert!(refused.starts_with("'fleet' needs a way to its store: "), "{refused}");
    }

    /// Whether a program that is installed later runs, and a port is reached, by a thread that may
    /// start a courier from this directory.
    fn reaches(couriers: Option<&Path>, program: &Path) -> Option<[bool; 2]> {
        let files = FilesInUse::of(Path::new("/no/such"), &loaded("doors: {}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let installed = Barrier::new(2);
        let restricted = || {
            let report = files.restrict(false, couriers).unwrap();
            installed.wait();
            installed.wait();
            #[expect(clippy::disallowed_methods, reason = "the courier is a program")]
            let runs = Command::new(program).status().is_ok();
            report.missing().is_empty().then_some([runs, TcpStream::connect(address).is_ok()])
        };
        thread::scope(|scope| {
            let restricted = scope.spawn(restricted);
            installed.wait();
            fs::copy("/bin/true", program).unwrap();
            installed.wait();
            restricted.join().unwrap()
        })
    }

    #[test]
    fn the_courier_runs_and_reaches_the_network_and_nothing_does_without_a_fleet() {
        let [here, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let courier = here.path().join("knock-courier");
        let Some(with_fleet) = reaches(Some(here.path()), &courier) else {
            eprintln!("SKIPPED: this kernel lacks Landlock, or a part of it");
            return;
        };
        assert_eq!(with_fleet, [true, true]);
        let other = elsewhere.path().join("other");
        assert_eq!(reaches(Some(here.path()), &other), Some([false, true]));
        assert_eq!(reaches(None, &courier), Some([false, false]));
    }

    #[test]
    fn who_is_not_root_is_told_what_takes_root() {
        let doors = format!("doors: {{a: {{{GUARD}}}, b: {{{COMMAND}}}}}");
        let lacking = |held: &[Capability]| {
            lacking_without_root(&loaded(&doors).config, &held.iter().copied().collect())
        };
        assert_eq!(lacking(&[CAP_NET_RAW, CAP_NET_ADMIN]), Vec::<String>::new());
        let [capture, door] = &lacking(&[])[..] else { panic!("two") };
        assert!(capture.contains("setcap cap_net_raw+ep /"), "{capture}");
        assert!(door.starts_with("door 'a' does not open via guard"), "{door}");
    }
}
