//! The backends: which can run, which would, and why not the others.

use std::fs;

use fibra::driver::{BackendKind, probe};

use super::page::Page;
use super::{Trial, variable};

const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Says what each backend's trial found.
pub fn describe(page: &mut Page, trial: &Trial) {
    page.section("backends");
    for report in probe::report() {
        let name = report.kind.name();
        match report.usable {
            Ok(detail) => {
                page.row(name, format!("can run{}", remark(report.kind)));
                if !detail.flags.is_empty() {
                    page.row("", format!("set-up flags: {}", detail.flags.join(", ")));
                }
                if !detail.ops.is_empty() {
                    page.row("", format!("ops: {}", detail.ops.join(", ")));
                }
            }
            Err(reason) => {
                page.row(name, format!("cannot run: {reason}"));
                if report.kind == BackendKind::Uring {
                    uring_advice(page);
                }
            }
        }
    }
    page.row("chosen", chosen(trial));
}

fn remark(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Select => "; descriptors from 1024 on are refused, so it serves fewer clients",
        BackendKind::Poll => "; every wait costs time for every descriptor waited for",
        _ => "",
    }
}

fn chosen(trial: &Trial) -> String {
    let named = variable("FIBRA_DRIVER");
    match (trial, named) {
        (Ok(started), Some(name)) if name != "auto" => {
            format!("{}, because FIBRA_DRIVER names it", started.backend)
        }
        (Ok(started), _) => format!("{}, the best that can run here", started.backend),
        (Err(error), _) => format!("none: {error}"),
    }
}

fn uring_advice(page: &mut Page) {
    let disabled = fs::read_to_string(DISABLED).unwrap_or_default();
    match disabled.trim() {
        "" | "0" => page.advise(
            "io_uring needs Linux 6.1 or newer, and a sandbox that allows it: containers refuse it \
             unless their seccomp profile is told otherwise. epoll is as well tuned and needs \
             nothing",
        ),
        mode => page.advise(format!(
            "io_uring is switched off on this machine (kernel.io_uring_disabled is {mode}): sysctl \
             kernel.io_uring_disabled=0 switches it on, if that is wanted"
        )),
    }
}
