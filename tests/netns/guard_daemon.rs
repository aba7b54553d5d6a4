//! Doors that the guard keeps shut: real packets, a real kernel, and a daemon that dies.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs,
};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];
const SOON: Duration = Duration::from_millis(10);

fn configuration(settings: &str, door: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody{settings}}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], open: [22]{door}}}\n"
    )
}

fn knock(net: &Net, from: &str, to: &str) {
    net.client.knock_from(from.parse::<IpAddr>().unwrap(), to, &SEQUENCE, SOON);
}

fn opens(net: &Net, to: &str) -> bool {
    eventually(PATIENCE, || net.client.can_connect(to, 22))
}

fn closes(net: &Net, to: &str) -> bool {
    eventually(PATIENCE, || !net.client.can_connect(to, 22))
}

#[test]
fn a_guarded_port_is_shut_opens_for_who_knocked_and_closes_by_itself() {
    needs!("guard", "nft");
    let net = Net::new();
    net.server.listen(22);
    assert!(net.client.can_connect(SERVER, 22), "nothing locks the port before knockd runs");
    let knockd = Knockd::start(&net.server, &configuration("", ", open_for: 2s"));
    for (from, to) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        assert!(!net.client.can_connect(to, 22), "{to} is not locked");
        knock(&net, from, to);
        assert!(opens(&net, to), "{to} did not open");
        knockd.wait_for(&format!("{from}: ssh: command timeout"));
        assert!(closes(&net, to), "{to} stays open");
    }
}

#[test]
fn a_knock_while_the_table_is_gone_brings_it_back_and_opens() {
    needs!("knock in the gap", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("", ""));
    // More often than it is restored at once.
    for _ in 0..20 {
        net.server.run("nft", &["delete", "table", "inet", "knockd"]);
        thread::sleep(Duration::from_millis(60));
    }
    knock(&net, CLIENT, SERVER);
    knockd.wait_for("OPEN SESAME");
    assert_eq!(knockd.count("not opened"), 0);
    let open = "192.0.2.2 . tcp . 22";
    assert!(net.server.must("nft", &["list", "set", "inet", "knockd", "open_4"]).contains(open));
}

#[test]
fn what_could_not_be_restored_is_tried_again() {
    needs!("restore again", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("", ""));
    // A table that belongs to a process, which nobody else may change while that lives.
    let mut owner = net.server.command("nft");
    let mut owner = owner.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let takes = b"delete table inet knockd; add table inet knockd { flags owner; }\n";
    owner.stdin.as_mut().unwrap().write_all(takes).unwrap();
    knockd.wait_for("no permission to change the firewall");
    assert!(net.client.can_connect(SERVER, 22));
    drop(owner.stdin.take());
    owner.wait().unwrap();
    assert!(closes(&net, SERVER));
}

#[test]
fn a_grant_ends_in_time_though_both_processes_are_dead() {
    needs!("killed", "nft");
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::start(&net.server, &configuration("", ", open_for: 2s"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    assert!(closes(&net, SERVER), "the port stays open");
}

#[test]
fn a_grant_outlives_a_restart_and_ends_at_its_own_time() {
    needs!("restart", "nft");
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::start(&net.server, &configuration("", ", open_for: 4s"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let again = knockd.start_again(&net.server);
    again.wait_for("192.0.2.2: ssh: still open from before");
    again.wait_for("starting up");
    assert!(net.client.can_connect(SERVER, 22), "the restart closed the port");
    again.wait_for("192.0.2.2: ssh: command timeout");
    assert!(closes(&net, SERVER));
}

#[test]
fn stopping_leaves_the_ports_locked_or_takes_the_guard_away() {
    needs!("on_exit", "nft");
    let net = Net::new();
    net.server.listen(22);
    for (on_exit, is_open) in [("", false), (", on_exit: keep", false), (", on_exit: remove", true)]
    {
        let knockd = Knockd::start(&net.server, &configuration(on_exit, ""));
        let (status, log) = knockd.stop();
        assert_eq!(status.code(), Some(0), "{}", log.join("\n"));
        assert_eq!(net.client.can_connect(SERVER, 22), is_open, "{on_exit}");
    }
}

#[test]
fn a_flushed_ruleset_is_restored_with_its_grants() {
    needs!("flush", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("", ", open_for: 1h"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    for round in 1..=3 {
        net.server.must("nft", &["flush", "ruleset"]);
        knockd.wait_for_count("deleted the guard's table 'inet knockd': it is restored", round);
        assert!(net.client.can_connect(SERVER, 22), "the grant is gone");
        net.client.run("ip", &["addr", "add", "192.0.2.77/24", "dev", "eth0"]);
        let stranger = "192.0.2.77".parse().unwrap();
        assert!(!net.client.can_connect_from(Some(stranger), SERVER, 22), "the lock is gone");
    }
}

#[test]
fn a_reload_locks_what_is_new_and_closes_what_is_no_more() {
    needs!("reload guard", "nft");
    let net = Net::new();
    net.server.listen(22);
    net.server.listen(80);
    let knockd = Knockd::start(&net.server, &configuration("", ", open_for: 1h"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    assert!(net.client.can_connect(SERVER, 80));
    let both =
        configuration("", ", open_for: 1h") + "  web: {sequence: [7100, 8100, 9100], open: [80]}\n";
    knockd.configure(&both);
    knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || !net.client.can_connect(SERVER, 80)), "80 is not locked");
    assert!(net.client.can_connect(SERVER, 22), "the reload lost a grant");
    knockd.configure(&both.replace("  ssh:", "  other:"));
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("192.0.2.2: ssh: closed, since the door is no more");
    assert!(closes(&net, SERVER), "22 stays open");
}

#[test]
fn a_trusted_network_needs_no_knock() {
    needs!("trusted", "nft");
    let net = Net::new();
    net.server.listen(22);
    let _knockd = Knockd::start(&net.server, &configuration(", trusted: [192.0.2.0/24]", ""));
    assert!(net.client.can_connect(SERVER, 22));
    assert!(!net.client.can_connect(SERVER_6, 22));
}

/// A firewall that lets in to port 22 whoever is in a set of its own.
fn lock_by_set(net: &Net) {
    for line in [
        "add table inet filter",
        "add set inet filter ssh4 { type ipv4_addr; flags timeout; }",
        "add chain inet filter input { type filter hook input priority 0; policy accept; }",
        "add rule inet filter input tcp dport 22 ip saddr != @ssh4 drop",
    ] {
        net.server.must("nft", &[line]);
    }
}

#[test]
fn an_address_that_is_in_a_set_permanently_stays_so_after_its_grant() {
    needs!("permanent element", "nft");
    let net = Net::new();
    net.server.listen(22);
    lock_by_set(&net);
    net.server.must("nft", &[&format!("add element inet filter ssh4 {{ {CLIENT} }}")]);
    let door = ", open_for: 1s, via: {nft_set: {table: inet filter, set4: ssh4}}";
    let knockd = Knockd::start(&net.server, &configuration("", door));
    knock(&net, CLIENT, SERVER);
    knockd.wait_for("in the set 'inet filter ssh4' already, permanently: left as it is");
    knockd.wait_for("192.0.2.2: ssh: stays in the set 'inet filter ssh4'");
    assert!(net.client.can_connect(SERVER, 22), "shut out by a knock");
    // Made permanent in the middle of a grant.
    net.server.must("nft", &["flush", "set", "inet", "filter", "ssh4"]);
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    net.server.must("nft", &[&format!("add element inet filter ssh4 {{ {CLIENT} }}")]);
    knockd.wait_for_count("192.0.2.2: ssh: stays in the set 'inet filter ssh4'", 2);
    assert!(net.client.can_connect(SERVER, 22), "shut out by the end of a grant");
}

#[test]
fn a_set_that_was_flushed_is_not_called_open_and_the_next_knock_opens_again() {
    needs!("flushed set", "nft");
    let net = Net::new();
    net.server.listen(22);
    lock_by_set(&net);
    let door = ", open_for: 8h, via: {nft_set: {table: inet filter, set4: ssh4}}";
    let knockd = Knockd::start(&net.server, &configuration("", door));
    let state = || knockd.grants()[0]["state"].clone();
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    assert_eq!(state(), "open");
    net.server.must("nft", &["flush", "set", "inet", "filter", "ssh4"]);
    assert!(!net.client.can_connect(SERVER, 22));
    assert_eq!(state(), "gone");
    knock(&net, CLIENT, SERVER);
    knockd.wait_for("opened again, since it was gone");
    assert!(net.client.can_connect(SERVER, 22));
    assert_eq!(state(), "open");
    net.server.must("nft", &["delete", "table", "inet", "filter"]);
    assert_eq!(state(), "gone");
    knock(&net, CLIENT, SERVER);
    knockd.wait_for("cannot be extended: there is no table 'inet filter'");
    assert_eq!(knockd.count("open already"), 0);
}

#[test]
fn an_address_that_somebody_takes_out_of_the_guard_is_put_back() {
    needs!("taken out of the guard", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("", ", open_for: 8h"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    let element = format!("delete element inet knockd open_4 {{ {CLIENT} . tcp . 22 }}");
    net.server.must("nft", &[&element]);
    knockd.wait_for("somebody changed the guard's table 'inet knockd': it is restored");
    assert!(net.client.can_connect(SERVER, 22));
    assert_eq!(knockd.grants()[0]["state"], "open");
}

#[test]
fn a_door_on_a_set_that_is_no_more_lets_nobody_in() {
    needs!("set no more", "nft");
    let net = Net::new();
    net.server.listen(22);
    lock_by_set(&net);
    let door = ", open_for: 1h, via: {nft_set: {table: inet filter, set4: ssh4}}";
    let knockd = Knockd::start(&net.server, &configuration("", door));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    knockd.configure(&configuration("", "").replace("[22]", "[25]"));
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("192.0.2.2: ssh: closed, since the door is no more");
    assert!(closes(&net, SERVER), "22 stays open");
}

#[test]
fn of_two_doors_on_one_set_the_address_stays_in_until_both_have_closed() {
    needs!("shared set", "nft");
    let net = Net::new();
    net.server.listen(22);
    lock_by_set(&net);
    let via = "via: {nft_set: {table: inet filter, set4: ssh4}}";
    let other = format!("  web: {{sequence: [7100, 8100, 9100], open: [80], {via}}}\n");
    let doors = configuration("", &format!(", open_for: 1h, {via}")) + &other;
    let mut knockd = Knockd::start(&net.server, &doors);
    let by_hand = |knockd: &Knockd, what: &str, door: &str, seconds: &str| {
        let request = format!(r#"{{"do":"{what}","door":"{door}","address":"{CLIENT}"{seconds}}}"#);
        assert_ne!(knockd.ask(&request)[0]["reply"], "failed", "{request}");
    };
    for [first, second] in [["ssh", "web"], ["web", "ssh"]] {
        by_hand(&knockd, "open", "ssh", "");
        by_hand(&knockd, "open", "web", "");
        by_hand(&knockd, "close", first, "");
        assert!(net.client.can_connect(SERVER, 22), "{first} has shut {second}");
        by_hand(&knockd, "close", second, "");
        assert!(!net.client.can_connect(SERVER, 22), "{first} and {second} are closed");
    }
    by_hand(&knockd, "open", "ssh", "");
    by_hand(&knockd, "open", "web", "");
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up");
    let left = |door: &str| {
        let grants = knockd.grants();
        let of_door = grants.iter().find(|grant| grant["door"] == door).expect("two grants");
        of_door["seconds_left"].as_f64().unwrap()
    };
    assert!(left("ssh") > 3000.0 && left("web") < 31.0, "{:?}", knockd.grants());
}

#[test]
fn a_set_of_the_administrators_takes_the_grants() {
    needs!("nft_set", "nft");
    let net = Net::new();
    net.server.listen(22);
    let door = ", open_for: 2s, via: {nft_set: {table: inet filter, set4: ssh4}}";
    let mut refused = Knockd::spawn(&net.server, &configuration("", door), &[]);
    assert_eq!(refused.ended().code(), Some(1));
    assert!(refused.log().join("\n").contains("type ipv4_addr; flags timeout;"));
    lock_by_set(&net);
    let knockd = Knockd::start(&net.server, &configuration("", door));
    assert!(!net.client.can_connect(SERVER, 22));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    knockd.wait_for("192.0.2.2: ssh: command timeout");
    assert!(closes(&net, SERVER));
    knock(&net, CLIENT_6, SERVER_6);
    knockd.wait_for("2001:db8::2: ssh: not opened");
}

#[test]
fn a_trial_that_nobody_confirms_unlocks_the_ports() {
    needs!("trial", "nft");
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::spawn(&net.server, &configuration("", ""), &["--try", "3s"]);
    knockd.wait_for("starting up");
    assert!(!net.client.can_connect(SERVER, 22));
    knockd.wait_for("nobody has confirmed the configuration on trial");
    assert_eq!(knockd.ended().code(), Some(0));
    assert!(net.client.can_connect(SERVER, 22), "the port stays locked");
}

#[test]
fn a_trial_ends_though_knockd_has_died() {
    needs!("trial killed", "nft");
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::spawn(&net.server, &configuration("", ""), &["--try", "3s"]);
    knockd.wait_for("starting up");
    assert!(!net.client.can_connect(SERVER, 22));
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    assert!(opens(&net, SERVER), "the port stays locked");
}

#[test]
fn two_knockds_on_one_state_directory_are_one_too_many() {
    needs!("two", "nft");
    let net = Net::new();
    let first = Knockd::start(&net.server, &configuration("", ""));
    let config = first.config.with_file_name("second.yaml");
    let text = std::fs::read_to_string(&first.config).unwrap();
    std::fs::write(&config, text.replace("/run,", "/run2,")).unwrap();
    let second =
        net.server.run(env!("CARGO_BIN_EXE_knockd"), &["-c", &config.display().to_string()]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&first.pid().to_string()), "{said}");
}

#[test]
fn a_door_tells_who_wants_to_know_and_waits_for_nobody() {
    needs!("on_open", "nft");
    let net = Net::new();
    net.server.listen(22);
    let door = ", open_for: 1s, on_open: \"sleep 5; echo %IP% >> DIR/told\", \
                on_close: echo %DOOR% >> DIR/closed";
    let knockd = Knockd::start(&net.server, &configuration("", door));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    let file = |name: &str| {
        std::fs::read_to_string(knockd.directory.path().join(name)).unwrap_or_default()
    };
    knockd.wait_for("command timeout");
    assert!(eventually(PATIENCE, || file("closed") == "ssh\n"));
    assert!(eventually(PATIENCE, || file("told") == format!("{CLIENT}\n")));
}

#[test]
fn a_connection_goes_on_after_its_grant_has_ended() {
    needs!("established", "nft");
    let net = Net::new();
    net.server.enter(|| {
        let listener = TcpListener::bind((SERVER, 22)).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
    });
    let knockd = Knockd::start(&net.server, &configuration("", ", open_for: 2s"));
    knock(&net, CLIENT, SERVER);
    assert!(opens(&net, SERVER));
    let mut stream = net.client.enter(|| TcpStream::connect((SERVER, 22)).unwrap());
    knockd.wait_for("192.0.2.2: ssh: command timeout");
    assert!(closes(&net, SERVER));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
}

#[test]
fn a_guarded_udp_port_answers_who_knocked_and_only_in_time() {
    needs!("udp", "nft");
    let net = Net::new();
    net.server.enter(|| {
        let socket = UdpSocket::bind((SERVER, 51820)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    });
    // Each time from another port: what has been answered once is a connection, and goes on.
    let is_answered = || {
        net.client.enter(|| {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket.send_to(b"?", (SERVER, 51820)).unwrap();
            socket.recv_from(&mut [0; 10]).is_ok()
        })
    };
    assert!(is_answered(), "nothing locks the port before knockd runs");
    let door = configuration("", ", open_for: 2s").replace("[22]", "[51820/udp]");
    let knockd = Knockd::start(&net.server, &door);
    assert!(!is_answered(), "it is not locked");
    knock(&net, CLIENT, SERVER);
    assert!(eventually(PATIENCE, is_answered), "it did not open");
    knockd.wait_for("192.0.2.2: ssh: command timeout");
    assert!(eventually(PATIENCE, || !is_answered()), "it stays open");
}
