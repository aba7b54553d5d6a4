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
    let mut best = (u64::MAX, Now::default());
    for _ in 0..TRIES {
        let before = read(ClockId::CLOCK_BOOTTIME);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_BOOTTIME);
        let apart = after.saturating_sub(before);
        if apart < best.0 {
            let now = Now { monotonic: Monotonic::from_nanos(after), wall: Wall::from_nanos(wall) };
            best = (apart, now);
        }
        if apart <= CLOSE {
            break;
        }
    }
    let by = fault::calendar_set_by();
    let seconds = Duration::from_secs(by.unsigned_abs());
    let wall = if by < 0 { best.1.wall - seconds } else { best.1.wall + seconds };
    Now { wall, ..best.1 }
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
