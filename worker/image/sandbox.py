"""What a process gives up before it touches hostile bytes, and the proof that it did.

`confine` leaves a process able to compute, to take memory up to a limit and to speak on what it has
open: a filter of system calls (seccomp), an empty view of the file system and the network
(Landlock), no new privileges, no new descriptors, files or processes. Each part is a line of its
own; one that this kernel does not have is named and the others hold. `attempts` tries from within
what must not work.
Linux on x86_64 and aarch64; elsewhere only the limits of the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from worker.resources import hide_memory

try:
    import resource
except ImportError:  # Windows has no such limits; the parent's clock still holds.
    resource = None  # type: ignore[assignment]

#: System calls that computing and answering need, by machine; those of `_BOUNDED` within bounds.
#: Source: Linux, arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (aarch64).
_CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19,
        "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35,
        "getitimer": 36, "setitimer": 38, "getpid": 39, "exit": 60, "gettimeofday": 96,
        "getrusage": 98, "getppid": 110, "sigaltstack": 131, "gettid": 186, "futex": 202,
        "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228,
        "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "ppoll": 271,
        "set_robust_list": 273, "getcpu": 309, "getrandom": 318, "membarrier": 324, "rseq": 334,
        "mmap": 9, "mprotect": 10, "tgkill": 234, "clone": 56,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "munmap": 215,
        "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "readv": 65,
        "writev": 66, "sched_yield": 124, "mremap": 216, "madvise": 233, "nanosleep": 101,
        "getitimer": 102, "setitimer": 103, "getpid": 172, "exit": 93, "gettimeofday": 169,
        "getrusage": 165, "getppid": 173, "sigaltstack": 132, "gettid": 178, "futex": 98,
        "sched_getaffinity": 123, "restart_syscall": 128, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "ppoll": 73,
        "set_robust_list": 99, "getcpu": 168, "getrandom": 278, "membarrier": 283, "rseq": 293,
        "mmap": 222, "mprotect": 226, "tgkill": 131, "clone": 220,
    },
}  # fmt: skip
_BOUNDED = ("mmap", "mprotect", "tgkill", "clone")

#: Where C libraries hear "no such call", and take clone, whose flags a filter can see.
_CLONE3 = 435
#: Every flag that starting a thread takes, and the one that makes it a thread.
#: Source: linux/sched.h; glibc's pthread_create, musl's with CLONE_DETACHED.
_THREAD_FLAGS, _CLONE_THREAD = 0x007D0F00, 0x00010000

#: Source: linux/audit.h, AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

#: Source: asm-generic/unistd.h; seccomp differs by machine.
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446

#: Source: linux/prctl.h and linux/seccomp.h.
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER, _FILTER_ALL_THREADS = 1, 1
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_REFUSE, _ABSENT = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS

#: Source: linux/bpf_common.h: load a word, compare, test bits, return.
_LOAD, _EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06

#: Where struct seccomp_data keeps the call's number, the machine and the low half of an argument.
_NUMBER_AT, _MACHINE_AT = 0, 4

#: Blocks from this size on are mappings of their own, and so much is kept for the next picture.
#: Source: mallopt(3); glibc otherwise raises both, to 32 and 64 MB, as large blocks are freed.
_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES = -3, 4 * 2**20
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 8 * 2**20

#: The uid and gid that own nothing. Source: Linux, overflowuid.
_NOBODY = 65534

#: Numbers of calls that `attempts` makes itself: ptrace, process_vm_readv, io_uring_setup, unshare.
_TRIED = {"x86_64": (101, 310, 425, 272), "aarch64": (117, 270, 425, 97)}


def confine(memory_bytes: int, keep_fd: int) -> list[str]:
    """Give up everything but computing; there is no way back.

    Whatever will be imported must have been, and no other thread may run.

    Args:
        memory_bytes: what may be allocated from now on.
        keep_fd: the one descriptor that stays open, besides the standard ones.

    Returns:
        What could not be had here, in words; empty where everything holds.
    """
    _give_memory_back()
    own_bytes = _address_space_bytes()
    os.closerange(3, keep_fd)
    os.closerange(keep_fd + 1, 4096)
    parts: dict[str, Callable[[], object]] = {
        "an account without rights": _become_nobody,
        "memory that others cannot read": hide_memory,
        "no new privileges": _keep_privileges,
        "Landlock": _leave_files,
        "limits of the process": lambda: _limit(own_bytes + memory_bytes),
        "a filter of system calls (seccomp)": _filter_calls,
    }
    lacking = []
    for name, apply in parts.items():
        try:
            apply()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            lacking.append(f"{name} ({error})")
    return lacking


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def _address_space_bytes() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 2**40


def _become_nobody() -> None:
    if os.getuid() == 0:
        # Root in a container has few capabilities, and may be unable to give up even those.
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _give_memory_back() -> None:
    """Let no large picture leave holes that the next one does not fit into."""
    # A C library without this setting does so by itself.
    with contextlib.suppress(AttributeError):
        _libc().mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
        _libc().mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _limit(address_space_bytes: int) -> None:
    # One descriptor: poll(2) refuses more than the limit says, and none is below it to be opened.
    for name, value in (
        ("RLIMIT_AS", address_space_bytes),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", 1),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))


def _keep_privileges() -> None:
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _leave_files() -> None:
    """Landlock without a single rule: no path can be opened, no port reached, nobody signalled.

    Source: Linux, Documentation/userspace-api/landlock.rst; what each version of it handles.
    """
    libc = _libc()
    version = _check(libc.syscall(_LANDLOCK_CREATE, None, 0, 1))
    files = 0x1FFF | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)
    files |= 0x8000 if version >= 5 else 0
    rules = struct.pack("QQQ", files, 0x3 if version >= 4 else 0, 0x3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(libc.syscall(_LANDLOCK_CREATE, rules, size, 0))
    try:
        _check(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def _filter_calls() -> None:
    machine = platform.machine()
    program = b"".join(
        struct.pack("HBBI", *step) for step in _program(_CALLS[machine], _ARCHITECTURES[machine])
    )
    # char pointers end at no zero here: the length is given in steps of eight bytes.
    code = _Filter(len(program) // 8, program)
    libc = _libc()
    if libc.syscall(_SECCOMP[machine], _MODE_FILTER, _FILTER_ALL_THREADS, ctypes.byref(code)):
        # A service manager's own filter may know prctl only.
        _check(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(code), 0, 0))


def _program(calls: dict[str, int], architecture: int) -> Iterator[tuple[int, int, int, int]]:
    """An allow-list as a classic BPF program; everything else is refused with EPERM."""
    yield (_LOAD, 0, 0, _MACHINE_AT)
    yield (_EQUAL, 1, 0, architecture)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER_AT)
    for name, number in calls.items():
        if name not in _BOUNDED:
            yield (_EQUAL, 0, 1, number)
            yield (_RETURN, 0, 0, _ALLOW)
    for name in ("mmap", "mprotect"):  # nothing that runs
        yield from _bounded(calls[name], 2, (_HAS_BITS, 0, 1, mmap.PROT_EXEC))
    yield from _bounded(calls["tgkill"], 0, (_EQUAL, 1, 0, os.getpid()))  # abort(3), of itself
    # Threads, which the HEIC codec cannot do without; no processes.
    no_process = (_HAS_BITS, 1, 0, 0xFFFFFFFF ^ _THREAD_FLAGS)
    yield from _bounded(calls["clone"], 0, no_process, (_HAS_BITS, 1, 0, _CLONE_THREAD))
    yield (_EQUAL, 0, 1, _CLONE3)
    yield (_RETURN, 0, 0, _ABSENT)
    yield (_RETURN, 0, 0, _REFUSE)


def _bounded(
    number: int, argument: int, *tests: tuple[int, int, int, int]
) -> Iterator[tuple[int, int, int, int]]:
    """One call that is refused by an argument; the last test goes on to the refusal or over it."""
    yield (_EQUAL, 0, 3 + len(tests), number)
    yield (_LOAD, 0, 0, 16 + 8 * argument)
    yield from tests
    yield (_RETURN, 0, 0, _REFUSE)
    yield (_RETURN, 0, 0, _ALLOW)


def attempts(memory_bytes: int) -> dict[str, bool]:
    """Try what a confined process must not be able to do.

    Args:
        memory_bytes: as given to `confine`.

    Returns:
        Each thing in words, and whether it worked; all False where the process is confined.
    """
    parent = os.getppid()
    return {name: _works(attempt) for name, attempt in _attempts(parent, memory_bytes).items()}


def _attempts(parent: int, memory_bytes: int) -> dict[str, Callable[[], object]]:
    trace, read_memory, ring, unshare = _TRIED.get(platform.machine(), (-1, -1, -1, -1))
    return {
        "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "write a file": lambda: os.open("/tmp/probe", os.O_WRONLY | os.O_CREAT, 0o600),
        "list a folder": lambda: os.listdir("/"),
        "look at a path": lambda: os.stat("/etc/passwd"),
        "read the worker's environment": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
        "read the worker's memory": lambda: _call(read_memory, parent, b"", 0, b"", 0, 0),
        "trace the worker": lambda: _call(trace, 2, parent, 0, 0),
        "signal the worker": lambda: os.kill(parent, 0),
        "open a network socket": lambda: socket.socket(socket.AF_INET),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX),
        "start a process": _fork,
        "run a program": lambda: os.execv("/nowhere", ["nowhere"]),
        "make code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "ask the kernel to work": lambda: _call(ring, 1, None),
        "make a world of its own": lambda: _call(unshare, 0x10000000),
        "duplicate a descriptor": lambda: os.dup(0),
        "take more memory": lambda: bytearray(memory_bytes + 2**20),
    }


#: What the kernel answers to what it got to see; anything else was refused before.
_SEEN = (errno.ENOENT, errno.ESRCH, errno.EFAULT, errno.EINVAL, errno.EIO)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except MemoryError:
        return False
    except OSError as error:
        return error.errno in _SEEN
    return True


def _call(number: int, *arguments: int | bytes | None) -> int:
    return _check(_libc().syscall(number, *arguments))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def describe(lacking: Sequence[str], worked: Sequence[str]) -> str:
    """What `confine` and `attempts` found, as one sentence for people."""
    without = f"; this kernel lacks {', '.join(lacking)}" if lacking else ""
    if worked:
        return f"a decoding process can {', '.join(worked)}{without}"
    return f"a decoding process can compute and nothing else{without}"
