//! Sequences that rotate with time: RFC 6238 (HMAC-SHA-1), and knocks derived from its secret.

mod code;
mod secret;

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use derive_more::Into;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use smallvec::SmallVec;

use super::knock::{Knock, Protocol};
use super::ports::PortSet;
use super::secret::Secret;
use super::words::words;
use crate::time::Wall;

pub use code::{CodeError, Digits, code, knocks_of_code};
pub use secret::{SECRET_BYTES, SecretError, encode_secret, parse_secret, uri};

words! {
FromStr("is not a protocol of a rotating sequence: write tcp, udp or mixed"):
/// The protocols of the knocks that are derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocols {
    Tcp = "tcp",
    Udp = "udp",
    /// Either, as the secret says for each knock.
    Mixed = "mixed",
}
}

/// The way from secret and time to knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TotpMode {
    /// `length` knocks anywhere in `low..=high`.
    Ports { low: NonZeroU16, high: NonZeroU16, length: u8, protocol: Protocols },
    /// The code that an authenticator shows, two digits a knock, tcp: 49 is port `base` + 49.
    Code { base: u16, digits: Digits },
}

/// How many knocks a sequence in [`TotpMode::Ports`] may have.
pub const LENGTHS: RangeInclusive<u8> = 3..=8;
/// How many it has unless told otherwise.
pub const LENGTH: u8 = 4;
/// How long a step may be, in seconds.
pub const STEPS: RangeInclusive<u32> = 1..=3600;
/// How long it is unless told otherwise.
pub const STEP: u32 = 30;
/// How many steps a clock may be off.
pub const SKEWS: RangeInclusive<u8> = 0..=10;

/// The scheme by which a door's sequences rotate: all that it stands for can be knocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Into, Serialize, Deserialize)]
#[serde(try_from = "(TotpMode, u32, u8)", into = "(TotpMode, u32, u8)")]
pub struct Scheme {
    mode: TotpMode,
    step: u32,
    skew: u8,
}

impl TryFrom<(TotpMode, u32, u8)> for Scheme {
    type Error = SchemeError;

    fn try_from((mode, step, skew): (TotpMode, u32, u8)) -> Result<Self, SchemeError> {
        Self::new(mode, step, skew)
    }
}

/// The reason why no sequence can rotate so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    #[error("the range {low}-{high} holds no port: write the lower port first")]
    Range { low: NonZeroU16, high: NonZeroU16 },
    #[error("{0} knocks are not possible: write 3 to 8")]
    Length(u8),
    #[error("base {0} is out of range: 100 ports from there are needed, write 1 to 65436")]
    Base(u16),
    #[error("a step of {0} seconds is out of range: write 1s to 1h")]
    Step(u32),
    #[error("a skew of {0} steps is out of range: write 0 to 10")]
    Skew(u8),
}

impl Scheme {
    /// A scheme of steps of `step` seconds; clocks may be `skew` steps off.
    ///
    /// # Errors
    /// [`SchemeError`] if one of the numbers is out of its range: [`LENGTHS`], [`STEPS`],
    /// [`SKEWS`], ports from 1 to 65535.
    pub fn new(mode: TotpMode, step: u32, skew: u8) -> Result<Self, SchemeError> {
        match mode {
            TotpMode::Ports { low, high, .. } if low > high => {
                return Err(SchemeError::Range { low, high });
            }
            TotpMode::Ports { length, .. } if !LENGTHS.contains(&length) => {
                return Err(SchemeError::Length(length));
            }
            TotpMode::Code { base, .. } if !code::BASES.contains(&base) => {
                return Err(SchemeError::Base(base));
            }
            TotpMode::Ports { .. } | TotpMode::Code { .. } => {}
        }
        if !STEPS.contains(&step) {
            return Err(SchemeError::Step(step));
        }
        if !SKEWS.contains(&skew) {
            return Err(SchemeError::Skew(skew));
        }
        Ok(Self { mode, step, skew })
    }

    pub const fn mode(&self) -> TotpMode {
        self.mode
    }

    /// Seconds.
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// How long a step holds.
    pub const fn step_length(&self) -> Duration {
        Duration::from_secs(self.step as u64)
    }

    /// How many steps before and after the current one are valid too.
    pub const fn skew(&self) -> u8 {
        self.skew
    }

    /// The step that a moment lies in, T in RFC 6238.
    pub fn step_at(&self, at: Wall) -> u64 {
        at.since(Wall::ZERO).as_secs() / u64::from(self.step)
    }

    /// The steps that hold at a moment.
    pub fn window(&self, at: Wall) -> RangeInclusive<u64> {
        let (step, skew) = (self.step_at(at), u64::from(self.skew));
        step.saturating_sub(skew)..=step.saturating_add(skew)
    }

    /// When a step ends and the next one begins.
    pub fn turns_at(&self, step: u64) -> Wall {
        Wall::ZERO + Duration::from_secs(step.saturating_add(1).saturating_mul(self.step.into()))
    }

    /// How many knocks a sequence has.
    pub const fn length(&self) -> usize {
        match self.mode {
            TotpMode::Ports { length, .. } => length as usize,
            TotpMode::Code { digits, .. } => digits.count() / 2,
        }
    }

    /// The sequence that opens a door in a step: [`Self::length`] knocks, all of them in
    /// [`Self::watched`].
    pub fn knocks(&self, key: &TotpKey, door: &str, step: u64) -> SmallVec<[Knock; 8]> {
        match self.mode {
            TotpMode::Ports { low, high, length, protocol } => {
                (0..length).map(|i| derive(key, door, step, i, (low, high), protocol)).collect()
            }
            TotpMode::Code { base, digits } => {
                code::knocks(base, code::value(key, step, digits), digits).collect()
            }
        }
    }

    /// Whether these are the knocks of a step. Cheaper than to compare with [`Self::knocks`]: most
    /// differ in the first.
    pub fn matches(&self, key: &TotpKey, door: &str, step: u64, knocks: &[Knock]) -> bool {
        if knocks.len() != self.length() {
            return false;
        }
        match self.mode {
            TotpMode::Ports { low, high, protocol, .. } => (0..)
                .zip(knocks)
                .all(|(i, &knock)| knock == derive(key, door, step, i, (low, high), protocol)),
            TotpMode::Code { .. } => self.knocks(key, door, step).as_slice() == knocks,
        }
    }

    /// How many different sequences there can be.
    pub fn variety(&self) -> f64 {
        match self.mode {
            TotpMode::Ports { low, high, length, protocol } => {
                let ports = f64::from(high.get() - low.get()) + 1.0;
                let each = if protocol == Protocols::Mixed { 2.0 * ports } else { ports };
                each.powi(length.into())
            }
            TotpMode::Code { digits, .. } => 10f64.powi(digits.count() as i32),
        }
    }

    /// Every port that a sequence may have, so every port that has to be watched.
    pub fn watched(&self) -> PortSet {
        let (low, high, protocols) = match self.mode {
            TotpMode::Ports { low, high, protocol, .. } => (low, high, protocol),
            TotpMode::Code { base, .. } => {
                let low = NonZeroU16::new(base).unwrap_or(NonZeroU16::MIN);
                (low, low.saturating_add(99), Protocols::Tcp)
            }
        };
        let mut set = PortSet::default();
        if protocols != Protocols::Udp {
            set.insert_range(Protocol::Tcp, low..=high);
        }
        if protocols != Protocols::Tcp {
            set.insert_range(Protocol::Udp, low..=high);
        }
        set
    }
}

/// A client's TOTP secret, made ready to derive from.
#[derive(Clone, derive_more::Debug)]
#[debug("TotpKey(..)")]
pub struct TotpKey(Hmac<Sha1>);

impl TotpKey {
    fn mac(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl From<&Secret> for TotpKey {
    fn from(secret: &Secret) -> Self {
        Self(Hmac::new_from_slice(secret.expose()).expect("a key of any length"))
    }
}

/// Sets these derivations apart from all others of the same secret.
const CONTEXT: &[u8] = b"knock totp v1\0";

fn derive(
    key: &TotpKey,
    door: &str,
    step: u64,
    place: u8,
    (low, high): (NonZeroU16, NonZeroU16),
    protocols: Protocols,
) -> Knock {
    let [a, b, c, d, fifth, ..] =
        key.mac(&[CONTEXT, door.as_bytes(), &[0], &step.to_be_bytes(), &[place]]);
    let width = u32::from(high.get() - low.get()) + 1;
    // Less than 65536: the width is at most 65535.
    let offset = (u32::from_be_bytes([a, b, c, d]) % width) as u16;
    let protocol = match protocols {
        Protocols::Tcp => Protocol::Tcp,
        Protocols::Udp => Protocol::Udp,
        Protocols::Mixed if fifth & 1 == 1 => Protocol::Udp,
        Protocols::Mixed => Protocol::Tcp,
    };
    Knock::new(protocol, low.saturating_add(offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn ports(low: u16, high: u16, length: u8, protocol: Protocols) -> TotpMode {
        TotpMode::Ports { low: port(low), high: port(high), length, protocol }
    }

    fn scheme(mode: TotpMode) -> Scheme {
        Scheme::new(mode, 30, 1).unwrap()
    }

    fn key() -> TotpKey {
        TotpKey::from(&parse_secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP").unwrap())
    }

    fn text(knocks: &[Knock]) -> String {
        knocks.iter().map(Knock::to_string).collect::<Vec<_>>().join(" ")
    }

    const VECTORS: [(u64, &str, &str); 5] = [
        (1, "20259/tcp 29408/udp 28589/tcp 25841/udp", "7050/tcp 7033/tcp 7047/tcp"),
        (37037036, "25458/udp 26706/udp 26600/udp 29960/tcp", "7008/tcp 7083/tcp 7009/tcp"),
        (41152263, "22983/tcp 29692/tcp 29001/udp 26600/tcp", "7040/tcp 7015/tcp 7044/tcp"),
        (66666666, "27148/tcp 25826/udp 24590/tcp 22757/udp", "7097/tcp 7085/tcp 7024/tcp"),
        (666666666, "24244/tcp 23221/udp 26564/udp 28993/udp", "7089/tcp 7009/tcp 7033/tcp"),
    ];

    #[test]
    fn knocks_are_those_of_the_specification() {
        let by_ports = scheme(ports(20000, 29999, 4, Protocols::Mixed));
        let by_code = scheme(TotpMode::Code { base: 7000, digits: Digits::Six });
        for (step, knocks, code) in VECTORS {
            assert_eq!(text(&by_ports.knocks(&key(), "ssh", step)), knocks, "{step}");
            assert_eq!(text(&by_code.knocks(&key(), "ssh", step)), code, "{step}");
        }
    }

    #[test]
    fn one_protocol_takes_the_same_ports() {
        let ports_of = |protocol| {
            let scheme = scheme(ports(20000, 29999, 4, protocol));
            scheme.knocks(&key(), "ssh", 1).iter().map(|knock| knock.port).collect::<Vec<_>>()
        };
        assert_eq!(ports_of(Protocols::Tcp), ports_of(Protocols::Mixed));
        assert_eq!(ports_of(Protocols::Udp), ports_of(Protocols::Mixed));
    }

    #[test]
    fn a_key_longer_than_a_block_is_hashed_first() {
        // RFC 2202, case 6.
        let key = TotpKey::from(&Secret::new(vec![0xaa; 80]));
        let mac = key.mac(&[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        let hex = data_encoding::HEXLOWER.encode(&mac);
        assert_eq!(hex, "aa4ae5e15272d00e95705637ce8a3b55ed402112");
    }

    #[test]
    fn variety_counts_what_a_sequence_can_be() {
        let of = |mode| scheme(mode).variety();
        assert_eq!(of(TotpMode::Code { base: 1, digits: Digits::Six }), 1e6);
        assert_eq!(of(ports(1, 10, 3, Protocols::Tcp)), 1000.0);
        assert_eq!(of(ports(1, 10, 3, Protocols::Mixed)), 8000.0);
        assert_eq!(of(ports(1, 65535, 8, Protocols::Mixed)), 131_070f64.powi(8));
    }

    #[test]
    fn steps_turn_at_whole_multiples_of_their_length() {
        let scheme = scheme(TotpMode::Code { base: 7000, digits: Digits::Six });
        let at = |seconds| Wall::ZERO + Duration::from_secs(seconds);
        assert_eq!(scheme.step_at(at(59)), 1);
        assert_eq!(scheme.step_at(at(60)), 2);
        assert_eq!(scheme.turns_at(1), at(60));
        assert_eq!(scheme.step_at(at(2_000_000_000)), 66666666);
        assert_eq!(scheme.turns_at(u64::MAX), Wall::MAX);
    }

    #[test]
    fn a_scheme_whose_sequences_cannot_be_knocked_is_refused() {
        let of = |mode, step, skew| Scheme::new(mode, step, skew).map(|_| ());
        let good = ports(1, 65535, 4, Protocols::Tcp);
        let code = |base| TotpMode::Code { base, digits: Digits::Six };
        assert_eq!(of(good, 30, 1), Ok(()));
        assert_eq!(of(good, 0, 1), Err(SchemeError::Step(0)));
        assert_eq!(of(good, 3601, 1), Err(SchemeError::Step(3601)));
        assert_eq!(of(good, 30, 11), Err(SchemeError::Skew(11)));
        for length in [0, 2, 9, 255] {
            let mode = ports(1, 9, length, Protocols::Tcp);
            assert_eq!(of(mode, 30, 1), Err(SchemeError::Length(length)));
        }
        let (low, high) = (port(2), port(1));
        assert_eq!(
            of(ports(2, 1, 4, Protocols::Tcp), 30, 1),
            Err(SchemeError::Range { low, high })
        );
        assert_eq!(of(code(65436), 30, 1), Ok(()));
        for base in [0, 65437, 65535] {
            assert_eq!(of(code(base), 30, 1), Err(SchemeError::Base(base)));
        }
    }

    #[test]
    fn a_scheme_out_of_range_is_not_read_back_either() {
        let good = scheme(ports(20000, 29999, 4, Protocols::Mixed));
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Scheme>(&json).unwrap(), good);
        assert!(serde_json::from_str::<Scheme>(&json.replace("30", "0")).is_err());
    }

    #[test]
    fn protocols_are_read_as_they_are_written() {
        for protocols in [Protocols::Tcp, Protocols::Udp, Protocols::Mixed] {
            assert_eq!(protocols.to_string().to_uppercase().parse(), Ok(protocols));
        }
        assert!("both".parse::<Protocols>().is_err());
    }

    #[test]
    fn no_output_shows_a_key() {
        assert_eq!(format!("{:?}", key()), "TotpKey(..)");
    }

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        let protocols =
            prop_oneof![Just(Protocols::Tcp), Just(Protocols::Udp), Just(Protocols::Mixed)];
        let by_ports = (1u16.., any::<u16>(), 3u8..=8, protocols).prop_map(
            |(low, width, length, protocol)| {
                ports(low, low.saturating_add(width), length, protocol)
            },
        );
        let digits = prop_oneof![Just(Digits::Six), Just(Digits::Eight)];
        let by_code =
            (1u16..=65436, digits).prop_map(|(base, digits)| TotpMode::Code { base, digits });
        (prop_oneof![by_ports, by_code], 1u32..=3600, 0u8..=10)
            .prop_map(|(mode, step, skew)| Scheme::new(mode, step, skew).unwrap())
    }

    proptest! {
        #[test]
        fn every_knock_is_watched_and_there_are_as_many_as_promised(
            scheme in any_scheme(),
            secret in prop::collection::vec(any::<u8>(), 0..90),
            door in "[a-z]{1,32}",
            step: u64,
        ) {
            let key = TotpKey::from(&Secret::new(secret));
            let knocks = scheme.knocks(&key, &door, step);
            prop_assert_eq!(knocks.len(), scheme.length());
            prop_assert!(scheme.matches(&key, &door, step, &knocks));
            prop_assert!(!scheme.matches(&key, &door, step, &knocks[1..]));
            let watched = scheme.watched();
            prop_assert!(knocks.iter().all(|&knock| watched.contains(knock)));
        }

        #[test]
        fn only_the_knocks_of_a_step_match_it(
            scheme in any_scheme(), secret: [u8; 20], other: [u8; 20], step: u64,
        ) {
            let (key, other) =
                (TotpKey::from(&Secret::new(secret.into())), TotpKey::from(&Secret::new(other.into())));
            let knocks = scheme.knocks(&other, "ssh", step);
            let same = scheme.knocks(&key, "ssh", step) == knocks;
            prop_assert_eq!(scheme.matches(&key, "ssh", step, &knocks), same);
        }

        #[test]
        fn a_step_lasts_until_it_turns(scheme in any_scheme(), nanos in 0..u64::MAX / 2) {
            let at = Wall::from_nanos(nanos);
            let step = scheme.step_at(at);
            prop_assert!(at < scheme.turns_at(step));
            prop_assert_eq!(scheme.step_at(scheme.turns_at(step)), step + 1);
        }
    }
}
