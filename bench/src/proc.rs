//! Reads /proc: CPU time and context switches of all threads of a process, memory, and what the
//! rest of the machine did meanwhile.

use std::fs;
use std::io::{Error, ErrorKind, Result};

/// What a process has used so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu_ns: u64,
    pub context_switches: u64,
}

impl Usage {
    /// Sums over the threads alive now. Exact when they are all blocked.
    ///
    /// The nanoseconds are the scheduler's own (`schedstat`), not the clock ticks of `stat`.
    pub fn of(pid: u32) -> Result<Usage> {
        let mut usage = Usage::default();
        for thread in threads(pid)? {
            let at = format!("/proc/{pid}/task/{thread}");
            // A thread may have ended since the listing.
            let Ok(schedstat) = fs::read_to_string(format!("{at}/schedstat")) else { continue };
            let Ok(status) = fs::read_to_string(format!("{at}/status")) else { continue };
            usage.cpu_ns += number(schedstat.split_whitespace().next());
            usage.context_switches += field(&status, "voluntary_ctxt_switches:")
                + field(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(usage)
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            context_switches: self.context_switches.saturating_sub(before.context_switches),
        }
    }
}

/// The thread ids of a process.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let id = name.to_string_lossy().parse().map_err(|_| Error::from(ErrorKind::InvalidData))?;
        ids.push(id);
    }
    Ok(ids)
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|rest| rest.split_whitespace().next()))
}

/// Memory a process holds, page tables included: VmRSS does not count those.
pub struct Memory {
    pub rss_kb: u64,
    pub page_tables_kb: u64,
}

impl Memory {
    pub fn of_this_process() -> Memory {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Memory { rss_kb: field(&status, "VmRSS:"), page_tables_kb: field(&status, "VmPTE:") }
    }
}

/// Clock ticks of all CPUs since boot.
#[derive(Clone, Copy)]
pub struct Machine {
    busy: u64,
    total: u64,
}

impl Machine {
    pub fn now() -> Result<Machine> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).map(|tick| number(Some(tick))).collect();
        // user nice system idle iowait irq softirq steal; the guest times are within user.
        if ticks.len() < 8 {
            return Err(Error::from(ErrorKind::InvalidData));
        }
        let total = ticks[..8].iter().sum();
        Ok(Machine { busy: total - ticks[3] - ticks[4], total })
    }

    /// The share of the machine's time since `before` that somebody else used: busy, or stolen by
    /// the host, and not among `own_ns`.
    pub fn foreign_share(self, before: Machine, own_ns: u64) -> f64 {
        let total = self.total.saturating_sub(before.total);
        if total == 0 {
            return 0.0;
        }
        // SAFETY: `sysconf` takes a name and touches no memory of ours.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
        let own = own_ns as f64 / 1e9 * per_second;
        let busy = self.busy.saturating_sub(before.busy) as f64;
        ((busy - own) / total as f64).max(0.0)
    }
}

/// CPU time of this process, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_this_process_grows_with_its_work() {
        let before = Usage::of(std::process::id()).expect("own usage");
        let mut sum = 0u64;
        for i in 0..50_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        std::thread::yield_now();
        let after = Usage::of(std::process::id()).expect("own usage");
        assert!(after.since(before).cpu_ns > 1_000_000, "a busy loop used CPU time");
    }

    #[test]
    fn a_field_is_found_at_the_start_of_its_line_only() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 5);
        assert_eq!(field(text, "nonvoluntary_ctxt_switches:"), 7);
        assert_eq!(field(text, "absent:"), 0);
    }
}
