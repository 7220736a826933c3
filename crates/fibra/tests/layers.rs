//! The structure that ARCHITECTURE.md promises, checked.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Crate name and layer, from the table in ARCHITECTURE.md.
fn layers() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let layer = cells.next()?.trim().parse().ok()?;
        Some((cells.next()?.trim().trim_matches('`').to_owned(), layer))
    });
    rows.collect()
}

struct Crate {
    name: String,
    folder: PathBuf,
    manifest: String,
}

fn crates() -> Vec<Crate> {
    let list = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let folders = list.chain([root().join("bench")]);
    let read = |folder: PathBuf| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap();
        Crate { name: name.trim_matches('"').to_owned(), folder, manifest }
    };
    folders.map(read).collect()
}

fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            out.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            out.push((entry.to_string_lossy().into_owned(), text));
        }
    }
    out
}

/// The lines of a file that end up in the library: no comments, no tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Tests inside a file come last; a `mod tests;` elsewhere hides nothing.
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(all(test, not(loom)))]\nmod tests {"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let lines = text[..tests.unwrap_or(text.len())].lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn every_crate_has_a_layer_and_uses_only_lower_ones() {
    let layers = layers();
    assert!(layers.len() >= 6, "the table was found: {layers:?}");
    for Crate { name, manifest, .. } in crates() {
        let own = *layers.get(&name).unwrap_or_else(|| panic!("{name} is not in ARCHITECTURE.md"));
        // `name = ..`, `name.workspace = true`, `[dependencies.name]`, `.. package = "name"`.
        let lines = manifest.lines().filter(|line| !line.starts_with("description"));
        for used in lines.flat_map(|line| line.split(['.', ' ', '=', ']', '"'])) {
            if used == name {
                continue;
            }
            if let Some(other) = layers.get(used) {
                assert!(*other < own, "{name} (layer {own}) uses {used} (layer {other})");
            }
        }
    }
}

#[test]
fn every_crate_takes_the_lints_and_versions_of_the_workspace() {
    for Crate { name, manifest, .. } in crates() {
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has no workspace lints");
        for key in ["version", "edition", "rust-version", "license"] {
            assert!(manifest.contains(&format!("{key}.workspace = true")), "{name}: {key}");
        }
    }
}

#[test]
fn crates_above_the_runtime_forbid_unsafe_code() {
    for Crate { name, folder, .. } in crates() {
        if matches!(name.as_str(), "fibra" | "fibra-cli" | "fibra-macros") {
            let roots = [folder.join("src/lib.rs"), folder.join("src/main.rs")];
            let text = roots.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        }
    }
}

/// Words that may stand in a few places only: raw system calls, clocks, sockets of std.
const HOMES: [(&str, &[&str]); 5] = [
    ("libc::", &["fibra-driver/src", "fibra-runtime/src/stack"]),
    ("rustix::", &["fibra-driver/src", "fibra-runtime/src/stack", "fibra-cli/src/cmd/doctor"]),
    ("std::time::Instant", &["fibra-driver/src/clock.rs", "fibra-driver/src/sys", "fibra-cli/src"]),
    ("SystemTime", &[]),
    ("std::net::TcpListener::bind", &["fibra-cli/src/cmd/echo/thread.rs"]),
];

#[test]
fn raw_system_calls_and_clocks_stay_in_their_homes() {
    for Crate { folder, .. } in crates().into_iter().filter(|one| one.name != "bench") {
        for (path, text) in sources(&folder.join("src")) {
            if path.ends_with("tests.rs")
                || path.ends_with("measure.rs")
                || path.contains("/tests/")
            {
                continue;
            }
            for (word, homes) in HOMES {
                if homes.iter().any(|home| path.contains(home)) {
                    continue;
                }
                for (number, line) in code(&text) {
                    let at = number + 1;
                    // Error numbers are constants in capitals, and no system calls.
                    let found = line.split(word).skip(1).any(|rest| {
                        word != "libc::" || rest.starts_with(|c: char| c.is_ascii_lowercase())
                    });
                    assert!(!found, "{path}:{at}: `{word}` belongs in {homes:?}");
                }
            }
        }
    }
}

#[test]
fn files_and_functions_stay_readable() {
    for Crate { folder, .. } in crates() {
        for (path, text) in sources(&folder) {
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.len() <= 800, "{path}: {} lines", lines.len());
            assert!(!text.contains(concat!("FIX", "ME")), "{path} has one");
            if !path.contains("/tests/") {
                check_functions(&path, &lines);
            }
        }
    }
}

/// A function ends at the brace that stands as deep as its head.
fn check_functions(path: &str, lines: &[&str]) {
    const LEN_MAX: usize = 70;
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in lines.iter().enumerate() {
        let depth = line.len() - line.trim_start().len();
        let is_head = line.split_whitespace().take(4).any(|word| word == "fn");
        match open {
            None if is_head && !line.ends_with([';', '}']) => open = Some((number, depth)),
            Some((first, own)) if depth == own && line.trim_start().starts_with(['}', ';']) => {
                let len = number - first + 1;
                assert!(len <= LEN_MAX, "{path}:{}: a function of {len} lines", first + 1);
                open = None;
            }
            _ => {}
        }
    }
}
