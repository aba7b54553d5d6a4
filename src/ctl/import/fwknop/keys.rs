//! The keys of a stanza.

use data_encoding::BASE64;

use super::stanzas::{AccessStanza, StanzaVariable};
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnosed, Diagnostic};
use crate::proto::fwknop::{FwknopKey, FwknopKeyError, HmacKey, LENIENT, PLACEHOLDER};

/// A key that fwknop takes, and how it is written. It has no `Debug`.
pub(super) struct ImportedKey {
    pub(super) bytes: Vec<u8>,
    /// `None`: as base64.
    text: Option<String>,
}

impl ImportedKey {
    pub(super) fn write(&self, page: &mut YamlWriter, name: &str) {
        match &self.text {
            Some(text) => page.entry(3, name, text),
            None => page.entry(3, &format!("{name}_base64"), &BASE64.encode(&self.bytes)),
        }
    }
}

/// The key that encrypts, and the one that authenticates where there is one.
///
/// # Errors
/// Says why no request could be opened with them.
pub(super) fn read_keys(stanza: &AccessStanza) -> Diagnosed<(ImportedKey, Option<ImportedKey>)> {
    let Some(given) = stanza.get("KEY") else {
        let error = stanza.at.error("the stanza is left out: it has no KEY");
        return Err(error.help("without a KEY it serves GnuPG or nobody"));
    };
    let key = read_key(given)?;
    FwknopKey::new(key.bytes.clone()).map_err(|error| refused(given, error))?;
    let Some(given) = stanza.get("HMAC_KEY") else { return Ok((key, None)) };
    let hmac = read_key(given)?;
    if hmac.bytes.is_empty() {
        // fwknopd then wants no HMAC.
        return Ok((key, None));
    }
    HmacKey::new(hmac.bytes.clone()).map_err(|error| refused(given, error))?;
    if hmac.bytes == key.bytes {
        return Err(given.left_out("KEY and HMAC_KEY are the same, which fwknopd refuses"));
    }
    Ok((key, Some(hmac)))
}

fn refused(given: &StanzaVariable, error: FwknopKeyError) -> Diagnostic {
    given.left_out(format!("{}: {error}", given.name))
}

/// Whether fwknopd takes this value of a variable for a key.
pub(super) fn is_key(name: &str, value: &[u8]) -> bool {
    let is_text = !name.ends_with("_BASE64") || lenient_base64(value).is_some();
    value != PLACEHOLDER && is_text
}

fn read_key(given: &StanzaVariable) -> Diagnosed<ImportedKey> {
    let placeholder = given.value == PLACEHOLDER;
    if given.name.ends_with("_BASE64") && !placeholder {
        let bytes = lenient_base64(&given.value);
        let bytes = bytes.ok_or_else(|| refused(given, FwknopKeyError::NotBase64))?;
        return Ok(ImportedKey { bytes, text: None });
    }
    let text = String::from_utf8(given.value.clone()).ok();
    let text = text.filter(|text| !text.contains(char::is_control));
    Ok(ImportedKey { bytes: given.value.clone(), text })
}

/// fwknop stops at the first `=` and does not look at the bits that are left over, be they a whole
/// letter.
fn lenient_base64(value: &[u8]) -> Option<Vec<u8>> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let digits =
        value.split(|byte| *byte == b'=').next().filter(|_| value.iter().all(is_letter))?;
    LENIENT.decode(digits.get(..digits.len() - usize::from(digits.len() % 4 == 1))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_leniently_as_fwknop_reads_it() {
        for text in ["YWJj", "YWJj=", "YWJj=rest"] {
            assert_eq!(lenient_base64(text.as_bytes()).as_deref(), Some(b"abc".as_slice()));
        }
        for text in ["YWI", "YWI=", "YWJ"] {
            assert_eq!(lenient_base64(text.as_bytes()).as_deref(), Some(b"ab".as_slice()));
        }
        assert_eq!(lenient_base64(b"===="), Some(Vec::new()));
        assert_eq!(lenient_base64(b"YW-j"), None);
        assert_eq!(lenient_base64(b"YWJjZ").as_deref(), Some(b"abc".as_slice()));
        assert_eq!(lenient_base64(b"YWJj-"), None);
        assert_eq!(lenient_base64(b"YWJj= "), None);
    }

    #[test]
    fn what_yaml_could_not_hold_is_written_as_base64() {
        let written = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).ok();
            let mut page = YamlWriter::default();
            ImportedKey { bytes: bytes.to_vec(), text }.write(&mut page, "key");
            page.into_text()
        };
        assert_eq!(written(b"a b"), "      key: a b\n");
        assert_eq!(written(b"\xff"), "      key_base64: /w==\n");
    }
}
