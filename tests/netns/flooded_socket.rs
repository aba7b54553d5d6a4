//! A member of the group `knockd` who floods the control socket.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, needs};

/// Becomes another user, for this thread alone, and asks and asks; true: somebody was answered.
fn flood(socket: &Path, until: &AtomicBool, kind: usize) -> bool {
    // Whoever takes all the room that they may have is not answered, but others are.
    let user = if kind == 3 { 4322 } else { 4321 };
    // SAFETY: three numbers; no other thread is asked to do the same, as setresuid(3) would.
    #[expect(unsafe_code, reason = "no library changes the user of one thread")]
    let is_other = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, user, user, user) } == 0;
    assert!(is_other);
    let mut kept = Vec::new();
    let mut answered = false;
    while !until.load(Ordering::Relaxed) {
        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match kind {
            // Never asks, and keeps the connection.
            0 => kept.push(stream),
            // Follows, and does not read.
            1 => {
                let _ = stream.write_all(b"{\"do\":\"watch\"}\n");
                kept.push(stream);
            }
            // Asks without end.
            2 => while stream.write_all(&[b'x'; 1000]).is_ok() {},
            // Asks for what costs most, as fast as it can.
            3 => {
                let _ = stream.write_all(b"{\"do\":\"history\"}\n");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                answered |= answer.ends_with(b"\"done\",\"text\":\"\"}\n");
            }
            _ => drop(stream),
        }
        kept.drain(..kept.len().saturating_sub(100));
    }
    answered
}

#[test]
fn a_member_who_floods_the_socket_keeps_neither_knocks_nor_root_from_being_served() {
    needs!("control flood", "nft");
    let configuration = "
knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors:
  ssh: {sequence: [7000, 8000, 9000], open: [22], open_for: 2s}
";
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::start(&net.server, configuration);
    let directory = knockd.directory.path().to_owned();
    let socket = directory.join("run/control.sock");
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o711)).unwrap();
    // As it is for the members of the group.
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    // A long history, which is what costs most.
    let ledger = directory.join("state/ledger.db");
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let db = rusqlite::Connection::open(ledger).unwrap();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO history (at, door, address, event, detail)
         SELECT i, 'ssh', '192.0.2.9', 'open', '' FROM n",
    )
    .unwrap();
    drop(db);
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up, listening on");
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    let until = AtomicBool::new(false);
    thread::scope(|scope| {
        let (socket, until) = (&socket, &until);
        let floods: Vec<_> = [0, 1, 2, 3, 3, 4, 4]
            .map(|kind| scope.spawn(move || flood(socket, until, kind)))
            .into();
        let mut served = true;
        for _ in 0..5 {
            let from = CLIENT.parse().unwrap();
            let ports = ["7000", "8000", "9000"];
            net.client.knock_from(from, SERVER, &ports, Duration::from_millis(10));
            served &= eventually(PATIENCE, || net.client.can_connect(SERVER, 22));
            // Root's question is answered.
            knockd.grants();
            served &= eventually(PATIENCE, || !net.client.can_connect(SERVER, 22));
        }
        until.store(true, Ordering::Relaxed);
        let answered: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        assert!(served, "{}", knockd.log().join("\n"));
        assert!(answered.contains(&true), "nobody was answered");
    });
}
