//! What knockd makes of a machine that has run out: of processes, descriptors, tracked connections.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::cgroup::Cgroup;
use crate::support::usage::{descriptors, processes};
use crate::support::{
    CLIENT, Host, Knockd, Net, PATIENCE, SERVER, conntrack, eventually, must, needs,
};

const BY_COMMANDS: [&str; 3] = ["7000", "8000", "9000"];
const BY_GUARD: [&str; 3] = ["7100", "8100", "9100"];

/// A door with commands, which write down what they do, and a guarded one.
fn configuration(open_for: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n\
         \x20 acts:\n\
         \x20   sequence: [7000, 8000, 9000]\n\
         \x20   open_for: {open_for}\n\
         \x20   start_command: echo open %IP% >> DIR/acts\n\
         \x20   stop_command: echo close %IP% >> DIR/acts\n\
         \x20 ssh: {{sequence: [7100, 8100, 9100], open: [22], open_for: {open_for}}}\n"
    )
}

fn acts(knockd: &Knockd) -> Vec<String> {
    let path = knockd.directory.path().join("acts");
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Knocks from another address of the client's network.
fn knock_on(net: &Net, host: u8, ports: &[&str]) {
    let from: IpAddr = [192, 0, 2, host].into();
    let _ = net.client.run("ip", &["addr", "add", &format!("{from}/24"), "dev", "eth0"]);
    net.client.knock_from(from, SERVER, ports, Duration::from_millis(10));
}

fn opens_to(net: &Net, host: u8) -> bool {
    let from = Some([192, 0, 2, host].into());
    eventually(PATIENCE, || net.client.can_connect_from(from, SERVER, 22))
}

fn is_shut_to(net: &Net, host: u8) -> bool {
    let from = Some([192, 0, 2, host].into());
    eventually(PATIENCE, || !net.client.can_connect_from(from, SERVER, 22))
}

#[test]
fn while_no_process_can_be_started_guarded_doors_open_and_commands_are_refused_or_wait_to_close() {
    needs!("fork fails", "nft");
    let Some(group) = Cgroup::new("fork fails") else { return };
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("2s"));
    group.take(&processes(&knockd));
    knock_on(&net, 10, &BY_COMMANDS);
    assert!(eventually(PATIENCE, || acts(&knockd) == ["open 192.0.2.10"]));
    group.forbid_forks();
    knock_on(&net, 11, &BY_COMMANDS);
    knockd.wait_for("acts: cannot run /bin/sh now: Resource temporarily unavailable");
    knockd.wait_for("192.0.2.11: acts: not opened");
    knock_on(&net, 12, &BY_GUARD);
    assert!(opens_to(&net, 12), "{}", knockd.log().join("\n"));
    knockd.wait_for("192.0.2.10: acts: a close command failed: it is tried again in 1 s");
    assert!(is_shut_to(&net, 12), "the guarded port stays open");
    // What waits to be closed is still told of.
    let waits = |grant: &serde_json::Value| grant["address"] == "192.0.2.10";
    assert!(knockd.grants().iter().any(waits), "{:?}", knockd.grants());
    group.allow_forks();
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    assert_eq!(acts(&knockd), ["open 192.0.2.10", "close 192.0.2.10"]);
    knock_on(&net, 11, &BY_COMMANDS);
    assert!(eventually(PATIENCE, || acts(&knockd).contains(&"open 192.0.2.11".to_owned())));
    drop(knockd);
}

#[test]
fn a_watcher_that_cannot_be_started_is_started_as_soon_as_there_are_processes_again() {
    needs!("no process for a watcher", "nft");
    let Some(group) = Cgroup::new("no process for a watcher") else { return };
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("1h"));
    knock_on(&net, 10, &BY_GUARD);
    assert!(opens_to(&net, 10));
    group.take(&processes(&knockd));
    group.forbid_forks();
    // The configuration in force stays, and so does its watcher.
    let answer = knockd.ask(r#"{"do":"reload"}"#);
    let why = answer[0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("cannot start a watcher: Resource temporarily unavailable"), "{answer:?}");
    knock_on(&net, 11, &BY_GUARD);
    assert!(opens_to(&net, 11));
    let watcher = knockd.watchers()[0];
    kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
    knockd.wait_for("the watcher ended");
    knockd.wait_for_count("cannot start a watcher: Resource temporarily unavailable", 3);
    assert!(opens_to(&net, 10), "who was let in is shut out");
    assert_eq!(knockd.grants().len(), 2);
    group.allow_forks();
    assert!(eventually(PATIENCE, || !knockd.watchers().is_empty()));
    let heard = eventually(PATIENCE, || {
        knock_on(&net, 12, &BY_GUARD);
        knockd.count("192.0.2.12: ssh: OPEN SESAME") > 0
    });
    assert!(heard, "{}", knockd.log().join("\n"));
    drop(knockd);
}

/// Sets how many descriptors a process may have: no more than it has once it is quiet, or this many.
fn limit_descriptors(pid: i32, limit: Option<usize>) {
    let is_free = |number: &usize| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    let free = || (0..).find(is_free).unwrap();
    let limit = limit.unwrap_or_else(|| {
        // What a command has been given is given back a moment after its end.
        (0..100).map(|_| (thread::sleep(Duration::from_millis(5)), free()).1).min().unwrap()
    });
    must("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
}

#[test]
fn without_descriptors_guarded_doors_open_and_commands_are_refused_or_wait_to_close() {
    needs!("no descriptors", "nft", "prlimit");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("3s"));
    knock_on(&net, 10, &BY_COMMANDS);
    assert!(eventually(PATIENCE, || acts(&knockd) == ["open 192.0.2.10"]));
    // Nobody can ask any more; who comes meanwhile waits.
    limit_descriptors(knockd.pid(), None);
    let mut asking = UnixStream::connect(knockd.directory.path().join("run/control.sock")).unwrap();
    asking.write_all(b"{\"do\":\"status\"}\n").unwrap();
    knock_on(&net, 11, &BY_COMMANDS);
    knockd.wait_for("acts: cannot run /bin/sh now: Too many open files");
    knockd.wait_for("192.0.2.11: acts: not opened");
    knock_on(&net, 12, &BY_GUARD);
    assert!(opens_to(&net, 12), "{}", knockd.log().join("\n"));
    knockd.wait_for("192.0.2.10: acts: a close command failed: it is tried again in 1 s");
    assert!(is_shut_to(&net, 12), "the guarded port stays open");
    // A watcher takes descriptors, too.
    kill(Pid::from_raw(knockd.watchers()[0]), Signal::SIGKILL).unwrap();
    knockd.wait_for("cannot start a watcher: Too many open files");
    limit_descriptors(knockd.pid(), Some(1024));
    let mut answer = String::new();
    BufReader::new(asking).read_line(&mut answer).unwrap();
    assert!(answer.contains("grants"), "{answer}");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    assert_eq!(acts(&knockd), ["open 192.0.2.10", "close 192.0.2.10"]);
    let heard = eventually(PATIENCE, || {
        knock_on(&net, 13, &BY_GUARD);
        knockd.count("192.0.2.13: ssh: OPEN SESAME") > 0
    });
    assert!(heard, "{}", knockd.log().join("\n"));
}

#[test]
fn many_connections_and_many_commands_at_once_leave_room_for_a_knock_and_are_all_given_back() {
    needs!("many connections and commands", "nft", "prlimit");
    let net = Net::new();
    net.server.listen(22);
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knock.conf");
    let doors: String = (0..40)
        .map(|n| format!("  d{n}: {{sequence: [7200, 8200, 9200], start_command: sleep 2}}\n"))
        .collect();
    let text = configuration("2s").replace("DIR", directory.path().to_str().unwrap()) + &doors;
    fs::write(&config, text).unwrap();
    // Far less than it would like to have.
    let mut limited = net.server.command("prlimit");
    limited.args(["--nofile=64:64", env!("CARGO_BIN_EXE_knockd"), "--insecure-permissions", "-c"]);
    limited.arg(&config);
    let knockd = Knockd::from_command(limited, directory, config);
    knockd.wait_for("starting up, listening on");
    let before = descriptors(knockd.pid());
    let socket = knockd.directory.path().join("run/control.sock");
    let idle: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    knock_on(&net, 10, &["7200", "8200", "9200"]);
    knockd.wait_for("cannot run /bin/sh now: Too many open files");
    knock_on(&net, 12, &BY_GUARD);
    assert!(opens_to(&net, 12), "{}", knockd.log().join("\n"));
    assert!(is_shut_to(&net, 12), "the guarded port stays open");
    drop(idle);
    let are_given_back = eventually(PATIENCE, || descriptors(knockd.pid()) <= before);
    assert!(are_given_back, "{before} are {}", descriptors(knockd.pid()));
    assert!(knockd.grants().is_empty());
}

/// A listener that sends back what it reads, for as long as the test lives.
fn echo(host: &Host, port: u16) {
    let listener = host.enter(move || TcpListener::bind(SocketAddr::from(([0; 4], port))).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut copy, &mut stream);
            });
        }
    });
}

fn is_echoed(session: &mut TcpStream) -> bool {
    session.set_read_timeout(Some(PATIENCE)).unwrap();
    session.write_all(b"x").is_ok() && session.read_exact(&mut [0]).is_ok()
}

#[test]
fn where_no_more_connections_are_tracked_knocks_are_heard_and_their_grants_end_in_time() {
    needs!("conntrack full", "nft");
    let most = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
    if !most.trim().parse().is_ok_and(|most: u32| most <= 600_000) {
        return crate::support::skipped("conntrack full", "its table takes too long to fill");
    }
    let net = Net::new();
    echo(&net.server, 22);
    let knockd = Knockd::start(&net.server, &configuration("2s"));
    net.client.knock_from(CLIENT.parse().unwrap(), SERVER, &BY_GUARD, Duration::from_millis(10));
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
    let to = SocketAddr::new(SERVER.parse().unwrap(), 22);
    let mut session = net.client.enter(move || TcpStream::connect(to).unwrap());
    assert!(is_echoed(&mut session));
    conntrack::fill(&net.server);
    knock_on(&net, 11, &BY_GUARD);
    knockd.wait_for("192.0.2.11: ssh: OPEN SESAME");
    let from = Some([192, 0, 2, 11].into());
    assert!(!net.client.can_connect_from(from, SERVER, 22), "the table is not full");
    knock_on(&net, 11, &BY_COMMANDS);
    assert!(eventually(PATIENCE, || acts(&knockd) == ["open 192.0.2.11"]));
    assert!(is_echoed(&mut session), "who is in is cut off");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert_eq!(acts(&knockd), ["open 192.0.2.11", "close 192.0.2.11"]);
    // Not even a reload stands still before so many.
    knockd.ask(r#"{"do":"reload"}"#);
    conntrack::flush(&net.server);
    assert!(is_shut_to(&net, 11));
    knock_on(&net, 11, &BY_GUARD);
    assert!(opens_to(&net, 11), "{}", knockd.log().join("\n"));
}
