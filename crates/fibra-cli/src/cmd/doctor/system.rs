//! The machine: its kernel.

use super::page::Page;

/// Says which kernel this is.
pub fn describe(page: &mut Page) {
    page.section("system");
    page.row("fibra", env!("CARGO_PKG_VERSION"));
    page.row("kernel", kernel());
}

#[cfg(unix)]
fn kernel() -> String {
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    format!("{} {} {}", text(names.sysname()), text(names.release()), text(names.machine()))
}

#[cfg(not(unix))]
fn kernel() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}
