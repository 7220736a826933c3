//! Servers in other languages, built when they are needed from the sources in this crate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::{C_EPOLL, C_URING, How, Server, Subject};

pub fn subjects() -> Vec<Subject> {
    vec![
        built(C_URING, C_URING, |folder| compile_c(folder, "uring", include_str!("../c/uring.c"))),
        built(C_EPOLL, C_EPOLL, |folder| compile_c(folder, "epoll", include_str!("../c/epoll.c"))),
        built("go", C_EPOLL, compile_go),
    ]
}

fn built(
    name: &'static str,
    yardstick: &'static str,
    build: fn(&Path) -> Result<PathBuf, String>,
) -> Subject {
    Subject { server: Some(Server { yardstick, how: How::Built(build) }), ..Subject::named(name) }
}

fn compile_c(folder: &Path, name: &str, source: &str) -> Result<PathBuf, String> {
    let file = folder.join(format!("{name}.c"));
    let program = folder.join(format!("c-{name}"));
    fs::write(&file, source).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    run(Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(&file))?;
    Ok(program)
}

fn compile_go(folder: &Path) -> Result<PathBuf, String> {
    let file = folder.join("echo.go");
    let program = folder.join("go-echo");
    let source = include_str!("../go/echo.go");
    fs::write(&file, source).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    run(Command::new("go").arg("build").arg("-o").arg(&program).arg(&file).current_dir(folder))?;
    Ok(program)
}

fn run(command: &mut Command) -> Result<(), String> {
    let compiler = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let first = text.lines().find(|line| line.contains("error")).unwrap_or("no message");
            Err(format!("{compiler} failed: {first}"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!("{compiler} not installed")),
        Err(e) => Err(format!("{compiler} cannot be run: {e}")),
    }
}
