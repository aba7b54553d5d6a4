//! The clocks of the system, read nowhere else.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::fault;
use crate::time::{BootId, Monotonic, Now, Wall};

/// How far apart the two clocks may have been read.
const CLOSE: u64 = 20_000;
/// How often they are read again when something came between.
const TRIES: usize = 8;

/// The time now: `CLOCK_BOOTTIME` and `CLOCK_REALTIME`, read within some microseconds.
///
/// What one says of the other dates packets, so this process must not sleep between the two.
pub fn now() -> Now {
    let read_both = || {
        let before = read(ClockId::CLOCK_BOOTTIME);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_BOOTTIME);
        (after.saturating_sub(before), after, wall)
    };
    let mut best = read_both();
    for _ in 1..TRIES {
        if best.0 > CLOSE {
            best = best.min(read_both());
        }
    }
    let (_, monotonic, wall) = best;
    let (monotonic, wall) = (Monotonic::from_nanos(monotonic), Wall::from_nanos(wall));
    let by = fault::calendar_set_by();
    let seconds = Duration::from_secs(by.unsigned_abs());
    Now { monotonic, wall: if by < 0 { wall - seconds } else { wall + seconds } }
}

/// The id of this boot.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<BootId> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.parse().map_err(io::Error::other)
}

#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel that has network namespaces; a clock before 1970 is 0.
    clock_gettime(clock)
        .map(Duration::from)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
