//! `knock` where it chooses its way: interface, address, families, connections, a list.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;

use snapbox::{assert_data_eq, str};

use crate::client::{Said, configuration, knock, knock_in, misused};

#[test]
fn an_interface_that_is_not_there_is_named() {
    for said in [
        knock(&["--interface", "eth99", "192.0.2.1", "7000"]),
        knock(&["--interface", "eth99", "-u", "192.0.2.1", "7000"]),
    ] {
        let end = "No such device: this machine has no such interface: see 'ip link'\n";
        assert!(said.err.starts_with("knock: error: knock 1 of 1 was not sent: "), "{}", said.err);
        assert!(said.err.ends_with(end), "{}", said.err);
        assert_eq!(said.status, 1);
    }
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    let hosts = configuration("hosts: {gw: {host: 127.0.0.1, ports: [7000], source: 192.0.2.77}}");
    for said in [
        knock(&["--source", "192.0.2.77", "127.0.0.1", "7000"]),
        knock(&["--source", "192.0.2.77", "127.0.0.1", "7000/udp"]),
        knock_in(hosts.path(), &["gw"]),
    ] {
        let end = "this machine has no such address, or no port, to send from\n";
        assert!(said.err.ends_with(end), "{}", said.err);
        assert_eq!(said.status, 1);
    }
}

#[test]
fn knocks_and_the_connection_come_from_the_address_that_was_chosen() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |it: std::io::Result<std::net::SocketAddr>| it.unwrap().port().to_string();
    let (knocked, waited) = (port(udp.local_addr()), port(tcp.local_addr()));
    let arguments = ["--source", "127.0.0.9", "--wait", &waited, "127.0.0.1"];
    let said = knock(&[&arguments[..], &[&format!("{knocked}/udp")]].concat());
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    assert_eq!(udp.recv_from(&mut [0; 9]).unwrap().1.ip().to_string(), "127.0.0.9");
    assert_eq!(tcp.accept().unwrap().1.ip().to_string(), "127.0.0.9");
}

#[test]
fn an_address_decides_the_family_and_contradicts_the_other() {
    let said = knock(&["-n", "--source", "::1", "127.0.0.1", "7000"]);
    assert_data_eq!(
        said.err,
        str![[r#"
knock: error: 127.0.0.1 has no IPv6 address, only 127.0.0.1: leave out -6, or take another --source

"#]]
    );
    assert_eq!(
        misused(&["-4", "--source", "::1", "127.0.0.1", "7000"]),
        "knock: error: --ipv4 and --source do not go together: the address decides it\n"
    );
    let hosts = configuration("hosts: {gw: {host: 127.0.0.1, ports: [9], source: 127.0.0.2}}");
    assert_eq!(
        knock_in(hosts.path(), &["-6", "gw"]).err,
        "knock: error: --ipv6 has no meaning beside 'source' in the hosts file: \
         the address decides it\n"
    );
}

#[test]
fn a_host_of_one_family_is_knocked_at_over_that_one() {
    let said = knock(&["-nv", "--both", "127.0.0.1", "7000"]);
    let told = "127.0.0.1 has no address of the other family\n";
    assert_eq!(said.out, format!("{told}tcp 127.0.0.1:7000\n"));
}

#[test]
fn ways_that_contradict_each_other_say_which_to_leave_out() {
    let list = list(" 7000,8000\n");
    let list = list.path().to_str().unwrap();
    for (arguments, error) in [
        (
            &["--both", "--source", "::1", "h", "7000"][..],
            "--both and --source do not go together: an address is of one family",
        ),
        (
            &["--both", "--one-time", list, "h"],
            "--both and --one-time do not go together: a line opens once",
        ),
        (
            &["-u", "--connect", "h", "7000"],
            "--udp and --connect do not go together: only a TCP port can be connected to",
        ),
        (&["--one-time", list, "h", "7000"], "--one-time says itself what to send: leave out 7000"),
        (&["--both", "--totp", "h"], "--both belongs to ports and --spa: leave it out"),
        (&["--connect", "--spa", "h"], "--connect belongs to ports and --totp: leave it out"),
    ] {
        assert_eq!(misused(arguments), format!("knock: error: {error}\n"));
    }
    let hosts = configuration("hosts: {gw: {host: 127.0.0.1, ports: [9], source: 127.0.0.2}}");
    assert_eq!(
        knock_in(hosts.path(), &["--both", "gw"]).err,
        "knock: error: --both has no meaning beside 'source' in the hosts file: \
         an address is of one family\n"
    );
}

#[test]
fn a_knock_by_connection_is_accepted_or_refused_and_leaves_no_reset() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let shut = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let port = open.local_addr().unwrap().port().to_string();
    let said = knock(&["--connect", "127.0.0.1", &shut, &port, &shut]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let (mut connection, _) = open.accept().unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
}

/// A list of one-time sequences that is its owner's alone.
fn list(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn text(list: &tempfile::NamedTempFile) -> String {
    fs::read_to_string(list.path()).unwrap()
}

fn knock_line(options: &[&str], list: &tempfile::NamedTempFile) -> Said {
    let arguments = [options, &["--one-time", list.path().to_str().unwrap(), "127.0.0.1"]].concat();
    knock(&arguments)
}

#[test]
fn the_first_line_that_is_left_is_knocked_and_struck_out_in_place() {
    let list = list("# mine\r\n#1,2\r\n 7000,8000:udp,9000\r\n7100,8100\r\n");
    let before = fs::metadata(list.path()).unwrap();
    assert_eq!(
        knock_line(&["-v"], &list).out,
        "hitting tcp 127.0.0.1:7000\nhitting udp 127.0.0.1:8000\nhitting tcp 127.0.0.1:9000\n"
    );
    assert_eq!(text(&list), "# mine\r\n#1,2\r\n#7000,8000:udp,9000\r\n7100,8100\r\n");
    assert_eq!(knock_line(&["-v"], &list).status, 0);
    assert_eq!(text(&list), "# mine\r\n#1,2\r\n#7000,8000:udp,9000\r\n#100,8100\r\n");
    let after = fs::metadata(list.path()).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
}

#[test]
fn a_dry_run_strikes_nothing_out() {
    let list = list(" 7000,8000\n");
    assert_eq!(knock_line(&["-n"], &list).out, "tcp 127.0.0.1:7000\ntcp 127.0.0.1:8000\n");
    assert_eq!(text(&list), " 7000,8000\n");
}

#[test]
fn a_host_without_an_address_costs_no_line() {
    let list = list(" 7000,8000\n");
    let said = knock(&["--one-time", list.path().to_str().unwrap(), "no.such.host.invalid"]);
    assert_eq!(said.status, 1, "{}", said.err);
    assert_eq!(text(&list), " 7000,8000\n");
}

#[test]
fn a_line_that_opened_nothing_is_knocked_again_and_the_error_says_how_to_take_it_back() {
    let list = list(" 7000,8000\n 7100\n");
    let shut = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let said = knock_line(&["-v", "--retry", "1", "--wait", &shut], &list);
    assert_eq!(said.out.matches("hitting tcp 127.0.0.1:8000\n").count(), 2, "{}", said.out);
    let advice = format!(
        "if the server's list still has line 1, write it in {} as it was\n",
        list.path().display()
    );
    assert!(said.err.ends_with(&advice), "{}", said.err);
    assert_eq!((said.status, text(&list).as_str()), (3, "#7000,8000\n 7100\n"));
}

#[test]
fn a_list_of_which_no_line_can_be_used_is_an_error_and_nothing_is_sent() {
    let shown = |list: &tempfile::NamedTempFile| {
        let said = knock_line(&["-v"], list);
        assert_eq!((said.status, said.out.as_str()), (1, ""));
        said.err.replace(&list.path().display().to_string(), "LIST")
    };
    assert_data_eq!(
        shown(&list("#1,2\n")),
        str![[r#"
knock: error: LIST: no line is left: make a new list with 'knockctl one-time', for the server too

"#]]
    );
    assert_data_eq!(
        shown(&list("sesame\n")),
        str![[r#"
knock: error: LIST: line 1: this is not a port: write numbers with commas between them, such as 7000,8000:udp

"#]]
    );
    let open = list("7000,8000\n");
    fs::set_permissions(open.path(), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(shown(&open), "knock: error: LIST can be read by others: chmod 600 LIST\n");
}

#[test]
fn of_many_that_knock_at_once_each_has_a_line_of_its_own() {
    let lines: String = (0..8).map(|number| format!(" {},9\n", 7000 + number)).collect();
    let list = list(&lines);
    let mut first: Vec<String> = thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| knock_line(&["-v"], &list).out)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 8, "{first:?}");
    assert_eq!(text(&list), lines.replace(' ', "#"));
}

#[test]
fn the_hosts_file_names_a_list_from_where_it_is_itself() {
    let hosts = configuration(
        "hosts:\n  gw: {host: 127.0.0.1, one_time: gw.list}\n\
         \x20 plain: {host: 127.0.0.2, ports: [9]}\n",
    );
    let list: PathBuf = hosts.path().join("knock/gw.list");
    fs::write(&list, "7000\n").unwrap();
    fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(knock_in(hosts.path(), &["-n", "gw"]).out, "tcp 127.0.0.1:7000\n");
    // On the command line it takes the place of an entry's ports.
    let said = knock_in(hosts.path(), &["-n", "--one-time", list.to_str().unwrap(), "plain"]);
    assert_eq!(said.out, "tcp 127.0.0.2:7000\n");
}
