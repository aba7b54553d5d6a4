//! The process that speaks to the fleet's store: no privileges, one connection.
//!
//! It knows no key of the fleet and opens nothing that it carries. Its life is short and straight: it
//! becomes the watcher's user, reaches the store, gives up all but its connection, and carries. When
//! that ends it says why and ends too; the keeper starts another.

mod carry;
mod connection;
mod talk;
mod way;

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Parser;
use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, setrlimit};

use self::carry::carry;
use self::connection::StoreError;
use self::way::Way;
use crate::config::SandboxMode;
use crate::ipc::Channel;
use crate::ipc::courier::{CourierAssignment, FromCourier};
use crate::sys::landlock::{self, LandlockRules};
use crate::sys::privileges::PrivilegeError;
use crate::sys::seccomp::{self, Phase};
use crate::sys::{descriptors, memory, process, sandbox, scheduling};

/// Carries what the gateways of a fleet tell each other. knockd(8) starts it where 'fleet' is
/// configured; there is nothing that a person would do with it.
#[derive(Debug, Parser)]
#[command(name = "knock-courier", version, max_term_width = 90)]
struct CourierCli {}

/// The most memory, in bytes: for more than a million grants.
const MEMORY: u64 = 2 << 30;

/// The reason why a courier ends.
#[derive(Debug, thiserror::Error)]
enum CourierError {
    #[error("this is for knockd to start: {0}")]
    Assignment(io::Error),
    #[error("cannot give up root: {0}")]
    Privileges(#[from] PrivilegeError),
    #[error("the store is lost: {0}")]
    Store(#[from] StoreError),
}

/// Runs the courier: reaches the store, and carries what the keeper and the store say, until either
/// is gone.
pub fn run() -> ExitCode {
    let CourierCli {} = CourierCli::parse();
    // Whoever does without wakes later on a busy machine.
    let _ = scheduling::request_short_slices();
    // It stands until it has been said why: the keeper ends whoever has none.
    let mut channel = None;
    match work(&mut channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn work(channel: &mut Option<Channel>) -> Result<(), CourierError> {
    if !process::is_called(process::COURIER) {
        return Err(CourierError::Assignment(io::Error::other("it goes by another name")));
    }
    let inherited = descriptors::inherited(process::WATCHER_CHANNEL);
    let channel = channel.insert(Channel(inherited.map_err(CourierError::Assignment)?));
    let CourierAssignment { store, identity, sandbox: mode } =
        process::assignment().map_err(CourierError::Assignment)?;
    // Whoever owns the store says how long its replies are.
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
    // Where that is not allowed, the rest is not either, and is told then.
    let _ = seccomp::restrict(Phase::Opening, mode);
    // While that is allowed.
    let memory = memory::lock();
    let way = Way::new(store);
    let Some(mut opened) = persist(channel, &way, || way.open_socket())? else { return Ok(()) };
    identity.assume()?;
    if mode != SandboxMode::Off {
        // Where it is not to be had, the next is not either, and is told then.
        let _ = landlock::restrict(&LandlockRules::of_resolver());
    }
    let reached = persist(channel, &way, || way.reach(opened.take()))?;
    // Nobody asks for the password any more.
    drop(way);
    let Some((connection, clock)) = reached else { return Ok(()) };
    let report = sandbox::close(Phase::Carrying, mode, memory);
    let first = [FromCourier::Sandbox { report }, FromCourier::Joined { clock }];
    Ok(carry(channel, connection, first)?)
}

/// Tries until it is done, and says why it is not, whenever that has changed. `None`: the keeper is
/// gone, or only another process may try again.
fn persist<T>(
    channel: &Channel,
    way: &Way,
    mut attempt: impl FnMut() -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut said = String::new();
    loop {
        let error = match attempt() {
            Ok(done) => return Ok(Some(done)),
            Err(StoreError::Spent) => return Ok(None),
            Err(error) => error,
        };
        let why = format!("the store at {}: {error}", way.store);
        if why != said {
            eprintln!("{why}");
            said = why;
        }
        // Whatever the keeper says waits; only its end is looked for.
        let mut keeper = [PollFd::new(channel.as_fd(), PollFlags::empty())];
        descriptors::poll(&mut keeper, Some(error.pause()))?;
        if keeper[0].any().unwrap_or(true) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;
