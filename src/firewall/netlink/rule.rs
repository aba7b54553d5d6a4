//! Tables, chains, sets and rules of knockd's own, as the kernel takes them: pure.
//!
//! A rule is a row of expressions; those here load values into registers, compare them, look them
//! up and decide. `nft list` shows them as if somebody had typed them.

use super::attribute::{Attributes, comment};
use super::message::{
    APPEND, CREATE, Change, DELETE_TABLE, LIST_ELEMENT, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_TABLE,
    Of, SET_FLAGS, SET_KEY_TYPE, TABLE_USERDATA, set_name, table_name,
};
use super::{Family, SetRef};

const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
/// The first of sixteen registers of four bytes each (`NFT_REG32_00`).
const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;

/// Where the kernel asks a chain (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Postrouting = 4,
}

/// A value of a packet, or of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// By number (`enum nft_meta_keys`).
    Meta(u32),
    /// By number (`enum nft_ct_keys`).
    Connection(u32),
    /// The same, of the direction of the connection's first packet.
    Original(u32),
    /// Offset and length in the IP header.
    Network(u32, u32),
    /// Offset and length in the header of TCP or UDP.
    Transport(u32, u32),
    /// What kind of address the destination is, to the routes of this host.
    DestinationType,
}

impl Load {
    pub const INTERFACE: Self = Self::Meta(4);
    pub const NETWORK_PROTOCOL: Self = Self::Meta(15);
    pub const PROTOCOL: Self = Self::Meta(16);
    pub const STATE: Self = Self::Connection(0);
    pub const STATUS: Self = Self::Connection(2);
    pub const LABEL: Self = Self::Connection(13);

    fn expression(self, register: u32) -> (&'static str, Attributes) {
        let none = Attributes::default();
        match self {
            Self::Meta(key) => ("meta", none.u32(1, register).u32(2, key)),
            Self::Connection(key) => ("ct", none.u32(1, register).u32(2, key)),
            Self::Original(key) => ("ct", none.u32(1, register).u32(2, key).bytes(3, &[0])),
            Self::Network(offset, length) | Self::Transport(offset, length) => {
                let base = if matches!(self, Self::Network(..)) { 1 } else { 2 };
                let from = none.u32(1, register).u32(2, base);
                ("payload", from.u32(3, offset).u32(4, length))
            }
            // Result: the type of an address; flag: the destination.
            Self::DestinationType => ("fib", none.u32(1, register).u32(2, 3).u32(3, 2)),
        }
    }
}

/// A rule under construction: it goes on as long as what it asks for holds.
#[derive(Clone, Debug, Default)]
pub struct Rule(Attributes);

impl Rule {
    fn with(self, (name, data): (&str, Attributes)) -> Self {
        let expression = Attributes::default().text(1, name).nest(2, &data);
        Self(self.0.nest(LIST_ELEMENT, &expression))
    }

    /// Goes on where a value is this, in the form that the kernel loads it in.
    #[must_use]
    pub fn is(self, load: Load, value: &[u8]) -> Self {
        self.with(load.expression(REGISTER)).compare(true, value)
    }

    /// Goes on where some of these bits of a value are set.
    #[must_use]
    pub fn has(self, load: Load, bits: &[u8]) -> Self {
        self.masked(load, bits, false, &vec![0; bits.len()])
    }

    /// Goes on where these bits of a value are, or are not, as they are in `value`.
    #[must_use]
    pub fn masked(self, load: Load, mask: &[u8], equal: bool, is: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let data = Attributes::default().u32(1, REGISTER).u32(2, REGISTER).u32(3, length);
        let data = data.nest(4, &value(mask)).nest(5, &value(&vec![0; mask.len()]));
        self.with(load.expression(REGISTER)).with(("bitwise", data)).compare(equal, is)
    }

    fn compare(self, equal: bool, with: &[u8]) -> Self {
        let data = Attributes::default().u32(1, REGISTER).u32(2, u32::from(!equal));
        self.with(("cmp", data.nest(3, &value(with))))
    }

    /// Goes on where the values, one after the other, are an element of a set. Each is given with
    /// the number of bytes that it fills in a key.
    #[must_use]
    pub fn in_set(self, set: &SetRef, parts: impl IntoIterator<Item = (Load, u32)>) -> Self {
        let mut register = REGISTER;
        let mut rule = self;
        for (load, length) in parts {
            rule = rule.with(load.expression(register));
            register += length / 4;
        }
        let set = Attributes::default().text(1, set.set.as_str());
        rule.with(("lookup", set.u32(2, REGISTER)))
    }

    /// Sets these bits of the label of the packet's connection, and goes on.
    #[must_use]
    pub fn label(self, bits: &[u8]) -> Self {
        let load = Attributes::default().u32(1, REGISTER).nest(2, &value(bits));
        let set = Attributes::default().u32(2, 13).u32(4, REGISTER);
        self.with(("immediate", load)).with(("ct", set))
    }

    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(ACCEPT, None)
    }

    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(DROP, None)
    }

    /// Leaves the packet to another chain for good.
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(GOTO, Some(chain))
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
        let verdict = verdict.optional(chain, |it, chain| it.text(2, chain));
        let data = Attributes::default().nest(DATA_VERDICT, &verdict);
        self.with(("immediate", Attributes::default().u32(1, VERDICT_REGISTER).nest(2, &data)))
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(DATA_VALUE, bytes)
}

impl Change {
    fn object(kind: u16, flags: u16, body: Attributes, what: String) -> Self {
        Self { kind, flags, family: Family::Inet, body, of: Of::Other(what) }
    }

    /// Makes a table of the family `inet`, or leaves the one that is there.
    pub fn table(table: &str, says: &str) -> Self {
        let body = table_name(table).u32(TABLE_FLAGS, 0);
        let body = body.optional(comment(says), |it, says| it.bytes(TABLE_USERDATA, &says));
        Self::object(NEW_TABLE, CREATE, body, format!("the table {table}"))
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(table: &str) -> Self {
        Self::object(DELETE_TABLE, 0, table_name(table), format!("to delete the table {table}"))
    }

    /// A chain that other chains go to, or, with a hook, one that the kernel asks: at this
    /// priority, and what it does not drop passes.
    pub fn chain(table: &str, chain: &str, hook: Option<(Hook, i32)>) -> Self {
        let body =
            table_name(table).text(CHAIN_NAME, chain).optional(hook, |it, (hook, priority)| {
                let at =
                    Attributes::default().u32(1, hook as u32).bytes(2, &priority.to_be_bytes());
                it.nest(CHAIN_HOOK, &at).u32(CHAIN_POLICY, 1).text(CHAIN_TYPE, "filter")
            });
        Self::object(NEW_CHAIN, CREATE, body, format!("the chain {chain}"))
    }

    /// A set whose keys have this type, by nft's number, and this length in bytes. `id` is not
    /// that of another set in the same batch.
    pub fn set(set: &SetRef, id: u32, flags: u32, key: (u32, u32)) -> Self {
        let body = set_name(set).u32(SET_FLAGS, flags).u32(SET_KEY_TYPE, key.0);
        let body = body.u32(SET_KEY_LENGTH, key.1).u32(SET_ID, id);
        Self::object(NEW_SET, CREATE, body, format!("the set {}", set.set))
    }

    /// Puts a rule at the end of a chain.
    pub fn rule(table: &str, chain: &str, rule: &Rule) -> Self {
        let body = table_name(table).text(RULE_CHAIN, chain).nest(RULE_EXPRESSIONS, &rule.0);
        Self::object(NEW_RULE, CREATE | APPEND, body, format!("a rule of the chain {chain}"))
    }
}
