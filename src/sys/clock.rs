//! The clocks of the system, read nowhere else.

#[cfg(feature = "daemon")]
use std::io;
#[cfg(not(target_os = "linux"))]
use std::sync::LazyLock;
use std::time::Duration;
#[cfg(not(target_os = "linux"))]
use std::time::{Instant, SystemTime};

#[cfg(target_os = "linux")]
use nix::time::{ClockId, clock_gettime};

use super::fault;
#[cfg(feature = "daemon")]
use crate::time::BootId;
use crate::time::{Monotonic, Now, Wall};

/// How far apart the two clocks may have been read.
#[cfg(target_os = "linux")]
const CLOSE: u64 = 20_000;
/// How often they are read again when something came between.
#[cfg(target_os = "linux")]
const TRIES: usize = 8;

/// The time now: `CLOCK_BOOTTIME` and `CLOCK_REALTIME`, read within some microseconds.
///
/// What one says of the other dates packets, so this process must not sleep between the two.
pub fn now() -> Now {
    let (monotonic, wall) = read_both();
    let (monotonic, wall) = (Monotonic::from_nanos(monotonic), Wall::from_nanos(wall));
    let by = fault::calendar_set_by();
    let seconds = Duration::from_secs(by.unsigned_abs());
    Now { monotonic, wall: if by < 0 { wall - seconds } else { wall + seconds } }
}

#[cfg(target_os = "linux")]
fn read_both() -> (u64, u64) {
    let read_once = || {
        let before = read(ClockId::CLOCK_BOOTTIME);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_BOOTTIME);
        (after.saturating_sub(before), after, wall)
    };
    let mut best = read_once();
    for _ in 1..TRIES {
        if best.0 > CLOSE {
            best = best.min(read_once());
        }
    }
    (best.1, best.2)
}

/// Of the client elsewhere, which dates no packets: the first is 0 when it is first read, and on some
/// systems stands still while the machine sleeps.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read_both() -> (u64, u64) {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (nanos(START.elapsed()), nanos(wall))
}

/// The id of this boot.
///
/// # Errors
/// When `/proc` is not mounted.
#[cfg(feature = "daemon")]
pub fn boot_id() -> io::Result<BootId> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.parse().map_err(io::Error::other)
}

#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel that has network namespaces; a clock before 1970 is 0.
    clock_gettime(clock)
        .map(Duration::from)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
