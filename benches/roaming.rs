//! From a change of the client's address to a port that is open for the new one: `knock --stay`.
//!
//! Twenty moves between two network namespaces, from the command that changes the address to the
//! first connection that is accepted. Needs root.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use libknock::proto::spa::PrivateKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{
    CLIENT, Knockd, Net, PATIENCE, SERVER, can_make_namespaces, eventually, has_programs,
};

const MOVES: u8 = 20;

fn main() {
    if !can_make_namespaces("roaming") || !has_programs("roaming", &["nft"]) {
        return;
    }
    let net = Net::new();
    net.server.listen(22);
    let private = PrivateKey::from([7; 32]);
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
             \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
             clients: {{laptop: {{doors: [ssh], spa: {{public_key: {}}}}}}}\n\
             doors: {{ssh: {{spa: true, open: [22], open_for: 1h}}}}\n",
            private.public()
        ),
    );
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), format!("{}\n", private.encode().as_str())).unwrap();
    let mut knock = net.client.command(env!("CARGO_BIN_EXE_knock"));
    knock.args(["--stay", "--spa", "--server-key", &knockd.server_key().to_string(), SERVER]);
    let mut knock = knock.arg("--key").arg(key.path()).spawn().unwrap();
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));

    let mut times: Vec<Duration> = (0..MOVES)
        .map(|number| {
            std::thread::sleep(Duration::from_millis(300));
            let old = if number == 0 { CLIENT.to_owned() } else { address(number - 1) };
            move_from(&net, &old, &address(number))
        })
        .collect();
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    println!("{MOVES} moves: p50 {:?}, p95 {:?}, most {:?}", at(50), at(95), at(100));
    kill(Pid::from_raw(knock.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    knock.wait().unwrap();
}

/// An address that the port is not open for yet.
fn address(number: u8) -> String {
    format!("192.0.2.{}", 100 + number)
}

fn move_from(net: &Net, old: &str, new: &str) -> Duration {
    let to: SocketAddr = format!("{SERVER}:22").parse().unwrap();
    let script = format!("ip addr del {old}/24 dev eth0 && ip addr add {new}/24 dev eth0");
    let begun = now();
    net.client.must("sh", &["-c", &script]);
    net.client.enter(move || {
        // What is dropped would be sent again after a second: a new one is sooner there.
        while TcpStream::connect_timeout(&to, Duration::from_millis(20)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the port did not open");
        }
    });
    begun.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "this is what is measured")]
fn now() -> Instant {
    Instant::now()
}
