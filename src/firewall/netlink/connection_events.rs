//! The lives of connections, as the kernel tells them while they go on.

use std::fs;

use nix::errno::Errno;
use nix::libc;
use rangemap::RangeInclusiveSet;
use socket2::{SockFilter, SockRef};

use super::Result;
use super::conntrack::{GROUPS, ORIGINAL, Oblivion, PORTS, PROTOCOL, TO_PORT, tracked};
use super::monitor::Listener;
use crate::grants::TrackedConnection;
use crate::proto::{OpenPorts, Protocol};

/// Room for some ten thousand between two looks.
const BUFFER: usize = 16 << 20;
/// How many ranges of ports the kernel compares with: those that are near each other become one.
const RANGES: usize = 128;

/// A socket that is readable when a connection to one of some ports has begun, gone on to its next
/// phase, or ended. Those to other ports wake nobody, nor do packets of one that goes on.
#[derive(Debug, derive_more::Deref)]
pub struct ConnectionEvents {
    #[deref(forward)]
    listener: Listener,
    wanted: RangeInclusiveSet<u32>,
    times: Oblivion,
}

impl ConnectionEvents {
    /// Hears what happens to these ports from now on. Of a connection that is there already, and of
    /// any where they [are not told](Self::are_told), nothing may be heard: ask for it, by
    /// [`Netlink::connections`](super::Netlink::connections).
    ///
    /// # Errors
    /// Where the kernel tracks no connections, or this process may not hear of them.
    pub fn open(wanted: &[OpenPorts]) -> Result<Self> {
        let range = |it: &OpenPorts| {
            let (low, high) = it.range().into_inner();
            number(it.protocol(), low.get())..=number(it.protocol(), high.get())
        };
        let (wanted, times) = (wanted.iter().map(range).collect(), Oblivion::of_host());
        let listener = Listener::open(GROUPS, BUFFER)?;
        let filtered = SockRef::from(&*listener).attach_filter(&filter(&wanted));
        filtered.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(Self { listener, wanted, times })
    }

    /// Whether the kernel tells of connections at all: `net.netfilter.nf_conntrack_events` is 1,
    /// or 2, which leaves out those that began before anybody listened.
    pub fn are_told() -> bool {
        let setting = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events");
        setting.is_ok_and(|setting| setting.trim() != "0")
    }

    /// Tells what has become of connections to these ports since the last look, the last of each at
    /// the end; whether that is all that happened: otherwise it was too much to be told.
    #[must_use]
    pub fn look(&mut self, mut saw: impl FnMut(TrackedConnection)) -> bool {
        self.listener.look(|reply| {
            let found = tracked(&self.times, reply.kind, reply.attributes());
            let is_wanted =
                |it: &TrackedConnection| self.wanted.contains(&number(it.protocol, it.to.port()));
            found.filter(is_wanted).into_iter().for_each(&mut saw);
        })
    }
}

/// A protocol and a port as one number.
fn number(protocol: Protocol, port: u16) -> u32 {
    u32::from(protocol.number()) << 16 | u32::from(port)
}

/// The program by which the kernel judges whether to tell: of no connection to other ports, but for
/// some near these where they are many.
fn filter(wanted: &RangeInclusiveSet<u32>) -> Vec<SockFilter> {
    const ATTRIBUTES: u32 = 20;
    // Where the attribute of kind X is: from the place A on, and within the one that is at A.
    const AMONG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
    const WITHIN: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR_NEST) as u32;
    let [original, ports, protocol, port] = [ORIGINAL, PORTS, PROTOCOL, TO_PORT].map(u32::from);
    // Of linux/bpf_common.h: 00 and 01 set A and X, 20 loads A, 02 keeps it, 60 and 61 bring it
    // back, 07 moves it to X, 50 and 48 load a byte and two from X on; 64 is <<, 4c is |.
    #[rustfmt::skip]
    let number = [
        (0x00, ATTRIBUTES), (0x01, original), (0x20, AMONG),
        (0x01, ports), (0x20, WITHIN), (0x02, 0),
        (0x01, protocol), (0x20, WITHIN), (0x07, 0), (0x50, 4), (0x64, 16), (0x02, 1),
        (0x60, 0), (0x01, port), (0x20, WITHIN), (0x07, 0), (0x48, 4), (0x61, 1), (0x4c, 0),
    ];
    let mut program: Vec<_> =
        number.into_iter().map(|(code, k)| SockFilter::new(code, 0, 0, k)).collect();
    let ranges: Vec<_> = wanted.iter().collect();
    // Below the first: on to the next; not above the last: told.
    for near in ranges.chunks(ranges.len().div_ceil(RANGES).max(1)) {
        let (Some(first), Some(last)) = (near.first(), near.last()) else { continue };
        program.push(SockFilter::new(0x35, 0, 2, *first.start()));
        program.push(SockFilter::new(0x25, 1, 0, *last.end()));
        program.push(SockFilter::new(0x06, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(0x06, 0, 0, 0));
    program
}
