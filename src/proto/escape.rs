//! Escapes: no text may write to somebody's terminal.

/// The text with its control characters escaped, and those that change how a line is shown: it stays
/// one line, and a terminal obeys nothing.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(escape("a\nb\x1b[31m\u{9b}c\u{202e}"), "a\\nb\\u{1b}[31m\\u{9b}c\\u{202e}");
        assert_eq!(escape("plain text, ümlaut"), "plain text, ümlaut");
    }
}
