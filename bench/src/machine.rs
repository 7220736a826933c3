//! What the figures were measured on.

use std::fs;
use std::process::Command;

use crate::json::Json;

/// Name and value of everything worth knowing about the run.
pub fn facts() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    vec![
        ("cpu", format!("{} ({cores} usable)", cpu())),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("rustc", said("rustc", "-V")),
        ("cc", said("cc", "--version")),
        ("go", said("go", "version")),
        ("built", if cfg!(debug_assertions) { "DEBUG: means nothing" } else { "release" }.into()),
        ("load average", read("/proc/loadavg")),
        ("command", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
    ]
}

pub fn to_json(facts: &[(&'static str, String)]) -> Json {
    Json::Object(facts.iter().map(|(n, v)| ((*n).to_string(), Json::text(v))).collect())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".to_string(), |text| text.trim().to_string())
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("?", |rest| rest.trim_start_matches([' ', '\t', ':'])).to_string()
}

/// The first line a tool prints about itself.
fn said(tool: &str, argument: &str) -> String {
    let Ok(output) = Command::new(tool).arg(argument).output() else {
        return "not installed".to_string();
    };
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("?").to_string()
}
