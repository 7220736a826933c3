//! The limits that a server meets first.

use super::page::Page;

/// Descriptors that make nobody wait.
const DESCRIPTORS_WANTED: u64 = 65_536;

/// Says what the limits are.
pub fn describe(page: &mut Page) {
    page.section("limits");
    descriptors(page);
    page.row("memlock", memlock());
    page.row("max_map_count", mappings_max().map_or("not known".to_owned(), |n| n.to_string()));
    match number("/proc/sys/net/core/somaxconn") {
        Some(count) => {
            page.row("somaxconn", format!("{count} connections may wait to be accepted"));
            if count < 4096 {
                page.advise(format!(
                    "net.core.somaxconn is {count}: a burst of more connections is refused or \
                     delayed by seconds; sysctl net.core.somaxconn=4096"
                ));
            }
        }
        None => page.row("somaxconn", "not known"),
    }
}

/// How many mappings a process may have.
pub fn mappings_max() -> Option<u64> {
    number("/proc/sys/vm/max_map_count")
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(unix)]
fn descriptors(page: &mut Page) {
    use rustix::process::{Resource, getrlimit};

    let limit = getrlimit(Resource::Nofile);
    page.row("nofile", format!("{} (hard limit {})", text(limit.current), text(limit.maximum)));
    let Some(now) = limit.current.filter(|now| *now < DESCRIPTORS_WANTED) else { return };
    let top = limit.maximum.unwrap_or(1 << 20);
    page.advise(match top > now {
        true => format!(
            "at most about {now} connections at once, one descriptor each: ulimit -n {top} before \
             the start allows more"
        ),
        false => format!(
            "at most about {now} connections at once, one descriptor each; the hard limit is the \
             same, so only a privileged user, or LimitNOFILE= of the service, can raise it"
        ),
    });
}

#[cfg(unix)]
fn memlock() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let text = match limit.current {
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "unlimited".to_owned(),
    };
    format!("{text}; the rings of io_uring do not count towards it since Linux 5.12")
}

#[cfg(unix)]
fn text(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(not(unix))]
fn descriptors(page: &mut Page) {
    page.row("nofile", "not limited on this system");
}

#[cfg(not(unix))]
fn memlock() -> String {
    "not known on this system".to_owned()
}
