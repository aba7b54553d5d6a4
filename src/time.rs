//! Time as an argument: the core is told what time it is and never asks.

use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that never goes backwards and counts the time a machine sleeps.
///
/// Nanoseconds since an origin that only has to be the same for all values that meet:
/// boot (`CLOCK_BOOTTIME`) in the live programs, the epoch in a capture file, anything in a
/// simulation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Monotonic(u64);

/// A point in calendar time: nanoseconds since 1970-01-01 UTC. It may jump.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(u64);

/// The present, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub monotonic: Monotonic,
    pub wall: Wall,
}

macro_rules! instant {
    ($name:ident) => {
        impl $name {
            pub const ZERO: Self = Self(0);
            pub const MAX: Self = Self(u64::MAX);

            pub const fn from_nanos(nanos: u64) -> Self {
                Self(nanos)
            }

            pub const fn as_nanos(self) -> u64 {
                self.0
            }

            /// How long after `earlier` this is; zero if it is not after it.
            pub const fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }
        }

        /// Saturates: a deadline past the end of time never comes.
        impl Add<Duration> for $name {
            type Output = Self;

            fn add(self, span: Duration) -> Self {
                Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
            }
        }

        /// Saturates at the origin.
        impl Sub<Duration> for $name {
            type Output = Self;

            fn sub(self, span: Duration) -> Self {
                Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
            }
        }
    };
}

instant!(Monotonic);
instant!(Wall);

/// The id of a boot, to which a [`Monotonic`] belongs: a new one each time the machine starts.
#[derive(Clone, Copy, Debug, Default, derive_more::Display, PartialEq, Eq, Hash)]
#[display("{_0:032x}")]
pub struct BootId(u128);

/// A text that is not a boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a boot id is 32 hexadecimal digits")]
pub struct BootIdError;

/// Reads what `/proc/sys/kernel/random/boot_id` holds, with or without dashes.
impl FromStr for BootId {
    type Err = BootIdError;

    fn from_str(text: &str) -> Result<Self, BootIdError> {
        let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BootIdError);
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| BootIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_read_as_the_kernel_writes_it() {
        let boot: BootId = "0b6f9c1e-2f54-4d36-9a3e-6c1f4d0e5a77\n".parse().unwrap();
        assert_eq!(boot.to_string(), "0b6f9c1e2f544d369a3e6c1f4d0e5a77");
        assert_eq!(boot.to_string().parse(), Ok(boot));
    }

    #[test]
    fn what_is_no_boot_id_is_refused() {
        for text in ["", "0b6f9c1e", "+b6f9c1e2f544d369a3e6c1f4d0e5a77", "none"] {
            assert_eq!(text.parse::<BootId>(), Err(BootIdError), "{text}");
        }
    }

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Monotonic::MAX + Duration::from_secs(1), Monotonic::MAX);
        assert_eq!(Monotonic::ZERO - Duration::from_secs(1), Monotonic::ZERO);
        assert_eq!(Wall::ZERO.since(Wall::MAX), Duration::ZERO);
    }
}
