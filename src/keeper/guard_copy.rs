//! A copy of what the guard locked last: for a start at which the configuration is broken.
//!
//! The guard's ruleset in JSON, with neither secrets nor knocks in it:
//!
//! ```text
//! {"doors":{"ssh":{"ports":["22/tcp"],"target":null}},"trusted":["192.0.2.0/24"]}
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::kernel_sets::ruleset;
use super::rights;
use crate::config::{Config, GuardMode, Options, read_list};
use crate::firewall::ruleset::Ruleset;

/// Its name in the state directory.
const NAME: &str = "guard";

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
        let mut locked = ruleset(config, None).unwrap_or_default();
        locked.doors.retain(|_, door| door.mode == GuardMode::Lock);
        // A map with string keys can always be written.
        let text = serde_json::to_string(&locked);
        let text = text.unwrap_or_default();
        if fs::read(&self.path).is_ok_and(|there| there == text.as_bytes()) {
            return;
        }
        rights::replace(&self.path, &text, "'knockd --lock-only' would not know these ports");
    }

    /// What was guarded last; no door: nothing was.
    ///
    /// # Errors
    /// Why it is not known, with the path.
    pub(super) fn read(&self, options: Options) -> Result<Ruleset, String> {
        let path = self.path.display();
        let text = read_list(&self.path, options);
        let text = text.map_err(|why| why.to_string().replacen(": error: ", ": ", 1))?;
        serde_json::from_str(&text).map_err(|why| format!("{path}: is not a whole copy: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use proptest::prelude::*;

    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::{Forward, load};
    use crate::firewall::ruleset::GuardedDoor;
    use crate::proto::knock::{Knock, Protocol};
    use crate::proto::network::Network;

    const TEXT: &str = r#"{"doors":{"ssh":{"ports":["22/tcp","53/udp"],"target":null},"web":{"ports":["443/tcp"],"target":"192.0.2.10"}},"trusted":["192.0.2.0/24","2001:db8::/32"]}"#;

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
            ("22/tcp", "0/tcp"),
            ("doors", "gates"),
            ("web", "w b"),
            ("192.0.2.10", "192.0.2"),
            ("null", ""),
            ("/24", "/33"),
            ("/24", "/24 "),
            ("}", "]"),
        ] {
            let damaged = TEXT.replacen(text, becomes, 1);
            assert!(serde_json::from_str::<Ruleset>(&damaged).is_err(), "{damaged}");
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
        let port = (protocol.clone(), 1..=u16::MAX)
            .prop_map(|(protocol, port)| Knock::new(protocol, port.try_into().unwrap()));
        let open = (protocol, 1..u16::MAX)
            .prop_map(|(protocol, low)| format!("{low}-65535/{protocol}").parse().unwrap());
        let open = prop_oneof![port.clone().prop_map_into(), open];
        let ports = prop::collection::vec(open, 1..4);
        let forward = (port, address(), 1..=u16::MAX, any::<bool>()).prop_map(
            |(on, to, port, masquerade)| Forward {
                on,
                to,
                port: port.try_into().unwrap(),
                masquerade,
            },
        );
        let forwards = prop::collection::vec(forward, 0..3);
        let door = ("[A-Za-z0-9_.-]{1,32}", ports, forwards, prop::option::of(address())).prop_map(
            |(name, ports, forwards, target)| {
                let door =
                    GuardedDoor { idle: None, ports, forwards, target, mode: GuardMode::Lock };
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
            let text = serde_json::to_string(&ruleset).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ruleset>(&text).ok(), Some(ruleset));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
            #[expect(clippy::cast_precision_loss, reason = "a place")]
            let at = (text.len() as f64 * cut) as usize;
            prop_assert!(serde_json::from_str::<Ruleset>(&text[..at]).is_err());
        }
    }
}
