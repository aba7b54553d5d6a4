//! The clocks of the system, read nowhere else.

use std::time::Duration;

use super::fault;
use crate::time::{Monotonic, Now, Wall};

/// The time now: `CLOCK_BOOTTIME` and `CLOCK_REALTIME`, read within some microseconds.
///
/// What one says of the other dates packets, so this process must not sleep between the two.
pub fn now() -> Now {
    let [monotonic, wall] = read().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let (monotonic, wall) = (Monotonic::from_nanos(monotonic), Wall::from_nanos(wall));
    let by = fault::calendar_set_by();
    let seconds = Duration::from_secs(by.unsigned_abs());
    Now { monotonic, wall: if by < 0 { wall - seconds } else { wall + seconds } }
}

/// The id of this boot.
///
/// # Errors
/// When `/proc` is not mounted.
#[cfg(feature = "daemon")]
pub fn boot_id() -> std::io::Result<crate::time::BootId> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    id.parse().map_err(std::io::Error::other)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read() -> [Duration; 2] {
    use nix::time::{ClockId, clock_gettime};

    /// How far apart the two may have been read.
    const CLOSE: Duration = Duration::from_micros(20);
    /// How often they are read again when something came between.
    const TRIES: usize = 8;
    // Both exist on every kernel that has network namespaces; a clock before 1970 is 0.
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let read_both = || {
        let before = read(ClockId::CLOCK_BOOTTIME);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_BOOTTIME);
        (after.saturating_sub(before), [after, wall])
    };
    let mut best = read_both();
    for _ in 1..TRIES {
        if best.0 > CLOSE {
            best = best.min(read_both());
        }
    }
    best.1
}

/// Elsewhere, where only the client runs and dates no packets: the first begins with the program, and
/// on some systems stands still while the machine sleeps.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read() -> [Duration; 2] {
    use std::time::{Instant, SystemTime};

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    [START.elapsed(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()]
}
