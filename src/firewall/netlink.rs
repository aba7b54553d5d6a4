//! Tables of nftables and what is in them, changed and read without running a program.
//!
//! Measured on two busy cores with an unoptimised build: an element added, with its timeout and
//! comment, and acknowledged takes 29 µs where `nft add element` takes 5 ms; renewed 52 µs, deleted
//! 25 µs. In a batch of 10,000 an element takes 17 µs; reading so many takes 13 µs each.

mod attribute;
mod conntrack;
mod message;
mod monitor;
mod rule;
mod set;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use attribute::Attributes;
pub use message::Change;
use message::{Content, Of, batch, question, replies};
pub use monitor::{Event, Monitor, Seen, What};
pub use rule::{Hook, Load, Rule};
pub use set::{Comment, Entry, Key, SetRef};

use super::connections::Connection;
use crate::config::NftFamily as Family;

/// The kernel answers while it is asked; a second means that something is very wrong.
const PATIENCE: TimeVal = TimeVal::new(1, 0);
/// Room for a batch of some 60,000 elements.
const SEND_BUFFER: usize = 8 << 20;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 << 10;
/// How often a dump starts anew because what it dumps was changed meanwhile.
const DUMP_TRIES: usize = 10;

/// What became of a request to delete.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Removed,
    /// It had expired, or somebody else was faster.
    WasNotThere,
    /// It is the administrator's, and stays.
    NotOurs,
}

/// What became of an element that was to be there.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    Added,
    /// It was there, and is ours.
    Kept,
    /// It is the administrator's, until then or for good, and was left as it is.
    NotOurs(Option<Duration>),
}

/// A table as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// No later table of the same name has it.
    pub(super) handle: u64,
    /// Its comment, which may be empty.
    pub(super) says: String,
}

/// How a set was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetType {
    /// The flags of linux/netfilter/nf_tables.h (`enum nft_set_flags`).
    pub flags: u32,
    /// nft's number for the type of the key: 7 for `ipv4_addr`, 8 for `ipv6_addr`.
    pub key: u32,
}

/// What the kernel did not do, and why.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("no permission to change the firewall: this needs CAP_NET_ADMIN, which root has")]
    NotPermitted,
    #[error("this kernel has no nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)")]
    NoNftables,
    #[error("there is no table '{} {}'", .0.family.as_str(), .0.table)]
    NoTable(SetRef),
    #[error("there is no set '{0}'")]
    NoSet(SetRef),
    #[error("the set '{0}' is full")]
    Full(SetRef),
    #[error("the set '{0}' has no such element")]
    NoElement(SetRef),
    #[error("the set '{0}' has this element already")]
    Exists(SetRef),
    #[error("the kernel refused to change the set '{set}': {errno}")]
    Refused { set: SetRef, errno: Errno },
    #[error("the kernel refused {what}: {errno}")]
    RefusedObject { what: String, errno: Errno },
    #[error("other programs keep changing the tables")]
    Overtaken,
    #[error("the kernel did not answer: {0}")]
    Socket(#[from] Errno),
    #[error("the kernel answered what makes no sense")]
    Malformed,
}

/// A connection to the kernel's nf_tables. It waits for no more than a second.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Succeeds where the kernel has nf_tables and this process may change them.
    ///
    /// # Errors
    /// [`NetlinkError::NoNftables`] and [`NetlinkError::NotPermitted`], each for its own cause.
    pub fn open() -> Result<Self, NetlinkError> {
        let (socket, port) = connect(0)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        // Refused without the privilege; then only enormous batches fail, and say so.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        let mut netlink = Self { socket, port, sequence: 0, buffer: vec![0; BUFFER] };
        netlink.generation()?;
        Ok(netlink)
    }

    /// Names this connection in what the kernel tells others about changes.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// As [`hold`](Self::hold), one question faster where it is not expected to be there.
    ///
    /// # Errors
    /// As there.
    pub(super) fn add(
        &mut self,
        set: &SetRef,
        key: &Key,
        timeout: Duration,
        comment: &Comment,
    ) -> Result<Holding, NetlinkError> {
        match self.apply(&[Change::add(set, key, timeout, comment, true)]) {
            Err(NetlinkError::Exists(_)) => self.hold(set, key, timeout, comment),
            result => result.map(|()| Holding::Added),
        }
    }

    /// Sees to it that an element is there for this long at least; one of ours that is there gets
    /// the new timeout and comment, unless it lasts longer than that already.
    ///
    /// # Errors
    /// Whatever the kernel objects to.
    pub fn hold(
        &mut self,
        set: &SetRef,
        key: &Key,
        timeout: Duration,
        comment: &Comment,
    ) -> Result<Holding, NetlinkError> {
        match self.element(set, key)? {
            Some(entry) if !entry.is_ours() => Ok(Holding::NotOurs(entry.left)),
            Some(entry) if entry.left >= Some(timeout) => Ok(Holding::Kept),
            Some(_) => self.replace(set, key, timeout, comment).map(|()| Holding::Kept),
            None => {
                let add = Change::add(set, key, timeout, comment, true);
                self.apply(&[add]).map(|()| Holding::Added)
            }
        }
    }

    /// Deletes an element of ours, or gives it the timeout and comment of another that it is for,
    /// which is asked for only where it is there.
    ///
    /// # Errors
    /// Whatever the kernel objects to; that the set is gone, too.
    pub fn release(
        &mut self,
        set: &SetRef,
        key: &Key,
        other: impl FnOnce() -> Option<(Duration, Comment)>,
    ) -> Result<Removal, NetlinkError> {
        // A batch that fails makes the kernel wait for all processors, ten milliseconds and more;
        // a question does not.
        let Some(entry) = self.element(set, key)? else {
            return match self.what_is_missing(set.clone())? {
                NetlinkError::NoElement(_) => Ok(Removal::WasNotThere),
                error => Err(error),
            };
        };
        if !entry.is_ours() {
            return Ok(Removal::NotOurs);
        }
        let result = match other() {
            Some((timeout, comment)) => self.replace(set, key, timeout, &comment),
            None => self.apply(&[Change::delete(set, key)]),
        };
        match result {
            Ok(()) => Ok(Removal::Removed),
            Err(NetlinkError::NoElement(_)) => Ok(Removal::WasNotThere),
            Err(error) => Err(error),
        }
    }

    /// Gives an element a new timeout and comment, whether it is there or not.
    ///
    /// Older kernels leave an element that is added again as it was, so it is deleted in between;
    /// and since it may have expired, which deleting does not forgive, it is added first. Packets
    /// see all of it at once.
    fn replace(
        &mut self,
        set: &SetRef,
        key: &Key,
        timeout: Duration,
        comment: &Comment,
    ) -> Result<(), NetlinkError> {
        let add = Change::add(set, key, timeout, comment, false);
        self.apply(&[add.clone(), Change::delete(set, key), add])
    }

    /// `None` where the element, or the set, is not there.
    pub(super) fn element(
        &mut self,
        set: &SetRef,
        key: &Key,
    ) -> Result<Option<Entry>, NetlinkError> {
        let body = message::element_name(set, key);
        let found = self.ask(message::GET_ELEMENT, 0, set.family, &body, message::entries)?;
        Ok(found.and_then(|mut found| found.pop()))
    }

    /// Makes all the changes, in order, at one moment; or none of them.
    ///
    /// # Errors
    /// The first change that the kernel objects to.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), NetlinkError> {
        self.apply_at(None, changes)
    }

    /// The same; with a [`generation`](Self::generation) only where nobody has changed any table
    /// since.
    ///
    /// # Errors
    /// [`NetlinkError::Overtaken`] where somebody has.
    pub(super) fn apply_at(
        &mut self,
        generation: Option<u32>,
        changes: &[Change],
    ) -> Result<(), NetlinkError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (at, errno) = match self.send_batch(generation, changes) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        let of = at.and_then(|at| changes.get(at)).map(|change| change.of.clone());
        Err(match (errno, of) {
            (Errno::EPERM, _) => NetlinkError::NotPermitted,
            (Errno::ERESTART, None) => NetlinkError::Overtaken,
            (errno, None) => of_request(errno),
            (errno, Some(Of::Other(what))) => NetlinkError::RefusedObject { what, errno },
            (Errno::EOPNOTSUPP, Some(_)) => NetlinkError::NoNftables,
            (Errno::EEXIST, Some(Of::Set(set))) => NetlinkError::Exists(set),
            (Errno::ENFILE, Some(Of::Set(set))) => NetlinkError::Full(set),
            (Errno::ENOENT, Some(Of::Set(set))) => self.what_is_missing(set)?,
            (errno, Some(Of::Set(set))) => NetlinkError::Refused { set, errno },
        })
    }

    /// The first change that is refused, if it is not the batch as a whole, and why.
    fn send_batch(
        &mut self,
        generation: Option<u32>,
        changes: &[Change],
    ) -> Result<(), (Option<usize>, Errno)> {
        let first = self.sequence.wrapping_add(1);
        self.send(&batch(first, generation, changes)).map_err(|errno| (None, errno))?;
        // The numbers of the end of the batch and of the messages in it.
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        self.sequence = first.wrapping_add(count).wrapping_add(1);
        let mut refusal = None;
        let mut flags = MsgFlags::empty();
        loop {
            let received = match receive(&self.socket, &mut self.buffer, flags) {
                Ok(received) => received,
                // Not all of many complaints could be queued: those that were have to do.
                Err(Errno::ENOBUFS) if flags.is_empty() => {
                    flags = MsgFlags::MSG_DONTWAIT;
                    continue;
                }
                Err(errno) => return Err(refusal.unwrap_or((None, errno))),
            };
            for reply in replies(received) {
                let Content::Outcome(errno) = reply.content else { continue };
                let number = reply.sequence.wrapping_sub(first);
                if number > count.wrapping_add(1) {
                    continue;
                }
                if errno != 0 && refusal.is_none() {
                    let at = usize::try_from(number.wrapping_sub(1));
                    let at = at.ok().filter(|&at| at < changes.len());
                    refusal = Some((at, Errno::from_raw(errno)));
                }
                // The last change is answered in any case, unless the batch as a whole is refused.
                if number >= count || number == 0 {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// The table, the set or the element: the kernel calls all three ENOENT.
    fn what_is_missing(&mut self, set: SetRef) -> Result<NetlinkError, NetlinkError> {
        Ok(match (self.table(set.family, set.table.as_str())?, self.set_type(&set)?) {
            (None, _) => NetlinkError::NoTable(set),
            (Some(_), None) => NetlinkError::NoSet(set),
            (Some(_), Some(_)) => NetlinkError::NoElement(set),
        })
    }

    /// All elements of a set.
    ///
    /// # Errors
    /// When there is no such set, and whatever else the kernel objects to.
    pub fn dump(&mut self, set: &SetRef) -> Result<Vec<Entry>, NetlinkError> {
        let body = message::set_name(set);
        let dump = message::DUMP;
        match self.ask(message::GET_ELEMENT, dump, set.family, &body, message::entries)? {
            Some(found) => Ok(found),
            None => Err(self.what_is_missing(set.clone())?),
        }
    }

    /// The connections that the kernel tracks, that have been answered and that are wanted: each
    /// as its packets come to this host, with the port before and after translation.
    pub(super) fn tracked(
        &mut self,
        is_wanted: impl Fn(&Connection) -> bool,
    ) -> Result<Vec<Connection>, NetlinkError> {
        let mut all = Vec::new();
        for family in [Family::Ip, Family::Ip6] {
            let take = |body: &[u8]| conntrack::connections(body).into_iter();
            let (get, none) = (conntrack::GET, Attributes::default());
            let found = self.ask(get, message::DUMP, family, &none, |body| {
                take(body).filter(&is_wanted).collect::<Vec<_>>()
            })?;
            all.extend(found.unwrap_or_default());
        }
        Ok(all)
    }

    /// How a set was declared; `None` where there is no such set.
    ///
    /// # Errors
    /// Whatever the kernel objects to.
    pub fn set_type(&mut self, set: &SetRef) -> Result<Option<SetType>, NetlinkError> {
        let body = message::set_name(set);
        let found = self.ask(message::GET_SET, 0, set.family, &body, message::set_type)?;
        Ok(found.and_then(|mut found| found.pop()))
    }

    /// What a table is; `None` where there is none.
    pub(super) fn table(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Option<Table>, NetlinkError> {
        let body = message::table_name(table);
        let found = self.ask(message::GET_TABLE, 0, family, &body, message::table)?;
        Ok(found.and_then(|mut found| found.pop()))
    }

    /// The handles of a set's table and of the set; `None` where either is not there.
    pub(super) fn handles(&mut self, set: &SetRef) -> Result<Option<(u64, u64)>, NetlinkError> {
        let Some(table) = self.table(set.family, set.table.as_str())? else { return Ok(None) };
        let body = message::set_name(set);
        let found = self.ask(message::GET_SET, 0, set.family, &body, message::set_handle)?;
        Ok(found.and_then(|mut found| Some((table.handle, found.pop()?))))
    }

    /// The names of the sets of a table.
    pub(super) fn sets(&mut self, family: Family, name: &str) -> Result<Vec<String>, NetlinkError> {
        let body = message::table_name(name);
        let found = self.ask(message::GET_SET, message::DUMP, family, &body, |body| {
            let set = message::set_of(body).filter(|_| message::table_of(body) == Some(name));
            set.map(str::to_owned)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// How often anybody has changed any table: it grows by one with each batch.
    pub(super) fn generation(&mut self) -> Result<u32, NetlinkError> {
        let none = Attributes::default();
        let get = message::GET_GENERATION;
        let found = self.ask(get, 0, Family::Inet, &none, message::generation)?;
        found.and_then(|mut found| found.pop()).ok_or(NetlinkError::Malformed)
    }

    /// Asks, and takes what each answering object is worth; `None` where there is no such thing.
    fn ask<T, I: IntoIterator<Item = T>>(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        body: &Attributes,
        take: impl Fn(&[u8]) -> I,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let ack = if flags == message::DUMP { 0 } else { message::ACK };
            self.send(&question(kind, flags | ack, self.sequence, family, body))?;
            let mut found = Vec::new();
            match self.take_answer(|body| found.extend(take(body)))? {
                (Ok(()), false) => return Ok(Some(found)),
                (Err(Errno::ENOENT), _) => return Ok(None),
                // The kernel gave up a dump of what was changed meanwhile.
                (Ok(()), true) | (Err(Errno::EINTR | Errno::EAGAIN), _) => {}
                (Err(errno), _) => return Err(of_request(errno)),
            }
        }
        Err(NetlinkError::Socket(Errno::EINTR))
    }

    /// How an answer ends, and whether it was overtaken by a change.
    fn take_answer(
        &mut self,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(Result<(), Errno>, bool), Errno> {
        let mut interrupted = false;
        loop {
            let received = receive(&self.socket, &mut self.buffer, MsgFlags::empty())?;
            for reply in replies(received).filter(|reply| reply.sequence == self.sequence) {
                interrupted |= reply.interrupted;
                match reply.content {
                    Content::Outcome(0) | Content::Done(0) => return Ok((Ok(()), interrupted)),
                    Content::Outcome(errno) | Content::Done(errno) => {
                        return Ok((Err(Errno::from_raw(errno)), interrupted));
                    }
                    Content::Object { attributes, .. } => take(attributes),
                    Content::Other => {}
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendto(self.socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// One datagram; cut where it is longer than the buffer, which the parser forgives.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: MsgFlags) -> Result<&'a [u8], Errno> {
    loop {
        match recv(socket.as_raw_fd(), buffer, flags) {
            Ok(length) => return Ok(buffer.get(..length).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A socket that hears these multicast groups, and its port.
fn connect(groups: u32) -> Result<(OwnedFd, u32), NetlinkError> {
    let family = AddressFamily::Netlink;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket =
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(of_request)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(of_request)?;
    let address: NetlinkAddr = getsockname(socket.as_raw_fd())?;
    Ok((socket, address.pid()))
}

/// What an errno means where no set is spoken of.
const fn of_request(errno: Errno) -> NetlinkError {
    match errno {
        Errno::EPERM | Errno::EACCES => NetlinkError::NotPermitted,
        Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP => {
            NetlinkError::NoNftables
        }
        errno => NetlinkError::Socket(errno),
    }
}
