//! Requests of clients with fwknop keys, and what they come to.

use proptest::prelude::*;

use super::*;
use crate::config::{self, Forward};
use crate::engine::spa::{ServerKey, SpaServer};
use crate::engine::{Engine, Local, Verdict};
use crate::proto::fwknop::{
    CipherMode, FwknopKey, FwknopRequest, Hash, HmacKey, MAX_TIMEOUT, NatAccess, Random, seal,
};
use crate::time::Monotonic;

const CLOCK: u64 = 1_795_331_989;
const SOURCE: &str = "192.0.2.2";
const HOST: &str = "198.51.100.1";

fn at(seconds: u64) -> Now {
    let since = Duration::from_secs(seconds);
    Now { monotonic: Monotonic::ZERO + since, wall: Wall::ZERO + since }
}

fn door(name: &str, opens: &[&str]) -> Recognition {
    Recognition {
        fwknop: true,
        opens: opens.iter().map(|port| port.parse().unwrap()).collect(),
        ..Recognition::new(name.parse().unwrap())
    }
}

fn key(text: &str) -> FwknopKey {
    FwknopKey::new(text.into()).unwrap()
}

fn hmac(text: &str) -> Option<(HmacKey, Hash)> {
    Some((HmacKey::new(text.into()).unwrap(), Hash::Sha256))
}

fn holder() -> FwknopClient {
    FwknopClient {
        key: key("testkey"),
        mode: CipherMode::Cbc,
        hmac: hmac("hmackey"),
        from: Vec::new(),
        destination: Vec::new(),
        username: None,
        address: AddressPolicy::Any,
        force_nat: false,
        old: None,
    }
}

fn client(name: &str, doors: &[&str], holder: FwknopClient) -> Client {
    Client {
        width: None,
        name: name.parse().unwrap(),
        doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
        expires: None,
        totp: None,
        spa: None,
        fwknop: Some(holder),
    }
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn setup(clients: &[Client], doors: &[Recognition]) -> Setup {
    Setup { clients: clients.to_vec(), doors: doors.to_vec(), ..Setup::default() }
}

fn of(clients: &[Client], doors: &[Recognition]) -> FwknopJudge {
    FwknopJudge::new(&setup(clients, doors))
}

/// One client, `phone`, and three doors that it may open.
fn phone(holder: FwknopClient) -> FwknopJudge {
    FwknopJudge::new(&phones(holder))
}

fn phones(holder: FwknopClient) -> Setup {
    let doors = [door("dns", &["53/udp"]), door("other", &["443"]), door("ssh", &["22", "2222"])];
    setup(&[client("phone", &["dns", "ssh"], holder)], &doors)
}

fn access(ports: &[&str]) -> Access {
    Access {
        address: Some([203, 0, 113, 7].into()),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        nat: None,
        timeout: None,
    }
}

fn request(access: Access) -> FwknopRequest {
    FwknopRequest {
        random: Random::new([7; 16]),
        user: "alice".parse().unwrap(),
        timestamp: CLOCK,
        access,
    }
}

fn sealed_by(holder: &FwknopClient, request: &FwknopRequest) -> String {
    let hmac = holder.hmac.as_ref().map(|(key, hash)| (key, *hash));
    let keys = FwknopKeys { key: &holder.key, mode: holder.mode, hmac };
    seal(request, Hash::Sha256, keys, [1; 8]).unwrap()
}

fn sealed(access: Access) -> String {
    sealed_by(&holder(), &request(access))
}

fn packet(source: &str) -> Packet {
    Packet {
        source: source.parse().unwrap(),
        destination: HOST.parse().unwrap(),
        transport: Transport::Udp { source_port: 40_000, port: 62_201.try_into().unwrap() },
        looped: false,
    }
}

/// What a datagram comes to: `client: door address for seconds`, or the reason.
fn told(fwknop: &mut FwknopJudge, now: u64, packet: &Packet, datagram: &str) -> Vec<String> {
    told_at(fwknop, now, packet, &Local::Any, datagram)
}

/// The same at a host with these addresses.
fn told_at(
    fwknop: &mut FwknopJudge,
    now: u64,
    packet: &Packet,
    local: &Local,
    datagram: &str,
) -> Vec<String> {
    match fwknop.judge(at(now), packet, local, datagram.as_bytes()) {
        Ok(requests) => requests.iter().map(tell).collect(),
        Err(Denial::Refused(refusal)) => {
            assert!(refusal.client.is_some());
            vec![format!("refused: {}", refusal.reason.as_str())]
        }
        Err(Denial::Ignored(reason)) => vec![format!("ignored: {}", reason.as_str())],
    }
}

fn tell(request: &DatagramRequest) -> String {
    let DatagramRequest { door, client, v4, v6, open_for, .. } = request;
    let address = v4.or(*v6).and_then(|network| network.single()).unwrap();
    let length = open_for.map(|seconds| format!(" {seconds}s")).unwrap_or_default();
    format!("{}: {} {address}{length}", client.0, door.0)
}

fn on(fwknop: &mut FwknopJudge, now: u64, datagram: &str) -> Vec<String> {
    told(fwknop, now, &packet(SOURCE), datagram)
}

/// What a request comes to at the phone's doors.
fn asking(access: Access) -> Vec<String> {
    on(&mut phone(holder()), CLOCK, &sealed(access))
}

const DNS: &str = "0: 0 203.0.113.7";
const SSH: &str = "0: 2 203.0.113.7";

#[test]
fn the_doors_that_list_the_ports_open() {
    assert_eq!(asking(access(&["22"])), [SSH]);
    assert_eq!(asking(access(&["53/udp", "2222"])), [DNS, SSH]);
    assert_eq!(asking(access(&["22", "22", "2222"])), [SSH]);
}

#[test]
fn where_one_port_is_listed_nowhere_nothing_opens() {
    for ports in [&["22", "80"][..], &["443"], &["53"], &["22/udp"]] {
        assert_eq!(asking(access(ports)), ["refused: fwknop-no-door"], "{ports:?}");
    }
}

#[test]
fn a_door_that_fwknop_does_not_open_lists_nothing() {
    let doors = [Recognition { fwknop: false, ..door("ssh", &["22"]) }];
    let mut fwknop = of(&[client("phone", &["ssh"], holder())], &doors);
    let told = on(&mut fwknop, CLOCK, &sealed(access(&["22"])));
    assert_eq!(told, ["refused: fwknop-no-door"]);
}

#[test]
fn a_door_with_commands_of_its_own_opens_whatever_port_is_asked_for() {
    let doors = [door("act", &[]), door("ssh", &["22"])];
    let mut fwknop = of(&[client("phone", &["act", "ssh"], holder())], &doors);
    let asked = [access(&["22"]), access(&["80"])];
    let [first, second] = asked.map(|access| on(&mut fwknop, CLOCK, &sealed(access)));
    assert_eq!(first, ["0: 0 203.0.113.7", "0: 1 203.0.113.7"]);
    assert_eq!(second, ["0: 0 203.0.113.7"]);
}

const GATEWAY: &str = "203.0.113.1";

fn forwarding(name: &str, opens: &[&str], forwards: &[(&str, &str, u16)]) -> Recognition {
    let forward = |(on, to, port): &(&str, &str, u16)| Forward {
        on: on.parse().unwrap(),
        to: to.parse().unwrap(),
        port: NonZeroU16::new(*port).unwrap(),
        masquerade: false,
    };
    Recognition { forwards: forwards.iter().map(forward).collect(), ..door(name, opens) }
}

/// Doors 0 to 5: `inner`, `inner-v6`, `two`, `local`, `open`, and one that is not the client's.
fn gateway() -> FwknopJudge {
    let inner = ("2222", "192.168.1.10", 22);
    let doors = [
        forwarding("inner", &[], &[inner]),
        forwarding("inner-v6", &[], &[("2222", "2001:db8::10", 22)]),
        forwarding(
            "two",
            &["443"],
            &[("2222/udp", "192.168.1.10", 22), ("80", "192.168.1.11", 80)],
        ),
        forwarding("local", &[], &[("55000", GATEWAY, 22)]),
        door("open", &["1000-1010"]),
        forwarding("other", &[], &[("25", "192.168.1.10", 25)]),
    ];
    of(&[client("phone", &["inner", "inner-v6", "two", "local", "open"], holder())], &doors)
}

/// What a request comes to at the gateway whose ports shall lead elsewhere, by `host,port`, for an
/// address or for that of its source.
fn leading(ports: &[&str], to: &str, is_local: bool, source: &str) -> Vec<String> {
    let (host, port) = to.split_once(',').unwrap();
    let nat = NatAccess::new(host, port.parse().unwrap(), is_local).unwrap();
    let address = Some([203, 0, 113, 7].into()).filter(|_| source == SOURCE);
    let datagram = sealed(Access { address, nat: Some(nat), ..access(ports) });
    let local = Local::Addresses([HOST, GATEWAY].map(|it| it.parse().unwrap()).into());
    told_at(&mut gateway(), CLOCK, &packet(source), &local, &datagram)
}

fn to_host(ports: &[&str], to: &str) -> Vec<String> {
    leading(ports, to, false, SOURCE)
}

fn to_itself(ports: &[&str], to: &str) -> Vec<String> {
    leading(ports, to, true, SOURCE)
}

#[test]
fn a_door_opens_that_leads_the_port_to_where_it_shall_lead() {
    assert_eq!(to_host(&["2222"], "192.168.1.10,22"), ["0: 0 203.0.113.7"]);
    assert_eq!(to_host(&["2222/udp"], "192.168.1.10,22"), ["0: 2 203.0.113.7"]);
    assert_eq!(
        to_host(&["2222", "2222/udp"], "192.168.1.10,22"),
        ["0: 0 203.0.113.7", "0: 2 203.0.113.7"]
    );
}

#[test]
fn where_no_door_leads_the_port_there_nothing_opens() {
    for (ports, to) in [
        (&["2222"][..], "192.168.1.10,80"),
        (&["2222"], "192.168.1.11,22"),
        (&["2223"], "192.168.1.10,22"),
        (&["80/udp"], "192.168.1.11,80"),
        // One of two.
        (&["2222", "80"], "192.168.1.10,22"),
        // Another client's.
        (&["25"], "192.168.1.10,25"),
        // A port that is only opened, or led to this host.
        (&["443"], "192.168.1.10,443"),
        (&["55000"], "192.168.1.10,22"),
    ] {
        assert_eq!(to_host(ports, to), ["refused: fwknop-nat"], "{ports:?} {to}");
    }
}

#[test]
fn only_a_forward_for_the_family_of_the_address_counts() {
    let from_v6 = |to: &str| leading(&["2222"], to, false, "2001:db8::2");
    assert_eq!(from_v6("2001:db8::10,22"), ["0: 1 2001:db8::2"]);
    assert_eq!(from_v6("192.168.1.10,22"), ["refused: fwknop-nat"]);
    assert_eq!(to_host(&["2222"], "2001:db8::10,22"), ["refused: fwknop-nat"]);
}

#[test]
fn a_host_is_named_by_its_address() {
    for name in ["inner.example.com", "localhost", "192.168.1.010", "192.168.1"] {
        let told = to_host(&["2222"], &format!("{name},22"));
        assert_eq!(told, ["refused: fwknop-nat-name"], "{name}");
    }
}

#[test]
fn a_port_leads_to_this_host_by_whatever_name_the_client_knows_it() {
    for host in [GATEWAY, "gw.example.com", "198.51.100.200", "192.168.1.10"] {
        let asked = |ports: &[&str], port: u16| to_itself(ports, &format!("{host},{port}"));
        assert_eq!(asked(&["55000"], 22), ["0: 3 203.0.113.7"], "{host}");
        // A port that is opened as it is leads to itself.
        assert_eq!(asked(&["443"], 443), ["0: 2 203.0.113.7"], "{host}");
        assert_eq!(asked(&["1005"], 1005), ["0: 4 203.0.113.7"], "{host}");
        for (ports, port) in [
            (&["55000"][..], 23),
            (&["55000"], 55000),
            (&["1005"], 22),
            (&["2222"], 22),
            (&["55000", "443"], 22),
        ] {
            assert_eq!(
                asked(ports, port),
                ["refused: fwknop-local-nat"],
                "{host} {ports:?} {port}"
            );
        }
    }
}

#[test]
fn what_is_only_forwarded_is_not_opened_by_a_request_for_access() {
    let asked = |ports: &[&str]| on(&mut gateway(), CLOCK, &sealed(access(ports)));
    for ports in [&["2222"][..], &["55000"], &["80"], &["443", "80"], &["25"]] {
        assert_eq!(asked(ports), ["refused: fwknop-no-door"], "{ports:?}");
    }
    assert_eq!(asked(&["443"]), ["0: 2 203.0.113.7"]);
}

#[test]
fn a_client_that_is_led_without_asking_opens_what_forwards_its_port_whatever_it_asks_for() {
    let forced = FwknopClient { force_nat: true, ..holder() };
    let doors = [
        forwarding("inner", &[], &[("22", "192.168.1.10", 2222)]),
        forwarding("inner-v6", &[], &[("22", "2001:db8::10", 2222)]),
        door("web", &["443"]),
    ];
    let clients = [client("phone", &["inner", "inner-v6", "web"], forced)];
    let asked = |access| on(&mut of(&clients, &doors), CLOCK, &sealed(access));
    let nat = |host, is_local| NatAccess::new(host, NonZeroU16::new(80).unwrap(), is_local).ok();
    for nat in [None, nat("192.168.1.99", false), nat("gw.example.com", true)] {
        assert_eq!(asked(Access { nat, ..access(&["22"]) }), ["0: 0 203.0.113.7"]);
    }
    assert_eq!(asked(access(&["443"])), ["0: 2 203.0.113.7"]);
    for ports in [&["2222"][..], &["22/udp"], &["22", "23"]] {
        assert_eq!(asked(access(ports)), ["refused: fwknop-no-door"], "{ports:?}");
    }
}

#[test]
fn a_door_with_commands_of_its_own_leads_nowhere() {
    for (is_local, refused) in [(false, "fwknop-nat"), (true, "fwknop-local-nat")] {
        let nat = NatAccess::new("192.168.1.10", NonZeroU16::new(22).unwrap(), is_local).ok();
        let mut fwknop = of(&[client("phone", &["act"], holder())], &[door("act", &[])]);
        let told = on(&mut fwknop, CLOCK, &sealed(Access { nat, ..access(&["22"]) }));
        assert_eq!(told, [format!("refused: {refused}")]);
    }
}

#[test]
fn a_timeout_is_handed_on_and_zero_is_none() {
    let with = |timeout| Access { timeout, ..access(&["22"]) };
    assert_eq!(asking(with(Some(60))), ["0: 2 203.0.113.7 60s"]);
    assert_eq!(asking(with(Some(MAX_TIMEOUT))), ["0: 2 203.0.113.7 65536s"]);
    assert_eq!(asking(with(Some(0))), [SSH]);
}

#[test]
fn no_address_is_the_one_that_is_seen_unless_it_has_to_be_named() {
    let unnamed = Access { address: None, ..access(&["22"]) };
    assert_eq!(asking(unnamed.clone()), ["0: 2 192.0.2.2"]);
    let explicit = FwknopClient { address: AddressPolicy::Explicit, ..holder() };
    let told = on(&mut phone(explicit), CLOCK, &sealed(unnamed.clone()));
    assert_eq!(told, ["refused: address-not-named"]);
    let verdict = told_from(&mut phone(holder()), "2001:db8::2", &sealed(unnamed));
    assert_eq!(verdict, ["0: 2 2001:db8::2"]);
}

fn told_from(fwknop: &mut FwknopJudge, source: &str, datagram: &str) -> Vec<String> {
    told(fwknop, CLOCK, &packet(source), datagram)
}

#[test]
fn an_address_that_is_no_single_hosts_is_refused() {
    for address in [[224, 0, 0, 1], [255; 4], [127, 0, 0, 1], [0, 0, 0, 1]] {
        let access = Access { address: Some(address.into()), ..access(&["22"]) };
        assert_eq!(asking(access), ["refused: fwknop-forbidden-address"], "{address:?}");
    }
    let local = Access { address: Some([127, 0, 0, 1].into()), ..access(&["22"]) };
    let told = told_from(&mut phone(holder()), "127.0.0.1", &sealed(local));
    assert_eq!(told, ["0: 2 127.0.0.1"]);
}

#[test]
fn a_clock_may_be_off_by_the_age_in_both_directions() {
    let datagram = sealed(access(&["22"]));
    for (now, expected) in [
        (CLOCK - 121, "refused: too-far-ahead"),
        (CLOCK - 120, SSH),
        (CLOCK + 120, SSH),
        (CLOCK + 121, "refused: too-old"),
    ] {
        assert_eq!(on(&mut phone(holder()), now, &datagram), [expected], "{now}");
    }
}

#[test]
fn what_may_have_been_used_before_the_start_is_refused() {
    let datagram = sealed(access(&["22"]));
    let started = |seconds| UncleanStart(Some(at(CLOCK - seconds).monotonic));
    for (unclean_start, expected) in
        [(started(9), "refused: before-start"), (started(10), SSH), (UncleanStart(None), SSH)]
    {
        let mut fwknop = FwknopJudge::new(&Setup { unclean_start, ..phones(holder()) });
        assert_eq!(on(&mut fwknop, CLOCK, &datagram), [expected], "{unclean_start:?}");
    }
}

#[test]
fn what_makes_it_good_once_is_what_was_authenticated() {
    let mut fwknop = phone(holder());
    let datagram = sealed(access(&["22"]));
    let requests = fwknop.judge(at(CLOCK), &packet(SOURCE), &Local::Any, datagram.as_bytes());
    let [request] = requests.unwrap()[..] else { panic!("one request") };
    assert_eq!(tell(&request), SSH);
    let Credential::Fwknop { digest, stamp } = request.credential else { panic!("not fwknop") };
    assert_eq!(stamp, at(CLOCK).wall);
    let hmac = Some((&hmac("hmackey").unwrap().0, Hash::Sha256));
    let keys = FwknopKeys { key: &key("testkey"), mode: CipherMode::Cbc, hmac };
    let opened = FwknopDatagram::new(datagram.as_bytes()).unwrap().open(&keys.into());
    assert_eq!(digest, opened.unwrap().replay);
}

#[test]
fn the_same_datagram_opens_once_wherever_it_comes_from() {
    let mut fwknop = phone(holder());
    let datagram = sealed(access(&["22"]));
    assert_eq!(on(&mut fwknop, CLOCK, &datagram), [SSH]);
    assert_eq!(on(&mut fwknop, CLOCK + 1, &datagram), ["refused: used"]);
    assert_eq!(told_from(&mut fwknop, "192.0.2.99", &datagram), ["refused: used"]);
}

#[test]
fn a_datagram_that_is_captured_twice_is_no_copy_of_somebody_elses() {
    let mut fwknop = phone(holder());
    let datagram = sealed(access(&["22"]));
    assert_eq!(on(&mut fwknop, CLOCK, &datagram), [SSH]);
    assert_eq!(on(&mut fwknop, CLOCK, &datagram), ["ignored: duplicate"]);
    let mut elsewhere = packet(SOURCE);
    let port = 62_201.try_into().unwrap();
    elsewhere.transport = Transport::Udp { source_port: 40_001, port };
    assert_eq!(told(&mut fwknop, CLOCK, &elsewhere, &datagram), ["refused: used"]);
}

#[test]
fn what_is_sent_to_another_host_is_the_clients_only_who_is_said_to_send_there() {
    let datagram = sealed(access(&["22"]));
    let mut anywhere = phone(holder());
    let mut there = phone(FwknopClient { destination: networks(&["198.51.100.0/24"]), ..holder() });
    let judged = |fwknop: &mut FwknopJudge| {
        let local = Local::Addresses(["192.0.2.9".parse().unwrap()].into());
        fwknop.judge(at(CLOCK), &packet(SOURCE), &local, datagram.as_bytes())
    };
    assert_eq!(judged(&mut anywhere), Err(Denial::Ignored(FwknopError::Source.into())));
    assert!(judged(&mut there).is_ok());
}

#[test]
fn requests_are_taken_at_their_own_port_and_at_that_of_native_ones() {
    let port = |port: u16| NonZeroU16::new(port).unwrap();
    let ports = port(5_000)..=port(5_002);
    let settings = FwknopSettings { ports, ..FwknopSettings::default() };
    let spa_ports = Some(port(6_000)..=port(6_001));
    let fwknop = FwknopJudge::new(&Setup { fwknop: settings, spa_ports, ..Setup::default() });
    let takes = |to: u16, length: usize| {
        let transport = Transport::Udp { source_port: 1, port: port(to) };
        fwknop.takes(&Packet { transport, ..packet(SOURCE) }, &vec![0; length])
    };
    for to in [5_000, 5_002, 6_000, 6_001] {
        assert!(takes(to, 140) && takes(to, 1_499), "{to}");
        assert!(!takes(to, 139) && !takes(to, 1_500), "{to}");
    }
    assert!(!takes(62_201, 200));
}

#[test]
fn what_was_refused_is_not_used_up() {
    let mut fwknop = phone(holder());
    let datagram = sealed(access(&["22"]));
    assert_eq!(on(&mut fwknop, CLOCK - 121, &datagram), ["refused: too-far-ahead"]);
    assert_eq!(on(&mut fwknop, CLOCK, &datagram), [SSH]);
}

#[test]
fn a_client_has_to_send_from_its_networks_to_its_destinations() {
    let datagram = sealed(access(&["22"]));
    let from = |from: &[&str]| FwknopClient { from: networks(from), ..holder() };
    let to = |to: &[&str]| FwknopClient { destination: networks(to), ..holder() };
    for (holder, expected) in [
        (from(&["192.0.2.0/24"]), SSH),
        (from(&["203.0.113.0/24", "192.0.2.2"]), SSH),
        (from(&["0.0.0.0/0", "192.0.0.0/8", "192.0.2.2/32"]), SSH),
        (from(&["192.0.2.3", "192.0.2.128/25", "::/0"]), "ignored: fwknop-source"),
        (to(&["198.51.100.0/30"]), SSH),
        (to(&["198.51.100.2"]), "ignored: fwknop-source"),
    ] {
        assert_eq!(on(&mut phone(holder.clone()), CLOCK, &datagram), [expected], "{holder:?}");
    }
}

#[test]
fn the_embedded_address_does_not_matter_for_where_it_comes_from() {
    let mut fwknop = phone(FwknopClient { from: networks(&["203.0.113.0/24"]), ..holder() });
    assert_eq!(on(&mut fwknop, CLOCK, &sealed(access(&["22"]))), ["ignored: fwknop-source"]);
}

#[test]
fn a_client_may_have_to_name_itself() {
    let named = |name: &str| FwknopClient { username: Some(name.to_owned()), ..holder() };
    let datagram = sealed(access(&["22"]));
    assert_eq!(on(&mut phone(named("alice")), CLOCK, &datagram), [SSH]);
    let told = on(&mut phone(named("Alice")), CLOCK, &datagram);
    assert_eq!(told, ["refused: fwknop-username"]);
}

#[test]
fn a_client_opens_nothing_once_it_has_expired() {
    let doors = [door("ssh", &["22"])];
    let expires = Some(at(CLOCK).wall);
    let client = Client { expires, ..client("phone", &["ssh"], holder()) };
    let mut fwknop = of(&[client], &doors);
    let datagram = sealed(access(&["22"]));
    assert_eq!(on(&mut fwknop, CLOCK, &datagram), ["refused: expired"]);
    assert_eq!(on(&mut fwknop, CLOCK - 1, &datagram), ["0: 0 203.0.113.7"]);
}

#[test]
fn the_keys_before_hold_until_their_grace_is_over() {
    let before = FwknopClient { key: key("before"), hmac: hmac("beforehmac"), ..holder() };
    let until = |seconds| {
        let keys = (before.key.clone(), before.hmac.clone().unwrap().0);
        FwknopClient { old: Some((keys, Wall::ZERO + Duration::from_secs(seconds))), ..holder() }
    };
    let sent = [&before, &holder()].map(|keys| {
        sealed_by(keys, &FwknopRequest { timestamp: CLOCK, ..request(access(&["22"])) })
    });
    let mut in_grace = phone(until(CLOCK + 1));
    for datagram in &sent {
        let told = told(&mut in_grace, CLOCK, &packet(SOURCE), datagram);
        assert!(told[0].starts_with("0: 2 "), "{told:?}");
        assert_eq!(
            self::told(&mut in_grace, CLOCK, &packet("192.0.2.9"), datagram),
            ["refused: used"]
        );
    }
    let mut after = phone(until(CLOCK));
    let told = sent.map(|datagram| told(&mut after, CLOCK, &packet(SOURCE), &datagram));
    assert_eq!(told[0], ["refused: expired"]);
    assert!(told[1][0].starts_with("0: 2 "), "{told:?}");
}

#[test]
fn a_datagram_is_whose_keys_open_it() {
    let doors = [door("ssh", &["22"])];
    let other = FwknopClient { key: key("other"), hmac: hmac("otherhmac"), ..holder() };
    let unsigned = FwknopClient { key: key("third"), hmac: None, ..holder() };
    let clients = [
        client("a", &["ssh"], other.clone()),
        client("b", &["ssh"], unsigned.clone()),
        client("c", &["ssh"], holder()),
    ];
    let mut fwknop = of(&clients, &doors);
    for (holder, expected) in [
        (&other, "0: 0 203.0.113.7"),
        (&unsigned, "1: 0 203.0.113.7"),
        (&holder(), "2: 0 203.0.113.7"),
    ] {
        let datagram = sealed_by(holder, &request(access(&["22"])));
        assert_eq!(on(&mut fwknop, CLOCK, &datagram), [expected]);
    }
}

#[test]
fn noise_is_ignored_and_what_a_client_sends_is_refused() {
    let good = sealed(access(&["22"]));
    let stranger = FwknopClient { hmac: hmac("strange"), ..holder() };
    for (datagram, expected) in [
        ("x".repeat(200), "ignored: fwknop-not-salted"),
        (good[1..].to_owned(), "ignored: fwknop-not-salted"),
        (good[..200].to_owned(), "ignored: fwknop-bad-length"),
        (format!("{good}="), "ignored: fwknop-not-canonical"),
        (sealed_by(&stranger, &request(access(&["22"]))), "ignored: fwknop-bad-hmac"),
    ] {
        assert_eq!(on(&mut phone(holder()), CLOCK, &datagram), [expected], "{datagram}");
    }
}

#[test]
fn nobody_is_asked_where_nobody_holds_keys() {
    let client = Client { fwknop: None, ..client("phone", &["ssh"], holder()) };
    let mut fwknop = of(&[client], &[door("ssh", &["22"])]);
    assert!(fwknop.is_empty());
    let told = on(&mut fwknop, CLOCK, &sealed(access(&["22"])));
    assert_eq!(told, ["ignored: fwknop-bad-length"]);
}

/// An engine with the phone and a door that is knocked on where requests go.
fn engine() -> Engine {
    let knocked = Recognition {
        sequence: vec!["62201/udp".parse().unwrap(), "7000".parse().unwrap()],
        ..door("ssh", &["22"])
    };
    let clients = [client("phone", &["ssh"], holder())];
    Engine::new(setup(&clients, &[knocked]))
}

#[test]
fn the_engine_hands_on_what_a_client_asks_for() {
    let (mut engine, datagram) = (engine(), sealed(access(&["22"])));
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), datagram.as_bytes());
    assert!(matches!(verdict, Verdict::Requests([DatagramRequest { client: ClientId(0), .. }])));
    let late =
        sealed_by(&holder(), &FwknopRequest { timestamp: CLOCK - 200, ..request(access(&["22"])) });
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), late.as_bytes());
    let Verdict::Refused(refusal) = verdict else { panic!("{verdict:?}") };
    assert_eq!(refusal.reason, Reason::TooOld);
}

#[test]
fn a_native_datagram_for_another_server_is_not_taken_for_one_of_fwknops() {
    let clients = [client("phone", &["ssh"], holder())];
    let doors = [door("ssh", &["22"])];
    let keys = vec![ServerKey { key: [1; 32].into(), until: None }];
    let server = SpaServer::new(&config::SpaSettings::default(), keys);
    let mut engine = Engine::new(Setup { spa: Some(server), ..setup(&clients, &doors) });
    let mut judged = |bytes: &[u8]| match engine.receive(at(CLOCK), &packet(SOURCE), bytes) {
        Verdict::Ignored(reason) => reason.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(judged(&[200; 192]), "bad-tag");
    // What is text of this length was meant for fwknop's, and so is all of another length.
    assert_eq!(judged(&[b'8'; 192]), "fwknop-bad-length");
    assert_eq!(judged(&[200; 204]), "fwknop-not-base64");
}

#[test]
fn a_datagram_that_is_nobodys_may_be_a_knock() {
    let mut engine = engine();
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), &[b'8'; 204]);
    assert!(matches!(verdict, Verdict::Knock([_])), "{verdict:?}");
    let mut elsewhere = engine;
    elsewhere.local = Local::Addresses(["192.0.2.9".parse().unwrap()].into());
    let datagram = sealed(access(&["22"]));
    let verdict = elsewhere.receive(at(CLOCK), &packet(SOURCE), datagram.as_bytes());
    assert!(matches!(verdict, Verdict::Ignored(_)), "{verdict:?}");
}

/// An engine with so many clients, of which the last is the phone.
fn with_clients(count: usize) -> Engine {
    let other = |number| FwknopClient { hmac: hmac(&format!("hmac {number}")), ..holder() };
    let mut clients: Vec<_> =
        (1..count).map(|number| client(&format!("c{number}"), &["ssh"], other(number))).collect();
    clients.push(client("phone", &["ssh"], holder()));
    Engine::new(setup(&clients, &[door("ssh", &["22"])]))
}

#[test]
fn what_has_to_be_tried_with_many_keys_waits_and_opens_as_if_it_had_not() {
    let (mut engine, datagram) = (with_clients(1000), sealed(access(&["22"])));
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), datagram.as_bytes());
    assert_eq!(verdict, Verdict::Waits);
    assert!(engine.has_waiting() && !engine.is_idle());
    let tried = engine.try_waiting().unwrap();
    assert_eq!((tried.at, tried.packet), (at(CLOCK).monotonic, packet(SOURCE)));
    assert!(matches!(tried.verdict, Verdict::Requests([DatagramRequest { .. }])));
    assert!(engine.try_waiting().is_none() && engine.is_idle());
}

#[test]
fn what_is_nobodys_by_its_looks_or_its_length_is_refused_before_it_would_have_to_wait() {
    let mut engine = with_clients(1000);
    for (junk, reason) in [
        (&[b'8'; 1400][..], FwknopError::Length),
        (&[b'8'; 205], FwknopError::Length),
        (&[b'8'; 204 * 5], FwknopError::Length),
        (&[b'A'; 204], FwknopError::NotSalted),
    ] {
        let verdict = engine.receive(at(CLOCK), &packet(SOURCE), junk);
        assert_eq!(verdict, Verdict::Ignored(reason.into()), "{}", junk.len());
    }
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), &[b'8'; 204]);
    assert_eq!(verdict, Verdict::Waits);
}

#[test]
fn in_a_flood_of_what_waits_others_are_heard_at_once_and_memory_is_bounded() {
    let mut engine = with_clients(300);
    let flood = |engine: &mut Engine| {
        let mut untried = 0;
        for source in 0..10_000u32 {
            let source = format!("100.64.{}.{}", source / 256, source % 256);
            match engine.receive(at(CLOCK), &packet(&source), &[b'8'; 204]) {
                Verdict::Waits => {}
                Verdict::Ignored(Reason::Untried) => untried += 1,
                other => panic!("{other:?}"),
            }
        }
        untried
    };
    let untried = flood(&mut engine);
    assert_eq!(untried, 10_000 - 2048);
    let knock = Packet {
        transport: Transport::Udp { source_port: 1, port: 22.try_into().unwrap() },
        ..packet(SOURCE)
    };
    let heard = engine.receive(at(CLOCK), &knock, &[]);
    assert_eq!(heard, Verdict::Ignored(Reason::NotWatched));
    // Its place is taken by whoever comes when the next trial has been made.
    let datagram = sealed(access(&["22"]));
    assert!(engine.try_waiting().is_some());
    let verdict = engine.receive(at(CLOCK), &packet(SOURCE), datagram.as_bytes());
    assert_eq!(verdict, Verdict::Waits);
    let tried = engine.try_waiting().unwrap();
    assert!(matches!(tried.verdict, Verdict::Requests(_)), "the latest goes first");
    let others = std::iter::from_fn(|| {
        engine.try_waiting().map(|tried| matches!(tried.verdict, Verdict::Ignored(_)))
    });
    assert_eq!(others.take(10).collect::<Vec<_>>(), [true; 10]);
}

prop_compose! {
    fn any_network()(v6: bool, bits: u128, prefix in 0u8..=128) -> Network {
        // Few addresses, so that networks meet.
        let bits = bits & 0x3003;
        if v6 {
            Network::around(IpAddr::V6(bits.into()), prefix)
        } else {
            let bits = u32::try_from(bits).unwrap();
            Network::around(IpAddr::V4(bits.into()), prefix)
        }
    }
}

proptest! {
    #[test]
    fn the_index_finds_those_whose_networks_hold_the_source(
        from in prop::collection::vec(prop::collection::vec(any_network(), 0..4), 0..8),
        v6: bool,
        bits in 0u32..0x4000,
    ) {
        let source = if v6 {
            IpAddr::V6(u128::from(bits).into())
        } else {
            IpAddr::V4(bits.into())
        };
        let clients: Vec<Client> = from
            .iter()
            .map(|from| client("a", &[], FwknopClient { from: from.clone(), ..holder() }))
            .collect();
        let fwknop = of(&clients, &[]);
        let expected: Vec<usize> = (0..from.len())
            .filter(|place| {
                from[*place].is_empty()
                    || from[*place].iter().any(|network| network.contains(source))
            })
            .collect();
        prop_assert_eq!(fwknop.index.holders_at(source).to_vec(), expected);
    }

    #[test]
    fn no_datagram_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = phone(holder()).judge(at(CLOCK), &packet(SOURCE), &Local::Any, &payload);
    }

    #[test]
    fn no_request_makes_it_panic(
        timestamp in 0u64..1 << 31,
        address: Option<u32>,
        ports in prop::collection::vec(1u16.., 1..4),
        now: u64,
    ) {
        let mut request = request(Access {
            address: address.map(Into::into),
            ..access(&ports.iter().map(u16::to_string).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>())
        });
        request.timestamp = timestamp;
        let hmac = hmac("hmackey").unwrap();
        let hmac = Some((&hmac.0, hmac.1));
        if let Ok(datagram) =
            seal(&request, Hash::Sha256, FwknopKeys { key: &key("testkey"), mode: CipherMode::Cbc, hmac }, [1; 8])
        {
            let now = Now { wall: Wall::from_nanos(now), ..Now::default() };
            let _ = phone(holder()).judge(now, &packet(SOURCE), &Local::Any, datagram.as_bytes());
        }
    }
}
