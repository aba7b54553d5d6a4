//! One courier between a stand-in for its keeper and a Redis on this host: 5,000 requests a second,
//! each of which takes a proof and tells of a grant.
//!
//! `cargo bench --bench courier -- 30`: for how many seconds. Run it as root.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use libknock::ipc::courier::{FromCourier, SharedProof, ToCourier};
use libknock::ipc::{Channel, Received};
use libknock::sys::{clock, descriptors, process};
use serde_json::json;

const RATE: u64 = 5000;

#[expect(clippy::disallowed_methods, reason = "a benchmark starts programs and measures time")]
fn main() {
    let seconds = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(30);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let mut server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket", socket.to_str().unwrap()])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server");
    let nobody = json!({"User": {"name": "nobody", "uid": 65534, "gid": 65534}});
    let store = json!({"addresses": [{"Unix": socket}], "password": null, "authorities": null});
    let assignment = json!({"store": store, "identity": nobody, "sandbox": "Enforce"});
    let sealed = descriptors::sealed("bench", assignment.to_string().as_bytes()).unwrap();
    let (channel, theirs) = descriptors::frame_channel().unwrap();
    let mut command = Command::new("knock-courier");
    let program = Path::new(env!("CARGO_BIN_EXE_knock-courier"));
    command.env("PATH", program.parent().unwrap());
    let descriptors = vec![
        FdMapping { parent_fd: theirs, child_fd: process::WATCHER_CHANNEL },
        FdMapping { parent_fd: sealed, child_fd: process::WATCHER_CONFIG },
    ];
    command.fd_mappings(descriptors).unwrap();
    let mut courier = command.spawn().unwrap();
    drop(command);
    let channel = Channel(channel);
    let next = |limit: Duration| match channel.receive_message::<FromCourier>() {
        Received::Nothing => {
            descriptors::wait(&[channel.as_fd()], Some(limit)).unwrap();
            None
        }
        Received::Frame(message) => Some(message),
        other => panic!("{other:?}"),
    };
    while next(Duration::from_secs(10)) != Some(FromCourier::Live) {}
    let begun = Instant::now();
    let (mut sent, mut pending) = (0_u64, VecDeque::new());
    let (mut taken, mut told, mut longest) = (Vec::new(), Vec::new(), 0);
    let all = RATE * seconds;
    println!("second  unanswered at its end");
    let mut second = 1;
    while (told.len() as u64) < all {
        let due = (begun.elapsed().as_micros() as u64 * RATE / 1_000_000).min(all);
        while sent < due {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&sent.to_be_bytes());
            let until = clock::now().wall + Duration::from_secs(60);
            let proof = SharedProof::Once { id, until: Some(until) };
            let take = ToCourier::Take { ask: Some(sent), proof };
            let tell =
                ToCourier::Tell { number: sent, sealed: vec![7; 200], keep: Some((id, until)) };
            // Since when it is due: a courier that takes nothing is no excuse.
            pending.push_back(begun + Duration::from_micros(sent * 1_000_000 / RATE));
            for order in [take, tell] {
                while channel.send_message(&order).is_err() {
                    std::thread::yield_now();
                }
            }
            sent += 1;
        }
        longest = longest.max(sent - told.len() as u64);
        if begun.elapsed().as_secs() >= second {
            println!("{second:6}  {}", sent - told.len() as u64);
            second += 1;
        }
        match next(Duration::from_micros(200)) {
            Some(FromCourier::Taken { ask, is_new: true }) => {
                taken.push(pending[(ask - told.len() as u64) as usize].elapsed());
            }
            Some(FromCourier::Told { .. }) => told.push(pending.pop_front().unwrap().elapsed()),
            _ => {}
        }
    }
    let took = begun.elapsed();
    for (what, times) in [("taken", &mut taken), ("told", &mut told)] {
        times.sort();
        let at = |part: usize| times[times.len() * part / 1000];
        let (p50, p99, most) = (at(500), at(990), at(999));
        println!("{what}: p50 {p50:?}, p99 {p99:?}, p99.9 {most:?}");
    }
    println!("{all} requests in {took:?}; at the most {longest} unanswered");
    for child in [&mut courier, &mut server] {
        let _ = child.kill();
        let _ = child.wait();
    }
}
