//! The workers: how many there would be, and what decides that.

use super::page::Page;
use super::{Trial, cgroup, variable};

/// Says how many workers there would be and why.
pub fn describe(page: &mut Page, trial: &Trial) {
    let usable = std::thread::available_parallelism().ok().map(usize::from);
    let named = variable("FIBRA_WORKERS");
    page.section("workers");
    match trial {
        Ok(started) => page.row("count", format!("{}, {}", started.workers, why(named.as_deref()))),
        Err(_) => page.row("count", "none: no runtime can start (see advice)"),
    }
    page.row("cores", usable_text(usable));
    page.row("affinity", affinity());
    page.row("cgroup quota", quota_text(cgroup::quota().as_ref()));
    page.row("I/O", io());
    if let (Ok(started), Some(usable)) = (trial, usable)
        && started.workers > usable
    {
        page.advise(format!(
            "FIBRA_WORKERS makes {} workers on {usable} usable cores: they take turns, which \
             lengthens the slowest answers; leave it unset unless you measured",
            started.workers
        ));
    }
}

fn why(named: Option<&str>) -> &'static str {
    match named {
        Some(_) => "because FIBRA_WORKERS says so",
        None => "one for each usable core",
    }
}

fn usable_text(usable: Option<usize>) -> String {
    match usable {
        Some(count) => format!("{count} usable (affinity and quota taken together)"),
        None => "not known; one worker is assumed".to_owned(),
    }
}

fn quota_text(quota: Option<&cgroup::Quota>) -> String {
    match quota {
        Some(quota) => format!("{:.2} cores ({})", quota.cores, quota.source.display()),
        None => "none".to_owned(),
    }
}

fn io() -> String {
    match variable("FIBRA_IO").as_deref() {
        Some("dedicated") => "one dedicated thread owns the driver (FIBRA_IO)".to_owned(),
        Some(other) if other != "per-worker" => format!("FIBRA_IO={other} is not known"),
        _ => "every worker has a driver of its own".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn affinity() -> String {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let online = match online.trim() {
        "" => String::new(),
        list => format!(" (online: {list})"),
    };
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => format!("{} cores allowed{online}", set.count()),
        Err(error) => format!("not known: {}{online}", std::io::Error::from(error)),
    }
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> String {
    "not looked at on this system".to_owned()
}
