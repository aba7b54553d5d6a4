//! The courier's loop: between the keeper and a store that it has reached.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::connection::{Connection, SILENCE, StoreError};
use super::talk::Talk;
use crate::ipc::courier::FromCourier;
use crate::ipc::{Channel, Received};
use crate::sys::{clock, descriptors};

/// How many messages wait for the keeper before nothing more is read from the store.
const TO_KEEPER: usize = 10_000;
/// How many bytes for the store are taken from the keeper before they are sent.
const TO_STORE: usize = 1 << 20;
/// How many replies are read before the keeper has its turn.
const BATCH: usize = 512;

/// Carries until the keeper is gone, whom these are told first.
///
/// # Errors
/// When the store is lost, refuses anything, or does not answer.
pub(super) fn carry(
    keeper: &Channel,
    mut store: Connection,
    first: [FromCourier; 2],
) -> Result<(), StoreError> {
    let mut talk = Talk::new(first);
    // When it last said something, or owed nothing.
    let mut heard = clock::now().monotonic;
    let (mut patience, mut has_more) = (SILENCE, false);
    loop {
        let is_behind = talk.to_keeper.len() >= TO_KEEPER;
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !talk.to_keeper.is_empty());
        let mut fds = vec![PollFd::new(keeper.as_fd(), wanted)];
        if !is_behind {
            fds.push(PollFd::new(store.as_fd(), PollFlags::POLLIN));
        }
        let is_waiting = talk.is_owed() && !is_behind;
        let timeout = if has_more { Some(Duration::ZERO) } else { is_waiting.then_some(patience) };
        descriptors::poll(&mut fds, timeout)?;
        let now = clock::now();
        if !is_waiting || fds.last().and_then(PollFd::any) != Some(false) {
            heard = now.monotonic;
        }
        let mut is_over = false;
        while !is_over && talk.to_store.len() < TO_STORE {
            match keeper.receive_message() {
                Received::Frame(order) => talk.order(now.wall, order),
                Received::Nothing => break,
                Received::Closed | Received::Malformed => is_over = true,
            }
        }
        let sent = store.send(&std::mem::take(&mut talk.to_store));
        let read =
            sent.and_then(|()| if is_behind { Ok(false) } else { read(&mut store, &mut talk) });
        // What has been answered before the end is told.
        while let Some(message) = talk.to_keeper.front() {
            match keeper.send_message(message) {
                Ok(()) => drop(talk.to_keeper.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Ok(()),
            }
        }
        if is_over {
            return Ok(());
        }
        has_more = read?;
        patience = SILENCE.saturating_sub(now.monotonic.since(heard));
        if patience.is_zero() {
            return Err(StoreError::Silent);
        }
    }
}

/// Reads what has come. True: there may be more.
fn read(store: &mut Connection, talk: &mut Talk) -> Result<bool, StoreError> {
    for _ in 0..BATCH {
        let Some(reply) = store.next()? else { return Ok(false) };
        talk.reply(reply)?;
    }
    Ok(true)
}
