//! `knock` as a person meets it: what it prints, how it ends, what it sends.

use std::fs::OpenOptions;
use std::net::{TcpListener, UdpSocket};
use std::process::Stdio;

use snapbox::{assert_data_eq, str};

use crate::client::{Said, knock, misused};

#[test]
fn a_dry_run_prints_the_packets() {
    let said = knock(&["-n", "192.0.2.1", "7000", "8000:UDP", "9000/tcp"]);
    assert_data_eq!(
        said.out,
        str![[r#"
tcp 192.0.2.1:7000
udp 192.0.2.1:8000
tcp 192.0.2.1:9000

"#]]
    );
    assert_eq!((said.status, said.err.as_str()), (0, ""));
}

#[test]
fn an_ipv6_address_stands_in_brackets() {
    for host in ["2001:db8::1", "[2001:db8::1]"] {
        assert_eq!(knock(&["-6n", host, "7000"]).out, "tcp [2001:db8::1]:7000\n");
    }
}

#[test]
fn udp_for_all_wins_over_what_a_port_says() {
    let said = knock(&["-u", "--dry-run", "192.0.2.1", "7000", "8000:tcp"]);
    assert_eq!(said.out, "udp 192.0.2.1:7000\nudp 192.0.2.1:8000\n");
}

#[test]
fn options_may_follow_the_ports() {
    assert_eq!(knock(&["192.0.2.1", "7000", "-n", "-d", "20"]).out, "tcp 192.0.2.1:7000\n");
}

#[test]
fn knocks_are_told_one_by_one_in_the_words_of_the_classic_client() {
    let said = knock(&["-v", "-d5", "127.0.0.1", "7000", "8000:udp", "9000"]);
    assert_data_eq!(
        said.out,
        str![[r#"
hitting tcp 127.0.0.1:7000
hitting udp 127.0.0.1:8000
hitting tcp 127.0.0.1:9000

"#]]
    );
    assert_eq!((said.status, said.err.as_str()), (0, ""));
}

#[test]
fn without_verbose_it_is_silent() {
    let said = knock(&["127.0.0.1", "7000"]);
    assert_eq!((said.status, said.out.as_str(), said.err.as_str()), (0, "", ""));
}

#[test]
fn a_udp_knock_is_one_zero_byte() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    assert_eq!(knock(&["-u", "127.0.0.1", &port]).status, 0);
    let mut bytes = [9; 8];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 1);
    assert_eq!(bytes[0], 0);
}

#[test]
fn version_and_help_are_answers_and_no_errors() {
    for option in ["-V", "--version"] {
        let said = knock(&[option]);
        assert_eq!(said.out, concat!("knock ", env!("CARGO_PKG_VERSION"), "\n"));
        assert_eq!(said.status, 0);
    }
    for option in ["-h", "--help"] {
        let said = knock(&[option]);
        assert!(said.out.contains("\nUsage: knock [OPTIONS] HOST PORT[:PROTO]...\n"));
        assert_eq!((said.status, said.err.as_str()), (0, ""));
    }
}

#[test]
fn everything_wrong_with_the_ports_is_said_before_anything_is_sent() {
    assert_data_eq!(
        misused(&["-v", "127.0.0.1", "7000", "70000", "0", "7000:upd", "7000,8000", "1x"]),
        str![[r#"
knock: error: port 70000 is out of range: ports go from 1 to 65535
knock: error: port 0 is out of range: ports go from 1 to 65535
knock: error: 'upd' is not a protocol: write tcp or udp
knock: error: '7000,8000' is not one port: write the ports apart, as in 7000 8000 9000
knock: error: '1x' is not a tcp service that this machine knows: write the number of the port

"#]]
    );
}

#[test]
fn ports_without_a_host_are_no_knock_at_an_odd_address() {
    assert_data_eq!(
        misused(&["7000", "8000", "9000"]),
        str![[r#"
knock: error: '7000' is a port and not a host: write the host before the ports

"#]]
    );
    assert!(misused(&["7000/udp", "8000"]).contains("is a port and not a host"));
}

#[test]
fn a_user_before_the_host_is_a_habit_of_ssh() {
    assert_data_eq!(
        misused(&["root@192.0.2.1", "7000"]),
        str![[r#"
knock: error: 'root@192.0.2.1' has a user in it, and a knock has none: write only what follows the '@'

"#]]
    );
}

#[test]
fn without_a_host_the_usage_is_shown() {
    assert_data_eq!(
        misused(&[]),
        str![[r#"
knock: error: the following required arguments were not provided:
  <HOST>

Usage: knock [OPTIONS] HOST PORT[:PROTO]...
       knock [OPTIONS] HOST
       knock [OPTIONS] --fwknop HOST PORT[/PROTO]...
       knock [OPTIONS] --fwknoprc STANZA
       knock [OPTIONS] --proxy HOST PORT
       knock --keygen FILE
       knock import [OPTIONS] LINK|-

For more information, try '--help'.

"#]]
    );
}

#[test]
fn without_ports_and_hosts_file_it_says_where_ports_could_stand() {
    assert_data_eq!(
        misused(&["work"]),
        str![[r#"
knock: error: no ports given, and no hosts file /nonexistent/knock/hosts.yaml to look them up in: write them after the host, as in 'knock work 7000 8000 9000'

"#]]
    );
}

#[test]
fn a_delay_is_a_number_of_milliseconds_up_to_an_hour() {
    for delay in ["abc", "-1", "3600001", "1.5", "99999999999999999999999", ""] {
        assert!(
            misused(&["-d", delay, "192.0.2.1", "7000"])
                .contains("write a number of milliseconds from 0 to 3600000"),
            "{delay}"
        );
    }
}

#[test]
fn two_families_at_once_are_refused() {
    assert!(misused(&["-4", "-6", "localhost", "1"]).contains("cannot be used with"));
}

#[test]
fn an_address_of_the_other_family_is_an_error() {
    let said = knock(&["-4", "2001:db8::1", "7000"]);
    assert_data_eq!(
        said.err,
        str![[r#"
knock: error: 2001:db8::1 has no IPv4 address, only 2001:db8::1: leave out -4, or take another --source

"#]]
    );
    assert_eq!(said.status, 1);
}

#[test]
fn a_name_that_nobody_knows_is_an_error() {
    let said = knock(&["no-such-host.invalid", "7000"]);
    assert!(
        said.err.starts_with("knock: error: no-such-host.invalid: no address found: "),
        "{}",
        said.err
    );
    assert_eq!(said.status, 1);
}

#[test]
fn a_port_that_accepts_ends_the_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = knock(&["-v", "--wait", &port.to_string(), "127.0.0.1", "7000"]);
    assert_eq!(
        said.out,
        format!(
            "hitting tcp 127.0.0.1:7000\nwaiting for 127.0.0.1:{port}\n127.0.0.1:{port} is open\n"
        )
    );
    assert_eq!((said.status, said.err.as_str()), (0, ""));
}

#[test]
fn a_port_that_stays_shut_is_given_up_with_a_status_of_its_own() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let said = knock(&["-v", "--wait", &port, "--retry", "1", "127.0.0.1", "7000"]);
    assert_eq!(said.out.matches("hitting tcp 127.0.0.1:7000\n").count(), 2);
    assert_eq!(said.out.matches("is still shut, knocking again\n").count(), 1);
    assert_eq!(
        said.err,
        format!(
            "knock: error: 127.0.0.1:{port} did not accept a connection: gave up after 2 knocks\n"
        )
    );
    assert_eq!(said.status, 3);
}

#[test]
fn only_a_tcp_port_can_be_waited_for() {
    assert!(misused(&["--wait", "53/udp", "192.0.2.1", "1"]).contains("only a TCP port"));
    assert!(
        misused(&["--wait", "0", "192.0.2.1", "1"])
            .contains("'--wait <PORT>': port 0 is out of range")
    );
}

#[test]
fn retries_without_a_wait_are_refused() {
    assert!(misused(&["--retry", "2", "192.0.2.1", "1"]).contains("--retry belongs to --wait"));
    let too_many = misused(&["--wait", "1", "--retry", "1001", "192.0.2.1", "1"]);
    assert!(too_many.contains("write a number from 0 to 1000"));
}

/// Runs `knock` with its standard output going somewhere special.
fn knock_into(output: impl Into<Stdio>, arguments: &[&str]) -> Said {
    #[expect(clippy::disallowed_methods, reason = "assert_cmd cannot redirect the output")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_knock"));
    let output = command.args(arguments).stdout(output).output().unwrap();
    Said {
        out: String::new(),
        err: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap(),
    }
}

#[test]
fn a_full_disk_fails_what_only_prints_but_keeps_no_one_from_knocking() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in [&["-n", "127.0.0.1", "7000"][..], &["-h"]] {
        let said = knock_into(full(), arguments);
        assert!(
            said.err.starts_with("knock: error: cannot write to standard output: "),
            "{}",
            said.err
        );
        assert_eq!(said.status, 1);
    }
    assert_eq!(knock_into(full(), &["-v", "127.0.0.1", "7000"]).status, 0);
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    for arguments in [&["-n", "127.0.0.1", "7000"][..], &["-v", "127.0.0.1", "7000"], &["-h"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = knock_into(writer, arguments);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{arguments:?}");
    }
}

/// What leaves the machine, seen by a host whose firewall drops all of it.
#[cfg(feature = "daemon")]
mod wire {
    use std::collections::HashSet;
    use std::thread;
    use std::time::Duration;

    use libknock::proto::flags::TcpFlags;
    use libknock::wire::link::LinkType;
    use libknock::wire::{Transport, parse};
    use pcap::Capture;

    use crate::support::{CLIENT_6, Net, SERVER, SERVER_6, can_make_namespaces, has_programs};

    const KNOCK: &str = env!("CARGO_BIN_EXE_knock");
    /// The kernel sends an unanswered SYN again after one second.
    const RETRANSMISSION: Duration = Duration::from_millis(1_500);

    /// A packet that arrived: `tcp 7000 syn`, `udp 8000 [0]`, and where it came from.
    #[derive(Debug)]
    struct Arrived {
        what: String,
        source_port: u16,
        at: Duration,
    }

    fn describe(frame: &[u8], at: Duration) -> Arrived {
        let (packet, payload) = parse(LinkType::Ethernet, frame).unwrap();
        match packet.transport {
            Transport::Tcp { source_port, port, flags, .. } => {
                let flags = match flags {
                    TcpFlags::SYN => "syn".to_owned(),
                    other => format!("{other:?}"),
                };
                Arrived { what: format!("tcp {port} {flags}"), source_port, at }
            }
            Transport::Udp { source_port, port } => {
                Arrived { what: format!("udp {port} {payload:?}"), source_port, at }
            }
        }
    }

    /// Everything that reaches the server while a program runs at the client, and for long enough
    /// afterwards that a retransmission would be seen.
    fn seen(net: &Net, program: &str, arguments: &[&str]) -> Vec<Arrived> {
        let mut capture = net.server.enter(|| {
            let capture = Capture::from_device("eth0").unwrap().immediate_mode(true);
            let mut capture = capture.open().unwrap().setnonblock().unwrap();
            capture.direction(pcap::Direction::In).unwrap();
            capture.filter("tcp or udp", true).unwrap();
            capture
        });
        net.client.must(program, arguments);
        thread::sleep(RETRANSMISSION);
        let mut arrived = Vec::new();
        while let Ok(packet) = capture.next_packet() {
            let at = Duration::from_secs(packet.header.ts.tv_sec.try_into().unwrap())
                + Duration::from_micros(packet.header.ts.tv_usec.try_into().unwrap());
            arrived.push(describe(packet.data, at));
        }
        arrived
    }

    fn what(arrived: &[Arrived]) -> Vec<&str> {
        arrived.iter().map(|packet| packet.what.as_str()).collect()
    }

    /// A server that drops all that comes in.
    fn dropping() -> Net {
        let net = Net::new();
        net.server.must("iptables", &["-P", "INPUT", "DROP"]);
        // Without neighbour discovery nothing would arrive at all.
        net.server.must("ip6tables", &["-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"]);
        net.server.must("ip6tables", &["-P", "INPUT", "DROP"]);
        net
    }

    fn can_run(test: &str, programs: &[&str]) -> bool {
        can_make_namespaces(test) && has_programs(test, programs)
    }

    #[test]
    fn a_knock_is_one_packet_in_its_turn_and_is_never_sent_again() {
        if !can_run("one packet a knock", &["iptables"]) {
            return;
        }
        let net = dropping();
        for server in [SERVER, SERVER_6] {
            let arrived = seen(&net, KNOCK, &[server, "9000", "8000:udp", "7000", "8001/UDP"]);
            assert_eq!(
                what(&arrived),
                ["tcp 9000 syn", "udp 8000 [0]", "tcp 7000 syn", "udp 8001 [0]"],
                "{server}"
            );
        }
    }

    #[test]
    fn a_delay_lies_between_two_knocks() {
        if !can_run("delay", &["iptables"]) {
            return;
        }
        let net = dropping();
        for (option, least) in [(&["-d", "100"][..], 80_000), (&[], 800)] {
            let arguments = [option, &[SERVER, "7000", "8000/udp", "9000"]].concat();
            let arrived = seen(&net, KNOCK, &arguments);
            let gaps: Vec<_> = arrived.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
            // The way takes no longer for one than for the other, but for what the scheduler adds.
            assert!(gaps.len() == 2 && gaps.iter().all(|gap| gap.as_micros() > least), "{gaps:?}");
        }
    }

    #[test]
    fn every_knock_has_a_source_port_of_its_own() {
        if !can_run("source ports", &["iptables"]) {
            return;
        }
        let net = dropping();
        let ports = ["7000", "7000", "7000", "8000/udp", "8000/udp", "8000/udp"];
        let arrived = seen(&net, KNOCK, &[&[SERVER][..], &ports].concat());
        for protocol in ["tcp", "udp"] {
            let of_protocol = arrived.iter().filter(|packet| packet.what.starts_with(protocol));
            let distinct: HashSet<u16> = of_protocol.map(|packet| packet.source_port).collect();
            assert_eq!(distinct.len(), 3, "{arrived:?}");
        }
    }

    #[test]
    fn the_packets_are_those_of_the_classic_client() {
        const CLASSIC: &str = "/usr/bin/knock";
        if !can_run("classic client", &["iptables", "knock"]) {
            return;
        }
        let net = dropping();
        for arguments in [
            &[SERVER, "7000", "8000:udp", "9000:tcp", "7000"][..],
            &["-u", "-d", "5", SERVER, "7000", "8000:tcp"],
            &["-6", SERVER_6, "7000", "8000:udp"],
        ] {
            let (ours, theirs) = (seen(&net, KNOCK, arguments), seen(&net, CLASSIC, arguments));
            assert_eq!(what(&ours), what(&theirs), "{arguments:?}");
            assert!(!ours.is_empty());
        }
    }

    #[test]
    fn it_knocks_until_the_firewall_lets_it_in() {
        if !can_run("wait", &["iptables", "ip6tables"]) {
            return;
        }
        let net = Net::new();
        net.shut(22);
        let output = thread::scope(|scope| {
            let knocking =
                scope.spawn(|| net.client.run(KNOCK, &["-v", "--wait", "22", SERVER, "7000"]));
            // Long enough for the first try to have been dropped, and no harm if it has not.
            thread::sleep(Duration::from_millis(200));
            net.server.must("iptables", &["-F", "INPUT"]);
            knocking.join().unwrap()
        });
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.ends_with("192.0.2.1:22 is open\n"), "{said}");
        assert!(output.status.success());
    }

    /// What is said at the client where a knock cannot leave.
    fn complaint(net: &Net, arguments: &[&str]) -> String {
        let output = net.client.run(KNOCK, arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn a_knock_that_cannot_leave_is_named_with_the_reason() {
        if !can_run("failures", &["iptables"]) {
            return;
        }
        let net = Net::new();
        let no_route = "Network is unreachable: this machine has no route to it\n";
        for (port, packet) in [("7000", "tcp"), ("7000/udp", "udp")] {
            assert_eq!(
                complaint(&net, &["198.51.100.1", port]),
                format!(
                    "knock: error: knock 1 of 1 was not sent: {packet} 198.51.100.1:7000: {no_route}"
                )
            );
        }
        net.client.must("iptables", &["-A", "OUTPUT", "-p", "udp", "-j", "DROP"]);
        assert_eq!(
            complaint(&net, &[SERVER, "7000", "8000/udp", "9000"]),
            "knock: error: knock 2 of 3 was not sent: udp 192.0.2.1:8000: \
             Operation not permitted: this machine's own firewall refuses it\n"
        );
        net.client.must("ip", &["-6", "addr", "del", &format!("{CLIENT_6}/64"), "dev", "eth0"]);
        assert!(complaint(&net, &[SERVER_6, "7000"]).contains("knock 1 of 1 was not sent"));
    }
}

/// What somebody at a terminal is shown; carriage returns are left out.
#[expect(clippy::disallowed_methods, reason = "script makes a terminal")]
fn at_a_terminal(arguments: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_knock"));
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

#[test]
fn errors_have_colours_at_a_terminal_unless_they_are_not_wanted() {
    let plain = "knock: error: port 0 is out of range: ports go from 1 to 65535\n";
    let coloured = plain.replace("error: ", "\u{1b}[1;31merror: \u{1b}[0m");
    assert_eq!(at_a_terminal("192.0.2.1 0", &[]), coloured);
    assert_eq!(at_a_terminal("192.0.2.1 0", &[("NO_COLOR", "")]), coloured);
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        assert_eq!(at_a_terminal("192.0.2.1 0", &[variable]), plain);
    }
}

#[test]
fn whoever_waits_at_a_terminal_is_told_what_for() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let arguments = format!("--wait {port} --retry 0 127.0.0.1 7");
    let shown = at_a_terminal(&arguments, &[("NO_COLOR", "1")]);
    // Each takes the place of the one before it, and the last is erased.
    for (seconds, next) in [(1, "\u{1b}[K\u{1b}[?7lknock: waiting"), (2, "\u{1b}[K")] {
        let waiting = format!("knock: waiting for 127.0.0.1:{port} ({seconds} s)\u{1b}[?7h{next}");
        assert!(shown.contains(&waiting), "{shown:?}");
    }
    let error = format!("\u{1b}[?7h\u{1b}[Kknock: error: 127.0.0.1:{port} did");
    assert!(shown.contains(&error), "{shown:?}");
    let unable = at_a_terminal(&arguments, &[("TERM", "dumb")]);
    assert!(unable.starts_with("knock: error: "), "{unable:?}");
    // What takes no time is not worth a word.
    assert_eq!(at_a_terminal("127.0.0.1 7 9", &[]), "");
}
