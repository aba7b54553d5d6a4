//! Tables, chains, sets and rules of knockd's own, as the kernel takes them: pure.
//!
//! A rule is a row of expressions; those here load values into registers, compare them, look them
//! up and decide. `nft list` shows them as if somebody had typed them.

use std::time::Duration;

use nix::libc::{
    NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET,
    NFT_MSG_NEWTABLE,
};

use super::attribute::{Attributes, comment};
use super::message::{
    APPEND, CREATE, ChangedObject, DELETE_TABLE, LIST_ELEMENT, NftChange, SET_FLAGS, SET_KEY_TYPE,
    TABLE_USERDATA, counting, data_value, millis, nft, set_name, table_name,
};
use super::{Counter, SetRef};
use crate::config::{Family, NftFamily};

const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_VALUE_TYPE: u16 = 6;
const SET_VALUE_LENGTH: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
/// The first of sixteen registers of four bytes each (`NFT_REG32_00`).
const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const DATA_VERDICT: u16 = 2;

/// A hook: where the kernel asks a chain (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The kind of a chain with a hook: one that judges packets, or one that translates connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

/// The kind of a chain, its hook, and its priority among the chains there.
pub type ChainHook = (ChainKind, Hook, i32);

/// A value of a packet or of its connection: the expression that loads it, and that one's
/// attributes but for the first, the register (linux/netfilter/nf_tables.h).
#[derive(Clone, Copy, Debug)]
pub struct Load(&'static str, &'static [(u16, u32)]);

impl Load {
    pub const INTERFACE: Self = Self("meta", &[(2, 4)]);
    pub const NETWORK_PROTOCOL: Self = Self("meta", &[(2, 15)]);
    pub const PROTOCOL: Self = Self("meta", &[(2, 16)]);
    pub const STATE: Self = Self("ct", &[(2, 0)]);
    pub const STATUS: Self = Self("ct", &[(2, 2)]);
    pub const LABEL: Self = Self("ct", &[(2, 13)]);
    /// What kind of address the destination is, to the routes of this host.
    pub const DESTINATION_TYPE: Self = Self("fib", &[(2, 3), (3, 2)]);
    pub const TCP_FLAGS: Self = Self("payload", &[(2, 2), (3, 13), (4, 1)]);

    fn to(self, register: u32) -> (&'static str, Attributes) {
        let data = Attributes::default().u32(1, register);
        (self.0, self.1.iter().fold(data, |data, &(kind, value)| data.u32(kind, value)))
    }
}

/// A part of a set's key: what is looked up, nft's number for its type, the bytes that it fills,
/// and how many of its bits count, if not all.
#[derive(Clone, Copy, Debug)]
pub struct KeyPart(Load, u32, u32, Option<u8>);

impl KeyPart {
    pub const PROTOCOL: Self = Self(Load::PROTOCOL, 12, 4, None);
    pub const SOURCE_PORT: Self = Self(Load("payload", &[(2, 2), (3, 0), (4, 2)]), 13, 4, None);
    pub const PORT: Self = Self(Load("payload", &[(2, 2), (3, 2), (4, 2)]), 13, 4, None);
    const SOURCE_4: Self = Self(Load("payload", &[(2, 1), (3, 12), (4, 4)]), 7, 4, None);
    const SOURCE_6: Self = Self(Load("payload", &[(2, 1), (3, 8), (4, 16)]), 8, 16, None);
    const DESTINATION_4: Self = Self(Load("payload", &[(2, 1), (3, 16), (4, 4)]), 7, 4, None);
    const DESTINATION_6: Self = Self(Load("payload", &[(2, 1), (3, 24), (4, 16)]), 8, 16, None);

    pub(in crate::firewall) const fn bytes(self) -> usize {
        self.2 as usize
    }

    /// The same with no more than its first bits, where some are given.
    pub(in crate::firewall) const fn of_network(self, prefix: Option<u8>) -> Self {
        Self(self.0, self.1, self.2, prefix)
    }

    /// How many of the bytes that it fills it has.
    const fn length(self) -> u32 {
        match self.1 {
            12 => 1,
            13 => 2,
            _ => self.2,
        }
    }

    /// The addresses of a packet: its source and its destination.
    pub const fn addresses(family: Family) -> [Self; 2] {
        match family {
            Family::V4 => [Self::SOURCE_4, Self::DESTINATION_4],
            Family::V6 => [Self::SOURCE_6, Self::DESTINATION_6],
        }
    }
}

/// A change that a packet makes to its element of a set: the operation, and whether it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Noting(u32, bool);

impl Noting {
    /// An element that is there stays as it is.
    pub const ONCE: Self = Self(0, false);
    /// Its time begins anew.
    pub const RENEW: Self = Self(1, false);
    pub const COUNT: Self = Self(1, true);
    /// It goes.
    pub const REMOVE: Self = Self(2, false);
}

/// A rule under construction: it goes on as long as what it asks for holds.
#[derive(Clone, Debug, Default)]
pub struct NftRule(Attributes);

impl NftRule {
    fn with(self, (name, data): (&str, Attributes)) -> Self {
        Self(self.0.nest(LIST_ELEMENT, &Attributes::default().text(1, name).nest(2, &data)))
    }

    /// Goes on where a value is this, in the form that the kernel loads it in.
    pub fn is(self, load: Load, value: &[u8]) -> Self {
        self.with(load.to(REGISTER)).compare(true, value)
    }

    /// Goes on where some of these bits of a value are set.
    pub fn has(self, load: Load, bits: &[u8]) -> Self {
        self.masked(load, bits, false, &vec![0; bits.len()])
    }

    /// Goes on where these bits of a value are, or are not, as they are in `value`.
    pub fn masked(self, load: Load, mask: &[u8], equal: bool, is: &[u8]) -> Self {
        self.with(load.to(REGISTER)).mask(REGISTER, mask).compare(equal, is)
    }

    /// Leaves only these bits of what a register holds.
    fn mask(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let data = Attributes::default().u32(1, register).u32(2, register).u32(3, length);
        let data = data.nest(4, &data_value(mask)).nest(5, &data_value(&vec![0; mask.len()]));
        self.with(("bitwise", data))
    }

    fn compare(self, equal: bool, with: &[u8]) -> Self {
        let data = Attributes::default().u32(1, REGISTER).u32(2, u32::from(!equal));
        self.with(("cmp", data.nest(3, &data_value(with))))
    }

    /// Goes on where the values, one after the other, are an element of a set.
    pub fn in_set(self, set: &SetRef, key: &[KeyPart]) -> Self {
        let set = Attributes::default().text(1, set.set.as_str());
        self.loading(key).with(("lookup", set.u32(2, REGISTER)))
    }

    /// Changes the element that the values are, one after the other; goes on unless there is no room
    /// for a new one.
    pub fn note(self, set: &SetRef, key: &[KeyPart], noting: Noting) -> Self {
        let data = Attributes::default().text(1, set.set.as_str());
        let data = data.u32(3, noting.0).u32(4, REGISTER);
        let counter = noting.1.then(|| counting(Counter::default()));
        let data = data.optional(counter, |data, counter| data.nest(7, &counter));
        self.loading(key).with(("dynset", data))
    }

    fn loading(mut self, key: &[KeyPart]) -> Self {
        let mut register = REGISTER;
        for &KeyPart(load, _, length, prefix) in key {
            self = self.with(load.to(register));
            if let Some(prefix) = prefix {
                let mask = !u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                self = self.mask(register, &mask.to_be_bytes()[..length as usize]);
            }
            register += length / 4;
        }
        self
    }

    /// Sets these bits of the label of the packet's connection, and goes on.
    pub fn label(self, bits: &[u8]) -> Self {
        let load = Attributes::default().u32(1, REGISTER).nest(2, &data_value(bits));
        let set = Attributes::default().u32(2, 13).u32(4, REGISTER);
        self.with(("immediate", load)).with(("ct", set))
    }

    /// Leads the connection to where a map leads its packet; goes on where the map does not.
    pub fn forward(self, map: &SetRef, key: &[KeyPart], family: Family) -> Self {
        let set = Attributes::default().text(1, map.set.as_str());
        let set = set.u32(2, REGISTER).u32(3, REGISTER);
        let (family, registers) = if family == Family::V4 { (2, 1) } else { (10, 4) };
        // `NFT_NAT_DNAT`; the address, and the port after it.
        let to = Attributes::default().u32(1, 1).u32(2, family).u32(3, REGISTER);
        let to = to.u32(5, REGISTER + registers);
        self.loading(key).with(("lookup", set)).with(("nat", to))
    }

    /// Lets the connection come from this host.
    pub fn masquerade(self) -> Self {
        self.with(("masq", Attributes::default()))
    }

    pub fn accept(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    pub fn drop(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    /// Leaves the packet to another chain for good.
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(NFT_GOTO, Some(chain))
    }

    /// Asks another chain, and goes on where that one does not decide.
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(NFT_JUMP, Some(chain))
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
        let verdict = verdict.optional(chain, |it, chain| it.text(2, chain));
        let data = Attributes::default().nest(DATA_VERDICT, &verdict);
        self.with(("immediate", Attributes::default().u32(1, VERDICT_REGISTER).nest(2, &data)))
    }
}

/// nft's number for the type of such a row of values, and how many bytes it fills.
fn concatenated(parts: &[KeyPart]) -> (u32, u32) {
    parts.iter().fold((0, 0), |(kind, length), part| (kind << 6 | part.1, length + part.2))
}

impl NftChange {
    fn object(kind: u16, flags: u16, body: Attributes, what: String) -> Self {
        Self { kind, flags, family: NftFamily::Inet, body, of: ChangedObject::Other(what) }
    }

    /// Makes a table of the family `inet`, or leaves the one that is there.
    pub fn table(table: &str, says: &str) -> Self {
        let body = table_name(table).u32(TABLE_FLAGS, 0);
        let body = body.optional(comment(says), |it, says| it.bytes(TABLE_USERDATA, &says));
        Self::object(nft(NFT_MSG_NEWTABLE), CREATE, body, format!("the table {table}"))
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(table: &str) -> Self {
        Self::object(DELETE_TABLE, 0, table_name(table), format!("to delete the table {table}"))
    }

    /// A chain that other chains go to, or, with a hook, one that the kernel asks: at this
    /// priority, and what it does not drop passes.
    pub fn chain(table: &str, chain: &str, hook: Option<ChainHook>) -> Self {
        let body = table_name(table).text(CHAIN_NAME, chain);
        let body = body.optional(hook, |it, (kind, hook, priority)| {
            let at = Attributes::default().u32(1, hook as u32).bytes(2, &priority.to_be_bytes());
            let kind = if kind == ChainKind::Nat { "nat" } else { "filter" };
            it.nest(CHAIN_HOOK, &at).u32(CHAIN_POLICY, 1).text(CHAIN_TYPE, kind)
        });
        Self::object(nft(NFT_MSG_NEWCHAIN), CREATE, body, format!("the chain {chain}"))
    }

    /// A set with this kind of keys. `id` is not that of another set in the same batch.
    pub fn set(set: &SetRef, id: u32, flags: u32, key: &[KeyPart]) -> Self {
        let (kind, length) = concatenated(key);
        let body = set_name(set).u32(SET_FLAGS, flags).u32(SET_KEY_TYPE, kind);
        let body = body.u32(SET_KEY_LENGTH, length).u32(SET_ID, id);
        Self::object(nft(NFT_MSG_NEWSET), CREATE, body, format!("the set {}", set.set))
    }

    /// Makes the set a map to these values.
    pub fn to(mut self, value: &[KeyPart]) -> Self {
        let (kind, length) = concatenated(value);
        self.body = self.body.u32(SET_VALUE_TYPE, kind).u32(SET_VALUE_LENGTH, length);
        self
    }

    /// Says how long each part of the key is, which a set of ranges has to know.
    pub fn of_ranges(mut self, key: &[KeyPart]) -> Self {
        let parts = key.iter().fold(Attributes::default(), |parts, part| {
            parts.nest(LIST_ELEMENT, &Attributes::default().u32(1, part.length()))
        });
        self.body = self.body.nest(SET_DESCRIPTION, &Attributes::default().nest(2, &parts));
        self
    }

    /// Bounds the set that this makes: so many elements, which go after this time.
    pub fn bounded(mut self, size: Option<u32>, timeout: Duration) -> Self {
        let size = size.map(|size| Attributes::default().u32(1, size));
        self.body = self.body.u64(SET_TIMEOUT, millis(timeout));
        self.body = self.body.optional(size, |body, size| body.nest(SET_DESCRIPTION, &size));
        self
    }

    /// Puts a rule at the end of a chain.
    pub fn rule(table: &str, chain: &str, rule: &NftRule) -> Self {
        let body = table_name(table).text(RULE_CHAIN, chain).nest(RULE_EXPRESSIONS, &rule.0);
        Self::object(
            nft(NFT_MSG_NEWRULE),
            CREATE | APPEND,
            body,
            format!("a rule of the chain {chain}"),
        )
    }
}
