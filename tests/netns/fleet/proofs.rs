//! What has been used up at one gateway is used up at all.

use std::collections::BTreeMap;
use std::fs;

use libknock::proto::fwknop::{FwknopKey, HmacKey};
use libknock::proto::knock::Knock;
use libknock::proto::spa::{Addresses, NamedAddresses, SpaRequest};
use libknock::proto::totp::{Protocols, Scheme, TotpKey, TotpMode, parse_secret};
use libknock::sys::clock;

use crate::support::fleet::{
    BY_SOCKET, DOORS, Fleet, Gateway, LAPTOP, PATIENT, PHONE, configuration, key, request, seal,
};
use crate::support::{CLIENT, PATIENCE, eventually, needs, requests};

/// The sequence of the client `phone`, so many steps from now.
pub(super) fn sequence(door: &str, scheme: Scheme, off: i64) -> Vec<Knock> {
    let key = TotpKey::from(&parse_secret(PHONE).unwrap());
    let step = scheme.step_at(clock::now().wall).checked_add_signed(off).unwrap();
    scheme.knocks(&key, door, step).to_vec()
}

#[test]
fn a_datagram_that_was_caught_at_one_gateway_opens_at_no_other() {
    needs!("fleet caught", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    let caught = fleet.ask(0, "local");
    gw1.opens("local", CLIENT);
    fleet.send(1, &caught);
    fleet.send(2, &caught);
    gw2.refuses("used-elsewhere", 1);
    gw3.refuses("used-elsewhere", 1);
    // What was stamped before it is used up too.
    let early = seal(&request("local"), LAPTOP);
    fleet.ask(0, "ssh");
    gw1.opens("ssh", CLIENT);
    fleet.send(1, &early);
    gw2.refuses("used-elsewhere", 2);
    assert!(!gw2.has("local", CLIENT) && !gw3.has("local", CLIENT));
    // The client itself goes on, wherever it likes.
    fleet.ask(2, "local");
    gw3.opens("local", CLIENT);
}

#[test]
fn a_code_that_was_knocked_at_one_gateway_opens_at_no_other() {
    needs!("fleet totp", "redis-server", "nft");
    let fleet = Fleet::new();
    let port = |number: u16| number.try_into().unwrap();
    let (low, high) = (port(20_000), port(29_999));
    let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Tcp };
    let scheme = Scheme::new(mode, 3600, 1).unwrap();
    let knock = |gateway: usize, off: i64| {
        let knocks: Vec<String> =
            sequence("code", scheme, off).iter().map(Knock::to_string).collect();
        fleet.knock(gateway, &knocks.iter().map(String::as_str).collect::<Vec<_>>());
    };
    knock(0, 0);
    fleet.gateways[0].opens("code", CLIENT);
    knock(1, 0);
    fleet.gateways[1].refuses("used-elsewhere", 1);
    assert!(!fleet.gateways[1].has("code", CLIENT));
    // Another step is another code.
    knock(1, 1);
    fleet.gateways[1].opens("code", CLIENT);
}

#[test]
fn a_request_of_fwknops_that_was_caught_at_one_gateway_opens_at_no_other() {
    needs!("fleet fwknop", "redis-server", "nft");
    // As fwknop's own keys are read: for port 22.
    let doors = "\x20 mail: {fwknop: true, open: [22], open_for: 1h}\n";
    let clients = "\x20 owner: {doors: [mail], fwknop: {key: testkey, hmac_key: hmackey}}\n";
    let fleet = Fleet::by("", |name| configuration(name, BY_SOCKET, PATIENT, clients, doors));
    let (key, hmac) = (FwknopKey::new(b"testkey".to_vec()), HmacKey::new(b"hmackey".to_vec()));
    let caught = requests::of_fwknop(&key.unwrap(), &hmac.unwrap(), None);
    fleet.send(0, &caught);
    fleet.gateways[0].opens("mail", CLIENT);
    fleet.send(1, &caught);
    fleet.gateways[1].refuses("used-elsewhere", 1);
    assert!(!fleet.gateways[1].has("mail", CLIENT));
}

#[test]
fn a_line_that_was_knocked_at_one_gateway_is_struck_out_at_all() {
    needs!("fleet one-time", "redis-server", "nft");
    let fleet = Fleet::new();
    let list = |gateway: &Gateway| {
        fs::read_to_string(gateway.knockd().directory.path().join("list")).unwrap()
    };
    fleet.knock(0, &["7000", "8000", "9000"]);
    fleet.gateways[0].opens("list", CLIENT);
    for gateway in &fleet.gateways {
        let struck = eventually(PATIENCE, || list(gateway).starts_with("#000,8000,9000\n7100,"));
        assert!(struck, "{}: {}", gateway.name, list(gateway));
    }
    // The next one is the next one everywhere.
    fleet.knock(1, &["7000", "8000", "9000"]);
    let opens_by_the_next = eventually(PATIENCE, || {
        fleet.knock(1, &["7100", "8100", "9100"]);
        fleet.gateways[1].has("list", CLIENT)
    });
    assert!(opens_by_the_next, "{}", fleet.gateways[1].knockd().log().join("\n"));
    assert_eq!(fleet.gateways[1].knockd().count("OPEN SESAME"), 1);
    assert!(!fleet.gateways[2].has("list", CLIENT));
}

/// Clients with keys from 100 on.
const CLIENTS: u8 = 40;

/// Each may open the door `local` for whomever it says.
fn crowded() -> Fleet {
    let mut text = String::new();
    for number in 0..CLIENTS {
        let public = key(100 + number).public();
        text += &format!("\x20 c{number}: {{doors: [local], spa: {{public_key: {public}}}}}\n");
    }
    let doors = DOORS.lines().filter(|line| line.contains("local"));
    let doors = doors.map(|line| format!("{line}\n")).collect::<String>();
    Fleet::by("", |name| {
        // None is too old before the test is over.
        // Nor does anything open because this machine is busy.
        let settings = format!("{PATIENT}, when_lost: refuse");
        let text = configuration(name, BY_SOCKET, &settings, &text, &doors);
        text.replace("server.key}", "server.key, max_age: 1h}")
    })
}

fn address(number: u8) -> String {
    format!("198.51.100.{number}")
}

/// A request of one of them, for an address that is its own.
fn asked_by(number: u8) -> Vec<u8> {
    let named = NamedAddresses::new(address(number).parse().ok(), None).unwrap();
    let request = SpaRequest { open: Addresses::Named(named), ..request("local") };
    seal(&request, 100 + number).to_vec()
}

/// At how many gateways each address is let in, by the kernel.
fn let_in(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let addresses = fleet.gateways.iter().flat_map(|gateway| gateway.kernel_lets_in(23));
    addresses.for_each(|address| *all.entry(address).or_default() += 1);
    all
}

fn each_once() -> BTreeMap<String, usize> {
    (0..CLIENTS).map(|number| (address(number), 1)).collect()
}

fn refused(fleet: &Fleet) -> u64 {
    // More than a door takes at once is refused too.
    let reasons = ["used", "used-elsewhere", "too-many"];
    fleet.gateways.iter().map(|it| reasons.iter().map(|why| it.counter(why)).sum::<u64>()).sum()
}

#[test]
fn of_ten_thousand_replays_none_opens() {
    needs!("fleet replays", "redis-server", "nft");
    /// Of each client: each is sent again to both gateways that have not had it.
    const DATAGRAMS: usize = 125;
    const AT_A_TIME: usize = 400;
    let fleet = crowded();
    let home = |number: u8| usize::from(number) % 3;
    let caught: Vec<(u8, Vec<u8>)> =
        (0..DATAGRAMS).flat_map(|_| (0..CLIENTS).map(|it| (it, asked_by(it)))).collect();
    // The last of each arrives; with it all are used up that were stamped before.
    let last = &caught[caught.len() - usize::from(CLIENTS)..];
    fleet.send_all(last.iter().map(|(number, it)| (home(*number), it.clone())));
    assert!(eventually(PATIENCE, || let_in(&fleet) == each_once()), "{:?}", let_in(&fleet));
    for some in caught.chunks(AT_A_TIME / 2) {
        let others = |number: u8| [1, 2].map(|more| (home(number) + more) % 3);
        let again = some.iter().flat_map(|(number, it)| others(*number).map(|to| (to, it.clone())));
        // The kernel may drop some of so many.
        let most = refused(&fleet) + some.len() as u64;
        fleet.send_all(again);
        let heard = eventually(PATIENCE, || refused(&fleet) >= most);
        assert!(heard, "{} were refused, not {most}", refused(&fleet));
    }
    assert_eq!(let_in(&fleet), each_once());
    for gateway in &fleet.gateways {
        assert_ne!(gateway.counter("used-elsewhere"), 0, "{} has not asked", gateway.name);
    }
}

#[test]
fn of_copies_that_come_to_all_gateways_at_once_one_opens() {
    needs!("fleet at once", "redis-server", "nft");
    let fleet = crowded();
    let copies = (0..CLIENTS).flat_map(|number| {
        let datagram = asked_by(number);
        // Now this one hears it first, now that one.
        (0..3).map(move |at| ((at + usize::from(number)) % 3, datagram.clone()))
    });
    fleet.send_all(copies);
    let heard = eventually(PATIENCE, || refused(&fleet) == 2 * u64::from(CLIENTS));
    assert!(heard, "{} were refused", refused(&fleet));
    assert_eq!(let_in(&fleet), each_once());
}
