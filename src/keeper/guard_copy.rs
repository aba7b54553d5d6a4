//! A copy of what the guard locked last: for a start at which the configuration is broken.
//!
//! Text, a fact a line, with neither secrets nor knocks in it:
//!
//! ```text
//! knockd guard copy 1
//! trusted 192.0.2.0/24
//! door ssh any 22/tcp 80/tcp
//! door web 192.0.2.10 443/tcp
//! end
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::kernel_sets::ruleset;
use crate::config::load::Options;
use crate::config::{Config, GuardMode, read_list};
use crate::firewall::ruleset::{GuardedDoor, Ruleset};
use crate::sys::files;

/// Its name in the state directory.
const NAME: &str = "guard";
/// The first line: what it is, and the version of the format.
const HEAD: &str = "knockd guard copy 1";
/// The last line: nothing has been cut off.
const END: &str = "end";

/// The copy, which may not be there yet.
pub(super) struct GuardCopy {
    pub(super) path: PathBuf,
}

impl GuardCopy {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(NAME) }
    }

    /// Keeps what a configuration that works has guarded. Nothing is written where the same stands
    /// there already; what cannot be written is logged.
    pub(super) fn keep(&self, config: &Config) {
        let text = write(&ruleset(config, None).unwrap_or_default());
        if fs::read(&self.path).is_ok_and(|there| there == text.as_bytes()) {
            return;
        }
        if let Err(error) = files::replace(&self.path, text.as_bytes()) {
            let path = self.path.display();
            warn!("cannot write {path}: {error}; 'knockd --lock-only' would not know these ports");
        }
    }

    /// What was guarded last; no door: nothing was.
    ///
    /// # Errors
    /// Why it is not known, with the path.
    pub(super) fn read(&self, options: Options) -> Result<Ruleset, String> {
        let path = self.path.display();
        let text = read_list(&self.path, options);
        let text = text.map_err(|why| why.to_string().replacen(": error: ", ": ", 1))?;
        parse(&text).ok_or_else(|| format!("{path}: is not a whole copy"))
    }
}

fn write(ruleset: &Ruleset) -> String {
    let trusted = ruleset.trusted.iter().map(|network| format!("trusted {network}\n"));
    let locked = ruleset.doors.iter().filter(|(_, door)| door.mode == GuardMode::Lock);
    let doors = locked.map(|(name, GuardedDoor { ports, target, .. })| {
        let target = target.map_or_else(|| "any".to_owned(), |target| target.to_string());
        let ports: String = ports.iter().map(|port| format!(" {port}")).collect();
        format!("door {name} {target}{ports}\n")
    });
    let facts: String = trusted.chain(doors).collect();
    format!("{HEAD}\n{facts}{END}\n")
}

/// `None`: that is not all of a copy, or another version's.
fn parse(text: &str) -> Option<Ruleset> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    (lines.next()? == HEAD && lines.next_back()? == END).then_some(())?;
    let mut ruleset = Ruleset::default();
    for line in lines {
        let mut words = line.split(' ');
        match words.next()? {
            "trusted" => ruleset.trusted.push(words.next()?.parse().ok()?),
            "door" => {
                let name = words.next()?.parse().ok()?;
                let target = match words.next()? {
                    "any" => None,
                    target => Some(target.parse().ok()?),
                };
                let ports = words.by_ref().map(|port| port.parse().ok()).collect::<Option<_>>()?;
                let door = GuardedDoor { ports, target, mode: GuardMode::Lock };
                let is_new = ruleset.doors.insert(name, door).is_none();
                is_new.then_some(())?;
            }
            _ => return None,
        }
        words.next().is_none().then_some(())?;
    }
    Some(ruleset)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use proptest::prelude::*;

    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load;
    use crate::proto::knock::{Knock, Protocol};
    use crate::proto::network::Network;

    const TEXT: &str = "knockd guard copy 1\n\
        trusted 192.0.2.0/24\n\
        trusted 2001:db8::/32\n\
        door ssh any 22/tcp 53/udp\n\
        door web 192.0.2.10 443/tcp\n\
        end\n";

    fn config(text: &str) -> Config {
        load::parse(&SourceText::new(Path::new("text"), text)).unwrap().config
    }

    fn good() -> Config {
        config(
            "knockd: {trusted: [192.0.2.0/24, 2001:db8::/32]}\n\
             doors:\n\
             \x20 ssh: {sequence: [7000, 8000, 9000], open: [22, 53/udp]}\n\
             \x20 web: {sequence: [7100, 8100, 9100], open: [443], target: 192.0.2.10}\n\
             \x20 mail: {sequence: [7200, 8200, 9200], open: [25], via: iptables}\n",
        )
    }

    #[test]
    fn it_has_the_guarded_ports_and_who_is_trusted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let copy = GuardCopy::new(dir.path());
        copy.keep(&good());
        assert_eq!(fs::read_to_string(&copy.path).unwrap(), TEXT);
        assert_eq!(fs::metadata(&copy.path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(copy.read(Options::default()).ok(), ruleset(&good(), None));
        copy.keep(&config("doors: {}\n"));
        assert_eq!(copy.read(Options::default()), Ok(Ruleset::default()));
    }

    #[test]
    fn what_has_not_changed_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let copy = GuardCopy::new(dir.path());
        copy.keep(&good());
        let file = || fs::metadata(&copy.path).unwrap().ino();
        let before = file();
        copy.keep(&good());
        assert_eq!(file(), before);
    }

    #[test]
    fn a_copy_that_others_could_have_written_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let copy = GuardCopy::new(dir.path());
        assert!(copy.read(Options::default()).unwrap_err().contains("No such file"));
        fs::write(&copy.path, TEXT).unwrap();
        fs::set_permissions(&copy.path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(copy.read(Options::default()).unwrap_err().contains("chmod go-w"));
        assert!(copy.read(Options { insecure_permissions: true }).is_ok());
    }

    #[test]
    fn what_is_damaged_or_of_another_version_is_not_read() {
        for (text, becomes) in [
            ("copy 1", "copy 2"),
            ("22/tcp", "0/tcp"),
            ("door web", "doors web"),
            ("192.0.2.10", "192.0.2"),
            ("any", ""),
            ("/24", "/33"),
            ("/24", "/24 "),
            ("end\n", "end"),
            ("end\n", "end\nend"),
        ] {
            assert_eq!(parse(&TEXT.replacen(text, becomes, 1)), None, "{becomes}");
        }
    }

    fn rulesets() -> impl Strategy<Value = Ruleset> {
        let address = || {
            let v4 = any::<u32>().prop_map(|bits| std::net::IpAddr::V4(bits.into()));
            prop_oneof![v4, any::<u128>().prop_map(|bits| std::net::IpAddr::V6(bits.into()))]
        };
        let network = (address(), 0..=128u8)
            .prop_map(|(address, prefix)| Network::around(address.to_canonical(), prefix));
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let port = (protocol, 1..=u16::MAX)
            .prop_map(|(protocol, port)| Knock::new(protocol, port.try_into().unwrap()));
        let ports = prop::collection::vec(port, 1..4);
        let door = ("[A-Za-z0-9_.-]{1,32}", ports, prop::option::of(address())).prop_map(
            |(name, ports, target)| {
                let door = GuardedDoor { ports, target, mode: GuardMode::Lock };
                (name.parse().unwrap(), door)
            },
        );
        (prop::collection::vec(door, 0..4), prop::collection::vec(network, 0..4)).prop_map(
            |(doors, trusted)| Ruleset {
                doors: doors.into_iter().collect(),
                trusted,
                locked_until: None,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_less(ruleset in rulesets(), cut in 0.0..1.0) {
            let text = write(&ruleset);
            prop_assert_eq!(parse(&text), Some(ruleset));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
            #[expect(clippy::cast_precision_loss, reason = "a place")]
            let at = (text.len() as f64 * cut) as usize;
            prop_assert_eq!(parse(&text[..at]), None);
        }

        #[test]
        fn no_text_makes_it_panic(
            text in "(?s)(knockd guard copy 1\n)?((trusted|door) [a-z0-9./: -]{0,30}\n){0,4}(end\n)?.{0,9}",
        ) {
            let _ = parse(&text);
        }
    }
}
