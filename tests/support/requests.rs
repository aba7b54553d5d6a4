//! Requests in one datagram: each is made anew and opens once.

use std::net::Ipv4Addr;

use libknock::proto::fwknop;
use libknock::proto::network::Widths;
use libknock::proto::spa::{Addresses, PrivateKey, PublicKey, SpaRequest, seal};
use libknock::sys::clock;
use libknock::time::Wall;

/// Whoever asks.
pub(crate) fn client_key() -> PrivateKey {
    PrivateKey::from([7; 32])
}

/// A native request of the client for the address that it comes from.
pub(crate) fn native(server: &PublicKey) -> Vec<u8> {
    let mut ephemeral = [0; 32];
    getrandom::fill(&mut ephemeral).unwrap();
    let request = SpaRequest {
        widths: Widths::SINGLE,
        open: Addresses::Observed,
        close: false,
        source_port: None,
        open_for: None,
        stamp: clock::now().wall.into(),
        door: None,
    };
    seal(&request, &client_key(), server, ephemeral).to_vec()
}

/// A request for 22/tcp as fwknop makes it; where no address is named, for the one that it comes
/// from.
pub(crate) fn of_fwknop(
    key: &fwknop::FwknopKey,
    hmac: &fwknop::HmacKey,
    address: Option<Ipv4Addr>,
) -> Vec<u8> {
    of_fwknop_to(key, hmac, address, None)
}

/// The same; to another host, where there is one.
pub(crate) fn of_fwknop_to(
    key: &fwknop::FwknopKey,
    hmac: &fwknop::HmacKey,
    address: Option<Ipv4Addr>,
    nat: Option<fwknop::NatAccess>,
) -> Vec<u8> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).unwrap();
    let request = fwknop::FwknopRequest {
        random: fwknop::Random::new(random),
        user: "owner".parse().unwrap(),
        timestamp: clock::now().wall.since(Wall::ZERO).as_secs(),
        access: fwknop::Access { address, ports: vec!["22".parse().unwrap()], nat, timeout: None },
    };
    let hmac = Some((hmac, fwknop::Hash::Sha256));
    let salt = random[..8].try_into().unwrap();
    let keys = fwknop::FwknopKeys { key, mode: fwknop::CipherMode::Cbc, hmac };
    fwknop::seal(&request, fwknop::Hash::Sha256, keys, salt).unwrap().into_bytes()
}
