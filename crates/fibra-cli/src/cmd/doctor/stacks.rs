//! The stacks of fibers: their size and what guards them.

use fibra::__private::{StackSize, probe_guards};

use super::limits::mappings_max;
use super::page::Page;
use super::variable;

/// Says how stacks are guarded and how much is reserved for each.
pub fn describe(page: &mut Page) {
    page.section("stacks");
    let mode = variable("FIBRA_GUARDS").unwrap_or_else(|| "auto".to_owned());
    match (mode.as_str(), probe_guards()) {
        ("mprotect", _) => {
            page.row("guards", "mprotect, because FIBRA_GUARDS says so: two mappings a stack");
            mapping_limit(page);
        }
        (_, Ok(())) => page.row("guards", "madvise (MADV_GUARD_INSTALL): no mapping per stack"),
        ("madvise", Err(error)) => {
            page.row("guards", format!("none: FIBRA_GUARDS is madvise, which fails: {error}"));
            page.advise("unset FIBRA_GUARDS: then guards are made with mprotect here");
        }
        (_, Err(error)) => {
            page.row("guards", format!("mprotect, two mappings a stack; madvise fails: {error}"));
            page.advise(
                "guards without mappings need Linux 6.13 or newer, a sandbox that allows \
                 MADV_GUARD_INSTALL, and no mlockall",
            );
            mapping_limit(page);
        }
    }
    let (size, why) = match variable("FIBRA_STACK_SIZE") {
        Some(size) => (size, "FIBRA_STACK_SIZE"),
        None => (kib(StackSize::SPAWNED), "the default"),
    };
    page.row("reserved", format!("{size} for a fiber ({why}), {} for main", kib(StackSize::MAIN)));
}

fn mapping_limit(page: &mut Page) {
    let Some(mappings) = mappings_max() else { return };
    // The share the runtime allows itself; see `GuardMode::Mprotect`.
    let stacks = mappings / 100 * 45;
    page.row("", format!("that is enough for {stacks} stacks (45 % of vm.max_map_count)"));
    page.advise(format!(
        "at most {stacks} fibers can have started at once: raise it with sysctl \
         vm.max_map_count={}",
        (mappings * 16).max(1_048_576)
    ));
}

fn kib(size: StackSize) -> String {
    format!("{} KiB", size.reserve() / 1024)
}
