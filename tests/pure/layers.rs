//! Each module imports only from the layers below it and from the left in its own row.
//!
//! The table is the one in `src/lib.rs`: what is written there is what is enforced here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What one source file says about its place.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    /// The top-level modules that it names.
    imports: BTreeSet<String>,
    /// Whether the word `unsafe` stands in its code.
    says_unsafe: bool,
}

fn read_code(text: &str, depth: usize) -> Findings {
    let tokens: TokenStream = text.parse().expect("source files are Rust");
    let mut findings = Findings::default();
    walk(tokens, depth, &mut findings);
    findings
}

/// `depth` is how many `super` lead to the root of the crate.
fn walk(tokens: TokenStream, depth: usize, findings: &mut Findings) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => ident.to_string(),
        _ => String::new(),
    };
    let is_path = |at: usize| {
        let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == ':');
        is_colon(tokens.get(at)) && is_colon(tokens.get(at + 1))
    };
    let mut at = 0;
    while at < tokens.len() {
        match word(at).as_str() {
            "unsafe" => findings.says_unsafe = true,
            "mod" if matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) => {
                if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                    walk(body.stream(), depth + 1, findings);
                }
                at += 3;
                continue;
            }
            "crate" | "libknock" if is_path(at + 1) => {
                findings.imports.extend(heads(tokens.get(at + 3)));
            }
            "super" => {
                let mut supers = 1;
                while is_path(at + 1) && word(at + 3) == "super" {
                    supers += 1;
                    at += 3;
                }
                if supers == depth && is_path(at + 1) {
                    findings.imports.extend(heads(tokens.get(at + 3)));
                }
            }
            _ => {}
        }
        if let Some(TokenTree::Group(group)) = tokens.get(at) {
            walk(group.stream(), depth, findings);
        }
        at += 1;
    }
}

/// The names that a path goes on with: one, or those of `{a::b, c}`.
fn heads(token: Option<&TokenTree>) -> Vec<String> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let mut heads = Vec::new();
            let mut starts = true;
            for token in group.stream() {
                match token {
                    TokenTree::Punct(p) if p.as_char() == ',' => starts = true,
                    other => {
                        if std::mem::take(&mut starts) {
                            heads.extend(self::heads(Some(&other)));
                        }
                    }
                }
            }
            heads
        }
        Some(token) => vec![token.to_string()],
        None => Vec::new(),
    }
}

/// Module -> (row from the top, place in it), from the table in the crate's documentation.
fn table(lib: &str) -> BTreeMap<String, (usize, usize)> {
    let lines = lib.lines().skip_while(|line| *line != "//! ```text").skip(1);
    let mut table = BTreeMap::new();
    for (row, line) in lines.take_while(|line| *line != "//! ```").enumerate() {
        let mut chunks: Vec<&str> =
            line.trim_start_matches("//!").split("  ").map(str::trim).collect();
        chunks.retain(|chunk| !chunk.is_empty());
        chunks.pop().expect("each row says what it is for");
        for (place, module) in chunks.into_iter().enumerate() {
            table.insert(module.to_owned(), (row, place));
        }
    }
    table
}

/// Why `module` may not import `imported`; `None` if it may.
fn objection(
    table: &BTreeMap<String, (usize, usize)>,
    module: &str,
    imported: &str,
) -> Option<String> {
    if module == imported {
        return None;
    }
    let Some(&(row, place)) = table.get(module) else {
        return Some(format!("`{module}` is not in the table in src/lib.rs"));
    };
    let Some(&(other_row, other_place)) = table.get(imported) else {
        return Some(format!("`{imported}` is not in the table in src/lib.rs"));
    };
    if other_row > row || (other_row == row && other_place < place) {
        None
    } else {
        Some(format!("`{module}` imports `{imported}`, which is above it or to its right"))
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Each source file but lib.rs: its path below src, its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(src()).unwrap().to_owned(), text));
            }
        }
    }
    found.retain(|(path, _)| path != Path::new("lib.rs"));
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// `engine/verdict.rs` -> `engine` and how deep it lies.
fn place_of(path: &Path) -> (String, usize) {
    let mut parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|part| part == "mod") {
        parts.pop();
    }
    (parts[0].clone(), parts.len())
}

#[test]
fn every_import_points_down_or_left() {
    let table = table(&std::fs::read_to_string(src().join("lib.rs")).unwrap());
    let mut objections = Vec::new();
    for (path, text) in sources() {
        let (module, depth) = place_of(&path);
        for imported in read_code(&text, depth).imports {
            if let Some(objection) = objection(&table, &module, &imported) {
                objections.push(format!("src/{}: {objection}", path.display()));
            }
        }
    }
    assert!(objections.is_empty(), "{}", objections.join("\n"));
}

#[test]
fn unsafe_code_stands_only_in_sys() {
    for (path, text) in sources() {
        let (module, depth) = place_of(&path);
        if module != "sys" {
            assert!(!read_code(&text, depth).says_unsafe, "src/{}: unsafe code", path.display());
        }
    }
}

#[test]
fn the_crate_denies_unsafe_code_and_sys_alone_allows_it() {
    let named = |(path, text): (PathBuf, String)| {
        let allows = ["allow(unsafe_code", "expect(unsafe_code"];
        let names = |line: &&str| allows.iter().any(|allow| line.contains(allow));
        let lint = text.lines().find(names)?.to_owned();
        Some((path.display().to_string(), lint))
    };
    let sys = r#"#![allow(unsafe_code, reason = "the one module that may")]"#;
    let sys = ("sys.rs".to_owned(), sys.to_owned());
    assert_eq!(sources().into_iter().filter_map(named).collect::<Vec<_>>(), [sys]);
    let cargo = std::fs::read_to_string(src().join("../Cargo.toml")).unwrap();
    assert!(cargo.lines().any(|line| line == r#"unsafe_code = "deny""#));
}

#[test]
fn every_module_of_the_crate_is_in_the_table() {
    let table = table(&std::fs::read_to_string(src().join("lib.rs")).unwrap());
    let modules: BTreeSet<String> = sources().iter().map(|(path, _)| place_of(path).0).collect();
    assert_eq!(table.into_keys().collect::<BTreeSet<_>>(), modules);
}

mod the_checks_themselves {
    use super::*;

    const LIB: &str = "//! ```text\n\
                       //! bin      one · two\n\
                       //! client  ctl  the shells\n\
                       //! wire  engine  pure: (now, input) -> decision\n\
                       //! time     passed in\n\
                       //! ```\n";

    fn imports(text: &str, depth: usize) -> Vec<String> {
        read_code(text, depth).imports.into_iter().collect()
    }

    #[test]
    fn the_table_is_read_row_by_row() {
        let table = table(LIB);
        assert_eq!(table["client"], (1, 0));
        assert_eq!(table["engine"], (2, 1));
        assert_eq!(table.len(), 6);
    }

    #[test]
    fn down_and_left_are_allowed() {
        let table = table(LIB);
        assert_eq!(objection(&table, "ctl", "client"), None);
        assert_eq!(objection(&table, "engine", "time"), None);
        assert_eq!(objection(&table, "engine", "engine"), None);
    }

    #[test]
    fn up_right_and_the_unknown_are_not() {
        let table = table(LIB);
        for (module, imported) in
            [("engine", "client"), ("wire", "engine"), ("time", "wire"), ("ctl", "stranger")]
        {
            assert!(objection(&table, module, imported).is_some(), "{module} -> {imported}");
        }
    }

    #[test]
    fn every_way_of_naming_a_module_is_seen() {
        assert_eq!(imports("use crate::time::Now;", 1), ["time"]);
        assert_eq!(imports("use crate::{time::Now, wire::{self, Packet}};", 1), ["time", "wire"]);
        assert_eq!(imports("fn f() { assert!(crate::ctl::run()) }", 1), ["ctl"]);
        assert_eq!(imports("fn main() { libknock::client::main() }", 2), ["client"]);
        assert_eq!(imports("use super::{keeper, log::Log};", 1), ["keeper", "log"]);
        assert_eq!(imports("use super::super::ctl::run;", 2), ["ctl"]);
        assert_eq!(imports("mod tests { use super::super::ctl; }", 1), ["ctl"]);
        assert_eq!(imports("use crate::*;", 1), ["*"]);
    }

    #[test]
    fn words_and_siblings_are_not_imports() {
        assert_eq!(imports("use super::sibling; // crate::ctl", 2), [""; 0]);
        assert_eq!(
            imports("const A: &str = \"crate::ctl\"; /// crate::ctl\nstruct B;", 1),
            [""; 0]
        );
        assert_eq!(imports("mod tests { use super::*; }", 1), [""; 0]);
        assert_eq!(imports("pub(crate) fn f() {} pub(super) fn g() {}", 1), [""; 0]);
    }

    #[test]
    fn unsafe_is_seen_in_code_and_only_there() {
        assert!(read_code("fn f() { unsafe { g() } }", 1).says_unsafe);
        assert!(read_code("mod inner { unsafe fn f() {} }", 1).says_unsafe);
        assert!(
            !read_code("// unsafe\n#![forbid(unsafe_code)]\nconst A: &str = \"unsafe\";", 1)
                .says_unsafe
        );
    }
}
