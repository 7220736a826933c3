//! Programs to which the kernel refuses a system call, as a container does.

use std::process::Command;

/// Runs `act` with the command on a thread for whose children `call` fails with `errno`.
///
/// A filter cannot be taken off again, so it is put on a thread that ends.
pub fn refusing<T: Send>(
    call: libc::c_long,
    errno: libc::c_int,
    command: Command,
    act: impl FnOnce(Command) -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            refuse(call, errno);
            act(command)
        });
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

fn refuse(call: libc::c_long, errno: libc::c_int) {
    let word = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut program = [
        // The number of the call is the first word of `seccomp_data`.
        word(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        word(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        word(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        word(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the program lives on this frame for the whole call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
