//! TOTP secrets as people pass them on: base32, and `otpauth://` URIs.

use data_encoding::{Encoding, Specification};
use totp_rs::{Builder, TotpError};
use zeroize::Zeroizing;

use super::Digits;
use crate::proto::secret::Secret;

/// How long a secret is that we make: as long as a SHA-1 hash, as RFC 4226 recommends.
pub const SECRET_BYTES: usize = 20;
/// The least that RFC 4226 allows.
const SHORTEST: usize = 16;

/// The reason why a text is not a TOTP secret. The text is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(
        "character {0} is not a base32 digit: a TOTP secret is letters A to Z and digits 2 to 7, in \
         any case, with or without spaces"
    )]
    Digit(usize),
    #[error("the TOTP secret is cut off: no base32 text has that many digits")]
    CutOff,
    #[error("the TOTP secret is too short: it has {0} bytes, and 16 are the least that is safe")]
    Short(usize),
}

/// A secret from base32, as it is printed anywhere: in either case, in groups, padded or not.
///
/// # Errors
/// [`SecretError`] if it is not base32 or has less than 16 bytes.
pub fn parse_secret(text: &str) -> Result<Secret, SecretError> {
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    let padded = text.trim_end();
    for (place, c) in (1..).zip(padded.trim_end_matches('=').chars()) {
        match c.to_ascii_uppercase() {
            '-' => {}
            c if c.is_whitespace() => {}
            c @ ('A'..='Z' | '2'..='7') => digits.push(c as u8),
            _ => return Err(SecretError::Digit(place)),
        }
    }
    let bytes = base32().decode(&digits).map_err(|_| SecretError::CutOff)?;
    let (length, secret) = (bytes.len(), Secret::new(bytes));
    if length < SHORTEST { Err(SecretError::Short(length)) } else { Ok(secret) }
}

/// Base32 without padding. Bits beyond the last byte are passed over, as authenticators do.
fn base32() -> Encoding {
    let mut lenient: Specification = data_encoding::BASE32_NOPAD.specification();
    lenient.check_trailing_bits = false;
    lenient.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}

/// A secret in base32, without padding: what [`parse_secret`] reads back.
pub fn encode_secret(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(data_encoding::BASE32_NOPAD.encode(secret.expose()))
}

/// The URI that authenticators read, also as a QR code: `otpauth://totp/ISSUER:ACCOUNT?secret=…`,
/// SHA-1; digits and period are named where they are not 6 and 30.
///
/// # Errors
/// [`TotpError`] if a name has a colon, the account has none, or the secret is too short.
pub fn uri(
    secret: &Secret,
    issuer: &str,
    account: &str,
    step: u32,
    digits: Digits,
) -> Result<Zeroizing<String>, TotpError> {
    Builder::new()
        .with_secret(secret.expose().to_vec())
        .with_issuer(Some(issuer))
        .with_account_name(account)
        .with_step_duration(step.into())
        .with_digits(digits.count() as u8)
        .build()
        .and_then(|totp| totp.to_url())
        .map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

    fn bytes(text: &str) -> Result<Vec<u8>, SecretError> {
        parse_secret(text).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn a_secret_may_be_typed_in_lower_case_groups_or_padded() {
        let plain = bytes(TEXT).unwrap();
        assert_eq!(plain, b"Hello!\xde\xad\xbe\xefHello!\xde\xad\xbe\xef");
        for text in [
            "jbswy3dpehpk3pxpjbswy3dpehpk3pxp",
            "JBSW Y3DP EHPK 3PXP JBSW Y3DP EHPK 3PXP",
            "jbsw-y3dp-ehpk-3pxp-jbsw-y3dp-ehpk-3pxp",
            " JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP====\n",
        ] {
            assert_eq!(bytes(text).unwrap(), plain, "{text:?}");
        }
    }

    #[test]
    fn a_secret_shorter_than_16_bytes_is_refused() {
        assert_eq!(bytes("JBSWY3DPEHPK3PXP"), Err(SecretError::Short(10)));
        assert_eq!(bytes(""), Err(SecretError::Short(0)));
        assert!(bytes("AAAAAAAAAAAAAAAAAAAAAAAAAA").is_ok());
    }

    #[test]
    fn bits_beyond_the_last_byte_are_passed_over() {
        let text = "AAAAAAAAAAAAAAAAAAAAAAAAAB";
        assert_eq!(bytes(text).unwrap(), [0; 16]);
    }

    #[test]
    fn what_is_no_base32_is_refused_without_repeating_it() {
        assert_eq!(bytes("JBSWY3DP8"), Err(SecretError::Digit(9)));
        assert_eq!(bytes("JB=SWY"), Err(SecretError::Digit(3)));
        assert_eq!(bytes("otpauth://"), Err(SecretError::Digit(8)));
        assert_eq!(bytes(&TEXT[..27]), Err(SecretError::CutOff));
        assert!(!bytes(&format!("{TEXT}1")).unwrap_err().to_string().contains("JBSW"));
    }

    #[test]
    fn a_uri_has_the_secret_and_whatever_is_not_the_default() {
        let secret = parse_secret(TEXT).unwrap();
        assert_eq!(
            *uri(&secret, "gw.example.com", "phone", 30, Digits::Six).unwrap(),
            format!("otpauth://totp/gw.example.com:phone?secret={TEXT}&issuer=gw.example.com")
        );
        assert_eq!(
            *uri(&secret, "a b", "phone", 60, Digits::Eight).unwrap(),
            format!("otpauth://totp/a%20b:phone?secret={TEXT}&digits=8&issuer=a%20b&period=60")
        );
    }

    #[test]
    fn names_that_no_authenticator_takes_are_refused() {
        let secret = parse_secret(TEXT).unwrap();
        let of = |issuer, account| uri(&secret, issuer, account, 30, Digits::Six).map(|_| ());
        assert!(matches!(of("2001:db8::1", "phone"), Err(TotpError::InvalidIssuer { .. })));
        assert!(matches!(of("gw", "a:b"), Err(TotpError::InvalidAccountName { .. })));
        assert!(of("gw", "").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(random: [u8; SECRET_BYTES], spaces in 0usize..30) {
            let secret = Secret::from(random);
            let mut text = encode_secret(&secret).to_lowercase();
            text.insert(spaces, ' ');
            prop_assert_eq!(parse_secret(&text).unwrap(), secret);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = parse_secret(&text);
        }
    }
}
