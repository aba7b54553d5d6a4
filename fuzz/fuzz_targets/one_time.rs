//! Files of one-time sequences: what is read of one stands there, and to strike a line out takes
//! that line away and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::config::one_time::parse;
use libknock::proto::knock::{Knock, MAX_KNOCKS};

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.split('\n').collect();
    let left = match parse(text) {
        Ok(left) => left,
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.is_sorted_by_key(|error| error.line));
            for error in errors {
                let line = lines[error.line as usize - 1];
                // The caret stands under something, or where something is missing.
                assert!((error.column as usize) <= line.chars().count() + 1, "{error:?}");
                assert!(error.width > 0);
            }
            return;
        }
    };
    for (at, one) in left.iter().enumerate() {
        let line = lines[one.number as usize - 1];
        let naive = |word: &str| {
            let word = word.trim();
            let (port, protocol) = word.split_once([':', '/']).unwrap_or((word, "tcp"));
            format!("{port}/{protocol}").to_ascii_lowercase().parse::<Knock>().expect("a knock")
        };
        assert_eq!(line.split(',').map(naive).collect::<Vec<_>>(), one.knocks);
        assert!((1..=MAX_KNOCKS).contains(&one.knocks.len()));
        let before: usize = lines[..one.number as usize - 1].iter().map(|it| it.len() + 1).sum();
        assert_eq!(one.offset, before);
        if at == 0 {
            let mut struck = text.as_bytes().to_vec();
            struck[one.offset] = b'#';
            let struck = String::from_utf8(struck).expect("one byte is one character here");
            assert_eq!(parse(&struck).as_deref(), Ok(&left[1..]));
        }
    }
});
