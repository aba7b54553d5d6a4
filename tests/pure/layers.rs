//! Each module imports only from the layers below it and from the left in its own row.
//!
//! The table is the one in `src/lib.rs`: what is written there is what is enforced here. Within
//! `config`, no files import one another.

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
fn the_client_names_no_system_but_in_its_platform() {
    let systems = [["std", "os"], ["nix", ""], ["libc", ""], ["windows_sys", ""], ["ctrlc", ""]];
    let of_client = |path: &Path| path.starts_with("client") || path == Path::new("client.rs");
    for (path, text) in sources().into_iter().filter(|(path, _)| of_client(path)) {
        if path.starts_with("client/platform") {
            continue;
        }
        // Tests run where the daemon is built.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for name in paths(code.parse().unwrap()) {
            let is_a_systems = |[one, other]: &[&str; 2]| {
                name[0] == *one && (other.is_empty() || name.get(1).is_some_and(|it| it == other))
            };
            assert!(
                !systems.iter().any(is_a_systems),
                "src/{}: {}",
                path.display(),
                name.join("::")
            );
        }
    }
}

/// The first two names of every path in code, those of imports included.
fn paths(code: TokenStream) -> Vec<Vec<String>> {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let is_colon =
        |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => found.extend(paths(group.stream())),
            TokenTree::Ident(name) if is_colon(at + 1) && is_colon(at + 2) => {
                found.extend(
                    heads(tokens.get(at + 3)).into_iter().map(|next| vec![name.to_string(), next]),
                );
            }
            _ => {}
        }
    }
    found
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

/// Circles of imports between the files of one top-level module.
///
/// Each file is a node, and each path in it, of a `use` or in the code, is an edge to the file that
/// *defines* what it names: `super`, `self`, `crate` and re-exports are followed, so an item that is
/// imported through its parent counts for the file that it stands in. That a parent declares and
/// re-exports its children is no edge of the parent; nor is what a file's own tests import.
mod circles {
    use super::*;

    /// `["config", "read", "door"]`, or what follows it in a path.
    type Path = Vec<String>;
    type Files = BTreeMap<Path, File>;

    #[derive(Debug, Default)]
    struct File {
        /// The names that it defines.
        items: BTreeSet<String>,
        /// The names that it imports or re-exports, with what they stand for.
        names: BTreeMap<String, Path>,
        /// The paths that it uses, re-exports aside.
        paths: BTreeSet<Path>,
    }

    fn read(text: &str) -> File {
        let tokens: TokenStream = text.parse().expect("source files are Rust");
        let mut file = File::default();
        read_items(tokens, &mut file);
        file
    }

    fn read_items(tokens: TokenStream, file: &mut File) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let word = |at: usize| tokens.get(at).map(ToString::to_string).unwrap_or_default();
        let mut rest = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            match word(at).as_str() {
                // Not that of `impl Trait + use<'a>`.
                "use" if word(at + 1) != "<" => {
                    let end = (at..tokens.len()).find(|&end| word(end) == ";");
                    let end = end.expect("a use ends");
                    let before = at.saturating_sub(1);
                    let is_exported = word(before) == "pub" || word(before).starts_with('(');
                    for (name, path) in imports(&tokens[at + 1..end], &[]) {
                        if !is_exported {
                            file.paths.insert(path.clone());
                        }
                        file.names.insert(name, path);
                    }
                    at = end;
                }
                "mod" if word(at + 1) == "tests" => {
                    at += 3;
                    continue;
                }
                "struct" | "enum" | "fn" | "const" | "static" | "type" | "trait" => {
                    file.items.insert(word(at + 1));
                }
                // What a macro defines.
                "!" => {
                    if let Some(TokenTree::Group(group)) = tokens.get(at + 1) {
                        read_items(group.stream(), file);
                    }
                }
                _ => {}
            }
            rest.extend(tokens.get(at).cloned());
            at += 1;
        }
        read_paths(&rest, &mut file.paths);
    }

    /// The names that a tree of imports brings, with their paths.
    fn imports(tokens: &[TokenTree], above: &[String]) -> Vec<(String, Path)> {
        let mut path = above.to_vec();
        let mut name = None;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) if ident == "as" => {
                    name = tokens.get(at + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let is_comma =
                        |it: &TokenTree| matches!(it, TokenTree::Punct(p) if p.as_char() == ',');
                    return inner.split(is_comma).flat_map(|part| imports(part, &path)).collect();
                }
            }
        }
        let name = name.or_else(|| path.last().cloned());
        name.map(|name| (name, path)).into_iter().collect()
    }

    /// Every path of two names or more in code.
    fn read_paths(tokens: &[TokenTree], paths: &mut BTreeSet<Path>) {
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => {
                    read_paths(&group.stream().into_iter().collect::<Vec<_>>(), paths);
                }
                TokenTree::Ident(ident) => {
                    let mut path = vec![ident.to_string()];
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (is_colon(at + 1), is_colon(at + 2), tokens.get(at + 3))
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        paths.insert(path);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// The file that defines what a path names that stands in `module`; `None`: none of ours.
    /// `steps` ends names that stand for themselves.
    fn defining(files: &Files, module: &[String], path: &[String], steps: u8) -> Option<Path> {
        let Some((first, rest)) = path.split_first() else { return Some(module.to_vec()) };
        let steps = steps.checked_sub(1)?;
        let child = [module, std::slice::from_ref(first)].concat();
        let start: Path = match first.as_str() {
            "crate" | "libknock" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            _ if files.contains_key(&child) => child,
            _ => {
                let file = files.get(module)?;
                if file.items.contains(first) {
                    return Some(module.to_vec());
                }
                let path = [file.names.get(first)?.as_slice(), rest].concat();
                return defining(files, module, &path, steps);
            }
        };
        // What a module is not known to define is taken for its own.
        defining(files, &start, rest, steps).or(Some(start).filter(|it| files.contains_key(it)))
    }

    /// The files of each module that import one another, in any number of steps.
    fn circles(files: &Files) -> Vec<Vec<String>> {
        let edges = |module: &Path| {
            let file = &files[module];
            let found = file.paths.iter().filter_map(|path| defining(files, module, path, 16));
            let own = |found: &Path| found != module && found.first() == module.first();
            found.filter(own).collect::<BTreeSet<_>>()
        };
        let graph: BTreeMap<&Path, _> =
            files.keys().map(|module| (module, edges(module))).collect();
        let reached = |from: &Path| {
            let mut reached = BTreeSet::new();
            let mut next = vec![from];
            while let Some(module) = next.pop() {
                next.extend(graph[module].iter().filter(|found| reached.insert((*found).clone())));
            }
            reached
        };
        let reached: BTreeMap<&Path, _> = files.keys().map(|it| (it, reached(it))).collect();
        let circle_of = |module: &&Path| {
            let both = |other: &&Path| {
                reached[*module].contains(*other) && reached[*other].contains(*module)
            };
            files.keys().filter(both).map(|it| it.join("/")).collect::<Vec<_>>()
        };
        let found: BTreeSet<Vec<String>> = files.keys().map(|it| circle_of(&it)).collect();
        found.into_iter().filter(|circle| !circle.is_empty()).collect()
    }

    fn module_of(path: &str) -> Path {
        let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn no_files_of_config_import_one_another() {
        let is_code = |path: &str| !path.ends_with("tests.rs") && !path.contains("/tests/");
        let files: Files = sources()
            .iter()
            .filter(|(path, _)| is_code(path.to_str().unwrap()))
            .map(|(path, text)| (module_of(path.to_str().unwrap()), read(text)))
            .collect();
        let circles = circles(&files);
        let (own, others): (Vec<_>, Vec<_>) =
            circles.into_iter().partition(|circle| circle[0].starts_with("config/"));
        for circle in others {
            println!("these import one another: {}", circle.join(", "));
        }
        assert_eq!(own, [[""; 0]; 0], "these import one another");
    }

    fn of(texts: &[(&str, &str)]) -> Vec<Vec<String>> {
        circles(&texts.iter().map(|(path, text)| (module_of(path), read(text))).collect())
    }

    #[test]
    fn two_files_that_import_one_another_are_a_circle() {
        let one = ("a/one.rs", "use super::two::Two; struct One;");
        let found = of(&[("a.rs", ""), one, ("a/two.rs", "fn f() { crate::a::one::g() }")]);
        assert_eq!(found, [["a/one", "a/two"]]);
        assert!(of(&[("a.rs", ""), one, ("a/two.rs", "struct Two;")]).is_empty());
    }

    #[test]
    fn an_item_counts_for_the_file_that_defines_it() {
        let parent =
            ("a.rs", "mod one; mod two; pub use one::One; pub(crate) use two::{self, Two};");
        let one = ("a/one.rs", "use super::Two; pub struct One;");
        assert_eq!(of(&[parent, one, ("a/two.rs", "use super::One;")]), [["a/one", "a/two"]]);
        assert!(of(&[parent, one, ("a/two.rs", "words! { pub enum Two { A } }")]).is_empty());
    }

    #[test]
    fn a_parent_that_uses_its_child_may_not_be_used_by_it() {
        let child = ("a/one.rs", "use super::{Own}; pub fn f() {}");
        assert_eq!(of(&[("a.rs", "struct Own; fn g() { one::f() }"), child]), [["a", "a/one"]]);
        assert!(of(&[("a.rs", "mod one; pub use one::f; struct Own;"), child]).is_empty());
    }

    #[test]
    fn what_tests_import_does_not_count() {
        let one = ("a/one.rs", "struct One; #[cfg(test)] mod tests { use crate::a::two::Two; }");
        assert!(of(&[("a.rs", ""), one, ("a/two.rs", "use super::one::One;")]).is_empty());
    }
}
