//! QR codes made of text.

use fast_qr::{ECL, QRBuilder};

/// How wide the light frame is that a reader needs around a code, in modules.
const QUIET: usize = 4;
/// Black on white whatever the colours of the terminal are: numbers above 15 of its 256 colours
/// are no part of a theme.
const BLACK_ON_WHITE: &str = "\x1b[38;5;16;48;5;231m";
const PLAIN: &str = "\x1b[0m";

/// The code, in lines with its light frame; half a character is one module.
///
/// With `colours` it is black on white on any terminal. Without, dark modules are what is printed,
/// as on paper. `None` above 2953 bytes.
pub(super) fn draw(text: &str, colours: bool) -> Option<String> {
    // Screens have no stains: the least correction makes the smallest code.
    let code = QRBuilder::new(text).ecl(ECL::L).build().ok()?;
    let is_dark = |x: usize, y: usize| {
        let place = x.checked_sub(QUIET).zip(y.checked_sub(QUIET));
        let inside = place.filter(|&(x, y)| x < code.size && y < code.size);
        let module = inside.and_then(|(x, y)| code.data.get(y * code.size + x));
        module.is_some_and(|module| module.value())
    };
    let size = code.size + 2 * QUIET;
    let (start, end) = if colours { (BLACK_ON_WHITE, PLAIN) } else { ("", "") };
    let line = |y: usize| {
        let half = |x| match (is_dark(x, y), is_dark(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        };
        format!("{start}{}{end}\n", (0..size).map(half).collect::<String>())
    };
    Some((0..size).step_by(2).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URI: &str = "otpauth://totp/gw.example.com:phone?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\
                       &issuer=gw.example.com";

    /// What a camera sees of it, some pixels to a module.
    fn read(drawn: &str) -> Option<String> {
        const PIXELS: usize = 4;
        let lines: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
        let is_dark = |x: usize, y: usize| match lines[y / 2][x] {
            '█' => true,
            '▀' => y.is_multiple_of(2),
            '▄' => !y.is_multiple_of(2),
            _ => false,
        };
        let (width, height) = (lines[0].len() * PIXELS, lines.len() * 2 * PIXELS);
        let mut seen = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            if is_dark(x / PIXELS, y / PIXELS) { 0 } else { 255 }
        });
        let codes = seen.detect_grids();
        codes.first().and_then(|code| code.decode().ok()).map(|(_, text)| text)
    }

    #[test]
    fn a_reader_reads_what_is_drawn() {
        for text in [URI, "x", &"192.0.2.1 äöü\n".repeat(40)] {
            assert_eq!(read(&draw(text, false).unwrap()).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_light_frame_of_four_modules_is_around_it() {
        let drawn = draw(URI, false).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        let blank = |line: &str| line.chars().all(|c| c == ' ');
        assert!(blank(lines[0]) && blank(lines[1]) && !blank(lines[2]));
        assert!(lines.iter().all(|line| line.starts_with("    ") && line.ends_with("    ")));
    }

    #[test]
    fn on_a_terminal_every_line_sets_both_colours_and_gives_them_back() {
        let drawn = draw(URI, true).unwrap();
        let plain = draw(URI, false).unwrap();
        for (line, plain) in drawn.lines().zip(plain.lines()) {
            assert_eq!(line, format!("\x1b[38;5;16;48;5;231m{plain}\x1b[0m"));
        }
    }

    #[test]
    fn a_code_with_a_secret_fits_an_ordinary_terminal() {
        let drawn = draw(URI, false).unwrap();
        assert!(drawn.lines().count() <= 26 && drawn.lines().all(|line| line.chars().count() < 80));
    }

    #[test]
    fn more_than_a_code_holds_is_not_drawn() {
        assert_eq!(draw(&"x".repeat(5000), false), None);
    }
}
