//! The built-in templates, run against the real firewalls.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use libknock::config::load::{Options, load};
use libknock::config::{self, Family, Holes, Name};
use libknock::proto::network::Network;

use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, command, eventually, needs,
};

/// The commands of a built-in template for a source, and for 22/tcp or a range.
struct Rendered {
    open: String,
    close: String,
    verify: String,
}

impl Rendered {
    fn of(template: &str, source: &str) -> Self {
        Self::of_door("ssh", template, source)
    }

    fn of_door(door: &str, template: &str, source: &str) -> Self {
        Self::of_ports(door, "22/tcp", template, source)
    }

    fn of_ports(door: &str, ports: &str, template: &str, source: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("doors.yaml");
        let text = format!("{{sequence: [7000, 9000, 8000], open: [{ports}], via: {template}}}");
        fs::write(&path, format!("doors: {{{door}: {text}}}\n")).unwrap();
        let config = load(&path, &Options::default()).unwrap().config;
        let opening = &config.doors[0].opening;
        let name: Name = door.parse().unwrap();
        let network: Network = source.parse().unwrap();
        let holes =
            Holes { network, door: &name, client: None, port: Some(opening.ports[0]), seconds: 30 };
        let pair = opening.commands().unwrap().of(Family::of(network.address()));
        let rendered = |command: &Option<config::Command>| {
            command.as_ref().unwrap().render(&holes).to_string()
        };
        let (open, close) = (rendered(&pair.open), rendered(&pair.close));
        Self { open, close, verify: rendered(&pair.verify) }
    }
}

/// The first, the last and another port of a range, and those beside it.
const AROUND_RANGE: [u16; 5] = [59_999, 60_000, 60_500, 61_000, 61_001];

/// A server with a firewall of its own, and a client.
pub(crate) struct Firewall {
    pub(crate) net: Net,
    /// Holds the mount namespace, and what runs in it, until its standard input ends.
    keeper: Child,
    stdin: Option<ChildStdin>,
}

/// `own FILE...`: from here on the machine's files are others, that may be changed.
const OWN_FILES: &str = "mount -t tmpfs tmpfs /run
    own() { for file; do
        mkdir -p \"/run/own$file\"; rmdir \"/run/own$file\"
        cp -a \"$file\" \"/run/own$file\" && mount --bind \"/run/own$file\" \"$file\" || exit 1
    done; }\n";

/// ufw, enabled.
pub(crate) const UFW: &str = "own /etc/ufw /lib/ufw /etc/default/ufw; ufw --force enable\n";

/// firewalld, with nothing let in.
pub(crate) const FIREWALLD: &str = "own /etc/firewalld; mkdir /run/dbus
    for zone in public work; do echo '<zone></zone>' >/etc/firewalld/zones/$zone.xml; done
    dbus-daemon --system --nofork --nopidfile --nosyslog 2>/dev/null </dev/null & daemons=$!
    until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
    firewalld --nofork --nopid --log-file=/run/log >/run/said 2>&1 </dev/null & daemons=\"$daemons $!\"
    tries=0; until firewall-cmd --state >/dev/null 2>&1; do
        sleep 0.1; tries=$((tries + 1))
        [ $tries -lt 200 ] || { cat /run/said /run/log; exit 1; }
    done\n";

impl Firewall {
    /// The server listens at port 22, and at those around a range. `prepare` runs in it, in a mount namespace of its own; the
    /// processes that it names in `daemons` are killed in the end.
    pub(crate) fn new(prepare: &str) -> Self {
        let net = Net::new();
        net.server.listen(22);
        for port in AROUND_RANGE {
            net.server.listen(port);
            net.server.echo_udp(&[SERVER, SERVER_6], port);
        }
        let script = format!(
            "PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH; daemons=
             trap '[ -z \"$daemons\" ] || kill $daemons' EXIT
             {OWN_FILES}{prepare}\necho ready; read -r line"
        );
        let mut keeper = net
            .server
            .command("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said: Vec<String> = BufReader::new(keeper.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "ready")
            .collect();
        let firewall = Self { net, stdin: keeper.stdin.take(), keeper };
        assert!(firewall.is_prepared(), "{}", said.join("\n"));
        firewall
    }

    fn is_prepared(&self) -> bool {
        self.sh("true").status.success()
    }

    /// A command line that runs in its namespaces, as the same process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = command("nsenter");
        let target = self.keeper.id().to_string();
        command.args(["--target", &target, "--mount", "--net", program]);
        command
    }

    fn sh(&self, script: &str) -> Output {
        let path = "PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH";
        self.command("sh").args(["-c", &format!("{path}; {script}")]).output().unwrap()
    }

    /// Runs a script that has to succeed; gives what it prints.
    pub(crate) fn must(&self, script: &str) -> String {
        let output = self.sh(script);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{script}: {out}{err}");
        out + &err
    }

    fn says_no(&self, script: &str) -> bool {
        !self.sh(script).status.success()
    }

    fn can_connect(&self, source: &str) -> bool {
        self.net.client.can_connect(if source == CLIENT { SERVER } else { SERVER_6 }, 22)
    }

    /// Opens and closes a port and a range: verify has to know the difference, as packets do. What
    /// `list` prints has to be the same before and after.
    fn opens_and_closes(&self, template: &str, list: &str) {
        self.opens_and_closes_a_port(template, list);
        self.opens_and_closes_a_range(template, list);
    }

    fn opens_and_closes_a_port(&self, template: &str, list: &str) {
        for source in [CLIENT, CLIENT_6] {
            let Rendered { open, close, verify } = Rendered::of(template, source);
            let before = self.must(list);
            assert!(self.says_no(&verify) && !self.can_connect(source), "{source} is in already");
            self.must(&open);
            self.must(&verify);
            assert!(self.can_connect(source), "{source}: {}", self.must(list));
            self.must(&close);
            assert!(self.says_no(&verify) && !self.can_connect(source), "{source} stays in");
            assert_eq!(before, self.must(list));
        }
    }

    /// Opens and closes for a network that the client is in, and for one that it is not in.
    fn opens_and_closes_a_network(&self, template: &str, list: &str) {
        for (network, beside, client) in [
            ("192.0.2.0/24", "192.0.3.0/24", CLIENT),
            ("2001:db8::/64", "2001:db8:0:1::/64", CLIENT_6),
        ] {
            let before = self.must(list);
            let Rendered { open, close, .. } = Rendered::of(template, beside);
            self.must(&open);
            let Rendered { open: own, close: own_close, verify } = Rendered::of(template, network);
            assert!(self.says_no(&verify) && !self.can_connect(client), "{beside}");
            self.must(&own);
            self.must(&verify);
            assert!(self.can_connect(client), "{network}: {}", self.must(list));
            self.must(&own_close);
            assert!(self.says_no(&verify) && !self.can_connect(client), "{network} stays in");
            self.must(&close);
            assert_eq!(before, self.must(list));
        }
    }

    fn opens_and_closes_a_range(&self, template: &str, list: &str) {
        for (source, protocol) in
            [CLIENT, CLIENT_6].into_iter().flat_map(|it| [(it, "udp"), (it, "tcp")])
        {
            let ports = format!("60000-61000/{protocol}");
            let Rendered { open, close, verify } =
                Rendered::of_ports("ssh", &ports, template, source);
            let server = if source == CLIENT { SERVER } else { SERVER_6 };
            let client = &self.net.client;
            let passing = || {
                AROUND_RANGE.map(|port| match protocol {
                    "tcp" => client.can_connect(server, port),
                    _ => client.is_answered(server, port, Duration::from_millis(400)),
                })
            };
            let before = self.must(list);
            assert!(self.says_no(&verify), "{ports} is open for {source} already");
            self.must(&open);
            self.must(&verify);
            let expected = [false, true, true, true, false];
            assert_eq!(passing(), expected, "{template} {source} {ports}: {}", self.must(list));
            self.must(&close);
            assert!(self.says_no(&verify), "{ports} stays open for {source}");
            assert_eq!(passing(), [false; 5], "{template} {source} {ports}");
            assert_eq!(before, self.must(list));
        }
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.keeper.wait();
    }
}

const DROP_ALL: &str = "for iptables in iptables ip6tables; do
    $iptables -P INPUT DROP; $iptables -A INPUT -p ipv6-icmp -j ACCEPT; done\n";

#[test]
fn iptables_opens_and_closes() {
    needs!("iptables", "iptables", "ip6tables", "nsenter", "xtables-legacy-multi");
    for backend in ["nft", "legacy"] {
        let this =
            format!("mount --bind $(which xtables-{backend}-multi) $(which xtables-nft-multi)\n");
        let firewall = Firewall::new(&(this + DROP_ALL));
        assert!(firewall.must("iptables --version").contains(if backend == "nft" {
            "nf_tables"
        } else {
            backend
        }));
        firewall.opens_and_closes("iptables", "iptables -S; ip6tables -S");
        firewall.opens_and_closes_a_network("iptables", "iptables -S; ip6tables -S");
    }
}

#[test]
fn iptables_takes_away_the_rule_of_its_door_only() {
    needs!("iptables of others", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(DROP_ALL);
    let of_web = Rendered::of_door("web", "iptables", CLIENT);
    let of_ssh = Rendered::of("iptables", CLIENT);
    firewall.must(&format!("iptables -A INPUT -s {CLIENT} -p tcp --dport 22 -j ACCEPT"));
    firewall.must(&format!("{}; {}; {}", of_web.open, of_ssh.open, of_ssh.close));
    assert!(firewall.says_no(&of_ssh.verify));
    firewall.must(&of_web.verify);
    firewall.must(&of_web.close);
    assert!(firewall.can_connect(CLIENT), "the administrator's rule is gone");
}

#[test]
fn iptables_sees_that_its_rule_has_been_flushed() {
    needs!("iptables flushed", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(DROP_ALL);
    for (source, program) in [(CLIENT, "iptables"), (CLIENT_6, "ip6tables")] {
        let Rendered { open, verify, .. } = Rendered::of("iptables", source);
        firewall.must(&format!("{open}; {verify}; {program} -F"));
        assert!(firewall.says_no(&verify), "{source}");
    }
}

const IPSET: &str = "ipset create knockd4 hash:ip,port
    ipset create knockd6 hash:ip,port family inet6
    iptables  -I INPUT -m set --match-set knockd4 src,dst -j ACCEPT
    ip6tables -I INPUT -m set --match-set knockd6 src,dst -j ACCEPT\n";

const NFT: &str = "nft add table inet filter
    nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'
    nft add rule inet filter input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept
    nft add set inet filter knockd4 '{ type ipv4_addr . inet_proto . inet_service; flags interval; }'
    nft add set inet filter knockd6 '{ type ipv6_addr . inet_proto . inet_service; flags interval; }'
    nft insert rule inet filter input ip  saddr . meta l4proto . th dport @knockd4 accept
    nft insert rule inet filter input ip6 saddr . meta l4proto . th dport @knockd6 accept\n";

#[test]
fn ipset_opens_and_closes() {
    needs!("ipset", "ipset", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(&(DROP_ALL.to_owned() + IPSET));
    firewall.opens_and_closes("ipset", "ipset list knockd4 -o save; ipset list knockd6 -o save");
    // Also where the sets were made with comments or timeouts.
    let firewall = Firewall::new(
        &(DROP_ALL.to_owned() + &IPSET.replace("hash:ip,port", "hash:ip,port comment timeout 0")),
    );
    firewall.opens_and_closes("ipset", "ipset list knockd4 -o save; ipset list knockd6 -o save");
}

#[test]
fn nft_opens_and_closes() {
    needs!("nft", "nft", "nsenter");
    let firewall = Firewall::new(NFT);
    firewall.opens_and_closes("nft", "nft list ruleset");
}

/// Whether what the administrator has put into the set stays, and is told.
fn elements_of_others_stay(firewall: &Firewall, template: &str, elements: [&str; 2]) {
    for (source, element) in [CLIENT, CLIENT_6].into_iter().zip(elements) {
        let Rendered { open, close, verify } = Rendered::of(template, source);
        firewall.must(element);
        let said = firewall.must(&open);
        assert!(said.contains("already, and left as it is"), "{said}");
        firewall.must(&verify);
        let said = firewall.must(&close);
        assert!(said.contains("by knockd: left as it is"), "{said}");
        firewall.must(&verify);
        assert!(firewall.can_connect(source), "shut out by a knock");
    }
}

#[test]
fn ipset_leaves_the_elements_of_others_alone() {
    needs!("ipset of others", "ipset", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(&(DROP_ALL.to_owned() + IPSET));
    let add = |set: u8, source: &str| format!("ipset add knockd{set} {source},tcp:22");
    elements_of_others_stay(&firewall, "ipset", [&add(4, CLIENT), &add(6, CLIENT_6)]);
}

#[test]
fn nft_leaves_the_elements_of_others_alone() {
    needs!("nft of others", "nft", "nsenter");
    let firewall = Firewall::new(NFT);
    let add = |set: u8, source: &str| {
        format!("nft add element inet filter knockd{set} '{{ {source} . tcp . 22 }}'")
    };
    elements_of_others_stay(&firewall, "nft", [&add(4, CLIENT), &add(6, CLIENT_6)]);
}

#[test]
fn a_set_that_was_flushed_or_that_no_rule_uses_opens_nothing() {
    needs!("sets flushed", "ipset", "nft", "iptables", "ip6tables", "nsenter");
    let set = |flush: &'static str, unused: &'static str| (flush, unused);
    for (template, prepare, (flush, unused)) in [
        ("ipset", IPSET, set("ipset flush", "iptables -F; ip6tables -F")),
        (
            "nft",
            NFT,
            set(
                "nft flush set inet filter knockd4; nft flush set inet filter knockd6",
                "nft flush chain inet filter input",
            ),
        ),
    ] {
        let firewall = Firewall::new(prepare);
        for source in [CLIENT, CLIENT_6] {
            let Rendered { open, close, verify } = Rendered::of(template, source);
            firewall.must(&format!("{open}; {verify}; {flush}"));
            assert!(firewall.says_no(&verify), "{template} {source} flushed");
            firewall.must(&format!("{open}; {verify}"));
            firewall.must(flush);
            // What is gone already is closed.
            firewall.must(&close);
            firewall.must(&open);
        }
        firewall.must(unused);
        for source in [CLIENT, CLIENT_6] {
            assert!(
                firewall.says_no(&Rendered::of(template, source).verify),
                "{template} {source} unused"
            );
        }
    }
}

#[test]
fn ufw_opens_and_closes() {
    needs!("ufw", "ufw", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(UFW);
    // A denial that is there already comes after.
    firewall.must("ufw deny 22/tcp; ufw deny from 192.0.2.0/24");
    firewall.opens_and_closes("ufw", "ufw show added");
    firewall.opens_and_closes_a_network("ufw", "ufw show added");
    firewall.must(&Rendered::of("ufw", CLIENT).close);
}

#[test]
fn ufw_leaves_a_rule_of_the_administrators_alone_and_tells_of_it() {
    needs!("ufw of others", "ufw", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(UFW);
    for source in [CLIENT, CLIENT_6] {
        let own = format!("ufw allow from {source} to any port 22 proto tcp");
        firewall.must(&format!("{own} comment office"));
        let Rendered { open, close, .. } = Rendered::of("ufw", source);
        let said = firewall.must(&open);
        assert!(
            said.contains(&format!("there already, and left as it is: {own} comment 'office'")),
            "{said}"
        );
        firewall.must(&close);
        assert!(firewall.must("ufw show added").contains(&format!("{own} comment 'office'")));
        assert!(firewall.can_connect(source), "shut out by a knock");
    }
}

#[test]
fn ufw_that_is_disabled_or_flushed_is_not_open() {
    needs!("ufw disabled", "ufw", "iptables", "ip6tables", "nsenter");
    for source in [CLIENT, CLIENT_6] {
        // ufw does not come back by itself from what is done to it in the end.
        let firewall = Firewall::new(&UFW.replace("ufw --force enable", "true"));
        let Rendered { open, close, verify } = Rendered::of("ufw", source);
        let is_open = || !firewall.says_no(&verify);
        firewall.must(&open);
        assert!(!is_open(), "{source}: not enabled yet");
        firewall.must("ufw --force enable");
        assert!(is_open() && firewall.can_connect(source), "{source}: enabled");
        firewall.must("ufw reload");
        assert!(is_open(), "{source}: reloaded");
        for flush in ["-F INPUT", "-F"] {
            firewall.must(&format!("iptables {flush}; ip6tables {flush}"));
            assert!(!is_open(), "{source}: {flush}");
        }
        firewall.must("ufw disable");
        assert!(!is_open(), "{source}: disabled");
        firewall.must(&close);
        assert!(!firewall.must("ufw show added").contains("knockd"));
    }
}

#[test]
fn firewalld_opens_and_closes() {
    needs!("firewalld", "firewalld", "dbus-daemon", "nsenter");
    let firewall = Firewall::new(FIREWALLD);
    let list = "firewall-cmd --list-all-zones; firewall-cmd --list-all-policies";
    firewall.opens_and_closes("firewalld", list);
    firewall.opens_and_closes_a_network("firewalld", list);
    firewall.must(&Rendered::of("firewalld", CLIENT).close);
}

#[test]
fn firewalld_opens_whatever_the_zone_and_what_it_denies() {
    needs!("firewalld zones", "firewalld", "dbus-daemon", "nsenter");
    let firewall = Firewall::new(FIREWALLD);
    let list = "firewall-cmd --list-all-zones";
    for deny in [
        "firewall-cmd --add-rich-rule='rule family=ipv4 source address=192.0.2.0/24 drop'
         firewall-cmd --add-rich-rule='rule priority=-9 family=ipv6 source address=2001:db8::/32 reject'",
        "firewall-cmd --zone=work --change-interface=eth0",
        "firewall-cmd --zone=drop --change-interface=eth0",
        "firewall-cmd --zone=block --add-source=192.0.2.0/24; firewall-cmd --zone=block --add-source=2001:db8::/32",
    ] {
        firewall.must(deny);
        firewall.opens_and_closes_a_port("firewalld", list);
    }
}

#[test]
fn firewalld_leaves_a_rule_of_the_administrators_alone_and_tells_of_it() {
    needs!("firewalld of others", "firewalld", "dbus-daemon", "nsenter");
    let firewall = Firewall::new(FIREWALLD);
    for (source, family) in [(CLIENT, "ipv4"), (CLIENT_6, "ipv6")] {
        let rule = format!(
            "rule family=\"{family}\" source address=\"{source}\" port port=\"22\" protocol=\"tcp\" accept"
        );
        firewall.must(&format!("firewall-cmd --add-rich-rule='{rule}'"));
        let Rendered { open, close, .. } = Rendered::of("firewalld", source);
        let said = firewall.must(&open);
        assert!(
            said.contains("there already, and left as it is:") && said.contains(&rule),
            "{said}"
        );
        firewall.must(&close);
        assert!(firewall.can_connect(source), "shut out by a knock");
    }
}

#[test]
fn firewalld_that_was_reloaded_or_flushed_is_not_open() {
    needs!("firewalld reloaded", "firewalld", "dbus-daemon", "nsenter");
    let firewall = Firewall::new(FIREWALLD);
    for source in [CLIENT, CLIENT_6] {
        let Rendered { open, close, verify } = Rendered::of("firewalld", source);
        firewall.must(&format!("{open}; {verify}; firewall-cmd --reload"));
        assert!(firewall.says_no(&verify), "{source}: reloaded");
        // What is gone already is closed.
        firewall.must(&close);
    }
    let Rendered { open, verify, .. } = Rendered::of("firewalld", CLIENT);
    firewall.must(&format!("{open}; {verify}; nft flush ruleset"));
    assert!(firewall.says_no(&verify), "flushed");
    // To firewalld it is there already.
    firewall.must(&open);
    assert!(firewall.says_no(&verify), "opened without a table");
}

#[test]
fn firewalld_on_iptables_opens_too() {
    needs!("firewalld on iptables", "firewalld", "dbus-daemon", "nsenter");
    let backend =
        "sed -i s/^FirewallBackend=.*/FirewallBackend=iptables/ /etc/firewalld/firewalld.conf";
    let firewall = Firewall::new(
        &FIREWALLD.replace("mkdir /run/dbus", &format!("mkdir /run/dbus; {backend}")),
    );
    firewall.opens_and_closes("firewalld", "firewall-cmd --list-all-policies");
}

/// Two doors to one port, by a template.
fn knockd(firewall: &Firewall, template: &str) -> Knockd {
    let door = |name: &str, sequence: &str| {
        format!("  {name}: {{sequence: {sequence}, open: [22], via: {template}, open_for: 8h}}\n")
    };
    let settings = "{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}";
    let doors = door("ssh", "[7000, 8000, 9000]") + &door("admin", "[7100, 9100, 8100]");
    let program = firewall.command(env!("CARGO_BIN_EXE_knockd"));
    Knockd::start_by(program, &format!("knockd: {settings}\ndoors:\n{doors}"))
}

fn knock(firewall: &Firewall, sequence: [&str; 3]) {
    let from = CLIENT.parse().unwrap();
    firewall.net.client.knock_from(from, SERVER, &sequence, Duration::from_millis(10));
}

const SSH: [&str; 3] = ["7000", "8000", "9000"];
const ADMIN: [&str; 3] = ["7100", "9100", "8100"];

fn is_open_soon(firewall: &Firewall) -> bool {
    eventually(PATIENCE, || firewall.can_connect(CLIENT))
}

fn opens_again_after(template: &str, prepare: &str, flush: &str) {
    let firewall = Firewall::new(prepare);
    let knockd = knockd(&firewall, template);
    let state = || knockd.grants().first().map(|grant| grant["state"].clone());
    knock(&firewall, SSH);
    assert!(eventually(PATIENCE, || state() == Some("open".into())), "{template}");
    assert!(firewall.can_connect(CLIENT), "{template}");
    firewall.must(flush);
    assert!(!firewall.can_connect(CLIENT), "{flush}");
    assert_eq!(state(), Some("gone".into()), "{template}");
    knock(&firewall, SSH);
    knockd.wait_for("192.0.2.2: ssh: opened again, since it was gone");
    assert!(firewall.can_connect(CLIENT), "{template}");
    assert_eq!(state(), Some("open".into()), "{template}");
    knock(&firewall, SSH);
    knockd.wait_for("192.0.2.2: ssh: open already");
}

#[test]
fn a_knock_opens_again_what_somebody_has_flushed() {
    needs!("flushed", "iptables", "ip6tables", "ipset", "nft", "nsenter");
    opens_again_after("iptables", DROP_ALL, "iptables -F");
    opens_again_after("ipset", &(DROP_ALL.to_owned() + IPSET), "ipset flush knockd4");
    opens_again_after("nft", NFT, "nft flush set inet filter knockd4");
}

#[test]
fn a_knock_opens_again_what_a_reload_of_firewalld_has_lost() {
    needs!("firewalld lost", "firewalld", "dbus-daemon", "nsenter");
    opens_again_after("firewalld", FIREWALLD, "firewall-cmd --reload");
}

#[test]
fn a_door_does_not_open_by_ufw_that_is_disabled() {
    needs!("ufw knocked", "ufw", "iptables", "ip6tables", "nsenter");
    let firewall = Firewall::new(&UFW.replace("ufw --force enable", DROP_ALL));
    let knockd = knockd(&firewall, "ufw");
    knock(&firewall, SSH);
    knockd.wait_for("192.0.2.2: ssh: not opened");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(!firewall.must("ufw show added").contains("knockd"));
    assert!(!firewall.can_connect(CLIENT));
    firewall.must("iptables -F; ip6tables -F; ufw --force enable");
    knock(&firewall, SSH);
    assert!(is_open_soon(&firewall));
}

/// Whether two doors that open the same share what opens it, and leave a rule of the administrator's
/// alone.
fn are_shared(template: &str, prepare: &str, of_administrator: &str) {
    let firewall = Firewall::new(prepare);
    let knockd = knockd(&firewall, template);
    let close = |door: &str| {
        let request = format!(r#"{{"do":"close","door":"{door}","address":"{CLIENT}"}}"#);
        knockd.ask(&request);
        let is_of_door = |grant: &serde_json::Value| grant["door"] == door;
        assert!(eventually(PATIENCE, || !knockd.grants().iter().any(is_of_door)));
    };
    for [first, second] in [["ssh", "admin"], ["admin", "ssh"]] {
        knock(&firewall, SSH);
        knock(&firewall, ADMIN);
        let are_open = || knockd.grants().iter().filter(|grant| grant["state"] == "open").count();
        assert!(eventually(PATIENCE, || are_open() == 2), "{template}");
        close(first);
        assert!(firewall.can_connect(CLIENT), "{template}: {first} has shut {second}");
        close(second);
        assert!(!firewall.can_connect(CLIENT), "{template}: {second} stays open");
    }
    firewall.must(of_administrator);
    knock(&firewall, SSH);
    knockd.wait_for("already, and left as it is");
    close("ssh");
    assert!(firewall.can_connect(CLIENT), "{template}: shut out by a knock");
}

#[test]
fn doors_that_open_the_same_by_a_set_share_it() {
    needs!("shared sets", "ipset", "nft", "iptables", "ip6tables", "nsenter");
    let ipset = DROP_ALL.to_owned() + IPSET;
    are_shared("ipset", &ipset, &format!("ipset add knockd4 {CLIENT},tcp:22"));
    let element = format!("nft add element inet filter knockd4 '{{ {CLIENT} . tcp . 22 }}'");
    are_shared("nft", NFT, &element);
}

#[test]
fn doors_that_open_the_same_by_ufw_share_it() {
    needs!("shared ufw", "ufw", "iptables", "ip6tables", "nsenter");
    are_shared("ufw", UFW, &format!("ufw allow from {CLIENT} to any port 22 proto tcp"));
}

#[test]
fn doors_that_open_the_same_by_firewalld_share_it() {
    needs!("shared firewalld", "firewalld", "dbus-daemon", "nsenter");
    let rule = format!("rule family=ipv4 source address={CLIENT} port port=22 protocol=tcp accept");
    are_shared("firewalld", FIREWALLD, &format!("firewall-cmd --add-rich-rule='{rule}'"));
}

#[test]
fn check_warns_of_a_template_whose_program_is_not_there() {
    needs!("missing programs", "unshare");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    for (template, program) in [
        ("iptables", "iptables"),
        ("ipset", "ipset"),
        ("nft", "nft"),
        ("ufw", "ufw"),
        ("firewalld", "firewall-cmd"),
    ] {
        let door = format!("{{sequence: [7000, 9000, 8000], open: [22], via: {template}}}");
        fs::write(&path, format!("doors: {{ssh: {door}}}\n")).unwrap();
        let script = format!(
            "for there in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
                 mount -t tmpfs tmpfs $there || exit 9
             done
             exec {} -c {} check 2>&1",
            env!("CARGO_BIN_EXE_knockctl"),
            path.display()
        );
        let output = crate::support::run("unshare", &["--mount", "/bin/sh", "-c", &script]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains(&format!("there is no program '{program}' on this machine")),
            "{said}"
        );
    }
}

#[test]
fn check_prints_once_what_both_families_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    let door = "doors: {ssh: {sequence: [7000, 9000, 8000], open: [22], via: ufw}}\n";
    fs::write(&path, door).unwrap();
    let path = path.display().to_string();
    let output = crate::support::run(env!("CARGO_BIN_EXE_knockctl"), &["-c", &path, "check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("runs ufw prepend").count(), 1, "{said}");
}
