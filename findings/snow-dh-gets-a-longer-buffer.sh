#!/bin/sh
# snow 0.10.0: what an own implementation of its trait Dh is handed is longer than a key.
#
# Seen, with X25519, whose public keys and shared secrets have 32 bytes: Dh::dh gets a public key of
# 56 bytes (the longest that the library knows) with zeros at its end, and 56 bytes for the secret.
# Whoever compares the public key with one of 32 bytes, or copies the secret with copy_from_slice,
# finds nothing or panics; the pub_len that the implementation itself gives is what counts.
# Needs cargo.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'END'
[package]
name = "finding"
edition = "2024"

[dependencies.snow]
version = "=0.10.0"
default-features = false
features = ["default-resolver", "use-getrandom", "use-curve25519", "use-chacha20poly1305", "use-sha2"]
END
cat >"$dir/src/main.rs" <<'END'
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error};

struct Wrapped;

impl CryptoResolver for Wrapped {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Shown(DefaultResolver.resolve_dh(choice)?)))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Shown(Box<dyn Dh>);

impl Dh for Shown {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }
    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }
    fn set(&mut self, key: &[u8]) {
        self.0.set(key);
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        self.0.generate(random)
    }
    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }
    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }
    fn dh(&self, public: &[u8], secret: &mut [u8]) -> Result<(), Error> {
        let spare = public.iter().skip(self.pub_len()).all(|byte| *byte == 0);
        println!("pub_len {}, public key {}, zeros behind it: {spare}, secret {}",
            self.pub_len(), public.len(), secret.len());
        self.0.dh(public, secret)
    }
}

fn main() {
    let name = "Noise_X_25519_ChaChaPoly_SHA256".parse::<snow::params::NoiseParams>().unwrap();
    let keys = || Builder::new(name.clone()).generate_keypair().unwrap();
    let (client, server) = (keys(), keys());
    let mut initiator = Builder::with_resolver(name.clone(), Box::new(Wrapped))
        .local_private_key(&client.private).unwrap()
        .remote_public_key(&server.public).unwrap()
        .build_initiator().unwrap();
    let mut message = [0; 256];
    initiator.write_message(b"hello", &mut message).unwrap();
}
END
cargo run --quiet --manifest-path "$dir/Cargo.toml" >"$dir/seen"
sort -u "$dir/seen"
[ "$(sort -u "$dir/seen")" = "pub_len 32, public key 56, zeros behind it: true, secret 56" ]
echo "as described"
