#!/bin/sh
# serde-saphyr 2.1.1: which scalars it takes for numbers and booleans differs from YAML 1.2's core
# schema in both directions.
#
# Seen, with the default options: for a u16 the quoted text '7' is a number, and so are 1_000 and 0b101;
# 017 is not. For a bool `on` and `yes` are true. For a String all of them are taken as they are
# written, but `~` is an error.
# Needs cargo.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'END'
[package]
name = "finding"
edition = "2024"

[dependencies]
serde-saphyr = { version = "=2.1.1", default-features = false, features = ["deserialize"] }
END
cat >"$dir/src/main.rs" <<'END'
fn main() {
    for text in ["'7'", "1_000", "0b101", "017", "on", "yes", "~"] {
        let number = serde_saphyr::from_str::<u16>(text).ok();
        let boolean = serde_saphyr::from_str::<bool>(text).ok();
        let string = serde_saphyr::from_str::<String>(text).ok();
        println!("{text} {number:?} {boolean:?} {string:?}");
    }
}
END
cargo run --quiet --manifest-path "$dir/Cargo.toml" >"$dir/seen"
cat >"$dir/expected" <<'END'
'7' Some(7) None Some("7")
1_000 Some(1000) None Some("1_000")
0b101 Some(5) None Some("0b101")
017 None None Some("017")
on None Some(true) Some("on")
yes None Some(true) Some("yes")
~ None None None
END
diff "$dir/expected" "$dir/seen"
cat "$dir/seen"
echo "as described"
