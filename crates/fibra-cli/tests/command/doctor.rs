//! `fibra doctor`: every subject is there, and nothing that is missing makes it fail.

use std::process::{Command, Output};

use crate::sandbox::refusing;
use crate::server::{clean, fibra, run};

fn report(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
    let text = String::from_utf8(output.stdout).expect("the report is text");
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "too long: {line}");
    }
    text
}

/// The value of a row, with the lines that continue it.
fn row(text: &str, label: &str) -> String {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("  {label} ")));
    let first = lines.next().unwrap_or_else(|| panic!("no row {label} in {text}"));
    let mut value = first.trim_start().trim_start_matches(label).trim().to_owned();
    for line in lines.take_while(|line| line.starts_with("      ")) {
        value.push(' ');
        value.push_str(line.trim());
    }
    value
}

#[test]
fn every_subject_is_in_the_report() {
    let text = report(run(fibra(&["doctor"])));
    for section in ["system", "environment", "backends", "workers", "stacks", "limits", "advice"] {
        assert!(text.lines().any(|line| line == section), "no {section} in {text}");
    }
    for label in ["epoll", "poll", "select"] {
        assert!(row(&text, label).starts_with("can run"), "{text}");
    }
    for label in ["kernel", "uring", "chosen", "count", "affinity", "cgroup quota", "guards"] {
        assert_ne!(row(&text, label), "", "{text}");
    }
    for label in ["nofile", "memlock", "max_map_count"] {
        assert!(row(&text, label).chars().any(|c| c.is_ascii_digit()) || label == "memlock");
    }
    let workers = std::thread::available_parallelism().expect("the number is known");
    assert!(row(&text, "count").starts_with(&format!("{workers}, one for each usable core")));
}

#[test]
fn what_the_environment_decides_is_said() {
    let mut command = fibra(&["doctor"]);
    command.env("FIBRA_DRIVER", "poll").env("FIBRA_WORKERS", "77").env("FIBRA_WORKES", "3");
    command.env("FIBRA_GUARDS", "mprotect").env("FIBRA_IO", "dedicated");
    let text = report(run(command));
    assert_eq!(row(&text, "chosen"), "poll, because FIBRA_DRIVER names it");
    assert_eq!(row(&text, "count"), "77, because FIBRA_WORKERS says so");
    assert!(row(&text, "guards").starts_with("mprotect, because FIBRA_GUARDS says so"));
    assert!(row(&text, "I/O").starts_with("one dedicated thread"));
    assert!(text.contains("FIBRA_WORKES means nothing"), "{text}");
    assert!(text.contains("usable cores: they take turns"), "{text}");
}

#[test]
fn a_bad_environment_is_part_of_the_report() {
    let mut command = fibra(&["doctor"]);
    command.env("FIBRA_DRIVER", "bogus").env("FIBRA_LOG", "loud");
    let text = report(run(command));
    assert!(row(&text, "chosen").starts_with("none: FIBRA_DRIVER=bogus"), "{text}");
    assert!(text.contains("- FIBRA_LOG is 'loud'"), "{text}");
    assert!(text.contains("- no runtime can start"), "{text}");
}

#[test]
fn a_refused_io_uring_is_explained() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let output = refusing(libc::SYS_io_uring_setup, errno, fibra(&["doctor"]), run);
        let text = report(output);
        assert!(row(&text, "uring").starts_with("cannot run: "), "{text}");
        assert_eq!(row(&text, "chosen"), "epoll, the best that can run here");
    }
}

#[test]
fn a_machine_without_descriptors_gets_its_report() {
    for limit in ["3", "4", "6", "9"] {
        let mut command = Command::new("sh");
        let script = "ulimit -n $1 && exec \"$0\" doctor";
        clean(&mut command).args(["-c", script, env!("CARGO_BIN_EXE_fibra"), limit]);
        let output = run(command);
        let text = String::from_utf8_lossy(&output.stdout);
        if text.is_empty() {
            // The loader needs a descriptor as well; that is before us.
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("error while loading shared libraries"), "{limit}: {stderr}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{limit}: {text}");
        assert!(text.contains(&format!("at most about {limit} connections")), "{limit}: {text}");
    }
}
