//! What opens at one gateway opens at all, and closes at all.

use libknock::proto::knock::Knock;
use libknock::proto::spa::SpaRequest;
use libknock::proto::totp::{Digits, Scheme, TotpMode};
use nix::sys::signal::Signal;

use super::proofs::sequence;
use crate::support::fleet::{
    BY_NETWORK, DOORS, Fleet, Gateway, LAPTOP, PATIENT, clients, configuration, key, request, seal,
};
use crate::support::{CLIENT, PATIENCE, eventually, needs};

const ELSEWHERE: &str = "198.51.100.7";

#[test]
fn one_request_opens_at_every_gateway_by_its_own_configuration() {
    needs!("fleet opens", "redis-server", "nft");
    let fleet = Fleet::by("", |name| {
        // Shorter here, and there it is none of the fleet's.
        let doors = match name {
            "gw2" => {
                DOORS.replace("open_for: 1h, open_for_max: 2h", "open_for: 1m, open_for_max: 10m")
            }
            "gw3" => DOORS.replace("open: [23]", "open: [23], fleet: true"),
            _ => DOORS.to_owned(),
        };
        configuration(name, "unix:STORE/redis.sock", PATIENT, &clients(), &doors)
    });
    let reached = |gateway: usize| {
        let address = fleet.gateways[gateway].address.clone();
        fleet.client.can_connect(&address, 22)
    };
    assert!((0..3).all(|gateway| !reached(gateway)), "they are not locked");
    fleet.ask(0, "ssh");
    let left = fleet.gateways.iter().map(|gateway| {
        let grant = gateway.opens("ssh", CLIENT);
        assert_eq!(grant["client"], "laptop");
        assert_eq!(grant["by"], if gateway.name == "gw1" { "spa" } else { "fleet" });
        grant["seconds_left"].as_f64().unwrap()
    });
    let left: Vec<f64> = left.collect();
    assert!(left[0] > 3500.0 && left[2] > 3500.0 && left[2] <= 3601.0, "{left:?}");
    assert!(left[1] > 500.0 && left[1] <= 600.0, "{left:?}");
    assert!((0..3).all(reached), "a port is closed all the same");
    // A door of one gateway alone.
    fleet.ask(0, "local");
    fleet.gateways[0].opens("local", CLIENT);
    fleet.ask(0, "ssh");
    assert!(fleet.gateways[1..].iter().all(|gateway| !gateway.has("local", CLIENT)));
}

#[test]
fn what_is_opened_or_extended_by_hand_is_so_at_all() {
    needs!("fleet by hand", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    gw2.says(&["open", "ssh", ELSEWHERE, "--for", "10m"]);
    fleet.all_open("ssh", ELSEWHERE);
    gw3.says(&["open", "ssh", ELSEWHERE, "--for", "90m"]);
    let left =
        || gw1.grant("ssh", ELSEWHERE).map_or(0.0, |it| it["seconds_left"].as_f64().unwrap());
    assert!(eventually(PATIENCE, || left() > 5000.0), "{}", left());
    // What ends sooner takes nothing away.
    gw1.says(&["open", "ssh", ELSEWHERE, "--for", "1m"]);
    assert!(left() > 5000.0);
    assert!(gw1.has("ssh", ELSEWHERE) && gw2.has("ssh", ELSEWHERE));
}

#[test]
fn what_is_closed_at_one_closes_at_all_and_who_closes_is_told_who_has_done_it() {
    needs!("fleet closes", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    let open = || {
        fleet.ask(0, "ssh");
        gw1.says(&["open", "ssh", ELSEWHERE]);
        fleet.all_open("ssh", CLIENT);
        fleet.all_open("ssh", ELSEWHERE);
    };
    open();
    let named = |said: &str, names: &[&str]| {
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
        assert!(!said.contains("not answer"), "{said}");
    };
    named(&gw2.says(&["close", "ssh", CLIENT]), &["gw1", "gw3"]);
    fleet.all_close("ssh", CLIENT);
    assert!(gw1.has("ssh", ELSEWHERE), "another's grant is closed");
    open();
    named(&gw3.says(&["close", "--all"]), &["gw1", "gw2"]);
    fleet.all_close("ssh", CLIENT);
    fleet.all_close("ssh", ELSEWHERE);
    // Whoever has opened may close, by another gateway.
    open();
    fleet.send(2, &seal(&SpaRequest { close: true, ..request("ssh") }, LAPTOP));
    fleet.all_close("ssh", CLIENT);
    assert!(gw1.has("ssh", ELSEWHERE) && gw2.has("ssh", ELSEWHERE));
    // What a gateway has opened for itself stays.
    fleet.ask(1, "local");
    gw2.opens("local", CLIENT);
    gw1.says(&["close", "--all"]);
    fleet.all_close("ssh", ELSEWHERE);
    assert!(gw2.has("local", CLIENT), "a door of its own is closed by another gateway");
}

#[test]
fn who_is_revoked_at_one_has_no_grant_at_any() {
    needs!("fleet revokes", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    // Of a file of its own, as a client has to be who is to be taken out.
    let public = key(2).public().to_string();
    for gateway in &fleet.gateways {
        gateway.says(&["enroll", "tablet", "--door", "ssh", "--spa", &public]);
    }
    fleet.send(0, &seal(&request("ssh"), 2));
    gw1.says(&["open", "ssh", ELSEWHERE]);
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
    let said = gw1.says(&["revoke", "tablet"]);
    assert!(said.contains("gw2") && said.contains("gw3"), "{said}");
    fleet.all_close("ssh", CLIENT);
    assert!(gw2.has("ssh", ELSEWHERE) && gw3.has("ssh", ELSEWHERE));
    // What those still allow this one does not take.
    fleet.send(1, &seal(&request("ssh"), 2));
    gw2.opens("ssh", CLIENT);
    gw3.opens("ssh", CLIENT);
    assert!(!gw1.has("ssh", CLIENT));
    gw2.says(&["revoke", "tablet"]);
    fleet.all_close("ssh", CLIENT);
    let said = gw3.says(&["revoke", "tablet"]);
    assert!(said.contains("'tablet' has nothing open here; done at gw1, gw2"), "{said}");
}

#[test]
fn who_closes_is_told_who_did_not_answer_and_that_one_closes_when_it_is_back() {
    needs!("fleet does not answer", "redis-server", "nft");
    let fleet = Fleet::with(BY_NETWORK, PATIENT);
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    fleet.ask(2, "ssh");
    gw1.says(&["open", "ssh", ELSEWHERE]);
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
    fleet.store.cut_off(gw3);
    let said = gw1.says(&["close", "ssh", ELSEWHERE]);
    assert!(said.contains("gw2") && said.contains("gw3") && said.contains("not answer"), "{said}");
    let revoked = gw1.knockd().ask(r#"{"do":"revoke","client":"laptop"}"#).pop().unwrap();
    assert!(revoked.to_string().contains("gw3"), "{revoked}");
    gw2.closes("ssh", CLIENT);
    assert!(gw3.has("ssh", CLIENT) && gw3.has("ssh", ELSEWHERE));
    gw3.is_soon("alone");
    fleet.store.mend(gw3);
    gw3.closes("ssh", CLIENT);
    gw3.closes("ssh", ELSEWHERE);
    // Nor does what it held come back from there.
    gw3.is_soon("joined");
    fleet.ask(2, "local");
    gw3.opens("local", CLIENT);
    assert!(!gw1.has("ssh", CLIENT) && !gw2.has("ssh", CLIENT));
}

#[test]
fn who_closes_is_told_that_a_gateway_hangs() {
    needs!("fleet hangs", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, _, gw3] = &fleet.gateways[..] else { panic!("three") };
    fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    gw3.knockd().signal(Signal::SIGSTOP);
    let said = gw1.says(&["close", "ssh", CLIENT]);
    gw3.knockd().signal(Signal::SIGCONT);
    assert!(said.contains("gw3") && said.contains("not answer"), "{said}");
    fleet.all_close("ssh", CLIENT);
}

#[test]
fn a_gateway_that_joins_later_opens_what_is_open() {
    needs!("fleet joins", "redis-server", "nft");
    let mut fleet = Fleet::new();
    fleet.gateways[2].end(Signal::SIGTERM);
    fleet.ask(0, "ssh");
    fleet.gateways[1].opens("ssh", CLIENT);
    fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
    fleet.gateways[1].opens("ssh", ELSEWHERE);
    fleet.gateways[1].says(&["close", "ssh", ELSEWHERE]);
    fleet.gateways[2].start_again();
    fleet.all_open("ssh", CLIENT);
    fleet.gateways[2].is_soon("joined");
    assert!(!fleet.gateways[2].has("ssh", ELSEWHERE), "what was closed opens");
}

#[test]
fn a_source_that_fails_too_often_at_one_is_locked_out_at_all_until_it_is_let_in_again() {
    needs!("fleet locks out", "redis-server", "nft");
    let doors = "\x20 code: {totp: {mode: code, base: 7000, step: 1h}, open: [24],\n\
                 \x20   lockout: {failures: 3, within: 10m, for: 1h}, fleet: true}\n\
                 \x20 ssh: {spa: true, open: [22], open_for: 1h, fleet: true}\n";
    let clients = clients().replace(", local]", "]").replace("\x20 owner", "# owner");
    let fleet = Fleet::by("", |name| {
        configuration(name, "unix:STORE/redis.sock", PATIENT, &clients, doors)
    });
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    let scheme = Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Six }, 3600, 1).unwrap();
    let valid: Vec<Knock> = (-1..=1).flat_map(|off| sequence("code", scheme, off)).collect();
    let wrong = (7000..7010).map(|port: u16| format!("{port}/tcp").parse::<Knock>().unwrap());
    let wrong: Vec<String> =
        wrong.filter(|it| !valid.contains(it)).map(|it| it.to_string()).collect();
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).cycle().take(15).collect();
    let locked = |gateway: &Gateway| {
        let status = gateway.knockd().ask(r#"{"do":"status"}"#).remove(0);
        status["locked_out"]
            .as_array()
            .is_some_and(|it| it.iter().any(|it| it["door"] == "code" && it["address"] == CLIENT))
    };
    fleet.knock(0, &wrong);
    for gateway in [gw1, gw2, gw3] {
        let log = || gateway.knockd().log().join("\n");
        assert!(eventually(PATIENCE, || locked(gateway)), "{}: {}", gateway.name, log());
    }
    gw2.says(&["unlock", CLIENT]);
    for gateway in [gw1, gw2, gw3] {
        assert!(eventually(PATIENCE, || !locked(gateway)), "{} stays locked", gateway.name);
    }
}
