//! `Noise_X_25519_ChaChaPoly_SHA256` in one message, on keys and randomness that are passed in.

use std::collections::HashMap;
use std::sync::Arc;

use snow::Builder;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use super::key::{KEY_LEN, PrivateKey, PublicKey};
use super::payload::PAYLOAD_LEN;

const PATTERN: &str = "Noise_X_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"knock spa v1";
/// e, s with its tag, the payload with its tag.
pub(super) const MESSAGE_LEN: usize = KEY_LEN + (KEY_LEN + 16) + (PAYLOAD_LEN + 16);

/// The pattern, parsed once.
pub(super) fn params() -> NoiseParams {
    PATTERN.parse().expect("a pattern that the library has")
}

/// The message in which a client says `payload` to a server.
pub(super) fn write(
    client: &PrivateKey,
    server: &PublicKey,
    ephemeral: [u8; KEY_LEN],
    payload: &[u8; PAYLOAD_LEN],
) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    let resolver = Resolver { ephemeral: Some(ephemeral), ..Resolver::default() };
    Builder::with_resolver(params(), Box::new(resolver))
        .local_private_key(client.expose())
        .and_then(|builder| builder.remote_public_key(server.as_bytes()))
        .and_then(|builder| builder.prologue(PROLOGUE))
        .and_then(Builder::build_initiator)
        .and_then(|mut state| state.write_message(payload, &mut message))
        .expect("keys that agree, and room for the message");
    message
}

/// Who says what in a message to a server; nothing unless all of it is genuine.
pub(super) fn read(
    params: NoiseParams,
    server: &X25519,
    message: &[u8; MESSAGE_LEN],
) -> Option<(PublicKey, [u8; PAYLOAD_LEN])> {
    let resolver = Resolver { server: Some(server.clone()), ..Resolver::default() };
    let mut state = Builder::with_resolver(params, Box::new(resolver))
        .local_private_key(server.privkey())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .and_then(Builder::build_responder)
        .ok()?;
    let mut payload = [0; PAYLOAD_LEN];
    if state.read_message(message, &mut payload).ok()? != PAYLOAD_LEN {
        return None;
    }
    let client: &[u8; KEY_LEN] = state.get_remote_static()?.try_into().ok()?;
    Some((PublicKey::try_from(*client).ok()?, payload))
}

/// The public key of a private one.
pub(super) fn public(private: &[u8]) -> [u8; KEY_LEN] {
    X25519::of(private).pubkey().try_into().expect("a key of this curve")
}

/// The library's own primitives, but for randomness, which it is given, and for agreement, which
/// [`X25519`] checks.
#[derive(Default)]
struct Resolver {
    ephemeral: Option<[u8; KEY_LEN]>,
    server: Option<X25519>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(PresetRandom(self.ephemeral)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(self.server.clone().unwrap_or_default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Randomness that was asked for beforehand; it is given away once.
struct PresetRandom(Option<[u8; KEY_LEN]>);

impl Random for PresetRandom {
    fn try_fill_bytes(&mut self, room: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if bytes.len() == room.len() => {
                room.copy_from_slice(&bytes);
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}

/// X25519 that refuses a secret to which only one side contributed (RFC 7748, section 6.1).
///
/// Copies share their private key, which then never changes, with what is known of it already and
/// would else be worked out for each message: its public key, and what it agrees on with those who
/// are expected. Their messages take half the time.
#[derive(Clone)]
pub(super) struct X25519 {
    own: Arc<Box<dyn Dh>>,
    agreed: Arc<HashMap<[u8; KEY_LEN], Zeroizing<[u8; KEY_LEN]>>>,
}

/// How many are expected at most. Each takes some 0.05 ms at the start.
const MOST_EXPECTED: usize = 1024;

/// No key yet.
impl Default for X25519 {
    fn default() -> Self {
        let own = DefaultResolver.resolve_dh(&DHChoice::Curve25519);
        Self { own: Arc::new(own.expect("a curve that the library has")), agreed: Arc::default() }
    }
}

impl X25519 {
    fn of(private: &[u8]) -> Self {
        let mut own = Self::default();
        own.set(private);
        own
    }

    /// A server's key, prepared for the clients that are expected.
    pub(super) fn prepared(
        server: &PrivateKey,
        expected: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        let own = Self::of(server.expose());
        let agree = |client: PublicKey| {
            let mut secret = Zeroizing::new([0; KEY_LEN]);
            own.dh(client.as_bytes(), &mut *secret).ok()?;
            Some((*client.as_bytes(), secret))
        };
        let agreed = expected.into_iter().take(MOST_EXPECTED).filter_map(agree).collect();
        Self { agreed: Arc::new(agreed), ..own }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        self.own.name()
    }

    fn pub_len(&self) -> usize {
        self.own.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.own.priv_len()
    }

    /// A key that is shared is set already.
    fn set(&mut self, private: &[u8]) {
        if let Some(own) = Arc::get_mut(&mut self.own) {
            own.set(private);
        }
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        Arc::get_mut(&mut self.own).ok_or(snow::Error::Rng)?.generate(random)
    }

    fn pubkey(&self) -> &[u8] {
        self.own.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.own.privkey()
    }

    fn dh(&self, point: &[u8], secret: &mut [u8]) -> Result<(), snow::Error> {
        // The library hands over room for the longest key that it knows.
        let agreed = point.get(..KEY_LEN).and_then(|point| self.agreed.get(point));
        if let (Some(agreed), Some(secret)) = (agreed, secret.first_chunk_mut::<KEY_LEN>()) {
            secret.copy_from_slice(agreed.as_slice());
            return Ok(());
        }
        self.own.dh(point, secret)?;
        // All of the secret is looked at, whatever it holds; behind it there may be room to spare.
        let any = secret.iter().take(KEY_LEN).fold(0, |any, byte| any | byte);
        if any == 0 { Err(snow::Error::Dh) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a private key and a point agree on, if both of them count.
    pub(in crate::proto::spa) fn agree(
        private: &[u8; KEY_LEN],
        point: &[u8; KEY_LEN],
    ) -> Option<[u8; KEY_LEN]> {
        let mut secret = [0; KEY_LEN];
        X25519::of(private).dh(point, &mut secret).ok().map(|()| secret)
    }

    #[test]
    fn what_is_prepared_for_a_client_is_not_worked_out_again() {
        let [server, client] = [[1; KEY_LEN], [2; KEY_LEN]].map(PrivateKey::from);
        let message = write(&client, &server.public(), [3; KEY_LEN], &[4; PAYLOAD_LEN]);
        let reads = |prepared: &X25519| read(params(), prepared, &message).is_some();
        let mut prepared = X25519::prepared(&server, [client.public()]);
        assert!(reads(&prepared));
        // Nothing but what was prepared can make the difference.
        let agreed = Arc::get_mut(&mut prepared.agreed).unwrap();
        agreed.values_mut().for_each(|secret| secret[0] ^= 1);
        assert!(!reads(&prepared));
        assert!(reads(&X25519::prepared(&server, [])));
    }

    /// The private key of a client that its holder lacks, with the server's in its place: what the
    /// two agree on is the same from either side.
    #[derive(Clone)]
    struct Impostor {
        victim: PublicKey,
        server: PrivateKey,
        ephemeral: Option<X25519>,
    }

    impl Dh for Impostor {
        fn name(&self) -> &'static str {
            "25519"
        }

        fn pub_len(&self) -> usize {
            KEY_LEN
        }

        fn priv_len(&self) -> usize {
            KEY_LEN
        }

        fn set(&mut self, _: &[u8]) {}

        fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
            self.ephemeral.insert(X25519::default()).generate(random)
        }

        fn pubkey(&self) -> &[u8] {
            self.ephemeral.as_ref().map_or(self.victim.as_bytes(), Dh::pubkey)
        }

        fn privkey(&self) -> &[u8] {
            &[]
        }

        fn dh(&self, point: &[u8], secret: &mut [u8]) -> Result<(), snow::Error> {
            match &self.ephemeral {
                Some(ephemeral) => ephemeral.dh(point, secret),
                None => X25519::of(self.server.expose()).dh(self.victim.as_bytes(), secret),
            }
        }
    }

    impl CryptoResolver for Impostor {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            Some(Box::new(PresetRandom(Some([3; KEY_LEN]))))
        }

        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
            Some(Box::new(self.clone()))
        }

        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
            DefaultResolver.resolve_hash(choice)
        }

        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
            DefaultResolver.resolve_cipher(choice)
        }
    }

    /// A limit of the pattern, as docs/SECURITY.md tells it.
    #[test]
    fn whoever_has_the_servers_key_can_speak_for_whom_they_know_the_public_key_of() {
        let [server, client, other] =
            [[1; KEY_LEN], [2; KEY_LEN], [5; KEY_LEN]].map(PrivateKey::from);
        let says = |server: &PrivateKey, to: &PublicKey| {
            let victim = client.public();
            let impostor = Impostor { victim, server: server.clone(), ephemeral: None };
            let mut message = [0; MESSAGE_LEN];
            Builder::with_resolver(params(), Box::new(impostor))
                .local_private_key(&[0; KEY_LEN])
                .and_then(|builder| builder.remote_public_key(to.as_bytes()))
                .and_then(|builder| builder.prologue(PROLOGUE))
                .and_then(Builder::build_initiator)
                .and_then(|mut state| state.write_message(&[4; PAYLOAD_LEN], &mut message))
                .unwrap();
            message
        };
        let hears =
            |server: &PrivateKey, message| read(params(), &X25519::of(server.expose()), message);
        let spoken_for = says(&server, &server.public());
        assert_eq!(hears(&server, &spoken_for), Some((client.public(), [4; PAYLOAD_LEN])));
        // But not to another server.
        assert_eq!(hears(&other, &says(&server, &other.public())), None);
    }
}
