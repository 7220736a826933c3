//! Seccomp filters for the calling thread, and a kernel that lies: a thread of ours that answers
//! `io_uring_enter` in the kernel's place, as some sandboxes do.
//!
//! A filter cannot be taken off again. So it is put on in a process of its own.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// What happens to one system call.
#[derive(Clone, Copy)]
pub struct Rule {
    call: libc::c_long,
    /// Only if the second argument is this.
    second_argument: Option<u32>,
    action: u32,
}

impl Rule {
    /// The call does nothing and returns -1 with this error, or 0 for error 0.
    pub fn refuse(call: libc::c_long, errno: libc::c_int) -> Self {
        Self { call, second_argument: None, action: libc::SECCOMP_RET_ERRNO | errno as u32 }
    }

    /// The rule applies only to calls with this second argument.
    pub fn with_second_argument(self, value: u32) -> Self {
        Self { second_argument: Some(value), ..self }
    }

    /// Another thread answers the call.
    fn ask(call: libc::c_long) -> Self {
        Self { call, second_argument: None, action: libc::SECCOMP_RET_USER_NOTIF }
    }
}

/// Puts rules on the calling thread and those it makes from now on.
pub fn install(rules: &[Rule]) {
    install_with(rules, 0);
}

fn install_with(rules: &[Rule], flags: libc::c_ulong) -> RawFd {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // `seccomp_data` is the call's number, then its arguments, 64 bits each, from byte 16 on.
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let unless = |value: u32, skip: u8| libc::sock_filter {
        jf: skip,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let answer = |action: u32| statement(libc::BPF_RET | libc::BPF_K, action);
    let mut program = Vec::new();
    for rule in rules {
        match rule.second_argument {
            None => program.extend([load(0), unless(rule.call as u32, 1)]),
            Some(value) => {
                program.extend([load(0), unless(rule.call as u32, 3), load(24), unless(value, 1)]);
            }
        }
        program.push(answer(rule.action));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    // SAFETY: the program lives on this frame for the whole call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result as RawFd
}

/// How a lying kernel treats ops. It always takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Answers each at once with number 0 and result 0, as an old gVisor does.
    NothingAtOnce,
    /// The same, but not before the second call.
    NothingLater,
    /// Answers at the second call, with the right number and length, and no bytes.
    NoBytes,
}

/// From now on the rings of the calling thread are answered by a liar.
pub fn lie(lie: Lie) {
    let (give, take) = std::sync::mpsc::channel();
    // Before the filter, so that it does not apply to this thread.
    std::thread::spawn(move || {
        let offsets = Params::of_this_kernel();
        let listener: OwnedFd = take.recv().unwrap();
        let mut calls = 0;
        while let Some(to_submit) = answer_one(&listener, || {
            calls += 1;
            Ring::find(&offsets).lie(lie, calls);
        }) {
            assert!(to_submit <= 1, "the trial has one op");
        }
    });
    let rules = [Rule::ask(libc::SYS_io_uring_enter)];
    let listener = install_with(&rules, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: just made and owned by nobody else.
    give.send(unsafe { OwnedFd::from_raw_fd(listener) }).unwrap();
}

/// Answers one `io_uring_enter` with "all submitted". `None` when nobody can call any more.
fn answer_one(listener: &OwnedFd, act: impl FnOnce()) -> Option<u64> {
    // SAFETY: plain data for which all zeroes is valid, and which the kernel wants zeroed.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the memory lives on this frame for the whole call.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question)
    };
    if result < 0 {
        return None;
    }
    act();
    let to_submit = question.data.args[1];
    let mut answer =
        libc::seccomp_notif_resp { id: question.id, val: to_submit as i64, error: 0, flags: 0 };
    // SAFETY: as above.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    Some(to_submit)
}

/// `io_uring_params` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Params {
    entries: [u32; 2],
    flags: u32,
    others: [u32; 7],
    submission: Offsets,
    completion: Offsets,
}

/// `io_sqring_offsets` and `io_cqring_offsets`: alike but for the sixth, the entries of the latter.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: [u32; 2],
    completions: u32,
    others: [u32; 4],
}

impl Params {
    fn of_this_kernel() -> Self {
        let mut params = Self::default();
        assert_eq!(size_of::<Self>(), 120);
        // SAFETY: the memory lives on this frame for the whole call.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, &raw mut params) };
        assert!(fd >= 0);
        // SAFETY: just made; owned by nobody else.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        params
    }
}

/// The one ring that this process has mapped, seen from the kernel's side.
struct Ring<'a> {
    queues: *mut u8,
    entries: *const u8,
    offsets: &'a Params,
}

impl<'a> Ring<'a> {
    fn find(offsets: &'a Params) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let at = |offset: &str| {
            let line = maps
                .lines()
                .find(|line| line.contains("io_uring") && line.split(' ').nth(2) == Some(offset));
            let start = line.and_then(|line| line.split('-').next()).expect("a mapped ring");
            usize::from_str_radix(start, 16).unwrap() as *mut u8
        };
        Self { queues: at("00000000"), entries: at("10000000"), offsets }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the offset is the kernel's, the mapping stays while the caller is in its call.
        unsafe { AtomicU32::from_ptr(self.queues.add(offset as usize).cast()) }
    }

    fn lie(&self, lie: Lie, calls: u32) {
        let (submission, completion) = (&self.offsets.submission, &self.offsets.completion);
        let tail = self.word(submission.tail).load(Ordering::Acquire);
        self.word(submission.head).store(tail, Ordering::Release);
        if lie != Lie::NothingAtOnce && calls < 2 {
            return;
        }
        let number = match lie {
            Lie::NothingAtOnce | Lie::NothingLater => 0,
            // SAFETY: the first entry; its number is at byte 32.
            Lie::NoBytes => unsafe { self.entries.add(32).cast::<u64>().read() },
        };
        let result = if lie == Lie::NoBytes { 8 } else { 0 };
        let tail = self.word(completion.tail).load(Ordering::Acquire);
        let index = tail & self.word(completion.mask).load(Ordering::Acquire);
        let entry = (completion.completions + index * 16) as usize;
        // SAFETY: an entry of the queue, which nobody reads before the tail has moved.
        unsafe {
            self.queues.add(entry).cast::<u64>().write(number);
            self.queues.add(entry + 8).cast::<u64>().write(result);
        }
        self.word(completion.tail).store(tail + 1, Ordering::Release);
    }
}
