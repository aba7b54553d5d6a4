//! What was imported opens the same ports for the same people, whose clients stay as they are.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::path::Path;
use std::process::Output;

use jiff::tz::TimeZone;
use libknock::ctl::import::{Files, import};

use crate::fwknop_nat::{greets, leads_to, who_is_at};
use crate::guard_fixture::beyond;
use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs};

/// Files that stand in a text.
struct Texts(&'static [(&'static str, &'static str)]);

impl Files for Texts {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        found
            .map(|(_, text)| text.as_bytes().to_vec())
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn list(&self, _: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
        Ok(Vec::new())
    }
}

/// A server with what `file` becomes, and a client of it.
fn scene(file: &str, texts: &'static [(&'static str, &'static str)]) -> (Net, Knockd) {
    let imported = import(Path::new(file), &Texts(texts), &TimeZone::UTC, &[]).unwrap();
    assert!(imported.complete, "{:?}", imported.notes);
    // What the files say for knockd itself stands below what the test says.
    let own = "  interfaces: [eth0]\n  run_dir: DIR/run\n  state_dir: DIR/state\n  user: nobody\n";
    let (before, after) =
        imported.yaml.split_once("knockd:\n").unwrap_or(("", imported.yaml.as_str()));
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &format!("{before}knockd:\n{own}{after}"));
    (net, knockd)
}

fn opens(net: &Net, port: u16) -> bool {
    eventually(PATIENCE, || net.client.can_connect(SERVER, port))
}

#[test]
fn an_imported_knockd_conf_opens_to_classic_knocks() {
    needs!("an_imported_knockd_conf_opens_to_classic_knocks", "iptables");
    const TEXT: &str = "[ssh]\nSequence = 7113:tcp, 14402:udp, 9871\nTCPFlags = syn\nCmd_Timeout = 3600\n\
                Start_Command = iptables -w -I INPUT -p tcp --dport 22 -s %IP% -j ACCEPT\n\
                Stop_Command = iptables -w -D INPUT -p tcp --dport 22 -s %IP% -j ACCEPT\n";
    let (net, _knockd) = scene("knockd.conf", &[("knockd.conf", TEXT)]);
    net.shut(22);
    assert!(!net.client.can_connect(SERVER, 22));
    net.client
        .must(env!("CARGO_BIN_EXE_knock"), &["-d", "15", SERVER, "7113", "14402:udp", "9871"]);
    assert!(opens(&net, 22));
}

const ACCESS: &str = "\
SOURCE 192.0.2.0/24
OPEN_PORTS tcp/22
REQUIRE_USERNAME alice
KEY_BASE64 YWxpY2UncyBrZXk=
HMAC_KEY it's: alice's
HMAC_DIGEST_TYPE SHA512

SOURCE ANY
OPEN_PORTS tcp/22, tcp/23
KEY bob's \"key\"
HMAC_KEY bob's #other key
ACCESS_EXPIRE 12/31/2098

SOURCE 203.0.113.0/24
OPEN_PORTS tcp/22
KEY from elsewhere
HMAC_KEY from elsewhere too

SOURCE ANY
KEY carol
HMAC_KEY carol's other key
CMD_CYCLE_OPEN /usr/bin/touch DIR/open-$SRC
CMD_CYCLE_CLOSE /usr/bin/touch DIR/closed-$SRC
CMD_CYCLE_TIMER 1
";

/// Debian's client; the keys are not told to any file.
fn fwknop(host: &Host, arguments: &[&str]) -> Output {
    let fixed = ["--no-home-dir", "--no-rc-file", "-E", "/dev/null", "-D", SERVER, "-a", CLIENT];
    let output = host.run("fwknop", &[&fixed, arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn an_imported_access_conf_opens_to_the_clients_of_fwknop() {
    needs!("an_imported_access_conf_opens_to_the_clients_of_fwknop", "nft", "fwknop", "touch");
    let (net, knockd) = scene("access.conf", &[("access.conf", ACCESS)]);
    for port in [22, 23] {
        net.server.listen(port);
    }
    let client = |arguments: &[&str]| fwknop(&net.client, arguments);
    assert!(!net.client.can_connect(SERVER, 22) && !net.client.can_connect(SERVER, 23));

    // The key of a stanza for another network.
    client(&[
        "-A",
        "tcp/22",
        "--key-rijndael",
        "from elsewhere",
        "--key-hmac",
        "from elsewhere too",
    ]);
    // Alice by another name.
    let alice = ["--key-base64-rijndael", "YWxpY2UncyBrZXk=", "--key-hmac", "it's: alice's"];
    let sha512 = ["--hmac-digest-type", "sha512"];
    client(&[&["-A", "tcp/22", "-U", "eve"], &alice[..], &sha512].concat());
    // A port that is none of hers.
    client(&[&["-A", "tcp/22,tcp/23", "-U", "alice"], &alice[..], &sha512].concat());
    client(&["-A", "tcp/99", "--key-rijndael", "carol", "--key-hmac", "carol's other key"]);
    let opened = knockd.directory.path().join(format!("open-{CLIENT}"));
    assert!(eventually(PATIENCE, || opened.exists()), "carol's command did not run");
    assert!(!net.client.can_connect(SERVER, 22) && !net.client.can_connect(SERVER, 23));
    let closed = knockd.directory.path().join(format!("closed-{CLIENT}"));
    assert!(eventually(PATIENCE, || closed.exists()), "carol's command was not undone");

    client(&[&["-A", "tcp/22", "-U", "alice"], &alice[..], &sha512].concat());
    assert!(opens(&net, 22), "alice does not get in");
    assert!(!net.client.can_connect(SERVER, 23));
    client(&["-A", "tcp/23", "--key-rijndael", "bob's \"key\"", "--key-hmac", "bob's #other key"]);
    assert!(opens(&net, 23), "bob does not get in");
}

/// A gateway that leads Dora's connections to an inner host, and one that masquerades them.
const GATEWAY: [(&str, &str); 2] = [
    (
        "access.conf",
        "SOURCE ANY\nOPEN_PORTS tcp/2222, tcp/2223\nKEY dora\nHMAC_KEY dora's other key\n\
         FORCE_NAT 198.51.100.7 2200\n",
    ),
    ("fwknopd.conf", "PCAP_FILTER udp dst portrange 62201-62210;\nENABLE_IPT_FORWARDING Y;\n"),
];
const MASQUERADING: [(&str, &str); 2] =
    [GATEWAY[0], ("fwknopd.conf", "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_SNAT Y;\n")];

/// Who asks for port 2222, in any way that fwknop's client knows.
const DORA: [&str; 6] =
    ["-A", "tcp/2222", "--key-rijndael", "dora", "--key-hmac", "dora's other key"];

#[test]
fn force_nat_leads_the_stock_client_to_the_inner_host_however_it_asks() {
    needs!("force_nat_leads_the_stock_client_to_the_inner_host_however_it_asks", "fwknop", "nft");
    for more in [&[][..], &["-f", "600"], &["-N", "198.51.100.99:80"], &["--server-port", "62207"]]
    {
        let (net, knockd) = scene("access.conf", &GATEWAY);
        let inner = beyond(&net);
        greets(&inner, 2200, "inner");
        greets(&net.server, 2222, "gateway");
        assert_eq!(who_is_at(&net.client, 2222), "gateway", "the port is locked, or led on");
        fwknop(&net.client, &[&DORA, more].concat());
        leads_to(&net.client, 2222, "inner");
        assert_eq!(who_is_at(&net.client, 2223), "", "a port that nobody asked for");
        assert_eq!(knockd.grants().len(), 1, "{:?}", knockd.grants());
    }
}

#[test]
fn what_is_masqueraded_reaches_a_host_whose_way_back_leads_elsewhere() {
    needs!("what_is_masqueraded_reaches_a_host_whose_way_back_leads_elsewhere", "fwknop", "nft");
    for (texts, reaches) in [(&GATEWAY, false), (&MASQUERADING, true)] {
        let (net, knockd) = scene("access.conf", texts);
        let inner = beyond(&net);
        greets(&inner, 2200, "inner");
        inner.must("ip", &["route", "del", "default"]);
        fwknop(&net.client, &DORA);
        knockd.wait_for("OPEN SESAME");
        assert!(eventually(PATIENCE, || !knockd.grants().is_empty()));
        if reaches {
            leads_to(&net.client, 2222, "inner");
        } else {
            assert_eq!(who_is_at(&net.client, 2222), "");
        }
    }
}
