//! Packets from an interface or a file, through libpcap.
//!
//! How interfaces come and go, measured with libpcap 1.10 on Linux 6.18:
//!
//! | what happens | what libpcap does |
//! |---|---|
//! | it does not exist, or is down, when opened | an error |
//! | it goes down while open | nothing; packets come again when it is up again |
//! | it is renamed while open, and another takes over its name | nothing; it goes on with the one that it opened |
//! | it is deleted while open | an error at every read; the handle stays dead even if the name returns |
//! | `any`: an interface comes, goes, goes down | nothing; it captures from what is there |

mod program;

use std::borrow::Cow;
use std::mem;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use pcap::{Activated, Active, Capture, Direction, Linktype, Offline, Precision};

use crate::sys::host;
use crate::time::Wall;
use crate::wire::filter::{Filter, Ranges};
use crate::wire::link::LinkType;

/// Enough for a knock behind tags, IPv6 extension headers and TCP options.
const SNAP_LENGTH: u16 = 384;
/// What stands before what a datagram carries, where it stands at its longest.
const HEADERS: u16 = 256;
/// The ring between kernel and process, in bytes, all of it resident: room for 7,600 packets of
/// [`SNAP_LENGTH`], and for 6,700 where native requests are taken.
const RING: i32 = 7 << 19;

/// One captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// When the kernel saw it, to the nanosecond.
    pub time: Wall,
    /// From the link layer on; perhaps not all of it.
    pub bytes: &'a [u8],
}

/// Counts of packets since they were last asked for: those that passed the filter, and of these the
/// ones that were lost because the ring was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub received: u64,
    pub dropped: u64,
}

/// A live capture. Needs root or `CAP_NET_RAW` to open, and no privilege from then on.
pub(crate) struct Live {
    pub capture: Capture<Active>,
    pub link: LinkType,
    interface: String,
    /// libpcap's counters, which wrap, when they were asked for last.
    counted: [u32; 2],
}

impl Live {
    /// Starts capturing what the filter passes of the packets that come in. Never promiscuous; the
    /// filter stays, whatever becomes of the process.
    ///
    /// `any` is every interface, also those that come later.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub(crate) fn open(interface: &str, filter: &Filter) -> Result<Self, CaptureError> {
        let index = if_nametoindex(interface).ok();
        let failed = |source| CaptureError::live(interface, index, source);
        let mut capture = Capture::from_device(interface)
            .map_err(failed)?
            .promisc(false)
            .immediate_mode(true)
            .snaplen(SNAP_LENGTH.max(filter.longest.saturating_add(HEADERS)).into())
            .buffer_size(RING)
            .precision(Precision::Nano)
            .open()
            .map_err(failed)?;
        let sll2 = Linktype(LinkType::Sll2.dlt());
        if capture.list_datalinks().is_ok_and(|known| known.contains(&sll2)) {
            capture.set_datalink(sll2).map_err(failed)?;
        }
        let link = understood(interface, capture.get_datalink())?;
        let (expression, optimize) = in_kernel(&capture, filter, link).map_err(failed)?;
        capture.filter(&expression, optimize).map_err(failed)?;
        capture.direction(Direction::In).map_err(failed)?;
        let capture = capture.setnonblock().map_err(failed)?;
        host::lock_filter(&capture).map_err(|error| failed(pcap::Error::IoError(error.kind())))?;
        Ok(Self { capture, link, interface: interface.to_owned(), counted: [0; 2] })
    }

    /// Hands on what is queued, up to so many packets, and returns how many there were. Never
    /// waits: poll the descriptor.
    ///
    /// # Errors
    /// [`CaptureError::NoInterface`] for good; no error where it merely went down.
    pub(crate) fn read(
        &mut self,
        most: usize,
        mut hand_on: impl FnMut(Frame<'_>),
    ) -> Result<usize, CaptureError> {
        let read = self.capture.dispatch(Some(most), |packet| hand_on(frame(packet)));
        read.map_err(|error| gone(&self.interface, error))
    }

    /// Counts since it was opened, or asked for them.
    ///
    /// # Errors
    /// [`CaptureError`], where the kernel does not tell.
    pub(crate) fn stats(&mut self) -> Result<Stats, CaptureError> {
        let stats = self.capture.stats();
        let stats = stats.map_err(|source| gone(&self.interface, source))?;
        let before = mem::replace(&mut self.counted, [stats.received, stats.dropped]);
        Ok(Stats {
            received: stats.received.wrapping_sub(before[0]).into(),
            dropped: stats.dropped.wrapping_sub(before[1]).into(),
        })
    }
}

/// What an error of an open capture comes to. Whether the interface is there is not asked: whoever
/// captures may open no socket.
fn gone(interface: &str, source: pcap::Error) -> CaptureError {
    CaptureError::NoInterface { interface: interface.to_owned(), why: GONE, source }
}

/// The filter in words of which libpcap makes a program that the kernel takes, and whether it is to
/// be optimised: the shortest that it takes, or the first if it takes none.
pub fn in_kernel<T: Activated + ?Sized>(
    capture: &Capture<T>,
    filter: &Filter,
    link: LinkType,
) -> Result<(String, bool), pcap::Error> {
    let first = (Ranges::Compared, true);
    let others =
        [(Ranges::Subtracted, true), (Ranges::Compared, false), (Ranges::Subtracted, false)];
    for (ranges, optimize) in [first].into_iter().chain(others) {
        let expression = filter.expression(link, ranges);
        if program::is_loadable(&capture.compile(&expression, optimize)?) {
            return Ok((expression, optimize));
        }
    }
    Ok((filter.expression(link, first.0), first.1))
}

/// A capture file, pcap or pcapng.
pub(crate) struct Recording {
    capture: Capture<Offline>,
    pub link: LinkType,
    file: String,
}

impl Recording {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// [`CaptureError`], where it can't be read or is no capture file.
    pub(crate) fn open(path: &Path) -> Result<Self, CaptureError> {
        let is_input = path.as_os_str() == "-";
        let file = if is_input { "standard input".into() } else { path.display().to_string() };
        // libpcap's binding takes no other.
        let not_utf8 = "its name is not UTF-8: rename it, or give it on standard input";
        let name = path.to_str().ok_or_else(|| pcap::Error::PcapError(not_utf8.to_owned()));
        let capture = name
            .and_then(|name| Capture::from_file_with_precision(name, Precision::Nano))
            .map_err(|source| CaptureError::recorded(&file, false, source))?;
        let link = understood(&file, capture.get_datalink())?;
        Ok(Self { capture, link, file })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError`], also where the file ends in the middle of a packet.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(Some(frame(packet))),
            Err(pcap::Error::NoMorePackets) => Ok(None),
            Err(error) => Err(CaptureError::recorded(&self.file, true, error)),
        }
    }
}

fn frame(packet: pcap::Packet<'_>) -> Frame<'_> {
    // Nanosecond precision was asked for: the field for microseconds has them.
    let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(packet.header.ts.tv_usec).unwrap_or(0);
    let time = Wall::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    Frame { time, bytes: packet.data }
}

fn understood(of: &str, link: Linktype) -> Result<LinkType, CaptureError> {
    LinkType::from_dlt(link.0).ok_or_else(|| CaptureError::LinkType {
        of: of.to_owned(),
        name: link.get_name().unwrap_or_else(|_| format!("number {}", link.0)),
    })
}

/// The reason why packets can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// It does not exist, is down, or was there and was deleted or moved away: then opening it anew
    /// is all that helps.
    #[error("{interface}: {why}")]
    NoInterface { interface: String, why: &'static str, source: pcap::Error },
    #[error(
        "{of}: link type {name} is not understood: it has to be Ethernet, SLL, SLL2, RAW, NULL or \
         LOOP"
    )]
    LinkType { of: String, name: String },
    #[error("{of}: {why}")]
    Other { of: String, why: String, source: pcap::Error },
}

const GONE: &str = "the interface has gone away";

impl CaptureError {
    /// What keeps an interface with a number, if it has one, from being opened. libpcap has but one
    /// error, and a text in it.
    fn live(interface: &str, index: Option<u32>, source: pcap::Error) -> Self {
        let is_gone = index.is_some() && if_nametoindex(interface).ok() != index;
        let said = said(interface, &source);
        let why = if is_gone || said.contains("disappeared") {
            GONE
        } else if index.is_none() && said.contains("No such device") {
            "there is no such interface"
        } else if said.contains("not up") {
            "the interface is down"
        } else {
            let is_refused = said.contains("not permitted") || said.contains("CAP_NET_RAW");
            let refused = is_refused.then_some("capturing packets needs root or CAP_NET_RAW");
            let why = refused.unwrap_or(&said).to_owned();
            return Self::Other { of: interface.to_owned(), why, source };
        };
        Self::NoInterface { interface: interface.to_owned(), why, source }
    }

    /// What keeps a file from being opened, or read once it is open.
    fn recorded(file: &str, is_open: bool, source: pcap::Error) -> Self {
        let said = said(file, &source);
        let is_cut = said.starts_with("truncated");
        let why = if is_open && is_cut {
            "the file ends in the middle of a packet"
        // A file too short for its own header is none either.
        } else if is_cut || said.starts_with("unknown file format") {
            "neither a pcap nor a pcapng file"
        } else {
            &said
        };
        Self::Other { of: file.to_owned(), why: why.to_owned(), source }
    }
}

/// What libpcap said, without the name that it puts before some of it.
fn said<'a>(of: &str, error: &'a pcap::Error) -> Cow<'a, str> {
    match error {
        pcap::Error::PcapError(text) => {
            let named = text.strip_prefix(of).and_then(|text| text.strip_prefix(": "));
            Cow::Borrowed(named.unwrap_or(text))
        }
        other => Cow::Owned(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
